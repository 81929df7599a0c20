import { type Activation, checkActivation } from './activation.js';
import { type Later, maskBytes, type Passes, type Slot } from './backend/backend.js';
import { backend, passesFor } from './backend/index.js';
import { type BatchNormConfig, type BatchNormOptions, readConfig } from './config.js';
import { oneValuePerChannelError, rangeError, stateError, typeError } from './errors.js';
import { constructorKey, FrozenBatchNorm } from './frozen.js';
import { checkKept, deliver, isShared, move } from './handover.js';
import { after, operate, readAsync } from './operations.js';
import { areCallsUntouched, type Names, namesOf } from './properties.js';
import { newResult } from './result.js';
import { isStaged, stage, unstage } from './staging.js';
import { readState, type StateDict } from './state.js';
import type { ArrayOf, DType, FloatArray, Tensor, TensorLike } from './tensor.js';
import { copyInto, filled, lengthOf, partOf, shareBuffer } from './typed-array.js';
import {
  checkApart,
  checkBoolean,
  checkElsewhere,
  checkInteger,
  checkLength,
  checkOneOf,
  checkOut,
  checkPerChannel,
  checkSameShape,
  checkVariance,
  copyOf,
  type Geometry,
  geometryOf,
  isInPlace,
  maxChannels,
  type NamedArrays,
  newArray,
  newBytes,
  type ReadTensor,
  readOptions,
  readResidual,
  readShape,
} from './validate.js';

/** What {@link BatchNorm.forward} may be given besides x. */
export interface ForwardOptions<T extends FloatArray> {
  /** Where y goes: as long as x and of its dtype; x.data itself (backward is then impossible), or elsewhere. */
  out?: T;
  /** false: leave the running statistics alone in training. Default true. */
  updateStats?: boolean;
  /** Added before the activation: in the dtype and shape of x. It may not overlap `out`. Default: nothing. */
  residual?: TensorLike<T>;
}

/** What {@link BatchNorm.forwardAsync} and {@link BatchNorm.backwardAsync} take besides. */
export interface AsyncOptions {
  /** Cancels the operation while it waits: the promise rejects with the signal's reason. Later it has no effect. */
  signal?: AbortSignal;
  /**
   * true: the buffer of the data is moved in and all the caller's views of it are detached, as by postMessage. It must be an
   * ArrayBuffer of its own, not resizable. What a signal then cancels is gone. Default false.
   */
  transfer?: boolean;
}

/** What {@link BatchNorm.backward} may be given besides dy. */
export interface LayerBackwardOptions<T extends FloatArray> {
  /** Where dx goes: as long as dy and of its dtype; dy.data itself, or memory that overlaps neither dy nor x. */
  out?: T;
  /** Compute one part only. Default: both. */
  only?: 'input' | 'parameters';
}

/** What {@link BatchNorm.backward} returns. A gradient that does not exist, or was not asked for, is absent. */
export interface LayerGradients<T extends FloatArray> {
  /** In the dtype and shape of x. */
  dx?: Tensor<T>;
  /** One value per channel. */
  dWeight?: T;
  /** One value per channel. */
  dBias?: T;
  /** Of the last forward's residual: dy as the activation lets it through, never in the memory of dy. */
  dResidual?: Tensor<T>;
}

/** What an optimizer loops over. */
export interface Parameter<T extends FloatArray> {
  /** As the layer and its state call it. */
  name: 'weight' | 'bias';
  /** The layer's own array: write to it to learn. */
  value: T;
  /** The layer's own array, rewritten by each backward. */
  grad: T;
}

/** What backward needs of the last forward. Statistics and parameters are its own copies. */
interface Forward<T extends FloatArray> {
  /** undefined where the forward was in place. */
  x: T | undefined;
  /** Whether nobody else can take the memory of x away. */
  isOwn: boolean;
  shape: readonly number[];
  geometry: Geometry;
  /** Whether the statistics are those of x. */
  training: boolean;
  mean: Float64Array;
  variance: Float64Array;
  weight: T | undefined;
  bias: T | undefined;
  /** Whether there was one. */
  residual: boolean;
  /** What a ReLU behind it has let through. */
  mask: Uint8Array | undefined;
}

