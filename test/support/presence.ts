// Batch normalization of values of which not all count alike, as the textbook has it, in doubles.
import type { Extents } from './reference.js';

export interface Counting {
  /** Of each of outer · inner positions. */
  readonly weights: ArrayLike<number>;
  /** Whether NaN is a missing value. */
  readonly missing: boolean;
  /** Whether that is taken for the mean. */
  readonly impute: boolean;
  /** Whether y is 0 where the weight is. */
  readonly zero: boolean;
}

export interface Pass extends Counting {
  readonly x: ArrayLike<number>;
  readonly extents: Extents;
  readonly eps: number;
  readonly weight?: ArrayLike<number>;
  readonly bias?: ArrayLike<number>;
  readonly residual?: ArrayLike<number>;
  readonly relu?: boolean;
}

export interface Statistics {
  readonly count: Float64Array;
  readonly squares: Float64Array;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
}

/** Calls visit(place in x, position) for the values of a channel. */
function forEach(
  { outer, channels, inner }: Extents,
  channel: number,
  visit: (at: number, position: number) => void,
): void {
  for (let o = 0; o < outer; o++)
    for (let i = 0; i < inner; i++) visit((o * channels + channel) * inner + i, o * inner + i);
}

/** What a value counts. */
function shareOf({ x, weights, missing }: Pass, at: number, position: number): number {
  return missing && Number.isNaN(x[at]) ? 0 : weights[position];
}

export function statistics(pass: Pass): Statistics {
  const { x, extents } = pass;
  const { channels } = extents;
  const [count, squares, mean, variance] = Array.from({ length: 4 }, () => new Float64Array(channels));
  for (let c = 0; c < channels; c++) {
    const sum = (term: (value: number, share: number) => number) => {
      let total = 0;
      forEach(extents, c, (at, position) => {
        const share = shareOf(pass, at, position);
        if (share > 0) total += term(x[at], share);
      });
      return total;
    };
    count[c] = sum((_, share) => share);
    squares[c] = sum((_, share) => share * share);
    if (count[c] === 0) continue;
    // In two steps: the first mean takes the digits that all values share.
    const first = sum((value, share) => share * value) / count[c];
    mean[c] = first + sum((value, share) => share * (value - first)) / count[c];
    variance[c] = sum((value, share) => share * (value - mean[c]) ** 2) / count[c];
  }
  return { count, squares, mean, variance };
}

/** With any statistics; a channel without count has y = bias. */
export function forward(pass: Pass, { count, mean, variance }: Statistics): Float64Array {
  const { x, extents, eps, weights, impute, zero } = pass;
  const y = new Float64Array(x.length);
  for (let c = 0; c < extents.channels; c++)
    forEach(extents, c, (at, position) => {
      const bias = pass.bias?.[c] ?? 0;
      const normalized =
        count[c] > 0
          ? ((x[at] - mean[c]) / Math.sqrt(variance[c] + eps)) * (pass.weight?.[c] ?? 1)
          : 0 * x[at];
      let value = impute && Number.isNaN(x[at]) ? bias : normalized + bias;
      value += pass.residual?.[at] ?? 0;
      if (pass.relu && value <= 0) value = 0;
      y[at] = zero && weights[position] === 0 ? 0 : value;
    });
  return y;
}

export interface Gradients {
  readonly dx: Float64Array;
  readonly dWeight: Float64Array;
  readonly dBias: Float64Array;
  readonly dResidual: Float64Array;
  readonly dWeights: Float64Array;
}

/** By the formulas, of the statistics of this pass; or with constant ones. */
export function backward(
  pass: Pass,
  dy: ArrayLike<number>,
  { count, mean, variance }: Statistics,
  training = true,
): Gradients {
  const { x, extents, eps, weights, missing, impute, zero } = pass;
  const { outer, channels, inner } = extents;
  const [dx, dResidual] = [new Float64Array(x.length), new Float64Array(x.length)];
  const [dWeight, dBias] = [new Float64Array(channels), new Float64Array(channels)];
  const dWeights = new Float64Array(outer * inner);
  const y = forward({ ...pass, relu: false, zero: false }, { count, squares: count, mean, variance });
  for (let c = 0; c < channels; c++) {
    const r = count[c] > 0 ? 1 / Math.sqrt(variance[c] + eps) : 0;
    const weight = pass.weight?.[c] ?? 1;
    let [first, second] = [0, 0];
    const gate = (at: number, position: number) =>
      (pass.relu && y[at] <= 0) || (zero && weights[position] === 0) ? 0 : dy[at];
    const isLeftOut = (at: number, position: number) =>
      (missing && Number.isNaN(x[at])) || (weights[position] === 0 && (zero || !Number.isFinite(x[at])));
    forEach(extents, c, (at, position) => {
      const gradient = gate(at, position);
      if (isLeftOut(at, position)) {
        if (impute && weights[position] > 0) dBias[c] += gradient;
        if (impute) dResidual[at] = gradient;
        return;
      }
      dResidual[at] = gradient;
      dBias[c] += gradient;
      first += gradient;
      second += gradient * (x[at] - mean[c]) * r;
    });
    dWeight[c] = second;
    forEach(extents, c, (at, position) => {
      const n = (x[at] - mean[c]) * r;
      const part = training && count[c] > 0 ? shareOf(pass, at, position) / count[c] : 0;
      if (!isLeftOut(at, position)) dx[at] = weight * r * (gate(at, position) - part * (first + n * second));
      if (training && count[c] > 0 && Number.isFinite(x[at]))
        dWeights[position] -=
          (weight / count[c]) * (first * n + 0.5 * second * (n * n - variance[c] * r * r));
    });
  }
  return { dx, dWeight, dBias, dResidual, dWeights };
}
