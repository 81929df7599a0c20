import type { Values } from './contender.js';

/**
 * Batch normalization in plain JavaScript loops: what one writes without a native addon, and the yardstick
 * the addon is measured against. It therefore aims at speed as well as at clarity: typed arrays, sums in
 * doubles, memory walked in order, several independent sums where one would wait for the addition before it.
 *
 * A tensor is `x[outer][channels][inner]`. Channels-first images (N, C, H, W) have `inner = H * W`;
 * channels-last images and dense activations have `inner = 1`. Nothing is checked and nothing but a few
 * values per channel is allocated: the caller owns every array.
 */

/** The shape `[outer][channels][inner]`; `inner === 1` is channels-last. */
export interface Shape {
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
}

/** Mean and biased variance, one value per channel. */
export interface Moments {
  readonly mean: Float64Array;
  readonly variance: Float64Array;
}

/** The affine part, one value per channel, and the constant under the root. */
export interface Affine {
  readonly weight: Values;
  readonly bias: Values;
  readonly eps: number;
}

/** What {@link backward} writes: `dx` like x, the others one value per channel. */
export interface Gradients {
  readonly dx: Values;
  readonly dWeight: Values;
  readonly dBias: Values;
}

/**
 * y = (x − mean) / √(variance + eps) · weight + bias with the statistics of this batch, which are found in
 * two passes and written to `moments`.
 */
export function forwardTraining(x: Values, shape: Shape, affine: Affine, moments: Moments, y: Values): void {
  if (shape.inner === 1) {
    momentsChannelsLast(x, shape, moments);
    normalizeChannelsLast(x, shape, moments, affine, y);
  } else {
    trainChannelsFirst(x, shape, affine, moments, y);
  }
}

/** y = (x − mean) / √(variance + eps) · weight + bias with given statistics, usually the running ones. */
export function forwardInference(x: Values, shape: Shape, moments: Moments, affine: Affine, y: Values): void {
  if (shape.inner === 1) normalizeChannelsLast(x, shape, moments, affine, y);
  else normalizeChannelsFirst(x, shape, moments, affine, y);
}

/**
 * The gradients of {@link forwardTraining}, through the batch statistics. With r = 1 / √(variance + eps),
 * M values per channel, S₁ = Σ dy and D = Σ dy · (x − mean):
 * dBias = S₁, dWeight = r · D, dx = weight · r · (dy − S₁ / M − (x − mean) · r² · D / M).
 */
export function backward(
  dy: Values,
  x: Values,
  shape: Shape,
  moments: Moments,
  affine: Affine,
  gradients: Gradients,
): void {
  if (shape.inner === 1) backwardChannelsLast(dy, x, shape, moments, affine, gradients);
  else backwardChannelsFirst(dy, x, shape, moments, affine, gradients);
}

/** One channel at a time: between the passes it is likely still in the cache. */
function trainChannelsFirst(
  x: Values,
  { outer, channels, inner }: Shape,
  { weight, bias, eps }: Affine,
  { mean, variance }: Moments,
  y: Values,
): void {
  const stride = channels * inner;
  const size = outer * stride;
  const count = outer * inner;
  for (let c = 0; c < channels; c++) {
    const first = c * inner;
    let sum = 0;
    for (let i = first; i < size; i += stride) sum += sumOf(x, i, i + inner);
    const center = sum / count;
    let squares = 0;
    for (let i = first; i < size; i += stride) squares += squaredDeviationsOf(x, i, i + inner, center);
    const scale = weight[c] / Math.sqrt(squares / count + eps);
    for (let i = first; i < size; i += stride) normalizeRun(x, y, i, i + inner, center, scale, bias[c]);
    mean[c] = center;
    variance[c] = squares / count;
  }
}

function normalizeChannelsFirst(
  x: Values,
  { outer, channels, inner }: Shape,
  { mean, variance }: Moments,
  { weight, bias, eps }: Affine,
  y: Values,
): void {
  const scale = new Float64Array(channels);
  for (let c = 0; c < channels; c++) scale[c] = weight[c] / Math.sqrt(variance[c] + eps);
  let i = 0;
  for (let n = 0; n < outer; n++) {
    for (let c = 0; c < channels; c++, i += inner) {
      normalizeRun(x, y, i, i + inner, mean[c], scale[c], bias[c]);
    }
  }
}