/** A forward that has been checked. */
interface ForwardCall<T extends FloatArray> {
  input: ReadTensor<T>;
  geometry: Geometry;
  /** Values per channel. */
  count: number;
  /** Whether the layer was in training mode. */
  training: boolean;
  /** Whether the statistics are those of x. */
  batchStats: boolean;
  updateStats: boolean;
  residual: T | undefined;
  out: T | undefined;
}

/** A backward that has been checked as far as it can be without the forward. */
interface BackwardCall<T extends FloatArray> {
  gradient: ReadTensor<T>;
  out: T | undefined;
  wantsInput: boolean;
  wantsParameters: boolean;
}

const { hasOwn } = Object;

/** For passes that compute at once, which need no slot. */
const atOnce: Slot = -1;

const forwardNames = namesOf(['out', 'updateStats', 'residual'], areCallsUntouched);
const forwardAsyncNames = namesOf(
  ['out', 'updateStats', 'residual', 'signal', 'transfer'],
  areCallsUntouched,
);
const backwardNames = namesOf(['out', 'only'], areCallsUntouched);
const backwardAsyncNames = namesOf(['out', 'only', 'signal', 'transfer'], areCallsUntouched);
const freezeNames = namesOf(['activation']);

/** Not by `then`, which somebody may have replaced: what follows each other here must. */
async function startAfter<R>(before: Promise<void>, start: () => Promise<R>): Promise<R> {
  await before;
  return start();
}

/** Never rejects. */
async function bothSettled(
  before: Promise<unknown> | undefined,
  call: Promise<unknown>,
  then: () => void,
): Promise<void> {
  try {
    await before;
    await call;
  } catch {
    // Whoever has made the call hears of it.
  }
  then();
}

/** Those that exist and were asked for. */
function gradientsOf<T extends FloatArray>(
  shape: readonly number[],
  dx: T | undefined,
  dWeight: T | undefined,
  dBias: T | undefined,
  dResidual: T | undefined,
): LayerGradients<T> {
  // What nearly everybody asks for, as a literal: spreads cost as much as a small batch norm, and an assignment would be the
  // business of a setter that somebody has put on Object.prototype.
  if (dx && dWeight && dBias && !dResidual) return { dx: { data: dx, shape }, dWeight, dBias };
  return {
    ...(dx && { dx: { data: dx, shape } }),
    ...(dWeight && { dWeight }),
    ...(dBias && { dBias }),
    ...(dResidual && { dResidual: { data: dResidual, shape } }),
  };
}

/** Where results go that were given no place: to new memory, or with `reuse` to a buffer that is kept for the next. */
class ResultBuffer<T extends FloatArray> {
  readonly #reuse: boolean;
  #buffer: T | undefined;

  constructor(reuse: boolean) {
    this.#reuse = reuse;
  }

