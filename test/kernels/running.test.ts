import { describe, expect, it } from 'vitest';
import { BatchNorm, forwardInference, forwardTraining, updateRunningStats } from '../../lib/index.js';
import { Random, seedNote } from '../support/random.js';
import * as reference from '../support/reference.js';
import {
  dtypes,
  expectClose,
  expectSame,
  expectUnmodified,
  extentsOf,
  type FloatDType,
  kinds,
  randomActivations,
  randomStatistics,
} from '../support/tensors.js';

/** Mean 3, biased variance 3.5, unbiased variance 14/3. */
const fourValues = { data: Float64Array.of(1, 2, 3, 6), shape: [4, 1] };
/** Mean −2, biased variance 4, unbiased variance 8. */
const twoValues = { data: Float64Array.of(0, -4), shape: [2, 1] };

function runningOf(bn: { runningMean: Float64Array | null; runningVar: Float64Array | null }): {
  mean: Float64Array;
  variance: Float64Array;
} {
  if (!bn.runningMean || !bn.runningVar) expect.fail('running statistics are missing');
  return { mean: bn.runningMean, variance: bn.runningVar };
}

function expectRunning(bn: Parameters<typeof runningOf>[0], mean: number, variance: number): void {
  const running = runningOf(bn);
  expect(running.mean[0], 'runningMean').toBeCloseTo(mean, 12);
  expect(running.variance[0], 'runningVar').toBeCloseTo(variance, 12);
}

