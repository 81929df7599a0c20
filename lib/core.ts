// What layers that normalize by the statistics of channels share: parameters with their gradients, and forward and backward,
// at once or off the event loop, with what a forward leaves to its backward. A layer adds where its statistics come from.
import type { Activation } from './activation.js';
import { type BackwardPass, type ForwardPass, maskBytes, type Passes } from './backend/backend.js';
import { passesFor } from './backend/index.js';
import { oneValuePerChannelError, rangeError, stateError, typeError } from './errors.js';
import { checkKept, deliver, isShared, move } from './handover.js';
import { after, operate, readAsync, settled } from './operations.js';
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

/** Of a layer's options, what its passes need. */
export interface CoreConfig<D extends DType> {
  readonly axis: number;
  readonly eps: number;
  readonly dtype: D;
  readonly weight: boolean;
  readonly bias: boolean;
  readonly activation: Activation | undefined;
  readonly reuse: boolean;
}

/** Statistics and parameters that a forward computes with: never arrays that anybody else may write to. */
interface Held<T extends FloatArray> {
  readonly mean: Float64Array;
  readonly variance: Float64Array;
  readonly weight: T | undefined;
  readonly bias: T | undefined;
}

/** A forward as it is computed, and as backward goes back through it. */
interface Forward<T extends FloatArray> {
  /** undefined where y was written over it. */
  x: T | undefined;
  /** Whether nobody else can take the memory of x away. */
  readonly isOwn: boolean;
  readonly shape: readonly number[];
  readonly geometry: Geometry;
  /** Whether the statistics are those of x. */
  readonly training: boolean;
  readonly held: Held<T>;
  /** Whether there was one. */
  readonly residual: boolean;
  /** What a ReLU after it lets through. */
  readonly mask: Uint8Array | undefined;
}

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
}

/** A backward whose arguments have been checked as far as they can be without the forward. */
interface BackwardCall<T extends FloatArray> {
  readonly gradient: ReadTensor<T>;
  readonly out: T | undefined;
  readonly wantsInput: boolean;
  readonly wantsParameters: boolean;
}

const { hasOwn } = Object;

const forwardNames = namesOf(['out', 'updateStats', 'residual'], areCallsUntouched);
const forwardAsyncNames = namesOf(
  ['out', 'updateStats', 'residual', 'signal', 'transfer'],
  areCallsUntouched,
);
const backwardNames = namesOf(['out', 'only'], areCallsUntouched);
const backwardAsyncNames = namesOf(['out', 'only', 'signal', 'transfer'], areCallsUntouched);

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

/** A copy of what there is. */
function copied<T extends FloatArray>(array: T | undefined): T | undefined {
  return array && copyOf(array);
}

