// The layer: batch normalization with parameters that learn and running statistics.
import { type Activation, checkActivation } from './activation.js';
import type {
  AsyncOptions,
  ForwardOptions,
  LayerBackwardOptions,
  LayerGradients,
  Parameter,
  SingleValue,
} from './calls.js';
import { type BatchNormConfig, type BatchNormOptions, checkDecay, readConfig, readRenorm } from './config.js';
import { type Decay, decayOf, momentumOf } from './conventions.js';
import { LayerCore } from './core.js';
import { stateError } from './errors.js';
import { constructorKey, FrozenBatchNorm } from './frozen.js';
import type { ProcessGroup } from './group.js';
import { inspect, inspected } from './inspect.js';
import type { BatchNormJSON } from './json.js';
import { checkMoments, finiteMoments, type Moments } from './moments.js';
import { platform } from './platform/node.js';
import { namesOf } from './properties.js';
import { refuseWrites } from './read-only.js';
import type { Renorm } from './renorm.js';
import { RunningStatistics } from './running.js';
import { jsonOf, loadState, type Parts, readJSON, stateOf } from './saved.js';
import type { AnyState, StateDict, StateOptions } from './state.js';
import type { ArrayOf, DType, ParametersOf, Tensor, TensorLike } from './types.js';
import {
  checkBoolean,
  checkDivisors,
  checkInteger,
  checkVariance,
  maxChannels,
  readOptions,
} from './validate.js';

export type { AsyncOptions, ForwardOptions, LayerBackwardOptions, LayerGradients, Parameter, SingleValue };

const { freeze } = Object;
const freezeNames = namesOf(['activation']);
const fromJSONNames = namesOf(['group']);

/**
 * A batch normalization layer: y = (x − mean) / √(variance + eps) · weight + bias per channel, with the statistics of
 * the batch in training and the running statistics in evaluation (Ioffe and Szegedy, "Batch Normalization", 2015).
 *
 * A new layer is in training mode. What can be saved, or sent to a worker, is {@link BatchNorm.toJSON}: structuredClone and
 * postMessage refuse a layer where the runtime can be told so (Node.js from 22.10 on, Deno), and make an empty object of it elsewhere.
 *
 * @typeParam D the dtype of x, y and their gradients, and of weight and bias, which are in float32 where x is of 16 bits; statistics
 *   are always in double.
 * @example
 * import { BatchNorm } from 'batchnorm';
 *
 * const bn = new BatchNorm(2, { eps: 1e-12, decay: 0.5 });
 * const x = { data: Float32Array.of(1, 10, 3, 30), shape: [2, 2] }; // two samples of two channels
 * console.log(bn.forward(x).data); // Float32Array(4) [ -1, -1, 1, 1 ]
 * console.log(bn.runningMean); // Float64Array(2) [ 1, 10 ]
 */
export class BatchNorm<D extends DType = 'float32'> {
  readonly #channels: number;
  #config: BatchNormConfig<D>;
  readonly #running: RunningStatistics | undefined;
  readonly #core: LayerCore<D>;

  /** Whether a value is one indeed, which a proxy of one is not. @internal */
  static isLayer(value: object): value is BatchNorm<DType> {
    return #channels in value;
  }

  /**
   * @param channels values per channel array, an integer from 1 on.
   * @param options by default PyTorch's: axis 1, eps 1e-5, decay 0.9, float32, weight and bias.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`) for an option of the wrong type and for a momentum without a convention,
   *   TypeError (`ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`) for a wrong value, RangeError
   *   (`ERR_BATCHNORM_OUT_OF_MEMORY`).
   */
  constructor(channels: number, options: BatchNormOptions<D> = {}) {
    this.#channels = checkInteger('channels', channels, 1, maxChannels);
    this.#config = readConfig(options);
    const { decay, unbiasedRunningVar, trackRunningStats } = this.#config;
    this.#running = trackRunningStats
      ? new RunningStatistics(channels, decay, unbiasedRunningVar)
      : undefined;
    this.#core = new LayerCore(channels, this.#config, this.#running);
    platform.markAsUncloneable(this);
  }

  get #parts(): Parts<D> {
    return { channels: this.#channels, config: this.#config, core: this.#core, running: this.#running };
  }

  /** Values per channel array. */
  get channels(): number {
    return this.#channels;
  }

