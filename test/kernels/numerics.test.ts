import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  backward,
  type FloatArray,
  forwardInference,
  forwardTraining,
  Moments,
} from '../../lib/index.js';
import { ninth } from '../support/data.js';
import { decodeAll, encodeAll } from '../support/half.js';
import { Random, seedNote } from '../support/random.js';
import * as reference from '../support/reference.js';
import {
  channelValues,
  eachSummedKind,
  expectClose,
  expectSame,
  extentsOf,
  type FloatDType,
  fromChannels,
  generate,
  type Layout,
  largest,
  randomActivations,
  randomNormals,
  randomParameters,
  sizeOf,
  summedLayouts,
  typed,
} from '../support/tensors.js';

const eps = 1e-5;

/**
 * Statistics and y against the textbook. The mean is judged by the deviations around it: its share of a mean of 1e4
 * would allow an error of a standard deviation where that is 1e-2.
 */
function expectStatisticsAndOutput(
  x: FloatArray,
  shape: number[],
  axis: number,
  options: { eps: number; weight?: FloatArray; bias?: FloatArray },
  share: { variance: number; mean: number; y: number },
  where = '',
): { mean: Float64Array; variance: Float64Array } {
  const extents = extentsOf(shape, axis);
  const expected = reference.forwardTraining(x, extents, options);
  const { y, mean, variance } = forwardTraining({ data: x, shape }, { axis, ...options });
  const deviation = (c: number) =>
    largest(channelValues(x, extents, c).map((value) => value - expected.mean[c]));
  expectClose(variance, expected.variance, (c) => share.variance * expected.variance[c], `variance${where}`);
  expectClose(mean, expected.mean, (c) => share.mean * deviation(c), `mean${where}`);
  expectClose(y.data, expected.y, share.y * largest(expected.y), `y${where}`);
  return { mean, variance };
}

interface HardCase {
  readonly title: string;
  readonly mean: number;
  readonly std: number;
  readonly shape: (layout: Layout, dtype: FloatDType) => number[];
}

const hardCases: readonly HardCase[] = [
  { title: 'N(0, 1)', mean: 0, std: 1, shape: (layout) => layout.shape(8, 5, 3137) },
  { title: 'mean 1000', mean: 1000, std: 1, shape: (layout) => layout.shape(8, 5, 3137) },
  {
    title: 'mean 1e4, standard deviation 1e-2',
    mean: 1e4,
    std: 1e-2,
    shape: (layout) => layout.shape(8, 5, 3137),
  },
  {
    title: 'millions of values per channel',
    mean: 1,
    std: 1,
    // What is special about so many values is float32; doubles take fewer, for the time it takes.
    shape: ({ name, shape }, dtype) =>
      shape(dtype === 'float32' ? 4 : 1, name === 'channels-first' ? 1 : 2, 1_000_003),
  },
  { title: 'a constant channel', mean: 1234.567, std: 0, shape: (layout) => layout.shape(8, 5, 3137) },
];

describe(`the five hard cases (${seedNote})`, () => {
  for (const { title, mean, std, shape } of hardCases) {
    eachSummedKind(title, ({ dtype, layout }) => {
      const random = new Random();
      const dimensions = shape(layout, dtype);
      const { axis } = layout;
      const extents = extentsOf(dimensions, axis);
      const length = sizeOf(extents);
      const x = generate(dtype, length, () => random.normal(mean, std));
      const parameters = randomParameters(random, dtype, extents.channels);
      const options = { eps, ...parameters };
      // In doubles the mean is known to half an ulp of itself, which is what x − mean then lacks.
      const rounding = dtype === 'float32' ? 1e-6 : 1e-12 + (std > 0 ? (2 ** -51 * mean) / std : 0);
      const statistics = expectStatisticsAndOutput(x, dimensions, axis, options, {
        variance: dtype === 'float32' ? 1e-6 : 1e-12,
        mean: rounding,
        y: rounding,
      });

      const noise = randomNormals(random, dtype, 99_991);
      const dy = generate(dtype, length, (i) => noise[i % noise.length]);
      const { dx } = backward(
        { data: dy, shape: dimensions },
        { data: x, shape: dimensions },
        { axis, ...options, ...statistics },
      );
      const expected = reference.backwardTraining(dy, x, extents, options);
      expectClose(dx.data, expected.dx, rounding * largest(expected.dx), 'dx');
    });
  }

  eachSummedKind('a constant channel has variance 0 and its bias as y, exactly', ({ dtype, layout }) => {
    const shape = layout.shape(8, 5, 3137);
    const extents = extentsOf(shape, layout.axis);
    const parameters = randomParameters(new Random(), dtype, extents.channels);
    const x = typed(dtype, new Float64Array(sizeOf(extents)).fill(1234.567));
    const { y, mean, variance } = forwardTraining(
      { data: x, shape },
      { axis: layout.axis, eps, ...parameters },
    );
    expectSame(mean, new Array(5).fill(x[0]), 'mean');
    expectSame(variance, new Float64Array(5), 'variance');
    expectSame(
      y.data,
      fromChannels(dtype, extents, (c) => parameters.bias[c]),
      'y',
    );
  });
});

