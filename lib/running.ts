import { backend } from './backend/index.js';
import type { Decay } from './conventions.js';
import { dtypeNamed } from './dtype.js';
import { evenCountOf, type Moments } from './moments.js';
import { copyInto, filled, typedArrayType } from './typed-array.js';
import type { FloatArray } from './types.js';
import { copyAs, newArray } from './validate.js';

/** The statistics that a layer evaluates with: of the batches so far. */
export class RunningStatistics {
  readonly mean: Float64Array;
  readonly variance: Float64Array;
  /** Batches that were offered; 2^53 − 1 at most, as a state may hold. */
  batchesTracked = 0;
  /** Updates of a channel that were left out because they would not have been finite. */
  rejectedUpdates = 0;
  readonly #channels: number;
  #decay = 0;
  readonly #unbiased: boolean;
  /** With decay 'cumulative': how many batches the statistics of each channel are the mean of. */
  accepted: Float64Array | undefined;

  constructor(channels: number, decay: Decay, unbiased: boolean) {
    this.mean = newArray('float64', channels);
    this.variance = filled(newArray('float64', channels), 1);
    this.#channels = channels;
    this.#unbiased = unbiased;
    this.setDecay(decay);
  }

  /** From 'cumulative' on every channel counts as the mean of the batches so far. */
  setDecay(decay: Decay): void {
    if (decay === 'cumulative')
      this.accepted ??= filled(newArray<Float64Array>('float64', this.#channels), this.batchesTracked);
    else {
      this.accepted = undefined;
      this.#decay = decay;
    }
  }

  /** As new: mean 0, variance 1, nothing seen. */
  reset(): void {
    filled(this.mean, 0);
    filled(this.variance, 1);
    if (this.accepted) filled(this.accepted, 0);
    this.batchesTracked = 0;
    this.rejectedUpdates = 0;
  }

  /** Takes the statistics of a batch in: its mean and biased variance, and the number of values per channel. */
  update(count: number, mean: Float64Array, variance: Float64Array): void {
    this.#take(count, mean, variance, this.#unbiased);
  }

  /** The same of statistics whose values may have weights, or differ in number from channel to channel. */
  updateFrom(moments: Moments): void {
    const even = evenCountOf(moments);
    if (even !== undefined) {
      this.update(even, moments.mean, moments.variance);
      return;
    }
    const { mean, variance, kept, empty } = unevenBatch(moments, this.#unbiased, this.variance);
    this.#take(1, mean, variance, false);
    this.rejectedUpdates -= empty;
    for (let c = 0; c < this.#channels; c++) if (!Number.isNaN(kept[c])) this.variance[c] = kept[c];
  }

  #take(count: number, mean: Float64Array, variance: Float64Array, unbiased: boolean): void {
    this.rejectedUpdates += backend.updateRunningStats(
      mean,
      variance,
      this.#channels,
      count,
      this.#decay,
      unbiased,
      this.mean,
      this.variance,
      this.accepted,
    );
    this.batchesTracked = Math.min(this.batchesTracked + 1, Number.MAX_SAFE_INTEGER);
  }

  /**
   * Takes over what there is of a state, which does not say which channels have rejected batches: all count as accepted.
   */
  load(
    mean: FloatArray | undefined,
    variance: FloatArray | undefined,
    batchesTracked: number | undefined,
  ): void {
    if (mean) copyInto(this.mean, mean);
    if (variance) copyInto(this.variance, variance);
    if (batchesTracked === undefined) return;
    this.batchesTracked = batchesTracked;
    if (this.accepted) filled(this.accepted, batchesTracked);
  }
}

/**
 * What a batch is worth whose channels differ in what counts: a channel of one value keeps its variance, and one of none all that it
 * has, for what is not finite is left out.
 *
 * @returns mean and variance to take in as they are; the variances that are to be as before, else NaN; how many channels are empty.
 */
export function unevenBatch(moments: Moments, isUnbiased: boolean, before: FloatArray) {
  const { channels, count } = moments;
  const unbiased = moments.unbiasedVariance();
  const mean = copyAs<Float64Array>('float64', moments.mean);
  const variance = copyAs<Float64Array>('float64', isUnbiased ? unbiased : moments.variance);
  const kept = filled(newArray<Float64Array>('float64', channels), Number.NaN);
  let empty = 0;
  for (let c = 0; c < channels; c++) {
    if (Number.isNaN(unbiased[c]) && !Number.isNaN(moments.variance[c])) {
      kept[c] = before[c];
      variance[c] = before[c];
    }
    if (count[c] > 0) continue;
    mean[c] = Number.NaN;
    empty++;
  }
  return { mean, variance, kept, empty };
}

/**
 * {@link Backend.updateRunningStats} for running statistics of either dtype: a channel whose new mean or variance its
 * array cannot hold is left out as well.
 */
export function updateRunningArrays(
  mean: Float64Array,
  variance: Float64Array,
  channels: number,
  count: number,
  decay: number,
  unbiased: boolean,
  runningMean: FloatArray,
  runningVar: FloatArray,
): number {
  const update = (ofMean: Float64Array, ofVar: Float64Array) =>
    backend.updateRunningStats(mean, variance, channels, count, decay, unbiased, ofMean, ofVar);
  const roundsMean = isFloat32(runningMean);
  const roundsVar = isFloat32(runningVar);
  if (!roundsMean && !roundsVar) return update(runningMean as Float64Array, runningVar as Float64Array);
  const newMean = copyAs<Float64Array>('float64', runningMean);
  const newVar = copyAs<Float64Array>('float64', runningVar);
  let rejected = update(newMean, newVar);
  for (let channel = 0; channel < channels; channel++) {
    if (
      (roundsMean && becomesInfinite(newMean[channel])) ||
      (roundsVar && becomesInfinite(newVar[channel]))
    ) {
      rejected++;
      continue;
    }
    runningMean[channel] = newMean[channel];
    runningVar[channel] = newVar[channel];
  }
  return rejected;
}

function isFloat32(array: FloatArray): boolean {
  return dtypeNamed(typedArrayType(array)) === 'float32';
}

/** By rounding to float32: an infinity that was there is that of a channel already left out. */
function becomesInfinite(value: number): boolean {
  return Number.isFinite(value) && !Number.isFinite(Math.fround(value));
}
