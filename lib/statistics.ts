// Where the statistics of a forward come from: from x alone or from groups of its samples, from a caller who has them of all parts of the
// batch, from the members of a group, or from the running ones; and where the backward behind it has its sums.
import { checkRunning, type ForwardCall, type LayerFacts } from './arguments.js';
import type {
  MomentsOfPresentPass,
  MomentsPass,
  Passes,
  Presence,
  RowGeometry,
  Sums,
} from './backend/backend.js';
import { arithmeticOf } from './dtype.js';
import { oneValuePerChannelError } from './errors.js';
import { Exchange } from './exchange.js';
import { eachPart, type Groups, groupsOf, momentsOfParts, momentsOfPartsLater } from './ghost.js';
import { evenCountOf, haveMany, type Moments, mergeMoments, momentsOf } from './moments.js';
import { operate } from './operations.js';
import type { Forward, Held, HeldSets } from './pending.js';
import { fullestOf, presentPass } from './presence.js';
import { type Renormed, renormed } from './renorm.js';
import type { PresentBackward, SumsOrigin } from './through.js';
import { copyInto, filled } from './typed-array.js';
import type { ArrayOf, DType, FloatArray, ParametersOf, TensorArray } from './types.js';
import { checkDivisors, checkVariance, checkVaries, copyOf, type Geometry, newArray } from './validate.js';

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
  /** Each with statistics of its own, in the place of one for all; those that count otherwise have found theirs. */
  readonly groups: Groups | undefined;
}

const { apply } = Reflect;
const { create } = Object;
const WeakMapClass = WeakMap;
const { has: hasTaken, get: getTaken, set: setTaken } = WeakMap.prototype;
const [fromRunning, fused, cut] = [
  { origin: 'running', whole: undefined, isFused: false, renormed: undefined, groups: undefined },
  { origin: 'x', whole: undefined, isFused: true, renormed: undefined, groups: undefined },
  { origin: 'x', whole: undefined, isFused: false, renormed: undefined, groups: undefined },
] as const;

/** Where those to normalize with go. */
interface MeanAndVariance {
  readonly mean: Float64Array;
  readonly variance: Float64Array;
}

/** Statistics of what counts. */
interface Counted {
  readonly whole: Moments;
  /** Whether a channel has more than one value. */
  readonly hasMany: boolean;
}

/** Those that a pass has found. */
function ownOf<T extends TensorArray>(pass: MomentsOfPresentPass<T>, dtype: DType): Counted {
  const { presence, geometry, x } = pass;
  const whole = momentsOf(pass);
  // Where no value has a weight, their number is the sum.
  const isSum = presence.weights === undefined;
  return { whole, hasMany: haveMany(whole) || (!isSum && fullestOf(presence, geometry, dtype, x) > 1) };
}

