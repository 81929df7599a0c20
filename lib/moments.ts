import { passesFor } from './backend/index.js';
import type { AsyncOptions } from './calls.js';
import { isObject, rangeError, stateError, typeError } from './errors.js';
import { isShared, move } from './handover.js';
import { type NumberJSON, toNumbers, valuesFrom, weightsFrom } from './json.js';
import { operate, readAsync } from './operations.js';
import {
  checkMissing,
  checkPresent,
  type Missing,
  presentPass,
  type ReadPresence,
  readPresence,
  type Weights,
} from './presence.js';
import { areCallsUntouched, namesOf, propertiesOf } from './properties.js';
import { stage, unstage } from './staging.js';
import { filled, lengthOf } from './typed-array.js';
import type { DType, DTypeOf, FloatArray, Said, Saying, TensorArray, TensorLike } from './types.js';
import {
  checkAxis,
  checkDivisor,
  checkDtype,
  checkLength,
  checkObject,
  checkPerChannel,
  checkVariance,
  copyOf,
  type Geometry,
  geometryOf,
  newArray,
  type ReadTensor,
  readOptions,
  readShape,
} from './validate.js';

/** What {@link Moments.of} may be given. */
export interface MomentsOptions<D extends DType = DType> {
  /** The channel axis; −1 is the last. Default 1. */
  axis?: number;
  /** Of the data: to be said of a Uint16Array, whose bits may be bfloat16 or float16. Default: what the data are. */
  dtype?: D;
  /** As {@link PresenceOptions} has them. */
  weights?: Weights;
  /** As {@link PresenceOptions} has it; 'impute' is 'skip' here. */
  missing?: Missing;
}

/** What {@link Moments.from} takes: one value per channel each. */
export interface MomentsParts {
  /** How many values, or the sum of their weights; one number where it is that of every channel. */
  count: FloatArray | readonly NumberJSON[] | number;
  /** The sum of the squares of the weights. Default: `count`, of values that all have the weight 1. */
  squares?: FloatArray | readonly NumberJSON[] | number;
  /** Of the values. Where there are none, it does not matter. */
  mean: FloatArray | readonly NumberJSON[];
  /** Biased: divided by `count`. */
  variance: FloatArray | readonly NumberJSON[];
}

/** What {@link Moments.toJSON} gives, and {@link Moments.from} takes. */
export interface MomentsJSON {
  /** As of {@link Moments}, like all of them. */
  count: NumberJSON[];
  /** As of {@link Moments}. */
  squares: NumberJSON[];
  /** As of {@link Moments}. */
  mean: NumberJSON[];
  /** As of {@link Moments}. */
  variance: NumberJSON[];
}

const optionNames = namesOf(['axis', 'dtype', 'weights', 'missing']);
const asyncOptionNames = namesOf(
  ['axis', 'dtype', 'weights', 'missing', 'signal', 'transfer'],
  areCallsUntouched,
);
const partNames = namesOf(['count', 'squares', 'mean', 'variance']);
const constructorKey = Symbol('Moments');
const { freeze } = Object;
const { abs } = Math;

/**
 * The statistics of some values per channel, as a value: to be merged with those of other parts of a batch, sent, kept, and given to
 * {@link BatchNorm.forward}, which then normalizes its x as a part of all that they describe.
 *
 * @example
 * import { BatchNorm, Moments } from 'batchnorm';
 *
 * const parts = [[1, 2, 3], [6]].map((values) => ({ data: Float32Array.from(values), shape: [values.length, 1] }));
 * const moments = Moments.merge(...parts.map((part) => Moments.of(part)));
 * console.log(moments.count[0], moments.mean[0], moments.variance[0]); // 4 3 3.5
 * const bn = new BatchNorm(1);
 * const ys = parts.map((x) => bn.forward(x, { moments })); // with the statistics of all four, taken in once
 */
