import type { FrozenRun, Passes } from './backend/backend.js';
import { backend } from './backend/index.js';
import { stateError } from './errors.js';
import { readState, type StateDict } from './state.js';
import type { ArrayOf, DType, FloatArray, Tensor, TensorLike } from './tensor.js';
import {
  checkAxis,
  checkEps,
  checkLength,
  checkOneOf,
  checkOptions,
  checkOut,
  checkOverlap,
  geometryOf,
  newArray,
  readShape,
  toDtype,
} from './validate.js';

export interface FrozenOptions<D extends DType = DType> {
  /** The channel axis; −1 is the last. Default 1. */
  axis?: number;
  /** Added to the variance under the root. Default 1e-5. */
  eps?: number;
  /** Of the data that will come in. Default 'float32'. */
  dtype?: D;
}

export interface RunOptions<T extends FloatArray> {
  /**
   * Where the result goes: as long as x and of its dtype; x.data itself, or memory that does not overlap it. Default: a
   * new array, which costs more than the batch norm itself where x is large.
   */
  out?: T;
}

/** What a frozen layer is made of; state has been read. @internal */
export interface FrozenParts<D extends DType> {
  channels: number;
  axis: number;
  eps: number;
  dtype: D;
  weight: FloatArray | undefined;
  bias: FloatArray | undefined;
  mean: FloatArray;
  variance: FloatArray;
}

const frozenKeys = new Set(['axis', 'eps', 'dtype']);
const runKeys = new Set(['out']);

/**
 * Batch normalization with fixed statistics: an immutable snapshot whose coefficients are computed once and lie in
 * native memory. Made by {@link BatchNorm.freeze} or {@link FrozenBatchNorm.from}.
 */
export class FrozenBatchNorm<D extends DType = DType> {
  readonly channels: number;
  readonly axis: number;
  readonly eps: number;
  readonly dtype: D;
  #run: FrozenRun<ArrayOf<D>> | undefined;

  /** @internal */
  constructor(parts: FrozenParts<D>) {
    const { channels, axis, eps, dtype, weight, bias, mean, variance } = parts;
    this.channels = channels;
    this.axis = axis;
    this.eps = eps;
    this.dtype = dtype;
    this.#run = (backend[dtype] as Passes<FloatArray>).freeze(
      channels,
      eps,
      weight && toDtype(weight, dtype),
      bias && toDtype(bias, dtype),
      toDtype(mean, 'float64'),
      toDtype(variance, 'float64'),
    );
  }

  /**
   * A frozen layer from a state, as {@link BatchNorm.stateDict} gives it or a checkpoint holds it. The state needs
   * running_mean and running_var; weight and bias may be absent (1 and 0).
   *
   * @throws TypeError, RangeError naming the entry that does not fit.
   */
  static from<D extends DType = 'float32'>(
    state: StateDict,
    options: FrozenOptions<D> = {},
  ): FrozenBatchNorm<D> {
    checkOptions('options', options, frozenKeys);
    const { axis = 1, eps = 1e-5, dtype = 'float32' as D } = options;
    checkAxis(axis);
    checkEps(eps);
    checkOneOf('dtype', dtype, ['float32', 'float64']);
    const { channels, weight, bias, running_mean, running_var } = readState(state, undefined, {
      weight: 'optional',
      bias: 'optional',
      stats: true,
    });
    return new FrozenBatchNorm({
      channels,
      axis,
      eps,
      dtype,
      weight,
      bias,
      mean: running_mean as FloatArray,
      variance: running_var as FloatArray,
    });
  }

  /**
   * y = (x − mean) / √(variance + eps) · weight + bias, of the dtype and shape of x, which may be of any rank that has
   * the axis.
   *
   * @throws TypeError, RangeError for what does not fit, Error after disposal; then nothing is written.
   */
  run(x: TensorLike<ArrayOf<D>>, options?: RunOptions<ArrayOf<D>>): Tensor<ArrayOf<D>> {
    if (this.#run === undefined)
      throw stateError('DISPOSED', 'a frozen layer must not be used after its disposal, got a call of run()');
    checkOptions('options', options, runKeys);
    const out = options?.out;
    const input = readShape<ArrayOf<D>>('x', x, this.dtype);
    const { outer, inner } = geometryOf(input, this.axis, this.channels);
    checkLength(input);
    let y: ArrayOf<D>;
    if (out === undefined) y = newArray(this.dtype, input.size);
    else {
      y = checkOut(out, input, this.dtype);
      checkOverlap(y, input, {});
    }
    this.#run(outer, inner, input.data, y);
    return { data: y, shape: input.shape };
  }

  /** Lets go of the native memory, which is freed with the next garbage collection. Doing it twice is harmless. */
  [Symbol.dispose](): void {
    this.#run = undefined;
  }
}
