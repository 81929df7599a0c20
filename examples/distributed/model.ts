import { Moments, type ProcessGroup } from 'batchnorm';
import { summary } from '../times.js';

/** How long an exchange of so many values of each member takes, in microseconds. */
export interface Sample {
  readonly values: number;
  readonly min: number;
  readonly median: number;
}

/** What an exchange is made of: the rounds in which all wait for all, and the values that each member brings in them together. */
export interface Sent {
  readonly rounds: number;
  readonly values: number;
}

/** What an engine sends for an allGather of so many values of each member. */
export type Engine = (values: number, size: number) => Sent;

/** Through the memory of a WorkerGroup, in parts. */
export const overMemory: Engine = (values) => ({ rounds: Math.ceil(values / 4096), values });

/** A frame with a header of two values, however few there are; then what did not fit into it, in parts. */
export const overMpi: Engine = (values, size) => {
  const inFrame = 512;
  const rest = Math.max(0, values - inFrame);
  const part = Math.max(inFrame, Math.floor(2 ** 22 / size));
  return { rounds: 1 + Math.ceil(rest / part), values: 2 + inFrame + rest };
};

/** What an engine takes: microseconds before the first value of a round comes, and microseconds for each byte of another member. */
export interface Cost {
  readonly engine: Engine;
  readonly latency: number;
  readonly perByte: number;
}

const LENGTHS = [8, 504, 4096, 32_768, 262_144];

/** Measures allGather: all members at the same time, what rank 0 sees. */
export function measure(group: ProcessGroup): Sample[] {
  return LENGTHS.map((values) => {
    const mine = new Float64Array(values).fill(1);
    const all = new Float64Array(group.size * values);
    const repeats = values > 10_000 ? 60 : 600;
    const times = Array.from({ length: repeats }, () => {
      const begun = performance.now();
      group.allGather(mine, all);
      return 1000 * (performance.now() - begun);
    });
    // The first ones find no memory and no connections yet.
    return { values, ...summary(times.slice(repeats / 4)) };
  });
}

/** How often members pass something on until all can have heard of all. */
const hops = (size: number) => Math.ceil(Math.log2(size));

/**
 * Fits latency · log₂ size · rounds + perByte · (size − 1) · bytes to medians. Each error counts as a share of what was measured:
 * microseconds at the short end are as good as milliseconds at the long one. Where the bytes of a frame explain the short end alone,
 * there is no latency left.
 */
export function fitted(engine: Engine, samples: readonly Sample[], size: number): Cost {
  let [aa, ab, bb, at, bt] = [0, 0, 0, 0, 0];
  for (const { values, median } of samples) {
    const sent = engine(values, size);
    const [a, b] = [(hops(size) * sent.rounds) / median, (8 * sent.values * (size - 1)) / median];
    aa += a * a;
    ab += a * b;
    bb += b * b;
    at += a;
    bt += b;
  }
  const determinant = aa * bb - ab * ab;
  const latency = (at * bb - bt * ab) / determinant;
  return latency > 0
    ? { engine, latency, perByte: (bt * aa - at * ab) / determinant }
    : { engine, latency: 0, perByte: bt / bb };
}

/** Microseconds that it takes to merge a channel of the statistics of a part. */
export function mergeCost(): number {
  const channels = 2048;
  const parts = Array.from({ length: 8 }, (_, i) =>
    Moments.from({
      count: new Float64Array(channels).fill(10 + i),
      mean: new Float64Array(channels).fill(i),
      variance: new Float64Array(channels).fill(1 + i),
    }),
  );
  const times = Array.from({ length: 200 }, () => {
    const begun = performance.now();
    Moments.merge(...parts);
    return 1000 * (performance.now() - begun);
  });
  return summary(times).median / (channels * parts.length);
}

/** On the way forward: a count, means and variances. */
const valuesOf = (channels: number) => 1 + 2 * channels;

/** The first exchange of a layer: a header, and the first of the values. */
const FRAME = 512;
const IN_FRAME = FRAME - 8;

/** Microseconds of an allGather. */
function timeOf({ engine, latency, perByte }: Cost, values: number, size: number): number {
  const sent = engine(values, size);
  return latency * hops(size) * sent.rounds + perByte * 8 * sent.values * (size - 1);
}

/** All get the statistics of all, and merge them. What the library does. */
export function gathered(cost: Cost, merge: number, channels: number, size: number): number {
  const rest = valuesOf(channels) - IN_FRAME;
  return timeOf(cost, FRAME, size) + (rest > 0 ? timeOf(cost, rest, size) : 0) + merge * channels * size;
}

/** Each merges its share of the channels, and all get what was merged. */
export function twoPhase(cost: Cost, merge: number, channels: number, size: number): number {
  const { latency, perByte } = cost;
  const share = (8 * valuesOf(channels) * (size - 1)) / size;
  // A frame first, as ever: members that are not at the same place must find it out.
  return timeOf(cost, FRAME, size) + 2 * (latency * hops(size) + perByte * share) + merge * channels;
}

/** From how many members on two phases are quicker; undefined up to a million. */
export function crossover(cost: Cost, merge: number, channels: number): number | undefined {
  for (let size = 2; size <= 1e6; size++)
    if (twoPhase(cost, merge, channels, size) < gathered(cost, merge, channels, size)) return size;
  return undefined;
}
