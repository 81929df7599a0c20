/**
 * Batch normalization as the textbook has it, in doubles, over x[outer][channels][inner]: the oracle of the tests.
 * Two passes, every sum compensated (Neumaier), no blocking and no shortcut, so that it stays right to the last
 * digits at mean 1e4, standard deviation 1e-2 and millions of elements.
 */
export interface Extents {
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
}

type Values = ArrayLike<number>;

export interface Affine {
  readonly weight?: Values | null;
  readonly bias?: Values | null;
}

export interface Statistics {
  readonly mean: Values;
  readonly variance: Values;
}

export interface Moments {
  readonly mean: Float64Array;
  /** What rounding the mean to a double left over: the mean is mean + remainder. */
  readonly remainder: Float64Array;
  /** Biased: divided by count. */
  readonly variance: Float64Array;
  readonly count: number;
}

export interface Gradients {
  readonly dx: Float64Array;
  readonly dWeight: Float64Array;
  readonly dBias: Float64Array;
  /**
   * Per channel, the sizes of what is added up to each gradient (x̂ counted as 1 + |x̂|, since it comes out of a
   * difference itself). Rounding errors are a share of these, not of sums that may cancel to nothing.
   */
  readonly magnitude: {
    readonly dx: Float64Array;
    readonly dWeight: Float64Array;
    readonly dBias: Float64Array;
  };
}

/** A sum whose rounding errors are summed as well (Neumaier 1974). */
export class Sum {
  private sum = 0;
  private error = 0;

  add(value: number): void {
    const total = this.sum + value;
    this.error += Math.abs(this.sum) >= Math.abs(value) ? this.sum - total + value : value - total + this.sum;
    this.sum = total;
  }

  get value(): number {
    return this.sum + this.error;
  }
}

function forEachOfChannel(
  { outer, channels, inner }: Extents,
  c: number,
  visit: (index: number) => void,
): void {
  for (let o = 0; o < outer; o++) {
    const start = (o * channels + c) * inner;
    for (let i = 0; i < inner; i++) visit(start + i);
  }
}

/** Mean and biased variance of each channel. */
export function moments(x: Values, extents: Extents): Moments {
  const { channels } = extents;
  const count = extents.outer * extents.inner;
  const mean = new Float64Array(channels);
  const remainder = new Float64Array(channels);
  const variance = new Float64Array(channels);
  for (let c = 0; c < channels; c++) {
    const total = new Sum();
    forEachOfChannel(extents, c, (i) => total.add(x[i]));
    mean[c] = total.value / count;

    const deviations = new Sum();
    forEachOfChannel(extents, c, (i) => deviations.add(x[i] - mean[c]));
    remainder[c] = deviations.value / count;

    const squares = new Sum();
    forEachOfChannel(extents, c, (i) => squares.add((x[i] - mean[c] - remainder[c]) ** 2));
    variance[c] = squares.value / count;
  }
  return { mean, remainder, variance, count };
}

function normalize(
  x: Values,
  extents: Extents,
  { mean, variance }: Statistics,
  remainder: Values | undefined,
  { weight, bias }: Affine,
  eps: number,
): Float64Array {
  const y = new Float64Array(extents.outer * extents.channels * extents.inner);
  for (let c = 0; c < extents.channels; c++) {
    const scale = (weight?.[c] ?? 1) / Math.sqrt(variance[c] + eps);
    const shift = bias?.[c] ?? 0;
    const rest = remainder?.[c] ?? 0;
    forEachOfChannel(extents, c, (i) => {
      y[i] = (x[i] - mean[c] - rest) * scale + shift;
    });
  }
  return y;
}

/** y = weight·(x − mean)/√(variance + eps) + bias with the statistics of x itself. */
export function forwardTraining(
  x: Values,
  extents: Extents,
  { eps, ...affine }: Affine & { readonly eps: number },
): {
  readonly y: Float64Array;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
  readonly count: number;
} {
  const { mean, remainder, variance, count } = moments(x, extents);
  return { y: normalize(x, extents, { mean, variance }, remainder, affine, eps), mean, variance, count };
}

/** The same with statistics from elsewhere. */
export function forwardInference(
  x: Values,
  extents: Extents,
  { eps, mean, variance, ...affine }: Affine & Statistics & { readonly eps: number },
): Float64Array {
  return normalize(x, extents, { mean, variance }, undefined, affine, eps);
}

