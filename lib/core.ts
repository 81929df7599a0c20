// What layers that normalize by the statistics of channels share: parameters with their gradients, and forward and backward,
// at once or off the event loop, with what a forward leaves to its backward. A layer adds where its statistics come from.
import {
  type BackwardCall,
  type ForwardCall,
  type LayerFacts,
  readBackward,
  readForward,
  type Setting,
} from './arguments.js';
import {
  type BackwardPass,
  type ForwardPass,
  maskBytes,
  type Passes,
  type RowGeometry,
  rowMaskBytes,
} from './backend/backend.js';
import { passesFor } from './backend/index.js';
import { type CallNames, callNames } from './call-names.js';
import type {
  AsyncOptions,
  CoreConfig,
  ForwardOptions,
  LayerBackwardOptions,
  LayerGradients,
  Parameter,
} from './calls.js';
import { arithmeticOf } from './dtype.js';
import { rangeError, typeError } from './errors.js';
import { Forwards } from './forwards.js';
import {
  forwardGroups,
  forwardGroupsLater,
  groupMaskBytes,
  mayOverlap,
  momentsOfGroups,
  throughGroups,
  throughGroupsLater,
} from './ghost.js';
import { GradientSums } from './gradient-sums.js';
import { deliver, isShared, move } from './handover.js';
import { evenCountOf, type Moments } from './moments.js';
import { numberOfRows, type RowView, rowPasses } from './norms/rows.js';
import { operate, readAsync, Sequence } from './operations.js';
import {
  checkApart,
  checkApartFromOwn,
  checkElsewhere,
  isInPlace,
  type OwnArrays,
  ownArraysOf,
} from './overlap.js';
import {
  checkForward,
  type Forward,
  fingerprintOf,
  type Held,
  HeldSets,
  marked,
  noteReuse,
  type Pending,
} from './pending.js';
import { checkPresent, gradientOfWeights } from './presence.js';
import { type Renorm, renormGradient } from './renorm.js';
import { gradientsOf, newResult, ResultBuffer } from './result.js';
import type { RunningStatistics } from './running.js';
import { shapeOf } from './shapes.js';
import { isStaged, stage, unstage } from './staging.js';
import { type Found, Statistics } from './statistics.js';
import { throughForward, throughForwardLater, throughPresent, throughPresentLater } from './through.js';
import { copyInto, filled, lengthOf, shareBuffer } from './typed-array.js';
import type { ArrayOf, DType, FloatArray, ParametersOf, Tensor, TensorArray, TensorLike } from './types.js';
import { checkKept, checkLength, checkOut, copyOf, inClassOf, newArray, newBytes } from './validate.js';

/** A copy of what there is. */
function copied<T extends FloatArray>(array: T | undefined): T | undefined {
  return array && copyOf(array);
}

function parameter<T extends FloatArray>(
  name: Parameter<T>['name'],
  value: T | undefined,
  grad: T | undefined,
): Parameter<T> | undefined {
  return value && grad ? { name, value, grad } : undefined;
}

/** What is missing in one is missing in the other. */
function copyThere(target: FloatArray | undefined, source: FloatArray | undefined): void {
  if (target && source) copyInto(target, source);
}

/** A result may be its input, but nothing in between, and lies apart from the residual. */
function checkPlace<T extends TensorArray>(out: T, x: T, residual: T | undefined): void {
  isInPlace(out, 'x.data', x);
  if (residual) checkApart('out', out, { 'residual.data': residual });
}

/** See the top of the file. Its methods are those of the layer, which documents them. */
export class LayerCore<D extends DType> {
  readonly weight: ParametersOf<ArrayOf<D>> | undefined;
  readonly bias: ParametersOf<ArrayOf<D>> | undefined;
  readonly weightGrad: ParametersOf<ArrayOf<D>> | undefined;
  readonly biasGrad: ParametersOf<ArrayOf<D>> | undefined;
  /** Whether forward uses the statistics of the batch, and updates the running ones. */
  training = true;
  /** How far training follows the running statistics. */
  renorm: Renorm | undefined;
  readonly #layer: LayerFacts<D>;
  readonly #names: CallNames;
  readonly #passes: Passes<ArrayOf<D>>;
  readonly #y: ResultBuffer<ArrayOf<D>>;
  readonly #dx: ResultBuffer<ArrayOf<D>>;
  readonly #dResidual: ResultBuffer<ArrayOf<D>>;
  /** The layer's gradients by the names that messages give them. */
  readonly #grads: OwnArrays;
  readonly #forwards = new Forwards<ArrayOf<D>>();
  readonly #sets: HeldSets<ParametersOf<ArrayOf<D>>>;
  readonly #statistics: Statistics<D>;
  #mask: Uint8Array | undefined;
  readonly #calls = new Sequence();

