import { backend } from './backend/index.js';
import type { FloatArray } from './tensor.js';
import { typedArrayType } from './typed-array.js';
import { copyAs } from './validate.js';

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
  return typedArrayType(array) === 'Float32Array';
}

/** By rounding to float32: an infinity that was there is that of a channel already left out. */
function becomesInfinite(value: number): boolean {
  return Number.isFinite(value) && !Number.isFinite(Math.fround(value));
}
