// Between the 16-bit types and float32, for callers.
import { backend } from './backend/index.js';
import type { HalfDType } from './dtype.js';
import { rangeError, typeError } from './errors.js';
import { checkApart } from './overlap.js';
import { namesOf } from './properties.js';
import { newResult } from './result.js';
import { bitsOf, lengthOf, typedArrayType } from './typed-array.js';
import type { DType, HalfArray, TensorArray } from './types.js';
import { checkOneOf, readOptions } from './validate.js';

const halfNames = ['bfloat16', 'float16'] as const;
const optionNames = namesOf(['out']);

/** What {@link encode} and {@link decode} may be given besides. */
export interface ConversionOptions<T extends TensorArray> {
  /** Where the result goes: an array as long as `values`, of the result's class, that does not overlap them. Default: a new one. */
  out?: T;
}

/** What a conversion returns: `out`, or what it makes where there is none. */
export type Converted<O extends TensorArray, Made extends TensorArray> = [O] extends [never] ? Made : O;

/**
 * The 16 bits of each value: to the nearest, of two to the even one; what is beyond the range is infinite, NaN stays NaN.
 *
 * @param values are not changed.
 * @param dtype 'bfloat16' or 'float16'.
 * @param options `out`, in place of new memory, which costs more than the conversion does.
 * @returns as many, in `out` or new memory: what a layer of that dtype takes.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`,
 *   `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`); then nothing is written.
 * @example
 * import { decode, encode } from 'batchnorm';
 *
 * const bits = encode(Float32Array.of(1, 3.14159), 'bfloat16');
 * console.log(bits, decode(bits, 'bfloat16')); // Uint16Array(2) [ 16256, 16457 ] Float32Array(2) [ 1, 3.140625 ]
 */
export function encode<O extends Uint16Array = never>(
  values: Float32Array,
  dtype: HalfDType,
  options?: ConversionOptions<O>,
): Converted<O, Uint16Array> {
  const { out } = readOptions(options, optionNames);
  const type = typedArrayType(values);
  if (type !== 'Float32Array') throw typeError('values', 'be a Float32Array', values);
  checkOneOf('dtype', dtype, halfNames);
  const bits = resultFor<Uint16Array>(out, 'Uint16Array', dtype, values);
  backend.convert.narrow(dtype, values, bits);
  return bits as Converted<O, Uint16Array>;
}

/**
 * The values of 16 bits each, exactly.
 *
 * @param values are not changed.
 * @param dtype 'bfloat16' or 'float16'; of a Float16Array the latter.
 * @param options `out`, in place of new memory, which costs more than the conversion does.
 * @returns as many, in `out` or new memory.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`,
 *   `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`); then nothing is written.
 * @example
 * import { decode } from 'batchnorm';
 *
 * console.log(decode(Uint16Array.of(0x3c00, 0x7c00), 'float16')); // Float32Array(2) [ 1, Infinity ]
 */
export function decode<O extends Float32Array = never>(
  values: Uint16Array | HalfArray,
  dtype: HalfDType,
  options?: ConversionOptions<O>,
): Converted<O, Float32Array> {
  const { out } = readOptions(options, optionNames);
  const type = typedArrayType(values);
  if (type !== 'Uint16Array' && type !== 'Float16Array')
    throw typeError('values', 'be a Uint16Array', values);
  checkOneOf('dtype', dtype, type === 'Float16Array' ? ['float16'] : halfNames);
  const floats = resultFor<Float32Array>(out, 'Float32Array', 'float32', values);
  backend.convert.widen(dtype, type === 'Float16Array' ? bitsOf(values) : (values as Uint16Array), floats);
  return floats as Converted<O, Float32Array>;
}

/** Where as many values are to be written, checked. */
function resultFor<O extends TensorArray>(
  out: O | undefined,
  className: string,
  dtype: DType,
  values: TensorArray,
): O {
  const length = lengthOf(values);
  if (out === undefined) return newResult<O>(dtype, length);
  if (typedArrayType(out) !== className) throw typeError('out', `be a ${className}`, out);
  if (lengthOf(out) !== length) throw rangeError('out', `have ${length} values`, String(lengthOf(out)));
  checkApart('out', out, { values });
  return out;
}