  /** The options in full: `new BatchNorm(bn.channels, bn.config)` is the same layer. */
  get config(): BatchNormConfig<D> {
    return this.#config;
  }

  /** The live array, one value per channel, at first 1; null where the layer has none. */
  get weight(): ParametersOf<ArrayOf<D>> | null {
    return this.#core.weight ?? null;
  }

  /** The live array, one value per channel, at first 0; null where the layer has none. */
  get bias(): ParametersOf<ArrayOf<D>> | null {
    return this.#core.bias ?? null;
  }

  /** The live array, one value per channel, at first 0; null without trackRunningStats. */
  get runningMean(): Float64Array | null {
    return this.#running?.mean ?? null;
  }

  /** The live array, one value per channel, at first 1; null without trackRunningStats. */
  get runningVar(): Float64Array | null {
    return this.#running?.variance ?? null;
  }

  /** Whether forward uses the statistics of the batch and updates the running ones. */
  get training(): boolean {
    return this.#core.training;
  }

  /**
   * Weight of the old running value, or 'cumulative': may be written at any time, and {@link config} follows. From 'cumulative' on
   * the running statistics count as the mean of the batches tracked so far.
   */
  get decay(): Decay {
    return this.#config.decay;
  }

  /**
   * From the next batch on.
   *
   * @param value a number from 0 to 1, or 'cumulative'.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`); the
   *   decay is then as before.
   */
  set decay(value: Decay) {
    const decay = checkDecay(value);
    this.#running?.setDecay(decay);
    this.#config = freeze({ ...this.#config, decay });
  }

  /**
   * {@link decay} in the meaning of the layer's `convention`: null is PyTorch's None (cumulative), undefined what the framework has no
   * number for, or that there is no convention. Without one it cannot be written.
   */
  get momentum(): number | null | undefined {
    const { convention, decay } = this.#config;
    return convention && momentumOf(convention, decay);
  }