export class Moments {
  /** How many channels there are. */
  readonly channels: number;
  /** Per channel how many values, or the sum of their weights; 0 where there are none, as all else then is. */
  readonly count: Float64Array;
  /** Per channel the sum of the squares of the weights: of values that all have the weight 1 as many as there are. */
  readonly squares: Float64Array;
  /** Per channel. */
  readonly mean: Float64Array;
  /** Per channel, biased: divided by `count`. */
  readonly variance: Float64Array;
  // That an object is one of this class, nobody else can say.
  #isOne = true;

  /** @internal */
  constructor(
    key: symbol,
    count: Float64Array,
    squares: Float64Array,
    mean: Float64Array,
    variance: Float64Array,
  ) {
    if (key !== constructorKey)
      throw stateError(
        'INVALID_TYPE',
        'Moments must be made by Moments.of(), merge() or from(), got a call of its constructor',
      );
    this.channels = lengthOf(mean);
    this.count = count;
    this.squares = squares;
    this.mean = mean;
    this.variance = variance;
    freeze(this);
  }

  /** @internal */
  static isOne(value: unknown): value is Moments {
    return isObject(value) && #isOne in value;
  }

  /**
   * The statistics of a tensor, in one pass over it: to the bit those that training finds.
   *
   * @param x any rank from 1 to 64, with at least one channel; it may be empty.
   * @param options axis 1 by default.
   * @returns its moments.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`), Error (`ERR_BATCHNORM_BUFFER_CHANGED`) for what does not fit.
   * @example
   * import { Moments } from 'batchnorm';
   *
   * const { mean, variance } = Moments.of({ data: Float32Array.of(1, 10, 3, 30), shape: [2, 2] });
   * console.log(mean, variance); // Float64Array(2) [ 2, 20 ] Float64Array(2) [ 1, 100 ]
   */
  static of<T extends Said<N>, N extends DType = never>(
    x: TensorLike<T>,
    options?: MomentsOptions<DTypeOf<T>> & Saying<N>,
  ): Moments {
    const { input, geometry, present } = readInput<T>(x, readOptions(options, optionNames));
    const { count, mean, variance } = roomFor(geometry);
    const passes = passesFor<T>(input.dtype);
    const pass = { geometry, x: input.data, mean, variance };
    if (present) checkPresent(passes, present, geometry, input.data);
    if (present?.presence) {
      const counting = presentPass(pass, present.presence);
      passes.momentsOfPresent(counting);
      return new Moments(constructorKey, counting.count, counting.squares, mean, variance);
    }
    if (input.size > 0) passes.moments(pass);
    return new Moments(constructorKey, count, copyOf(count), mean, variance);
  }

  /**
   * {@link Moments.of} off the event loop. x is read at the moment of the call.
   *
   * @param x as in {@link Moments.of}.
   * @param options those, and `signal` and `transfer`.
   * @returns a promise of its moments.
   * @throws what {@link Moments.of} throws, as a rejection; the reason of `signal`. In full: `ERR_BATCHNORM_INVALID_TYPE`,
   *   `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`,
   *   `ERR_BATCHNORM_NOT_TRANSFERABLE`, `ERR_BATCHNORM_BUFFER_CHANGED`, `ERR_BATCHNORM_NO_THREAD`.
   * @example
   * import { Moments } from 'batchnorm';
   *
   * const { mean } = await Moments.ofAsync({ data: Float32Array.of(1, 10, 3, 30), shape: [2, 2] });
   * console.log(mean); // Float64Array(2) [ 2, 20 ]
   */
  static async ofAsync<T extends Said<N>, N extends DType = never>(
    x: TensorLike<T>,
    options?: MomentsOptions<DTypeOf<T>> & Saying<N> & AsyncOptions,
  ): Promise<Moments> {
    const { signal, transfer } = readAsync(options);
    const { input, geometry, present } = readInput<T>(x, readOptions(options, asyncOptionNames));
    const { data, dtype, size } = input;
    const { count, mean, variance } = roomFor(geometry);
    const passes = passesFor<T>(dtype);
    if (present) checkPresent(passes, present, geometry, data);
    const presence = present?.presence;
    const squares = presence ? newArray<Float64Array>('float64', geometry.channels) : copyOf(count);
    let source = transfer ? data : stage(data, dtype);
    return operate(
      signal,
      (slot) => {
        if (transfer) source = move('x.data', data, dtype);
        const pass = { geometry, x: source, mean, variance };
        if (presence) passes.momentsOfPresentLater({ ...pass, presence, count, squares }, slot);
        else passes.momentsLater(pass, slot);
        return [pass, presence, count, squares];
      },
      () => {
        if (!isShared(source)) unstage(source);
        if (size === 0) {
          filled(mean, 0);
          filled(variance, 0);
        }
        return new Moments(constructorKey, count, squares, mean, variance);
      },
    );
  }

