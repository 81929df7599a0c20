// What layers that normalize by the statistics of channels share: parameters with their gradients, and forward and backward,
// at once or off the event loop, with what a forward leaves to its backward. A layer adds where its statistics come from.
import {
  type BackwardCall,
  backwardAsyncNames,
  backwardNames,
  checkRunning,
  type ForwardCall,
  forwardAsyncNames,
  forwardNames,
  type LayerFacts,
  readBackward,
  readForward,
} from './arguments.js';
import {
  type BackwardPass,
  type ForwardPass,
  maskBytes,
  type Passes,
  type Slot,
  type Sums,
} from './backend/backend.js';
import { passesFor } from './backend/index.js';
import type {
  AsyncOptions,
  CoreConfig,
  ForwardOptions,
  LayerBackwardOptions,
  LayerGradients,
} from './calls.js';
import { oneValuePerChannelError, rangeError, typeError } from './errors.js';
import { Exchange, newSums } from './exchange.js';
import { GradientSums, gradInputOf, parametersOf, throughForward } from './gradient-sums.js';
import { checkKept, deliver, isShared, move } from './handover.js';
import { evenCountOf, type Moments, momentsOf } from './moments.js';
import { after, operate, readAsync, settled } from './operations.js';
import {
  checkForward,
  checkPending,
  type Forward,
  fingerprintOf,
  type Held,
  HeldSets,
  marked,
  noteReuse,
  type Pending,
} from './pending.js';
import { gradientsOf, newResult, ResultBuffer } from './result.js';
import type { RunningStatistics } from './running.js';
import { isStaged, stage, unstage } from './staging.js';
import { copyInto, filled, lengthOf, shareBuffer } from './typed-array.js';
import type { ArrayOf, DType, FloatArray, Tensor, TensorLike } from './types.js';
import {
  checkApart,
  checkElsewhere,
  checkLength,
  checkOut,
  checkVaries,
  copyOf,
  isInPlace,
  type NamedArrays,
  newArray,
  newBytes,
  shapeOf,
} from './validate.js';

const { hasOwn } = Object;
const { apply } = Reflect;
const WeakSetClass = WeakSet;
const { has: hasSeen, add: addSeen } = WeakSet.prototype;

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

/** A copy of what there is. */
function copied<T extends FloatArray>(array: T | undefined): T | undefined {
  return array && copyOf(array);
}

/** What is missing in one is missing in the other. */
function copyThere(target: FloatArray | undefined, source: FloatArray | undefined): void {
  if (target && source) copyInto(target, source);
}

/** A forward, and the statistics of all members of a group where it has exchanged them. */
interface Judged<T extends FloatArray> {
  readonly call: ForwardCall<T>;
  readonly whole: Moments | undefined;
}

/** What has been seen: by a set whose methods nobody can have replaced. */
class Seen {
  readonly #objects = new WeakSetClass<object>();

