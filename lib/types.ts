// The types that everything speaks of. They depend on nothing.

/** The values of a tensor. */
export type FloatArray = Float32Array | Float64Array;

/** Names of the two data types. */
export type DType = 'float32' | 'float64';

/** The typed array that holds values of a data type. */
export type ArrayOf<D extends DType> = D extends 'float64' ? Float64Array : Float32Array;

/**
 * Values in row-major order and their shape, of any rank from 1 on. `data.length` is the product of `shape`.
 * What this library returns owns its shape; its data is the caller's.
 */
export interface Tensor<T extends FloatArray = FloatArray> {
  /** The values, those of the last dimension side by side. */
  readonly data: T;
  /** From 1 to 64 dimensions, each a non-negative safe integer. */
  readonly shape: readonly number[];
}

/**
 * A {@link Tensor}, an object that calls its shape `dims`, like a tensor of ONNX Runtime, or an ndarray of `ndarray` or stdlib,
 * with `strides` (or `stride`) and `offset`: its values are used where they are if they lie in rows one after the other, and
 * refused otherwise. Views at any offset, views of a SharedArrayBuffer and arrays of another realm are fine.
 */
export type TensorLike<T extends FloatArray = FloatArray> =
  | {
      /** As of a {@link Tensor}. */
      readonly data: T;
      /** As of a {@link Tensor}. */
      readonly shape: readonly number[];
    }
  | {
      /** As of a {@link Tensor}. */
      readonly data: T;
      /** The shape, under ONNX Runtime's name. Ignored where there is a `shape`. */
      readonly dims: readonly number[];
    };
