// Kinds of data on which float32 statistics lose digits, each with parameters that a search can move.

/** What a parameter is drawn from: all numbers or whole ones, evenly or by their logarithm. */
export interface Domain {
  readonly low: number;
  readonly high: number;
  readonly whole: boolean;
  readonly logarithmic: boolean;
}

const real = (low: number, high: number): Domain => ({ low, high, whole: false, logarithmic: false });
export const size = (low: number, high: number): Domain => ({ low, high, whole: false, logarithmic: true });
export const whole = (low: number, high: number): Domain => ({
  low,
  high,
  whole: true,
  logarithmic: high > 100 * low,
});
/** What a kind draws its own random numbers from. */
export const noise = { ...whole(0, 2 ** 20), logarithmic: false };
const share = size(1e-3, 1);

export type Numbers = Readonly<Record<string, number>>;

export interface Kind {
  readonly domains: Readonly<Record<string, Domain>>;
  /** The value at a place of a channel of `count`, to be scaled. */
  readonly data: (of: Numbers, count: number) => (place: number) => number;
  /** Whether too few values differ for dx to be of the size of what it is the difference of. */
  readonly few?: true;
}

/** A random number for a place and nothing else, so that patterns can be asked for in any order. */
export function hash(place: number, of: number): number {
  let t = Math.imul(place ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(of + 1, 0xc2b2ae35);
  t = Math.imul(t ^ (t >>> 15), 0x2c1b3c6d);
  t = Math.imul(t ^ (t >>> 12), 0x297a2d39);
  return ((t ^ (t >>> 15)) >>> 0) / 2 ** 32;
}

export function normal(place: number, of: number): number {
  const radius = Math.sqrt(-2 * Math.log(hash(place, of) + 2 ** -33));
  return radius * Math.cos(2 * Math.PI * hash(place, of + 0x5bd1e995));
}

const pattern = { period: whole(2, 10_000), filled: whole(1, 5000), phase: whole(0, 10_000) };
const isFilled = ({ period, filled, phase }: Numbers, place: number) => (place + phase) % period < filled;

/** The distance of the nine values that a chunk of `count` is judged by: batchnorm.cpp, find_nine. */
export const ninth = (count: number) => Math.max(1, (Math.floor(count / 9) - 1) | 1);

/** Kinds of data; each is scaled by numbers with full mantissas as well. */
export const kinds: Readonly<Record<string, Kind>> = {
  normal: { domains: { noise }, data: (of) => (i) => normal(i, of.noise) },
  'large mean': {
    domains: { noise, mean: size(1, 1e5) },
    data: (of) => (i) => of.mean + normal(i, of.noise),
  },
  '{0, a}, periodic': { domains: pattern, data: (of) => (i) => (isFilled(of, i) ? 1 : 0), few: true },
  '{0, a}, at random': {
    domains: { noise, share },
    data: (of) => (i) => (hash(i, of.noise) < of.share ? 1 : 0),
    few: true,
  },
  '±a, periodic': { domains: pattern, data: (of) => (i) => (isFilled(of, i) ? 1 : -1), few: true },
  '±a, at random': {
    domains: { noise, share },
    data: (of) => (i) => (hash(i, of.noise) < of.share ? 1 : -1),
    few: true,
  },
  'three values': {
    domains: { noise, share, other: real(-1, 1), otherShare: share, period: whole(2, 10_000) },
    data: (of) => (i) => {
      const place = i % of.period;
      if (hash(place, of.noise) < of.share) return 1;
      return hash(place, of.noise + 1) < of.otherShare ? of.other : 0;
    },
    few: true,
  },
  'eight values': {
    domains: { noise, values: noise, period: whole(2, 10_000) },
    data: (of) => (i) => hash(Math.floor(8 * hash(i % of.period, of.noise)), of.values),
    few: true,
  },
  'free values': {
    domains: {
      period: whole(2, 16),
      ...Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`value${i}`, real(-1, 1)])),
    },
    data: (of) => {
      const values = Array.from({ length: of.period }, (_, i) => of[`value${i}`]);
      return (i) => values[i % of.period];
    },
    few: true,
  },
  // Steps as long as what a lane adds up at a time, or not.
  steps: {
    domains: { length: whole(1, 10_000), count: whole(2, 64), levels: whole(2, 4), noise, values: noise },
    data: (of) => (i) => {
      const step = Math.floor(i / of.length) % of.count;
      return hash(Math.floor(of.levels * hash(step, of.noise)), of.values);
    },
    few: true,
  },
  ReLU: {
    domains: { noise, mean: real(-3, 3) },
    data: (of) => (i) => Math.max(0, of.mean + normal(i, of.noise)),
  },
  ReLU6: {
    domains: { noise, mean: real(-4, 10), deviation: size(0.5, 8) },
    data: (of) => (i) => Math.min(6, Math.max(0, of.mean + of.deviation * normal(i, of.noise))),
  },
  sparse: {
    domains: { noise, share },
    data: (of) => (i) => (hash(i, of.noise + 1) < of.share ? normal(i, of.noise) : 0),
  },
  lognormal: {
    domains: { noise, deviation: size(0.1, 4) },
    data: (of) => (i) => Math.exp(of.deviation * normal(i, of.noise)),
  },
  'dyadic grid': {
    domains: { noise, bits: whole(1, 20), mean: real(-4, 4) },
    data: (of) => (i) => Math.round((of.mean + normal(i, of.noise)) * 2 ** of.bits) / 2 ** of.bits,
  },
  pixels: {
    domains: { noise, contrast: size(0.1, 10) },
    data: (of) => (i) => Math.floor(256 * hash(i, of.noise) ** of.contrast) / 255,
  },
  'constant and one outlier': {
    domains: { constant: size(1e-4, 1e4), place: whole(0, 10_000) },
    data: (of, count) => (i) => (i === of.place % count ? 1 + of.constant : of.constant),
    few: true,
  },
  mixture: {
    domains: { noise, share, distance: size(0.1, 1e5), deviation: size(1e-3, 10) },
    data: (of) => (i) =>
      hash(i, of.noise + 1) < of.share
        ? of.distance + of.deviation * normal(i, of.noise)
        : normal(i, of.noise + 2),
  },
  sorted: {
    domains: { power: size(0.2, 9), middle: real(0, 1) },
    data: (of, count) => (i) => {
      const from = i / count - of.middle;
      return Math.sign(from) * Math.abs(from) ** of.power;
    },
  },
  blocks: {
    domains: { noise, length: whole(1, 20_000), deviation: size(1e-6, 1) },
    data: (of) => (i) => hash(Math.floor(i / of.length), of.noise) + of.deviation * normal(i, of.noise + 1),
  },
  'heavy tails': {
    domains: { noise, power: size(0.3, 4) },
    data: (of) => (i) => Math.sign(hash(i, of.noise) - 0.5) * (hash(i, of.noise + 1) + 1e-6) ** -of.power,
  },
  // Another value where a chunk is judged by: all its shift says of the rest is wrong.
  'decoy, two values': {
    domains: { chunk: whole(2, 10_000), distance: size(0.1, 1e3) },
    data: (of, count) => {
      const step = ninth(Math.min(count, of.chunk));
      return (i) => ((i % of.chunk) % step === 0 ? of.distance : (i % 2) - 0.5);
    },
    few: true,
  },
  'decoy, normal': {
    domains: { noise, chunk: whole(2, 10_000), distance: size(0.1, 1e3) },
    data: (of, count) => {
      const step = ninth(Math.min(count, of.chunk));
      return (i) => ((i % of.chunk) % step === 0 ? of.distance : normal(i, of.noise));
    },
  },
};
