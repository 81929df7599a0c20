import type { Values } from './contender.js';
import { type Affine, forwardInference, type Gradients, type Moments, type Shape } from './plain-js.js';

/**
 * Training in plain JavaScript loops where not all values count alike: what one writes by hand for weights and masks, and for missing
 * values. As plain-js.ts: `x[outer][channels][inner]`, nothing is checked, the caller owns every array.
 */

/** One weight for each of outer · inner positions; a mask is weights of 0 and 1. */
export type PositionWeights = Float32Array | Uint8Array;

/** y of all values, with the weighted statistics of the batch, which are written to `moments`. */
export function forwardWeighted(
  x: Values,
  weights: PositionWeights,
  shape: Shape,
  affine: Affine,
  moments: Moments,
  y: Values,
): void {
  const { outer, channels, inner } = shape;
  const { mean, variance } = moments;
  const total = sumOf(weights);
  if (inner === 1) {
    mean.fill(0);
    for (let n = 0, i = 0; n < outer; n++, i += channels) {
      const w = weights[n];
      if (w !== 0) for (let c = 0; c < channels; c++) mean[c] += w * x[i + c];
    }
    for (let c = 0; c < channels; c++) mean[c] /= total;
    variance.fill(0);
    for (let n = 0, i = 0; n < outer; n++, i += channels) {
      const w = weights[n];
      if (w !== 0)
        for (let c = 0; c < channels; c++) {
          const d = x[i + c] - mean[c];
          variance[c] += w * d * d;
        }
    }
    for (let c = 0; c < channels; c++) variance[c] /= total;
  } else {
    for (let c = 0; c < channels; c++) {
      let sum = 0;
      for (let n = 0; n < outer; n++) {
        const first = (n * channels + c) * inner;
        const at = n * inner;
        for (let i = 0; i < inner; i++) sum += weights[at + i] * x[first + i];
      }
      const center = sum / total;
      let squares = 0;
      for (let n = 0; n < outer; n++) {
        const first = (n * channels + c) * inner;
        const at = n * inner;
        for (let i = 0; i < inner; i++) {
          const d = x[first + i] - center;
          squares += weights[at + i] * d * d;
        }
      }
      mean[c] = center;
      variance[c] = squares / total;
    }
  }
  forwardInference(x, shape, moments, affine, y);
}

/**
 * The gradients of {@link forwardWeighted}: with W = Σ w, S₁ = Σ dy and D = Σ dy · (x − mean) over all values,
 * dx = weight · r · (dy − w / W · (S₁ + (x − mean) · r² · D)).
 */
export function backwardWeighted(
  dy: Values,
  x: Values,
  weights: PositionWeights,
  shape: Shape,
  { mean, variance }: Moments,
  { weight, eps }: Affine,
  { dx, dWeight, dBias }: Gradients,
): void {
  const { outer, channels, inner } = shape;
  const total = sumOf(weights);
  if (inner > 1) {
    for (let c = 0; c < channels; c++) {
      const center = mean[c];
      let sum = 0;
      let product = 0;
      for (let n = 0; n < outer; n++) {
        const first = (n * channels + c) * inner;
        for (let i = first; i < first + inner; i++) {
          sum += dy[i];
          product += dy[i] * (x[i] - center);
        }
      }
      const r = 1 / Math.sqrt(variance[c] + eps);
      const k1 = weight[c] * r;
      const k2 = (k1 * r * r * product) / total;
      const k3 = (k1 * sum) / total;
      for (let n = 0; n < outer; n++) {
        const first = (n * channels + c) * inner;
        const at = n * inner;
        for (let i = 0; i < inner; i++)
          dx[first + i] = k1 * dy[first + i] - weights[at + i] * (k2 * (x[first + i] - center) + k3);
      }
      dWeight[c] = r * product;
      dBias[c] = sum;
    }
    return;
  }
  const sum = new Float64Array(channels);
  const product = new Float64Array(channels);
  const size = outer * channels;
  for (let i = 0; i < size; i += channels)
    for (let c = 0; c < channels; c++) {
      sum[c] += dy[i + c];
      product[c] += dy[i + c] * (x[i + c] - mean[c]);
    }
  const [k1, k2, k3] = [0, 1, 2].map(() => new Float64Array(channels));
  for (let c = 0; c < channels; c++) {
    const r = 1 / Math.sqrt(variance[c] + eps);
    k1[c] = weight[c] * r;
    k2[c] = (k1[c] * r * r * product[c]) / total;
    k3[c] = (k1[c] * sum[c]) / total;
    dWeight[c] = r * product[c];
    dBias[c] = sum[c];
  }
  for (let n = 0, i = 0; n < outer; n++, i += channels) {
    const w = weights[n];
    for (let c = 0; c < channels; c++)
      dx[i + c] = k1[c] * dy[i + c] - w * (k2[c] * (x[i + c] - mean[c]) + k3[c]);
  }
}

