// A search for data on which the statistics are worst: kinds of data by shapes, climbing from the worst found so far.

import { backward, type DType, type FloatArray, forwardTraining, setThreads } from '../../lib/index.js';
import { type Domain, hash, type Kind, kinds, type Numbers, noise, normal, size, whole } from './data.js';
import { Random } from './random.js';
import * as reference from './reference.js';
import {
  channelValues,
  extentsOf,
  fromChannels,
  type Layout,
  largest,
  randomNormals,
  summedLayouts,
} from './tensors.js';

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
  float64: { variance: 1e-11, mean: 1e-11, y: 1e-11, dx: 1e-11, dWeight: 1e-11, dBias: 1e-11 },
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

/** The largest tensors but for the few that have millions of values a channel. */
const sizes = [2 ** 13, 2 ** 15, 2 ** 17] as const;

function drawShape(random: Random, dtype: DType): Omit<Subject, 'kind' | 'of' | 'gradient'> {
  const threads = random.pick([1, 1, 2, 3]);
  const layout = random.pick(summedLayouts).name;
  const millions = random.uniform() < 0.002;
  const positions = millions
    ? random.integer(1, 10_000)
    : random.pick([1, 2, 4, 8, 9, 16, 49, 64, 196, 784, 1000, 3136, 8192, draw(random, whole(2, 10_000))]);
  const samples = millions
    ? Math.max(1, Math.floor(10 ** random.uniform(6, 7) / positions))
    : random.pick([1, 1, 2, 8, 128, draw(random, whole(1, 10_000))]);
  const most = millions ? 1e7 : random.pick(sizes);
  const fewer = Math.max(1, Math.min(samples, Math.floor(most / positions)));
  const channels = Math.max(
    1,
    Math.min(random.pick([1, 2, 3, 16, 17, 64, 256, 300]), Math.floor(most / (fewer * positions))),
  );
  return { dtype, layout, samples: fewer, channels, positions, threads };
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
  const { shape: shapeOf, axis } = summedLayouts.find(({ name }) => name === layout) as Layout;
  const shape = shapeOf(samples, channels, positions);
  const extents = extentsOf(shape, axis);
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
    // Doubles know the mean to half an ulp of itself, which x − mean then lacks, and what is made of it some times over.
    const lacks =
      subject.dtype === 'float64' ? 1 + (2 ** -48 * Math.abs(expected.mean[c]) * r) / bounds.float64.y : 1;
    const dyOf = of(dy);
    errors.y = shareOf(furthest(of(actual.y.data), of(expected.y)), lacks * largest(of(expected.y)));
    const dxOf = of(expectedBack.dx);
    const isSmall = subject.gradient !== 'normal' || kinds[subject.kind].few || dyOf.length < 16;
    const sizeOfDx = Math.max(largest(dxOf), isSmall ? Math.abs(weight[c]) * r * largest(dyOf) : 0);
    errors.dx = shareOf(furthest(of(back.dx.data), dxOf), lacks * sizeOfDx);
    const { magnitude, dWeight, dBias } = expectedBack;
    errors.dWeight = shareOf(Math.abs(back.dWeight[c] - dWeight[c]), lacks * magnitude.dWeight[c]);
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
