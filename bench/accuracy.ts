import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { kinds } from '../test/support/data.js';
import { type Case, type DType, type Layout, rowOf, rowsOf, sizeOf } from './cases.js';
import { arrayFor, eps, type Values } from './contender.js';
import type { Worker } from './process.js';
import type { Accuracy } from './results.js';

interface HardCase {
  name: string;
  /** The value at a place of a channel of `count`. */
  data: (count: number) => (place: number) => number;
  channels: number;
  batch: number;
  side: number;
}

const place = { batch: 64, side: 56, channels: 4 } as const;

/** Normally distributed, by Box and Muller from a xorshift generator: a linear congruential one pairs too regularly. */
function normal(mean: number, deviation: number): () => () => number {
  return () => {
    let state = 88675123;
    const uniform = () => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return ((state >>> 0) + 0.5) / 2 ** 32;
    };
    return () => mean + deviation * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  };
}

/** One of the kinds that npm run hunt searches among, times a number with a full mantissa. */
function kind(name: string, of: Readonly<Record<string, number>>, scale = 1.0004): HardCase['data'] {
  return (count) => {
    const value = kinds[name].data(of, count);
    return (i) => scale * value(i);
  };
}

/** Data on which one-pass formulas and long float32 sums lose their digits. */
const hardCases: readonly HardCase[] = [
  { name: 'N(0, 1)', data: normal(0, 1), ...place },
  { name: 'mean 1000', data: normal(1000, 1), ...place },
  { name: '1e4 ± 1e-2', data: normal(1e4, 1e-2), ...place },
  { name: '4 M values', data: normal(0.5, 1), channels: 2, batch: 64, side: 256 },
  { name: 'constant', data: () => () => 1234.567, ...place },
  { name: '{0, a}', data: kind('{0, a}, periodic', { period: 9, filled: 1, phase: 0 }, 0.145), ...place },
  { name: '±a', data: kind('±a, periodic', { period: 140, filled: 131, phase: 87 }, 585.83), ...place },
  { name: 'ReLU', data: kind('ReLU', { noise: 1, mean: -1 }), ...place },
  { name: 'ReLU6', data: kind('ReLU6', { noise: 1, mean: 7, deviation: 8 }), ...place },
  { name: 'sparse', data: kind('sparse', { noise: 1, share: 0.02 }), ...place },
  { name: 'lognormal', data: kind('lognormal', { noise: 1, deviation: 2 }), ...place },
  { name: 'pixels', data: kind('pixels', { noise: 1, contrast: 2 }), ...place },
  { name: 'outlier', data: kind('constant and one outlier', { constant: 1000, place: 77 }), ...place },
  { name: 'decoy', data: kind('decoy, two values', { chunk: 8192, distance: 5 }), ...place },
];

const layouts: readonly Layout[] = ['channels-first', 'channels-last'];

/** The names of the hard cases, in their order. */
export const hardCaseNames = hardCases.map(({ name }) => name);

const normData = { name: '1e4 ± 1e-2', data: normal(1e4, 1e-2) };
const [tokens, places] = [1024, 768];

/** Data with a large mean, normalized by what a sample has. */
const normCases: readonly Omit<Case, 'dtype'>[] = [
  ...layouts.map((layout) => ({
    ...caseOf({ name: 'group', ...place }, layout, 'float32'),
    norm: { name: 'group', groups: 2 } as const,
  })),
  {
    name: 'layer',
    group: 'accuracy',
    layout: 'channels-last',
    shape: [tokens, places],
    outer: tokens,
    channels: places,
    inner: 1,
    offset: 0,
    norm: { name: 'layer', groups: 1 },
  },
];

/** Data, and what is made of them. */
interface Trial {
  name: string;
  subject: Case;
  fill(x: Values): void;
}

function trialsOf(dtype: DType): Trial[] {
  const ofBatch = layouts.flatMap((layout) =>
    hardCases.map((hard): Trial => {
      const subject = caseOf(hard, layout, dtype);
      return { name: hard.name, subject, fill: (x) => fill(x, hard, subject) };
    }),
  );
  const ofRows = normCases.map(
    (it): Trial => ({
      name: normData.name,
      subject: { ...it, dtype },
      fill(x) {
        const value = normData.data();
        for (let i = 0; i < x.length; i++) x[i] = value();
      },
    }),
  );
  return [...ofBatch, ...ofRows];
}