describe(`running statistics of the layer (${seedNote})`, () => {
  it('start at mean 0 and variance 1, in doubles', () => {
    const bn = new BatchNorm(3);
    expect(bn.runningMean).toEqual(Float64Array.of(0, 0, 0));
    expect(bn.runningVar).toEqual(Float64Array.of(1, 1, 1));
    expect(bn.batchesTracked).toBe(0);
    expect(bn.rejectedUpdates).toBe(0);
  });

  const averages = [true, false].flatMap((unbiasedRunningVar) =>
    [0, 0.5, 0.9, 0.999, 1].map((decay) => ({ decay, unbiasedRunningVar })),
  );

  it.each(averages)('follow the batches with %o', ({ decay, unbiasedRunningVar }) => {
    for (const { dtype, layout } of kinds) {
      const random = new Random();
      const bn = new BatchNorm(5, { axis: layout.axis, dtype, decay, unbiasedRunningVar });
      let expected = runningOf(new BatchNorm(5));
      for (let batch = 1; batch <= 12; batch++) {
        const shape = layout.shape(random.integer(1, 6), 5, random.integer(2, 30));
        const extents = extentsOf(shape, layout.axis);
        const x = randomActivations(random, dtype, extents);
        bn.forward({ data: x, shape });
        const { mean, variance, count } = reference.moments(x, extents);
        expected = reference.updatedRunningStats(
          expected,
          { mean, variance, count },
          { decay, unbiased: unbiasedRunningVar },
        );
        expect(bn.batchesTracked).toBe(batch);
      }
      const share = dtype === 'float32' ? 1e-6 : 1e-13;
      const running = runningOf(bn);
      expectClose(running.mean, expected.mean, 10 * share, 'runningMean');
      expectClose(running.variance, expected.variance, (c) => share * expected.variance[c], 'runningVar');
    }
  });

  it.each([true, false])(
    "'cumulative' is the plain mean over all batches, unbiased: %s",
    (unbiasedRunningVar) => {
      const random = new Random();
      const channels = 3;
      const bn = new BatchNorm(channels, { dtype: 'float64', decay: 'cumulative', unbiasedRunningVar });
      const sum = { mean: new Float64Array(channels), variance: new Float64Array(channels) };
      for (let batch = 1; batch <= 10; batch++) {
        const shape = [random.integer(2, 9), channels, random.integer(1, 20)];
        const extents = extentsOf(shape, 1);
        const x = randomActivations(random, 'float64', extents) as Float64Array;
        bn.forward({ data: x, shape });
        const { mean, variance, count } = reference.moments(x, extents);
        for (let c = 0; c < channels; c++) {
          sum.mean[c] += mean[c];
          sum.variance[c] += unbiasedRunningVar ? (variance[c] * count) / (count - 1) : variance[c];
        }
        const running = runningOf(bn);
        expectClose(
          running.mean,
          sum.mean.map((total) => total / batch),
          1e-13,
          'runningMean',
        );
        expectClose(
          running.variance,
          sum.variance.map((total) => total / batch),
          1e-12,
          'runningVar',
        );
      }
    },
  );

  it('stay as they are with updateStats: false, though y is that of training', () => {
    const bn = new BatchNorm(1, { dtype: 'float64' });
    const still = bn.forward(fourValues, { updateStats: false }).data.slice();
    expect(bn.batchesTracked).toBe(0);
    expectRunning(bn, 0, 1);
    expectSame(bn.forward(fourValues, { updateStats: true }).data, still, 'y');
    expect(bn.batchesTracked).toBe(1);
    expectRunning(bn, 0.3, 0.9 + 0.1 * (14 / 3));
  });

  it('stay as they are in eval', () => {
    const bn = new BatchNorm(1, { dtype: 'float64' });
    bn.forward(fourValues);
    bn.eval().forward(twoValues);
    bn.forward(twoValues, { updateStats: true });
    expect(bn.batchesTracked).toBe(1);
    expectRunning(bn, 0.3, 0.9 + 0.1 * (14 / 3));
  });

  it('stay as they are for an empty batch', () => {
    const bn = new BatchNorm(1, { dtype: 'float64' });
    bn.forward(fourValues);
    const y = bn.forward({ data: new Float64Array(0), shape: [0, 1] });
    expect(y.data).toHaveLength(0);
    expect(y.shape).toEqual([0, 1]);
    expect(bn.batchesTracked).toBe(1);
    expect(bn.rejectedUpdates).toBe(0);
    expectRunning(bn, 0.3, 0.9 + 0.1 * (14 / 3));
  });

  it('do not exist with trackRunningStats: false, and eval then normalises with the batch', () => {
    const bn = new BatchNorm(1, { dtype: 'float64', trackRunningStats: false });
    expect(bn.runningMean).toBeNull();
    expect(bn.runningVar).toBeNull();
    const training = bn.forward(twoValues).data.slice();
    expect(bn.batchesTracked).toBe(0);
    expectSame(bn.eval().forward(twoValues).data, training, 'y of eval');
    expectClose(
      training,
      [2, -2].map((d) => d / Math.sqrt(4 + 1e-5)),
      1e-15,
      'y',
    );
    expect(bn.runningMean).toBeNull();
  });

  it('are what eval normalises with', () => {
    for (const { dtype, layout } of kinds) {
      const random = new Random();
      const shape = layout.shape(3, 17, 21);
      const extents = extentsOf(shape, layout.axis);
      const bn = new BatchNorm(17, { axis: layout.axis, dtype });
      bn.forward({ data: randomActivations(random, dtype, extents), shape });
      const x = randomActivations(random, dtype, extents);
      const { mean, variance } = runningOf(bn);
      expectSame(
        bn.eval().forward({ data: x, shape }).data,
        forwardInference({ data: x, shape }, { axis: layout.axis, mean, variance }).data,
        'y',
      );
    }
  });

  it('may be written by the user, since they are the live arrays', () => {
    const bn = new BatchNorm(1, { dtype: 'float64', eps: 1 });
    const running = runningOf(bn);
    running.mean[0] = 2;
    running.variance[0] = 3;
    expectSame(bn.eval().forward(twoValues).data, [-1, -3], 'y');
    bn.train().forward(twoValues);
    expect(bn.runningMean).toBe(running.mean);
    expectRunning(bn, 0.9 * 2 + 0.1 * -2, 0.9 * 3 + 0.1 * 8);
  });
});

