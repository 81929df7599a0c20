import { readTensor } from './validate.js';

/** The values of a tensor. */
export type FloatArray = Float32Array | Float64Array;

/** Names of the two data types. */
export type DType = 'float32' | 'float64';

/** The typed array that holds values of a data type. */
export type ArrayOf<D extends DType> = D extends 'float64' ? Float64Array : Float32Array;

/**
 * Values in row-major order and their shape, of any rank from 1 to 64. `data.length` is the product of `shape`.
 * What this library returns owns its shape; its data is the caller's.
 */
export interface Tensor<T extends FloatArray = FloatArray> {
  readonly data: T;
  readonly shape: readonly number[];
}

/** A {@link Tensor}, or an object that calls its shape `dims`, like a tensor of ONNX Runtime. */
export type TensorLike<T extends FloatArray = FloatArray> =
  | { readonly data: T; readonly shape: readonly number[] }
  | { readonly data: T; readonly dims: readonly number[] };

/**
 * A tensor over `data`, which is neither copied nor changed.
 *
 * @param data Float32Array or Float64Array with as many values as `shape` says; views at any offset and views of a
 *   SharedArrayBuffer are fine.
 * @param shape from 1 to 64 dimensions, each a non-negative safe integer.
 * @throws TypeError for another kind of array, RangeError where data and shape disagree.
 */
export function tensor<T extends FloatArray>(data: T, shape: readonly number[]): Tensor<T> {
  const checked = readTensor('tensor', { data, shape });
  return { data, shape: Object.freeze(checked.shape) };
}
