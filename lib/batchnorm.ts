import type { Passes } from './backend/backend.js';
import { backend, passesFor } from './backend/index.js';
import { type Convention, type Decay, defaultsOf } from './conventions.js';
import { oneValuePerChannelError, stateError, typeError } from './errors.js';
import { constructorKey, FrozenBatchNorm } from './frozen.js';
import { newResult } from './result.js';
import { readState, type StateDict } from './state.js';
import type { ArrayOf, DType, FloatArray, Tensor, TensorLike } from './tensor.js';
import { shareBuffer } from './typed-array.js';
import {
  checkApart,
  checkAxis,
  checkBoolean,
  checkEps,
  checkFraction,
  checkInteger,
  checkLength,
  checkOneOf,
  checkOptions,
  checkOut,
  checkPerChannel,
  checkSameShape,
  checkVariance,
  type Geometry,
  geometryOf,
  maxChannels,
  type NamedArrays,
  newArray,
  type ReadTensor,
  readShape,
} from './validate.js';

/** The options in full, as {@link BatchNorm.config} returns them. */
export interface BatchNormConfig<D extends DType = DType> {
  /** The channel axis; −1 is the last. Default 1. */
  axis: number;
  /** Added to the variance under the root. Positive and finite. Default 1e-5. */
  eps: number;
  /** Of x, y, weight, bias and their gradients. Statistics are always in double. Default 'float32'. */
  dtype: D;
  /**
   * Weight of the old running value, from 0 to 1: running = decay · running + (1 − decay) · batch; or 'cumulative', the
   * mean over all batches so far. Default 0.9.
   */
  decay: Decay;
  /** Store the variance divided by M − 1 rather than M, for M values per channel. Default true. */
  unbiasedRunningVar: boolean;
  /** Learn a factor per channel, at first 1. Default true. */
  weight: boolean;
  /** Learn a summand per channel, at first 0. Default true. */
  bias: boolean;
  /** Keep running statistics. Without them evaluation uses the statistics of the batch. Default true. */
  trackRunningStats: boolean;
  /** The layer owns its results: each is valid until the next call of the same method. Default false. */
  reuse: boolean;
}

export interface BatchNormOptions<D extends DType = DType> extends Partial<BatchNormConfig<D>> {
  /** Whose defaults to take for eps, decay and unbiasedRunningVar. Default: PyTorch's values. */
  convention?: Convention;
  /** Only with `convention`, and in that framework's meaning. null is PyTorch's None: cumulative. */
  momentum?: number | null;
}

export interface ForwardOptions<T extends FloatArray> {
  /** Where y goes: as long as x and of its dtype; x.data itself (backward is then impossible), or elsewhere. */
  out?: T;
  /** false: leave the running statistics alone in training. Default true. */
  updateStats?: boolean;
}

export interface LayerBackwardOptions<T extends FloatArray> {
  /** Where dx goes: as long as dy and of its dtype; dy.data itself, or memory that overlaps neither dy nor x. */
  out?: T;
  /** Compute one part only. Default: both. */
  only?: 'input' | 'parameters';
}

/** A gradient that does not exist, or was not asked for, is absent. */
export interface LayerGradients<T extends FloatArray> {
  dx?: Tensor<T>;
  dWeight?: T;
  dBias?: T;
}

/** What an optimizer loops over. */
export interface Parameter<T extends FloatArray> {
  name: 'weight' | 'bias';
  /** The layer's own array: write to it to learn. */
  value: T;
  /** The layer's own array, rewritten by each backward. */
  grad: T;
}

/** What backward needs of the last forward. Statistics and weight are its own copies. */
interface Forward<T extends FloatArray> {
  /** undefined where the forward was in place. */
  x: T | undefined;
  size: number;
  shape: readonly number[];
  geometry: Geometry;
  /** Whether the statistics are those of x. */
  training: boolean;
}

const optionKeys = new Set([
  'axis',
  'eps',
  'dtype',
  'decay',
  'unbiasedRunningVar',
  'weight',
  'bias',
  'trackRunningStats',
  'reuse',
  'convention',
  'momentum',
]);
const forwardKeys = new Set(['out', 'updateStats']);
const backwardKeys = new Set(['out', 'only']);
const freezeKeys = new Set<string>();

