import type { Values } from './contender.js';
import {
  type Affine,
  deviationProductsOf,
  type Gradients,
  type Moments,
  normalizeRun,
  type Shape,
  squaredDeviationsOf,
  sumOf,
} from './plain-js.js';

/**
 * Group, instance, layer and RMS norm in plain JavaScript loops: what one writes by hand. As plain-js.ts: `x[outer][channels][inner]`,
 * nothing is checked, the caller owns every array. The moments have one value per row, of what is normalized together.
 */

/** Samples whose channels are parted into groups: into as many as there are channels for instance norm. */
export interface GroupShape extends Shape {
  readonly samples: number;
  readonly groups: number;
}

/** y of group and instance norm; the statistics are written to `moments`. */
export function forwardGroups(
  x: Values,
  shape: GroupShape,
  affine: Affine,
  moments: Moments,
  y: Values,
): void {
  if (shape.inner === 1) forwardGroupsLast(x, shape, affine, moments, y);
  else forwardGroupsFirst(x, shape, affine, moments, y);
}

/**
 * The gradients of {@link forwardGroups}. With r = 1 / √(variance + eps), M values per row, S = Σ weight · dy and
 * D = Σ weight · dy · (x − mean) of a row: dx = r · (weight · dy − S / M − (x − mean) · r² · D / M).
 */
export function backwardGroups(
  dy: Values,
  x: Values,
  shape: GroupShape,
  moments: Moments,
  affine: Affine,
  gradients: Gradients,
): void {
  gradients.dWeight.fill(0);
  gradients.dBias.fill(0);
  if (shape.inner === 1) backwardGroupsLast(dy, x, shape, moments, affine, gradients);
  else backwardGroupsFirst(dy, x, shape, moments, affine, gradients);
}

/** A group of a sample lies in one piece. */
function forwardGroupsFirst(
  x: Values,
  { samples, groups, channels, inner }: GroupShape,
  { weight, bias, eps }: Affine,
  { mean, variance }: Moments,
  y: Values,
): void {
  const ofGroup = channels / groups;
  const length = ofGroup * inner;
  for (let row = 0, i = 0; row < samples * groups; row++) {
    const center = sumOf(x, i, i + length) / length;
    mean[row] = center;
    variance[row] = squaredDeviationsOf(x, i, i + length, center) / length;
    const r = 1 / Math.sqrt(variance[row] + eps);
    const first = (row % groups) * ofGroup;
    for (let c = first; c < first + ofGroup; c++, i += inner)
      normalizeRun(x, y, i, i + inner, center, r * weight[c], bias[c]);
  }
}

function backwardGroupsFirst(
  dy: Values,
  x: Values,
  { samples, groups, channels, inner }: GroupShape,
  { mean, variance }: Moments,
  { weight, eps }: Affine,
  { dx, dWeight, dBias }: Gradients,
): void {
  const ofGroup = channels / groups;
  const length = ofGroup * inner;
  for (let row = 0, at = 0; row < samples * groups; row++, at += length) {
    const center = mean[row];
    const r = 1 / Math.sqrt(variance[row] + eps);
    const first = (row % groups) * ofGroup;
    let sum = 0;
    let product = 0;
    for (let c = first, i = at; c < first + ofGroup; c++, i += inner) {
      const s = sumOf(dy, i, i + inner);
      const p = deviationProductsOf(dy, x, i, i + inner, center);
      dBias[c] += s;
      dWeight[c] += r * p;
      sum += weight[c] * s;
      product += weight[c] * p;
    }
    const k2 = (-r * r * r * product) / length;
    const k3 = (-r * sum) / length;
    for (let c = first, i = at; c < first + ofGroup; c++, i += inner) {
      const k1 = r * weight[c];
      for (let j = i; j < i + inner; j++) dx[j] = k1 * dy[j] + k2 * (x[j] - center) + k3;
    }
  }
}

/** Position by position, so that memory is read in order, with sums of each channel. */
function forwardGroupsLast(
  x: Values,
  { samples, groups, outer, channels }: GroupShape,
  { weight, bias, eps }: Affine,
  { mean, variance }: Moments,
  y: Values,
): void {
  const ofGroup = channels / groups;
  const size = (outer / samples) * channels;
  const count = size / groups;
  const [center, sums, scale] = [0, 1, 2].map(() => new Float64Array(channels));
  for (let n = 0; n < samples; n++) {
    const end = (n + 1) * size;
    sums.fill(0);
    for (let i = n * size; i < end; i += channels) for (let c = 0; c < channels; c++) sums[c] += x[i + c];
    for (let g = 0; g < groups; g++) {
      mean[n * groups + g] = totalOf(sums, g, ofGroup) / count;
      center.fill(mean[n * groups + g], g * ofGroup, (g + 1) * ofGroup);
    }
    sums.fill(0);
    for (let i = n * size; i < end; i += channels)
      for (let c = 0; c < channels; c++) {
        const d = x[i + c] - center[c];
        sums[c] += d * d;
      }
    for (let g = 0; g < groups; g++) {
      const row = n * groups + g;
      variance[row] = totalOf(sums, g, ofGroup) / count;
      const r = 1 / Math.sqrt(variance[row] + eps);
      for (let c = g * ofGroup; c < (g + 1) * ofGroup; c++) scale[c] = r * weight[c];
    }
    for (let i = n * size; i < end; i += channels)
      for (let c = 0; c < channels; c++) y[i + c] = (x[i + c] - center[c]) * scale[c] + bias[c];
  }
}

