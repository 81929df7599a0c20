// Batch renormalization and ghost batch norm as their papers have them, in doubles.
import * as reference from './reference.js';

type Values = ArrayLike<number>;

export interface Pass {
  readonly x: Values;
  readonly extents: reference.Extents;
  readonly eps: number;
  readonly weight?: Values;
  readonly bias?: Values;
  readonly residual?: Values;
  readonly relu?: boolean;
}

export interface Bounds {
  readonly rMax: number;
  readonly dMax: number;
}

/** One value per channel each. */
export interface Correction {
  readonly r: Float64Array;
  readonly d: Float64Array;
}

export interface Gradients {
  readonly dx: Float64Array;
  readonly dWeight: Float64Array;
  readonly dBias: Float64Array;
  /** dy as the ReLU lets it through. */
  readonly dResidual: Float64Array;
  /** Per channel, the sizes of what is added up to the gradients of weight and bias, and of the largest dx. */
  readonly magnitude: reference.Gradients['magnitude'];
}

function forEach({ outer, channels, inner }: reference.Extents, visit: (at: number, c: number) => void) {
  for (let o = 0; o < outer; o++)
    for (let c = 0; c < channels; c++)
      for (let i = 0; i < inner; i++) visit((o * channels + c) * inner + i, c);
}

function clip(value: number, from: number, to: number): number {
  return Math.min(Math.max(value, from), to);
}

/** What the statistics of a batch and the running ones from before it say. */
export function correction(
  batch: reference.Statistics,
  before: reference.Statistics,
  eps: number,
  { rMax, dMax }: Bounds,
): Correction {
  const running = (c: number) => Math.sqrt(before.variance[c] + eps);
  return {
    r: Float64Array.from(batch.variance, (variance, c) =>
      clip(Math.sqrt(variance + eps) / running(c), 1 / rMax, rMax),
    ),
    d: Float64Array.from(batch.mean, (mean, c) => clip((mean - before.mean[c]) / running(c), -dMax, dMax)),
  };
}

/** y = weight · (x̂ · r + d) + bias, with the statistics of x. */
export function forward(pass: Pass, { r, d }: Correction): Float64Array {
  const { x, extents, eps, weight, bias, residual, relu } = pass;
  const normalized = reference.forwardTraining(x, extents, { eps }).y;
  forEach(extents, (at, c) => {
    const y = (weight?.[c] ?? 1) * (normalized[at] * r[c] + d[c]) + (bias?.[c] ?? 0) + (residual?.[at] ?? 0);
    normalized[at] = relu && y <= 0 ? 0 : y;
  });
  return normalized;
}

/** r and d are constants. */
export function backward(pass: Pass, dy: Values, of: Correction): Gradients {
  const { x, extents, eps, weight } = pass;
  const y = forward(pass, of);
  const dResidual = Float64Array.from(dy, (value, i) => (pass.relu && y[i] <= 0 ? 0 : value));
  const scaled = Float64Array.from(of.r, (r, c) => r * (weight?.[c] ?? 1));
  const { dx, dWeight, dBias, magnitude } = reference.backwardTraining(dResidual, x, extents, {
    eps,
    weight: scaled,
  });
  const both = (first: Float64Array, second: Float64Array, sign: (d: number) => number) =>
    Float64Array.from(first, (value, c) => of.r[c] * value + sign(of.d[c]) * second[c]);
  return {
    dx,
    dWeight: both(dWeight, dBias, (d) => d),
    dBias,
    dResidual,
    magnitude: { ...magnitude, dWeight: both(magnitude.dWeight, magnitude.dBias, Math.abs) },
  };
}

/**
 * Parts of a batch of so many samples each; the last may be smaller, and joins the one before where it has one value per channel, but
 * not where three or more have no more than that.
 */
export function groups(samples: number, size: number, valuesPerSample: number): [from: number, to: number][] {
  const parts: [number, number][] = [];
  for (let from = 0; from < samples; from += size) parts.push([from, Math.min(from + size, samples)]);
  const last = parts[parts.length - 1];
  const areAllOne = parts.length > 2 && size * valuesPerSample === 1;
  if (parts.length > 1 && !areAllOne && (last[1] - last[0]) * valuesPerSample === 1) {
    parts.pop();
    parts[parts.length - 1][1] = samples;
  }
  return parts;
}