  /** Never memory of the inputs: a result of this layer may come back as its input. */
  take(dtype: DType, length: number, input: T, second?: T, third?: T): T {
    if (!this.#reuse) return newResult(dtype, length);
    let buffer = this.#buffer;
    if (
      buffer === undefined ||
      lengthOf(buffer) < length ||
      shareBuffer(buffer, input) ||
      (second !== undefined && shareBuffer(buffer, second)) ||
      (third !== undefined && shareBuffer(buffer, third))
    ) {
      buffer = newResult<T>(dtype, length);
      this.#buffer = buffer;
    }
    return lengthOf(buffer) === length ? buffer : partOf(buffer, dtype, 0, length);
  }
}

function parameter<T extends FloatArray>(
  name: Parameter<T>['name'],
  value: T | null,
  grad: T | undefined,
): Parameter<T> | undefined {
  return value && grad ? { name, value, grad } : undefined;
}

/** A copy of what there is. */
function copied<T extends FloatArray>(array: T | null | undefined): T | undefined {
  return array ? copyOf(array) : undefined;
}

function copiedMask(mask: Uint8Array | undefined): Uint8Array | undefined {
  if (mask === undefined) return undefined;
  const copy = newBytes(lengthOf(mask));
  copyInto(copy, mask);
  return copy;
}

function copyIfBoth(target: FloatArray | null | undefined, source: FloatArray | null | undefined): void {
  if (target && source) copyInto(target, source);
}

/**
 * A batch normalization layer: y = (x − mean) / √(variance + eps) · weight + bias per channel, with the statistics of
 * the batch in training and the running statistics in evaluation (Ioffe and Szegedy, "Batch Normalization", 2015).
 *
 * A new layer is in training mode.
 *
 * @typeParam D the dtype of x, y, weight, bias and their gradients; statistics are always in double.
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
  readonly #dResidual: ResultBuffer<ArrayOf<D>>;
  #training = true;
  #batchesTracked = 0;
  #rejectedUpdates = 0;
  /** With decay 'cumulative': how many batches the running statistics of each channel are the mean of. */
  readonly #accepted: Float64Array | undefined;

  #last: Forward<ArrayOf<D>> | undefined;
  readonly #lastMean: Float64Array;
  readonly #lastVariance: Float64Array;
  readonly #lastWeight: ArrayOf<D> | undefined;
  readonly #lastBias: ArrayOf<D> | undefined;
  #lastMask: Uint8Array | undefined;
  /** Settled when all asynchronous calls are; undefined where there are none. */
  #calls: Promise<unknown> | undefined;

