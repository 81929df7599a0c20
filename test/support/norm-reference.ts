/**
 * Group, instance, layer and RMS norm as the textbook has them, in doubles: the oracle of their tests. Each value is told its
 * row and its parameter; every sum is compensated, with no blocking and no shortcut.
 */
import { Sum } from './reference.js';

type Values = ArrayLike<number>;

export type NormKind = 'group' | 'instance' | 'layer' | 'rms';

/** What is normalized over what. */
export interface Norm {
  readonly kind: NormKind;
  readonly shape: readonly number[];
  /** Of the channels, of group and instance norm. The samples are the first dimension; where that is the channels, there is one. */
  readonly axis?: number;
  /** Of group norm. */
  readonly groups?: number;
  /** How many of the last dimensions are a row, of layer and RMS norm. */
  readonly dimensions?: number;
}

/** Which row and which parameter each value belongs to. */
export interface Places {
  readonly row: Uint32Array;
  readonly parameter: Uint32Array;
  readonly rows: number;
  readonly parameters: number;
}

export interface NormPass {
  readonly norm: Norm;
  readonly x: Values;
  readonly eps: number;
  readonly weight?: Values | null;
  readonly bias?: Values | null;
  readonly residual?: Values | null;
  readonly relu?: boolean;
  /** What a ReLU lets through in backward: where this is above 0. Default: y, which may be rounded to the other side. */
  readonly gate?: Values;
}

export interface NormForward {
  readonly y: Float64Array;
  /** Per row; 0 in RMS norm. */
  readonly mean: Float64Array;
  /** Per row, biased; in RMS norm the mean square. */
  readonly variance: Float64Array;
  /** Per value: the size of what is added up to y. Rounding errors are a share of the largest in a row. */
  readonly magnitude: Float64Array;
}

export interface NormGradients {
  readonly dx: Float64Array;
  readonly dWeight: Float64Array;
  readonly dBias: Float64Array;
  /** dy as the activation lets it through. */
  readonly dResidual: Float64Array;
  /**
   * Per value, and per parameter, the sizes of what is added up to each gradient (x̂ counted as 1 + |x̂|, since it comes out of
   * a difference itself).
   */
  readonly magnitude: {
    readonly dx: Float64Array;
    readonly dWeight: Float64Array;
    readonly dBias: Float64Array;
  };
}

export function productOf(sizes: readonly number[]): number {
  return sizes.reduce((product, size) => product * size, 1);
}

export function placesOf({ kind, shape, axis = 1, groups, dimensions = 1 }: Norm): Places {
  const size = productOf(shape);
  if (kind === 'layer' || kind === 'rms') {
    const parameters = productOf(shape.slice(shape.length - dimensions));
    return {
      row: Uint32Array.from({ length: size }, (_, i) => Math.floor(i / parameters)),
      parameter: Uint32Array.from({ length: size }, (_, i) => i % parameters),
      rows: productOf(shape.slice(0, shape.length - dimensions)),
      parameters,
    };
  }
  const at = axis < 0 ? axis + shape.length : axis;
  const channels = shape[at];
  const inner = productOf(shape.slice(at + 1));
  const perSample = productOf(shape.slice(at === 0 ? 0 : 1));
  const rowsPerSample = kind === 'instance' ? channels : (groups as number);
  const channelsPerRow = channels / rowsPerSample;
  const channelOf = (i: number) => Math.floor(i / inner) % channels;
  return {
    row: Uint32Array.from(
      { length: size },
      (_, i) => Math.floor(i / perSample) * rowsPerSample + Math.floor(channelOf(i) / channelsPerRow),
    ),
    parameter: Uint32Array.from({ length: size }, (_, i) => channelOf(i)),
    rows: (at === 0 ? 1 : shape[0]) * rowsPerSample,
    parameters: channels,
  };
}

/** Sums by row or by parameter: term(i) is added to the sum of where[i]. */
function sums(where: Uint32Array, count: number, term: (index: number) => number): Float64Array {
  const totals = Array.from({ length: count }, () => new Sum());
  where.forEach((at, i) => {
    totals[at].add(term(i));
  });
  return Float64Array.from(totals, ({ value }) => value);
}

