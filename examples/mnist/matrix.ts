/**
 * The matrix products of a linear layer, on row-major matrices, float32 with sums in doubles or double.
 *
 * The left factor is expected to hold many zeros (four fifths of the pixels of MNIST, half of what a ReLU
 * gives), so a product is not a block of dot products: each row of the result is a sum of those rows of the
 * right factor whose coefficient is not zero.
 */

import type { FloatArray } from 'batchnorm';

/** out[m][n] += Σₖ a[m][k] · b[k][n] for `a[rows][inner]`, `b[inner][columns]`. */
export function addProduct(
  a: FloatArray,
  b: FloatArray,
  out: FloatArray,
  rows: number,
  inner: number,
  columns: number,
): void {
  const terms = new Terms(inner);
  for (let m = 0; m < rows; m++) {
    const count = gather(terms, a, m * inner, 1, inner, columns);
    addRows(terms, count, b, out, m * columns, columns);
  }
}

/** out[m][n] += Σₖ a[k][m] · b[k][n] for `a[inner][rows]`, the transposed left factor, `b[inner][columns]`. */
export function addTransposedProduct(
  a: FloatArray,
  b: FloatArray,
  out: FloatArray,
  rows: number,
  inner: number,
  columns: number,
): void {
  const terms = new Terms(inner);
  for (let m = 0; m < rows; m++) {
    const count = gather(terms, a, m, rows, inner, columns);
    addRows(terms, count, b, out, m * columns, columns);
  }
}

/** out[n][m] = a[m][n] for `a[rows][columns]`. */
export function transpose(a: FloatArray, out: FloatArray, rows: number, columns: number): void {
  for (let m = 0; m < rows; m++) {
    for (let n = 0; n < columns; n++) out[n * rows + m] = a[m * columns + n];
  }
}

/** Rows of a matrix, by the index of their first element, and the coefficient of each; padded to four. */
class Terms {
  readonly coefficients: Float64Array;
  readonly starts: Int32Array;

  constructor(most: number) {
    this.coefficients = new Float64Array(most + 3);
    this.starts = new Int32Array(most + 3);
  }
}

/** Collects the non-zero `a[start + k * stride]`; gives their number rounded up to a multiple of four. */
function gather(
  { coefficients, starts }: Terms,
  a: FloatArray,
  start: number,
  stride: number,
  inner: number,
  columns: number,
): number {
  let count = 0;
  for (let k = 0; k < inner; k++) {
    const value = a[start + k * stride];
    if (value !== 0) {
      coefficients[count] = value;
      starts[count++] = k * columns;
    }
  }
  while (count % 4 !== 0) {
    coefficients[count] = 0;
    starts[count++] = 0;
  }
  return count;
}

/** Four rows at a time, so that one load and one store of `out` serve four products. */
function addRows(
  { coefficients, starts }: Terms,
  count: number,
  b: FloatArray,
  out: FloatArray,
  at: number,
  columns: number,
): void {
  for (let k = 0; k < count; k += 4) {
    const c0 = coefficients[k];
    const c1 = coefficients[k + 1];
    const c2 = coefficients[k + 2];
    const c3 = coefficients[k + 3];
    const r0 = starts[k];
    const r1 = starts[k + 1];
    const r2 = starts[k + 2];
    const r3 = starts[k + 3];
    for (let n = 0; n < columns; n++) {
      out[at + n] += c0 * b[r0 + n] + c1 * b[r1 + n] + (c2 * b[r2 + n] + c3 * b[r3 + n]);
    }
  }
}