describe(`statistics without any error (${seedNote})`, () => {
  interface ExactChannel {
    readonly values: number[];
    readonly mean: number;
    readonly variance: number;
  }

  /**
   * Pairs mean ± d with d among few multiples of a power of two: every sum a chunk can meet is exact, whatever the
   * order.
   */
  function exactChannel(
    random: Random,
    count: number,
    magnitudes: (pairs: number) => number[],
  ): ExactChannel {
    const quantum = 2 ** random.integer(-8, 4);
    const mean = random.integer(-(2 ** random.integer(1, 13)), 2 ** 13) * quantum;
    const values: number[] = [];
    let squares = 0;
    for (const magnitude of magnitudes(count >> 1)) {
      const deviation = (random.uniform() < 0.5 ? -magnitude : magnitude) * quantum;
      values.push(mean + deviation, mean - deviation);
      squares += 2 * deviation * deviation;
    }
    if (count % 2 === 1) values.push(mean);
    return { values, mean, variance: squares / count };
  }

  const samples = (random: Random, positions: number) =>
    random.integer(1, Math.max(1, Math.floor(6000 / positions)));

  function expectExact(
    random: Random,
    dtype: FloatDType,
    layout: Layout,
    outer: number,
    inner: number,
    magnitudes: (pairs: number) => number[],
  ): void {
    const channels = outer * inner > 10_000 ? 2 : random.pick([1, 2, 3, 16, 17]);
    const shape = layout.shape(outer, channels, inner);
    const exact = Array.from({ length: channels }, () => exactChannel(random, outer * inner, magnitudes));
    const x = fromChannels(dtype, extentsOf(shape, layout.axis), (c, position) => exact[c].values[position]);
    const { mean, variance } = forwardTraining({ data: x, shape }, { axis: layout.axis });
    const where = `${layout.name} over [${shape}]`;
    expectSame(
      mean,
      exact.map((channel) => channel.mean),
      `mean, ${where}`,
    );
    expectSame(
      variance,
      exact.map((channel) => channel.variance),
      `variance, ${where}`,
    );
  }

  eachSummedKind('mean and variance of exact pairs are exact', ({ dtype, layout }) => {
    const random = new Random();
    for (let i = 0; i < 100; i++) {
      // An odd number of positions makes pairs straddle the planes.
      const inner = random.pick([1, 2, 7, 49, 63, 64, 65, 225, 1000, 1023]);
      const outer = 2 * Math.ceil(samples(random, inner) / 2);
      expectExact(random, dtype, layout, outer, inner, (pairs) => {
        // As many deviations of 1 as of 7, the others 5: since 1² + 7² = 2·5², the variance is 25 quanta.
        const ones = random.integer(0, Math.floor(pairs / 2));
        const list = Array.from({ length: pairs }, (_, p) => (p < ones ? 1 : p < 2 * ones ? 7 : 5));
        return random.shuffle(list);
      });
    }
  });

  eachSummedKind('mean of exact pairs is exact, variance its sum divided once', ({ dtype, layout }) => {
    const random = new Random();
    for (let i = 0; i < 100; i++) {
      const inner = random.integer(1, 1100);
      expectExact(random, dtype, layout, samples(random, inner), inner, (pairs) =>
        Array.from({ length: pairs }, () => random.integer(0, 9)),
      );
    }
  });

  eachSummedKind('exact pairs are exact in channels of 300,000 values', ({ dtype, layout }) => {
    const random = new Random();
    for (const [outer, inner] of [
      [6, 50_001],
      [300, 1001],
      [300_007, 1],
    ]) {
      expectExact(random, dtype, layout, outer, inner, (pairs) =>
        Array.from({ length: pairs }, () => random.integer(0, 9)),
      );
    }
  });
});

describe(`hostile data (${seedNote})`, () => {
  const count = 20_022;

  interface Hostile {
    readonly title: string;
    readonly value: (random: Random, position: number) => number;
    readonly eps?: number;
    /** Whether dx is judged too. */
    readonly backward?: false;
  }

  /** Allowed error of the variance, and of mean, y and dx as a share of their largest. */
  const share = { float32: 1e-6, float64: 1e-11 } as const;

  const hostiles: readonly Hostile[] = [
    {
      title: 'the first value is an outlier of 1e6',
      value: (random, i) => (i === 0 ? 1e6 : random.normal()),
    },
    { title: 'a ramp from 0 to 20', value: (_, i) => i / 1000 },
    {
      title: 'two narrow peaks far apart, one after the other',
      value: (random, i) => random.normal(i < count / 2 ? -1000 : 1000, 0.01),
    },
    {
      title: 'two narrow peaks far apart, mixed',
      value: (random) => random.normal(random.uniform() < 0.5 ? -1000 : 1000, 0.01),
    },
    {
      title: 'planes that start with a border of zeros, then vary around 1000',
      value: (random, i) => (i % (count / 2) < 64 ? 0 : random.normal(1000, 1)),
    },
    {
      title: 'planes that start with a border of zeros, then are flat',
      value: (_, i) => (i % (count / 2) < 64 ? 0 : 1000.1),
    },
    { title: 'values of 1e20', value: (random) => random.normal(3e20, 1e20) },
    { title: 'values of 1e30', value: (random) => random.normal(-1e30, 1e30) },
    // eps far below the variance of 1e-36, or y would be the bias whatever the variance.
    { title: 'values of 1e-18', value: (random) => random.normal(1e-18, 1e-18), eps: 1e-60 },
    { title: 'values of 1e-25', value: (random) => random.normal(1e-25, 1e-25) },
    {
      title: 'an outlier of 1e6 in the middle of N(0, 1)',
      value: (random, i) => (i === count / 2 + 77 ? 1e6 : random.normal()),
    },
    {
      title: 'alternating sign',
      value: (_, i) => (i % 2 === 0 ? 1 : -1) * (100 + (i % 7) / 8),
    },
    {
      title: 'sorted, from −20 to 20 and flat in the middle',
      value: (_, i) => 20 * ((2 * i) / count - 1) ** 3,
    },
    {
      title: 'heavy tails (Cauchy)',
      value: (random) => Math.tan(Math.PI * (random.uniform(1e-6, 1 - 1e-6) - 0.5)),
    },
    // Forward alone: the gradient to the weight, Σ dy·(x − mean), has no room left in a float32.
    {
      title: 'the whole range of float32, lowest first',
      value: (_, i) => (i < count / 2 ? -3e38 : 3e38),
      backward: false,
    },
  ];

  for (const hostile of hostiles) {
    eachSummedKind(hostile.title, ({ dtype, layout }) => {
      const random = new Random();
      const shape = layout.shape(2, 3, count / 2);
      const extents = extentsOf(shape, layout.axis);
      // The middle channel is ordinary, so that one channel's trouble would show in its neighbour.
      const x = fromChannels(dtype, extents, (c, i) =>
        c === 1 ? random.normal() : hostile.value(random, i),
      );
      const parameters = randomParameters(random, dtype, extents.channels);
      const options = { eps: hostile.eps ?? eps, ...parameters };
      const allowed = share[dtype];
      const shares = { variance: allowed, mean: allowed, y: allowed };
      const { mean, variance } = expectStatisticsAndOutput(x, shape, layout.axis, options, shares);
      if (hostile.backward === false) return;

      const dy = randomNormals(random, dtype, x.length);
      const expected = reference.backwardTraining(dy, x, extents, options);
      const { dx } = backward(
        { data: dy, shape },
        { data: x, shape },
        { axis: layout.axis, ...options, mean, variance },
      );
      for (let c = 0; c < extents.channels; c++) {
        const wanted = channelValues(expected.dx, extents, c);
        expectClose(
          channelValues(dx.data, extents, c),
          wanted,
          allowed * largest(wanted),
          `dx of channel ${c}`,
        );
      }
    });
  }

  // Whatever few places of an image a shift is taken from, at some width they are all in one column.
  eachSummedKind('flat images of any width with a dark first column', ({ dtype, layout }) => {
    const allowed = share[dtype];
    for (let width = 5; width <= 100; width++) {
      const shape = layout.shape(2, 1, width * width);
      const x = generate(dtype, 2 * width * width, (i) => (i % width === 0 ? 0 : 1000.1));
      const shares = { variance: allowed, mean: allowed, y: allowed };
      expectStatisticsAndOutput(x, shape, layout.axis, { eps }, shares, `, ${width} wide`);
    }
  });
});