  /**
   * From the next batch on.
   *
   * @param value in the meaning of the convention.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), also without a convention; RangeError (`ERR_BATCHNORM_INVALID_VALUE`,
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`); the decay is then as before.
   */
  set momentum(value: number | null) {
    this.decay = decayOf(this.#config.convention, value);
  }

  /**
   * The bounds of batch renormalization: may be written at any time, as schedules do, and {@link config} follows. undefined for none.
   */
  get renorm(): Renorm | undefined {
    return this.#config.renorm;
  }

  /**
   * From the next call of forward on.
   *
   * @param value `{ rMax, dMax }`, or undefined for none.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`); the
   *   bounds are then as before.
   */
  set renorm(value: Renorm | undefined) {
    const renorm = readRenorm(value, this.#config);
    this.#core.renorm = renorm;
    this.#config = freeze({ ...this.#config, renorm });
  }

  /**
   * The statistics of the last training batch, or those that it was given: copies. undefined before the first.
   */
  get lastMoments(): Moments | undefined {
    return this.#core.moments();
  }

  /** Training batches whose statistics were offered to the running ones; 2^53 − 1 at most. */
  get batchesTracked(): number {
    return this.#running?.batchesTracked ?? 0;
  }

  /** Updates of a channel's running statistics that were left out because they would not have been finite. */
  get rejectedUpdates(): number {
    return this.#running?.rejectedUpdates ?? 0;
  }

  /**
   * Training mode, or evaluation with `mode` false.
   *
   * @param mode true by default.
   * @returns the layer itself.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`) for what is neither true nor false.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * console.log(new BatchNorm(3).train(false).training); // false
   */
  train(mode = true): this {
    this.#core.training = checkBoolean('mode', mode);
    return this;
  }

  /**
   * Evaluation mode: forward normalizes with the running statistics, and leaves them alone.
   *
   * @returns the layer itself.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(1, { eps: 1e-12 }).eval(); // mean 0 and variance 1, at first
   * console.log(bn.forward({ data: Float32Array.of(1, 2), shape: [2, 1] }).data); // Float32Array(2) [ 1, 2 ]
   */
  eval(): this {
    return this.train(false);
  }

  /**
   * Normalizes x, adds the residual, and applies the activation. In training, with the statistics of the batch, which
   * update the running ones; in evaluation, with the running ones. For {@link backward} the layer and the tensor that is returned
   * keep a reference to x, and of a residual with an activation one bit per value.
   *
   * An empty x gives an empty y and changes no state; in a group it takes part, and the others' samples count. A channel whose batch mean or variance is not finite shows it in
   * y, leaves its running statistics alone and counts in {@link rejectedUpdates}.
   *
   * @param x of the layer's dtype, with `channels` at the channel axis, of any rank that has it.
   * @param options `out` to write to memory that is there already, `residual` to add a tensor on the way, `updateStats`.
   * @returns y in the dtype and shape of x.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, RangeError
   *   (`ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL`) for training with one value per channel, Error
   *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer, (`ERR_BATCHNORM_GROUP_BROKEN`) where the members
   *   of its group are not at one; then nothing is written and no state has changed.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(3, { axis: -1, activation: 'relu' }); // channels last
   * const x = { data: new Float32Array(8 * 16 * 16 * 3), shape: [8, 16, 16, 3] };
   * const out = new Float32Array(x.data.length); // used again for every batch
   * const y = bn.forward(x, { out, residual: x });
   * console.log(y.data === out, bn.batchesTracked); // true 1
   */
  forward(x: TensorLike<ArrayOf<D>>, options?: ForwardOptions<ArrayOf<D>>): Tensor<ArrayOf<D>> {
    return this.#core.forward(x, options);
  }

  /**
   * {@link forward} off the event loop, on the library's own threads. The asynchronous calls of a layer take effect one
   * after the other, in the order of the calls: a `backwardAsync` goes back through the forward that was called last in the mode of
   * that moment, and where that is rejected through none. Mode and parameters are those of the moment of the call. The synchronous methods wait for nothing: they see the layer as the
   * calls that are done have left it.
   *
   * SharedArrayBuffers are read and written where they are; with `transfer` the layer takes over x; all other memory is
   * copied, so that x may change after the call, and `out` is written when the promise resolves. Results are new memory,
   * whatever `reuse` says.
   *
   * @param x as for {@link forward}.
   * @param options those of {@link forward}, `signal` to cancel what has not begun, `transfer` to give the memory of x away.
   * @returns a promise of y. Nothing is thrown: it rejects, and then the layer has not changed.
   * @throws what {@link forward} throws; RangeError (`ERR_BATCHNORM_NOT_TRANSFERABLE`) for memory that cannot be moved in; Error
   *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where `out` has lost its buffer meanwhile; the reason of `signal`. In full:
   *   `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`,
   *   `ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`,
   *   `ERR_BATCHNORM_NOT_TRANSFERABLE`, `ERR_BATCHNORM_BUFFER_CHANGED`, `ERR_BATCHNORM_NO_THREAD`, `ERR_BATCHNORM_GROUP_BROKEN`.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(3);
   * const x = { data: new Float32Array(8 * 3 * 256).map(Math.random), shape: [8, 3, 256] };
   * const [y, { dx }] = await Promise.all([bn.forwardAsync(x), bn.backwardAsync(x)]); // one after the other
   * console.log(y.shape, dx?.shape); // [ 8, 3, 256 ] [ 8, 3, 256 ]
   */
  async forwardAsync(
    x: TensorLike<ArrayOf<D>>,
    options?: ForwardOptions<ArrayOf<D>> & AsyncOptions,
  ): Promise<Tensor<ArrayOf<D>>> {
    return this.#core.forwardAsync(x, options);
  }

  /**
   * The gradients of a forward, with the weight and the statistics it used: of the last one in the present mode (training or
   * evaluation), or of the one that returned `of`. Any number of forwards may wait for their backward, which goes through each once;
   * `only: 'input'` and `only: 'parameters'` are two halves.
   *
   * x must still be what it was: a look at eight of its values tells a buffer that has been refilled, mostly.
   *
   *
   * @param dy the gradient of y, in its dtype and shape.
   * @param options `of` for another forward, `out` for dx, `only` for half of the work, `accumulate` to add to the gradients of
   *   {@link parameters}, `retain` to go through the forward again.
   * @returns dx in the dtype and shape of dy; dWeight and dBias, one value per channel, whose values are also in
   *   {@link parameters}. With `reuse` all of them are the layer's own arrays.
   * @throws Error (`ERR_BATCHNORM_NO_FORWARD`) where there is no forward to go back through, or it has been gone through; Error
   *   (`ERR_BATCHNORM_INPUT_OVERWRITTEN`) where x is no longer what it was; TypeError (`ERR_BATCHNORM_INVALID_TYPE`,
   *   `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`,
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit; Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the
   *   layer has lost its buffer, (`ERR_BATCHNORM_GROUP_BROKEN`) where the members of its group are not at one; then nothing is written.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(3);
   * const x = { data: new Float32Array(8 * 3 * 256).map(Math.random), shape: [8, 3, 256] };
   * bn.forward(x);
   * const { dx, dWeight, dBias } = bn.backward({ data: new Float32Array(8 * 3 * 256).fill(1), shape: [8, 3, 256] });
   * console.log(dx?.shape, dWeight?.length, dBias); // [ 8, 3, 256 ] 3 Float32Array(3) [ 2048, 2048, 2048 ]
   */
  backward(
    dy: TensorLike<ArrayOf<D>>,
    options?: LayerBackwardOptions<ArrayOf<D>>,
  ): LayerGradients<ArrayOf<D>> {
    return this.#core.backward(dy, options);
  }

  /**
   * {@link backward} off the event loop, under the rules of {@link forwardAsync}. `transfer` moves dy in when its turn has
   * come and all is known to be right; dx then lies in its memory. {@link parameters} show the gradients when the promise
   * resolves.
   *
   * @param dy as for {@link backward}.
   * @param options those of {@link backward}, `signal` to cancel what has not begun, `transfer` to give the memory of dy away.
   * @returns a promise of the gradients. Nothing is thrown: it rejects, and then no gradient has changed.
   * @throws what {@link backward} throws; RangeError (`ERR_BATCHNORM_NOT_TRANSFERABLE`) for memory that cannot be moved in;
   *   Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array has lost its buffer meanwhile; the reason of `signal`. In full:
   *   `ERR_BATCHNORM_NO_FORWARD`, `ERR_BATCHNORM_INPUT_OVERWRITTEN`, `ERR_BATCHNORM_INVALID_TYPE`,
   *   `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`,
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_NOT_TRANSFERABLE`, `ERR_BATCHNORM_BUFFER_CHANGED`,
   *   `ERR_BATCHNORM_NO_THREAD`, `ERR_BATCHNORM_GROUP_BROKEN`.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(3);
   * const x = { data: new Float32Array(8 * 3 * 256).map(Math.random), shape: [8, 3, 256] };
   * const dy = { data: new Float32Array(8 * 3 * 256).fill(1), shape: [8, 3, 256] };
   * await bn.forwardAsync(x);
   * const { dBias } = await bn.backwardAsync(dy, { only: 'parameters' });
   * console.log(dBias); // Float32Array(3) [ 2048, 2048, 2048 ]
   */
  async backwardAsync(
    dy: TensorLike<ArrayOf<D>>,
    options?: LayerBackwardOptions<ArrayOf<D>> & AsyncOptions,
  ): Promise<LayerGradients<ArrayOf<D>>> {
    return this.#core.backwardAsync(dy, options);
  }

  /**
   * The learned parameters with their gradients (zeros before the first backward).
   *
   * @returns weight and bias, those of them that the layer has: a new list of the layer's own arrays.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(3);
   * for (const { value, grad } of bn.parameters()) value.forEach((v, i) => (value[i] = v - 0.1 * grad[i]));
   * console.log(bn.parameters().map(({ name }) => name)); // [ 'weight', 'bias' ]
   */
  parameters(): Parameter<ParametersOf<ArrayOf<D>>>[] {
    return this.#core.parameters();
  }

  /**
   * Sets the gradients of {@link parameters} to 0: before backwards that `accumulate`.
   *
   * @returns the layer itself.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(1);
   * const x = { data: Float32Array.of(1, 2, 3, 6), shape: [4, 1] };
   * bn.zeroGrad();
   * for (let i = 0; i < 2; i++) {
   *   bn.forward(x);
   *   bn.backward(x, { accumulate: true });
   * }
   * console.log(bn.parameters()[1].grad); // Float32Array(1) [ 24 ]
   */
  zeroGrad(): this {
    this.#core.zeroGrad();
    return this;
  }

  /**
   * Running statistics as those of a new layer: mean 0, variance 1, no batches tracked, none rejected.
   *
   * @returns the layer itself.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(1);
   * bn.forward({ data: Float32Array.of(1, 3), shape: [2, 1] });
   * console.log(bn.resetRunningStats().runningMean, bn.batchesTracked); // Float64Array(1) [ 0 ] 0
   */
  resetRunningStats(): this {
    this.#core.checkOwn();
    this.#running?.reset();
    return this;
  }

  /**
   * Makes the running statistics those of other data: of a whole data set (precise batch norm), of another domain (AdaBN). What
   * has been counted stays.
   *
   * @param moments of as many channels; they are copied. With `unbiasedRunningVar` it is their unbiased variance that counts.
   * @returns the layer itself.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) where a
   *   channel has no values, or too few, or statistics that are not finite; Error (`ERR_BATCHNORM_NO_RUNNING_STATS`,
   *   `ERR_BATCHNORM_BUFFER_CHANGED`); then nothing has changed.
   * @example
   * import { BatchNorm, Moments } from 'batchnorm';
   *
   * const bn = new BatchNorm(1);
   * bn.setRunningStats(Moments.of({ data: Float32Array.of(1, 2, 3), shape: [3, 1] }));
   * console.log(bn.runningMean, bn.runningVar); // Float64Array(1) [ 2 ] Float64Array(1) [ 1 ]
   */
  setRunningStats(moments: Moments): this {
    const running = this.#running;
    if (running === undefined)
      throw stateError(
        'NO_RUNNING_STATS',
        'setRunningStats() must have running statistics, got trackRunningStats: false',
      );
    checkMoments('moments', moments, this.#channels);
    this.#core.checkOwn();
    const { mean, variance } = finiteMoments(moments, this.#config.unbiasedRunningVar);
    running.load(mean, variance, undefined);
    return this;
  }

  /**
   * Copies of what the layer has learned and seen.
   *
   * @returns what {@link loadStateDict} takes: parameters in the layer's dtype, statistics in double.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer, RangeError
   *   (`ERR_BATCHNORM_OUT_OF_MEMORY`).
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const keys = Object.keys(new BatchNorm(3).stateDict());
   * console.log(keys.join(' ')); // weight bias running_mean running_var num_batches_tracked
   */
  stateDict(): StateDict {
    return stateOf(this.#parts);
  }

  /**
   * Copies a state into the layer's arrays. It must have what {@link stateDict} gives, and nothing else; only
   * num_batches_tracked may be absent (0), as in old files. With decay 'cumulative' that is then the number of batches of every
   * channel: a state does not say which of them have rejected some.
   *
   * @param state is copied: what {@link stateDict} gave, or a dictionary as a file has it, of a whole model too, also under the
   *   names of the layer's `convention`. Every value must be finite. What JSON makes of a layer is for {@link fromJSON}.
   * @param options `prefix` for a part of a whole model, `strict` for a state that has more or less than the layer.
   * @returns the layer itself.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`) naming the entry that does not fit, RangeError (`ERR_BATCHNORM_OUT_OF_MEMORY`), Error
   *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer; then nothing has changed.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const trained = new BatchNorm(3);
   * const copy = new BatchNorm(3).loadStateDict(trained.stateDict());
   * console.log(copy.weight); // Float32Array(3) [ 1, 1, 1 ]
   *
   * const model = { 'bn1/gamma:0': [2], 'bn1/beta:0': [0], 'bn1/moving_mean:0': [5], 'bn1/moving_variance:0': [4] };
   * const bn = new BatchNorm(1, { convention: 'keras' }).loadStateDict(model, { prefix: 'bn1' });
   * console.log(bn.runningMean); // Float64Array(1) [ 5 ]
   */
  loadStateDict(state: AnyState, options?: StateOptions): this {
    loadState(this.#parts, state, options);
    return this;
  }

  /**
   * Everything that the layer is, as plain objects and arrays of numbers: JSON.stringify() calls it. NaN, Infinity, -Infinity
   * and -0, which JSON does not know, are strings. Gradients, and forwards to go back through, are not in it.
   *
   * @returns what {@link fromJSON} takes.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(3, { decay: 'cumulative' });
   * bn.forward({ data: Float32Array.of(1, 2, 3, 4, 5, 6), shape: [2, 3] });
   * const text = JSON.stringify(bn);
   * const again = BatchNorm.fromJSON(JSON.parse(text));
   * console.log(again.runningMean, again.batchesTracked); // Float64Array(3) [ 2.5, 3.5, 4.5 ] 1
   */
  toJSON(): BatchNormJSON<D> {
    return jsonOf(this.#parts);
  }

  /**
   * The layer that {@link toJSON} was called on, bit for bit: it goes on as that one would. Other than a state its values may be
   * NaN or infinite.
   *
   * @param json what toJSON gave, or what JSON.parse made of its text: all of it, and nothing else.
   * @param options `group` for a layer that is to have one: it is not in the JSON.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) naming the field that does not fit.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(3, { axis: -1 }).eval();
   * const again = BatchNorm.fromJSON(JSON.parse(JSON.stringify(bn)));
   * console.log(again.config.axis, again.training); // -1 false
   */
  static fromJSON<D extends DType = 'float32'>(
    json: BatchNormJSON<D>,
    options?: FromJSONOptions,
  ): BatchNorm<D> {
    const { group } = readOptions(options, fromJSONNames);
    const { channels, config, restore } = readJSON(json, group);
    // Now that there are arrays of that length: it is soon written that there are 2^31 channels.
    const bn = new BatchNorm<D>(channels, config);
    restore(bn.#parts);
    return bn;
  }

  /** What `util.inspect` and `console.log` print. @internal */
  [inspect](): string {
    // The prototype has it too, and a proxy of a layer is none.
    if (!BatchNorm.isLayer(this)) return 'BatchNorm {}';
    const batches = this.batchesTracked;
    const mode = this.training ? 'training' : 'evaluation';
    const seen = `${batches} ${batches === 1 ? 'batch' : 'batches'} seen`;
    const { group } = this.config;
    const place = group && `rank ${group.rank} of ${group.size}`;
    return inspected('BatchNorm', this.#channels, { ...this.config, group: place }, `${mode}, ${seen}`);
  }

  /**
   * Forgets all forwards: no backward goes through them any more, and the layer holds no reference to the last x.
   *
   * @returns the layer itself.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const bn = new BatchNorm(3);
   * bn.forward({ data: new Float32Array(2 * 3), shape: [2, 3] });
   * bn.clear(); // the tensor may be collected
   */
  clear(): this {
    this.#core.clear();
    return this;
  }

  /**
   * An immutable snapshot for inference.
   *
   * @param options `activation`: by default that of the layer.
   * @returns a frozen layer with the axis, eps, dtype and values of this one.
   * @throws Error (`ERR_BATCHNORM_NO_RUNNING_STATS`) without running statistics, RangeError (`ERR_BATCHNORM_INVALID_VALUE`)
   *   where a running variance is negative, RangeError (`ERR_BATCHNORM_OUT_OF_MEMORY`), Error
   *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer, TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`).
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const frozen = new BatchNorm(3).freeze({ activation: 'relu' });
   * console.log(frozen.channels, frozen.activation); // 3 relu
   */
  freeze(options?: { activation?: Activation }): FrozenBatchNorm<D> {
    const { activation: given } = readOptions(options, freezeNames);
    const activation = checkActivation(given) ?? this.#config.activation;
    const running = this.#running;
    if (running === undefined)
      throw stateError(
        'NO_RUNNING_STATS',
        'freeze() must have running statistics, got trackRunningStats: false',
      );
    const { weight, bias } = this.#core;
    this.#core.checkOwn();
    checkVariance('runningVar', running.variance, this.#channels);
    const { axis, eps, dtype } = this.#config;
    checkDivisors('runningVar', running.variance, eps);
    const { mean, variance } = running;
    return new FrozenBatchNorm(constructorKey, {
      channels: this.#channels,
      axis,
      eps,
      dtype,
      weight,
      bias,
      mean,
      variance,
      activation,
      missing: this.#config.missing,
    });
  }
}

/** What {@link BatchNorm.fromJSON} may be given besides. */
export interface FromJSONOptions {
  /** Whose member the layer is to be: JSON does not say. Default: none. */
  group?: ProcessGroup | undefined;
}

/** What cannot be replaced, and what to do instead. */
const cures = {
  weight: 'be written into, not replaced: bn.weight.set(values)',
  bias: 'be written into, not replaced: bn.bias.set(values)',
  runningMean: 'be written into, not replaced: bn.runningMean.set(values)',
  runningVar: 'be written into, not replaced: bn.runningVar.set(values)',
  training: 'be set by train() or eval()',
  batchesTracked: 'be set by loadStateDict() or resetRunningStats()',
  rejectedUpdates: 'be set by resetRunningStats()',
  lastMoments: 'be set by forward()',
  channels: 'be given to the constructor',
  config: 'be given to the constructor; decay and renorm can be set by themselves',
} as const;
refuseWrites(BatchNorm.prototype, cures);
