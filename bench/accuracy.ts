import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { kinds } from '../test/support/data.js';
import { type Case, type DType, type Layout, sizeOf } from './cases.js';
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

/** Calls of `done` of {@link measureAccuracy}. */
export function accuracySteps(workers: readonly Worker[]): number {
  return hardCases.length * layouts.length * workers.length;
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
    for (const layout of layouts)
      for (const hard of hardCases) {
        const subject = caseOf(hard, layout, dtype);
        const x = arrayFor(subject, sizeOf(subject));
        fill(x, hard, subject);
        const file = join(folder, 'x');
        writeFileSync(file, x);
        const statistics = trueStatistics(x, subject);
        for (const worker of workers) {
          const target = join(folder, 'y');
          writeFileSync(target, new Uint8Array(x.byteLength));
          const { variance, error } = await worker.ask({ train: subject, x: file, y: target });
          done();
          const contender = worker.entry.name;
          if (error !== undefined) note(`${contender}, ${hard.name}, ${layout}: ${error}`);
          if (variance === undefined) continue;
          const y = arrayFor(subject, x.length);
          new Uint8Array(y.buffer).set(readFileSync(target));
          const errors = errorsOf(subject, x, y, variance, statistics);
          found.push({ case: hard.name, layout, contender, ...errors });
        }
      }
  } finally {
    rmSync(folder, { recursive: true });
  }
  return found;
}

function caseOf({ name, channels, batch, side }: HardCase, layout: Layout, dtype: DType): Case {
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
 * Two passes in double; the first value as the shift makes those of a constant channel exact. Good to about 1e-14, so
 * that no smaller error of a float64 contender means anything.
 */
function trueStatistics(x: Values, { outer, channels, inner }: Case): Statistics {
  const count = outer * inner;
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  for (let c = 0; c < channels; c++) {
    const each = (visit: (value: number) => void) => {
      for (let n = 0; n < outer; n++)
        for (let i = 0, at = (n * channels + c) * inner; i < inner; i++, at++) visit(x[at]);
    };
    const shift = x[c * inner];
    let sum = 0;
    each((value) => {
      sum += value - shift;
    });
    const rest = sum / count;
    let squares = 0;
    each((value) => {
      squares += (value - shift - rest) ** 2;
    });
    mean[c] = shift + rest;
    variance[c] = squares / count;
  }
  return { mean, variance };
}

function errorsOf(
  { outer, channels, inner }: Case,
  x: Values,
  y: Values,
  variance: readonly number[],
  truth: Statistics,
): Pick<Accuracy, 'varianceError' | 'yError'> {
  let varianceError = 0;
  let largest = 0;
  let difference = 0;
  for (let c = 0; c < channels; c++) {
    const off = Math.abs(variance[c] - truth.variance[c]);
    varianceError = worse(varianceError, off / (truth.variance[c] || 1));
    const r = 1 / Math.sqrt(truth.variance[c] + eps);
    for (let n = 0; n < outer; n++)
      for (let i = 0, at = (n * channels + c) * inner; i < inner; i++, at++) {
        const expected = (x[at] - truth.mean[c]) * r;
        largest = Math.max(largest, Math.abs(expected));
        difference = worse(difference, Math.abs(y[at] - expected));
      }
  }
  return { varianceError, yError: difference / (largest || 1) };
}

/** The larger one, and NaN where either is: nothing is worse. */
function worse(a: number, b: number): number {
  return Number.isNaN(a) || b <= a ? a : b;
}
