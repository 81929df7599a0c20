import { typedArrayType } from './typed-array.js';
import type { Tensor, TensorArray } from './types.js';
import { readTensor } from './validate.js';

/**
 * A tensor over `data`, which is neither copied nor changed.
 *
 * @param data Float32Array, Float64Array, Uint16Array of the bits of bfloat16 or float16, or Float16Array, with as many values as `shape` says; views at any offset and views of a
 *   SharedArrayBuffer are fine.
 * @param shape from 1 to 64 dimensions, each a non-negative safe integer.
 * @returns `data` itself with a frozen copy of the shape.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`) for another kind of array, RangeError (`ERR_BATCHNORM_INVALID_VALUE`)
 *   where data and shape disagree.
 * @example
 * import { tensor } from 'batchnorm';
 *
 * const x = tensor(new Float32Array(8 * 3 * 32 * 32), [8, 3, 32, 32]);
 * console.log(x.shape); // [ 8, 3, 32, 32 ]
 */
export function tensor<T extends TensorArray>(data: T, shape: readonly number[]): Tensor<T> {
  // Which of the two 16-bit types it is, is for those to know who compute with it.
  const isBits = typedArrayType(data) === 'Uint16Array';
  const checked = readTensor('tensor', { data, shape }, isBits ? 'bfloat16' : undefined);
  return { data, shape: Object.freeze(checked.shape) };
}