function backwardGroupsLast(
  dy: Values,
  x: Values,
  { samples, groups, outer, channels }: GroupShape,
  { mean, variance }: Moments,
  { weight, eps }: Affine,
  { dx, dWeight, dBias }: Gradients,
): void {
  const ofGroup = channels / groups;
  const size = (outer / samples) * channels;
  const count = size / groups;
  const [center, sum, product, k1, k2, k3] = Array.from({ length: 6 }, () => new Float64Array(channels));
  for (let n = 0; n < samples; n++) {
    const end = (n + 1) * size;
    for (let g = 0; g < groups; g++) center.fill(mean[n * groups + g], g * ofGroup, (g + 1) * ofGroup);
    sum.fill(0);
    product.fill(0);
    for (let i = n * size; i < end; i += channels)
      for (let c = 0; c < channels; c++) {
        sum[c] += dy[i + c];
        product[c] += dy[i + c] * (x[i + c] - center[c]);
      }
    for (let g = 0; g < groups; g++) {
      const r = 1 / Math.sqrt(variance[n * groups + g] + eps);
      let s = 0;
      let p = 0;
      for (let c = g * ofGroup; c < (g + 1) * ofGroup; c++) {
        dBias[c] += sum[c];
        dWeight[c] += r * product[c];
        s += weight[c] * sum[c];
        p += weight[c] * product[c];
        k1[c] = r * weight[c];
      }
      k2.fill((-r * r * r * p) / count, g * ofGroup, (g + 1) * ofGroup);
      k3.fill((-r * s) / count, g * ofGroup, (g + 1) * ofGroup);
    }
    for (let i = n * size; i < end; i += channels)
      for (let c = 0; c < channels; c++)
        dx[i + c] = k1[c] * dy[i + c] + k2[c] * (x[i + c] - center[c]) + k3[c];
  }
}

function totalOf(sums: Float64Array, group: number, ofGroup: number): number {
  let total = 0;
  for (let c = group * ofGroup; c < (group + 1) * ofGroup; c++) total += sums[c];
  return total;
}

/**
 * y of layer norm, and without the mean and the bias that of RMS norm: rows are what `outer` counts; the statistics are written to
 * `moments`.
 */
export function forwardRows(
  x: Values,
  { outer, channels }: Shape,
  isCentred: boolean,
  { weight, bias, eps }: Affine,
  { mean, variance }: Moments,
  y: Values,
): void {
  for (let row = 0, i = 0; row < outer; row++, i += channels) {
    const center = isCentred ? sumOf(x, i, i + channels) / channels : 0;
    mean[row] = center;
    variance[row] = squaredDeviationsOf(x, i, i + channels, center) / channels;
    const r = 1 / Math.sqrt(variance[row] + eps);
    if (isCentred)
      for (let c = 0; c < channels; c++) y[i + c] = (x[i + c] - center) * r * weight[c] + bias[c];
    else for (let c = 0; c < channels; c++) y[i + c] = x[i + c] * r * weight[c];
  }
}

/** The gradients of {@link forwardRows}, as {@link backwardGroups}; those of RMS norm are without S, and without dBias. */
export function backwardRows(
  dy: Values,
  x: Values,
  { outer, channels }: Shape,
  isCentred: boolean,
  { mean, variance }: Moments,
  { weight, eps }: Affine,
  { dx, dWeight, dBias }: Gradients,
): void {
  dWeight.fill(0);
  dBias.fill(0);
  for (let row = 0, i = 0; row < outer; row++, i += channels) {
    const center = mean[row];
    const r = 1 / Math.sqrt(variance[row] + eps);
    let sum = 0;
    let product = 0;
    for (let c = 0; c < channels; c++) {
      const d = x[i + c] - center;
      const g = dy[i + c] * weight[c];
      sum += g;
      product += g * d;
      dWeight[c] += dy[i + c] * d * r;
      if (isCentred) dBias[c] += dy[i + c];
    }
    const k2 = (-r * r * r * product) / channels;
    const k3 = isCentred ? (-r * sum) / channels : 0;
    for (let c = 0; c < channels; c++) dx[i + c] = r * weight[c] * dy[i + c] + k2 * (x[i + c] - center) + k3;
  }
}
