// Which values of a batch count, and how much: weights, masks and missing values, read and checked.
import type { MomentsOfPresentPass, MomentsPass, Passes, Presence } from './backend/backend.js';
import { describe, isArray, rangeError, typeError } from './errors.js';
import { copyInto, lengthOf, typedArrayType } from './typed-array.js';
import type { DType, FloatArray } from './types.js';
import {
  checkInteger,
  checkLength,
  checkOneOf,
  type Geometry,
  newArray,
  newBytes,
  type ReadTensor,
} from './validate.js';

/**
 * What a NaN in x means. 'propagate': nothing, it makes its channel NaN. 'throw': an error, before anything is written. 'skip': a
 * missing value, which is left out of its channel, and y is NaN there. 'impute': a missing value, left out likewise, for which y is what
 * it would be of the mean: the bias.
 */
export type Missing = 'propagate' | 'throw' | 'skip' | 'impute';

/** What y is where the weight is 0: normalized like the rest, as Keras has it, or 0. */
export type Outside = 'normalize' | 'zero';

/** One per sample or per position, none negative: a mask is weights of 0 and 1. */
export type Weights = FloatArray | Uint8Array;

/** What makes not all values of x count alike. */
export interface PresenceOptions {
  /**
   * How much values count in the statistics: one weight ≥ 0 per sample (`shape[0]` of them, where the channels are another axis) or per
   * position (the product of the shape without the channel axis). A NaN where the weight is 0 harms nothing. Default: all are 1.
   */
  weights?: Weights;
  /** What y is where the weight is 0. Default 'normalize'. */
  outside?: Outside;
  /** What a NaN in x means. Default 'propagate'. */
  missing?: Missing;
}

/** The same as read: each is there, so that nothing of Object.prototype is. */
interface Given {
  weights: Weights | undefined;
  outside: Outside | undefined;
  missing: Missing;
}

export const presenceNames = ['weights', 'outside', 'missing'];

/** What counts in a batch, as read. */
export interface ReadPresence {
  /** undefined where all values count alike. */
  readonly presence: Presence | undefined;
  /** Whether a NaN that counts is an error. */
  readonly throws: boolean;
  /** How many positions have weight. */
  readonly positions: number;
  /** Of the weights that were given. */
  readonly given: GivenWeights | undefined;
}

/** What the weights were that became one for each position. */
interface GivenWeights {
  readonly length: number;
  /** Of their gradient: their own, where they have one. */
  readonly dtype: DType;
  /** How many neighbouring positions share each of them. */
  readonly shared: number;
}

const { max } = Math;
const weightsRule = 'be a Float32Array, Float64Array or Uint8Array';

export function checkMissing(missing: unknown = 'propagate', name = 'missing'): Missing {
  return checkOneOf(name, missing, ['propagate', 'throw', 'skip', 'impute']);
}

/**
 * @param axis of the channels, −1 the last.
 * @returns undefined where all values count alike.
 */
export function readPresence(
  { weights, outside, missing }: Given,
  tensor: ReadTensor,
  { outer, inner }: Geometry,
  axis: number,
): ReadPresence | undefined {
  const zero = outside !== undefined && checkOneOf('outside', outside, ['normalize', 'zero']) === 'zero';
  if (weights === undefined && missing === 'propagate') return undefined;
  // What its shape says is room for.
  checkLength(tensor);
  const { shape } = tensor;
  const positions = outer * inner;
  const index = axis < 0 ? axis + shape.length : axis;
  const all = weights === undefined ? undefined : readWeights(weights, positions, index === 0 ? 0 : shape[0]);
  const leavesOut = missing === 'skip' || missing === 'impute';
  return {
    presence:
      leavesOut || all
        ? {
            weights: all?.values,
            missing: leavesOut,
            impute: missing === 'impute',
            zero: zero && all !== undefined,
          }
        : undefined,
    throws: missing === 'throw',
    positions: all?.present ?? positions,
    given: all?.given,
  };
}

