// What bits of 16 mean, said by powers of two and not by bit patterns of float32: beside it stands what is tested.
import { expect } from 'vitest';
import type { TensorArray } from '../../lib/index.js';
import { expectSame } from './tensors.js';

export const halves = ['bfloat16', 'float16'] as const;
export type Half = (typeof halves)[number];

interface Format {
  /** Bits of the mantissa that are written. */
  readonly mantissa: number;
  /** The exponents of the least and the largest numbers that are not denormal. */
  readonly least: number;
  readonly most: number;
}

const formats: Readonly<Record<Half, Format>> = {
  bfloat16: { mantissa: 7, least: -126, most: 127 },
  float16: { mantissa: 10, least: -14, most: 15 },
};

/** The value that bits have. */
export function meaningOf(dtype: Half, bits: number): number {
  const { mantissa, least, most } = formats[dtype];
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits & 0x7fff) >> mantissa;
  const fraction = (bits & (2 ** mantissa - 1)) / 2 ** mantissa;
  if (exponent > most - least + 1) return fraction === 0 ? sign * Infinity : Number.NaN;
  if (exponent === 0) return sign * fraction * 2 ** least;
  return sign * (1 + fraction) * 2 ** (exponent - 1 + least);
}

/** The nearest value that the type has, of two as near the even one. */
export function rounded(dtype: Half, value: number): number {
  if (!Number.isFinite(value) || value === 0) return value;
  const { mantissa, least, most } = formats[dtype];
  const size = Math.abs(value);
  let exponent = Math.floor(Math.log2(size));
  // The logarithm is rounded itself.
  if (2 ** exponent > size) exponent--;
  if (2 ** (exponent + 1) <= size) exponent++;
  const step = 2 ** (Math.max(exponent, least) - mantissa);
  const steps = size / step;
  const down = Math.floor(steps);
  const rest = steps - down;
  const up = rest > 0.5 || (rest === 0.5 && down % 2 === 1);
  const nearest = (up ? down + 1 : down) * step;
  const largest = (2 - 2 ** -mantissa) * 2 ** most;
  return (value < 0 ? -1 : 1) * (nearest > largest ? Infinity : nearest);
}

/** The bits of the nearest value. */
export function bitsOf(dtype: Half, value: number): number {
  const { mantissa, least, most } = formats[dtype];
  if (Number.isNaN(value)) return 0x7fff;
  const nearest = rounded(dtype, value);
  const sign = Object.is(Math.sign(nearest), -0) || nearest < 0 ? 0x8000 : 0;
  const size = Math.abs(nearest);
  if (size === Infinity) return sign | ((most - least + 2) << mantissa);
  if (size < 2 ** least) return sign | (size / 2 ** (least - mantissa));
  const exponent = Math.round(Math.log2(2 ** Math.floor(Math.log2(size))));
  return sign | (((exponent - least + 1) << mantissa) + (size / 2 ** exponent - 1) * 2 ** mantissa);
}

export function encodeAll(dtype: Half, values: ArrayLike<number>): Uint16Array {
  return Uint16Array.from(values, (value) => bitsOf(dtype, value));
}

export function decodeAll(dtype: Half, bits: ArrayLike<number>): Float32Array {
  return Float32Array.from(bits, (one) => meaningOf(dtype, one));
}

/** That bits are the values of another array, each rounded once; one NaN is like another. */
export function expectRounded(dtype: Half, bits: TensorArray, values: TensorArray, what: string): void {
  expect(bits, what).toBeInstanceOf(Uint16Array);
  expectSame(
    decodeAll(dtype, bits),
    Float32Array.from(values, (value) => rounded(dtype, value)),
    what,
  );
}
