// Between the 16-bit types and float32, for callers.
import { backend } from './backend/index.js';
import type { HalfDType } from './dtype.js';
import { typeError } from './errors.js';
import { newResult } from './result.js';
import { bitsOf, lengthOf, typedArrayType } from './typed-array.js';
import type { HalfArray } from './types.js';
import { checkOneOf } from './validate.js';

const halfNames = ['bfloat16', 'float16'] as const;

/**
 * The 16 bits of each value: to the nearest, of two to the even one; what is beyond the range is infinite, NaN stays NaN.
 *
 * @param values are not changed.
 * @param dtype 'bfloat16' or 'float16'.
 * @returns as many, in new memory: what a layer of that dtype takes.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`).
 * @example
 * import { decode, encode } from 'batchnorm';
 *
 * const bits = encode(Float32Array.of(1, 3.14159), 'bfloat16');
 * console.log(bits, decode(bits, 'bfloat16')); // Uint16Array(2) [ 16256, 16457 ] Float32Array(2) [ 1, 3.140625 ]
 */
export function encode(values: Float32Array, dtype: HalfDType): Uint16Array {
  const type = typedArrayType(values);
  if (type !== 'Float32Array') throw typeError('values', 'be a Float32Array', values);
  checkOneOf('dtype', dtype, halfNames);
  const bits = newResult<Uint16Array>(dtype, lengthOf(values));
  backend.convert.narrow(dtype, values, bits);
  return bits;
}

/**
 * The values of 16 bits each, exactly.
 *
 * @param values are not changed.
 * @param dtype 'bfloat16' or 'float16'; of a Float16Array the latter.
 * @returns as many, in new memory.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`).
 * @example
 * import { decode } from 'batchnorm';
 *
 * console.log(decode(Uint16Array.of(0x3c00, 0x7c00), 'float16')); // Float32Array(2) [ 1, Infinity ]
 */
export function decode(values: Uint16Array | HalfArray, dtype: HalfDType): Float32Array {
  const type = typedArrayType(values);
  if (type !== 'Uint16Array' && type !== 'Float16Array')
    throw typeError('values', 'be a Uint16Array', values);
  checkOneOf('dtype', dtype, type === 'Float16Array' ? ['float16'] : halfNames);
  const floats = newResult<Float32Array>('float32', lengthOf(values));
  backend.convert.widen(dtype, type === 'Float16Array' ? bitsOf(values) : (values as Uint16Array), floats);
  return floats;
}
