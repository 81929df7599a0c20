// What the golden results are computed of: the same everywhere. Nothing of Node.js.
import type { DType, TensorArray } from '../../lib/index.js';

/** The arrays of a data type and a shape, by the pass they come from. */
export interface GoldenRow {
  /** For instance `float32 [3, 5, 7]`. */
  readonly name: string;
  /** For instance `training y`. */
  readonly arrays: Readonly<Record<string, TensorArray>>;
}

/** Integers of a linear congruential generator, scaled by powers of two: no rounding, no library function. */
export function values(length: number, seed: number, scale: number, offset: number): Float64Array {
  let state = seed;
  return Float64Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32 - 0.5) * scale + offset;
  });
}

/** What tensors of a data type are made of: numbers of 16 bits lie around 1 and 100, as those of the others do. */
export function tensorData(
  dtype: DType,
  length: number,
  seed: number,
  scale: number,
  offset: number,
): Float32Array | Float64Array | Uint16Array {
  const numbers = values(length, seed, scale, offset);
  if (dtype === 'float32') return Float32Array.from(numbers);
  if (dtype === 'float64') return numbers;
  // The bits of a float32, of which bfloat16 keeps the upper half, and float16 a mantissa of ten and another exponent.
  const words = new Int32Array(Float32Array.from(numbers).buffer);
  const bits = dtype === 'bfloat16' ? (word: number) => word >>> 16 : bitsOfFloat16;
  return Uint16Array.from(words, bits);
}

function bitsOfFloat16(word: number): number {
  const size = ((word & 0x7fffffff) - 0x38000000) >> 13;
  return ((word >>> 16) & 0x8000) | Math.max(0, size);
}
