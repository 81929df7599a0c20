import type { FloatArray, Tensor } from './types.js';
import { readTensor } from './validate.js';

/**
 * A tensor over `data`, which is neither copied nor changed.
 *
 * @param data Float32Array or Float64Array with as many values as `shape` says; views at any offset and views of a
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
export function tensor<T extends FloatArray>(data: T, shape: readonly number[]): Tensor<T> {
  const checked = readTensor('tensor', { data, shape });
  return { data, shape: Object.freeze(checked.shape) };
}