describe('the conventions of other frameworks', () => {
  /**
   * Each framework's documented defaults and formula, over a batch of mean 3 and biased variance 3.5 and another of
   * mean −2 and biased variance 4.
   */
  const conventions = [
    {
      // torch.nn.BatchNorm1d: running = (1 − momentum)·running + momentum·batch, the variance unbiased; momentum 0.1.
      convention: 'pytorch',
      eps: 1e-5,
      first: { mean: 0.1 * 3, variance: 0.9 * 1 + (0.1 * 14) / 3 },
      second: { mean: 0.9 * 0.3 + 0.1 * -2, variance: 0.9 * (0.9 + 1.4 / 3) + 0.1 * 8 },
      momentum: 0.25,
      withMomentum: { mean: 0.25 * 3, variance: 0.75 * 1 + (0.25 * 14) / 3 },
    },
    {
      // keras.layers.BatchNormalization: moving·momentum + batch·(1 − momentum), the variance biased; momentum 0.99.
      convention: 'keras',
      eps: 1e-3,
      first: { mean: 0.01 * 3, variance: 0.99 * 1 + 0.01 * 3.5 },
      second: { mean: 0.99 * 0.03 + 0.01 * -2, variance: 0.99 * 1.025 + 0.01 * 4 },
      momentum: 0.25,
      withMomentum: { mean: 0.75 * 3, variance: 0.25 * 1 + 0.75 * 3.5 },
    },
    {
      // ONNX BatchNormalization-15: input·momentum + current·(1 − momentum), the population variance; momentum 0.9.
      convention: 'onnx',
      eps: 1e-5,
      first: { mean: 0.1 * 3, variance: 0.9 * 1 + 0.1 * 3.5 },
      second: { mean: 0.9 * 0.3 + 0.1 * -2, variance: 0.9 * 1.25 + 0.1 * 4 },
      momentum: 0.25,
      withMomentum: { mean: 0.75 * 3, variance: 0.25 * 1 + 0.75 * 3.5 },
    },
  ] as const;

  for (const { convention, eps, first, second, momentum, withMomentum } of conventions) {
    it(`${convention}: its defaults`, () => {
      const bn = new BatchNorm(1, { dtype: 'float64', convention });
      const { data } = bn.forward(fourValues);
      expectClose(
        data,
        [-2, -1, 0, 3].map((d) => d / Math.sqrt(3.5 + eps)),
        1e-15,
        'y',
      );
      expectRunning(bn, first.mean, first.variance);
      bn.forward(twoValues);
      expectRunning(bn, second.mean, second.variance);
    });

    it(`${convention}: momentum in its own meaning`, () => {
      const bn = new BatchNorm(1, { dtype: 'float64', convention, momentum });
      bn.forward(fourValues);
      expectRunning(bn, withMomentum.mean, withMomentum.variance);
    });

    it(`${convention}: what is said explicitly goes before its defaults`, () => {
      const unbiasedRunningVar = convention !== 'pytorch';
      const bn = new BatchNorm(1, { dtype: 'float64', convention, eps: 0.5, decay: 0.5, unbiasedRunningVar });
      expectClose(
        bn.forward(fourValues).data,
        [-2, -1, 0, 3].map((d) => d / 2),
        1e-15,
        'y',
      );
      expectRunning(bn, 1.5, 0.5 + 0.5 * (unbiasedRunningVar ? 14 / 3 : 3.5));
    });
  }

  it('none means the values of PyTorch', () => {
    const bn = new BatchNorm(1, { dtype: 'float64' });
    bn.forward(fourValues);
    expectRunning(bn, conventions[0].first.mean, conventions[0].first.variance);
  });
});