  /**
   * The moments of parts together: any number of any sizes, empty ones too.
   *
   * @param parts of as many channels each.
   * @returns what {@link Moments.of} would give of all their values, to rounding; of one part that is not empty exactly that.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`)
   *   where there is none, or channels differ.
   * @example
   * import { Moments } from 'batchnorm';
   *
   * const parts = [[1, 2, 3], [6]].map((values) => ({ data: Float32Array.from(values), shape: [values.length, 1] }));
   * console.log(Moments.merge(...parts.map((part) => Moments.of(part))).mean[0]); // 3
   */
  static merge(...parts: readonly Moments[]): Moments {
    const number = parts.length;
    if (number === 0) throw rangeError('moments', 'be one at least', 'none');
    for (let i = 0; i < number; i++)
      checkMoments(`moments[${i}]`, parts[i], i === 0 ? undefined : parts[0].channels);
    return mergeMoments(parts, number);
  }

  /**
   * Moments of numbers that come from elsewhere: another process, a file, another library.
   *
   * @param parts copied; what {@link Moments.toJSON} gave, or what {@link forwardTraining} returned.
   * @returns the moments.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for
   *   counts that are negative, NaN or infinite, negative variances, and arrays of different lengths.
   * @example
   * import { Moments } from 'batchnorm';
   *
   * const moments = Moments.from({ count: 4, mean: [3], variance: [3.5] });
   * console.log(moments.unbiasedVariance()[0].toFixed(4)); // 4.6667
   */
  static from(parts: MomentsParts): Moments {
    checkObject('moments', parts);
    const { count, squares, mean, variance } = propertiesOf(parts, partNames);
    const means = valuesFrom('moments.mean', mean);
    const channels = lengthOf(means);
    const variances = valuesFrom('moments.variance', variance, channels);
    checkVariance('moments.variance', variances, channels);
    const counts = weightsFrom('moments.count', count, channels);
    const allSquares =
      squares === undefined ? copyOf(counts) : weightsFrom('moments.squares', squares, channels);
    for (let c = 0; c < channels; c++) {
      if (counts[c] > 0) continue;
      allSquares[c] = 0;
      means[c] = 0;
      variances[c] = 0;
    }
    return new Moments(constructorKey, counts, allSquares, means, variances);
  }

  /**
   * The unbiased estimate of the variance: variance · count² / (count² − squares), which for values of weight 1 is
   * variance · count / (count − 1); NaN where there is but one value, or none.
   *
   * @returns one value per channel.
   * @throws RangeError (`ERR_BATCHNORM_OUT_OF_MEMORY`), TypeError (`ERR_BATCHNORM_INVALID_TYPE`) and RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`) where an array has been taken away.
   * @example
   * import { Moments } from 'batchnorm';
   *
   * console.log(Moments.from({ count: 3, mean: [2], variance: [2] }).unbiasedVariance()); // Float64Array(1) [ 3 ]
   */
  unbiasedVariance(): Float64Array {
    checkMoments('moments', this);
    const { channels, count, squares, variance } = this;
    const unbiased = newArray<Float64Array>('float64', channels);
    for (let c = 0; c < channels; c++) unbiased[c] = variance[c] * correctionOf(count[c], squares[c]);
    return unbiased;
  }

