// What frozen layers and their runs are given.
import type { Activation } from './activation.js';
import type { Convention } from './conventions.js';
import type { Missing } from './presence.js';
import type { StateOptions } from './state.js';
import type {
  AnyDType,
  DType,
  FloatArray,
  NamedResultOf,
  ResidualOf,
  ResultArrayOf,
  ResultDType,
  ResultDTypeOf,
  ResultOf,
  TensorLike,
  UnnamedResultOf,
  ValueArray,
} from './types.js';

/** What a state does not say. */
export interface FrozenOptions<D extends DType = DType> extends StateOptions {
  /** The channel axis; −1 is the last. Default 1. */
  axis?: number;
  /** Added to the variance under the root, from 0 on. Default: that of the convention. With 0 no variance may be 0. */
  eps?: number;
  /** Of the data that will come in: to be said of bits of 16, a Uint16Array. Default: what they are. */
  dtype?: D;
  /** What follows the normalization, in the same pass. Default: nothing. */
  activation?: Activation;
  /** What a NaN in x means: see {@link Missing}. Default 'propagate'. */
  missing?: Missing;
  /** Whose eps to take, and whose names the state may have too. Default: PyTorch's. */
  convention?: Convention;
}

/** What {@link FrozenBatchNorm.fromMeanStd} takes. */
export interface MeanStdOptions<D extends DType = DType> {
  /** One value per channel, of x · scale. */
  mean: readonly number[] | FloatArray;
  /** One value per channel, positive. */
  std: readonly number[] | FloatArray;
  /** By what x is multiplied first, 1 / 255 as a rule where pixels are bytes. Default 1. */
  scale?: number;
  /** The channel axis; −1 is the last. Default 1. */
  axis?: number;
  /** Of the data that will come in, where that is not of integers. Default: what they are. */
  dtype?: D;
}

/** What a run may be given besides x. */
export interface RunOptions<
  T extends ValueArray,
  N extends AnyDType = ResultDTypeOf<T>,
  O extends ValueArray = ResultOf<T>,
> {
  /**
   * Where the result goes: as long as x. Its class says of which dtype that is: a Float32Array of float32, a Uint8Array,
   * Uint8ClampedArray, Int8Array or Int16Array of integers, to which values are rounded, to nearest even, and limited; a Uint16Array of what
   * `dtype` says, or the layer. It is x.data itself, where a result lies as x does, or memory that does not overlap it. Default: a
   * new array, which costs more than the batch norm itself where x is large.
   */
  out?: O;
  /**
   * Added before the activation: in the shape of the result and the dtype of x; where the result is of another dtype or in another order,
   * also in the dtype of the result, or float32, but not in 16 bits where x and the result are of different ones. It may not overlap `out`.
   * Default: nothing.
   */
  residual?: TensorLike<ResidualOf<T, O>>;
  /** Where the channel axis goes; −1 is the last. Default: where it is. */
  outAxis?: number;
  /** Of the result. Default: what `out` is, else that of x, else, of integers, float32. */
  dtype?: N;
}

/** What a run may write: bits of what the layer is, where no dtype is said. */
export type RunResultOf<T extends ValueArray, N extends AnyDType, D extends DType> = [N] extends [never]
  ? UnnamedResultOf<T> | (Extract<D, 'bfloat16' | 'float16'> extends never ? never : Uint16Array)
  : NamedResultOf<N>;

/** What a run writes where it is given no `out`. */
export type DefaultRunResultOf<T extends ValueArray, N extends AnyDType> = [N] extends [never]
  ? ResultOf<T>
  : N extends ResultDType
    ? ResultArrayOf<N>
    : Float64Array;

/** What a run off the event loop may be given besides x. */
export interface RunAsyncOptions<
  T extends ValueArray,
  N extends AnyDType = ResultDTypeOf<T>,
  O extends ValueArray = ResultOf<T>,
> extends RunOptions<T, N, O> {
  /** Cancels the operation while it waits: the promise rejects with the signal's reason. Later it has no effect. */
  signal?: AbortSignal;
  /**
   * true: x.data's buffer is moved in, all the caller's views of it are detached (as by postMessage), and the result comes
   * back in the same memory, where it lies as x does and its values are as large. It must be an ArrayBuffer of its own, not resizable, and `out` must be absent. What a signal
   * then cancels is gone. Default false.
   */
  transfer?: boolean;
}

/** What a frozen layer is made of; everything has been checked. @internal */
export interface FrozenParts<D extends DType> {
  channels: number;
  axis: number;
  eps: number;
  /** undefined: either. */
  dtype: D | undefined;
  weight: FloatArray | undefined;
  bias: FloatArray | undefined;
  mean: FloatArray;
  variance: FloatArray;
  activation: Activation | undefined;
  missing: Missing;
}
