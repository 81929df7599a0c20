import { Moments, type ProcessGroup } from 'batchnorm';
import { summary } from '../times.js';

/** How long an exchange of so many values of each member takes, in microseconds. */
export interface Sample {
  readonly values: number;
  readonly min: number;
  readonly median: number;
}

/** What an engine takes: microseconds before the first value comes, and microseconds for each byte of another member. */
export interface Cost {
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

/** Rounds in which all can have heard of all. */
const rounds = (size: number) => Math.ceil(Math.log2(size));

/**
 * Fits latency · log₂ size + perByte · (size − 1) · bytes to medians. Each error counts as a share of what was measured: microseconds at
 * the short end are as good as milliseconds at the long one.
 */
export function fitted(samples: readonly Sample[], size: number): Cost {
  let [aa, ab, bb, at, bt] = [0, 0, 0, 0, 0];
  for (const { values, median } of samples) {
    const [a, b] = [rounds(size) / median, (8 * values * (size - 1)) / median];
    aa += a * a;
    ab += a * b;
    bb += b * b;
    at += a;
    bt += b;
  }
  const determinant = aa * bb - ab * ab;
  return { latency: (at * bb - bt * ab) / determinant, perByte: (bt * aa - at * ab) / determinant };
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

/** On the way forward: a count, means and variances, of which 504 values go in the first exchange. */
const valuesOf = (channels: number) => 1 + 2 * channels;

/** All get the statistics of all, and merge them. What the library does. */
export function gathered({ latency, perByte }: Cost, merge: number, channels: number, size: number): number {
  const exchanges = valuesOf(channels) > 504 ? 2 : 1;
  return (
    exchanges * latency * rounds(size) +
    perByte * 8 * valuesOf(channels) * (size - 1) +
    merge * channels * size
  );
}

/** Each merges its share of the channels, and all get what was merged. */
export function twoPhase({ latency, perByte }: Cost, merge: number, channels: number, size: number): number {
  const volume = (2 * 8 * valuesOf(channels) * (size - 1)) / size;
  // A frame first, as ever: members that are not at the same place must find it out.
  return 3 * latency * rounds(size) + perByte * volume + merge * channels;
}

/** From how many members on two phases are quicker; undefined up to a million. */
export function crossover(cost: Cost, merge: number, channels: number): number | undefined {
  for (let size = 2; size <= 1e6; size++)
    if (twoPhase(cost, merge, channels, size) < gathered(cost, merge, channels, size)) return size;
  return undefined;
}