  /** Whether it is there for the first time. */
  add(object: object): boolean {
    if (apply(hasSeen, this.#objects, [object])) return false;
    apply(addSeen, this.#objects, [object]);
    return true;
  }
}

/** See the top of the file. Its methods are those of the layer, which documents them. */
export class LayerCore<D extends DType> {
  readonly weight: ArrayOf<D> | undefined;
  readonly bias: ArrayOf<D> | undefined;
  readonly weightGrad: ArrayOf<D> | undefined;
  readonly biasGrad: ArrayOf<D> | undefined;
  /** Whether forward uses the statistics of the batch, and updates the running ones. */
  training = true;
  readonly #layer: LayerFacts<D>;
  readonly #passes: Passes<ArrayOf<D>>;
  readonly #y: ResultBuffer<ArrayOf<D>>;
  readonly #dx: ResultBuffer<ArrayOf<D>>;
  readonly #dResidual: ResultBuffer<ArrayOf<D>>;
  /** The layer's gradients by the names that messages give them. */
  readonly #grads: NamedArrays;
  /** The last forwards that are done, in training and in evaluation. */
  #lastTraining: Pending<ArrayOf<D>> | undefined;
  #lastEvaluation: Pending<ArrayOf<D>> | undefined;
  /** Those that were called last, done or not. */
  #calledTraining: Pending<ArrayOf<D>> | undefined;
  #calledEvaluation: Pending<ArrayOf<D>> | undefined;
  #order = 0;
  readonly #exchange: Exchange | undefined;
  /** Forwards from before the last one are gone. */
  #clears = 0;
  readonly #sets: HeldSets<ArrayOf<D>>;
  /** The statistics of the last training batch, and how many values per channel it had. */
  #moments: Held<ArrayOf<D>> | undefined;
  #momentsCount = 0;
  #momentsOrder = 0;
  /** Those that the last training forward was given. */
  #whole: Moments | undefined;
  /** All that have gone into the running statistics. */
  readonly #taken = new Seen();
  #mask: Uint8Array | undefined;
  /** Settled when all asynchronous calls are; undefined where there are none. */
  #calls: Promise<void> | undefined;

  /** @param running of evaluation; undefined where the statistics are always those of the batch. */
  constructor(channels: number, config: CoreConfig<D>, running: RunningStatistics | undefined) {
    const { dtype, weight, bias, reuse, group } = config;
    this.#passes = passesFor(dtype);
    this.#exchange = group && new Exchange(group, channels);
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
    const arrays = {
      weight: this.weight,
      bias: this.bias,
      runningMean: running?.mean,
      runningVar: running?.variance,
      ...this.#grads,
    };
    this.#layer = { channels, config, running, arrays };
  }

  forward(x: TensorLike<ArrayOf<D>>, options?: ForwardOptions<ArrayOf<D>>): Tensor<ArrayOf<D>> {
    // Before any getter of the arguments: the mode of this moment.
    const pending = this.#newPending();
    let call = readForward(this.#layer, x, options, forwardNames, pending.mode);
    const { input, residual, out, geometry } = call;
    const exchange = this.#exchange;
    const { forwardTraining, forwardInference, moments } = this.#passes;
    const { eps } = this.#layer.config;
    const held = this.#sets.take();
    try {
      this.#holdParameters(held);
      let whole = call.moments && momentsOf(call.moments);
      const isFused = call.batchStats && whole === undefined && !call.exchanges && eps > 0;
      // The statistics decide whether anything may be written.
      if (call.batchStats && whole === undefined && !isFused) {
        moments({ geometry, x: input.data, mean: held.mean, variance: held.variance });
        if (exchange !== undefined && call.exchanges)
          ({ call, whole } = this.#judged(call, exchange.moments(geometry, held)));
        else checkVaries(held.variance);
      }
      this.#holdStatistics(held, call, whole);
      const y = out ?? this.#y.take(this.#layer.config.dtype, input.size, input.data, residual);
      const forward = this.#forwardOf(call, input.data, false, held, whole);
      const pass = this.#forwardPass(forward, y, residual);
      const inPlace = isFused ? forwardTraining(pass) : forwardInference(pass);
      this.#complete(call, pending, forward, inPlace, whole);
      return marked({ data: y, shape: input.shape }, pending, out === undefined ? this.#y.next() : undefined);
    } catch (error) {
      this.#release(held);
      throw error;
    }
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
    let call = readForward(this.#layer, x, options, forwardAsyncNames, pending.mode);
    const { input, out, geometry } = call;
    const exchange = this.#exchange;
    const { dtype, eps } = this.#layer.config;
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
    if (transfer) checkElsewhere('x.data', input.data, this.#layer.arrays);
    this.checkOwn();
    const residual = call.residual && stage(call.residual, dtype);
    const given = transfer ? input.data : stage(input.data, dtype);
    const held = this.#sets.make();
    this.#holdParameters(held);
    // As they are now, like all else that is given.
    let whole = call.moments && momentsOf(call.moments);
    return this.#inTurn(signal, async () => {
      checkKept('x.data', given, input.size);
      const y = out !== undefined && isShared(out) ? out : newResult<ArrayOf<D>>(dtype, input.size);
      const { forwardTrainingLater, forwardInferenceLater, momentsLater } = this.#passes;
      const isFused = call.batchStats && whole === undefined && !call.exchanges && eps > 0;
      const compute = isFused ? forwardTrainingLater : forwardInferenceLater;
      let source = given;
      if (call.batchStats && whole === undefined && !isFused) {
        await operate(
          signal,
          (slot) => {
            if (transfer) source = move('x.data', given, dtype);
            momentsLater({ geometry, x: source, mean: held.mean, variance: held.variance }, slot);
            return [source, held];
          },
          () => undefined,
        );
        if (exchange !== undefined && call.exchanges)
          ({ call, whole } = this.#judged(call, await exchange.momentsLater(geometry, held)));
        else checkVaries(held.variance);
      }
      this.#holdStatistics(held, call, whole);
      const forward = this.#forwardOf(call, source, true, held, whole);
      let inPlace = false;
      return operate(
        signal,
        (slot) => {
          if (transfer && forward.x === given) forward.x = move('x.data', given, dtype);
          inPlace = compute(this.#forwardPass(forward, y, residual), slot);
          return [forward, y, residual];
        },
        () => {
          this.checkOwn();
          const data = out === undefined ? y : deliver(y, out);
          unstage(residual);
          this.#complete(call, pending, forward, inPlace, whole);
          return marked({ data, shape: input.shape }, pending, undefined);
        },
      );
    });
  }

  backward(
    dy: TensorLike<ArrayOf<D>>,
    options?: LayerBackwardOptions<ArrayOf<D>>,
  ): LayerGradients<ArrayOf<D>> {
    // Before any getter of the arguments: the mode and the forward of this moment.
    const { training } = this;
    const last = training ? this.#lastTraining : this.#lastEvaluation;
    const call = readBackward(this, this.#layer, dy, options, backwardNames);
    const pending = checkPending(call.pending ?? last, this.#clears, training, call);
    const forward = checkForward(pending.forward, call, this.#layer.arrays);
    const { gradient, out, wantsInput, wantsParameters, accumulate, sums } = call;
    const { data, size, shape } = gradient;
    const exchange = this.#exchange;
    const { channels } = this.#layer;
    const { dtype, reuse } = this.#layer.config;
    checkLength(gradient);
    // The gradients of the parameters are written before dx is.
    checkApart('dy.data', data, this.#grads);
    checkApart('x.data', forward.x, this.#grads);
    if (accumulate) this.checkOwn();
    const dx = wantsInput ? (out ?? this.#dx.take(dtype, size, data, forward.x)) : undefined;
    const dWeight = wantsParameters ? this.#gradientFor(this.weightGrad, accumulate) : undefined;
    const dBias = wantsParameters ? this.#gradientFor(this.biasGrad, accumulate) : undefined;
    const dResidual =
      wantsInput && forward.residual ? this.#dResidual.take(dtype, size, data, forward.x, out) : undefined;
    const pass = this.#backwardPass(forward, data, forward.x, dx, dWeight, dBias, dResidual);
    if (exchange !== undefined && forward.exchanges && dx !== undefined) {
      const own = newSums(channels);
      this.#passes.gradSums({ ...pass, sums: own });
      const all = exchange.sums(own);
      this.#gradParameters(forward, own, dWeight, dBias);
      this.#passes.gradInput(gradInputOf(pass, dx, all, forward.count));
    } else throughForward(this.#passes, pass, sums, forward.count);
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
    const { training } = this;
    const called = training ? this.#calledTraining : this.#calledEvaluation;
    const { signal, transfer } = readAsync(options);
    const exchange = this.#exchange;
    const { channels } = this.#layer;
    const { dtype } = this.#layer.config;
    const call = readBackward(this, this.#layer, dy, options, backwardAsyncNames);
    const { out, wantsInput, wantsParameters, accumulate } = call;
    const { data, size, shape } = call.gradient;
    checkLength(call.gradient);
    if (transfer && out !== undefined) throw typeError('out', 'be left out with transfer: true', out);
    if (out !== undefined) {
      checkOut(out, call.gradient);
      isInPlace(out, 'dy.data', data);
    }
    if (transfer) checkElsewhere('dy.data', data, this.#layer.arrays);
    const kept = transfer ? data : stage(data, dtype);
    const sums = call.sums && GradientSums.merge(call.sums);
    return this.#inTurn(signal, async () => {
      checkKept('dy.data', kept, size);
      if (out !== undefined) checkKept('out', out, size);
      const pending = checkPending(call.pending ?? called, this.#clears, training, call);
      const forward = checkForward(pending.forward, call, this.#layer.arrays);
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
      let all: Sums | undefined = sums;
      const own = forward.exchanges && wantsInput ? newSums(channels) : undefined;
      const begin = (slot: Slot, isLast: boolean) => {
        // x may have lain in its buffer, until it was copied.
        if (transfer && gradient === kept) gradient = move('dy.data', kept, dtype);
        if (transfer && wantsInput) target = gradient;
        const pass = this.#backwardPass(forward, gradient, x, target, dWeight, dBias, dResidual);
        if (!isLast && own !== undefined) this.#passes.gradSumsLater({ ...pass, sums: own }, slot);
        else if (!isLast) this.#passes.backwardLater(parametersOf(pass), slot);
        else if (all === undefined || target === undefined) this.#passes.backwardLater(pass, slot);
        else this.#passes.gradInputLater(gradInputOf(pass, target, all, forward.count), slot);
        return [gradient, x, target, dWeight, dBias, dResidual, forward, all, own];
      };
      try {
        if (own !== undefined || (sums !== undefined && wantsInput && wantsParameters))
          await operate(
            signal,
            (slot) => begin(slot, false),
            () => undefined,
          );
        if (exchange !== undefined && own !== undefined) {
          all = await exchange.sumsLater(own);
          this.#gradParameters(forward, own, dWeight, dBias);
        }
        return await operate(
          signal,
          (slot) => begin(slot, true),
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
        // What another backward has gone through meanwhile stays gone.
        if (!call.retain && wantsInput) pending.leavesInput ||= leavesInput;
        if (!call.retain && wantsParameters) pending.leavesParameters ||= leavesParameters;
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

  /** A copy of the statistics of the last training batch. */
  moments(): Moments | undefined {
    if (this.#whole !== undefined) return momentsOf(this.#whole);
    if (this.#moments === undefined) return undefined;
    const { mean, variance } = this.#moments;
    return momentsOf({ count: this.#momentsCount, squares: this.#momentsCount, mean, variance });
  }

  /** The caller may have detached them. */
  checkOwn(): void {
    for (const name in this.#layer.arrays) {
      // What somebody has added to Object.prototype is no array.
      const array = hasOwn(this.#layer.arrays, name) ? this.#layer.arrays[name] : undefined;
      if (array) checkKept(name, array, this.#layer.channels);
    }
  }

  /** No forward needs it any more. */
  #release(held: Held<ArrayOf<D>>): void {
    held.isNeeded = false;
    if (held !== this.#moments) this.#sets.giveBack(held);
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

  /** What is to be done with what all members have together. */
  #judged(call: ForwardCall<ArrayOf<D>>, whole: Moments): Judged<ArrayOf<D>> {
    const { eps, singleValue } = this.#layer.config;
    const count = evenCountOf(whole);
    if (count === 0) return { call, whole: undefined };
    if (count === 1) {
      if (singleValue === 'throw') throw oneValuePerChannelError(call.input.shape, true);
      return { call: { ...call, batchStats: false, updates: false, exchanges: false }, whole: undefined };
    }
    if (eps === 0) checkVaries(whole.variance);
    return { call, whole };
  }

  /** Those of this member. */
  #gradParameters(
    { held }: Forward<ArrayOf<D>>,
    own: Sums,
    dWeight: ArrayOf<D> | undefined,
    dBias: ArrayOf<D> | undefined,
  ): void {
    const { channels, config } = this.#layer;
    if (dWeight || dBias)
      this.#passes.gradParameters(channels, config.eps, held.mean, held.variance, own, dWeight, dBias);
  }

  /** The caller may have taken the memory of the layer's own away. */
  #holdParameters({ weight, bias }: Held<ArrayOf<D>>): void {
    if (this.weight) checkKept('weight', this.weight, this.#layer.channels);
    if (this.bias) checkKept('bias', this.bias, this.#layer.channels);
    copyThere(weight, this.weight);
    copyThere(bias, this.bias);
  }

  /** Those of the batch are written by the pass. */
  #holdStatistics(
    { mean, variance }: Held<ArrayOf<D>>,
    { batchStats }: ForwardCall<ArrayOf<D>>,
    whole: Moments | undefined,
  ): void {
    if (whole !== undefined) {
      copyInto(mean, whole.mean);
      copyInto(variance, whole.variance);
    }
    const running = this.#layer.running;
    if (batchStats || running === undefined) return;
    checkRunning(running, this.#layer.channels);
    copyInto(mean, running.mean);
    copyInto(variance, running.variance);
  }

  #forwardOf(
    call: ForwardCall<ArrayOf<D>>,
    x: ArrayOf<D>,
    isOwn: boolean,
    held: Held<ArrayOf<D>>,
    whole: Moments | undefined,
  ): Forward<ArrayOf<D>> {
    const { input, geometry, batchStats, residual, source } = call;
    const mask = residual && this.#layer.config.activation ? this.#maskFor(input.size, isOwn) : undefined;
    return {
      x,
      isOwn,
      fingerprint: isOwn && !isShared(x) ? undefined : fingerprintOf(x, input.size),
      source: isOwn ? undefined : source,
      // The caller has the other.
      shape: shapeOf(input.shape),
      geometry,
      training: batchStats,
      held,
      count: whole ? (evenCountOf(whole) ?? whole.count) : geometry.outer * geometry.inner,
      isPart: call.moments !== undefined,
      exchanges: call.exchanges && whole !== undefined,
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
    { updates, geometry, batchStats, moments }: ForwardCall<ArrayOf<D>>,
    pending: Pending<ArrayOf<D>>,
    forward: Forward<ArrayOf<D>>,
    inPlace: boolean,
    whole: Moments | undefined,
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
    const isSeen = pending.mode && batchStats && (count > 0 || whole !== undefined);
    if (isSeen && pending.order >= this.#momentsOrder) {
      const before = this.#moments;
      this.#moments = forward.held;
      this.#momentsCount = count;
      this.#whole = whole;
      this.#momentsOrder = pending.order;
      if (before !== undefined && !before.isNeeded) this.#release(before);
    }
    if (!updates) return;
    if (whole === undefined) {
      if (count > 0) this.#layer.running?.update(count, mean, variance);
    } else if (moments === undefined || this.#taken.add(moments)) this.#layer.running?.updateFrom(whole);
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
    if (forward.mask !== undefined && this.#layer.config.reuse) this.#mask = forward.mask;
  }

  #forget(pending: Pending<ArrayOf<D>> | undefined): void {
    if (pending?.state !== 'done') return;
    pending.state = 'cleared';
    pending.forward = undefined;
  }

  /** Where one backward writes a gradient: beside the layer's where it is to be added. */
  #gradientFor(array: ArrayOf<D> | undefined, accumulate: boolean): ArrayOf<D> | undefined {
    return array && accumulate ? newArray(this.#layer.config.dtype, this.#layer.channels) : array;
  }

  #accumulate(dWeight: ArrayOf<D> | undefined, dBias: ArrayOf<D> | undefined): void {
    const channels = this.#layer.channels;
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
      eps: this.#layer.config.eps,
      x: x as ArrayOf<D>,
      y,
      weight: held.weight,
      bias: held.bias,
      mean: held.mean,
      variance: held.variance,
      relu: this.#layer.config.activation !== undefined,
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
      eps: this.#layer.config.eps,
      training,
      dy,
      x,
      mean: held.mean,
      variance: held.variance,
      weight: held.weight,
      bias: held.bias,
      relu: this.#layer.config.activation !== undefined,
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
