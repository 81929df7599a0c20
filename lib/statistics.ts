// Where the statistics of a forward come from, and the sums of the backward behind it: from x alone, from a caller who has them of all
// parts of the batch, from the members of a group, or, of the statistics, from the running ones.
import { checkRunning, type ForwardCall, type LayerFacts } from './arguments.js';
import type {
  BackwardPass,
  GradInputOfPresentPass,
  GradInputPass,
  GradWeightsPass,
  MomentsPass,
  Passes,
  Presence,
  Slot,
  Sums,
} from './backend/backend.js';
import { oneValuePerChannelError } from './errors.js';
import { Exchange } from './exchange.js';
import { newSums } from './gradient-sums.js';
import { evenCountOf, type Moments, momentsOf } from './moments.js';
import { operate } from './operations.js';
import type { Forward, Held, HeldSets } from './pending.js';
import { presentPass } from './presence.js';
import { type Renormed, renormed } from './renorm.js';
import { copyInto, filled, lengthOf } from './typed-array.js';
import type { ArrayOf, DType, FloatArray } from './types.js';
import {
  checkApart,
  checkDivisors,
  checkKept,
  checkVariance,
  checkVaries,
  copyOf,
  isInPlace,
  newArray,
} from './validate.js';

/** Whose statistics a forward normalizes with: the running ones, those of x, those of `moments`, or those of a group. */
export type Origin = 'running' | 'x' | 'moments' | 'group';

/** What a forward normalizes with. */
export interface Found<T extends FloatArray> {
  readonly origin: Origin;
  /** Those of a batch that x is a part of. */
  readonly whole: Moments | undefined;
  /** Whether it is the pass that normalizes which finds them. */
  readonly isFused: boolean;
  readonly renormed: Renormed<T> | undefined;
}

/** Where a backward takes the sums that dx follows from, if not from x and dy alone. */
export interface SumsOrigin {
  /** Those of all parts. */
  readonly given: Sums | undefined;
  readonly exchange: Exchange | undefined;
  /** Values per channel of all parts. */
  readonly count: number | Float64Array;
}

const { apply } = Reflect;
const WeakMapClass = WeakMap;
const { has: hasTaken, get: getTaken, set: setTaken } = WeakMap.prototype;
const [fromRunning, fused, cut] = [
  { origin: 'running', whole: undefined, isFused: false, renormed: undefined },
  { origin: 'x', whole: undefined, isFused: true, renormed: undefined },
  { origin: 'x', whole: undefined, isFused: false, renormed: undefined },
] as const;

type Before = Renormed<FloatArray>['before'];

/** Moments that have gone into the running statistics: in a map whose methods nobody can have replaced. */
class Taken {
  readonly #before = new WeakMapClass<object, Before | undefined>();