describe(`values that are not finite (${seedNote})`, () => {
  const channels = 5;
  const poisons = [
    { title: 'NaN', values: [Number.NaN] },
    { title: 'Infinity', values: [Number.POSITIVE_INFINITY] },
    { title: '-Infinity', values: [Number.NEGATIVE_INFINITY] },
    { title: 'both infinities', values: [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY] },
  ];
  /** A copy with the values at random places of one channel. */
  function poisoned(
    random: Random,
    x: FloatArray,
    extents: reference.Extents,
    channel: number,
    values: number[],
  ) {
    const copy = x.slice() as FloatArray;
    for (const value of values) {
      const o = random.integer(0, extents.outer - 1);
      const i = random.integer(0, extents.inner - 1);
      copy[(o * extents.channels + channel) * extents.inner + i] = value;
    }
    return copy;
  }

  function expectOthersSame(
    actual: FloatArray,
    clean: FloatArray,
    extents: reference.Extents,
    channel: number,
    what: string,
  ): void {
    for (let c = 0; c < extents.channels; c++) {
      if (c === channel) continue;
      const name = `${what} of channel ${c}`;
      expectSame(channelValues(actual, extents, c), channelValues(clean, extents, c), name);
    }
  }

  for (const { title, values } of poisons) {
    eachSummedKind(`${title} in x stays in its channel`, ({ dtype, layout }) => {
      const random = new Random();
      for (const positions of [3, 49, 9001]) {
        const shape = layout.shape(3, channels, positions);
        const { axis } = layout;
        const extents = extentsOf(shape, axis);
        const clean = randomActivations(random, dtype, extents);
        const dy = randomNormals(random, dtype, clean.length);
        const parameters = randomParameters(random, dtype, channels);
        const channel = random.integer(0, channels - 1);
        const dirty = poisoned(random, clean, extents, channel, values);
        const run = (x: FloatArray) => {
          const forward = forwardTraining({ data: x, shape }, { axis, ...parameters });
          const statistics = { mean: forward.mean, variance: forward.variance };
          const gradient = backward(
            { data: dy, shape },
            { data: x, shape },
            { axis, ...parameters, ...statistics },
          );
          return { ...forward, ...gradient };
        };
        const expected = run(clean);
        const actual = run(dirty);
        expectOthersSame(actual.y.data, expected.y.data, extents, channel, 'y');
        expectOthersSame(actual.dx.data, expected.dx.data, extents, channel, 'dx');
        const perChannel = { outer: 1, channels, inner: 1 };
        expectOthersSame(actual.mean, expected.mean, perChannel, channel, 'mean');
        expectOthersSame(actual.variance, expected.variance, perChannel, channel, 'variance');
        expectOthersSame(
          actual.dWeight as FloatArray,
          expected.dWeight as FloatArray,
          perChannel,
          channel,
          'dWeight',
        );
        expectSame(actual.dBias as FloatArray, expected.dBias as FloatArray, 'dBias');
        expect(Number.isFinite(actual.variance[channel]), 'a finite variance').toBe(false);
        expect(channelValues(actual.y.data, extents, channel).some(Number.isNaN), 'a NaN in y').toBe(true);
      }
    });

    eachSummedKind(`a channel with ${title} has the mean of the textbook`, ({ dtype, layout }) => {
      const random = new Random();
      const mean = values.reduce((sum, value) => sum + value);
      for (const size of dtype === 'float32' ? [1, 1e30] : [1, 1e200])
        for (const [outer, inner] of [
          [3, 1],
          [50, 1],
          [3, 3],
          [3, 49],
          [2, 9001],
        ]) {
          const shape = layout.shape(outer, channels, inner);
          const extents = extentsOf(shape, layout.axis);
          const clean = randomNormals(random, dtype, sizeOf(extents)).map((value) => size * value);
          const sources = Array.from({ length: inner > 1000 ? 2 : 10 }, () => {
            let x: FloatArray;
            // Two values may be drawn the same place.
            do x = poisoned(random, clean as FloatArray, extents, 2, values);
            while (
              channelValues(x, extents, 2).filter((value) => !Number.isFinite(value)).length < values.length
            );
            return x;
          });
          const full = fromChannels(dtype, extents, (c, i) => (c === 2 ? values[i % values.length] : i));
          for (const data of [...sources, full]) {
            const actual = forwardTraining({ data, shape }, { axis: layout.axis });
            expectSame([actual.mean[2]], [mean], `mean of [${shape}], ${size}`);
            expect(actual.variance[2], 'variance').toBeNaN();
          }
        }
    });

    eachSummedKind(`${title} is one value of y in inference`, ({ dtype, layout }) => {
      const random = new Random();
      const shape = layout.shape(3, channels, 49);
      const extents = extentsOf(shape, layout.axis);
      const clean = randomActivations(random, dtype, extents);
      const dirty = poisoned(random, clean, extents, 2, values);
      const options = {
        axis: layout.axis,
        mean: new Float64Array(channels).fill(0.3),
        variance: new Float64Array(channels).fill(2),
        weight: typed(dtype, new Array(channels).fill(1.5)),
      };
      const expected = forwardInference({ data: clean, shape }, options).data;
      const actual = forwardInference({ data: dirty, shape }, options).data;
      for (let i = 0; i < dirty.length; i++) {
        // Weight and variance are positive: what is not finite passes as it is.
        const value = Number.isFinite(dirty[i]) ? expected[i] : dirty[i];
        if (!Object.is(actual[i], value)) expect(actual[i], `y[${i}]`).toBe(value);
      }
    });

    eachSummedKind(`${title} in dy stays in its channel`, ({ dtype, layout }) => {
      const random = new Random();
      const shape = layout.shape(3, channels, 49);
      const { axis } = layout;
      const extents = extentsOf(shape, axis);
      const x = randomActivations(random, dtype, extents);
      const clean = randomNormals(random, dtype, x.length);
      const dirty = poisoned(random, clean, extents, 2, values);
      const { mean, variance } = forwardTraining({ data: x, shape }, { axis });
      const run = (dy: FloatArray) =>
        backward({ data: dy, shape }, { data: x, shape }, { axis, mean, variance }).dx.data;
      const actual = run(dirty);
      expectOthersSame(actual, run(clean), extents, 2, 'dx');
      expect(channelValues(actual, extents, 2).some(Number.isNaN), 'a NaN in dx').toBe(true);
    });

    eachSummedKind(`${title} is kept out of the running statistics`, ({ dtype, layout }) => {
      const random = new Random();
      const shape = layout.shape(3, channels, 49);
      const { axis } = layout;
      const extents = extentsOf(shape, axis);
      const disturbed = new BatchNorm(channels, { axis, dtype });
      const undisturbed = new BatchNorm(channels, { axis, dtype });
      const forward = (bn: typeof disturbed, x: FloatArray) => {
        bn.forward({ data: x as never, shape });
      };
      const first = randomActivations(random, dtype, extents);
      forward(disturbed, first);
      forward(undisturbed, first);
      expect(disturbed.rejectedUpdates).toBe(0);
      const before = (disturbed.runningMean as Float64Array)[3];
      const beforeVar = (disturbed.runningVar as Float64Array)[3];

      const second = randomActivations(random, dtype, extents);
      forward(disturbed, poisoned(random, second, extents, 3, values));
      forward(undisturbed, second);
      expect(disturbed.rejectedUpdates).toBe(1);
      expect(undisturbed.rejectedUpdates).toBe(0);
      expect(disturbed.batchesTracked).toBe(2);
      const expectedMean = (undisturbed.runningMean as Float64Array).slice();
      const expectedVar = (undisturbed.runningVar as Float64Array).slice();
      expectedMean[3] = before;
      expectedVar[3] = beforeVar;
      expectSame(disturbed.runningMean as Float64Array, expectedMean, 'runningMean');
      expectSame(disturbed.runningVar as Float64Array, expectedVar, 'runningVar');
    });
  }

  it('every rejected channel counts, batch after batch', () => {
    const bn = new BatchNorm(4);
    const data = Float32Array.of(1, Number.NaN, 3, 4, 5, 6, Number.POSITIVE_INFINITY, 9);
    for (let batch = 1; batch <= 3; batch++) {
      bn.forward({ data, shape: [2, 4] });
      expect(bn.rejectedUpdates).toBe(2 * batch);
      expect(bn.batchesTracked).toBe(batch);
    }
    expectSame(
      (bn.runningMean as Float64Array).subarray(1, 3),
      [0, 0],
      'runningMean of the rejected channels',
    );
    expectSame((bn.runningVar as Float64Array).subarray(1, 3), [1, 1], 'runningVar of the rejected channels');
    expect((bn.runningMean as Float64Array)[0]).toBeCloseTo(3 * (1 - 0.9 ** 3), 12);
  });

  it('a variance beyond the doubles is rejected as well', () => {
    const bn = new BatchNorm(2, { dtype: 'float64' });
    bn.forward({ data: Float64Array.of(1e200, 1, -1e200, 3), shape: [2, 2] });
    expect(bn.rejectedUpdates).toBe(1);
    expect(bn.runningVar?.[0]).toBe(1);
    expect(bn.runningVar?.[1]).toBeCloseTo(0.9 + 0.1 * 2, 12);
  });

  it('a squared deviation beyond float32 is not: the statistics are doubles', () => {
    const bn = new BatchNorm(1);
    bn.forward({ data: Float32Array.of(2 ** 100, -(2 ** 100)), shape: [2, 1] });
    expect(bn.rejectedUpdates).toBe(0);
    expect((bn.runningVar as Float64Array)[0] / 2 ** 200).toBeCloseTo(0.1 * 2, 12);
  });
});