describe(`updateRunningStats (${seedNote})`, () => {
  const arrays = { float32: Float32Array, float64: Float64Array } as const;

  for (const { dtype, unbiasedRunningVar } of dtypes.flatMap((dtype) => [
    { dtype, unbiasedRunningVar: true },
    { dtype, unbiasedRunningVar: false },
  ])) {
    it(`works in place on ${dtype} arrays, unbiasedRunningVar: ${unbiasedRunningVar}`, () => {
      const random = new Random();
      const channels = 33;
      const start = randomStatistics(random, channels);
      const running = {
        runningMean: arrays[dtype].from(start.mean),
        runningVar: arrays[dtype].from(start.variance),
      };
      for (let batch = 0; batch < 20; batch++) {
        const { mean, variance } = randomStatistics(random, channels);
        const count = random.integer(2, 100);
        const decay = random.pick([0, 0.5, 0.9, 1, random.uniform()]);
        const expected = reference.updatedRunningStats(
          { mean: running.runningMean, variance: running.runningVar },
          { mean, variance, count },
          { decay, unbiased: unbiasedRunningVar },
        );
        expectUnmodified({ mean, variance }, () =>
          updateRunningStats(running, { mean, variance, count }, { decay, unbiasedRunningVar }),
        );
        // One rounding to the array's dtype per update, and a few of the doubles it is computed in.
        const share = dtype === 'float32' ? 2 ** -24 : 2 ** -50;
        const meanScale = (c: number) => share * (Math.abs(expected.mean[c]) + Math.abs(mean[c]) + 1e-6);
        expectClose(running.runningMean, expected.mean, meanScale, 'runningMean');
        expectClose(
          running.runningVar,
          expected.variance,
          (c) => 1.001 * share * expected.variance[c],
          'runningVar',
        );
      }
    });
  }

  it('takes the statistics of a batch as Float32Array too', () => {
    const running = { runningMean: Float64Array.of(1), runningVar: Float64Array.of(1) };
    const batch = { mean: Float32Array.of(3), variance: Float32Array.of(2), count: 2 };
    updateRunningStats(running, batch, { decay: 0.5, unbiasedRunningVar: true });
    expectSame(running.runningMean, [2], 'runningMean');
    expectSame(running.runningVar, [2.5], 'runningVar');
  });

  it('with one value per channel there is no unbiased variance: runningVar stays, runningMean moves', () => {
    const running = { runningMean: Float64Array.of(1, 2), runningVar: Float64Array.of(5, 6) };
    const batch = { mean: Float64Array.of(3, 8), variance: Float64Array.of(0, 0), count: 1 };
    updateRunningStats(running, batch, { decay: 0.5, unbiasedRunningVar: true });
    expectSame(running.runningMean, [2, 5], 'runningMean');
    expectSame(running.runningVar, [5, 6], 'runningVar');
    updateRunningStats(running, batch, { decay: 0.5, unbiasedRunningVar: false });
    expectSame(running.runningMean, [2.5, 6.5], 'runningMean');
    expectSame(running.runningVar, [2.5, 3], 'runningVar');
  });

  it.each([true, false])('an empty batch leaves everything, unbiasedRunningVar: %s', (unbiasedRunningVar) => {
    for (const value of [0, Number.NaN]) {
      const running = { runningMean: Float64Array.of(1, 2), runningVar: Float64Array.of(5, 6) };
      const batch = {
        mean: Float64Array.of(value, value),
        variance: Float64Array.of(value, value),
        count: 0,
      };
      updateRunningStats(running, batch, { decay: 0.5, unbiasedRunningVar });
      expectSame(running.runningMean, [1, 2], 'runningMean');
      expectSame(running.runningVar, [5, 6], 'runningVar');
    }
  });

  it('a channel whose mean or variance is not finite keeps its running statistics', () => {
    const running = { runningMean: Float64Array.of(1, 1, 1, 1), runningVar: Float64Array.of(2, 2, 2, 2) };
    const batch = {
      mean: Float64Array.of(3, Number.NaN, 3, Number.POSITIVE_INFINITY),
      variance: Float64Array.of(4, 4, Number.POSITIVE_INFINITY, Number.NaN),
      count: 10,
    };
    updateRunningStats(running, batch, { decay: 0.5, unbiasedRunningVar: false });
    expectSame(running.runningMean, [2, 1, 1, 1], 'runningMean');
    expectSame(running.runningVar, [3, 2, 2, 2], 'runningVar');
  });

  it('a variance that float32 cannot hold leaves mean and variance of its channel, and is counted', () => {
    const running = { runningMean: Float32Array.of(0, 0), runningVar: Float32Array.of(1, 1) };
    const batch = forwardTraining({ data: Float32Array.of(-1e20, 1, 3e20, 3), shape: [2, 2] });
    expect(updateRunningStats(running, batch, { decay: 0.5 })).toBe(1);
    expectSame(running.runningMean, [0, 1], 'runningMean');
    expectSame(running.runningVar, [1, 1.5], 'runningVar');
  });

  it('an infinity or NaN stays, and is counted, but for decay 0, which replaces it', () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY])
      for (const at of ['runningMean', 'runningVar'] as const)
        for (const dtype of dtypes) {
          const running = { runningMean: arrays[dtype].of(1), runningVar: arrays[dtype].of(2) };
          running[at][0] = value;
          const before = { mean: running.runningMean.slice(), variance: running.runningVar.slice() };
          const batch = { mean: Float64Array.of(3), variance: Float64Array.of(4), count: 5 };
          expect(updateRunningStats(running, batch, { decay: 0.5 }), `${value} in ${at}`).toBe(1);
          expectSame(running.runningMean, before.mean, 'runningMean');
          expectSame(running.runningVar, before.variance, 'runningVar');
          expect(updateRunningStats(running, batch, { decay: 0 }), `${value} in ${at}, replaced`).toBe(0);
          expectSame(running.runningMean, [3], 'runningMean');
          expectSame(running.runningVar, [5], 'runningVar');
        }
  });

  it('stay where NaN or infinity comes in or is there already, and count it, whatever the decay', () => {
    const notFinite = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    const values = [...notFinite, 3];
    for (const decay of [0, Number.MIN_VALUE, 0.5, 0.9, 1 - 2 ** -53, 1])
      for (const old of values)
        for (const mean of values)
          for (const [oldVar, variance] of [
            [2, Number.NaN],
            [2, Number.POSITIVE_INFINITY],
            [Number.NaN, 4],
            [2, 4],
          ]) {
            const running = { runningMean: Float64Array.of(old), runningVar: Float64Array.of(oldVar) };
            const batch = { mean: Float64Array.of(mean), variance: Float64Array.of(variance), count: 5 };
            const averaged = (a: number, b: number) => (decay === 0 ? b : decay * a + (1 - decay) * b);
            const after = [averaged(old, mean), averaged(oldVar, variance)];
            const isLeft = !after.every(Number.isFinite);
            const where = `decay ${decay}, ${[old, oldVar]} towards ${[mean, variance]}`;
            const rejected = updateRunningStats(running, batch, { decay, unbiasedRunningVar: false });
            expect(rejected, where).toBe(isLeft ? 1 : 0);
            expectSame(running.runningMean, [isLeft ? old : after[0]], `runningMean, ${where}`);
            expectSame(running.runningVar, [isLeft ? oldVar : after[1]], `runningVar, ${where}`);
          }
  });

  it('at any size are as the formula has them where both are finite, else as they were', () => {
    const random = new Random();
    const size = () => 10 ** random.uniform(-300, 308) * random.pick([1, 1, 1.7]);
    const sized = (dtype: FloatDType) => (dtype === 'float32' ? 10 ** random.uniform(-44, 38.5) : size());
    let left = 0;
    for (let i = 0; i < 2000; i++) {
      const kept = { mean: random.pick(dtypes), variance: random.pick(dtypes) };
      const running = {
        runningMean: arrays[kept.mean].of(random.pick([-1, 0, 1]) * sized(kept.mean)),
        runningVar: arrays[kept.variance].of(random.pick([0, 1]) * sized(kept.variance)),
      };
      const mean = Float64Array.of(random.pick([-1, 1]) * sized(random.pick(dtypes)));
      const variance = Float64Array.of(sized(random.pick(dtypes)));
      const count = random.integer(2, 5);
      const decay = random.pick([0, 0.5, 0.9, 1, random.uniform()]);
      const unbiasedRunningVar = random.uniform() < 0.5;
      const before = [running.runningMean.slice(), running.runningVar.slice()];
      const averaged = (old: number, batch: number) =>
        decay === 0 ? batch : decay * old + (1 - decay) * batch;
      const correction = unbiasedRunningVar ? count / (count - 1) : 1;
      const after = [
        arrays[kept.mean].of(averaged(before[0][0], mean[0])),
        arrays[kept.variance].of(averaged(before[1][0], variance[0] * correction)),
      ];
      const isLeft = !after.every(([value]) => Number.isFinite(value));
      left += isLeft ? 1 : 0;
      const where = `decay ${decay}, ${before} towards ${mean} and ${variance}, count ${count}`;
      const rejected = updateRunningStats(running, { mean, variance, count }, { decay, unbiasedRunningVar });
      expect(rejected, where).toBe(isLeft ? 1 : 0);
      expectSame(running.runningMean, (isLeft ? before : after)[0], `runningMean, ${where}`);
      expectSame(running.runningVar, (isLeft ? before : after)[1], `runningVar, ${where}`);
    }
    expect(left, 'updates that were left out').toBeGreaterThan(100);
    expect(left, 'updates that were left out').toBeLessThan(1900);
  });
});