interface Normalized {
  readonly places: Places;
  readonly count: number;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
  readonly r: Float64Array;
  readonly xHat: Float64Array;
}

function normalize({ norm, x, eps }: NormPass): Normalized {
  const places = placesOf(norm);
  const { row, rows } = places;
  const count = row.length / rows;
  const perRow = (term: (index: number) => number) => sums(row, rows, term).map((sum) => sum / count);
  const centred = norm.kind !== 'rms';
  const mean = centred ? perRow((i) => x[i]) : new Float64Array(rows);
  // What rounding the mean to a double left over.
  const rest = centred ? perRow((i) => x[i] - mean[row[i]]) : new Float64Array(rows);
  const deviation = Float64Array.from(row, (at, i) => x[i] - mean[at] - rest[at]);
  const variance = perRow((i) => deviation[i] ** 2);
  const r = variance.map((value) => 1 / Math.sqrt(value + eps));
  return { places, count, mean, variance, r, xHat: deviation.map((value, i) => value * r[row[i]]) };
}

/** y = activation(weight·x̂ + bias + residual). */
export function normForward(pass: NormPass): NormForward {
  const { places, mean, variance, xHat } = normalize(pass);
  const { weight, bias, residual, relu } = pass;
  const magnitude = new Float64Array(xHat.length);
  const y = xHat.map((value, i) => {
    const at = places.parameter[i];
    const terms = [value * (weight?.[at] ?? 1), bias?.[at] ?? 0, residual?.[i] ?? 0];
    magnitude[i] = terms.reduce((sum, term) => sum + Math.abs(term), 0);
    const sum = terms[0] + terms[1] + terms[2];
    return relu && sum <= 0 ? 0 : sum;
  });
  return { y, mean, variance, magnitude };
}

/**
 * With g = dy·weight, means over the row: dx = r·(g − mean(g) − x̂·mean(g·x̂)), of RMS norm without mean(g);
 * dWeight = Σ dy·x̂ and dBias = Σ dy over all that shares the parameter.
 */
export function normBackward(pass: NormPass, dy: Values): NormGradients {
  const { places, count, r, xHat } = normalize(pass);
  const { row, rows, parameter, parameters } = places;
  const { norm, weight, relu } = pass;
  const gate = pass.gate ?? normForward(pass).y;
  const dResidual = Float64Array.from(dy, (value, i) => (relu && gate[i] <= 0 ? 0 : value));
  const g = dResidual.map((value, i) => value * (weight?.[parameter[i]] ?? 1));
  const perRow = (term: (index: number) => number) => sums(row, rows, term).map((sum) => sum / count);
  const first = norm.kind === 'rms' ? new Float64Array(rows) : perRow((i) => g[i]);
  const second = perRow((i) => g[i] * xHat[i]);
  const sizeOfSecond = perRow((i) => Math.abs(g[i]) * (1 + Math.abs(xHat[i])));
  return {
    dx: g.map((value, i) => r[row[i]] * (value - first[row[i]] - xHat[i] * second[row[i]])),
    dWeight: sums(parameter, parameters, (i) => dResidual[i] * xHat[i]),
    dBias: sums(parameter, parameters, (i) => dResidual[i]),
    dResidual,
    magnitude: {
      dx: g.map((value, i) => {
        const at = row[i];
        const sum = Math.abs(value) + Math.abs(first[at]) + (1 + Math.abs(xHat[i])) * sizeOfSecond[at];
        return r[at] * sum;
      }),
      dWeight: sums(parameter, parameters, (i) => Math.abs(dResidual[i]) * (1 + Math.abs(xHat[i]))),
      dBias: sums(parameter, parameters, (i) => Math.abs(dResidual[i])),
    },
  };
}

/** For each value the largest of its row. */
export function largestOfRow({ row, rows }: Places, values: Values): Float64Array {
  const largest = new Float64Array(rows);
  row.forEach((at, i) => {
    largest[at] = Math.max(largest[at], Math.abs(values[i]));
  });
  return Float64Array.from(row, (at) => largest[at]);
}