function copiedMask(mask: Uint8Array | undefined): Uint8Array | undefined {
  if (mask === undefined) return undefined;
  const copy = newBytes(lengthOf(mask));
  copyInto(copy, mask);
  return copy;
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
  #last: Forward<ArrayOf<D>> | undefined;
  /** Those of the last synchronous forward, and those of the next, so that one that fails has changed nothing. */
  #held: Held<ArrayOf<D>>;
  #spare: Held<ArrayOf<D>>;
  #mask: Uint8Array | undefined;
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
    this.#dx = new ResultBuffer(reuse);
    this.#dResidual = new ResultBuffer(reuse);
    this.weight = weight ? filled(newArray<ArrayOf<D>>(dtype, channels), 1) : undefined;
    this.bias = bias ? newArray(dtype, channels) : undefined;
    this.weightGrad = weight ? newArray(dtype, channels) : undefined;
    this.biasGrad = bias ? newArray(dtype, channels) : undefined;
    this.#held = this.#newHeld();
    this.#spare = this.#newHeld();
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
    const held = this.#spare;
    this.#holdParameters(held);
    this.#holdStatistics(held, call);
    const forward = this.#forwardOf(call, input.data, false, held);
    const pass = this.#forwardPass(forward, y, residual);
    const { forwardTraining, forwardInference } = this.#passes;
    this.#complete(call, forward, call.batchStats ? forwardTraining(pass) : forwardInference(pass));
    this.#spare = this.#held;
    this.#held = held;
    return { data: y, shape: input.shape };
  }

  async forwardAsync(
    x: TensorLike<ArrayOf<D>>,
    options?: ForwardOptions<ArrayOf<D>> & AsyncOptions,
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
    const held = this.#newHeld();
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
          // The x before was a copy of ours that nobody else has seen, and nothing is on its way that reads it.
          if (this.#last?.isOwn) unstage(this.#last.x);
          this.#complete(call, forward, inPlace);
          return { data, shape: input.shape };
        },
      );
    });
  }

  backward(
    dy: TensorLike<ArrayOf<D>>,
    options?: LayerBackwardOptions<ArrayOf<D>>,
  ): LayerGradients<ArrayOf<D>> {
    const call = this.#readBackward(dy, options, backwardNames);
    const last = this.#lastFor(call);
    const { gradient, out, wantsInput, wantsParameters } = call;
    const { data, size, shape } = gradient;
    const { dtype, reuse } = this.#config;
    checkLength(gradient);
    // The gradients of the parameters are written before dx is.
    checkApart('dy.data', data, this.#grads);
    checkApart('x.data', last.x, this.#grads);
    const dx = wantsInput ? (out ?? this.#dx.take(dtype, size, data, last.x)) : undefined;
    const dWeight = wantsParameters ? this.weightGrad : undefined;
    const dBias = wantsParameters ? this.biasGrad : undefined;
    const dResidual =
      wantsInput && last.residual ? this.#dResidual.take(dtype, size, data, last.x, out) : undefined;
    this.#passes.backward(this.#backwardPass(last, data, last.x, dx, dWeight, dBias, dResidual));
    return reuse
      ? gradientsOf(shape, dx, dWeight, dBias, dResidual)
      : gradientsOf(shape, dx, copied(dWeight), copied(dBias), dResidual);
  }

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
      this.checkOwn();
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
      const dWeight = wantsParameters ? copied(this.weightGrad) : undefined;
      const dBias = wantsParameters ? copied(this.biasGrad) : undefined;
      const dResidual = wantsInput && last.residual ? newResult<ArrayOf<D>>(dtype, size) : undefined;
      // A synchronous forward may write to these while the operation is on its way.
      const { mean, variance, weight, bias } = last.held;
      const snapshot = {
        ...last,
        held: {
          mean: copyOf(mean),
          variance: copyOf(variance),
          weight: copied(weight),
          bias: copied(bias),
        },
        mask: reuse ? copiedMask(last.mask) : last.mask,
      };
      return operate(
        signal,
        (slot) => {
          // x may have lain in its buffer, until it was copied.
          if (transfer) gradient = move('dy.data', kept, dtype);
          if (transfer && wantsInput) target = gradient;
          this.#passes.backwardLater(
            this.#backwardPass(snapshot, gradient, x, target, dWeight, dBias, dResidual),
            slot,
          );
          return [gradient, x, target, dWeight, dBias, dResidual, snapshot];
        },
        () => {
          this.checkOwn();
          const dx = target && out !== undefined ? deliver(target, out) : target;
          if (gradient !== dx) unstage(gradient);
          if (!last.isOwn) unstage(x);
          copyThere(this.weightGrad, dWeight);
          copyThere(this.biasGrad, dBias);
          return gradientsOf(shape, dx, dWeight, dBias, dResidual);
        },
      );
    });
  }

  clear(): void {
    this.#last = undefined;
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
    const { axis, dtype } = this.#config;
    const running = this.#running;
    const { training } = this;
    checkBoolean('updateStats', updateStats);
    const input = readShape<ArrayOf<D>>('x', x, dtype);
    const geometry = geometryOf(input, axis, this.#channels);
    const { outer, channels, inner } = geometry;
    const count = outer * inner;
    const batchStats = training || running === undefined;
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
    const updates = training && updateStats && count > 0;
    return { input, geometry, batchStats, updates, residual: residual?.data, out };
  }

  #newHeld(): Held<ArrayOf<D>> {
    const { dtype, weight, bias } = this.#config;
    const channels = this.#channels;
    return {
      mean: newArray('float64', channels),
      variance: newArray('float64', channels),
      weight: weight ? newArray(dtype, channels) : undefined,
      bias: bias ? newArray(dtype, channels) : undefined,
    };
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
    { input, geometry, batchStats, residual }: ForwardCall<ArrayOf<D>>,
    x: ArrayOf<D>,
    isOwn: boolean,
    held: Held<ArrayOf<D>>,
  ): Forward<ArrayOf<D>> {
    const mask = residual && this.#config.activation ? this.#maskFor(input.size, isOwn) : undefined;
    return {
      x,
      isOwn,
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
    if (isOwn || !this.#config.reuse) return newBytes(bytes);
    if (this.#mask === undefined || lengthOf(this.#mask) !== bytes) this.#mask = newBytes(bytes);
    return this.#mask;
  }

  /** A forward has been computed: what it leaves to backward. */
  #complete(
    { updates, geometry }: ForwardCall<ArrayOf<D>>,
    forward: Forward<ArrayOf<D>>,
    inPlace: boolean,
  ): void {
    if (inPlace) forward.x = undefined;
    this.#last = forward;
    const { mean, variance } = forward.held;
    if (updates) this.#running?.update(geometry.outer * geometry.inner, mean, variance);
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
