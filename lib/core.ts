// What layers that normalize by the statistics of channels share: parameters with their gradients, and forward and backward,
// at once or off the event loop, with what a forward leaves to its backward. A layer adds where its statistics come from.
import type { Activation } from './activation.js';
import { type BackwardPass, type ForwardPass, maskBytes, type Passes } from './backend/backend.js';
import { passesFor } from './backend/index.js';
import { isObject, oneValuePerChannelError, rangeError, stateError, typeError } from './errors.js';
import { checkKept, deliver, isShared, move } from './handover.js';
import { after, operate, readAsync, settled } from './operations.js';
import {
  type Forward,
  fingerprintOf,
  type Held,
  HeldSets,
  marked,
  matches,
  noteReuse,
  type Pending,
  pendingOf,
  type Result,
  resultOf,
} from './pending.js';
import { areCallsUntouched, type Names, namesOf } from './properties.js';
import { newResult } from './result.js';
import type { RunningStatistics } from './running.js';
import { isStaged, stage, unstage } from './staging.js';
import { copyInto, filled, lengthOf, partOf, shareBuffer } from './typed-array.js';
import type { ArrayOf, DType, FloatArray, Tensor, TensorLike } from './types.js';
import {
  checkApart,
  checkBoolean,
  checkElsewhere,
  checkLength,
  checkOneOf,
  checkOut,
  checkSameShape,
  checkVariance,
  copyOf,
  type Geometry,
  geometryOf,
  isInPlace,
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
  /** The tensor that the forward returned which is to be gone back through. Default: the last one of the present mode. */
  of?: Tensor<T>;
  /** true: add to the gradients of {@link BatchNorm.parameters} instead of rewriting them. Default false. */
  accumulate?: boolean;
  /** true: leave the forward to be gone back through again, as PyTorch's retain_graph. Default false. */
  retain?: boolean;
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
  /** The layer's own array, rewritten by each backward, or added to with `accumulate`. */
  grad: T;
}

/** Of a layer's options, what its passes need. */
export interface CoreConfig<D extends DType> {
  readonly axis: number;
  readonly eps: number;
  readonly dtype: D;
  readonly weight: boolean;
  readonly bias: boolean;
  readonly activation: Activation | undefined;
  readonly reuse: boolean;
  readonly singleValue: SingleValue;
}

/** What a training batch with one value per channel is: an error, or normalized with the running statistics. */
export type SingleValue = 'throw' | 'running';

/** A forward whose arguments have been checked. */
interface ForwardCall<T extends FloatArray> {
  readonly input: ReadTensor<T>;
  readonly geometry: Geometry;
  /** Whether the statistics are those of x. */
  readonly batchStats: boolean;
  /** Whether they go into the running ones. */
  readonly updates: boolean;
  readonly residual: T | undefined;
  readonly out: T | undefined;
  /** Of an x that a layer with `reuse` has returned. */
  readonly source: Result | undefined;
}

/** A backward whose arguments have been checked as far as they can be without the forward. */
interface BackwardCall<T extends FloatArray> {
  readonly gradient: ReadTensor<T>;
  readonly out: T | undefined;
  readonly wantsInput: boolean;
  readonly wantsParameters: boolean;
  /** Of `of`. */
  readonly pending: Pending<T> | undefined;
  readonly accumulate: boolean;
  readonly retain: boolean;
}

/** A forward that can be gone back through. */
type Known<T extends FloatArray> = Forward<T> & { x: T };

const { hasOwn } = Object;

const forwardNames = namesOf(['out', 'updateStats', 'residual'], areCallsUntouched);
const forwardAsyncNames = namesOf(
  ['out', 'updateStats', 'residual', 'signal', 'transfer'],
  areCallsUntouched,
);
const backwardNames = namesOf(['out', 'only', 'of', 'accumulate', 'retain'], areCallsUntouched);
const backwardAsyncNames = namesOf(
  ['out', 'only', 'of', 'accumulate', 'retain', 'signal', 'transfer'],
  areCallsUntouched,
);

