// What there is to say of batch norms: ranges, and what is wrong with them.
import { isDead } from '../dead.js';
import type { StoredBatchNorm } from '../files/index.js';
import type { FloatArray } from '../types.js';

export interface Range {
  readonly min: number;
  readonly max: number;
}

export interface Warning {
  readonly layer: string;
  readonly kind: 'not finite' | 'negative' | 'dead' | 'below eps' | 'drift' | 'other shape' | 'missing';
  readonly message: string;
}

export interface Drift {
  /** The farthest that a mean has moved, in standard deviations of before. */
  readonly mean: number;
  /** The largest ratio of variances, in either direction. */
  readonly variance: number;
}

export interface LayerReport {
  readonly name: string;
  readonly channels: number;
  /** Of the file, or the default of its convention. */
  readonly eps: number;
  readonly convention: string;
  readonly axis: number;
  readonly mean: Range;
  readonly variance: Range;
  readonly weight?: Range;
  readonly bias?: Range;
  /** Channels. */
  readonly notFinite: readonly number[];
  readonly negative: readonly number[];
  readonly dead: readonly number[];
  readonly belowEps: readonly number[];
  readonly drift?: Drift;
}

export interface Report {
  readonly file: string;
  readonly other?: string;
  readonly layers: readonly LayerReport[];
  readonly warnings: readonly Warning[];
}

const mostMean = 1;
const mostRatio = 2;

export function reportOf(
  file: string,
  norms: ReadonlyMap<string, StoredBatchNorm>,
  other?: { readonly file: string; readonly norms: ReadonlyMap<string, StoredBatchNorm> },
): Report {
  const layers: LayerReport[] = [];
  const warnings: Warning[] = [];
  for (const [name, norm] of norms) {
    const warn = (kind: Warning['kind'], message: string) => warnings.push({ layer: name, kind, message });
    const after = other?.norms.get(name);
    if (other !== undefined && after === undefined) warn('missing', `is not in ${other.file}`);
    const drift = after && driftOf(norm, after);
    if (after !== undefined && drift === undefined)
      warn('other shape', 'has another number of channels there');
    const report = layerOf(name, norm, drift);
    layers.push(report);
    warnings.push(...faultsOf(report));
    if (drift && !(drift.mean <= mostMean && drift.variance <= mostRatio))
      warn(
        'drift',
        `means moved by up to ${drift.mean.toPrecision(3)} deviations, variances by ${drift.variance.toPrecision(3)} times`,
      );
  }
  for (const [name, norm] of other?.norms ?? []) {
    if (!norms.has(name)) warnings.push({ layer: name, kind: 'missing', message: `is not in ${file}` });
    for (const { kind, message } of faultsOf(layerOf(name, norm, undefined)))
      warnings.push({ layer: name, kind, message: `${message}, in ${other?.file}` });
  }
  return { file, ...(other !== undefined && { other: other.file }), layers, warnings };
}

/** What is wrong with a layer by itself. */
function faultsOf(report: LayerReport): Warning[] {
  const { name, notFinite, negative, dead, belowEps, channels, eps } = report;
  const faults: [channels: readonly number[], kind: Warning['kind'], what: string][] = [
    [notFinite, 'not finite', 'have values that are not finite'],
    [negative, 'negative', 'have a negative variance'],
    [dead, 'dead', 'are dead: weight or variance near 0'],
    [belowEps, 'below eps', `have a variance below eps (${eps})`],
  ];
  return faults
    .filter(([those]) => those.length > 0)
    .map(([those, kind, what]) => ({ layer: name, kind, message: `${count(those, channels)} ${what}` }));
}

function count({ length }: readonly number[], channels: number): string {
  return `${length} of ${channels} channels`;
}

const defaultEps = { keras: 1e-3, onnx: 1e-5 } as const;

function epsOf({ eps, convention }: StoredBatchNorm): number {
  return eps ?? (convention === undefined ? 1e-5 : defaultEps[convention]);
}

function layerOf(name: string, norm: StoredBatchNorm, drift: Drift | undefined): LayerReport {
  const { state, convention, axis } = norm;
  const mean = state.running_mean as FloatArray;
  const variance = state.running_var as FloatArray;
  const { weight, bias } = state as { weight?: FloatArray; bias?: FloatArray };
  const channels = [...mean.keys()];
  const used = epsOf(norm);
  const notFinite = channels.filter(
    (i) => ![mean, variance, weight, bias].every((values) => !values || Number.isFinite(values[i])),
  );
  const isDeadAt = (i: number) => isDead(weight?.[i], variance[i], used);
  return {
    name,
    channels: mean.length,
    eps: used,
    convention: convention ?? 'pytorch',
    axis,
    mean: rangeOf(mean),
    variance: rangeOf(variance),
    ...(weight && { weight: rangeOf(weight) }),
    ...(bias && { bias: rangeOf(bias) }),
    notFinite,
    negative: channels.filter((i) => variance[i] < 0),
    dead: channels.filter(isDeadAt),
    belowEps: channels.filter((i) => variance[i] >= 0 && variance[i] < used && !isDeadAt(i)),
    ...(drift && { drift }),
  };
}

/** Of what is finite. */
function rangeOf(values: FloatArray): Range {
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    min = Math.min(min, value);
    max = Math.max(max, value);
  }
  return min <= max ? { min, max } : { min: Number.NaN, max: Number.NaN };
}

/** Undefined where the two cannot be compared. */
function driftOf(norm: StoredBatchNorm, { state: after }: StoredBatchNorm): Drift | undefined {
  const { state: before } = norm;
  const eps = epsOf(norm);
  const [meanBefore, meanAfter] = [before, after].map((state) => state.running_mean as FloatArray);
  const [varBefore, varAfter] = [before, after].map((state) => state.running_var as FloatArray);
  if (meanBefore.length !== meanAfter.length) return undefined;
  let mean = 0;
  let variance = 1;
  for (let i = 0; i < meanBefore.length; i++) {
    mean = Math.max(mean, Math.abs(meanAfter[i] - meanBefore[i]) / Math.sqrt(varBefore[i] + eps));
    const ratio = (varAfter[i] + eps) / (varBefore[i] + eps);
    variance = Math.max(variance, ratio, 1 / ratio);
  }
  return { mean, variance };
}