/** The mean of statistics over the samples, of each channel. */
function averageOf(of: MeanAndVariance, samples: number, channels: number): MeanAndVariance {
  const mean = newArray<Float64Array>('float64', channels);
  const variance = newArray<Float64Array>('float64', channels);
  for (let row = 0; row < samples * channels; row++) {
    mean[row % channels] += of.mean[row] / samples;
    variance[row % channels] += of.variance[row] / samples;
  }
  return { mean, variance };
}

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
  readonly #sets: HeldSets<ParametersOf<ArrayOf<D>>>;
  readonly #exchange: Exchange | undefined;
  /** Of the last training batch: what the set holds that is kept, of so many values per channel, or those of its whole. */
  #count = 0;
  #whole: Moments | undefined;
  /** The order of its forward. */
  #order = 0;
  /** All moments that have gone into the running statistics. */
  #taken: Taken | undefined;

  constructor(layer: LayerFacts<D>, passes: Passes<ArrayOf<D>>, sets: HeldSets<ParametersOf<ArrayOf<D>>>) {
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
        (present?.presence !== undefined ||
          (division === undefined && (this.#layer.config.eps === 0 || renorm !== undefined))))
    );
  }

  /** Puts them into `held`, but for those that the pass, or the passes over groups of samples, find. */
  find(call: ForwardCall<ArrayOf<D>>, held: Held<ParametersOf<ArrayOf<D>>>): Found<ParametersOf<ArrayOf<D>>> {
    return this.#renormed(call, held, this.#find(call, held));
  }

  #find(
    call: ForwardCall<ArrayOf<D>>,
    held: Held<ParametersOf<ArrayOf<D>>>,
  ): Found<ParametersOf<ArrayOf<D>>> {
    if (call.origin === 'running') return this.#running(held);
    if (call.whole !== undefined) {
      if (!call.present?.presence) return this.#partOf(call.whole, 'moments', held);
      return this.#ofPresent(call, { whole: call.whole, hasMany: haveMany(call.whole) }, held);
    }
    const groups = call.division && groupsOf(call.division, call.geometry);
    if (!this.takePass(call)) return groups ? { ...fused, groups } : fused;
    if (groups && call.present?.presence) {
      const { dtype } = this.#layer.config;
      const parts = momentsOfParts(this.#passes, groups, dtype, call.input.data, call.present.presence);
      return this.#ofParts(call, groups, parts);
    }
    if (call.present?.presence) {
      const pass = presentPass(this.#pass(call, call.input.data, held), call.present.presence);
      this.#passes.momentsOfPresent(pass);
      const own = ownOf(pass, this.#layer.config.dtype);
      const together =
        call.origin === 'group' ? this.#exchange?.momentsOfPresent(pass, own.hasMany) : undefined;
      return this.#ofPresent(call, together ?? own, held);
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
    held: Held<ParametersOf<ArrayOf<D>>>,
    signal: AbortSignal | undefined,
    take: () => ArrayOf<D>,
  ): Promise<Found<ParametersOf<ArrayOf<D>>>> {
    return this.#renormed(call, held, await this.#findLater(call, held, signal, take));
  }

  async #findLater(
    call: ForwardCall<ArrayOf<D>>,
    held: Held<ParametersOf<ArrayOf<D>>>,
    signal: AbortSignal | undefined,
    take: () => ArrayOf<D>,
  ): Promise<Found<ParametersOf<ArrayOf<D>>>> {
    const { present } = call;
    const groups = call.division && groupsOf(call.division, call.geometry);
    if (groups && present?.presence) {
      const { dtype } = this.#layer.config;
      const parts = await momentsOfPartsLater(this.#passes, groups, dtype, take, present.presence, signal);
      return this.#ofParts(call, groups, parts);
    }
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
      const own = ownOf(pass, this.#layer.config.dtype);
      const together =
        call.origin === 'group' ? await this.#exchange?.momentsOfPresentLater(pass, own.hasMany) : undefined;
      return this.#ofPresent(call, together ?? own, held);
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
    { origin, whole, renormed }: Found<ParametersOf<ArrayOf<D>>>,
    held: Held<ParametersOf<ArrayOf<D>>>,
    { mode, order }: { readonly mode: boolean; readonly order: number },
  ): void {
    const count = geometry.outer * geometry.inner;
    if (!mode || origin === 'running' || (count === 0 && whole === undefined)) return;
    const { rows } = this.#layer;
    if (rows) {
      // Of an instance norm: the mean of those of the samples.
      const { running, channels } = this.#layer;
      if (!updates || running === undefined) return;
      const { samples } = geometry as RowGeometry;
      const { mean, variance } = averageOf(held, samples, channels);
      running.update(count / samples, mean, variance);
      return;
    }
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

  #pass({ geometry }: ForwardCall<ArrayOf<D>>, x: ArrayOf<D>, held: Held<ParametersOf<ArrayOf<D>>>) {
    return { geometry, x, mean: held.mean, variance: held.variance };
  }

  #running({ mean, variance }: MeanAndVariance): Found<ParametersOf<ArrayOf<D>>> {
    const { running, channels } = this.#layer;
    if (running === undefined) return cut;
    checkRunning(running, channels);
    copyInto(mean, running.mean);
    copyInto(variance, running.variance);
    return fromRunning;
  }

  #partOf(
    whole: Moments,
    origin: Origin,
    { mean, variance }: Held<ParametersOf<ArrayOf<D>>>,
  ): Found<ParametersOf<ArrayOf<D>>> {
    copyInto(mean, whole.mean);
    copyInto(variance, whole.variance);
    return { ...cut, origin, whole };
  }

  /** What is to be done with the statistics of what counts. */
  #ofPresent(
    call: ForwardCall<ArrayOf<D>>,
    { whole, hasMany }: Counted,
    held: Held<ParametersOf<ArrayOf<D>>>,
  ): Found<ParametersOf<ArrayOf<D>>> {
    let hasValues = false;
    for (let c = 0; c < this.#layer.channels; c++) hasValues ||= whole.count[c] > 0;
    if (this.#takesRunning(call, hasValues, hasMany)) return this.#running(held);
    this.#fallBack(whole, held);
    return hasMany ? { ...cut, origin: call.origin, whole } : fromRunning;
  }

  /** The same of groups, each as if it were the batch. */
  #ofParts(
    call: ForwardCall<ArrayOf<D>>,
    groups: Groups,
    parts: Readonly<Record<number, MomentsOfPresentPass<ArrayOf<D>>>>,
  ): Found<ParametersOf<ArrayOf<D>>> {
    const wholes: Record<number, Moments> = create(null);
    let origin: Origin = 'running';
    for (let i = 0; i < groups.number; i++) {
      const group = groups.list[i];
      const { whole, hasMany } = ownOf(parts[i], this.#layer.config.dtype);
      wholes[i] = whole;
      let hasValues = false;
      for (let c = 0; c < this.#layer.channels; c++) hasValues ||= whole.count[c] > 0;
      if (this.#takesRunning(call, hasValues, hasMany)) {
        this.#running(group);
        continue;
      }
      this.#fallBack(whole, group);
      if (!hasMany) continue;
      group.counts = whole.count;
      origin = 'x';
    }
    return { ...cut, origin, whole: mergeMoments(wholes, groups.number), groups };
  }

  /** Whether so little counts that the running statistics normalize; one value may be an error. */
  #takesRunning(
    { input, geometry, training, division }: ForwardCall<ArrayOf<D>>,
    hasValues: boolean,
    hasMany: boolean,
  ): boolean {
    const { running, config } = this.#layer;
    if (hasMany) return false;
    if (hasValues && (config.singleValue === 'throw' || running === undefined))
      throw oneValuePerChannelError(input.shape, training, division && 'virtualBatchSize');
    if (running === undefined) return false;
    if (geometry.outer * geometry.inner > 0) this.#checkRunning();
    return true;
  }

  /** Refuses an x of which too little counts before it is taken from the caller. */
  checkCount(call: ForwardCall<ArrayOf<D>>, x: ArrayOf<D>): void {
    const presence = call.present?.presence;
    if (call.origin !== 'x' || !presence) return;
    const { dtype } = this.#layer.config;
    const check = (part: Presence, geometry: Geometry, values: ArrayOf<D>) => {
      const fullest = fullestOf(part, geometry, dtype, values);
      this.#takesRunning(call, fullest > 0, fullest > 1);
    };
    const groups = call.division && groupsOf(call.division, call.geometry);
    if (groups) eachPart(groups, dtype, x, presence, check);
    else check(presence, call.geometry, x);
  }

  /** Statistics in which a channel may have no value: there y is as in evaluation, or the bias where there is none. */
  #fallBack(whole: Moments, { mean, variance }: MeanAndVariance): void {
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

  #alone({ variance }: Held<ParametersOf<ArrayOf<D>>>): Found<ParametersOf<ArrayOf<D>>> {
    const { rows, config } = this.#layer;
    if (config.eps === 0) checkVaries(variance, rows ? 'row' : 'channel');
    // The pass over rows finds them again.
    return rows ? fused : cut;
  }

  /** The statistics are there: what they make of weight and bias, where training follows the running ones. */
  #renormed(
    { renorm, moments, geometry }: ForwardCall<ArrayOf<D>>,
    held: Held<ParametersOf<ArrayOf<D>>>,
    found: Found<ParametersOf<ArrayOf<D>>>,
  ): Found<ParametersOf<ArrayOf<D>>> {
    const { running, config } = this.#layer;
    if (renorm === undefined || running === undefined || found.origin === 'running') return found;
    if (geometry.outer * geometry.inner === 0 && found.whole === undefined) return found;
    this.#checkRunning();
    // All parts of a batch are normalized alike, though the first of them changes the running statistics.
    const { mean, variance } = (moments && this.#taken?.before(moments)) ?? running;
    const before = moments ? { mean: copyOf(mean), variance: copyOf(variance) } : { mean, variance };
    return { ...found, renormed: renormed(arithmeticOf(config.dtype), config.eps, renorm, held, before) };
  }

  /** What is to be done with what all members have. */
  #together(
    { input }: ForwardCall<ArrayOf<D>>,
    whole: Moments,
    held: Held<ParametersOf<ArrayOf<D>>>,
  ): Found<ParametersOf<ArrayOf<D>>> {
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
export function findOwn<T extends TensorArray>(
  passes: Passes<T>,
  eps: number,
  pass: MomentsPass<T>,
): boolean {
  if (eps > 0) return true;
  passes.moments(pass);
  checkVaries(pass.variance);
  return false;
}