/** Not by `then`, which somebody may have replaced: what follows each other here must. */
async function startAfter<R>(before: Promise<void>, start: () => Promise<R>): Promise<R> {
  await before;
  return start();
}

/** Calls `then` when both are settled: what a signal has cancelled is so before what it waited for. */
async function settledAfter(
  before: Promise<void> | undefined,
  call: Promise<unknown>,
  then: () => void,
): Promise<void> {
  await before;
  await settled(call, then);
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
  /** How many results have been in the memory. */
  turn = 0;
  readonly #reuse: boolean;
  #buffer: T | undefined;

  constructor(reuse: boolean) {
    this.#reuse = reuse;
  }

  /** Never memory of the inputs: a result of this layer may come back as its input. */
  take(dtype: DType, length: number, input: T, second?: T, third?: T): T {
    if (!this.#reuse) return newResult(dtype, length);
    this.turn++;
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

/** A copy of what there is. */
function copied<T extends FloatArray>(array: T | undefined): T | undefined {
  return array && copyOf(array);
}

/** What is missing in one is missing in the other. */
function copyThere(target: FloatArray | undefined, source: FloatArray | undefined): void {
  if (target && source) copyInto(target, source);
}

/** See the top of the file. Its methods are those of the layer, which documents them. */
export class LayerCore<D extends DType> {
  readonly weight: ArrayOf<D> | undefined;
  readonly bias: ArrayOf<D> | undefined;
  readonly weightGrad: ArrayOf<D> | undefined;
  readonly biasGrad: ArrayOf<D> | undefined;
  /** Whether forward uses the statistics of the batch, and updates the running ones. */
  training = true;
  readonly #channels: number;
  readonly #config: CoreConfig<D>;
  readonly #running: RunningStatistics | undefined;
  readonly #passes: Passes<ArrayOf<D>>;
  readonly #y: ResultBuffer<ArrayOf<D>>;
  readonly #dx: ResultBuffer<ArrayOf<D>>;
  readonly #dResidual: ResultBuffer<ArrayOf<D>>;
  /** The layer's gradients by the names that messages give them. */
  readonly #grads: NamedArrays;
  /** All its arrays, which a result must not overlap. */
  readonly #arrays: NamedArrays;
  /** The last forwards that are done, in training and in evaluation. */
  #lastTraining: Pending<ArrayOf<D>> | undefined;
  #lastEvaluation: Pending<ArrayOf<D>> | undefined;
  /** Those that were called last, done or not. */
  #calledTraining: Pending<ArrayOf<D>> | undefined;
  #calledEvaluation: Pending<ArrayOf<D>> | undefined;
  #order = 0;
  /** Forwards from before the last one are gone. */
  #clears = 0;
  readonly #sets: HeldSets<ArrayOf<D>>;
  /** The statistics of the last training batch, and how many values per channel it had. */
  #moments: Held<ArrayOf<D>> | undefined;
  #momentsCount = 0;
  #mask: Uint8Array | undefined;
  /** Where the gradients of one backward go that are added to others, with `reuse`. */
  #own: { weight: ArrayOf<D> | undefined; bias: ArrayOf<D> | undefined } | undefined;
  /** Settled when all asynchronous calls are; undefined where there are none. */
  #calls: Promise<void> | undefined;

  /** @param running of evaluation; undefined where the statistics are always those of the batch. */
  constructor(channels: number, config: CoreConfig<D>, running: RunningStatistics | undefined) {
    const { dtype, weight, bias, reuse } = config;
    this.#channels = channels;
    this.#config = config;
    this.#running = running;
    this.#passes = passesFor(dtype);
    this.#y = new ResultBuffer(reuse);
    if (reuse) noteReuse();
    this.#dx = new ResultBuffer(reuse);
    this.#dResidual = new ResultBuffer(reuse);
    this.weight = weight ? filled(newArray<ArrayOf<D>>(dtype, channels), 1) : undefined;
    this.bias = bias ? newArray(dtype, channels) : undefined;
    this.weightGrad = weight ? newArray(dtype, channels) : undefined;
    this.biasGrad = bias ? newArray(dtype, channels) : undefined;
    this.#sets = new HeldSets(dtype, channels, weight, bias);
    // Before anything is computed, where memory may be lacking.
    this.#release(this.#sets.make());
    this.#release(this.#sets.make());
    this.#grads = { 'the gradient of weight': this.weightGrad, 'the gradient of bias': this.biasGrad };
    this.#arrays = {
      weight: this.weight,
      bias: this.bias,
      runningMean: running?.mean,
      runningVar: running?.variance,
      ...this.#grads,
    };
  }

  forward(x: TensorLike<ArrayOf<D>>, options?: ForwardOptions<ArrayOf<D>>): Tensor<ArrayOf<D>> {
    const call = this.#readForward(x, options, forwardNames);
    const { input, residual, out } = call;
    const y = out ?? this.#y.take(this.#config.dtype, input.size, input.data, residual);
    const result = out === undefined ? this.#resultNow() : undefined;
    const held = this.#hold(call);
    const forward = this.#forwardOf(call, input.data, false, held);
    const pass = this.#forwardPass(forward, y, residual);
    const { forwardTraining, forwardInference } = this.#passes;
    const inPlace = call.batchStats ? forwardTraining(pass) : forwardInference(pass);
    const pending = this.#newPending();
    this.#complete(call, pending, forward, inPlace);
    return marked({ data: y, shape: input.shape }, pending, result);
  }

  async forwardAsync(
    x: TensorLike<ArrayOf<D>>,
    options?: ForwardOptions<ArrayOf<D>> & AsyncOptions,
  ): Promise<Tensor<ArrayOf<D>>> {
    // From its call on, so that a backward that is called next goes through this one or through none.
    const pending = this.#newPending();
    this.#called(pending);
    try {
      return await this.#forwardLater(x, options, pending);
    } catch (error) {
      pending.state = 'failed';
      pending.cause = error;
      throw error;
    }
  }

  async #forwardLater(
    x: TensorLike<ArrayOf<D>>,
    options: (ForwardOptions<ArrayOf<D>> & AsyncOptions) | undefined,
    pending: Pending<ArrayOf<D>>,
  ): Promise<Tensor<ArrayOf<D>>> {
    const { signal, transfer } = readAsync(options);
    const call = this.#readForward(x, options, forwardAsyncNames);
    const { input, out } = call;
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
    this.checkOwn();
    const residual = call.residual && stage(call.residual, dtype);
    const given = transfer ? input.data : stage(input.data, dtype);
    const held = this.#sets.make();
    this.#holdParameters(held);
    return this.#inTurn(signal, async () => {
      checkKept('x.data', given, input.size);
      const y = out !== undefined && isShared(out) ? out : newResult<ArrayOf<D>>(dtype, input.size);
      this.#holdStatistics(held, call);
      const forward = this.#forwardOf(call, given, true, held);
      const { forwardTrainingLater, forwardInferenceLater } = this.#passes;
      const compute = call.batchStats ? forwardTrainingLater : forwardInferenceLater;
      let inPlace = false;
      return operate(
        signal,
        (slot) => {
          if (transfer) forward.x = move('x.data', given, dtype);
          inPlace = compute(this.#forwardPass(forward, y, residual), slot);
          return [forward, y, residual];
        },
        () => {
          this.checkOwn();
          const data = out === undefined ? y : deliver(y, out);
          unstage(residual);
          this.#complete(call, pending, forward, inPlace);
          return marked({ data, shape: input.shape }, pending, undefined);
        },
      );
    });
  }

  backward(
    dy: TensorLike<ArrayOf<D>>,
    options?: LayerBackwardOptions<ArrayOf<D>>,
  ): LayerGradients<ArrayOf<D>> {
    const call = this.#readBackward(dy, options, backwardNames);
    const last = this.training ? this.#lastTraining : this.#lastEvaluation;
    const pending = this.#checkPending(call.pending ?? last, call);
    const forward = this.#checkForward(pending, call);
    const { gradient, out, wantsInput, wantsParameters, accumulate } = call;
    const { data, size, shape } = gradient;
    const { dtype, reuse } = this.#config;
    checkLength(gradient);
    // The gradients of the parameters are written before dx is.
    checkApart('dy.data', data, this.#grads);
    checkApart('x.data', forward.x, this.#grads);
    if (accumulate) this.checkOwn();
    const dx = wantsInput ? (out ?? this.#dx.take(dtype, size, data, forward.x)) : undefined;
    const own = accumulate ? this.#ownGradients() : { weight: this.weightGrad, bias: this.biasGrad };
    const dWeight = wantsParameters ? own.weight : undefined;
    const dBias = wantsParameters ? own.bias : undefined;
    const dResidual =
      wantsInput && forward.residual ? this.#dResidual.take(dtype, size, data, forward.x, out) : undefined;
    this.#passes.backward(this.#backwardPass(forward, data, forward.x, dx, dWeight, dBias, dResidual));
    if (accumulate) this.#accumulate(dWeight, dBias);
    this.#mark(pending, call);
    this.#letGo(pending);
    return reuse || accumulate
      ? gradientsOf(shape, dx, dWeight, dBias, dResidual)
      : gradientsOf(shape, dx, copied(dWeight), copied(dBias), dResidual);
  }

  async backwardAsync(
    dy: TensorLike<ArrayOf<D>>,
    options?: LayerBackwardOptions<ArrayOf<D>> & AsyncOptions,
  ): Promise<LayerGradients<ArrayOf<D>>> {
    // Before any getter of the options: the mode and the forward of this moment.
    const called = this.training ? this.#calledTraining : this.#calledEvaluation;
    const { signal, transfer } = readAsync(options);
    const { dtype } = this.#config;
    const call = this.#readBackward(dy, options, backwardAsyncNames);
    const { out, wantsInput, wantsParameters, accumulate } = call;
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
      const pending = this.#checkPending(call.pending ?? called, call);
      const forward = this.#checkForward(pending, call);
      this.checkOwn();
      // x is copied, but the next backward needs it again.
      if (out !== undefined) checkApart('out', out, { 'x.data': forward.x });
      const x = forward.isOwn ? forward.x : stage(forward.x, dtype);
      let gradient = kept;
      const inPlace = transfer || (kept !== data && !isStaged(dtype, size));
      let target = !wantsInput
        ? undefined
        : out !== undefined && isShared(out)
          ? out
          : inPlace
            ? gradient
            : newResult<ArrayOf<D>>(dtype, size);
      const dWeight = wantsParameters ? copied(this.weightGrad) : undefined;
      const dBias = wantsParameters ? copied(this.biasGrad) : undefined;
      const dResidual = wantsInput && forward.residual ? newResult<ArrayOf<D>>(dtype, size) : undefined;
      // At once: a synchronous backward may come meanwhile. What the forward holds stays until this is done.
      const { leavesInput, leavesParameters } = pending;
      this.#mark(pending, call);
      pending.busy++;
      try {
        return await operate(
          signal,
          (slot) => {
            // x may have lain in its buffer, until it was copied.
            if (transfer) gradient = move('dy.data', kept, dtype);
            if (transfer && wantsInput) target = gradient;
            this.#passes.backwardLater(
              this.#backwardPass(forward, gradient, x, target, dWeight, dBias, dResidual),
              slot,
            );
            return [gradient, x, target, dWeight, dBias, dResidual, forward];
          },
          () => {
            this.checkOwn();
            const dx = target && out !== undefined ? deliver(target, out) : target;
            if (gradient !== dx) unstage(gradient);
            if (!forward.isOwn) unstage(x);
            if (accumulate) this.#accumulate(dWeight, dBias);
            else {
              copyThere(this.weightGrad, dWeight);
              copyThere(this.biasGrad, dBias);
            }
            return gradientsOf(shape, dx, dWeight, dBias, dResidual);
          },
        );
      } catch (error) {
        pending.leavesInput ||= leavesInput;
        pending.leavesParameters ||= leavesParameters;
        throw error;
      } finally {
        pending.busy--;
        this.#letGo(pending);
      }
    });
  }

  clear(): void {
    this.#clears++;
    this.#forget(this.#lastTraining);
    this.#forget(this.#lastEvaluation);
    this.#forget(this.#calledTraining);
    this.#forget(this.#calledEvaluation);
  }

  zeroGrad(): void {
    this.checkOwn();
    if (this.weightGrad) filled(this.weightGrad, 0);
    if (this.biasGrad) filled(this.biasGrad, 0);
  }

  /** Copies of the statistics of the last training batch. */
  moments(): { count: number; mean: Float64Array; variance: Float64Array } | undefined {
    if (this.#moments === undefined) return undefined;
    const { mean, variance } = this.#moments;
    return { count: this.#momentsCount, mean: copyOf(mean), variance: copyOf(variance) };
  }

  /** The caller may have detached them. */
  checkOwn(): void {
    for (const name in this.#arrays) {
      // What somebody has added to Object.prototype is no array.
      const array = hasOwn(this.#arrays, name) ? this.#arrays[name] : undefined;
      if (array) checkKept(name, array, this.#channels);
    }
  }

  #readForward(
    x: TensorLike<ArrayOf<D>>,
    options: ForwardOptions<ArrayOf<D>> | undefined,
    names: Names,
  ): ForwardCall<ArrayOf<D>> {
    const { out, updateStats = true, residual: givenResidual } = readOptions(options, names);
    const { axis, dtype, singleValue } = this.#config;
    const running = this.#running;
    const { training } = this;
    checkBoolean('updateStats', updateStats);
    const input = readShape<ArrayOf<D>>('x', x, dtype);
    const geometry = geometryOf(input, axis, this.#channels);
    const { outer, channels, inner } = geometry;
    const count = outer * inner;
    const isSingle = count === 1 && singleValue === 'running';
    const batchStats = (training && !isSingle) || running === undefined;
    if (batchStats && count === 1) throw oneValuePerChannelError(input.shape, training);
    const residual = givenResidual === undefined ? undefined : readResidual(givenResidual, input);
    // No code of the caller's runs after this.
    if (running !== undefined) {
      this.#checkRunning(running);
      if (!batchStats) checkVariance('runningVar', running.variance, channels);
    }
    checkLength(input);
    if (residual !== undefined) checkLength(residual);
    if (out !== undefined) {
      checkOut(out, input);
      checkApart('out', out, this.#arrays);
    }
    const updates = training && batchStats && updateStats && count > 0;
    return { input, geometry, batchStats, updates, residual: residual?.data, out, source: resultOf(x) };
  }

  /** A set for a forward that computes at once. */
  #hold(call: ForwardCall<ArrayOf<D>>): Held<ArrayOf<D>> {
    const held = this.#sets.take();
    try {
      this.#holdParameters(held);
      this.#holdStatistics(held, call);
    } catch (error) {
      this.#release(held);
      throw error;
    }
    return held;
  }

  /** No forward needs it any more. */
  #release(held: Held<ArrayOf<D>>): void {
    held.isNeeded = false;
    if (held !== this.#moments) this.#sets.giveBack(held);
  }

  /** Which result is in the memory that is used again now. */
  #resultNow(): Result | undefined {
    return this.#config.reuse ? { of: this.#y, turn: this.#y.turn } : undefined;
  }

  #newPending(): Pending<ArrayOf<D>> {
    return {
      owner: this,
      order: ++this.#order,
      mode: this.training,
      state: 'waiting',
      cause: undefined,
      busy: 0,
      clears: this.#clears,
      leavesInput: true,
      leavesParameters: true,
      forward: undefined,
    };
  }

  #called(pending: Pending<ArrayOf<D>>): void {
    if (pending.mode) this.#calledTraining = pending;
    else this.#calledEvaluation = pending;
  }

  /** The caller may have taken the memory of the layer's own away. */
  #holdParameters({ weight, bias }: Held<ArrayOf<D>>): void {
    if (this.weight) checkKept('weight', this.weight, this.#channels);
    if (this.bias) checkKept('bias', this.bias, this.#channels);
    copyThere(weight, this.weight);
    copyThere(bias, this.bias);
  }

  #checkRunning({ mean, variance }: RunningStatistics): void {
    checkKept('runningMean', mean, this.#channels);
    checkKept('runningVar', variance, this.#channels);
  }

  /** Those of the batch are written by the pass. */
  #holdStatistics({ mean, variance }: Held<ArrayOf<D>>, { batchStats }: ForwardCall<ArrayOf<D>>): void {
    const running = this.#running;
    if (batchStats || running === undefined) return;
    this.#checkRunning(running);
    copyInto(mean, running.mean);
    copyInto(variance, running.variance);
  }

  #forwardOf(
    { input, geometry, batchStats, residual, source }: ForwardCall<ArrayOf<D>>,
    x: ArrayOf<D>,
    isOwn: boolean,
    held: Held<ArrayOf<D>>,
  ): Forward<ArrayOf<D>> {
    const mask = residual && this.#config.activation ? this.#maskFor(input.size, isOwn) : undefined;
    return {
      x,
      isOwn,
      fingerprint: isOwn && !isShared(x) ? undefined : fingerprintOf(x, input.size),
      source: isOwn ? undefined : source,
      shape: input.shape,
      geometry,
      training: batchStats,
      held,
      residual: residual !== undefined,
      mask,
    };
  }

  /** Of a residual alone everything passes, and without one backward sees x: only both together need it. */
  #maskFor(size: number, isOwn: boolean): Uint8Array {
    const bytes = maskBytes(size);
    const mask = this.#mask;
    if (isOwn || mask === undefined || lengthOf(mask) !== bytes) return newBytes(bytes);
    this.#mask = undefined;
    return mask;
  }

  /** A forward has been computed: what it leaves to backward. */
  #complete(
    { updates, geometry, batchStats }: ForwardCall<ArrayOf<D>>,
    pending: Pending<ArrayOf<D>>,
    forward: Forward<ArrayOf<D>>,
    inPlace: boolean,
  ): void {
    if (inPlace) forward.x = undefined;
    pending.forward = forward;
    pending.state = 'done';
    pending.clears = this.#clears;
    if (pending.mode) {
      if (pending.order >= (this.#lastTraining?.order ?? 0)) this.#lastTraining = pending;
      if (pending.order >= (this.#calledTraining?.order ?? 0)) this.#calledTraining = pending;
    } else {
      if (pending.order >= (this.#lastEvaluation?.order ?? 0)) this.#lastEvaluation = pending;
      if (pending.order >= (this.#calledEvaluation?.order ?? 0)) this.#calledEvaluation = pending;
    }
    const { mean, variance } = forward.held;
    const count = geometry.outer * geometry.inner;
    if (pending.mode && batchStats && count > 0) {
      const before = this.#moments;
      this.#moments = forward.held;
      this.#momentsCount = count;
      if (before !== undefined && !before.isNeeded) this.#release(before);
    }
    if (updates) this.#running?.update(count, mean, variance);
  }

  /** All of it is checked but what hangs on the forward, and the length of dy. */
  #readBackward(
    dy: TensorLike<ArrayOf<D>>,
    options: LayerBackwardOptions<ArrayOf<D>> | undefined,
    names: Names,
  ): BackwardCall<ArrayOf<D>> {
    const { out, only, of, accumulate = false, retain = false } = readOptions(options, names);
    if (only !== undefined) checkOneOf('only', only, ['input', 'parameters']);
    if (only === 'parameters' && out !== undefined)
      throw typeError('out', "be left out with only: 'parameters'", out);
    checkBoolean('accumulate', accumulate);
    checkBoolean('retain', retain);
    if (accumulate && only === 'input')
      throw typeError(
        'accumulate',
        "be left out with only: 'input', which has no gradient to add",
        accumulate,
      );
    if (of !== undefined && !isObject(of)) throw typeError('of', 'be a tensor that forward() returned', of);
    const gradient = readShape<ArrayOf<D>>('dy', dy, this.#config.dtype);
    const pending = of === undefined ? undefined : pendingOf<ArrayOf<D>>(of);
    if (of !== undefined && pending?.owner !== this)
      throw stateError(
        'NO_FORWARD',
        'of must be the tensor that forward() of this layer returned, got another; a copy of it is another too',
      );
    const wantsInput = only !== 'parameters';
    return { gradient, out, wantsInput, wantsParameters: only !== 'input', pending, accumulate, retain };
  }

  /** A forward that has not been gone back through. */
  #checkPending(
    pending: Pending<ArrayOf<D>> | undefined,
    { wantsInput, wantsParameters }: BackwardCall<ArrayOf<D>>,
  ): Pending<ArrayOf<D>> & { forward: Forward<ArrayOf<D>> } {
    if (pending?.state === 'failed')
      throw stateError(
        'NO_FORWARD',
        'backward() must follow a forward(), got one that was rejected',
        pending.cause,
      );
    if (pending === undefined || pending.state === 'waiting')
      throw stateError(
        'NO_FORWARD',
        `backward() must follow a forward() in ${this.training ? 'training' : 'evaluation'}, got none since the layer was made or cleared`,
      );
    if (pending.state === 'cleared' || pending.clears !== this.#clears)
      throw stateError('NO_FORWARD', 'backward() must follow a forward(), got one from before clear()');
    if ((wantsInput && !pending.leavesInput) || (wantsParameters && !pending.leavesParameters))
      throw stateError(
        'NO_FORWARD',
        'backward() must go through each forward() once, got a second time; call forward() again, or give the first backward() retain: true',
      );
    return pending as Pending<ArrayOf<D>> & { forward: Forward<ArrayOf<D>> };
  }

  /** The forward, of which all that hangs on it has been checked. */
  #checkForward(
    { forward }: { forward: Forward<ArrayOf<D>> },
    { gradient, out }: BackwardCall<ArrayOf<D>>,
  ): Known<ArrayOf<D>> {
    const { x, fingerprint, source } = forward;
    if (x === undefined)
      throw stateError(
        'INPUT_OVERWRITTEN',
        'backward() must find the x of the last forward(), got one that wrote its result over x; give forward() another out',
      );
    checkSameShape(gradient, 'the last x', forward.shape);
    checkLength({ ...gradient, name: 'x', data: x });
    if (source !== undefined && source.of.turn !== source.turn)
      throw stateError(
        'INPUT_OVERWRITTEN',
        'backward() must find the x of its forward() as it was, got one that a layer with reuse: true has written its next result over',
      );
    if (fingerprint !== undefined && !matches(x, gradient.size, fingerprint))
      throw stateError(
        'INPUT_OVERWRITTEN',
        'backward() must find the x of its forward() as it was, got other values in it; give forward() memory that stays until backward()',
      );
    if (out !== undefined) {
      checkOut(out, gradient);
      checkApart('out', out, this.#arrays);
    }
    return forward as Known<ArrayOf<D>>;
  }

  /** What has been gone back through, unless it is to be gone through again. */
  #mark(pending: Pending<ArrayOf<D>>, call: BackwardCall<ArrayOf<D>>): void {
    if (call.retain) return;
    if (call.wantsInput) pending.leavesInput = false;
    if (call.wantsParameters) pending.leavesParameters = false;
  }

  /** Where nothing is left of a forward to go through, and nobody is on the way, what it held is free. */
  #letGo(pending: Pending<ArrayOf<D>>): void {
    const { forward, busy, leavesInput, leavesParameters } = pending;
    if (forward === undefined || busy > 0 || leavesInput || leavesParameters) return;
    pending.forward = undefined;
    this.#release(forward.held);
    if (forward.isOwn) unstage(forward.x);
    if (forward.mask !== undefined && this.#config.reuse) this.#mask = forward.mask;
  }

  #forget(pending: Pending<ArrayOf<D>> | undefined): void {
    if (pending?.state !== 'done') return;
    pending.state = 'cleared';
    pending.forward = undefined;
  }

  /** Zeros for the gradients of one backward; with `reuse` the same arrays again. */
  #ownGradients(): { weight: ArrayOf<D> | undefined; bias: ArrayOf<D> | undefined } {
    const { dtype, reuse } = this.#config;
    const make = (array: ArrayOf<D> | undefined) => array && newArray<ArrayOf<D>>(dtype, this.#channels);
    if (!reuse) return { weight: make(this.weightGrad), bias: make(this.biasGrad) };
    this.#own ??= { weight: make(this.weightGrad), bias: make(this.biasGrad) };
    return this.#own;
  }

  #accumulate(dWeight: ArrayOf<D> | undefined, dBias: ArrayOf<D> | undefined): void {
    const channels = this.#channels;
    const { weightGrad, biasGrad } = this;
    if (weightGrad && dWeight) for (let i = 0; i < channels; i++) weightGrad[i] += dWeight[i];
    if (biasGrad && dBias) for (let i = 0; i < channels; i++) biasGrad[i] += dBias[i];
  }

  #forwardPass(
    { x, geometry, held, mask }: Forward<ArrayOf<D>>,
    y: ArrayOf<D>,
    residual: ArrayOf<D> | undefined,
  ): ForwardPass<ArrayOf<D>> {
    return {
      geometry,
      eps: this.#config.eps,
      x: x as ArrayOf<D>,
      y,
      weight: held.weight,
      bias: held.bias,
      mean: held.mean,
      variance: held.variance,
      relu: this.#config.activation !== undefined,
      residual,
      mask,
    };
  }

  #backwardPass(
    { geometry, training, held, mask }: Forward<ArrayOf<D>>,
    dy: ArrayOf<D>,
    x: ArrayOf<D>,
    dx: ArrayOf<D> | undefined,
    dWeight: ArrayOf<D> | undefined,
    dBias: ArrayOf<D> | undefined,
    dResidual: ArrayOf<D> | undefined,
  ): BackwardPass<ArrayOf<D>> {
    return {
      geometry,
      eps: this.#config.eps,
      training,
      dy,
      x,
      mean: held.mean,
      variance: held.variance,
      weight: held.weight,
      bias: held.bias,
      relu: this.#config.activation !== undefined,
      // A mask is kept where there is one.
      residual: undefined,
      mask,
      dx,
      dWeight,
      dBias,
      dResidual,
    };
  }

  /** Starts when all asynchronous calls before have settled: at once where there are none. */
  #inTurn<R>(signal: AbortSignal | undefined, start: () => Promise<R>): Promise<R> {
    const before = this.#calls;
    const call = before === undefined ? start() : startAfter(after(before, signal), start);
    const calls = settledAfter(before, call, () => {
      if (this.#calls === calls) this.#calls = undefined;
    });
    this.#calls = calls;
    return call;
  }
}
