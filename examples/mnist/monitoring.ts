// The batch norms of the digit network under watch, and what that costs.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Monitor, type MonitorOptions, monitor } from 'batchnorm';
import { summary, type Times } from '../times.js';
import type { Digits } from './data.js';
import { Network, Normalization } from './network.js';
import { uniform } from './random.js';
import { MOMENTUM, SIZES } from './recipe.js';
import type { Section } from './report.js';
import type { Storage } from './storage.js';
import { BATCH, train } from './train.js';

/** A monitor of the batch norms of a network, and its step: to be called behind each step of training. */
export interface Watch {
  readonly monitor: Monitor;
  step(): void;
}

export function watchNetwork(network: Network, options?: MonitorOptions): Watch {
  const norms = network.layers.filter((layer) => layer instanceof Normalization);
  const watched = monitor(
    norms.map(({ norm }, i) => [`norm${i + 1}`, norm] as const),
    options,
  );
  return {
    monitor: watched,
    step() {
      watched.step(new Map(norms.flatMap(({ y }, i) => (y ? [[`norm${i + 1}`, y]] : []))));
    },
  };
}

/** What a step of training takes, in nanoseconds. */
export interface MonitorCost {
  readonly without: Times;
  readonly with: Times;
  /** The step of the monitor alone, between two of training. */
  readonly monitor: Times;
}

/** Steps to measure, and before them those in which the code is compiled. */
const STEPS = 600;
const WARM_UP = 200;

/** Trains a network, with the monitor behind each second step. */
export function measureMonitor(
  digits: Digits,
  learningRate: number,
  seed: number,
  dtype: Storage,
): MonitorCost {
  const random = uniform(seed);
  const network = new Network(BATCH, SIZES, true, random, dtype);
  // It writes what it sees, as the one whose files are kept.
  const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
  const watch = watchNetwork(network, { folder });
  const samples = { without: [] as number[], with: [] as number[], monitor: [] as number[] };
  let begun = process.hrtime.bigint();
  let isWatched = false;
  train(network, digits, {
    epochs: Math.ceil((WARM_UP + STEPS) / Math.floor(digits.count / BATCH)),
    learningRate,
    momentum: MOMENTUM,
    random,
    onStep(step) {
      const ended = process.hrtime.bigint();
      const counts = step > WARM_UP;
      if (counts) samples[isWatched ? 'with' : 'without'].push(Number(ended - begun));
      isWatched = step % 2 === 0;
      begun = process.hrtime.bigint();
      if (!isWatched) return;
      watch.step();
      if (counts) samples.monitor.push(Number(process.hrtime.bigint() - begun));
    },
  });
  watch.monitor.close();
  rmSync(folder, { recursive: true });
  return {
    without: summary(samples.without),
    with: summary(samples.with),
    monitor: summary(samples.monitor),
  };
}

export function monitorSection({ without, with: watched, monitor: alone }: MonitorCost): Section {
  const row = (name: string, { min, median }: Times) => [name, milliseconds(min), milliseconds(median)];
  const share = (100 * alone.median) / without.median;
  return {
    heading: 'Cost of the monitor',
    columns: ['', 'min', 'median'],
    rows: [
      row('step of training', without),
      row('step with the monitor', watched),
      row('the monitor alone', alone),
    ],
    note: `Interleaved: the monitor looks at every second step. Its median is ${share.toFixed(2)} % of that of a step; 2 % is the target${share < 2 ? ', reached' : ', not reached'}.`,
  };
}

function milliseconds(nanoseconds: number): string {
  return `${(nanoseconds / 1e6).toFixed(3)} ms`;
}