  /**
   * Whether they are there for the first time.
   *
   * @param before the running statistics from before them, where a later part may need them.
   */
  add(moments: object, before: Before | undefined): boolean {
    if (apply(hasTaken, this.#before, [moments])) return false;
    apply(setTaken, this.#before, [moments, before]);
    return true;
  }

  before(moments: object): Before | undefined {
    return apply(getTaken, this.#before, [moments]);
  }
}

/** Those of a layer. */
export class Statistics<D extends DType> {
  readonly #layer: LayerFacts<D>;
  readonly #passes: Passes<ArrayOf<D>>;
  readonly #sets: HeldSets<ArrayOf<D>>;
  readonly #exchange: Exchange | undefined;
  /** Of the last training batch: what the set holds that is kept, of so many values per channel, or those of its whole. */
  #count = 0;
  #whole: Moments | undefined;
  /** The order of its forward. */
  #order = 0;
  /** All moments that have gone into the running statistics. */
  #taken: Taken | undefined;

  constructor(layer: LayerFacts<D>, passes: Passes<ArrayOf<D>>, sets: HeldSets<ArrayOf<D>>) {
    const { group } = layer.config;
    this.#layer = layer;
    this.#passes = passes;
    this.#sets = sets;
    this.#exchange = group && new Exchange(group, layer.channels);
  }

  /** Whether they take a pass of their own over x: where they decide whether anything may be written, and what. */
  takePass({ origin, present, division, renorm }: ForwardCall<ArrayOf<D>>): boolean {
    return (
      origin === 'group' ||
      (origin === 'x' &&
        division === undefined &&
        (this.#layer.config.eps === 0 || present?.presence !== undefined || renorm !== undefined))
    );
  }

  /** Puts them into `held`, but for those that the pass, or the passes over groups of samples, find. */
  find(call: ForwardCall<ArrayOf<D>>, held: Held<ArrayOf<D>>): Found<ArrayOf<D>> {
    return this.#renormed(call, held, this.#find(call, held));
  }

  #find(call: ForwardCall<ArrayOf<D>>, held: Held<ArrayOf<D>>): Found<ArrayOf<D>> {
    if (call.origin === 'running') return this.#running(held);
    if (call.whole !== undefined) {
      if (!call.present?.presence) return this.#partOf(call.whole, 'moments', held);
      return this.#ofPresent(call, call.whole, held);
    }
    if (!this.takePass(call)) return fused;
    if (call.present?.presence) {
      const pass = presentPass(this.#pass(call, call.input.data, held), call.present.presence);
      this.#passes.momentsOfPresent(pass);
      const whole = call.origin === 'group' ? this.#exchange?.momentsOfPresent(pass) : undefined;
      return this.#ofPresent(call, whole ?? momentsOf(pass), held);
    }
    this.#passes.moments(this.#pass(call, call.input.data, held));
    return this.#exchange !== undefined && call.origin === 'group'
      ? this.#together(call, this.#exchange.moments(call.geometry, held), held)
      : this.#alone(held);
  }

  /**
   * {@link find} off the event loop, where it takes a pass.
   *
   * @param take gives x, when its turn has come.
   */
  async findLater(
    call: ForwardCall<ArrayOf<D>>,
    held: Held<ArrayOf<D>>,
    signal: AbortSignal | undefined,
    take: () => ArrayOf<D>,
  ): Promise<Found<ArrayOf<D>>> {
    return this.#renormed(call, held, await this.#findLater(call, held, signal, take));
  }

  async #findLater(
    call: ForwardCall<ArrayOf<D>>,
    held: Held<ArrayOf<D>>,
    signal: AbortSignal | undefined,
    take: () => ArrayOf<D>,
  ): Promise<Found<ArrayOf<D>>> {
    const { present } = call;
    if (present?.presence) {
      let pass = presentPass(this.#pass(call, call.input.data, held), present.presence);
      await operate(
        signal,
        (slot) => {
          pass = { ...pass, x: take() };
          this.#passes.momentsOfPresentLater(pass, slot);
          return pass;
        },
        () => undefined,
      );
      const whole = call.origin === 'group' ? await this.#exchange?.momentsOfPresentLater(pass) : undefined;
      return this.#ofPresent(call, whole ?? momentsOf(pass), held);
    }
    await operate(
      signal,
      (slot) => {
        const pass = this.#pass(call, take(), held);
        this.#passes.momentsLater(pass, slot);
        return pass;
      },
      () => undefined,
    );
    return this.#exchange !== undefined && call.origin === 'group'
      ? this.#together(call, await this.#exchange.momentsLater(call.geometry, held), held)
      : this.#alone(held);
  }

  /** A forward is done: in training its statistics are the last ones, and go into the running ones. */
  done(
    { updates, geometry, moments }: ForwardCall<ArrayOf<D>>,
    { origin, whole, renormed }: Found<ArrayOf<D>>,
    held: Held<ArrayOf<D>>,
    { mode, order }: { readonly mode: boolean; readonly order: number },
  ): void {
    const count = geometry.outer * geometry.inner;
    if (!mode || origin === 'running' || (count === 0 && whole === undefined)) return;
    if (order >= this.#order) {
      this.#sets.keep(held);
      this.#count = count;
      this.#whole = whole;
      this.#order = order;
    }
    const { running } = this.#layer;
    if (!updates || running === undefined) return;
    if (whole === undefined) running.update(count, held.mean, held.variance);
    else if (moments === undefined) running.updateFrom(whole);
    else {
      this.#taken ??= new Taken();
      if (this.#taken.add(moments, renormed?.before)) running.updateFrom(whole);
    }
  }

  /** A copy of those of the last training batch. */
  last(): Moments | undefined {
    if (this.#whole !== undefined) return momentsOf(this.#whole);
    const { kept } = this.#sets;
    if (kept === undefined) return undefined;
    return momentsOf({ count: this.#count, squares: this.#count, mean: kept.mean, variance: kept.variance });
  }

  /** Where the backward behind a forward takes its sums. */
  sumsOf({ origin, count }: Forward<ArrayOf<D>>, given: Sums | undefined): SumsOrigin {
    return { given, exchange: origin === 'group' ? this.#exchange : undefined, count };
  }

  /** What the backward behind a forward has where not all values count alike; undefined where they do. */
  presentOf(
    { present, geometry, count, origin }: Forward<ArrayOf<D>>,
    given: Sums | undefined,
    weightsGrad: boolean,
  ): PresentBackward | undefined {
    if (!present?.presence) return undefined;
    const exchange = origin === 'group' ? this.#exchange : undefined;
    const { outer, channels, inner } = geometry;
    return {
      presence: present.presence,
      given,
      gather: exchange && ((own) => exchange.sums(own)),
      gatherLater: exchange && ((own) => exchange.sumsLater(own)),
      counts:
        origin === 'running'
          ? undefined
          : typeof count === 'number'
            ? filled(newArray<Float64Array>('float64', channels), count)
            : count,
      dWeights: weightsGrad ? newArray('float64', outer * inner) : undefined,
    };
  }

  #pass({ geometry }: ForwardCall<ArrayOf<D>>, x: ArrayOf<D>, held: Held<ArrayOf<D>>) {
    return { geometry, x, mean: held.mean, variance: held.variance };
  }

  #running({ mean, variance }: Held<ArrayOf<D>>): Found<ArrayOf<D>> {
    const { running, channels } = this.#layer;
    if (running === undefined) return cut;
    checkRunning(running, channels);
    copyInto(mean, running.mean);
    copyInto(variance, running.variance);
    return fromRunning;
  }

  #partOf(whole: Moments, origin: Origin, { mean, variance }: Held<ArrayOf<D>>): Found<ArrayOf<D>> {
    copyInto(mean, whole.mean);
    copyInto(variance, whole.variance);
    return { ...cut, origin, whole };
  }

  /** What is to be done with the statistics of what counts. */
  #ofPresent(
    { input, geometry, origin, training, present }: ForwardCall<ArrayOf<D>>,
    whole: Moments,
    held: Held<ArrayOf<D>>,
  ): Found<ArrayOf<D>> {
    const { running, channels, config } = this.#layer;
    const { count, squares } = whole;
    // Without missing values positions tell more exactly than sums of weights can.
    const isCounted = origin === 'x' && present !== undefined && !present.presence?.missing;
    let hasValues = false;
    let hasMany = isCounted && present.positions > 1;
    for (let channel = 0; channel < channels; channel++) {
      hasValues ||= count[channel] > 0;
      hasMany ||= !isCounted && count[channel] * count[channel] > squares[channel];
    }
    if (hasValues && !hasMany && (config.singleValue === 'throw' || running === undefined))
      throw oneValuePerChannelError(input.shape, training);
    if (!hasMany && running !== undefined) {
      if (geometry.outer * geometry.inner > 0) this.#checkRunning();
      return this.#running(held);
    }
    this.#fallBack(whole, held);
    return hasMany ? { ...cut, origin, whole } : fromRunning;
  }

  /** Statistics in which a channel may have no value: there y is as in evaluation, or the bias where there is none. */
  #fallBack(whole: Moments, { mean, variance }: Held<ArrayOf<D>>): void {
    const { running, channels, config } = this.#layer;
    let isChecked = running === undefined;
    for (let channel = 0; channel < channels; channel++) {
      const isThere = whole.count[channel] > 0;
      if (!isThere && !isChecked) {
        this.#checkRunning();
        isChecked = true;
      }
      mean[channel] = isThere ? whole.mean[channel] : (running?.mean[channel] ?? 0);
      variance[channel] = isThere ? whole.variance[channel] : (running?.variance[channel] ?? Infinity);
    }
    if (config.eps === 0) checkVaries(variance);
  }

  /** Readers of arguments could not know that they would be needed. */
  #checkRunning(): void {
    const { running, channels, config } = this.#layer;
    if (running !== undefined) checkRunning(running, channels);
    checkDivisors('runningVar', checkVariance('runningVar', running?.variance, channels), config.eps);
  }

  #alone({ variance }: Held<ArrayOf<D>>): Found<ArrayOf<D>> {
    if (this.#layer.config.eps === 0) checkVaries(variance);
    return cut;
  }

  /** The statistics are there: what they make of weight and bias, where training follows the running ones. */
  #renormed(
    { renorm, moments, geometry }: ForwardCall<ArrayOf<D>>,
    held: Held<ArrayOf<D>>,
    found: Found<ArrayOf<D>>,
  ): Found<ArrayOf<D>> {
    const { running, config } = this.#layer;
    if (renorm === undefined || running === undefined || found.origin === 'running') return found;
    if (geometry.outer * geometry.inner === 0 && found.whole === undefined) return found;
    this.#checkRunning();
    // All parts of a batch are normalized alike, though the first of them changes the running statistics.
    const { mean, variance } = (moments && this.#taken?.before(moments)) ?? running;
    const before = moments ? { mean: copyOf(mean), variance: copyOf(variance) } : { mean, variance };
    return { ...found, renormed: renormed(config.dtype, config.eps, renorm, held, before) };
  }

  /** What is to be done with what all members have. */
  #together({ input }: ForwardCall<ArrayOf<D>>, whole: Moments, held: Held<ArrayOf<D>>): Found<ArrayOf<D>> {
    const { eps, singleValue } = this.#layer.config;
    const count = evenCountOf(whole);
    if (count === 0) return cut;
    if (count === 1) {
      if (singleValue === 'throw') throw oneValuePerChannelError(input.shape, true);
      this.#checkRunning();
      return this.#running(held);
    }
    if (eps === 0) checkVaries(whole.variance);
    return this.#partOf(whole, 'group', held);
  }
}

/**
 * What training with statistics of x does before the pass that normalizes.
 *
 * @returns whether that pass finds them.
 * @throws RangeError where eps is 0 and a channel does not vary: then nothing is written but the statistics.
 */
export function findOwn<T extends FloatArray>(passes: Passes<T>, eps: number, pass: MomentsPass<T>): boolean {
  if (eps > 0) return true;
  passes.moments(pass);
  checkVaries(pass.variance);
  return false;
}

/** Before gradients of parameters are written: the pass that writes dx comes after them. */
function checkResult<T extends FloatArray>({ dx, dy, x, residual }: BackwardPass<T>): void {
  if (dx === undefined) return;
  isInPlace(dx, 'dy.data', dy);
  checkApart('out', dx, { 'x.data': x, 'residual.data': residual });
}

/** What a backward behind values of which not all count alike has beside its pass. */
export interface PresentBackward {
  readonly presence: Presence;
  /** Those of all parts, where x is one of them. */
  readonly given: Sums | undefined;
  /** Those of all parts otherwise, of this one's. */
  readonly gather: ((own: Sums) => Sums) | undefined;
  /** The same off the event loop. */
  readonly gatherLater: ((own: Sums) => Promise<Sums>) | undefined;
  /** Of what counts, per channel and of all parts; undefined where statistics are constants, as in evaluation. */
  readonly counts: Float64Array | undefined;
  /** For each position, where they are asked for. */
  readonly dWeights: Float64Array | undefined;
}

/** The sums of this part, which the other steps of such a backward pass follow. */
function ownSums<T extends FloatArray>(pass: BackwardPass<T>, { presence }: PresentBackward) {
  const { channels } = pass.geometry;
  const sumBias = presence.impute && pass.dBias ? newArray<Float64Array>('float64', channels) : undefined;
  return { ...pass, presence, sums: newSums(channels), sumBias };
}

/** What follows from the sums of all parts; undefined where it is not asked for. */
function presentSteps<T extends FloatArray>(
  pass: BackwardPass<T>,
  { presence, counts, dWeights }: PresentBackward,
  sums: Sums,
) {
  const { dx, dResidual } = pass;
  return {
    // Constants are changed by no weight.
    weights: dWeights && counts ? { ...pass, presence, sums, counts, dWeights } : undefined,
    input: dx || dResidual ? { ...pass, presence, sums, counts, dx } : undefined,
  };
}

/** Whether something follows from the sums of this part. */
function needsOwn(
  { given, gather, counts }: PresentBackward,
  { wantsInput, wantsParameters }: { readonly wantsInput: boolean; readonly wantsParameters: boolean },
): boolean {
  return (
    wantsParameters || (wantsInput && counts !== undefined && (gather !== undefined || given === undefined))
  );
}

function writeParameters<T extends FloatArray>(passes: Passes<T>, own: ReturnType<typeof ownSums<T>>): void {
  const { geometry, dWeight, dBias, sums, sumBias } = own;
  // The code of a group is the caller's.
  if (dWeight) checkKept('the gradient of weight', dWeight, geometry.channels);
  if (dBias) checkKept('the gradient of bias', dBias, geometry.channels);
  gradParameters(passes, own, sums);
  if (dBias && sumBias) copyInto(dBias, sumBias);
}

/** {@link throughForward} behind values of which not all count alike. */
export function throughPresent<T extends FloatArray>(
  passes: Passes<T>,
  pass: BackwardPass<T>,
  beside: PresentBackward,
): void {
  checkResult(pass);
  const own = ownSums(pass, beside);
  const { given, gather, dWeights } = beside;
  const wantsInput = pass.dx !== undefined || dWeights !== undefined;
  const wantsParameters = pass.dWeight !== undefined || pass.dBias !== undefined;
  if (needsOwn(beside, { wantsInput, wantsParameters })) passes.gradSumsOfPresent(own);
  const exchanged = wantsInput ? gather?.(own.sums) : undefined;
  const { weights, input } = presentSteps(pass, beside, exchanged ?? given ?? own.sums);
  if (weights) passes.gradWeights(weights);
  // Before dx may take the place of dy.
  writeParameters(passes, own);
  if (input) passes.gradInputOfPresent(input);
}

/** {@link throughPresent} off the event loop; `take` gives the pass, when its turn has come. */
export async function throughPresentLater<T extends FloatArray, R>(
  passes: Passes<T>,
  beside: PresentBackward,
  wants: { readonly wantsInput: boolean; readonly wantsParameters: boolean },
  signal: AbortSignal | undefined,
  take: () => BackwardPass<T>,
  finish: () => R,
): Promise<R> {
  let own: ReturnType<typeof ownSums<T>> | undefined;
  let gathered: Sums | undefined;
  // When the turn of the first step has come.
  const begun = () => {
    own ??= ownSums(take(), beside);
    return own;
  };
  const stepsOf = () => presentSteps(begun(), beside, gathered ?? beside.given ?? begun().sums);
  const step = (compute: (slot: Slot) => void) =>
    operate(
      signal,
      (slot) => {
        compute(slot);
        return [begun(), beside, gathered];
      },
      () => undefined,
    );
  const { wantsInput } = wants;
  if (needsOwn(beside, wants)) await step((slot) => passes.gradSumsOfPresentLater(begun(), slot));
  if (wantsInput) gathered = await beside.gatherLater?.(begun().sums);
  if (beside.dWeights && beside.counts)
    await step((slot) => passes.gradWeightsLater(stepsOf().weights as GradWeightsPass<T>, slot));
  if (wantsInput)
    await step((slot) => passes.gradInputOfPresentLater(stepsOf().input as GradInputOfPresentPass<T>, slot));
  writeParameters(passes, begun());
  return finish();
}

/** A backward pass at once. */
export function throughForward<T extends FloatArray>(
  passes: Passes<T>,
  pass: BackwardPass<T>,
  { given, exchange, count }: SumsOrigin,
): void {
  const { dx, dWeight, dBias } = pass;
  if (dx === undefined || (given === undefined && exchange === undefined)) {
    passes.backward(pass);
    return;
  }
  checkResult(pass);
  // Of this part; and before dx takes the place of dy.
  const own = exchange || dWeight || dBias ? newSums(pass.geometry.channels) : undefined;
  if (own !== undefined) passes.gradSums({ ...pass, sums: own });
  let all = given;
  if (exchange !== undefined && own !== undefined) {
    all = exchange.sums(own);
    // The code of a group is the caller's.
    if (dWeight) checkKept('the gradient of weight', dWeight, pass.geometry.channels);
    if (dBias) checkKept('the gradient of bias', dBias, pass.geometry.channels);
  }
  if (own !== undefined) gradParameters(passes, pass, own);
  passes.gradInput(gradInputOf(pass, dx, all as Sums, count));
}

/**
 * {@link throughForward} off the event loop.
 *
 * @param take gives the pass, when its turn has come.
 */
export async function throughForwardLater<T extends FloatArray, R>(
  passes: Passes<T>,
  { given, exchange, count }: SumsOrigin,
  { wantsInput, wantsParameters }: { readonly wantsInput: boolean; readonly wantsParameters: boolean },
  signal: AbortSignal | undefined,
  take: () => BackwardPass<T>,
  finish: () => R,
): Promise<R> {
  const isCut = wantsInput && (given !== undefined || exchange !== undefined);
  let pass: BackwardPass<T> | undefined;
  let own: Sums | undefined;
  let all = given;
  if (isCut && (exchange !== undefined || wantsParameters))
    await operate(
      signal,
      (slot) => {
        pass = take();
        own = newSums(pass.geometry.channels);
        passes.gradSumsLater({ ...pass, sums: own }, slot);
        return [pass, own];
      },
      () => undefined,
    );
  if (exchange !== undefined && own !== undefined) all = await exchange.sumsLater(own);
  return operate(
    signal,
    (slot) => {
      pass ??= take();
      if (isCut) passes.gradInputLater(gradInputOf(pass, pass.dx as T, all as Sums, count), slot);
      else passes.backwardLater(pass, slot);
      return [pass, all];
    },
    () => {
      if (own !== undefined && pass !== undefined) gradParameters(passes, pass, own);
      return finish();
    },
  );
}

/** Of a backward pass dx alone, of sums over `count` values per channel. */
function gradInputOf<T extends FloatArray>(
  pass: BackwardPass<T>,
  dx: T,
  sums: Sums,
  count: number | Float64Array,
): GradInputPass<T> {
  if (typeof count === 'number') return { ...pass, dx, sums, count };
  // Each channel has its own: of the mean of dy there is one value.
  const sumDy = copyOf(sums.sumDy);
  const sumDyXmu = copyOf(sums.sumDyXmu);
  for (let channel = 0; channel < lengthOf(sumDy); channel++) {
    sumDy[channel] /= count[channel];
    sumDyXmu[channel] /= count[channel];
  }
  return { ...pass, dx, sums: { sumDy, sumDyXmu }, count: 1 };
}

/** Those that follow from the sums of this part. */
function gradParameters<T extends FloatArray>(
  passes: Passes<T>,
  { geometry, eps, mean, variance, dWeight, dBias }: BackwardPass<T>,
  own: Sums,
): void {
  if (dWeight || dBias) passes.gradParameters(geometry.channels, eps, mean, variance, own, dWeight, dBias);
}