  /**
   * As plain arrays of numbers; NaN, Infinity, -Infinity and -0, which JSON does not know, are strings.
   *
   * @returns what {@link Moments.from} takes.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`) where an array has been taken away.
   * @example
   * import { Moments } from 'batchnorm';
   *
   * const moments = Moments.from({ count: 2, mean: [1], variance: [4] });
   * console.log(JSON.stringify(moments)); // {"count":[2],"squares":[2],"mean":[1],"variance":[4]}
   */
  toJSON(): MomentsJSON {
    checkMoments('moments', this);
    return {
      count: toNumbers(this.count),
      squares: toNumbers(this.squares),
      mean: toNumbers(this.mean),
      variance: toNumbers(this.variance),
    };
  }
}

/** What is merged: moments, or what somebody has sent of them. */
export type Part = Pick<Moments, 'channels' | 'count' | 'squares' | 'mean' | 'variance'>;

/** The first `number` of some parts, together. */
export function mergeMoments(parts: Readonly<Record<number, Part>>, number: number): Moments {
  const { channels } = parts[0];
  const count = newArray<Float64Array>('float64', channels);
  const squares = newArray<Float64Array>('float64', channels);
  const mean = newArray<Float64Array>('float64', channels);
  const variance = newArray<Float64Array>('float64', channels);
  for (let c = 0; c < channels; c++) {
    let first: Part | undefined;
    let filled = 0;
    for (let i = 0; i < number; i++) {
      const part = parts[i];
      if (part.count[c] === 0) continue;
      first ??= part;
      filled++;
      count[c] += part.count[c];
      squares[c] += part.squares[c];
    }
    if (first === undefined) continue;
    if (filled === 1) {
      mean[c] = first.mean[c];
      variance[c] = first.variance[c];
      continue;
    }
    const centre = first.mean[c];
    const shift = sumOf(parts, number, c, (part) => part.count[c] * (part.mean[c] - centre)) / count[c];
    mean[c] = centre + shift;
    const squared = (part: Part) => {
      const distance = part.mean[c] - centre - shift;
      return part.count[c] * (part.variance[c] + distance * distance);
    };
    variance[c] = sumOf(parts, number, c, squared) / count[c];
  }
  return new Moments(constructorKey, count, squares, mean, variance);
}

/** What the unbiased variance is more than the biased one: NaN where there is none. */
function correctionOf(count: number, squares: number): number {
  if (squares === count) return count > 1 ? count / (count - 1) : Number.NaN;
  const more = count * count - squares;
  return more > 0 ? (count * count) / more : Number.NaN;
}

/**
 * Moments of a batch that x is a part of: each channel has values, one more than one.
 *
 * @param isUneven whether values may be missing or outside, so that channels may have none, or all of them.
 * @param needsMany whether one value per channel is an error.
 */
export function checkWhole(
  value: unknown,
  channels: number,
  eps: number,
  isUneven = false,
  needsMany = true,
): Moments {
  const moments = checkMoments('moments', value, channels);
  const { count, variance } = moments;
  let hasValues = false;
  for (let channel = 0; channel < channels; channel++) {
    if (!(count[channel] > 0 && count[channel] < Infinity) && !(isUneven && count[channel] === 0))
      throw rangeError('moments', 'have values in every channel', `${count[channel]} in channel ${channel}`);
    if (count[channel] > 0) hasValues = true;
  }
  if (hasValues && needsMany && !haveMany(moments))
    throw rangeError('moments', 'have more than one value per channel', '1');
  checkVariance('moments.variance', variance, channels);
  if (eps === 0)
    for (let channel = 0; channel < channels; channel++)
      if (count[channel] > 0) checkDivisor('moments.variance', variance[channel], channel);
  return moments;
}

/**
 * Whether a channel has more than one value, as sums tell it: they always do where all values have the weight 1, and never say so of one
 * value.
 */
export function haveMany({
  channels,
  count,
  squares,
}: Pick<Part, 'channels' | 'count' | 'squares'>): boolean {
  for (let c = 0; c < channels; c++) if (count[c] * count[c] > squares[c]) return true;
  return false;
}