/** The gradient of forwardTraining: dx = weight·r·(dy − Σdy/M − x̂·Σ(dy·x̂)/M), dWeight = Σ(dy·x̂), dBias = Σdy. */
export function backwardTraining(
  dy: Values,
  x: Values,
  extents: Extents,
  { eps, weight }: { readonly eps: number; readonly weight?: Values | null },
): Gradients {
  const { mean, remainder, variance, count } = moments(x, extents);
  const result = gradientSums(dy, x, extents, { mean, variance }, remainder, eps);
  for (let c = 0; c < extents.channels; c++) {
    const r = 1 / Math.sqrt(variance[c] + eps);
    const scale = (weight?.[c] ?? 1) * r;
    const s1 = result.dBias[c] / count;
    const s2 = result.dWeight[c] / count;
    const s2Magnitude = result.magnitude.dWeight[c] / count;
    forEachOfChannel(extents, c, (i) => {
      const xHat = (x[i] - mean[c] - remainder[c]) * r;
      result.dx[i] = scale * (dy[i] - s1 - xHat * s2);
      const magnitude =
        Math.abs(scale) * (Math.abs(dy[i]) + Math.abs(s1) + (1 + Math.abs(xHat)) * s2Magnitude);
      result.magnitude.dx[c] = Math.max(result.magnitude.dx[c], magnitude);
    });
  }
  return result;
}

/** The gradient of forwardInference, whose statistics are constants: dx = weight·r·dy. */
export function backwardFrozen(
  dy: Values,
  x: Values,
  extents: Extents,
  { eps, mean, variance, weight }: Statistics & { readonly eps: number; readonly weight?: Values | null },
): Gradients {
  const result = gradientSums(dy, x, extents, { mean, variance }, undefined, eps);
  for (let c = 0; c < extents.channels; c++) {
    const scale = (weight?.[c] ?? 1) / Math.sqrt(variance[c] + eps);
    forEachOfChannel(extents, c, (i) => {
      result.dx[i] = scale * dy[i];
      result.magnitude.dx[c] = Math.max(result.magnitude.dx[c], Math.abs(result.dx[i]));
    });
  }
  return result;
}

function gradientSums(
  dy: Values,
  x: Values,
  extents: Extents,
  { mean, variance }: Statistics,
  remainder: Values | undefined,
  eps: number,
): Gradients {
  const { outer, channels, inner } = extents;
  const perChannel = () => new Float64Array(channels);
  const result: Gradients = {
    dx: new Float64Array(outer * channels * inner),
    dWeight: perChannel(),
    dBias: perChannel(),
    magnitude: { dx: perChannel(), dWeight: perChannel(), dBias: perChannel() },
  };
  for (let c = 0; c < channels; c++) {
    const r = 1 / Math.sqrt(variance[c] + eps);
    const rest = remainder?.[c] ?? 0;
    const s1 = new Sum();
    const s2 = new Sum();
    forEachOfChannel(extents, c, (i) => {
      const xHat = (x[i] - mean[c] - rest) * r;
      s1.add(dy[i]);
      s2.add(dy[i] * xHat);
      result.magnitude.dBias[c] += Math.abs(dy[i]);
      result.magnitude.dWeight[c] += Math.abs(dy[i]) * (1 + Math.abs(xHat));
    });
    result.dBias[c] = s1.value;
    result.dWeight[c] = s2.value;
  }
  return result;
}

/** running = decay·running + (1 − decay)·batch; an unbiased variance is the biased one times M/(M − 1). */
export function updatedRunningStats(
  running: { readonly mean: Values; readonly variance: Values },
  batch: Statistics & { readonly count: number },
  { decay, unbiased }: { readonly decay: number; readonly unbiased: boolean },
): { mean: Float64Array; variance: Float64Array } {
  const factor = unbiased ? batch.count / (batch.count - 1) : 1;
  return {
    mean: Float64Array.from(running.mean, (old, c) => decay * old + (1 - decay) * batch.mean[c]),
    variance: Float64Array.from(
      running.variance,
      (old, c) => decay * old + (1 - decay) * batch.variance[c] * factor,
    ),
  };
}