  /** The layer's gradients by the names that messages give them. */
  readonly #grads: NamedArrays;
  /** All its arrays, which a result must not overlap. */
  readonly #arrays: NamedArrays;

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
    const { dtype, weight, bias, decay, trackRunningStats, reuse } = this.#config;
    this.#passes = passesFor(dtype);
    this.#y = new ResultBuffer(reuse);
    this.#dx = new ResultBuffer(reuse);
    this.#dResidual = new ResultBuffer(reuse);
    this.#weight = weight ? filled(newArray<ArrayOf<D>>(dtype, channels), 1) : null;
    this.#bias = bias ? newArray<ArrayOf<D>>(dtype, channels) : null;
    this.#runningMean = trackRunningStats ? newArray<Float64Array>('float64', channels) : null;
    this.#runningVar = trackRunningStats ? filled(newArray<Float64Array>('float64', channels), 1) : null;
    this.#accepted = trackRunningStats && decay === 'cumulative' ? newArray('float64', channels) : undefined;
    this.#weightGrad = weight ? newArray(dtype, channels) : undefined;
    this.#biasGrad = bias ? newArray(dtype, channels) : undefined;
    this.#lastMean = newArray('float64', channels);
    this.#lastVariance = newArray('float64', channels);
    this.#lastWeight = weight ? newArray(dtype, channels) : undefined;
    this.#lastBias = bias ? newArray(dtype, channels) : undefined;
    this.#grads = { 'the gradient of weight': this.#weightGrad, 'the gradient of bias': this.#biasGrad };
    this.#arrays = {
      weight: this.#weight,
      bias: this.#bias,
      runningMean: this.#runningMean,
      runningVar: this.#runningVar,
      ...this.#grads,
    };
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

  /** Training batches whose statistics were offered to the running ones; 2^53 − 1 at most. */
  get batchesTracked(): number {
    return this.#batchesTracked;
  }

  /** Updates of a channel's running statistics that were left out because they would not have been finite. */
  get rejectedUpdates(): number {
    return this.#rejectedUpdates;
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
    this.#training = checkBoolean('mode', mode);
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
   * update the running ones; in evaluation, with the running ones. The layer keeps a reference to x for {@link backward},
   * and of a residual behind which there is an activation one bit per value.
   *
   * An empty x gives an empty y and changes no state. A channel whose batch mean or variance is not finite shows it in
   * y, leaves its running statistics alone and counts in {@link rejectedUpdates}.
   *
   * @param x of the layer's dtype, with `channels` at the channel axis, of any rank that has it.
   * @param options `out` to write to memory that is there already, `residual` to add a tensor on the way, `updateStats`.
   * @returns y in the dtype and shape of x.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, RangeError
   *   (`ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL`) for training with one value per channel, Error
   *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer; then nothing is written and no state
   *   has changed.
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
    const call = this.#readForward(x, options, forwardNames);
    const { input, batchStats, residual, out } = call;
    const { dtype, reuse } = this.#config;
    const y = out ?? this.#y.take(dtype, input.size, input.data, residual);
    const weight = this.#weight ?? undefined;
    const bias = this.#bias ?? undefined;
    const mask = this.#maskFor(call, reuse);
    const mean = (!batchStats && this.#runningMean) || this.#lastMean;
    const variance = (!batchStats && this.#runningVar) || this.#lastVariance;
    const pass = batchStats ? this.#passes.forwardTraining : this.#passes.forwardInference;
    const inPlace = this.#runForward(
      pass,
      call.geometry,
      input.data,
      y,
      weight,
      bias,
      mean,
      variance,
      residual,
      mask,
      atOnce,
    );
    if (!batchStats) {
      copyInto(this.#lastMean, mean);
      copyInto(this.#lastVariance, variance);
    }
    copyIfBoth(this.#lastWeight, weight);
    copyIfBoth(this.#lastBias, bias);
    this.#complete(
      call,
      inPlace ? undefined : input.data,
      false,
      this.#lastMean,
      this.#lastVariance,
      this.#lastWeight,
      this.#lastBias,
      mask,
    );
    return { data: y, shape: input.shape };
  }

  /**
   * {@link forward} off the event loop, on the library's own threads. The asynchronous calls of a layer take effect one
   * after the other, in the order of the calls: a `backwardAsync` goes back through the forward before it. A call that is
   * rejected has never been: a `backwardAsync` behind it goes back through the forward before that. Mode and
   * parameters are those of the moment of the call. The synchronous methods wait for nothing: they see the layer as the
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
   *   `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`,
   *   `ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`,
   *   `ERR_BATCHNORM_NOT_TRANSFERABLE`, `ERR_BATCHNORM_BUFFER_CHANGED`.
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
    const { signal, transfer } = readAsync(options);
    const call = this.#readForward(x, options, forwardAsyncNames);
    const { input, batchStats, out } = call;
    const { dtype } = this.#config;
    if (out !== undefined) {
      isInPlace(out, 'x.data', input.data);
      if (call.residual) checkApart('out', out, { 'residual.data': call.residual });
      if (transfer && shareBuffer(out, input.data))
        throw rangeError(
          'out',
          'lie elsewhere than x.data with transfer: true',
          'the same buffer',
          'OVERLAP',
        );
    }
    if (transfer) checkElsewhere('x.data', input.data, this.#arrays);
    this.#checkOwn();
    const residual = call.residual && stage(call.residual, dtype);
    const given = transfer ? input.data : stage(input.data, dtype);
    const weight = copied(this.#weight);
    const bias = copied(this.#bias);
    return this.#inTurn(signal, async () => {
      checkKept('x.data', given, input.size);
      let source = given;
      const target = out !== undefined && isShared(out) ? out : newResult<ArrayOf<D>>(dtype, input.size);
      const mask = this.#maskFor(call, false);
      const statistics = (running: Float64Array | null) =>
        batchStats || running === null ? newArray<Float64Array>('float64', this.#channels) : copyOf(running);
      const mean = statistics(this.#runningMean);
      const variance = statistics(this.#runningVar);
      const pass = batchStats ? this.#passes.forwardTrainingLater : this.#passes.forwardInferenceLater;
      let inPlace = false;
      return operate(
        signal,
        (slot) => {
          if (transfer) source = move('x.data', given, dtype);
          inPlace = this.#runForward(
            pass,
            call.geometry,
            source,
            target,
            weight,
            bias,
            mean,
            variance,
            residual,
            mask,
            slot,
          );
          return [source, target, weight, bias, mean, variance, residual, mask];
        },
        () => {
          this.#checkOwn();
          const data = out === undefined ? target : deliver(target, out);
          unstage(residual);
          // The x before was a copy of ours that nobody else has seen, and nothing is on its way that reads it.
          if (this.#last?.isOwn) unstage(this.#last.x);
          const x = inPlace ? undefined : source;
          this.#complete(call, x, true, mean, variance, weight, bias, mask);
          return { data, shape: input.shape };
        },
      );
    });
  }

  /**
   * The gradients of the last forward, with the weight and the statistics it used.
   *
   * @param dy the gradient of y, in its dtype and shape.
   * @param options `out` for dx, and `only` for half of the work.
   * @returns dx in the dtype and shape of dy; dWeight and dBias, one value per channel, whose values are also in
   *   {@link parameters}. With `reuse` all of them are the layer's own arrays.
   * @throws Error (`ERR_BATCHNORM_NO_FORWARD`) where there is no forward to go back through, Error
   *   (`ERR_BATCHNORM_INPUT_OVERWRITTEN`) where it wrote y over x; TypeError (`ERR_BATCHNORM_INVALID_TYPE`,
   *   `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`,
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit; Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the
   *   layer has lost its buffer; then nothing is written.
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
    const call = this.#readBackward(dy, options, backwardNames);
    const last = this.#lastFor(call);
    const { gradient, out, wantsInput, wantsParameters } = call;
    const { dtype, reuse } = this.#config;
    checkLength(gradient);
    // The gradients of the parameters are written before dx is.
    checkApart('dy.data', gradient.data, this.#grads);
    checkApart('x.data', last.x, this.#grads);
    const dx = wantsInput ? (out ?? this.#dx.take(dtype, gradient.size, gradient.data, last.x)) : undefined;
    const dWeight = wantsParameters ? this.#weightGrad : undefined;
    const dBias = wantsParameters ? this.#biasGrad : undefined;
    const dResidual =
      wantsInput && last.residual
        ? this.#dResidual.take(dtype, gradient.size, gradient.data, last.x, out)
        : undefined;
    const { backward } = this.#passes;
    this.#runBackward(backward, last, gradient.data, last.x, dx, dWeight, dBias, dResidual, atOnce);
    const own = (grad: ArrayOf<D> | undefined) => (reuse ? grad : copied(grad));
    return gradientsOf(gradient.shape, dx, own(dWeight), own(dBias), dResidual);
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
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_NOT_TRANSFERABLE`, `ERR_BATCHNORM_BUFFER_CHANGED`.
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
    const { signal, transfer } = readAsync(options);
    const { dtype, reuse } = this.#config;
    const call = this.#readBackward(dy, options, backwardAsyncNames);
    const { out, wantsInput, wantsParameters } = call;
    const { data, size, shape } = call.gradient;
    checkLength(call.gradient);
    if (transfer && out !== undefined) throw typeError('out', 'be left out with transfer: true', out);
    if (out !== undefined) {
      checkOut(out, call.gradient);
      isInPlace(out, 'dy.data', data);
    }
    if (transfer) checkElsewhere('dy.data', data, this.#arrays);
    const kept = transfer ? data : stage(data, dtype);
    return this.#inTurn(signal, async () => {
      checkKept('dy.data', kept, size);
      if (out !== undefined) checkKept('out', out, size);
      const last = this.#lastFor(call);
      this.#checkOwn();
      // x is copied, but the next backward needs it again.
      if (out !== undefined) checkApart('out', out, { 'x.data': last.x });
      const x = last.isOwn ? last.x : stage(last.x, dtype);
      let gradient = kept;
      const inPlace = transfer || (kept !== data && !isStaged(dtype, size));
      let target = !wantsInput
        ? undefined
        : out !== undefined && isShared(out)
          ? out
          : inPlace
            ? gradient
            : newResult<ArrayOf<D>>(dtype, size);
      const dWeight = wantsParameters ? copied(this.#weightGrad) : undefined;
      const dBias = wantsParameters ? copied(this.#biasGrad) : undefined;
      const dResidual = wantsInput && last.residual ? newResult<ArrayOf<D>>(dtype, size) : undefined;
      // A synchronous forward may write to these while the operation is on its way.
      const snapshot = {
        ...last,
        mean: copyOf(last.mean),
        variance: copyOf(last.variance),
        weight: copied(last.weight),
        bias: copied(last.bias),
        mask: reuse ? copiedMask(last.mask) : last.mask,
      };
      return operate(
        signal,
        (slot) => {
          // x may have lain in its buffer, until it was copied.
          if (transfer) gradient = move('dy.data', kept, dtype);
          if (transfer && wantsInput) target = gradient;
          const { backwardLater } = this.#passes;
          this.#runBackward(backwardLater, snapshot, gradient, x, target, dWeight, dBias, dResidual, slot);
          return [gradient, x, target, dWeight, dBias, dResidual, snapshot];
        },
        () => {
          this.#checkOwn();
          const dx = target && out !== undefined ? deliver(target, out) : target;
          if (gradient !== dx) unstage(gradient);
          if (!last.isOwn) unstage(x);
          copyIfBoth(this.#weightGrad, dWeight);
          copyIfBoth(this.#biasGrad, dBias);
          return gradientsOf(shape, dx, dWeight, dBias, dResidual);
        },
      );
    });
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
  parameters(): Parameter<ArrayOf<D>>[] {
    const weight = parameter('weight', this.#weight, this.#weightGrad);
    const bias = parameter('bias', this.#bias, this.#biasGrad);
    // Literals: what is pushed can be caught by a setter on Array.prototype.
    if (weight && bias) return [weight, bias];
    return weight ? [weight] : bias ? [bias] : [];
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
    this.#checkOwn();
    const weight = this.#weight;
    const bias = this.#bias;
    const runningMean = this.#runningMean;
    const runningVar = this.#runningVar;
    return {
      ...(weight && { weight: copyOf(weight) }),
      ...(bias && { bias: copyOf(bias) }),
      ...(runningMean && { running_mean: copyOf(runningMean) }),
      ...(runningVar && { running_var: copyOf(runningVar), num_batches_tracked: this.#batchesTracked }),
    };
  }

  /**
   * Copies a state into the layer's arrays. It must have what {@link stateDict} gives, and nothing else; only
   * num_batches_tracked may be absent (0). With decay 'cumulative' that is then the number of batches of every channel: a state
   * does not say which of them have rejected some.
   *
   * @param state is copied; its arrays may be of either dtype.
   * @returns the layer itself.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`) naming the entry that does not fit, Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an
   *   array of the layer has lost its buffer; then nothing has changed.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const trained = new BatchNorm(3);
   * const copy = new BatchNorm(3).loadStateDict(trained.stateDict());
   * console.log(copy.weight); // Float32Array(3) [ 1, 1, 1 ]
   */
  loadStateDict(state: StateDict): this {
    const { weight, bias, trackRunningStats } = this.#config;
    const read = readState(state, this.#channels, { weight, bias, stats: trackRunningStats });
    this.#checkOwn();
    copyIfBoth(this.#weight, read.weight);
    copyIfBoth(this.#bias, read.bias);
    copyIfBoth(this.#runningMean, read.running_mean);
    copyIfBoth(this.#runningVar, read.running_var);
    this.#batchesTracked = read.num_batches_tracked ?? 0;
    if (this.#accepted)
      for (let channel = 0; channel < this.#channels; channel++)
        this.#accepted[channel] = this.#batchesTracked;
    return this;
  }

  /**
   * Forgets the last x, to which the layer holds a reference; of {@link forwardAsync} it has a copy of its own.
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
    this.#last = undefined;
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
    const runningMean = this.#runningMean;
    const runningVar = this.#runningVar;
    if (runningMean === null || runningVar === null)
      throw stateError(
        'NO_RUNNING_STATS',
        'freeze() must have running statistics, got trackRunningStats: false',
      );
    this.#checkOwn();
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
      activation,
    });
  }

  #readForward(
    x: TensorLike<ArrayOf<D>>,
    options: ForwardOptions<ArrayOf<D>> | undefined,
    names: Names,
  ): ForwardCall<ArrayOf<D>> {
    const { out, updateStats = true, residual: givenResidual } = readOptions(options, names);
    const { axis, dtype } = this.#config;
    const runningMean = this.#runningMean;
    const runningVar = this.#runningVar;
    const training = this.#training;
    checkBoolean('updateStats', updateStats);
    const input = readShape<ArrayOf<D>>('x', x, dtype);
    const geometry = geometryOf(input, axis, this.#channels);
    const { outer, channels, inner } = geometry;
    const count = outer * inner;
    const batchStats = training || runningMean === null || runningVar === null;
    if (batchStats && count === 1) throw oneValuePerChannelError(input.shape, training);
    if (runningMean !== null) checkPerChannel('runningMean', runningMean, channels);
    if (runningVar !== null)
      (batchStats ? checkPerChannel : checkVariance)('runningVar', runningVar, channels);
    const residual = givenResidual === undefined ? undefined : readResidual(givenResidual, input);
    checkLength(input);
    if (residual !== undefined) checkLength(residual);
    if (out !== undefined) {
      checkOut(out, input);
      checkApart('out', out, this.#arrays);
    }
    return { input, geometry, count, training, batchStats, updateStats, residual: residual?.data, out };
  }

  /** The mask that a forward fills: of a residual alone everything passes, without one backward sees x. */
  #maskFor({ input, residual }: ForwardCall<ArrayOf<D>>, reuse: boolean): Uint8Array | undefined {
    if (residual === undefined || this.#config.activation === undefined) return undefined;
    const bytes = maskBytes(input.size);
    if (reuse && this.#lastMask && lengthOf(this.#lastMask) === bytes) return this.#lastMask;
    const mask = newBytes(bytes);
    if (reuse) this.#lastMask = mask;
    return mask;
  }

  /** A forward has been computed: what it leaves behind. */
  #complete(
    { input, geometry, count, training, batchStats, updateStats, residual }: ForwardCall<ArrayOf<D>>,
    x: ArrayOf<D> | undefined,
    isOwn: boolean,
    mean: Float64Array,
    variance: Float64Array,
    weight: ArrayOf<D> | undefined,
    bias: ArrayOf<D> | undefined,
    mask: Uint8Array | undefined,
  ): void {
    this.#last = {
      x,
      isOwn,
      shape: input.shape,
      geometry,
      training: batchStats,
      mean,
      variance,
      weight,
      bias,
      residual: residual !== undefined,
      mask,
    };
    if (training && updateStats && count > 0) this.#updateRunningStats(count, mean, variance);
  }

  /** All of it is checked but what hangs on the forward, and the length of dy. */
  #readBackward(
    dy: TensorLike<ArrayOf<D>>,
    options: LayerBackwardOptions<ArrayOf<D>> | undefined,
    names: Names,
  ): BackwardCall<ArrayOf<D>> {
    const { out, only } = readOptions(options, names);
    if (only !== undefined) checkOneOf('only', only, ['input', 'parameters']);
    if (only === 'parameters' && out !== undefined)
      throw typeError('out', "be left out with only: 'parameters'", out);
    const gradient = readShape<ArrayOf<D>>('dy', dy, this.#config.dtype);
    return { gradient, out, wantsInput: only !== 'parameters', wantsParameters: only !== 'input' };
  }

  /** The forward that a backward goes back through; what hangs on it has been checked. */
  #lastFor({ gradient, out }: BackwardCall<ArrayOf<D>>): Forward<ArrayOf<D>> & { x: ArrayOf<D> } {
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
    checkLength({ ...gradient, name: 'x', data: last.x });
    if (out !== undefined) {
      checkOut(out, gradient);
      checkApart('out', out, this.#arrays);
    }
    return last as Forward<ArrayOf<D>> & { x: ArrayOf<D> };
  }

  #runForward(
    pass: Later<Passes<ArrayOf<D>>['forwardTraining']>,
    { outer, channels, inner }: Geometry,
    x: ArrayOf<D>,
    y: ArrayOf<D>,
    weight: ArrayOf<D> | undefined,
    bias: ArrayOf<D> | undefined,
    mean: Float64Array,
    variance: Float64Array,
    residual: ArrayOf<D> | undefined,
    mask: Uint8Array | undefined,
    slot: Slot,
  ): boolean {
    const { eps, activation } = this.#config;
    const relu = activation !== undefined;
    return pass(outer, channels, inner, eps, x, y, weight, bias, mean, variance, relu, residual, mask, slot);
  }

  #runBackward(
    pass: Later<Passes<ArrayOf<D>>['backward']>,
    { geometry, training, mean, variance, weight, bias, mask }: Forward<ArrayOf<D>>,
    dy: ArrayOf<D>,
    x: ArrayOf<D>,
    dx: ArrayOf<D> | undefined,
    dWeight: ArrayOf<D> | undefined,
    dBias: ArrayOf<D> | undefined,
    dResidual: ArrayOf<D> | undefined,
    slot: Slot,
  ): void {
    const { outer, channels, inner } = geometry;
    const { eps, activation } = this.#config;
    pass(
      outer,
      channels,
      inner,
      eps,
      training,
      dy,
      x,
      mean,
      variance,
      weight,
      bias,
      activation !== undefined,
      undefined,
      mask,
      dx,
      dWeight,
      dBias,
      dResidual,
      slot,
    );
  }

  /** The caller may have detached them. */
  #checkOwn(): void {
    for (const name in this.#arrays) {
      // What somebody has added to Object.prototype is no array.
      const array = hasOwn(this.#arrays, name) ? this.#arrays[name] : undefined;
      if (array) checkKept(name, array, this.#channels);
    }
  }

  /** Starts when all asynchronous calls before have settled: at once where there are none. */
  #inTurn<R>(signal: AbortSignal | undefined, start: () => Promise<R>): Promise<R> {
    const before = this.#calls;
    const call = before === undefined ? start() : startAfter(after(before, signal), start);
    const settled = bothSettled(before, call, () => {
      if (this.#calls === settled) this.#calls = undefined;
    });
    this.#calls = settled;
    return call;
  }

  #updateRunningStats(count: number, mean: Float64Array, variance: Float64Array): void {
    const runningMean = this.#runningMean;
    const runningVar = this.#runningVar;
    if (runningMean === null || runningVar === null) return;
    const { decay, unbiasedRunningVar } = this.#config;
    this.#rejectedUpdates += backend.updateRunningStats(
      mean,
      variance,
      this.#channels,
      count,
      decay === 'cumulative' ? 0 : decay,
      unbiasedRunningVar,
      runningMean,
      runningVar,
      this.#accepted,
    );
    // What a state may hold.
    this.#batchesTracked = Math.min(this.#batchesTracked + 1, Number.MAX_SAFE_INTEGER);
  }
}
