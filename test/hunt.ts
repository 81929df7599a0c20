// A search for data on which the statistics are worst: kinds of data by shapes, climbing from the worst found so far.
import { backward, type DType, type FloatArray, forwardTraining, setThreads } from '../lib/index.js';
import { Random } from './random.js';
import * as reference from './reference.js';
import { channelValues, fromChannels, type Layout, largest, layouts, randomNormals } from './tensors.js';

/** What a parameter is drawn from: all numbers or whole ones, evenly or by their logarithm. */
interface Domain {
  readonly low: number;
  readonly high: number;
  readonly whole: boolean;
  readonly logarithmic: boolean;
}

const real = (low: number, high: number): Domain => ({ low, high, whole: false, logarithmic: false });
const size = (low: number, high: number): Domain => ({ low, high, whole: false, logarithmic: true });
const whole = (low: number, high: number): Domain => ({
  low,
  high,
  whole: true,
  logarithmic: high > 100 * low,
});
/** What a kind draws its own random numbers from. */
const noise = { ...whole(0, 2 ** 20), logarithmic: false };
const share = size(1e-3, 1);

type Numbers = Readonly<Record<string, number>>;

interface Kind {
  readonly domains: Readonly<Record<string, Domain>>;
  /** The value at a place of a channel of `count`, to be scaled. */
  readonly data: (of: Numbers, count: number) => (place: number) => number;
  /** Whether too few values differ for dx to be of the size of what it is the difference of. */
  readonly few?: true;
}