describe(`values up to the largest (${seedNote})`, () => {
  /** Few values, of which one in four is far from the others. */
  function drawValues(random: Random, count: number): Float64Array {
    const middle = random.pick([0, 0, random.uniform(-0.9, 0.9)]);
    const spread = Math.min(1 - Math.abs(middle), 10 ** random.uniform(-3, 0));
    return Float64Array.from({ length: count }, () =>
      random.uniform() < 0.25 ? random.uniform(-1, 1) : middle + spread * random.uniform(-1, 1),
    );
  }

  it('variance and y are right where the squares, but not the variance, are beyond the doubles', () => {
    const { y, mean, variance } = forwardTraining({
      data: Float64Array.of(-1.2e154, 1.2e154),
      shape: [2, 1],
    });
    expectSame(mean, [0], 'mean');
    expectClose(variance, [1.44e308], 1e296, 'variance');
    expectClose(y.data, [-1, 1], 1e-12, 'y');
  });

  it('a variance beyond the doubles is Infinity, its mean right, and y the bias', () => {
    const data = Float64Array.of(-1.7e308, 1.7e308, 1.7e308, 1.7e308);
    const bias = Float64Array.of(0.5);
    const { y, mean, variance } = forwardTraining({ data, shape: [4, 1] }, { bias });
    expectClose(mean, [0.85e308], 1e296, 'mean');
    expectSame(variance, [Number.POSITIVE_INFINITY], 'variance');
    expectSame(y.data, [0.5, 0.5, 0.5, 0.5], 'y');
  });

  it('a difference of the last digit of the largest is known', () => {
    const most = Number.MAX_VALUE;
    const data = Float64Array.of(most, most, most, most - 2 ** 971);
    const { mean, variance } = forwardTraining({ data, shape: [4, 1] });
    expectSame(mean, [most], 'mean');
    expectSame(variance, [Number.POSITIVE_INFINITY], 'variance');
  });

  // Where an ulp is as large as a deviation whose square, but not whose variance, doubles hold.
  it.each([3, 8, 13])('%i of 16 doubles that are an ulp larger have the variance of two values', (larger) => {
    const [least, ulp] = [2 ** 563, 2 ** 511];
    for (const shape of [
      [16, 1],
      [2, 1, 8],
    ]) {
      const data = Float64Array.from({ length: 16 }, (_, i) => least + (i < larger ? ulp : 0));
      const { mean, variance } = forwardTraining({ data, shape });
      const share = larger / 16;
      expectClose(
        mean.map((value) => value - least),
        [share * ulp],
        ulp / 2,
        'mean',
      );
      const expected = share * (1 - share) * ulp * ulp;
      expectClose(variance, [expected], 1e-11 * expected, 'variance');
    }
  });

  // Equal terms are all rounded the same way: added one to the other they are off by more than 1e-11.
  it.each([
    [1_000_000, 1],
    [10, 1, 100_000],
  ])('a million squares beyond the doubles have a variance that is right to 1e-11, %i x %i', (...shape) => {
    const size = 1.2e154;
    const data = Float64Array.from({ length: 1_000_000 }, (_, i) => (i % 3 === 0 ? -size / 2 : size));
    const { mean, variance } = forwardTraining({ data, shape });
    const share = 333_334 / 1_000_000;
    const expectedMean = size * (1 - 1.5 * share);
    const expected = 2.25 * share * (1 - share) * 1.44e308;
    expectClose(mean, [expectedMean], 1e-11 * size, 'mean');
    expectClose(variance, [expected], 1e-11 * expected, 'variance');
  });

  eachSummedKind('statistics are those of the textbook at any size', ({ dtype, layout }) => {
    const random = new Random();
    let overflows = 0;
    for (let i = 0; i < 400; i++) {
      const shape = layout.shape(random.integer(1, 40), random.integer(1, 9), random.integer(1, 40));
      const extents = extentsOf(shape, layout.axis);
      const channels = extents.channels;
      const count = extents.outer * extents.inner;
      // Powers of two: what is known of the values is known of them at any size, as long as they are no subnormals; from
      // 2^-60 on squares in float32 would be. Squares that are too small for doubles are a limit of theirs.
      const [low, high] = dtype === 'float32' ? [-80, 127] : [-996, 1023];
      const powers = Array.from({ length: channels }, () =>
        dtype === 'float64' && random.uniform() < 0.5 ? random.integer(500, 520) : random.integer(low, high),
      );
      const drawn = powers.map(() => drawValues(random, count));
      const small = fromChannels(dtype, extents, (c, position) => drawn[c][position]);
      const x = fromChannels(
        dtype,
        extents,
        (c, position) => Math.fround(drawn[c][position]) * 2 ** powers[c],
      );
      const rounded = small.map(Math.fround);
      const expected = reference.moments(rounded, extents);
      const { mean, variance } = forwardTraining({ data: x, shape }, { axis: layout.axis });
      for (let c = 0; c < channels; c++) {
        const where = `of channel ${c} times 2^${powers[c]}, [${shape}]`;
        const up = (value: number) => value * 2 ** powers[c];
        const deviation = largest(
          channelValues(rounded, extents, c).map((value) => value - expected.mean[c]),
        );
        const share = dtype === 'float32' ? 1e-6 : 1e-12;
        expectClose(
          [mean[c]],
          [up(expected.mean[c])],
          up(share * deviation + 2 ** -52 * Math.abs(expected.mean[c])),
          `mean ${where}`,
        );
        // Below 2^-1022 squares lose digits, each.
        const wanted = up(up(expected.variance[c]));
        expectClose([variance[c]], [wanted], share * wanted + 2 ** -1022, `variance ${where}`);
        if (wanted === Number.POSITIVE_INFINITY) overflows++;
      }
    }
    if (dtype === 'float64') expect(overflows, 'variances that are Infinity').toBeGreaterThan(100);
  });

  eachSummedKind(
    'a value that is not finite makes NaN of its channel, however large the others, which are right',
    ({ dtype, layout }) => {
      const random = new Random();
      const [size, power, share] = dtype === 'float32' ? [3e38, 0, 1e-6] : [1e154, 520, 1e-11];
      const poisons = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
      for (const [outer, inner] of [
        [20, 11],
        [33, 1],
        [64, 2],
        [100, 3],
      ])
        for (const poison of poisons) {
          const shape = layout.shape(outer, 70, inner);
          const extents = extentsOf(shape, layout.axis);
          const poisoned = Array.from({ length: 70 }, () =>
            random.uniform() < 0.5 ? random.integer(0, outer * inner - 1) : -1,
          );
          const x = fromChannels(dtype, extents, (c, position) =>
            position === poisoned[c] ? poison : random.uniform(-size, size),
          );
          const { variance } = forwardTraining({ data: x, shape }, { axis: layout.axis });
          const small = Float64Array.from(x, (value) => value * 2 ** -power);
          const expected = reference.moments(small, extents).variance;
          for (let c = 0; c < 70; c++) {
            const wanted = poisoned[c] >= 0 ? Number.NaN : expected[c] * 2 ** power * 2 ** power;
            expectClose([variance[c]], [wanted], share * wanted, `variance of channel ${c} of [${shape}]`);
          }
        }
    },
  );

  it('y of four float32 whose deviations are beyond float32', () => {
    const data = Float32Array.of(-3e38, -3e38, -3e38, 3e38);
    const { y } = forwardTraining({ data, shape: [4, 1] });
    expectClose(y.data, [-(3 ** -0.5), -(3 ** -0.5), -(3 ** -0.5), 3 ** 0.5], 1e-6, 'y');
  });

  it.each([
    [0, 1e40, 1e80, -1],
    [0, 3.5e38, 1e76, -3.5],
    [3e38, -3e38, 1e76, 6],
    [-3e38, 3e38, 1e76, -6],
  ])('float32 %d with mean %d and variance %d is %d', (value, mean, variance, expected) => {
    const x = { data: Float32Array.of(value), shape: [1, 1] };
    const statistics = { mean: Float64Array.of(mean), variance: Float64Array.of(variance) };
    const y = Math.fround(expected);
    expectClose(forwardInference(x, statistics).data, [y], 1e-6 * Math.abs(y), 'y of forwardInference');
    const bn = new BatchNorm(1).eval();
    bn.runningMean?.set(statistics.mean);
    bn.runningVar?.set(statistics.variance);
    expectClose(bn.forward(x).data, [y], 1e-6 * Math.abs(y), 'y of the layer');
    expectClose(bn.freeze().run(x).data, [y], 1e-6 * Math.abs(y), 'y of the frozen layer');
  });

  it('y and gradients of doubles are right wherever a double holds the variance', () => {
    const random = new Random();
    for (let i = 0; i < 2000; i++) {
      const count = random.integer(2, 300);
      const drawn = drawValues(random, count);
      const power = random.uniform() < 0.5 ? random.integer(500, 511) : random.integer(-400, 511);
      const shape = [count, 1];
      const data = drawn.map((value) => value * 2 ** power);
      const dy = randomNormals(random, 'float64', count);
      const { y, mean, variance } = forwardTraining({ data, shape }, { eps: 2 ** -1000 });
      const statistics = { mean, variance, eps: 2 ** -1000 };
      const actual = backward({ data: dy as Float64Array, shape }, { data, shape }, statistics);
      // eps is nothing beside these variances.
      const extents = { outer: count, channels: 1, inner: 1 };
      const expected = reference.forwardTraining(drawn, extents, { eps: 0 });
      const gradients = reference.backwardTraining(dy, drawn, extents, { eps: 0 });
      const { magnitude } = gradients;
      // The mean is known to half an ulp of itself.
      const share = 1e-12 + (2 ** -50 * Math.abs(expected.mean[0])) / Math.sqrt(expected.variance[0]);
      const where = `of ${count} values times 2^${power}`;
      expectClose(y.data, expected.y, share * largest(expected.y), `y ${where}`);
      expectClose(actual.dWeight, gradients.dWeight, share * magnitude.dWeight[0], `dWeight ${where}`);
      expectClose(actual.dBias, gradients.dBias, share * magnitude.dBias[0], `dBias ${where}`);
      const up = actual.dx.data.map((value) => value * 2 ** power);
      expectClose(up, gradients.dx, share * magnitude.dx[0], `dx ${where}`);
    }
  });

  /** From here on x - mean can be beyond float32. */
  const far = 2 ** 103;

  it('float32 batches of up to 65 values are normalized to 2e-6, whatever their size', () => {
    const random = new Random();
    let overflowing = 0;
    for (let i = 0; i < 3000; i++) {
      const count = random.integer(2, 65);
      const size = random.pick([3.4e38, 10 ** random.uniform(-15, 38.5)]);
      const data = Float32Array.from(drawValues(random, count), (value) => value * size);
      const extents = { outer: count, channels: 1, inner: 1 };
      const expected = reference.forwardTraining(data, extents, { eps });
      const { y } = forwardTraining({ data, shape: [count, 1] }, { eps });
      if (data.some((value) => Math.abs(value - expected.mean[0]) > 3.4e38)) overflowing++;
      expectClose(y.data, expected.y, 2e-6 * largest(expected.y), `y of ${count} values up to ${size}`);
    }
    expect(overflowing, 'batches with a deviation beyond float32').toBeGreaterThan(100);
  });

  it('gradients of float32 batches far from 0 are those of the textbook, up to 1e36', () => {
    const random = new Random();
    let distant = 0;
    for (let i = 0; i < 3000; i++) {
      const count = random.integer(2, 65);
      const size = 10 ** random.uniform(29, 36);
      const data = Float32Array.from(drawValues(random, count), (value) => value * size);
      const extents = { outer: count, channels: 1, inner: 1 };
      const dy = randomNormals(random, 'float32', count);
      const shape = [count, 1];
      const { mean, variance } = forwardTraining({ data, shape }, { eps });
      if (Math.abs(mean[0]) >= far && Math.abs(mean[0]) <= 8 * Math.sqrt(variance[0])) distant++;
      for (const training of [true, false]) {
        const statistics = { mean, variance, eps, training };
        const actual = backward({ data: dy, shape }, { data, shape }, statistics);
        const expected = training
          ? reference.backwardTraining(dy, data, extents, { eps })
          : reference.backwardFrozen(dy, data, extents, { eps, mean, variance });
        const allowed = (name: 'dx' | 'dWeight' | 'dBias') => 2e-6 * expected.magnitude[name][0];
        const where = `of ${count} values up to ${size}, training ${training}`;
        expectClose(actual.dx.data, expected.dx, allowed('dx') + 2 ** -149, `dx ${where}`);
        expectClose(actual.dWeight, expected.dWeight, allowed('dWeight'), `dWeight ${where}`);
        expectClose(actual.dBias, expected.dBias, allowed('dBias'), `dBias ${where}`);
      }
    }
    expect(distant, 'batches whose mean is left to the offset').toBeGreaterThan(500);
  });

  it('inference gives what float32 can hold, for statistics of any size', () => {
    const random = new Random();
    const checked = { near: 0, few: 0, beyond: 0 };
    for (let i = 0; i < 20_000; i++) {
      const x = Float32Array.of(random.pick([-1, 0, 1]) * 10 ** random.uniform(-30, 38.53));
      const exponent = random.pick([random.uniform(-300, 308), random.uniform(30, 40)]);
      const mean = Float64Array.of(random.pick([-1, 1]) * 10 ** exponent);
      const variance = Float64Array.of(
        random.uniform() < 0.5
          ? 10 ** random.uniform(-300, 308)
          : Math.min(1e308, (mean[0] * 10 ** random.uniform(-1, 1)) ** 2),
      );
      const extents = { outer: 1, channels: 1, inner: 1 };
      const [expected] = reference.forwardInference(x, extents, { eps, mean, variance });
      if (Math.abs(expected) > 3.4e38) continue;
      const means = Math.abs(mean[0]) / Math.sqrt(variance[0] + eps);
      const isBeyond = !Number.isFinite(Math.fround(mean[0]));
      // README, "Limits": a mean of many deviations, and x on the other side.
      const isHeld = Math.abs(mean[0]) < far || means <= 8 || isBeyond;
      if (!isHeld && Math.abs(x[0] - mean[0]) > 3.4e38) continue;
      const allowed = 2e-6 * Math.max(1, Math.abs(expected)) + (isBeyond ? 2e-7 * means : 0);
      checked[isBeyond ? 'beyond' : Math.abs(mean[0]) >= far && means <= 8 ? 'few' : 'near']++;
      const y = forwardInference({ data: x, shape: [1, 1] }, { eps, mean, variance }).data;
      expectClose(y, [expected], allowed, `y of ${x} with mean ${mean}, variance ${variance}`);
    }
    for (const [kind, count] of Object.entries(checked)) expect(count, `${kind} means`).toBeGreaterThan(1000);
  });
});