/** NaN is a missing value, left out of its channel, whose y is the bias. How many there are of each channel goes to `counts`. */
export function forwardImputed(
  x: Values,
  { outer, channels, inner }: Shape,
  { weight, bias, eps }: Affine,
  { mean, variance }: Moments,
  counts: Float64Array,
  y: Values,
): void {
  if (inner > 1) {
    for (let c = 0; c < channels; c++) {
      let count = 0;
      let sum = 0;
      for (let n = 0; n < outer; n++) {
        const first = (n * channels + c) * inner;
        for (let i = first; i < first + inner; i++) {
          const value = x[i];
          if (Number.isNaN(value)) continue;
          sum += value;
          count++;
        }
      }
      const center = sum / count;
      let squares = 0;
      for (let n = 0; n < outer; n++) {
        const first = (n * channels + c) * inner;
        for (let i = first; i < first + inner; i++) {
          const d = x[i] - center;
          if (!Number.isNaN(d)) squares += d * d;
        }
      }
      const scale = weight[c] / Math.sqrt(squares / count + eps);
      for (let n = 0; n < outer; n++) {
        const first = (n * channels + c) * inner;
        for (let i = first; i < first + inner; i++) {
          const d = x[i] - center;
          y[i] = Number.isNaN(d) ? bias[c] : d * scale + bias[c];
        }
      }
      counts[c] = count;
      mean[c] = center;
      variance[c] = squares / count;
    }
    return;
  }
  const size = outer * channels;
  mean.fill(0);
  counts.fill(0);
  for (let i = 0; i < size; i += channels)
    for (let c = 0; c < channels; c++) {
      const value = x[i + c];
      if (Number.isNaN(value)) continue;
      mean[c] += value;
      counts[c]++;
    }
  for (let c = 0; c < channels; c++) mean[c] /= counts[c];
  variance.fill(0);
  for (let i = 0; i < size; i += channels)
    for (let c = 0; c < channels; c++) {
      const d = x[i + c] - mean[c];
      if (!Number.isNaN(d)) variance[c] += d * d;
    }
  const scale = new Float64Array(channels);
  for (let c = 0; c < channels; c++) {
    variance[c] /= counts[c];
    scale[c] = weight[c] / Math.sqrt(variance[c] + eps);
  }
  for (let i = 0; i < size; i += channels)
    for (let c = 0; c < channels; c++) {
      const d = x[i + c] - mean[c];
      y[i + c] = Number.isNaN(d) ? bias[c] : d * scale[c] + bias[c];
    }
}

/** The gradients of {@link forwardImputed}: dx is 0 where a value is missing, whose dy reaches the bias alone. */
export function backwardImputed(
  dy: Values,
  x: Values,
  { outer, channels, inner }: Shape,
  { mean, variance }: Moments,
  counts: Float64Array,
  { weight, eps }: Affine,
  { dx, dWeight, dBias }: Gradients,
): void {
  if (inner > 1) {
    for (let c = 0; c < channels; c++) {
      const center = mean[c];
      let all = 0;
      let sum = 0;
      let product = 0;
      for (let n = 0; n < outer; n++) {
        const first = (n * channels + c) * inner;
        for (let i = first; i < first + inner; i++) {
          const d = x[i] - center;
          all += dy[i];
          if (Number.isNaN(d)) continue;
          sum += dy[i];
          product += dy[i] * d;
        }
      }
      const r = 1 / Math.sqrt(variance[c] + eps);
      const k1 = weight[c] * r;
      const k2 = (k1 * r * r * product) / counts[c];
      const k3 = (k1 * sum) / counts[c];
      for (let n = 0; n < outer; n++) {
        const first = (n * channels + c) * inner;
        for (let i = first; i < first + inner; i++) {
          const d = x[i] - center;
          dx[i] = Number.isNaN(d) ? 0 : k1 * dy[i] - k2 * d - k3;
        }
      }
      dWeight[c] = r * product;
      dBias[c] = all;
    }
    return;
  }
  const size = outer * channels;
  const [all, sum, product, k1, k2, k3] = Array.from({ length: 6 }, () => new Float64Array(channels));
  for (let i = 0; i < size; i += channels)
    for (let c = 0; c < channels; c++) {
      const d = x[i + c] - mean[c];
      all[c] += dy[i + c];
      if (Number.isNaN(d)) continue;
      sum[c] += dy[i + c];
      product[c] += dy[i + c] * d;
    }
  for (let c = 0; c < channels; c++) {
    const r = 1 / Math.sqrt(variance[c] + eps);
    k1[c] = weight[c] * r;
    k2[c] = (k1[c] * r * r * product[c]) / counts[c];
    k3[c] = (k1[c] * sum[c]) / counts[c];
    dWeight[c] = r * product[c];
    dBias[c] = all[c];
  }
  for (let i = 0; i < size; i += channels)
    for (let c = 0; c < channels; c++) {
      const d = x[i + c] - mean[c];
      dx[i + c] = Number.isNaN(d) ? 0 : k1[c] * dy[i + c] - k2[c] * d - k3[c];
    }
}

function sumOf(weights: PositionWeights): number {
  let sum = 0;
  for (let i = 0; i < weights.length; i++) sum += weights[i];
  return sum;
}
