// Between the types of 16 bits and float32, by the bits: a NaN that went through a number might come out as another.
import type { HalfDType } from '../dtype.js';
import { bufferOf, extentOf, lengthOf, viewOfWords } from '../typed-array.js';
import type { Conversions } from './backend.js';

const { clz32 } = Math;

/** The bits of a bfloat16 are the upper half of those of a float32. */
function widenBfloat16(bits: number): number {
  return bits << 16;
}

function narrowBfloat16(word: number): number {
  // Of a NaN a bit of the mantissa must remain: the one that makes it quiet.
  if ((word & 0x7fffffff) > 0x7f800000) return (word >>> 16) | 0x40;
  return (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
}

/** A NaN becomes quiet, as instructions make it. */
function widenFloat16(bits: number): number {
  const sign = (bits & 0x8000) << 16;
  const exponent = (bits >>> 10) & 31;
  const mantissa = bits & 0x3ff;
  if (exponent === 31) return sign | 0x7f800000 | (mantissa << 13) | (mantissa === 0 ? 0 : 0x400000);
  if (exponent > 0) return sign | ((exponent + 112) << 23) | (mantissa << 13);
  if (mantissa === 0) return sign;
  // Denormal: its first bit becomes the one that is not written.
  const shift = clz32(mantissa) - 21;
  return sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13);
}

function narrowFloat16(word: number): number {
  const sign = (word >>> 16) & 0x8000;
  const size = word & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00 | ((size >>> 13) & 0x3ff);
  // 65520: half a step beyond the largest.
  if (size >= 0x477ff000) return sign | 0x7c00;
  // 2^-14, the smallest that is not denormal: 112 less in the exponent, then nearest even.
  if (size >= 0x38800000) return sign | ((size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13);
  // 2^-25: half of the smallest step.
  if (size <= 0x33000000) return sign;
  const exponent = size >>> 23;
  const mantissa = (size & 0x7fffff) | 0x800000;
  const shift = 126 - exponent;
  const half = 1 << (shift - 1);
  return sign | ((mantissa + half - 1 + ((mantissa >>> shift) & 1)) >>> shift);
}

function wordsOf(values: Float32Array): Uint32Array {
  return viewOfWords(bufferOf(values), extentOf(values).begin, lengthOf(values));
}

/** Each has loops of its own, which a compiler can make fast. */
export const conversions: Conversions = {
  widen(dtype: HalfDType, from, to) {
    const words = wordsOf(to);
    const length = lengthOf(from);
    if (dtype === 'bfloat16') for (let i = 0; i < length; i++) words[i] = widenBfloat16(from[i]);
    else for (let i = 0; i < length; i++) words[i] = widenFloat16(from[i]);
  },
  narrow(dtype: HalfDType, from, to) {
    const words = wordsOf(from);
    const length = lengthOf(to);
    if (dtype === 'bfloat16') for (let i = 0; i < length; i++) to[i] = narrowBfloat16(words[i]);
    else for (let i = 0; i < length; i++) to[i] = narrowFloat16(words[i]);
  },
};