/** A random number for a place and nothing else, so that patterns can be asked for in any order. */
function hash(place: number, of: number): number {
  let t = Math.imul(place ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(of + 1, 0xc2b2ae35);
  t = Math.imul(t ^ (t >>> 15), 0x2c1b3c6d);
  t = Math.imul(t ^ (t >>> 12), 0x297a2d39);
  return ((t ^ (t >>> 15)) >>> 0) / 2 ** 32;
}

function normal(place: number, of: number): number {
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
    domains: { noise, share, other: real(-1, 1), otherShare: share },
    data: (of) => (i) => {
      const drawn = hash(i, of.noise);
      return drawn < of.share ? 1 : hash(i, of.noise + 1) < of.otherShare ? of.other : 0;
    },
    few: true,
  },
  'eight values': {
    domains: { noise, values: noise },
    data: (of) => (i) => hash(Math.floor(8 * hash(i, of.noise)), of.values),
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

/** dy at a place: what few gradients of many are. */
const gradientKinds = {
  normal: (of: number) => (i: number) => normal(i, of),
  constant: (of: number) => () => 1 + hash(0, of),
  'two values': (of: number) => (i: number) => (hash(i, of) < hash(-1, of) ? 1 + hash(0, of) : 0),
  'nearly constant': (of: number) => (i: number) => 1 + hash(0, of) + 1e-3 * normal(i, of),
} as const;
type GradientKind = keyof typeof gradientKinds;
const gradientNames = Object.keys(gradientKinds) as GradientKind[];

/** What a finding can be repeated from. */
export interface Subject {
  readonly kind: string;
  readonly dtype: DType;
  readonly layout: Layout['name'];
  readonly samples: number;
  readonly channels: number;
  readonly positions: number;
  readonly threads: number;
  readonly gradient: GradientKind;
  readonly of: Numbers;
}

export const measures = ['variance', 'mean', 'y', 'dx', 'dWeight', 'dBias'] as const;
export type Measure = (typeof measures)[number];

/** Relative error of the variance; mean: share of the largest deviation; y and dx: share of their largest; the others: share of Σ|terms|. */
export const bounds: Readonly<Record<DType, Readonly<Record<Measure, number>>>> = {
  float32: { variance: 1e-6, mean: 1e-6, y: 2e-6, dx: 2e-6, dWeight: 2e-6, dBias: 2e-6 },
  float64: { variance: 1e-12, mean: 1e-12, y: 1e-12, dx: 1e-12, dWeight: 1e-12, dBias: 1e-12 },
};

export interface Finding {
  readonly error: number;
  readonly subject: Subject;
}

const eps = 1e-5;
const common: Readonly<Record<string, Domain>> = { scale: size(2 ** -10, 2 ** 10), gradient: noise };

function draw(random: Random, { low, high, whole, logarithmic }: Domain): number {
  const from = Math.max(low, whole ? 0.5 : low);
  const value = logarithmic ? from * (high / from) ** random.uniform() : random.uniform(low, high);
  return whole ? Math.min(high, Math.max(low, Math.round(value))) : value;
}

function drawAll(random: Random, kind: Kind): Numbers {
  const domains = { ...common, ...kind.domains };
  return Object.fromEntries(Object.entries(domains).map(([name, domain]) => [name, draw(random, domain)]));
}

/** Some of the parameters moved by a step of any size, or drawn anew. */
function moved(random: Random, kind: Kind, of: Numbers): Numbers {
  const domains = Object.entries({ ...common, ...kind.domains });
  const first = random.integer(0, domains.length - 1);
  return Object.fromEntries(
    domains.map(([name, domain], i) => {
      if (i !== first && random.uniform() < 0.7) return [name, of[name]];
      if (random.uniform() < 0.2) return [name, draw(random, domain)];
      const step = 10 ** random.uniform(-7, -0.5) * random.pick([-1, 1]);
      const value = domain.whole
        ? Math.round(of[name] * (1 + step)) + random.integer(-1, 1)
        : domain.logarithmic
          ? of[name] * (1 + step)
          : of[name] + step * (domain.high - domain.low);
      return [name, Math.min(domain.high, Math.max(domain.low, value))];
    }),
  );
}

/** The largest tensor but for the few that have millions of values a channel. */
const most = 2 ** 18;

function drawShape(random: Random, dtype: DType): Omit<Subject, 'kind' | 'of' | 'gradient'> {
  const threads = random.pick([1, 1, 2, 3]);
  const layout = random.pick(layouts).name;
  const millions = random.uniform() < 0.002;
  const positions = millions
    ? random.integer(1, 10_000)
    : random.pick([1, 2, 9, 49, 64, 196, 784, 1000, 3136, 8192, draw(random, whole(2, 10_000))]);
  const samples = millions
    ? Math.max(1, Math.floor(10 ** random.uniform(6, 7) / positions))
    : random.pick([1, 1, 2, 8, 128, draw(random, whole(1, 10_000))]);
  const values = samples * positions;
  const channels = Math.min(random.pick([1, 2, 3, 16, 17, 64, 256, 300]), Math.ceil(most / values));
  const few = Math.max(1, Math.min(samples, Math.floor((millions ? 1e7 : most) / positions)));
  return { dtype, layout, samples: few, channels, positions, threads };
}

interface Tensors {
  readonly x: FloatArray;
  readonly dy: FloatArray;
  readonly shape: number[];
  readonly axis: number;
  readonly extents: reference.Extents;
}

function tensorsOf(subject: Subject, ofChannel: readonly Numbers[]): Tensors {
  const { dtype, layout, samples, channels, positions } = subject;
  const { shape: shapeOf, axis } = layouts.find(({ name }) => name === layout) as Layout;
  const shape = shapeOf(samples, channels, positions);
  const extents =
    layout === 'channels-first'
      ? { outer: samples, channels, inner: positions }
      : { outer: samples * positions, channels, inner: 1 };
  const count = samples * positions;
  const { data } = kinds[subject.kind];
  const values = ofChannel.map((of) => data(of, count));
  const gradients = ofChannel.map((of) => gradientKinds[subject.gradient](of.gradient));
  const x = fromChannels(dtype, extents, (c, i) => ofChannel[c].scale * values[c](i));
  const dy = fromChannels(dtype, extents, (c, i) => gradients[c](i));
  return { x, dy, shape, axis, extents };
}

type Errors = Record<Measure, number>;

/** The errors of every channel; without those of the gradients where they are not asked for. */
function errorsOf(subject: Subject, ofChannel: readonly Numbers[], gradients: boolean): Errors[] {
  const { x, dy, shape, axis, extents } = tensorsOf(subject, ofChannel);
  const { channels } = extents;
  const random = new Random(subject.channels, 0);
  const weight = randomNormals(random, subject.dtype, channels);
  const bias = randomNormals(random, subject.dtype, channels);
  const options = { eps, weight, bias };
  setThreads(subject.threads);
  const actual = forwardTraining({ data: x, shape }, { axis, ...options });
  const expected = gradients
    ? reference.forwardTraining(x, extents, options)
    : { ...reference.moments(x, extents), y: undefined };
  const { mean, variance } = actual;
  const back =
    gradients && backward({ data: dy, shape }, { data: x, shape }, { axis, ...options, mean, variance });
  const expectedBack = gradients && reference.backwardTraining(dy, x, extents, options);
  return ofChannel.map((_, c) => {
    const of = (values: ArrayLike<number>) => channelValues(values, extents, c);
    const deviation = largest(of(x).map((value) => value - expected.mean[c]));
    const off = Math.abs(variance[c] - expected.variance[c]);
    const errors: Errors = {
      variance: off === 0 ? 0 : off / expected.variance[c],
      // The mean is a double: half an ulp of it is no error.
      mean: shareOf(
        Math.max(0, Math.abs(mean[c] - expected.mean[c]) - 2 ** -52 * Math.abs(expected.mean[c])),
        deviation,
      ),
      y: 0,
      dx: 0,
      dWeight: 0,
      dBias: 0,
    };
    if (!back || !expectedBack || !expected.y) return errors;
    const r = 1 / Math.sqrt(expected.variance[c] + eps);
    const dyOf = of(dy);
    errors.y = shareOf(furthest(of(actual.y.data), of(expected.y)), largest(of(expected.y)));
    const dxOf = of(expectedBack.dx);
    const isSmall = subject.gradient !== 'normal' || kinds[subject.kind].few || dyOf.length < 16;
    const sizeOfDx = Math.max(largest(dxOf), isSmall ? Math.abs(weight[c]) * r * largest(dyOf) : 0);
    errors.dx = shareOf(furthest(of(back.dx.data), dxOf), sizeOfDx);
    const { magnitude, dWeight, dBias } = expectedBack;
    errors.dWeight = shareOf(Math.abs(back.dWeight[c] - dWeight[c]), magnitude.dWeight[c]);
    errors.dBias = shareOf(Math.abs(back.dBias[c] - dBias[c]), magnitude.dBias[c]);
    return errors;
  });
}

const shareOf = (error: number, of: number) => (error === 0 ? 0 : error / of);

function furthest(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let result = 0;
  for (let i = 0; i < expected.length; i++) result = Math.max(result, Math.abs(actual[i] - expected[i]));
  return result;
}

/** The errors of a finding. */
export function repeat(subject: Subject): Errors {
  const { channels } = subject;
  const each = errorsOf(subject, new Array(channels).fill(subject.of), true);
  return Object.fromEntries(
    measures.map((measure) => [measure, Math.max(...each.map((errors) => errors[measure]))]),
  ) as Errors;
}

/** The worst of every kind and measure, and how many channels were looked at. */
export interface Worst {
  readonly of: ReadonlyMap<string, ReadonlyMap<Measure, Finding>>;
  readonly tensors: number;
  readonly channels: number;
}

/** Hunts until `goes on` says no. */
export function hunt(
  seed: number,
  dtype: DType,
  names: readonly string[],
  goesOn: (tensors: number) => boolean,
): Worst {
  const random = new Random(0, seed);
  const worst = new Map(names.map((name) => [name, new Map<Measure, Finding>()]));
  let tensors = 0;
  let channels = 0;
  while (goesOn(tensors)) {
    const name = names[tensors % names.length];
    const kind = kinds[name];
    const found = worst.get(name) as Map<Measure, Finding>;
    // Half of the time for the promise that is hardest to keep.
    const measure = random.uniform() < 0.5 ? 'variance' : random.pick(measures);
    const gradients = measure !== 'variance' && measure !== 'mean';
    const from = random.uniform() < 0.75 ? found.get(measure)?.subject : undefined;
    const isNewShape = from === undefined || random.uniform() < 0.2;
    const subject: Subject = {
      ...(isNewShape ? drawShape(random, dtype) : from),
      kind: name,
      gradient: from !== undefined && random.uniform() < 0.9 ? from.gradient : random.pick(gradientNames),
      of: {},
    };
    const ofChannel = Array.from({ length: subject.channels }, () =>
      from && random.uniform() < 0.9 ? moved(random, kind, from.of) : drawAll(random, kind),
    );
    errorsOf(subject, ofChannel, gradients).forEach((errors, c) => {
      for (const each of measures) {
        const error = errors[each];
        if (!(error <= (found.get(each)?.error ?? 0)))
          found.set(each, { error, subject: { ...subject, of: ofChannel[c] } });
      }
    });
    tensors++;
    channels += subject.channels;
  }
  return { of: worst, tensors, channels };
}