describe(`sums in float32 (${seedNote})`, () => {
  // Small planes and many channels: serial sums are long, and the worst of many channels counts.
  it.each([
    [4096, 64, 2],
    [4096, 64, 3],
    [2048, 32, 16],
    [256, 1024, 1],
    [512, 512, 1],
    [9000, 3, 1],
  ])('keep the variance of %i x %i x %i to 1e-6, behind a ReLU too', (...shape) => {
    const random = new Random();
    for (const rectify of [false, true]) {
      const x = generate('float32', shape[0] * shape[1] * shape[2], () => {
        const value = random.normal(0, 1);
        return rectify ? Math.max(0, value) : value;
      });
      const share = { variance: 1e-6, mean: 1e-6, y: 1e-6 };
      expectStatisticsAndOutput(x, shape, 1, { eps }, share, rectify ? ' behind a ReLU' : '');
    }
  });

  // Equal terms are all rounded the same way: a lane must not make many additions, whatever a is.
  it.each([
    [1, 64, 8192],
    [64, 64, 64],
    [128, 64, 9],
    [128, 256, 1],
    [32, 256, 1],
  ])('keep the variance of two values in %i x %i x %i to 1e-6', (...shape) => {
    const random = new Random();
    const extents = extentsOf(shape, 1);
    for (const period of [2, 3, 9, 16, 101, 512])
      for (const values of [
        [0, 1],
        [-1, 1],
        [1, 0],
      ]) {
        const filled = random.integer(1, period - 1);
        const sizes = Array.from({ length: extents.channels }, () => random.uniform(1, 2));
        const x = fromChannels('float32', extents, (c, i) => sizes[c] * values[i % period < filled ? 1 : 0]);
        const { variance } = forwardTraining({ data: x, shape });
        const expected = reference.moments(x, extents).variance;
        expectClose(variance, expected, (c) => 1e-6 * expected[c], `variance, ${filled} of ${period}`);
      }
  });

  // Another value at the nine places that a chunk is judged by, from little to much of a deviation away: a chunk whose
  // shift is far must be summed again.
  it.each([
    [1, 64, 8192],
    [1, 64, 500],
    [128, 256, 1],
    [30, 256, 1],
  ])('keep the variance of %i x %i x %i to 1e-6 behind a decoy', (...shape) => {
    const random = new Random();
    const extents = extentsOf(shape, 1);
    const count = extents.outer * extents.inner;
    const isSampled = (place: number) => place % ninth(count) === 0 && place < 9 * ninth(count);
    for (const share of [0.3, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1])
      for (const noise of [0, 0.01]) {
        const sizes = Array.from({ length: extents.channels }, () => random.uniform(1, 2));
        const x = fromChannels('float32', extents, (c, i) =>
          isSampled(i) || random.uniform() > share ? 0 : sizes[c] + noise * random.normal(),
        );
        const { variance } = forwardTraining({ data: x, shape });
        const expected = reference.moments(x, extents).variance;
        expectClose(variance, expected, (c) => 1e-6 * expected[c], `variance, ${share} elsewhere`);
      }
  });
});