function backwardChannelsFirst(
  dy: Values,
  x: Values,
  { outer, channels, inner }: Shape,
  { mean, variance }: Moments,
  { weight, eps }: Affine,
  { dx, dWeight, dBias }: Gradients,
): void {
  const stride = channels * inner;
  const size = outer * stride;
  const count = outer * inner;
  for (let c = 0; c < channels; c++) {
    const first = c * inner;
    const center = mean[c];
    let sum = 0;
    let product = 0;
    for (let i = first; i < size; i += stride) {
      sum += sumOf(dy, i, i + inner);
      product += deviationProductsOf(dy, x, i, i + inner, center);
    }
    const r = 1 / Math.sqrt(variance[c] + eps);
    const k1 = weight[c] * r;
    const k2 = (-k1 * r * r * product) / count;
    const k3 = (-k1 * sum) / count;
    for (let i = first; i < size; i += stride) {
      const end = i + inner;
      for (let j = i; j < end; j++) dx[j] = k1 * dy[j] + k2 * (x[j] - center) + k3;
    }
    dWeight[c] = r * product;
    dBias[c] = sum;
  }
}

export function sumOf(x: Values, start: number, end: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = start;
  for (; i < end - 3; i += 4) {
    s0 += x[i];
    s1 += x[i + 1];
    s2 += x[i + 2];
    s3 += x[i + 3];
  }
  for (; i < end; i++) s0 += x[i];
  return s0 + s1 + (s2 + s3);
}

export function squaredDeviationsOf(x: Values, start: number, end: number, center: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = start;
  for (; i < end - 3; i += 4) {
    const d0 = x[i] - center;
    const d1 = x[i + 1] - center;
    const d2 = x[i + 2] - center;
    const d3 = x[i + 3] - center;
    s0 += d0 * d0;
    s1 += d1 * d1;
    s2 += d2 * d2;
    s3 += d3 * d3;
  }
  for (; i < end; i++) s0 += (x[i] - center) ** 2;
  return s0 + s1 + (s2 + s3);
}

export function deviationProductsOf(
  dy: Values,
  x: Values,
  start: number,
  end: number,
  center: number,
): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = start;
  for (; i < end - 3; i += 4) {
    s0 += dy[i] * (x[i] - center);
    s1 += dy[i + 1] * (x[i + 1] - center);
    s2 += dy[i + 2] * (x[i + 2] - center);
    s3 += dy[i + 3] * (x[i + 3] - center);
  }
  for (; i < end; i++) s0 += dy[i] * (x[i] - center);
  return s0 + s1 + (s2 + s3);
}

export function normalizeRun(
  x: Values,
  y: Values,
  start: number,
  end: number,
  mean: number,
  scale: number,
  bias: number,
): void {
  for (let i = start; i < end; i++) y[i] = (x[i] - mean) * scale + bias;
}

/** Row by row, so that memory is read in order; four rows at once, so that four values share an update. */
function momentsChannelsLast(x: Values, { outer, channels }: Shape, { mean, variance }: Moments): void {
  const size = outer * channels;
  const blocked = size - (size % (4 * channels));
  mean.fill(0);
  let i = 0;
  for (; i < blocked; i += 4 * channels) {
    const i1 = i + channels;
    const i2 = i1 + channels;
    const i3 = i2 + channels;
    for (let c = 0; c < channels; c++) mean[c] += x[i + c] + x[i1 + c] + (x[i2 + c] + x[i3 + c]);
  }
  for (; i < size; i += channels) {
    for (let c = 0; c < channels; c++) mean[c] += x[i + c];
  }
  for (let c = 0; c < channels; c++) mean[c] /= outer;

  variance.fill(0);
  for (i = 0; i < blocked; i += 4 * channels) {
    const i1 = i + channels;
    const i2 = i1 + channels;
    const i3 = i2 + channels;
    for (let c = 0; c < channels; c++) {
      const center = mean[c];
      const d0 = x[i + c] - center;
      const d1 = x[i1 + c] - center;
      const d2 = x[i2 + c] - center;
      const d3 = x[i3 + c] - center;
      variance[c] += d0 * d0 + d1 * d1 + (d2 * d2 + d3 * d3);
    }
  }
  for (; i < size; i += channels) {
    for (let c = 0; c < channels; c++) variance[c] += (x[i + c] - mean[c]) ** 2;
  }
  for (let c = 0; c < channels; c++) variance[c] /= outer;
}