/** Moments, of so many channels where that is known. What their arrays hold is the caller's; that they are whole is checked. */
export function checkMoments(name: string, value: unknown, channels?: number): Moments {
  if (!Moments.isOne(value)) throw typeError(name, 'be Moments (of Moments.of, merge or from)', value);
  const expected = channels ?? value.channels;
  if (value.channels !== expected)
    throw rangeError(name, `have ${expected} channels`, String(value.channels));
  checkPerChannel(`${name}.count`, value.count, expected);
  checkPerChannel(`${name}.squares`, value.squares, expected);
  checkPerChannel(`${name}.mean`, value.mean, expected);
  checkPerChannel(`${name}.variance`, value.variance, expected);
  return value;
}

/** A copy that nobody else has. */
export function momentsOf({
  count,
  squares,
  mean,
  variance,
}: {
  readonly count: Float64Array | number;
  readonly squares: Float64Array | number;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
}): Moments {
  const channels = lengthOf(mean);
  const counts = typeof count === 'number' ? filledWith(channels, count) : copyOf(count);
  const allSquares = typeof squares === 'number' ? filledWith(channels, squares) : copyOf(squares);
  const means = copyOf(mean);
  const variances = copyOf(variance);
  if (count === 0) {
    filled(means, 0);
    filled(variances, 0);
  }
  return new Moments(constructorKey, counts, allSquares, means, variances);
}

/** Copies of a mean and a variance that evaluation can do with. */
export function finiteMoments(
  moments: Moments,
  unbiased: boolean,
): { mean: Float64Array; variance: Float64Array } {
  const { channels, count } = moments;
  const mean = copyOf(moments.mean);
  const variance = unbiased ? moments.unbiasedVariance() : copyOf(moments.variance);
  checkVariance('moments.variance', moments.variance, channels);
  for (let c = 0; c < channels; c++) {
    if (!(count[c] > 0))
      throw rangeError('moments', 'have values in every channel', `${count[c]} in channel ${c}`);
    if (!Number.isFinite(mean[c]) || !Number.isFinite(moments.variance[c]))
      throw rangeError(
        'moments',
        'be finite',
        `mean ${mean[c]} and variance ${moments.variance[c]} in channel ${c}`,
      );
    if (Number.isNaN(variance[c]))
      throw rangeError('moments', 'have more than one value per channel', `${count[c]} in channel ${c}`);
  }
  return { mean, variance };
}

/** How many values of weight 1 every channel has; undefined where that differs, or weights do. */
export function evenCountOf({ channels, count, squares }: Moments): number | undefined {
  const first = count[0];
  for (let c = 0; c < channels; c++) if (count[c] !== first || squares[c] !== first) return undefined;
  return first;
}

/** A sum over the parts that are not empty in a channel, and beside it what its roundings have lost (Neumaier, 1974). */
function sumOf(
  parts: Readonly<Record<number, Part>>,
  number: number,
  channel: number,
  term: (part: Part) => number,
): number {
  let sum = 0;
  let lost = 0;
  for (let i = 0; i < number; i++) {
    if (parts[i].count[channel] === 0) continue;
    const value = term(parts[i]);
    const total = sum + value;
    lost += abs(sum) >= abs(value) ? sum - total + value : value - total + sum;
    sum = total;
  }
  // Of what is not finite, what was lost is NaN.
  return Number.isFinite(sum) ? sum + lost : sum;
}

function filledWith(channels: number, value: number): Float64Array {
  return filled(newArray<Float64Array>('float64', channels), value);
}

function roomFor({ outer, channels, inner }: Geometry) {
  return {
    count: filledWith(channels, outer * inner),
    mean: newArray<Float64Array>('float64', channels),
    variance: newArray<Float64Array>('float64', channels),
  };
}

function readInput<T extends TensorArray>(
  x: unknown,
  { axis = 1, dtype, weights, missing }: MomentsOptions,
): { input: ReadTensor<T>; geometry: Geometry; present: ReadPresence | undefined } {
  checkAxis(axis);
  checkDtype(dtype);
  const input = readShape<T>('x', x, dtype);
  const geometry = geometryOf(input, axis);
  const present = readPresence(
    { weights, outside: undefined, missing: checkMissing(missing) },
    input,
    geometry,
    axis,
  );
  checkLength(input);
  return { input, geometry, present };
}