function readConfig<D extends DType>(options: BatchNormOptions<D>): BatchNormConfig<D> {
  checkOptions(options, optionKeys);
  const { convention, momentum, decay: givenDecay } = options;
  const defaults = defaultsOf(convention, momentum);
  const {
    axis = 1,
    eps = defaults.eps,
    dtype = 'float32' as D,
    unbiasedRunningVar = defaults.unbiasedRunningVar,
    weight = true,
    bias = true,
    trackRunningStats = true,
    reuse = false,
  } = options;
  if (givenDecay !== undefined && momentum !== undefined)
    throw typeError('decay', 'be left out beside momentum', givenDecay);
  const decay = givenDecay === undefined ? defaults.decay : givenDecay;
  return Object.freeze({
    axis: checkAxis(axis),
    eps: checkEps(eps),
    dtype: checkOneOf('dtype', dtype, ['float32', 'float64']) as D,
    decay:
      decay === 'cumulative'
        ? decay
        : checkFraction('decay', decay, "be a number from 0 to 1 or 'cumulative'"),
    unbiasedRunningVar: checkBoolean('unbiasedRunningVar', unbiasedRunningVar),
    weight: checkBoolean('weight', weight),
    bias: checkBoolean('bias', bias),
    trackRunningStats: checkBoolean('trackRunningStats', trackRunningStats),
    reuse: checkBoolean('reuse', reuse),
  });
}

/** Where results go that were given no place: to new memory, or with `reuse` to a buffer that is kept for the next. */
class ResultBuffer<T extends FloatArray> {
  readonly #reuse: boolean;
  #buffer: T | undefined;

  constructor(reuse: boolean) {
    this.#reuse = reuse;
  }

  /** Never memory of `inputs`: a result of this layer may come back as its input. */
  take(dtype: DType, length: number, inputs: readonly T[]): T {
    if (!this.#reuse) return newResult(dtype, length);
    let buffer = this.#buffer;
    if (
      buffer === undefined ||
      buffer.length < length ||
      inputs.some((input) => buffer !== undefined && shareBuffer(input, buffer))
    ) {
      buffer = newResult<T>(dtype, length);
      this.#buffer = buffer;
    }
    return buffer.length === length ? buffer : (buffer.subarray(0, length) as T);
  }
}

/**
 * A batch normalization layer: y = (x − mean) / √(variance + eps) · weight + bias per channel, with the statistics of
 * the batch in training and the running statistics in evaluation (Ioffe and Szegedy, "Batch Normalization", 2015).
 *
 * A new layer is in training mode.
 */
export class BatchNorm<D extends DType = 'float32'> {
  readonly #channels: number;
  readonly #config: BatchNormConfig<D>;
  readonly #weight: ArrayOf<D> | null;
  readonly #bias: ArrayOf<D> | null;
  readonly #runningMean: Float64Array | null;
  readonly #runningVar: Float64Array | null;
  readonly #passes: Passes<ArrayOf<D>>;
  readonly #weightGrad: ArrayOf<D> | undefined;
  readonly #biasGrad: ArrayOf<D> | undefined;
  readonly #y: ResultBuffer<ArrayOf<D>>;
  readonly #dx: ResultBuffer<ArrayOf<D>>;
  #training = true;
  #batchesTracked = 0;
  #rejectedUpdates = 0;
  /** Batches that a channel has rejected since the state was loaded; undefined where none has. */
  #missed: Float64Array | undefined;

  #last: Forward<ArrayOf<D>> | undefined;
  readonly #lastMean: Float64Array;
  readonly #lastVariance: Float64Array;
  readonly #lastWeight: ArrayOf<D> | undefined;

  /** The layer's gradients by the names that messages give them. */
  readonly #grads: NamedArrays;
  /** All its arrays, which a result must not overlap. */
  readonly #arrays: NamedArrays;

