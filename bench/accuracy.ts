import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Case, type DType, type Layout, sizeOf } from './cases.js';
import { arrayFor, eps, type Values } from './contender.js';
import type { Worker } from './process.js';
import type { Accuracy } from './results.js';

interface HardCase {
  name: string;
  mean: number;
  deviation: number;
  channels: number;
  batch: number;
  side: number;
}

/** Data on which one-pass formulas and long float32 sums lose their digits. */
const hardCases: readonly HardCase[] = [
  { name: 'N(0, 1)', mean: 0, deviation: 1, channels: 4, batch: 64, side: 56 },
  { name: 'mean 1000', mean: 1000, deviation: 1, channels: 4, batch: 64, side: 56 },
  { name: '1e4 ± 1e-2', mean: 1e4, deviation: 1e-2, channels: 4, batch: 64, side: 56 },
  { name: '4 M values', mean: 0.5, deviation: 1, channels: 2, batch: 64, side: 256 },
  { name: 'constant', mean: 1234.567, deviation: 0, channels: 4, batch: 64, side: 56 },
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
        fillNormal(x, hard);
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

/** Box and Muller, from a xorshift generator: a linear congruential one pairs its values too regularly. */
function fillNormal(x: Values, { mean, deviation }: HardCase): void {
  let state = 88675123;
  const uniform = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 2 ** 32;
  };
  for (let i = 0; i < x.length; i++)
    x[i] = mean + deviation * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
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