describe(`deviations whose squares float32 does not hold (${seedNote})`, () => {
  const draws: Record<string, (random: Random) => number> = {
    'all of one size': () => 2 ** -100,
    'of the smallest size': () => 2 ** -149,
    'of any size': (random) => 2 ** random.integer(-149, -70),
    'few beside zeros': (random) => (random.uniform() < 0.05 ? 2 ** -90 : 0),
    'with some squares that are held': (random) => 2 ** random.pick([-100, -100, -100, -74, -66]),
    'with full mantissas': (random) => Math.fround(2 ** -80 * random.uniform()),
  };

  /** Pairs that cancel, around zeros at the places that a chunk of all values is judged by. */
  function balanced(random: Random, count: number, draw: (random: Random) => number): Float64Array {
    const values = new Float64Array(count);
    const step = ninth(count);
    const places = [...values.keys()].filter((i) => i % step !== 0 || i >= 9 * step);
    random.shuffle(places);
    for (let i = 0; i + 1 < places.length; i += 2) {
      values[places[i]] = draw(random);
      values[places[i + 1]] = -values[places[i]];
    }
    return values;
  }

  const sizes = [
    [40, 1],
    [5, 4],
    [1, 500],
    [8, 300],
    [300, 9],
    [2000, 1],
    [2, 9001],
  ];

  for (const [title, draw] of Object.entries(draws))
    it.each(summedLayouts)(`${title}, have a variance that is right to 1e-6: $name`, ({ shape, axis }) => {
      const random = new Random();
      const channels = 18;
      for (const [outer, inner] of sizes) {
        const extents = extentsOf(shape(outer, channels, inner), axis);
        // Beside channels of nothing but zeros, and ordinary ones.
        const drawn = Array.from({ length: channels }, (_, c) =>
          c % 3 === 0 ? balanced(random, outer * inner, draw) : undefined,
        );
        const x = fromChannels('float32', extents, (c, i) =>
          c % 3 === 1 ? random.normal() : (drawn[c]?.[i] ?? 0),
        );
        const expected = reference.moments(x, extents);
        const bfloat16 = encodeAll('bfloat16', x);
        const expectedOf16 = reference.moments(decodeAll('bfloat16', bfloat16), extents);
        const tensor = shape(outer, channels, inner);
        const check = (
          { mean, variance }: { mean: ArrayLike<number>; variance: ArrayLike<number> },
          textbook: reference.Moments,
          what: string,
        ) => {
          const where = `${what} of [${tensor}]`;
          const deviation = (c: number) => Math.sqrt(textbook.variance[c]);
          expectClose(variance, textbook.variance, (c) => 1e-6 * textbook.variance[c], `variance, ${where}`);
          expectClose(mean, textbook.mean, (c) => 1e-6 * deviation(c), `mean, ${where}`);
        };
        check(forwardTraining({ data: x, shape: tensor }, { axis }), expected, 'float32');
        check(
          forwardTraining({ data: bfloat16, shape: tensor }, { axis, dtype: 'bfloat16' }),
          expectedOf16,
          'bfloat16',
        );
        check(Moments.of({ data: x, shape: tensor }, { axis }), expected, 'moments');
        const weights = new Float64Array(outer * inner).fill(0.5);
        check(Moments.of({ data: x, shape: tensor }, { axis, weights }), expected, 'weighted moments');
      }
    });
});

