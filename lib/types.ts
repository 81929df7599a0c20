// The types that everything speaks of. They depend on nothing.

/** The values of parameters and statistics. */
export type FloatArray = Float32Array | Float64Array;

/** A Float16Array, where the language has it. */
export type HalfArray =
  typeof globalThis extends Record<'Float16Array', Record<'prototype', infer T>> ? T : never;

/** The values of a tensor. A Uint16Array holds the bits of bfloat16 or float16; which of them, a `dtype` beside it says. */
export type TensorArray = FloatArray | Uint16Array | HalfArray;

/** Whole numbers, as pictures and sound have them: what inference takes and gives beside the values of tensors. */
export type IntegerArray = Uint8Array | Uint8ClampedArray | Int8Array | Int16Array;

/** Names of the data types of whole numbers. */
export type IntegerDType = 'uint8' | 'int8' | 'int16';

/** Names of the data types. */
export type DType = 'float32' | 'float64' | 'bfloat16' | 'float16';

/** All of them. */
export type AnyDType = DType | IntegerDType;

/** The values of what inference takes and gives. */
export type ValueArray = TensorArray | IntegerArray;

/** The typed array that holds values of a data type. */
export type ArrayOf<D extends DType> = D extends 'float64'
  ? Float64Array
  : D extends 'bfloat16'
    ? Uint16Array
    : D extends 'float16'
      ? Uint16Array | HalfArray
      : Float32Array;

/** The data types that inference gives of those of 32 bits or less. */
export type ResultDType = Exclude<DType, 'float64'> | IntegerDType;

/** What inference writes where nobody says what: the class of x, and of integers float32. */
export type ResultOf<T extends ValueArray> = T extends TensorArray ? T : Float32Array;

/** The typed array that holds a result of a data type. */
export type ResultArrayOf<D extends ResultDType> = D extends DType
  ? D extends 'float32'
    ? Float32Array
    : D extends 'float16'
      ? Uint16Array | HalfArray
      : Uint16Array
  : D extends 'uint8'
    ? Uint8Array
    : D extends 'int8'
      ? Int8Array
      : Int16Array;

/** The data types that inference may be asked for: of float64 only float64 comes. */
export type ResultDTypeOf<T extends ValueArray> = T extends Float64Array ? 'float64' : ResultDType;

/** What may be written where a dtype was said. */
export type NamedResultOf<N extends AnyDType> = N extends 'float64'
  ? Float64Array
  : N extends 'uint8'
    ? Uint8Array | Uint8ClampedArray
    : N extends ResultDType
      ? ResultArrayOf<N>
      : never;

/** Such arrays, in whatever memory. */
export type ClassOf<T extends ValueArray> = T extends Float32Array
  ? Float32Array
  : T extends Float64Array
    ? Float64Array
    : T extends Uint16Array
      ? Uint16Array
      : T extends Uint8Array
        ? Uint8Array
        : T extends Uint8ClampedArray
          ? Uint8ClampedArray
          : T extends Int8Array
            ? Int8Array
            : T extends Int16Array
              ? Int16Array
              : T;

/** What may be written where none was said: of what such an array is, or of what its class says by itself. */
export type UnnamedResultOf<T extends ValueArray> =
  | T
  | ClassOf<T>
  | (T extends Float64Array ? never : Float32Array | IntegerArray);

/** What is written: `out`, or where there is none another array. */
export type WrittenOf<O extends ValueArray, Otherwise extends ValueArray> = [O] extends [never]
  ? Otherwise
  : O;

/** What may be added on the way to a result. */
export type ResidualOf<T extends ValueArray, O extends ValueArray> = NoInfer<
  T | ClassOf<T> | O | ClassOf<O> | Float32Array
>;

/** The data types that such an array may have. */
export type DTypeOf<T extends TensorArray> = T extends Float32Array
  ? 'float32'
  : T extends Float64Array
    ? 'float64'
    : T extends Uint16Array
      ? 'bfloat16' | 'float16'
      : 'float16';

/** What says its data type: an array by its class, bits by a `dtype` beside it. Without one, N is never. */
export type Said<N extends AnyDType> = FloatArray | HalfArray | ([N] extends [never] ? never : Uint16Array);

/** A `dtype` that options say. */
export interface Saying<N extends AnyDType> {
  /** Of x: to be said of a Uint16Array, whose bits may be bfloat16 or float16. Default: what the data are. */
  dtype?: N;
}

/** What the parameters beside such a tensor are in, and their gradients: those of 16 bits are computed in float32. */
export type ParametersOf<T extends TensorArray> = T extends FloatArray ? T : Float32Array;

/**
 * Values in row-major order and their shape, of any rank from 1 on. `data.length` is the product of `shape`.
 * What this library returns owns its shape; its data is the caller's.
 */
export interface Tensor<T extends ValueArray = FloatArray> {
  /** The values, those of the last dimension side by side. */
  readonly data: T;
  /** From 1 to 64 dimensions, each a non-negative safe integer. */
  readonly shape: readonly number[];
}

/** How the values of a tensor lie in `data`, where not one after the other from the first on. */
export interface Place {
  /** Elements of `data` between neighbours along each dimension, any integers. Default: those of rows one after the other. */
  readonly strides?: readonly number[];
  /** The place of the first value in `data`; counts beside `strides`. Default 0. */
  readonly offset?: number;
}

/**
 * A {@link Tensor}, an object that calls its shape `dims`, like a tensor of ONNX Runtime, or an ndarray of `ndarray` or stdlib,
 * with `strides` (or `stride`) and `offset`. Inference in 32 bits or less reads values wherever they lie; elsewhere they are used
 * where they are if they lie in rows one after the other, and refused otherwise. Views at any offset, views of a SharedArrayBuffer
 * and arrays of another realm are fine.
 */
export type TensorLike<T extends ValueArray = FloatArray> = Place &
  (
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
      }
  );