/** Calls of `done` of {@link measureAccuracy}. */
export function accuracySteps(workers: readonly Worker[]): number {
  return trialsOf('float32').length * workers.length;
}

/** The error of every contender on the hard cases, against double arithmetic on the same values. */
export async function measureAccuracy(
  workers: readonly Worker[],
  dtype: DType,
  note: (line: string) => void,
  done: () => void,
): Promise<Accuracy[]> {
  const folder = mkdtempSync(join(tmpdir(), 'batchnorm-bench-'));
  const found: Accuracy[] = [];
  try {
    for (const { name, subject, fill } of trialsOf(dtype)) {
      const { layout, norm } = subject;
      const x = arrayFor(subject, sizeOf(subject));
      fill(x);
      const file = join(folder, 'x');
      writeFileSync(file, x);
      const statistics = trueStatistics(x, subject);
      for (const worker of workers) {
        const target = join(folder, 'y');
        writeFileSync(target, new Uint8Array(x.byteLength));
        const { ready, variance, error } = await worker.ask({ train: subject, x: file, y: target });
        done();
        const contender = worker.entry.name;
        if (error !== undefined) note(`${contender}, ${[norm?.name, name].join(' ')}, ${layout}: ${error}`);
        if (!ready) continue;
        const y = arrayFor(subject, x.length);
        new Uint8Array(y.buffer).set(readFileSync(target));
        const errors = errorsOf(subject, x, y, variance, statistics);
        found.push({ case: name, layout, contender, ...(norm && { norm: norm.name }), ...errors });
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  return found;
}

function caseOf({ name, channels, batch, side }: Omit<HardCase, 'data'>, layout: Layout, dtype: DType): Case {
  const area = side * side;
  const first = layout === 'channels-first';
  return {
    name,
    group: 'accuracy',
    layout,
    shape: first ? [batch, channels, side, side] : [batch, side, side, channels],
    outer: first ? batch : batch * area,
    channels,
    inner: first ? area : 1,
    dtype,
    offset: 0,
  };
}

function fill(x: Values, { data }: HardCase, { outer, channels, inner }: Case): void {
  for (let c = 0; c < channels; c++) {
    const value = data(outer * inner);
    for (let n = 0; n < outer; n++)
      for (let i = 0, at = (n * channels + c) * inner; i < inner; i++, at++) x[at] = value(n * inner + i);
  }
}

interface Statistics {
  mean: Float64Array;
  variance: Float64Array;
}

/**
 * Two passes in double over what is normalized together; the first value as the shift makes those of a constant row exact. Good to
 * about 1e-14, so that no smaller error of a float64 contender means anything.
 */
function trueStatistics(x: Values, subject: Case): Statistics {
  const rows = rowsOf(subject);
  const row = rowOf(subject);
  const count = x.length / rows;
  const [shift, mean, variance] = [0, 1, 2].map(() => new Float64Array(rows));
  for (let i = x.length; i-- > 0; ) shift[row(i)] = x[i];
  for (let i = 0; i < x.length; i++) mean[row(i)] += x[i] - shift[row(i)];
  for (let r = 0; r < rows; r++) mean[r] /= count;
  for (let i = 0; i < x.length; i++) variance[row(i)] += (x[i] - shift[row(i)] - mean[row(i)]) ** 2;
  for (let r = 0; r < rows; r++) {
    mean[r] += shift[r];
    variance[r] /= count;
  }
  return { mean, variance };
}

function errorsOf(
  subject: Case,
  x: Values,
  y: Values,
  variance: readonly number[] | undefined,
  truth: Statistics,
): Pick<Accuracy, 'varianceError' | 'yError'> {
  const row = rowOf(subject);
  let largest = 0;
  let difference = 0;
  for (let i = 0; i < x.length; i++) {
    const r = row(i);
    const expected = (x[i] - truth.mean[r]) / Math.sqrt(truth.variance[r] + eps);
    largest = Math.max(largest, Math.abs(expected));
    difference = worse(difference, Math.abs(y[i] - expected));
  }
  const varianceError = variance?.reduce(
    (worst, value, r) => worse(worst, Math.abs(value - truth.variance[r]) / (truth.variance[r] || 1)),
    0,
  );
  return { yError: difference / (largest || 1), ...(varianceError !== undefined && { varianceError }) };
}

/** The larger one, and NaN where either is: nothing is worse. */
function worse(a: number, b: number): number {
  return Number.isNaN(a) || b <= a ? a : b;
}