  /**
   * @param channels values per channel array, an integer from 1 on.
   * @throws TypeError for an unknown option or an option of the wrong type, RangeError for a wrong value.
   */
  constructor(channels: number, options: BatchNormOptions<D> = {}) {
    this.#channels = checkInteger('channels', channels, 1, maxChannels);
    this.#config = readConfig(options);
    const { dtype, weight, bias, trackRunningStats, reuse } = this.#config;
    this.#passes = passesFor(dtype);
    this.#y = new ResultBuffer(reuse);
    this.#dx = new ResultBuffer(reuse);
    this.#weight = weight ? (newArray<ArrayOf<D>>(dtype, channels).fill(1) as ArrayOf<D>) : null;
    this.#bias = bias ? newArray<ArrayOf<D>>(dtype, channels) : null;
    this.#runningMean = trackRunningStats ? newArray<Float64Array>('float64', channels) : null;
    this.#runningVar = trackRunningStats ? newArray<Float64Array>('float64', channels).fill(1) : null;
    this.#weightGrad = weight ? newArray(dtype, channels) : undefined;
    this.#biasGrad = bias ? newArray(dtype, channels) : undefined;
    this.#lastMean = newArray('float64', channels);
    this.#lastVariance = newArray('float64', channels);
    this.#lastWeight = weight ? newArray(dtype, channels) : undefined;
    this.#grads = { 'the gradient of weight': this.#weightGrad, 'the gradient of bias': this.#biasGrad };
    this.#arrays = {
      weight: this.#weight,
      bias: this.#bias,
      runningMean: this.#runningMean,
      runningVar: this.#runningVar,
      ...this.#grads,
    };
  }

  get channels(): number {
    return this.#channels;
  }

  /** The options in full: `new BatchNorm(bn.channels, bn.config)` is the same layer. */
  get config(): BatchNormConfig<D> {
    return this.#config;
  }

  /** The live array, one value per channel, at first 1; null where the layer has none. */
  get weight(): ArrayOf<D> | null {
    return this.#weight;
  }

  /** The live array, one value per channel, at first 0; null where the layer has none. */
  get bias(): ArrayOf<D> | null {
    return this.#bias;
  }

  /** The live array, one value per channel, at first 0; null without trackRunningStats. */
  get runningMean(): Float64Array | null {
    return this.#runningMean;
  }

  /** The live array, one value per channel, at first 1; null without trackRunningStats. */
  get runningVar(): Float64Array | null {
    return this.#runningVar;
  }

  /** Whether forward uses the statistics of the batch and updates the running ones. */
  get training(): boolean {
    return this.#training;
  }

  /** Training batches whose statistics were offered to the running ones. */
  get batchesTracked(): number {
    return this.#batchesTracked;
  }

  /** Updates of a channel's running statistics that were left out because its batch was not finite. */
  get rejectedUpdates(): number {
    return this.#rejectedUpdates;
  }

  /** Training mode, or evaluation with `mode` false. */
  train(mode = true): this {
    this.#training = checkBoolean('mode', mode);
    return this;
  }

  /** Evaluation mode. */
  eval(): this {
    return this.train(false);
  }