  /**
   * @param running of evaluation; undefined where the statistics are always those of the batch.
   * @param rows what has statistics of its own, where it is not channels.
   */
  constructor(
    channels: number,
    config: CoreConfig<D>,
    running: RunningStatistics | undefined,
    rows?: RowView,
  ) {
    const { dtype, weight, bias, reuse } = config;
    this.#passes = rows ? rowPasses(passesFor<ArrayOf<D>>(dtype), rows, dtype) : passesFor(dtype);
    this.renorm = config.renorm;
    this.#y = new ResultBuffer(reuse);
    if (reuse) noteReuse();
    this.#dx = new ResultBuffer(reuse);
    this.#dResidual = new ResultBuffer(reuse);
    const arithmetic = arithmeticOf(dtype);
    this.weight = weight ? filled(newArray<ParametersOf<ArrayOf<D>>>(arithmetic, channels), 1) : undefined;
    this.bias = bias ? newArray(arithmetic, channels) : undefined;
    this.weightGrad = weight ? newArray(arithmetic, channels) : undefined;
    this.biasGrad = bias ? newArray(arithmetic, channels) : undefined;
    // The bias of rows is asked for by an activation alone.
    this.#sets = new HeldSets(
      arithmetic,
      channels,
      weight,
      bias && !(rows && config.activation === undefined),
    );
    // Before anything is computed, where memory may be lacking.
    this.#sets.release(this.#sets.make());
    this.#sets.release(this.#sets.make());
    const grads = { 'the gradient of weight': this.weightGrad, 'the gradient of bias': this.biasGrad };
    this.#grads = ownArraysOf(grads);
    const arrays = ownArraysOf({
      weight: this.weight,
      bias: this.bias,
      runningMean: running?.mean,
      runningVar: running?.variance,
      ...grads,
    });
    this.#layer = { channels, config, running, arrays, rows };
    this.#names = rows ?? callNames;
    this.#statistics = new Statistics(this.#layer, this.#passes, this.#sets);
  }

  forward(x: TensorLike<ArrayOf<D>>, options?: ForwardOptions<ArrayOf<D>>): Tensor<ArrayOf<D>> {
    // Before any getter of the arguments: the mode and the bounds of this moment.
    const { training, renorm } = this;
    const pending = this.#forwards.begin(this, training);
    const call = readForward(this.#layer, x, options, this.#names.forward, { training, renorm });
    const { input, residual, out, givenOut, present } = call;
    const { dtype } = this.#layer.config;
    if (call.division && out !== undefined) checkPlace(out, input.data, residual);
    if (present) checkPresent(this.#passes, present, call.geometry, input.data);
    const held = this.#sets.take(this.#statisticsOf(call));
    try {
      this.#holdParameters(held);
      const found = this.#statistics.find(call, held);
      // The code of a group is the caller's.
      if (call.origin === 'group') this.checkOwn();
      const isApart = call.division !== undefined && mayOverlap(out, input.data, residual);
      const y = isApart
        ? newResult<ArrayOf<D>>(dtype, input.size)
        : (out ?? this.#y.take(dtype, input.size, input.data, residual));
      const forward = this.#forwardOf(call, input.data, false, held, found);
      const pass = this.#forwardPass(forward, y, residual, this.bias);
      const { forwardTraining, forwardInference, inferPresent } = this.#passes;
      const inPlace = forward.groups
        ? forwardGroups(this.#passes, pass, dtype, forward.groups, present?.presence)
        : found.isFused
          ? forwardTraining(pass)
          : present?.presence
            ? inferPresent({ ...pass, presence: present.presence })
            : forwardInference(pass);
      const data = out === undefined ? inClassOf(input, y) : deliver(y, out);
      this.#complete(call, pending, forward, found, inPlace);
      return marked(
        { data: givenOut ?? data, shape: input.shape },
        pending,
        out === undefined ? this.#y.next() : undefined,
      );
    } catch (error) {
      // What is done already is the forward's.
      if (pending.forward === undefined) this.#sets.release(held);
      throw error;
    }
  }

  async forwardAsync(
    x: TensorLike<ArrayOf<D>>,
    options?: ForwardOptions<ArrayOf<D>> & AsyncOptions,
  ): Promise<Tensor<ArrayOf<D>>> {
    const { training, renorm } = this;
    const pending = this.#forwards.begin(this, training);
    this.#forwards.called(pending);
    try {
      return await this.#forwardLater(x, options, pending, { training, renorm });
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
    setting: Setting,
  ): Promise<Tensor<ArrayOf<D>>> {
    const { signal, transfer } = readAsync(options);
    const call = readForward(this.#layer, x, options, this.#names.forwardAsync, setting);
    const { input, out, givenOut, present } = call;
    const { dtype } = this.#layer.config;
    if (present) checkPresent(this.#passes, present, call.geometry, input.data);
    if (out !== undefined) {
      checkPlace(out, input.data, call.residual);
      if (transfer && shareBuffer(out, input.data))
        throw rangeError(
          'out',
          'lie elsewhere than x.data with transfer: true',
          'the same buffer',
          'OVERLAP',
        );
    }
    if (transfer) checkElsewhere('x.data', input.data, this.#layer.arrays.all);
    this.checkOwn();
    const residual = call.residual && stage(call.residual, dtype);
    const given = transfer ? input.data : stage(input.data, dtype);
    const held = this.#sets.make(this.#statisticsOf(call));
    this.#holdParameters(held);
    const bias = held.bias ?? copied(this.bias);
    return this.#calls.inTurn(signal, async () => {
      checkKept('x.data', given, input.size);
      const isApart = call.division !== undefined && mayOverlap(out, input.data, call.residual);
      if (transfer) this.#statistics.checkCount(call, given);
      const y =
        out !== undefined && isShared(out) && !isApart ? out : newResult<ArrayOf<D>>(dtype, input.size);
      let source = given;
      const take = () => {
        if (transfer && source === given) source = move('x.data', given, dtype);
        return source;
      };
      const found = this.#statistics.takePass(call)
        ? await this.#statistics.findLater(call, held, signal, take)
        : this.#statistics.find(call, held);
      const forward = this.#forwardOf(call, source, true, held, found);
      const { forwardTrainingLater, forwardInferenceLater, inferPresentLater } = this.#passes;
      const begin = () => {
        forward.x = take();
        return this.#forwardPass(forward, y, residual, bias);
      };
      const finish = (inPlace: boolean) => {
        this.checkOwn();
        const data = out === undefined ? inClassOf(input, y) : deliver(y, out);
        unstage(residual);
        this.#complete(call, pending, forward, found, inPlace);
        return marked({ data: givenOut ?? data, shape: input.shape }, pending, undefined);
      };
      const { eps } = this.#layer.config;
      const presence = present?.presence;
      if (forward.groups)
        return forwardGroupsLater(this.#passes, eps, dtype, forward.groups, presence, signal, begin, finish);
      let inPlace = false;
      return operate(
        signal,
        (slot) => {
          const pass = begin();
          inPlace = found.isFused
            ? forwardTrainingLater(pass, slot)
            : presence
              ? inferPresentLater({ ...pass, presence }, slot)
              : forwardInferenceLater(pass, slot);
          return [forward, y, residual];
        },
        () => finish(inPlace),
      );
    });
  }

  backward(
    dy: TensorLike<ArrayOf<D>>,
    options?: LayerBackwardOptions<ArrayOf<D>>,
  ): LayerGradients<ArrayOf<D>> {
    // Before any getter of the arguments: the mode and the forward of this moment.
    const { training } = this;
    const last = this.#forwards.lastDone(training);
    const call = readBackward(this, this.#layer, dy, options, this.#names.backward);
    const pending = this.#forwards.check(call.pending ?? last, training, call);
    const forward = checkForward(pending.forward, call, this.#layer.arrays);
    const { gradient, out, givenOut, wantsInput, wantsParameters, accumulate, sums } = call;
    const { data, size, shape } = gradient;
    const { dtype, reuse } = this.#layer.config;
    checkLength(gradient);
    // The gradients of the parameters are written before dx is.
    checkApartFromOwn('dy.data', data, this.#grads);
    checkApartFromOwn('x.data', forward.x, this.#grads);
    if (accumulate) this.checkOwn();
    if (forward.groups && out !== undefined) {
      isInPlace(out, 'dy.data', data);
      checkApart('out', out, { 'x.data': forward.x });
    }
    const isApart = forward.groups !== undefined && mayOverlap(out, data, forward.x);
    const target = isApart
      ? newResult<ArrayOf<D>>(dtype, size)
      : wantsInput
        ? (out ?? this.#dx.take(dtype, size, data, forward.x))
        : undefined;
    const dWeight = wantsParameters ? this.#gradientFor(this.weightGrad, accumulate) : undefined;
    const dBias = wantsParameters ? this.#gradientFor(this.biasGrad, accumulate) : undefined;
    const dResidual =
      wantsInput && forward.residual ? this.#dResidual.take(dtype, size, data, forward.x, out) : undefined;
    const pass = this.#backwardPass(forward, data, forward.x, target, dWeight, dBias, dResidual);
    const present = this.#statistics.presentOf(forward, sums, call.weightsGrad);
    // The code of a group is the caller's: it may clear the layer, or go back through this forward.
    pending.busy++;
    try {
      if (forward.groups) throughGroups(this.#passes, pass, dtype, forward.groups, present);
      else if (present) throughPresent(this.#passes, pass, present);
      else throughForward(this.#passes, pass, this.#statistics.sumsOf(forward, sums));
      if (forward.renormed) renormGradient(forward.renormed, dWeight, pass.dBias);
      const dx = target && out !== undefined ? deliver(target, out) : target;
      const dWeights = gradientOfWeights(present?.dWeights, forward.present);
      if (accumulate) this.#accumulate(dWeight, dBias);
      this.#mark(pending, call);
      const keeps = reuse || accumulate;
      return gradientsOf(
        shape,
        dx && (givenOut ?? inClassOf(gradient, dx)),
        keeps ? dWeight : copied(dWeight),
        keeps ? dBias : copied(dBias),
        dResidual && inClassOf(gradient, dResidual),
        dWeights,
      );
    } finally {
      pending.busy--;
      this.#letGo(pending);
    }
  }

  async backwardAsync(
    dy: TensorLike<ArrayOf<D>>,
    options?: LayerBackwardOptions<ArrayOf<D>> & AsyncOptions,
  ): Promise<LayerGradients<ArrayOf<D>>> {
    const { training } = this;
    const called = this.#forwards.lastCalled(training);
    const { signal, transfer } = readAsync(options);
    const { dtype } = this.#layer.config;
    const call = readBackward(this, this.#layer, dy, options, this.#names.backwardAsync);
    const { out, givenOut, wantsInput, wantsParameters, accumulate } = call;
    const { data, size, shape } = call.gradient;
    checkLength(call.gradient);
    if (transfer && out !== undefined) throw typeError('out', 'be left out with transfer: true', out);
    if (out !== undefined) {
      checkOut(out, call.gradient);
      isInPlace(out, 'dy.data', data);
    }
    if (transfer) checkElsewhere('dy.data', data, this.#layer.arrays.all);
    const kept = transfer ? data : stage(data, dtype);
    const sums = call.sums && GradientSums.merge(call.sums);
    return this.#calls.inTurn(signal, async () => {
      checkKept('dy.data', kept, size);
      if (out !== undefined) checkKept('out', out, size);
      const pending = this.#forwards.check(call.pending ?? called, training, call);
      const forward = checkForward(pending.forward, call, this.#layer.arrays);
      this.checkOwn();
      // x is copied, but the next backward needs it again.
      if (out !== undefined) checkApart('out', out, { 'x.data': forward.x });
      const isApart = forward.groups !== undefined && mayOverlap(out, data, forward.x);
      const x = forward.isOwn ? forward.x : stage(forward.x, dtype);
      let gradient = kept;
      const inPlace = transfer || (kept !== data && !isStaged(dtype, size));
      let target = !wantsInput
        ? undefined
        : out !== undefined && isShared(out) && !isApart
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
      const begin = () => {
        // x may have lain in its buffer, until it was copied.
        if (transfer) gradient = move('dy.data', kept, dtype);
        if (transfer && wantsInput) target = gradient;
        const pass = this.#backwardPass(forward, gradient, x, target, dWeight, dBias, dResidual);
        sumDy = pass.dBias;
        return pass;
      };
      let sumDy: ParametersOf<ArrayOf<D>> | undefined;
      const sumsOrigin = this.#statistics.sumsOf(forward, sums);
      const present = this.#statistics.presentOf(forward, sums, call.weightsGrad);
      try {
        const finish = () => {
          this.checkOwn();
          if (forward.renormed) renormGradient(forward.renormed, dWeight, sumDy);
          const dx = target && out !== undefined ? deliver(target, out) : target;
          if (gradient !== dx) unstage(gradient);
          if (!forward.isOwn) unstage(x);
          if (accumulate) this.#accumulate(dWeight, dBias);
          else {
            copyThere(this.weightGrad, dWeight);
            copyThere(this.biasGrad, dBias);
          }
          const dWeights = gradientOfWeights(present?.dWeights, forward.present);
          return gradientsOf(
            shape,
            dx && (givenOut ?? inClassOf(call.gradient, dx)),
            dWeight,
            dBias,
            dResidual && inClassOf(call.gradient, dResidual),
            dWeights,
          );
        };
        return await (forward.groups
          ? throughGroupsLater(this.#passes, dtype, forward.groups, present, call, signal, begin, finish)
          : present
            ? throughPresentLater(this.#passes, present, call, signal, begin, finish)
            : throughForwardLater(this.#passes, sumsOrigin, call, signal, begin, finish));
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

  parameters(): Parameter<ParametersOf<ArrayOf<D>>>[] {
    const weight = parameter('weight', this.weight, this.weightGrad);
    const bias = parameter('bias', this.bias, this.biasGrad);
    // Literals: what is pushed can be caught by a setter on Array.prototype.
    if (weight && bias) return [weight, bias];
    return weight ? [weight] : bias ? [bias] : [];
  }

  clear(): void {
    this.#forwards.clear((forward) => this.#free(forward));
  }

  zeroGrad(): void {
    this.checkOwn();
    if (this.weightGrad) filled(this.weightGrad, 0);
    if (this.biasGrad) filled(this.biasGrad, 0);
  }

  /** A copy of the statistics of the last training batch. */
  moments(): Moments | undefined {
    return this.#statistics.last();
  }

  /** The caller may have detached them. */
  checkOwn(): void {
    const { all, count, names } = this.#layer.arrays;
    for (let i = 0; i < count; i++) checkKept(names[i], all[names[i]] as FloatArray, this.#layer.channels);
  }

  /** The caller may have taken the memory of the layer's own away. */
  #holdParameters({ weight, bias }: Held<ParametersOf<ArrayOf<D>>>): void {
    if (this.weight) checkKept('weight', this.weight, this.#layer.channels);
    if (this.bias) checkKept('bias', this.bias, this.#layer.channels);
    copyThere(weight, this.weight);
    copyThere(bias, this.bias);
  }

  /** How many a forward has: one per channel, or per row. */
  #statisticsOf({ origin, geometry }: ForwardCall<ArrayOf<D>>): number {
    const { rows, channels } = this.#layer;
    return rows && origin === 'x' ? numberOfRows(geometry) : channels;
  }

  #forwardOf(
    { input, geometry, residual, source, present, division }: ForwardCall<ArrayOf<D>>,
    x: ArrayOf<D>,
    isOwn: boolean,
    held: Held<ParametersOf<ArrayOf<D>>>,
    { origin, whole, renormed, groups }: Found<ParametersOf<ArrayOf<D>>>,
  ): Forward<ArrayOf<D>> {
    const bytes = division
      ? groupMaskBytes(geometry, division)
      : this.#layer.rows && origin === 'x'
        ? rowMaskBytes(geometry as RowGeometry)
        : maskBytes(input.size);
    const mask = residual && this.#layer.config.activation ? this.#maskFor(bytes, isOwn) : undefined;
    return {
      x,
      isOwn,
      fingerprint: isOwn && !isShared(x) ? undefined : fingerprintOf(x, input.size),
      source: isOwn ? undefined : source,
      // The caller has the other.
      shape: shapeOf(input.shape),
      geometry,
      origin,
      held,
      count: whole ? (evenCountOf(whole) ?? whole.count) : geometry.outer * geometry.inner,
      residual: residual !== undefined,
      mask,
      present,
      groups,
      renormed,
    };
  }

  /** Of a residual alone everything passes, and without one backward sees x: only both together need it. */
  #maskFor(bytes: number, isOwn: boolean): Uint8Array {
    const mask = this.#mask;
    if (isOwn || mask === undefined || lengthOf(mask) !== bytes) return newBytes(bytes);
    this.#mask = undefined;
    return mask;
  }

  /** A forward has been computed: what it leaves to backward. */
  #complete(
    call: ForwardCall<ArrayOf<D>>,
    pending: Pending<ArrayOf<D>>,
    forward: Forward<ArrayOf<D>>,
    found: Found<ParametersOf<ArrayOf<D>>>,
    inPlace: boolean,
  ): void {
    if (inPlace) forward.x = undefined;
    this.#forwards.done(pending, forward);
    const { groups } = forward;
    const all = groups && !found.whole ? { ...found, whole: momentsOfGroups(groups) } : found;
    this.#statistics.done(call, all, forward.held, pending);
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
    this.#free(forward);
  }

  #free({ held, isOwn, x, mask }: Forward<ArrayOf<D>>): void {
    this.#sets.release(held);
    if (isOwn) unstage(x);
    if (mask !== undefined && this.#layer.config.reuse) this.#mask = mask;
  }

  /** Where one backward writes a gradient: beside the layer's where it is to be added. */
  #gradientFor(
    array: ParametersOf<ArrayOf<D>> | undefined,
    accumulate: boolean,
  ): ParametersOf<ArrayOf<D>> | undefined {
    if (!array || !accumulate) return array;
    return newArray(arithmeticOf(this.#layer.config.dtype), this.#layer.channels);
  }

  #accumulate(
    dWeight: ParametersOf<ArrayOf<D>> | undefined,
    dBias: ParametersOf<ArrayOf<D>> | undefined,
  ): void {
    const channels = this.#layer.channels;
    const { weightGrad, biasGrad } = this;
    if (weightGrad && dWeight) for (let i = 0; i < channels; i++) weightGrad[i] += dWeight[i];
    if (biasGrad && dBias) for (let i = 0; i < channels; i++) biasGrad[i] += dBias[i];
  }

  #forwardPass(
    { x, geometry, held, renormed, mask }: Forward<ArrayOf<D>>,
    y: ArrayOf<D>,
    residual: ArrayOf<D> | undefined,
    bias: ParametersOf<ArrayOf<D>> | undefined,
  ): ForwardPass<ArrayOf<D>> {
    return {
      geometry,
      eps: this.#layer.config.eps,
      x: x as ArrayOf<D>,
      y,
      weight: renormed ? renormed.weight : held.weight,
      bias: renormed ? renormed.bias : (held.bias ?? bias),
      mean: held.mean,
      variance: held.variance,
      relu: this.#layer.config.activation !== undefined,
      residual,
      mask,
    };
  }

  #backwardPass(
    { geometry, origin, held, renormed, mask }: Forward<ArrayOf<D>>,
    dy: ArrayOf<D>,
    x: ArrayOf<D>,
    dx: ArrayOf<D> | undefined,
    dWeight: ParametersOf<ArrayOf<D>> | undefined,
    dBias: ParametersOf<ArrayOf<D>> | undefined,
    dResidual: ArrayOf<D> | undefined,
  ): BackwardPass<ArrayOf<D>> {
    return {
      geometry,
      eps: this.#layer.config.eps,
      training: origin !== 'running',
      dy,
      x,
      mean: held.mean,
      variance: held.variance,
      weight: renormed ? renormed.weight : held.weight,
      bias: renormed ? renormed.bias : held.bias,
      relu: this.#layer.config.activation !== undefined,
      // A mask is kept where there is one.
      residual: undefined,
      mask,
      dx,
      dWeight,
      // The gradient of a renormalized weight follows from both.
      dBias:
        renormed && dWeight && !dBias
          ? newArray(arithmeticOf(this.#layer.config.dtype), geometry.channels)
          : dBias,
      dResidual,
    };
  }
}