/** @param samples how many there are; 0 where they cannot have weights, for the channels are the first axis. */
function readWeights(weights: unknown, positions: number, samples: number) {
  const type = typedArrayType(weights);
  if (type !== 'Float32Array' && type !== 'Float64Array' && type !== 'Uint8Array')
    throw typeError('weights', weightsRule, weights);
  const given = weights as Weights;
  const length = lengthOf(given);
  const isPerSample = samples > 0 && length === samples;
  if (length !== positions && !isPerSample) {
    const perPosition = `${positions} values (one per position)`;
    const rule =
      samples > 0 && samples !== positions
        ? `have ${samples} values (one per sample) or ${perPosition}`
        : `have ${perPosition}`;
    throw rangeError('weights', rule, describe(length));
  }
  // Of one type from here on, which makes loops several times as fast.
  const each = newArray<Float64Array>('float64', length);
  copyInto(each, given);
  let present = 0;
  let sum = 0;
  for (let i = 0; i < length; i++) {
    const weight = each[i];
    if (!(weight >= 0 && weight < Infinity))
      throw rangeError('weights', 'be finite numbers from 0 on', `${weight} at ${i}`);
    if (weight > 0) present++;
    sum += weight;
  }
  const shared = length === positions ? 1 : positions / samples;
  sum *= shared;
  // The unbiased variance has its square.
  if (!(sum * sum < Infinity)) throw rangeError('weights', 'have a sum below 1e154', String(sum));
  let values = each;
  if (shared !== 1) {
    values = newArray('float64', positions);
    for (let i = 0; i < positions; i++) values[i] = each[(i - (i % shared)) / shared];
  }
  const dtype: DType = type === 'Float32Array' ? 'float32' : 'float64';
  return { values, present: present * shared, given: { length, dtype, shared } };
}

/** A pass that finds the statistics of what counts. */
export function presentPass<T extends FloatArray>(
  pass: MomentsPass<T>,
  presence: Presence,
): MomentsOfPresentPass<T> {
  const { channels } = pass.geometry;
  return {
    geometry: pass.geometry,
    x: pass.x,
    mean: pass.mean,
    variance: pass.variance,
    presence,
    count: newArray('float64', channels),
    squares: newArray('float64', channels),
  };
}

/** @throws RangeError where a NaN that counts is in x and was said to be an error. */
export function checkPresent<T extends FloatArray>(
  passes: Passes<T>,
  { presence, throws }: ReadPresence,
  geometry: Geometry,
  x: T,
): void {
  if (throws) checkNoneMissing(passes, geometry, x, presence?.weights);
}

/** @throws RangeError where a NaN is in x, and has weight. */
export function checkNoneMissing<T extends FloatArray>(
  passes: Passes<T>,
  geometry: Geometry,
  x: T,
  weights: Float64Array | undefined,
): void {
  const { outer, channels, inner } = geometry;
  const place = passes.findMissing(geometry, x, weights);
  if (place === outer * channels * inner) return;
  const channel = ((place - (place % inner)) / inner) % channels;
  throw rangeError(
    'x',
    "have no NaN with missing: 'throw'",
    `one at ${place}, in channel ${channel}`,
    'MISSING_VALUE',
  );
}

/** The gradient of each of the weights that were given, of those of positions; undefined where these are. */
export function gradientOfWeights(
  perPosition: Float64Array | undefined,
  present: ReadPresence | undefined,
): FloatArray | undefined {
  if (perPosition === undefined || present?.given === undefined) return undefined;
  const { length, dtype, shared } = present.given;
  const gradient = newArray<FloatArray>(dtype, length);
  for (let i = 0; i < length; i++) {
    let sum = 0;
    for (let at = i * shared; at < (i + 1) * shared; at++) sum += perPosition[at];
    gradient[i] = sum;
  }
  return gradient;
}

/**
 * A mask of sequences of different lengths, as `weights` of a batch of shape [lengths.length, steps, channels] with `axis: -1`.
 *
 * @param lengths of the sequences, integers from 0 to `steps`.
 * @param steps how many there are in the batch, padding included. Default: the longest.
 * @returns a Uint8Array with `steps` values for each sequence: as many ones as it is long, then zeros.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`).
 * @example
 * import { maskOf } from 'batchnorm';
 *
 * console.log(maskOf([2, 1], 3)); // Uint8Array(6) [ 1, 1, 0, 1, 0, 0 ]
 */
export function maskOf(lengths: ArrayLike<number>, steps?: number): Uint8Array {
  if (!isArray(lengths) && typedArrayType(lengths) === undefined)
    throw typeError('lengths', 'be an array of integers', lengths);
  const largest = Number.MAX_SAFE_INTEGER;
  const most = steps === undefined ? largest : checkInteger('steps', steps, 0, largest);
  const count = checkInteger('lengths.length', lengths.length, 0, largest);
  const ends = newArray<Float64Array>('float64', count);
  let longest = 0;
  for (let i = 0; i < count; i++) {
    ends[i] = checkInteger(`lengths[${i}]`, lengths[i], 0, most);
    longest = max(longest, ends[i]);
  }
  const width = steps === undefined ? longest : most;
  const mask = newBytes(count * width);
  for (let i = 0; i < count; i++) for (let step = 0; step < ends[i]; step++) mask[i * width + step] = 1;
  return mask;
}
