// Batch renormalization (Ioffe, "Batch Renormalization", 2017): training in which y follows the running statistics, as far as bounds
// let it. It is a batch norm whose weight and bias are others, for r and d are constants to its backward.
import { isObject, typeError } from './errors.js';
import { namesOf } from './properties.js';
import { lengthOf } from './typed-array.js';
import type { DType, FloatArray } from './types.js';
import { checkAtLeast, newArray, readOptions } from './validate.js';

/** How far training may follow the running statistics. */
export interface Renorm {
  /** Bound of r, the ratio of the batch's deviation to the running one, and of its inverse: from 1 on, Infinity too. */
  rMax: number;
  /** Bound of d, the distance between the two means in running deviations: from 0 on, Infinity too. */
  dMax: number;
}

/** One value per channel each. */
interface MeanAndVariance {
  readonly mean: Float64Array;
  readonly variance: Float64Array;
}

/** What a forward was renormalized with: one value per channel each. */
export interface Renormed<T extends FloatArray> {
  /** Those from before the batch. */
  readonly before: MeanAndVariance;
  /** Constants to the backward. */
  readonly r: Float64Array;
  readonly d: Float64Array;
  /** weight · r and bias + weight · d: the parameters of its passes. */
  readonly weight: T;
  readonly bias: T;
}

const { freeze } = Object;
const { max, min, sqrt } = Math;
const renormNames = namesOf(['rMax', 'dMax']);

/** A copy that nobody changes; undefined for none. */
export function checkRenorm(value: unknown): Renorm | undefined {
  if (value === undefined) return undefined;
  if (!isObject(value)) throw typeError('renorm', 'be an object { rMax, dMax }', value);
  const { rMax, dMax } = readOptions(value as Renorm, renormNames, 'renorm');
  return freeze({ rMax: checkAtLeast('renorm.rMax', rMax, 1), dMax: checkAtLeast('renorm.dMax', dMax, 0) });
}

/** Of the statistics of a batch, of which `before` are the running ones. */
export function renormed<T extends FloatArray>(
  dtype: DType,
  eps: number,
  { rMax, dMax }: Renorm,
  batch: MeanAndVariance & { readonly weight: T | undefined; readonly bias: T | undefined },
  before: MeanAndVariance,
): Renormed<T> {
  const channels = lengthOf(batch.mean);
  const made: Renormed<T> = {
    before,
    r: newArray('float64', channels),
    d: newArray('float64', channels),
    weight: newArray(dtype, channels),
    bias: newArray(dtype, channels),
  };
  for (let channel = 0; channel < channels; channel++) {
    const deviation = sqrt(before.variance[channel] + eps);
    const ratio = sqrt(batch.variance[channel] + eps) / deviation;
    const distance = (batch.mean[channel] - before.mean[channel]) / deviation;
    const r = min(max(ratio, 1 / rMax), rMax);
    const d = min(max(distance, -dMax), dMax);
    const weight = batch.weight?.[channel] ?? 1;
    made.r[channel] = r;
    made.d[channel] = d;
    made.weight[channel] = weight * r;
    made.bias[channel] = (batch.bias?.[channel] ?? 0) + weight * d;
  }
  return made;
}

/** The gradient of the weight, of those that the passes have found: Σdy·x̂ in its place, and Σdy. */
export function renormGradient<T extends FloatArray>(
  { r, d }: Renormed<T>,
  dWeight: T | undefined,
  sumDy: T | undefined,
): void {
  if (dWeight === undefined || sumDy === undefined) return;
  for (let c = 0; c < lengthOf(dWeight); c++) dWeight[c] = r[c] * dWeight[c] + d[c] * sumDy[c];
}