function normalizeChannelsLast(
  x: Values,
  { outer, channels }: Shape,
  { mean, variance }: Moments,
  { weight, bias, eps }: Affine,
  y: Values,
): void {
  const size = outer * channels;
  const blocked = size - (size % (4 * channels));
  const scale = new Float64Array(channels);
  for (let c = 0; c < channels; c++) scale[c] = weight[c] / Math.sqrt(variance[c] + eps);
  let i = 0;
  for (; i < blocked; i += 4 * channels) {
    const i1 = i + channels;
    const i2 = i1 + channels;
    const i3 = i2 + channels;
    for (let c = 0; c < channels; c++) {
      const center = mean[c];
      const s = scale[c];
      const b = bias[c];
      y[i + c] = (x[i + c] - center) * s + b;
      y[i1 + c] = (x[i1 + c] - center) * s + b;
      y[i2 + c] = (x[i2 + c] - center) * s + b;
      y[i3 + c] = (x[i3 + c] - center) * s + b;
    }
  }
  for (; i < size; i += channels) {
    for (let c = 0; c < channels; c++) y[i + c] = (x[i + c] - mean[c]) * scale[c] + bias[c];
  }
}

function backwardChannelsLast(
  dy: Values,
  x: Values,
  { outer, channels }: Shape,
  { mean, variance }: Moments,
  { weight, eps }: Affine,
  { dx, dWeight, dBias }: Gradients,
): void {
  const size = outer * channels;
  const blocked = size - (size % (4 * channels));
  const sum = new Float64Array(channels);
  const product = new Float64Array(channels);
  let i = 0;
  for (; i < blocked; i += 4 * channels) {
    const i1 = i + channels;
    const i2 = i1 + channels;
    const i3 = i2 + channels;
    for (let c = 0; c < channels; c++) {
      const center = mean[c];
      const g0 = dy[i + c];
      const g1 = dy[i1 + c];
      const g2 = dy[i2 + c];
      const g3 = dy[i3 + c];
      sum[c] += g0 + g1 + (g2 + g3);
      product[c] +=
        g0 * (x[i + c] - center) +
        g1 * (x[i1 + c] - center) +
        (g2 * (x[i2 + c] - center) + g3 * (x[i3 + c] - center));
    }
  }
  for (; i < size; i += channels) {
    for (let c = 0; c < channels; c++) {
      sum[c] += dy[i + c];
      product[c] += dy[i + c] * (x[i + c] - mean[c]);
    }
  }

  const k1 = new Float64Array(channels);
  const k2 = new Float64Array(channels);
  const k3 = new Float64Array(channels);
  for (let c = 0; c < channels; c++) {
    const r = 1 / Math.sqrt(variance[c] + eps);
    k1[c] = weight[c] * r;
    k2[c] = (-k1[c] * r * r * product[c]) / outer;
    k3[c] = (-k1[c] * sum[c]) / outer;
    dWeight[c] = r * product[c];
    dBias[c] = sum[c];
  }

  for (i = 0; i < blocked; i += 4 * channels) {
    const i1 = i + channels;
    const i2 = i1 + channels;
    const i3 = i2 + channels;
    for (let c = 0; c < channels; c++) {
      const center = mean[c];
      const a = k1[c];
      const b = k2[c];
      const d = k3[c];
      dx[i + c] = a * dy[i + c] + b * (x[i + c] - center) + d;
      dx[i1 + c] = a * dy[i1 + c] + b * (x[i1 + c] - center) + d;
      dx[i2 + c] = a * dy[i2 + c] + b * (x[i2 + c] - center) + d;
      dx[i3 + c] = a * dy[i3 + c] + b * (x[i3 + c] - center) + d;
    }
  }
  for (; i < size; i += channels) {
    for (let c = 0; c < channels; c++) {
      dx[i + c] = k1[c] * dy[i + c] + k2[c] * (x[i + c] - mean[c]) + k3[c];
    }
  }
}