  /**
   * Normalizes x. In training, with the statistics of the batch, which update the running ones; in evaluation, with the
   * running ones. The layer keeps a reference to x for {@link backward}.
   *
   * An empty x gives an empty y and changes no state. A channel whose batch mean or variance is not finite shows it in
   * y, leaves its running statistics alone and counts in {@link rejectedUpdates}.
   *
   * @param x of the layer's dtype, with `channels` at the channel axis, of any rank that has it.
   * @returns y in the dtype and shape of x.
   * @throws TypeError, RangeError for what does not fit, among it training with one value per channel; then nothing is
   *   written and no state has changed.
   */
  forward(x: TensorLike<ArrayOf<D>>, options?: ForwardOptions<ArrayOf<D>>): Tensor<ArrayOf<D>> {
    checkOptions(options, forwardKeys);
    const { out, updateStats = true } = options ?? {};
    const { axis, dtype, eps } = this.#config;
    const weight = this.#weight;
    const bias = this.#bias;
    const runningMean = this.#runningMean;
    const runningVar = this.#runningVar;
    checkBoolean('updateStats', updateStats);
    const input = readShape<ArrayOf<D>>('x', x, dtype);
    const geometry = geometryOf(input, axis, this.#channels);
    const { outer, channels, inner } = geometry;
    const count = outer * inner;
    const batchStats = this.#training || runningMean === null || runningVar === null;
    if (batchStats && count === 1) throw oneValuePerChannelError(input.shape, this.#training);
    if (runningMean !== null) checkPerChannel('runningMean', runningMean, channels);
    if (runningVar !== null)
      (batchStats ? checkPerChannel : checkVariance)('runningVar', runningVar, channels);
    checkLength(input);
    if (out !== undefined) {
      checkOut(out, input);
      checkApart('out', out, this.#arrays);
    }
    const y = out ?? this.#y.take(dtype, input.size, [input.data]);

    const pass = batchStats ? this.#passes.forwardTraining : this.#passes.forwardInference;
    const inPlace = pass(
      outer,
      channels,
      inner,
      eps,
      input.data,
      y,
      weight ?? undefined,
      bias ?? undefined,
      batchStats ? this.#lastMean : runningMean,
      batchStats ? this.#lastVariance : runningVar,
    );
    if (!batchStats) {
      this.#lastMean.set(runningMean);
      this.#lastVariance.set(runningVar);
    }
    if (weight !== null) this.#lastWeight?.set(weight);
    this.#last = {
      x: inPlace ? undefined : input.data,
      size: input.size,
      shape: input.shape,
      geometry,
      training: batchStats,
    };
    if (this.#training && updateStats && count > 0) this.#updateRunningStats(count);
    return { data: y, shape: input.shape };
  }

  /**
   * The gradients of the last forward, with the weight and the statistics it used.
   *
   * @param dy the gradient of y, in its dtype and shape.
   * @returns dx in the dtype and shape of dy; dWeight and dBias, one value per channel, whose values are also in
   *   {@link parameters}. With `reuse` all of them are the layer's own arrays.
   * @throws Error where there is no forward to go back through; TypeError, RangeError for what does not fit; then
   *   nothing is written.
   */
  backward(
    dy: TensorLike<ArrayOf<D>>,
    options?: LayerBackwardOptions<ArrayOf<D>>,
  ): LayerGradients<ArrayOf<D>> {
    checkOptions(options, backwardKeys);
    const { out, only } = options ?? {};
    const { dtype, eps, reuse } = this.#config;
    if (only !== undefined) checkOneOf('only', only, ['input', 'parameters']);
    if (only === 'parameters' && out !== undefined)
      throw typeError('out', "be left out with only: 'parameters'", out);
    const gradient = readShape<ArrayOf<D>>('dy', dy, dtype);
    const last = this.#last;
    if (last === undefined)
      throw stateError(
        'NO_FORWARD',
        'backward() must follow a forward(), got none since the layer was made or cleared',
      );
    if (last.x === undefined)
      throw stateError(
        'INPUT_OVERWRITTEN',
        'backward() must find the x of the last forward(), got one that wrote its result over x; give forward() another out',
      );
    checkSameShape(gradient, 'the last x', last.shape);
    const input: ReadTensor<ArrayOf<D>> = {
      name: 'x',
      data: last.x,
      dtype,
      shape: last.shape,
      size: last.size,
    };
    checkLength(input);
    checkLength(gradient);
    if (out !== undefined) {
      checkOut(out, gradient);
      checkApart('out', out, this.#arrays);
    }
    // The gradients of the parameters are written before dx is.
    checkApart('dy.data', gradient.data, this.#grads);
    checkApart('x.data', input.data, this.#grads);
    const wantsInput = only !== 'parameters';
    const wantsParameters = only !== 'input';
    const dx = wantsInput
      ? (out ?? this.#dx.take(dtype, gradient.size, [gradient.data, input.data]))
      : undefined;
    const dWeight = wantsParameters ? this.#weightGrad : undefined;
    const dBias = wantsParameters ? this.#biasGrad : undefined;
    const { outer, channels, inner } = last.geometry;
    this.#passes.backward(
      outer,
      channels,
      inner,
      eps,
      last.training,
      gradient.data,
      input.data,
      this.#lastMean,
      this.#lastVariance,
      this.#lastWeight,
      dx,
      dWeight,
      dBias,
    );
    const own = (grad: ArrayOf<D>) => (reuse ? grad : (grad.slice() as ArrayOf<D>));
    return {
      ...(dx && { dx: { data: dx, shape: gradient.shape } }),
      ...(dWeight && { dWeight: own(dWeight) }),
      ...(dBias && { dBias: own(dBias) }),
    };
  }

  /** The learned parameters with their gradients (zeros before the first backward). */
  parameters(): Parameter<ArrayOf<D>>[] {
    const parameters: Parameter<ArrayOf<D>>[] = [];
    if (this.#weight && this.#weightGrad)
      parameters.push({ name: 'weight', value: this.#weight, grad: this.#weightGrad });
    if (this.#bias && this.#biasGrad)
      parameters.push({ name: 'bias', value: this.#bias, grad: this.#biasGrad });
    return parameters;
  }

  /** Copies of what the layer has learned and seen. */
  stateDict(): StateDict {
    const weight = this.#weight;
    const bias = this.#bias;
    const runningMean = this.#runningMean;
    const runningVar = this.#runningVar;
    return {
      ...(weight && { weight: weight.slice() }),
      ...(bias && { bias: bias.slice() }),
      ...(runningMean && { running_mean: runningMean.slice() }),
      ...(runningVar && { running_var: runningVar.slice(), num_batches_tracked: this.#batchesTracked }),
    };
  }

  /**
   * Copies a state into the layer's arrays. It must have what {@link stateDict} gives, and nothing else; only
   * num_batches_tracked may be absent (0).
   *
   * @throws TypeError, RangeError naming the entry that does not fit; then nothing has changed.
   */
  loadStateDict(state: StateDict): this {
    const { weight, bias, trackRunningStats } = this.#config;
    const read = readState(state, this.#channels, { weight, bias, stats: trackRunningStats });
    if (read.weight) this.#weight?.set(read.weight);
    if (read.bias) this.#bias?.set(read.bias);
    if (read.running_mean) this.#runningMean?.set(read.running_mean);
    if (read.running_var) this.#runningVar?.set(read.running_var);
    this.#batchesTracked = read.num_batches_tracked ?? 0;
    this.#missed = undefined;
    return this;
  }

  /** Forgets the last x, to which the layer holds a reference, never a copy. */
  clear(): this {
    this.#last = undefined;
    return this;
  }

  /**
   * An immutable snapshot for inference.
   *
   * @throws Error without running statistics, RangeError where a running variance is negative.
   */
  freeze(options?: Record<string, never>): FrozenBatchNorm<D> {
    checkOptions(options, freezeKeys);
    const runningMean = this.#runningMean;
    const runningVar = this.#runningVar;
    if (runningMean === null || runningVar === null)
      throw stateError(
        'NO_RUNNING_STATS',
        'freeze() must have running statistics, got trackRunningStats: false',
      );
    checkVariance('runningVar', runningVar, this.#channels);
    const { axis, eps, dtype } = this.#config;
    return new FrozenBatchNorm(constructorKey, {
      channels: this.#channels,
      axis,
      eps,
      dtype,
      weight: this.#weight ?? undefined,
      bias: this.#bias ?? undefined,
      mean: runningMean,
      variance: runningVar,
    });
  }

  #updateRunningStats(count: number): void {
    const runningMean = this.#runningMean;
    const runningVar = this.#runningVar;
    if (runningMean === null || runningVar === null) return;
    const { decay, unbiasedRunningVar } = this.#config;
    const batches = this.#batchesTracked + 1;
    const update = (of: (array: Float64Array) => Float64Array, channels: number, ownDecay: number) =>
      backend.updateRunningStats(
        of(this.#lastMean),
        of(this.#lastVariance),
        channels,
        count,
        ownDecay,
        unbiasedRunningVar,
        of(runningMean),
        of(runningVar),
      );
    if (decay !== 'cumulative' || this.#missed === undefined) {
      const ownDecay = decay === 'cumulative' ? 1 - 1 / batches : decay;
      const rejected = update((array) => array, this.#channels, ownDecay);
      this.#batchesTracked = batches;
      if (rejected > 0) this.#countRejected(rejected);
      return;
    }
    // The mean over the batches of each channel: those it rejected do not count.
    for (let channel = 0; channel < this.#channels; channel++) {
      const ownDecay = 1 - 1 / (batches - this.#missed[channel]);
      const rejected = update((array) => array.subarray(channel, channel + 1), 1, ownDecay);
      this.#rejectedUpdates += rejected;
      this.#missed[channel] += rejected;
    }
    this.#batchesTracked = batches;
  }

  #countRejected(rejected: number): void {
    this.#rejectedUpdates += rejected;
    if (this.#config.decay !== 'cumulative') return;
    this.#missed = this.#lastMean.map((mean, channel) =>
      Number.isFinite(mean) && Number.isFinite(this.#lastVariance[channel]) ? 0 : 1,
    );
  }
}