describe(`a variance and an eps that are less than 1e-77 together count as that in float32 (${seedNote})`, () => {
  const largestFloat = (2 - 2 ** -23) * 2 ** 127;

  // One in four is another value: all channels have the same variance, and with the last one float32 does not hold the mean.
  for (const value of [2 ** -136, -(2 ** -140), 5 * 2 ** -149])
    it.each(summedLayouts)(
      `in y and all gradients, where channels vary by ${value}: $name`,
      ({ shape, axis }) => {
        const random = new Random();
        for (const [outer, inner] of [
          [40, 1],
          [6, 4],
          [4, 500],
        ]) {
          const extents = extentsOf(shape(outer, 7, inner), axis);
          const tensor = shape(outer, 7, inner);
          const x = fromChannels('float32', extents, (_, i) => (i % 4 === 1 ? value : 0));
          const weight = generate('float32', 7, () => random.uniform(0.5, 1));
          const bias = generate('float32', 7, () => random.pick([-2, 1e-8, 2]));
          const counted = largestFloat ** -2 - value ** 2 * (3 / 16);
          const sizes = Array.from({ length: 7 }, () => random.uniform(0.2, 0.3));
          const dy = fromChannels('float32', extents, (c) => sizes[c]);
          for (const activation of [undefined, 'relu'] as const) {
            const where = `${activation} of [${tensor}]`;
            const options = { axis, eps: 1e-200, weight, bias, activation };
            const { y, mean, variance } = forwardTraining({ data: x, shape: tensor }, options);
            const plain = reference.forwardTraining(x, extents, { eps: counted, weight, bias }).y;
            const expectedY = activation === 'relu' ? plain.map((v) => Math.max(0, v)) : plain;
            expectClose(y.data, expectedY, 2e-6 * largest(plain), `y, ${where}`);
            const { dx, dWeight, dBias } = backward(
              { data: dy, shape: tensor },
              { data: x, shape: tensor },
              { ...options, mean, variance },
            );
            const gated = dy.map((v, i) => (activation === 'relu' && !(y.data[i] > 0) ? 0 : v));
            const expected = reference.backwardTraining(gated, x, extents, { eps: counted, weight });
            expectClose(dx.data, expected.dx, 2e-6 * 0.3 * largestFloat, `dx, ${where}`);
            const { magnitude } = expected;
            expectClose(dWeight, expected.dWeight, (c) => 2e-6 * magnitude.dWeight[c], `dWeight, ${where}`);
            expectClose(dBias, expected.dBias, (c) => 2e-6 * magnitude.dBias[c], `dBias, ${where}`);
          }
        }
      },
    );
});