describe('a cumulative mean', () => {
  it('is over the batches that each channel has accepted', () => {
    const bn = new BatchNorm(2, { decay: 'cumulative', unbiasedRunningVar: false });
    const batch = (...rows: number[]) => ({ data: Float32Array.from(rows), shape: [2, 2] });
    bn.forward(batch(Number.NaN, 1, 2, 3));
    bn.forward(batch(9, 5, 11, 7));
    bn.forward(batch(1, Number.NaN, 3, 4));
    bn.forward(batch(7, 10, 9, 12));
    // Channel 0 accepted the means 10, 2, 8 (variance 1), channel 1 the means 2, 6, 11.
    expect(bn.runningMean?.[0]).toBeCloseTo(20 / 3, 12);
    expect(bn.runningMean?.[1]).toBeCloseTo(19 / 3, 12);
    expect([...(bn.runningVar ?? [])]).toEqual([1, 1]);
    expect(bn.rejectedUpdates).toBe(2);
    expect(bn.batchesTracked).toBe(4);
  });

  it('does not count a batch whose unbiased variance is beyond the doubles', () => {
    const bn = new BatchNorm(2, { dtype: 'float64', decay: 'cumulative' });
    const batch = (...rows: number[]) => ({ data: Float64Array.from(rows), shape: [2, 2] });
    const { data } = bn.forward(batch(-1.2e154, 1, 1.2e154, 3));
    expectClose(
      data,
      [-1, -1, 1, 1].map((y, i) => (i % 2 ? y / Math.sqrt(1 + 1e-5) : y)),
      1e-12,
      'y',
    );
    expect(bn.rejectedUpdates).toBe(1);
    expectSame(bn.runningMean as Float64Array, [0, 2], 'runningMean');
    expectSame(bn.runningVar as Float64Array, [1, 2], 'runningVar');
    bn.forward(batch(5, 5, 9, 9));
    bn.forward(batch(6, 6, 6, 6));
    // 7 and 6 in the one channel, 2, 7 and 6 in the other.
    expectClose(bn.runningMean as Float64Array, [6.5, 5], 1e-12, 'runningMean');
    expectClose(bn.runningVar as Float64Array, [4, 10 / 3], 1e-12, 'runningVar');
    expect(bn.rejectedUpdates).toBe(1);
    expect(bn.batchesTracked).toBe(3);
  });

  it(`is over what is finite, whatever comes between (${seedNote})`, () => {
    const random = new Random();
    const notFinite = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    for (let trial = 0; trial < 100; trial++) {
      const unbiasedRunningVar = random.uniform() < 0.5;
      const bn = new BatchNorm(3, { dtype: 'float64', decay: 'cumulative', unbiasedRunningVar });
      const accepted = Array.from({ length: 3 }, () => ({ batches: 0, mean: 0, variance: 0 }));
      let rejected = 0;
      for (let batch = random.integer(1, 8); batch > 0; batch--) {
        const drawn = () => (random.uniform() < 0.2 ? random.pick(notFinite) : random.uniform(-9, 9));
        const data = Float64Array.from({ length: 6 }, drawn);
        bn.forward({ data, shape: [2, 3] });
        accepted.forEach((channel, c) => {
          const [a, b] = [data[c], data[c + 3]];
          if (!Number.isFinite(a + b)) {
            rejected++;
            return;
          }
          channel.batches++;
          channel.mean += (a + b) / 2;
          channel.variance += (a - b) ** 2 / (unbiasedRunningVar ? 2 : 4);
        });
      }
      const means = accepted.map(({ batches, mean }) => (batches > 0 ? mean / batches : 0));
      const variances = accepted.map(({ batches, variance }) => (batches > 0 ? variance / batches : 1));
      expectClose(bn.runningMean as Float64Array, means, 1e-12, 'runningMean');
      expectClose(bn.runningVar as Float64Array, variances, 1e-12, 'runningVar');
      expect(bn.rejectedUpdates).toBe(rejected);
    }
  });

  it('goes on from the batches of a state that is loaded', () => {
    const bn = new BatchNorm(1, { dtype: 'float64', decay: 'cumulative', weight: false, bias: false });
    bn.forward({ data: Float64Array.of(Number.NaN, 1), shape: [2, 1] });
    const [running_mean, running_var] = [Float64Array.of(8), Float64Array.of(4)];
    bn.loadStateDict({ running_mean, running_var, num_batches_tracked: 3 });
    bn.forward({ data: Float64Array.of(-1, 1), shape: [2, 1] });
    expectClose(bn.runningMean as Float64Array, [6], 1e-12, 'runningMean');
    expectClose(bn.runningVar as Float64Array, [3.5], 1e-12, 'runningVar');
  });
});

describe('batchesTracked', () => {
  it.each([0.5, 'cumulative'] as const)('stays at the largest that a state may hold: decay %s', (decay) => {
    const bn = new BatchNorm(1, { dtype: 'float64', decay, weight: false, bias: false });
    const most = Number.MAX_SAFE_INTEGER;
    bn.loadStateDict({
      running_mean: Float64Array.of(0),
      running_var: Float64Array.of(1),
      num_batches_tracked: most,
    });
    for (let batch = 1; batch <= 3; batch++) {
      bn.forward({ data: Float64Array.of(2 ** 60, 2 ** 60), shape: [2, 1] });
      expect(bn.batchesTracked).toBe(most);
      const mean = decay === 'cumulative' ? batch * 2 ** 7 : (1 - 0.5 ** batch) * 2 ** 60;
      expectClose(bn.runningMean as Float64Array, [mean], 1e-9 * mean, 'runningMean');
    }
    expect(bn.loadStateDict(bn.stateDict()).batchesTracked).toBe(most);
  });
});
