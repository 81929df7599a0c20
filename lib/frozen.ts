/// <reference lib="esnext.disposable" preserve="true" />
import type { FrozenRun } from './backend/backend.js';
import { passesFor } from './backend/index.js';
import { stateError } from './errors.js';
import { newResult } from './result.js';
import { readState, type StateDict } from './state.js';
import type { ArrayOf, DType, FloatArray, Tensor, TensorLike } from './tensor.js';
import {
  checkAxis,
  checkEps,
  checkLength,
  checkOneOf,
  checkOptions,
  checkOut,
  geometryOf,
  readShape,
  toDtype,
} from './validate.js';

export interface FrozenOptions<D extends DType = DType> {
  /** The channel axis; −1 is the last. Default 1. */
  axis?: number;
  /** Added to the variance under the root. Default 1e-5. */
  eps?: number;
  /** Of the data that will come in. Default: either. */
  dtype?: D;
}

export interface RunOptions<T extends FloatArray> {
  /**
   * Where the result goes: as long as x and of its dtype; x.data itself, or memory that does not overlap it. Default: a
   * new array, which costs more than the batch norm itself where x is large.
   */
  out?: T;
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
}

/** Keeps the constructor to this library, which has checked what it gives. @internal */
export const constructorKey = Symbol('frozen');

const frozenKeys = new Set(['axis', 'eps', 'dtype']);
const runKeys = new Set(['out']);

/**
 * Batch normalization with fixed statistics: an immutable snapshot whose coefficients are computed once and lie in
 * native memory. Made by {@link BatchNorm.freeze} or {@link FrozenBatchNorm.from}.
 */
export class FrozenBatchNorm<D extends DType = DType> {
  #parts: FrozenParts<D>;
  #disposed = false;
  readonly #runs: { [K in DType]?: FrozenRun<FloatArray> } = {};

  /** @internal */
  constructor(key: typeof constructorKey, parts: FrozenParts<D>) {
    if (key !== constructorKey)
      throw stateError(
        'INVALID_TYPE',
        'a FrozenBatchNorm must be made by freeze() or FrozenBatchNorm.from(), got a call of its constructor',
      );
    const { weight, bias, mean, variance } = parts;
    // Copies: the caller goes on writing to its arrays.
    this.#parts = {
      ...parts,
      weight: weight?.slice(),
      bias: bias?.slice(),
      mean: mean.slice(),
      variance: variance.slice(),
    };
  }

  get channels(): number {
    return this.#parts.channels;
  }

  get axis(): number {
    return this.#parts.axis;
  }

  get eps(): number {
    return this.#parts.eps;
  }

  /** Of the data it takes: that of the layer; undefined, either, where it was made from a state without naming one. */
  get dtype(): D | undefined {
    return this.#parts.dtype;
  }

  /**
   * A frozen layer from a state, as {@link BatchNorm.stateDict} gives it or a checkpoint holds it. The state needs
   * running_mean and running_var; weight and bias may be absent (1 and 0).
   *
   * @throws TypeError, RangeError naming the entry that does not fit.
   */
  static from<D extends DType = DType>(state: StateDict, options: FrozenOptions<D> = {}): FrozenBatchNorm<D> {
    checkOptions(options, frozenKeys);
    const { axis = 1, eps = 1e-5, dtype } = options;
    checkAxis(axis);
    checkEps(eps);
    if (dtype !== undefined) checkOneOf('dtype', dtype, ['float32', 'float64']);
    const { channels, weight, bias, running_mean, running_var } = readState(state, undefined, {
      weight: 'optional',
      bias: 'optional',
      stats: true,
    });
    return new FrozenBatchNorm(constructorKey, {
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
  run<T extends ArrayOf<D>>(x: TensorLike<T>, options?: RunOptions<T>): Tensor<T> {
    if (this.#disposed)
      throw stateError('DISPOSED', 'a frozen layer must not be used after its disposal, got a call of run()');
    checkOptions(options, runKeys);
    const out = options?.out;
    const parts = this.#parts;
    const input = readShape<T>('x', x, parts.dtype);
    const { dtype } = input;
    const { outer, inner } = geometryOf(input, parts.axis, parts.channels);
    checkLength(input);
    const y = out === undefined ? newResult<T>(dtype, input.size) : checkOut<T>(out, input);
    const run = this.#runs[dtype] ?? this.#prepare(dtype);
    run(outer, inner, input.data, y);
    return { data: y, shape: input.shape };
  }

  /** Lets go of the native memory, which is freed with the next garbage collection. Doing it twice is harmless. */
  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#runs.float32 = undefined;
    this.#runs.float64 = undefined;
  }

  #prepare(dtype: DType): FrozenRun<FloatArray> {
    const { channels, eps, weight, bias, mean, variance } = this.#parts;
    const run = passesFor<FloatArray>(dtype).freeze(
      channels,
      eps,
      weight && toDtype(weight, dtype),
      bias && toDtype(bias, dtype),
      toDtype(mean, 'float64'),
      toDtype(variance, 'float64'),
    );
    this.#runs[dtype] = run;
    return run;
  }
}
