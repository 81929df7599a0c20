// Values of which not all count alike: weights, masks, missing values.
import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  type BatchNormOptions,
  backward,
  type FloatArray,
  FrozenBatchNorm,
  forwardInference,
  forwardTraining,
  GradientSums,
  type Missing,
  Moments,
  maskOf,
  type Outside,
  updateRunningStats,
  type Weights,
} from '../../lib/index.js';
import { expectListed } from '../support/messages.js';
import * as textbook from '../support/presence.js';
import { Random, seedNote } from '../support/random.js';
import {
  differenceOf,
  eachSummedKind,
  expectClose,
  expectSame,
  expectUnmodified,
  extentsOf,
  type FloatDType,
  kinds,
  type Layout,
  largest,
  randomActivations,
  randomNormals,
  randomParameters,
  rounding,
  typed,
} from '../support/tensors.js';

interface Tensor {
  data: FloatArray;
  shape: number[];
}

interface Case {
  readonly x: Tensor;
  readonly dy: Tensor;
  readonly residual: Tensor | undefined;
  readonly axis: number;
  readonly weight: FloatArray;
  readonly bias: FloatArray;
  readonly relu: boolean;
  readonly weights: Weights | undefined;
  readonly missing: Missing;
  readonly outside: Outside;
}

const eps = 1e-5;
const channels = 5;

function gaps(random: Random, data: FloatArray, share: number): void {
  for (let i = 0; i < data.length; i++) if (random.uniform() < share) data[i] = Number.NaN;
}

function drawWeights(random: Random, kind: string, samples: number, positions: number): Weights | undefined {
  const lengths: Record<string, number> = {
    'per sample': samples,
    'per position': positions,
    mask: positions,
  };
  const length = lengths[kind];
  if (length === undefined) return undefined;
  if (kind === 'mask') return Uint8Array.from({ length }, () => random.integer(0, 1));
  const ArrayType: typeof Float32Array | typeof Float64Array = random.pick([Float32Array, Float64Array]);
  const values = Array.from({ length }, () => (random.uniform() < 0.3 ? 0 : random.uniform(0, 3)));
  return ArrayType.from(values);
}

function draw(random: Random, dtype: FloatDType, layout: Layout, samples = 24, positions = 6): Case {
  const shape = layout.shape(samples, channels, positions);
  const { axis } = layout;
  const extents = extentsOf(shape, axis);
  const places = extents.outer * extents.inner;
  const weights = drawWeights(
    random,
    random.pick(['none', 'per sample', 'per position', 'mask']),
    shape[0],
    places,
  );
  const missing = random.pick<Missing>(
    weights === undefined ? ['skip', 'impute'] : ['propagate', 'skip', 'impute'],
  );
  const x = { data: randomActivations(random, dtype, extents), shape };
  if (missing !== 'propagate') gaps(random, x.data, random.pick([0.02, 0.4]));
  const { length } = x.data;
  const residual = random.uniform() < 0.5 ? { data: randomNormals(random, dtype, length), shape } : undefined;
  const { weight, bias } = randomParameters(random, dtype, channels);
  const drawn = {
    x,
    dy: { data: randomNormals(random, dtype, length), shape },
    residual,
    axis,
    weight,
    bias,
    relu: random.uniform() < 0.5,
    weights,
    missing,
    outside: random.pick<Outside>(['normalize', 'zero']),
  };
  // Whatever lies where there is no weight.
  const all = allWeights(drawn);
  if (weights !== undefined && random.uniform() < 0.5)
    forEachPlace(drawn, (at, position) => {
      if (all[position] === 0) x.data[at] = random.pick([Number.NaN, Number.NaN, 7]);
    });
  return drawn;
}

function forEachPlace({ x, axis }: Case, visit: (at: number, position: number) => void): void {
  const { outer, channels, inner } = extentsOf(x.shape, axis);
  for (let o = 0; o < outer; o++)
    for (let c = 0; c < channels; c++)
      for (let i = 0; i < inner; i++) visit((o * channels + c) * inner + i, o * inner + i);
}

/** One for each position. */
function allWeights({ x, axis, weights }: Case): Float64Array {
  const { outer, inner } = extentsOf(x.shape, axis);
  const positions = outer * inner;
  if (weights === undefined) return new Float64Array(positions).fill(1);
  const shared = positions / weights.length;
  return Float64Array.from({ length: positions }, (_, i) => weights[Math.floor(i / shared)]);
}

function textbookOf(drawn: Case): textbook.Pass {
  const { x, axis, weight, bias, relu, residual, missing, outside, weights } = drawn;
  return {
    x: x.data,
    extents: extentsOf(x.shape, axis),
    eps,
    weight,
    bias,
    relu,
    residual: residual?.data,
    weights: allWeights(drawn),
    missing: missing === 'skip' || missing === 'impute',
    impute: missing === 'impute',
    zero: outside === 'zero' && weights !== undefined,
  };
}

function optionsOf({ axis, weight, bias, relu, residual, weights, missing, outside }: Case) {
  return {
    axis,
    weight,
    bias,
    activation: relu ? ('relu' as const) : undefined,
    residual,
    weights,
    missing,
    outside,
  };
}

function layerFor(
  drawn: Case,
  dtype: FloatDType,
  options: BatchNormOptions<FloatDType> = {},
): BatchNorm<FloatDType> {
  const { axis, relu, missing, weight, bias } = drawn;
  const bn = new BatchNorm<FloatDType>(channels, {
    dtype,
    axis,
    missing,
    activation: relu ? 'relu' : undefined,
    ...options,
  });
  bn.weight?.set(weight);
  bn.bias?.set(bias);
  return bn;
}

function runOf({ residual, weights, outside }: Case) {
  return { residual, weights, outside };
}

/** Where a ReLU is at its edge, rounding decides: there neither gradient is wrong. */
function awayFromEdges(drawn: Case): void {
  if (!drawn.relu) return;
  const pass = textbookOf(drawn);
  const y = textbook.forward({ ...pass, relu: false }, textbook.statistics(pass));
  for (let i = 0; i < y.length; i++) if (Math.abs(y[i]) < 1e-3) drawn.dy.data[i] = 0;
}

describe(`values of which not all count alike (${seedNote})`, () => {
  eachSummedKind('forward and backward are the textbook’s', ({ dtype, layout }) => {
    for (let run = 0; run < 60; run++) {
      const random = new Random(run);
      const drawn = draw(random, dtype, layout);
      awayFromEdges(drawn);
      const pass = textbookOf(drawn);
      const expected = textbook.statistics(pass);
      const y = textbook.forward(pass, expected);
      const weightsGrad = drawn.weights !== undefined;
      const options = optionsOf(drawn);
      const result = expectUnmodified({ x: drawn.x.data, weight: drawn.weight }, () =>
        forwardTraining(drawn.x, options),
      );
      const what = `run ${run}`;
      const share = rounding[dtype];
      const { moments } = result;
      expectClose(moments.count, expected.count, (c) => 1e-14 * expected.count[c], `${what} count`);
      expectClose(moments.squares, expected.squares, (c) => 1e-14 * expected.squares[c], `${what} squares`);
      const deviation = (c: number) => Math.sqrt(expected.variance[c]);
      expectClose(moments.mean, expected.mean, (c) => 1e-12 * deviation(c), `${what} mean`);
      expectClose(
        moments.variance,
        expected.variance,
        (c) => 1e-12 * expected.variance[c],
        `${what} variance`,
      );
      expectClose(result.y.data, y, 2 * share * largest(y.filter((v) => !Number.isNaN(v))), `${what} y`);

      const gradients = backward(drawn.dy, drawn.x, { ...options, moments, weightsGrad });
      const wanted = textbook.backward(pass, drawn.dy.data, expected);
      const { magnitude } = sizesOf(pass, drawn.dy.data, expected);
      expectClose(gradients.dx.data, wanted.dx, 2 * share * magnitude, `${what} dx`);
      for (const name of ['dWeight', 'dBias'] as const)
        expectClose(
          gradients[name],
          wanted[name],
          share * magnitude * drawn.dy.data.length,
          `${what} ${name}`,
        );
      if (drawn.residual)
        expectClose(gradients.dResidual?.data ?? [], wanted.dResidual, 0, `${what} dResidual`);
      if (drawn.weights) {
        const shared = wanted.dWeights.length / drawn.weights.length;
        const summed = Array.from(drawn.weights, (_, i) =>
          wanted.dWeights.subarray(i * shared, (i + 1) * shared).reduce((sum, value) => sum + value, 0),
        );
        const room = drawn.weights instanceof Float32Array || dtype === 'float32' ? 1e-6 : 1e-12;
        expectClose(
          gradients.dWeights ?? [],
          summed,
          room * magnitude * channels * shared,
          `${what} dWeights`,
        );
      }
    }
  });

  function sizesOf(pass: textbook.Pass, dy: ArrayLike<number>, { variance, count }: textbook.Statistics) {
    let most = 1;
    for (let c = 0; c < channels; c++)
      if (count[c] > 0) most = Math.max(most, Math.abs(pass.weight?.[c] ?? 1) / Math.sqrt(variance[c] + eps));
    return { magnitude: most * largest(dy) * 4 };
  }

  it('gradients are those of finite differences', () => {
    for (let run = 0; run < 12; run++) {
      const random = new Random(100 + run);
      const drawn = draw(random, 'float64', random.pick(kinds).layout, 6, 3);
      const weights = drawn.weights && Float64Array.from(drawn.weights);
      const options = { ...optionsOf(drawn), eps: 0.1, activation: undefined, weights };
      const loss = () => {
        const y = forwardTraining(drawn.x, options).y.data;
        let sum = 0;
        for (let i = 0; i < y.length; i++) if (!Number.isNaN(y[i])) sum += y[i] * drawn.dy.data[i];
        return sum;
      };
      const { moments } = forwardTraining(drawn.x, options);
      const { dx, dWeights } = backward(drawn.dy, drawn.x, {
        ...options,
        moments,
        weightsGrad: weights !== undefined,
      });
      const difference = differenceOf(loss);
      const all = allWeights(drawn);
      forEachPlace(drawn, (at, position) => {
        if (Number.isNaN(drawn.x.data[at]) || (all[position] === 0 && drawn.outside === 'zero')) return;
        expect(dx.data[at], `run ${run} dx[${at}]`).toBeCloseTo(difference(drawn.x.data, at), 5);
      });
      if (weights === undefined) continue;
      // A weight of 0 has differences to one side only, and where it makes y 0 none at all.
      for (let i = 0; i < weights.length; i++)
        if (weights[i] > 0)
          expect(dWeights?.[i], `run ${run} dWeights[${i}]`).toBeCloseTo(difference(weights, i), 5);
    }
  });

  eachSummedKind('a layer gives what the functions give, at once and later', async ({ dtype, layout }) => {
    for (let run = 0; run < 10; run++) {
      const random = new Random(200 + run);
      const drawn = draw(random, dtype, layout);
      const options = { ...optionsOf(drawn), eps: 1e-5 };
      const weightsGrad = drawn.weights !== undefined;
      const { y, moments } = forwardTraining(drawn.x, options);
      const gradients = backward(drawn.dy, drawn.x, { ...options, moments, weightsGrad });
      const check = (
        made: Tensor,
        of: ReturnType<BatchNorm<FloatDType>['backward']>,
        bn: BatchNorm<FloatDType>,
      ) => {
        expectSame(made.data, y.data, `run ${run} y`);
        for (const name of ['dx', 'dResidual'] as const)
          expectSame(of[name]?.data ?? [], gradients[name]?.data ?? [], `run ${run} ${name}`);
        for (const name of ['dWeight', 'dBias', 'dWeights'] as const)
          expectSame(of[name] ?? [], gradients[name] ?? [], `run ${run} ${name}`);
        expectSame(bn.lastMoments?.mean ?? [], moments.mean, 'mean');
        expectSame(bn.lastMoments?.count ?? [], moments.count, 'count');
      };
      const bn = layerFor(drawn, dtype);
      const made = bn.forward(drawn.x, runOf(drawn)) as Tensor;
      check(made, bn.backward(drawn.dy, { weightsGrad }), bn);
      const unbiased = moments.unbiasedVariance();
      for (let c = 0; c < channels; c++) {
        expect(bn.runningMean?.[c]).toBeCloseTo(0.1 * moments.mean[c], 12);
        expect(bn.runningVar?.[c]).toBeCloseTo(0.9 + 0.1 * unbiased[c], 12);
      }
      const later = layerFor(drawn, dtype);
      const madeLater = (await later.forwardAsync(drawn.x, runOf(drawn))) as Tensor;
      check(madeLater, await later.backwardAsync(drawn.dy, { weightsGrad }), later);
      expectSame(later.runningVar ?? [], bn.runningVar ?? [], 'running variance');
    }
  });

  eachSummedKind('parts are the whole, with weights and gaps', ({ dtype, layout }) => {
    const random = new Random(300);
    const drawn = { ...draw(random, dtype, layout), relu: false };
    const { missing, outside } = drawn;
    const { axis, weight, bias } = drawn;
    const all = allWeights(drawn);
    const { shape } = drawn.x;
    const [samples] = shape;
    const part = (tensor: Tensor, from: number, to: number): Tensor => {
      const size = tensor.data.length / samples;
      return { data: tensor.data.slice(from * size, to * size), shape: [to - from, ...shape.slice(1)] };
    };
    const perSample = all.length / samples;
    const cuts = [0, Math.floor(samples / 3), samples];
    const parts = [0, 1].map((i) => ({
      x: part(drawn.x, cuts[i], cuts[i + 1]),
      dy: part(drawn.dy, cuts[i], cuts[i + 1]),
      weights: all.slice(cuts[i] * perSample, cuts[i + 1] * perSample),
    }));
    const given = { axis, missing };
    const whole = Moments.of(drawn.x, { ...given, weights: all });
    const moments = Moments.merge(...parts.map(({ x, weights }) => Moments.of(x, { ...given, weights })));
    expectClose(moments.mean, whole.mean, (c) => 1e-14 * (1 + Math.abs(whole.mean[c])), 'mean');
    expectClose(moments.variance, whole.variance, (c) => 1e-12 * whole.variance[c], 'variance');
    const options = { ...given, weight, bias, outside };
    const gradients = backward(drawn.dy, drawn.x, {
      ...options,
      weights: all,
      moments: whole,
      weightsGrad: true,
    });
    const sums = GradientSums.merge(
      ...parts.map(({ x, dy, weights }) => GradientSums.of(dy, x, { ...given, outside, moments, weights })),
    );
    const made = parts.map(({ x, dy, weights }) =>
      backward(dy, x, { ...options, weights, moments, sums, weightsGrad: true }),
    );
    const join = (arrays: (FloatArray | undefined)[]) => arrays.flatMap((array) => [...(array ?? [])]);
    const share = 4 * rounding[dtype] * largest(gradients.dx.data);
    expectClose(join(made.map(({ dx }) => dx.data)), gradients.dx.data, share, 'dx');
    expectClose(
      join(made.map(({ dWeights }) => dWeights)),
      gradients.dWeights ?? [],
      1e-5 * largest(gradients.dWeights ?? []),
      'dWeights',
    );
    const total = Array.from({ length: channels }, (_, c) => made[0].dBias[c] + made[1].dBias[c]);
    expectClose(total, gradients.dBias, 1e-5 * drawn.dy.data.length ** 0.5, 'dBias');
  });

  eachSummedKind('in evaluation statistics stay, and gaps are filled', ({ dtype, layout }) => {
    for (let run = 0; run < 10; run++) {
      const random = new Random(400 + run);
      const drawn = draw(random, dtype, layout);
      awayFromEdges(drawn);
      const bn = layerFor(drawn, dtype).eval();
      const pass = textbookOf(drawn);
      const count = new Float64Array(channels).fill(1);
      const running = {
        count,
        squares: count,
        mean: bn.runningMean as Float64Array,
        variance: bn.runningVar as Float64Array,
      };
      const y = bn.forward(drawn.x, runOf(drawn));
      const wanted = textbook.forward(pass, running);
      expectClose(y.data, wanted, 4e-6 * largest(wanted.filter((v) => !Number.isNaN(v))), 'y');
      expectSame(running.mean, new Float64Array(channels), 'running mean');
      const weightsGrad = drawn.weights !== undefined;
      const { dx, dBias, dWeights } = bn.backward(drawn.dy, { weightsGrad });
      const gradients = textbook.backward(pass, drawn.dy.data, running, false);
      expectClose(dx?.data ?? [], gradients.dx, 4e-6 * largest(gradients.dx), 'dx');
      expectClose(dBias ?? [], gradients.dBias, 1e-4, 'dBias');
      if (weightsGrad) expect(largest(dWeights ?? [1])).toBe(0);
      if (drawn.missing === 'propagate') continue;
      const { axis, weight, bias, missing, residual, relu } = drawn;
      const frozen = forwardInference(drawn.x, {
        mean: running.mean,
        variance: running.variance,
        axis,
        weight,
        bias,
        missing,
        residual,
        activation: relu ? 'relu' : undefined,
      });
      if (drawn.outside === 'normalize') expectSame(frozen.data, y.data, 'inference');
    }
  });

  it('ones are no weights, and a mask of some samples is a batch of those', () => {
    for (const { dtype, layout } of kinds) {
      const random = new Random(500);
      const drawn = draw(random, dtype, layout);
      for (let i = 0; i < drawn.x.data.length; i++) drawn.x.data[i] = random.normal(3, 2);
      const { x, axis } = drawn;
      const [samples] = x.shape;
      const plain = forwardTraining(x, { axis });
      const weighted = forwardTraining(x, { axis, weights: new Uint8Array(samples).fill(1) });
      expectClose(weighted.mean, plain.mean, 1e-6, 'mean');
      expectClose(weighted.variance, plain.variance, (c) => 1e-6 * plain.variance[c], 'variance');
      expect([...weighted.moments.squares]).toEqual([...plain.moments.squares]);
      const size = x.data.length / samples;
      const half = samples / 2;
      const first = { data: x.data.slice(0, half * size), shape: [half, ...x.shape.slice(1)] };
      const mask = Uint8Array.from({ length: samples }, (_, i) => (i < half ? 1 : 0));
      const masked = forwardTraining(x, { axis, weights: mask, outside: 'zero' });
      const alone = forwardTraining(first, { axis, weights: new Uint8Array(half).fill(1) });
      expectClose(masked.variance, alone.variance, (c) => 1e-13 * alone.variance[c], 'variance of some');
      expectClose(masked.y.data.slice(0, half * size), alone.y.data, 1e-5, 'y of some');
      expect(largest(masked.y.data.slice(half * size))).toBe(0);
    }
  });

  it('exact data has exact statistics, a constant no variance', () => {
    for (const { dtype, layout } of kinds) {
      const shape = layout.shape(7, channels, 33);
      const length = shape.reduce((product, size) => product * size);
      const constant = { data: typed(dtype, new Float64Array(length).fill(0.1)), shape };
      const weights = Float64Array.from({ length: 7 }, (_, i) => 0.1 + i);
      const { variance } = Moments.of(constant, { axis: layout.axis, weights });
      expect([...variance]).toEqual(new Array(channels).fill(0));
    }
  });

  it('large means cost no digits', () => {
    for (const { dtype, layout } of kinds) {
      const random = new Random(600);
      const shape = layout.shape(40, channels, 250);
      const extents = extentsOf(shape, layout.axis);
      const x = {
        data: typed(
          dtype,
          Float64Array.from({ length: 40 * 250 * channels }, () => random.normal(1e4, 1e-2)),
        ),
        shape,
      };
      const weights = Float64Array.from({ length: extents.outer * extents.inner }, () =>
        random.uniform(0, 5),
      );
      const { variance } = Moments.of(x, { axis: layout.axis, weights });
      const counting = { missing: false, impute: false, zero: false };
      const wanted = textbook.statistics({ x: x.data, extents, eps, weights, ...counting });
      expectClose(variance, wanted.variance, (c) => 1e-10 * wanted.variance[c], 'variance');
    }
  });
});

describe('batches in which little counts', () => {
  const x = { data: Float32Array.of(1, Number.NaN, 3, 4, 5, 6), shape: [3, 2] };

  it('nothing counts: as in evaluation, or the bias', () => {
    const bn = new BatchNorm(2, { eps: 1e-12 });
    bn.runningMean?.fill(2);
    bn.bias?.fill(0.5);
    const y = bn.forward(x, { weights: new Uint8Array(3) });
    expect([...y.data]).toEqual([-0.5, Number.NaN, 1.5, 2.5, 3.5, 4.5]);
    expect([bn.batchesTracked, bn.runningMean?.[0], bn.runningVar?.[0]]).toEqual([0, 2, 1]);
    expect(bn.lastMoments).toBeUndefined();
    const { dx } = bn.backward({ data: new Float32Array(6).fill(1), shape: [3, 2] });
    expect([...(dx?.data ?? [])]).toEqual([1, 0, 1, 1, 1, 1]);

    const without = new BatchNorm(2, { trackRunningStats: false, missing: 'impute' });
    without.bias?.fill(0.25);
    const missing = { data: new Float32Array(6).fill(Number.NaN), shape: [3, 2] };
    expect([...without.forward(missing).data]).toEqual(new Array(6).fill(0.25));
    const gradients = without.backward({ data: new Float32Array(6).fill(1), shape: [3, 2] });
    expect([...(gradients.dBias ?? [])]).toEqual([3, 3]);
    expect([...(gradients.dWeight ?? [])]).toEqual([0, 0]);
    expect(largest(gradients.dx?.data ?? [1])).toBe(0);
  });

  it('a channel with one value among fuller ones is the bias there, and keeps its variance', () => {
    const one = { data: Float32Array.of(1, Number.NaN, 3, Number.NaN, 5, 6), shape: [3, 2] };
    const bn = new BatchNorm(2, { missing: 'skip' });
    bn.runningVar?.fill(7);
    const y = bn.forward(one);
    expect(y.data[5]).toBe(0);
    expect(bn.runningVar?.[1]).toBe(7);
    expect(bn.runningMean?.[1]).toBeCloseTo(0.6, 12);
    expect(bn.runningVar?.[0]).not.toBe(7);
  });

  it('a channel without values among others keeps all it has', () => {
    const none = { data: Float32Array.of(1, Number.NaN, 3, Number.NaN, 5, Number.NaN), shape: [3, 2] };
    for (const unbiasedRunningVar of [true, false])
      for (const decay of [0.9, 'cumulative'] as const) {
        const bn = new BatchNorm(2, { missing: 'impute', unbiasedRunningVar, decay });
        bn.runningMean?.fill(4);
        bn.bias?.fill(0.5);
        const y = bn.forward(none);
        expect([y.data[1], y.data[3], y.data[5]]).toEqual([0.5, 0.5, 0.5]);
        expect([bn.runningMean?.[1], bn.runningVar?.[1], bn.rejectedUpdates]).toEqual([4, 1, 0]);
        expect(bn.runningMean?.[0]).not.toBe(4);
        expect(bn.lastMoments?.count[1]).toBe(0);
      }
  });

  it('one value is an error, or takes the running statistics', () => {
    const given = { weights: Uint8Array.of(1, 0, 0) };
    expect(() => new BatchNorm(2).forward(x, given)).toThrow(RangeError);
    const missing = { data: Float32Array.of(1, 2, Number.NaN, Number.NaN), shape: [2, 2] };
    const out = new Float32Array(4).fill(9);
    const strict = new BatchNorm(2, { missing: 'skip' });
    expect(() => strict.forward(missing, { out })).toThrow(RangeError);
    expect([...out]).toEqual([9, 9, 9, 9]);
    const bn = new BatchNorm(2, { missing: 'skip', singleValue: 'running', eps: 1e-12 });
    expect([...bn.forward(missing).data]).toEqual([1, 2, Number.NaN, Number.NaN]);
    expect(bn.batchesTracked).toBe(0);
  });

  it('two values are two, however little one of them weighs', async () => {
    const gap = Number.NaN;
    const two = { data: Float32Array.of(gap, 1, gap, gap, gap, 3), shape: [3, 2] };
    for (const missing of ['skip', 'impute'] as const)
      for (const [weights, mean] of [
        [[1, 1, 1e-17], 1],
        [[1e-17, 5, 1], 3],
        [[1e-200, 1, 1e-200], 2],
      ] as const) {
        const bn = new BatchNorm(2, { missing });
        const given = { weights: Float64Array.from(weights) };
        const y = bn.forward(two, given);
        expectSame((await bn.forwardAsync(two, given)).data, y.data, 'later');
        expect([bn.batchesTracked, bn.lastMoments?.mean[1]]).toEqual([2, mean]);
        const away = { data: two.data.slice(), shape: [3, 2] };
        expectSame((await bn.forwardAsync(away, { ...given, transfer: true })).data, y.data, 'given away');
        expect(y.data[1] < y.data[5]).toBe(true);
        // Each of them alone is one.
        for (const at of [0, 2]) {
          const alone = Float64Array.from(weights, (weight, i) => (i === at ? weight : 0));
          expect(() => bn.forward(two, { weights: alone })).toThrow('needs more than one value per channel');
        }
        expect(bn.batchesTracked).toBe(3);
      }
  });

  it('what too little of counts is refused before it is given away', async () => {
    const one = [[Number.NaN, 1, Number.NaN, Number.NaN], undefined] as const;
    const rare = [[1, 2, 3, 4], Uint8Array.of(0, 0)] as const;
    for (const [values, weights] of [one, rare]) {
      const x = { data: Float32Array.from(values), shape: [2, 2] };
      const bn = new BatchNorm(2, { missing: 'skip' });
      bn.runningVar?.fill(-1);
      await expect(bn.forwardAsync(x, { weights, transfer: true })).rejects.toThrow(RangeError);
      expectSame(x.data, Float32Array.from(values), 'x');
      const running = new BatchNorm(2, { missing: 'skip', singleValue: 'running', eps: 1e-12 });
      const y = await running.forwardAsync(x, { weights, transfer: true });
      expect([x.data.length, running.batchesTracked]).toEqual([0, 0]);
      expectSame(y.data, Float32Array.from(values), 'y');
    }
  });

  it('an infinity is not missing', () => {
    const infinite = { data: Float32Array.of(1, Infinity, 3, 4, 5, 6), shape: [3, 2] };
    const { mean } = forwardTraining(infinite, { missing: 'skip' });
    expect(mean[0]).toBe(3);
    expect(Number.isFinite(mean[1])).toBe(false);
  });
});

describe('frozen layers', () => {
  const x = { data: Float32Array.of(1, Number.NaN, 3, 4), shape: [2, 2] };

  it('take the missing values of their layer, at once, later and as JSON', async () => {
    const bn = new BatchNorm(2, { missing: 'impute', eps: 1e-12 });
    bn.bias?.fill(0.5);
    const residual = { data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] };
    for (const frozen of [bn.freeze(), FrozenBatchNorm.fromJSON(JSON.parse(JSON.stringify(bn.freeze())))]) {
      expect(frozen.missing).toBe('impute');
      expect([...frozen.run(x).data]).toEqual([1.5, 0.5, 3.5, 4.5]);
      expect([...frozen.run(x, { residual, out: new Float32Array(4) }).data]).toEqual([2.5, 2.5, 6.5, 8.5]);
      expect([...(await frozen.runAsync(x, { residual })).data]).toEqual([2.5, 2.5, 6.5, 8.5]);
      expect([...bn.eval().forward(x).data]).toEqual([...frozen.run(x).data]);
    }
    const state = { running_mean: [0, 0], running_var: [1, 1] };
    const strict = FrozenBatchNorm.from(state, { missing: 'throw' });
    expect(() => strict.run(x)).toThrow(
      "x must have no NaN with missing: 'throw', got one at 1, in channel 1",
    );
    await expect(strict.runAsync(x)).rejects.toThrow(RangeError);
    expect(FrozenBatchNorm.from(state, { missing: 'skip' }).run(x).data[1]).toBeNaN();
    expect('missing' in new BatchNorm(2).freeze().toJSON().config).toBe(false);
  });

  // Images with their channels last, of which parts are read at a time that are not in the order of the result.
  it.each([
    [[3, 90]],
    [
      [100, 3],
      [1, 90],
    ],
    [
      [1, 3],
      [100, 90],
    ],
    [
      [7, 5],
      [7, 6],
    ],
  ])('name the first missing value of the result, of %j', (...places) => {
    const [channels, width] = [130, 100];
    const state = { running_mean: new Array(channels).fill(0), running_var: new Array(channels).fill(1) };
    const data = new Float32Array(2 * width * channels);
    for (const [channel, place] of places) data[(width + place) * channels + channel] = Number.NaN;
    const first = Math.min(...places.map(([channel, place]) => (channels + channel) * width + place));
    const channel = Math.floor(first / width) - channels;
    const strict = FrozenBatchNorm.from(state, { missing: 'throw', axis: -1 });
    expect(() => strict.run({ data, shape: [2, width, channels] }, { outAxis: 1 })).toThrow(
      `got one at ${first} of the result, in channel ${channel}`,
    );
  });
});

describe('what weighs little, and what lies outside', () => {
  const variance = (data: FloatArray, weights: Weights) =>
    Moments.of({ data, shape: [data.length, 1] }, { weights }).variance[0];

  it('costs no digits, however far away it is', () => {
    expect(
      variance(Float32Array.of(1, 2, 3, 4, 1e12, 5, 6, 7, 8), Float64Array.of(1, 1, 1, 1, 1e-30, 1, 1, 1, 1)),
    ).toBeCloseTo(5.25, 5);
    const weights = Float64Array.from({ length: 4001 }, (_, i) => (i % 2 === 0 ? 1e-19 : 1));
    const data = Float32Array.from(weights, (weight, i) => (weight === 1 ? Math.sin(i) : 1e9));
    const light = variance(data, weights);
    const some = data.filter((_, i) => i % 2 === 1);
    const own = variance(some, new Uint8Array(some.length).fill(1));
    const far = (2001 * 1e-19 * 1e18) / 2000;
    expect(light).toBeCloseTo(own + far, 6);
    // Chunks of nothing but such values in front.
    const front = Float64Array.from({ length: 40_000 }, (_, i) => (i < 9000 ? 1e15 : i % 2 === 0 ? 1 : 5));
    const of = Float64Array.from(front, (value) => (value === 1e15 ? 1e-40 : 1));
    expect(variance(front, of)).toBeCloseTo(4, 9);
  });

  it('lets no gradient through where y is 0, whatever x is there', () => {
    for (const [shape, axis] of [
      [[1, 1, 4], 1],
      [[1, 4, 1], -1],
    ] as const)
      for (const at of [Infinity, Number.NaN, 7]) {
        const bn = new BatchNorm(1, { axis });
        bn.forward(
          { data: Float32Array.of(1, 2, 3, at), shape: [...shape] },
          { weights: Uint8Array.of(1, 1, 1, 0), outside: 'zero' },
        );
        const dy = { data: Float32Array.of(1, 0, 2, 5), shape: [...shape] };
        const { dx, dWeight, dWeights } = bn.backward(dy, { weightsGrad: true });
        expect([...(dx?.data ?? [])].map((v) => v.toFixed(3))).toEqual(['0.612', '-1.225', '0.612', '0.000']);
        expect(dWeight?.[0]).toBeCloseTo(1.2247, 3);
        expect(dWeights?.[0]).not.toBeNaN();
      }
  });

  it('has gradients however small the weights are', () => {
    const x = { data: Float32Array.of(1, 2, 6, 4), shape: [4, 1] };
    const dy = { data: Float32Array.of(1, 0, 0, 2), shape: [4, 1] };
    const of = (scale: number) => {
      const bn = new BatchNorm(1);
      bn.forward(x, { weights: Float64Array.of(scale, scale, 2 * scale, scale) });
      return bn.backward(dy).dx?.data ?? [];
    };
    expectClose(of(1e-40), of(1), 1e-6, 'dx');
    expectClose(of(1e-100), of(1), 1e-6, 'dx');
  });

  it('has weights with gradients where a channel has no values', () => {
    const x = { data: Float32Array.of(5, 1, Number.NaN, 2, Number.NaN, 3), shape: [3, 2] };
    const bn = new BatchNorm(2, { trackRunningStats: false, missing: 'skip' });
    bn.forward(x, { weights: Float32Array.of(0, 1, 1) });
    const { dWeights } = bn.backward(
      { data: Float32Array.of(1, 2, 3, 4, 5, 7), shape: [3, 2] },
      { weightsGrad: true },
    );
    expect([...(dWeights ?? [])].every(Number.isFinite)).toBe(true);
  });

  it('leaves gradients alone when backward fails', () => {
    const memory = new Float32Array(12).fill(1);
    const bn = new BatchNorm(2);
    const x = { data: Float32Array.of(1, 2, 3, 4, 5, 6, 7, 9), shape: [4, 2] };
    bn.forward(x, { weights: Float32Array.of(1, 1, 1, 0.5) });
    const dy = { data: memory.subarray(0, 8), shape: [4, 2] };
    expect(() => bn.backward(dy, { out: memory.subarray(4) })).toThrow(RangeError);
    expect([...bn.parameters()[1].grad]).toEqual([0, 0]);
  });

  it('updates running statistics by hand as a layer does', () => {
    const x = { data: Float32Array.of(1, Number.NaN, 6, Number.NaN, 2, 8), shape: [3, 2] };
    const running = { runningMean: Float64Array.of(5, 5), runningVar: Float64Array.of(1, 1) };
    const weights = Float32Array.of(0.5, 0.25, 0.1);
    const batch = forwardTraining(x, { missing: 'skip', weights });
    expect(updateRunningStats(running, batch, { decay: 0.5 })).toBe(0);
    const bn = new BatchNorm(2, { missing: 'skip', decay: 0.5 });
    bn.runningMean?.fill(5);
    bn.forward(x, { weights });
    expectSame(running.runningMean, bn.runningMean ?? [], 'mean');
    expectSame(running.runningVar, bn.runningVar ?? [], 'variance');
    expect(running.runningVar[1]).toBe(1);
  });

  it('counts itself where sums come without moments', () => {
    const x = { data: Float32Array.of(1, 2, 6, 4), shape: [4, 1] };
    const dy = { data: Float32Array.of(1, 0, 0, 2), shape: [4, 1] };
    const weights = Float32Array.of(1, 0.5, 2, 1);
    const { mean, variance, moments } = forwardTraining(x, { weights });
    const sums = GradientSums.of(dy, x, { weights, moments });
    const { dx } = backward(dy, x, { weights, mean, variance, sums });
    expectSame(dx.data, backward(dy, x, { weights, moments }).dx.data, 'dx');
  });

  it('is as without weights in evaluation, where nothing is left out', () => {
    const x = { data: Float32Array.of(1, Number.NaN, 3, Infinity), shape: [4, 1] };
    const dy = { data: Float32Array.of(1, 2, 3, 4), shape: [4, 1] };
    const run = (weights: Weights | undefined) => {
      const bn = new BatchNorm(1).eval();
      bn.forward(x, { weights });
      return bn.backward(dy);
    };
    const [plain, weighted] = [run(undefined), run(Float32Array.of(1, 1, 1, 1))];
    expectSame(weighted.dx?.data ?? [], plain.dx?.data ?? [], 'dx');
    expectSame(weighted.dWeight ?? [], plain.dWeight ?? [], 'dWeight');
  });

  it('of moments needs more than one value, too', () => {
    const one = { data: Float32Array.of(1, 2, 3), shape: [3, 1] };
    const bn = new BatchNorm(1);
    const weights = Float32Array.of(0, 1, 0);
    const moments = Moments.of(one, { weights });
    expect(() => bn.forward(one, { weights, moments })).toThrow('moments must have more than one value');
    const none = new Float32Array(3);
    bn.forward(one, { weights: none, moments: Moments.of(one, { weights: none }) });
    expect([bn.batchesTracked, bn.lastMoments]).toEqual([0, undefined]);
  });

  it('asks eps 0 of channels with values alone', () => {
    const given = { data: Float32Array.of(1, 5, 3, 7), shape: [2, 2] };
    const bn = new BatchNorm(2, { missing: 'skip', eps: 0 });
    bn.runningVar?.fill(0);
    expect([...bn.forward(given).data]).toEqual([-1, -1, 1, 1]);
    const empty = { data: Float32Array.of(1, Number.NaN, 3, Number.NaN), shape: [2, 2] };
    const options = { missing: 'skip', eps: 0 } as const;
    const { mean, variance: found, moments } = forwardTraining(empty, options);
    backward(empty, empty, { ...options, mean, variance: found });
    GradientSums.of(empty, empty, { ...options, moments });
  });

  it('is not what somebody has put on Object.prototype', () => {
    const polluted = Object.prototype as { weights?: unknown; outside?: unknown };
    polluted.weights = Float32Array.of(0, 1);
    polluted.outside = 'bogus';
    try {
      const given = { data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] };
      const statistics = { mean: new Float64Array(2), variance: new Float64Array(2).fill(1), eps: 1e-12 };
      expect([...forwardInference(given, statistics).data]).toEqual([1, 2, 3, 4]);
      expect(Moments.of(given).count[0]).toBe(2);
    } finally {
      delete polluted.weights;
      delete polluted.outside;
    }
  });

  it('overflows to infinity, as without weights', () => {
    const large = { data: Float64Array.of(1e200, 2e200, 5e200), shape: [3, 1] };
    const { y, variance: found } = forwardTraining(large, { weights: new Uint8Array(3).fill(1) });
    expect(found[0]).toBe(Infinity);
    expect([...y.data]).toEqual([0, 0, 0]);
  });
});

describe('maskOf', () => {
  it('makes the weights of padded sequences', () => {
    expect(maskOf([2, 0, 3])).toEqual(Uint8Array.of(1, 1, 0, 0, 0, 0, 1, 1, 1));
    expect(maskOf(Int32Array.of(1), 2)).toEqual(Uint8Array.of(1, 0));
    expect(maskOf([])).toEqual(new Uint8Array());
    const x = { data: Float32Array.of(1, 2, 9, 9, 3, 9), shape: [2, 3, 1] };
    const { mean } = forwardTraining(x, { axis: -1, weights: maskOf([2, 0], 3), outside: 'zero' });
    expect(mean[0]).toBe(1.5);
  });
});

describe('what is no weight, no mask and no missing value', () => {
  const x = { data: new Float32Array(24), shape: [4, 2, 3] };

  function refused(call: () => unknown, type: typeof TypeError | typeof RangeError, message: string): void {
    expect(call).toThrow(type);
    expect(call).toThrow(message);
    expectListed(message);
  }

  it('is refused by name', () => {
    const bn = new BatchNorm(2);
    const forward = (weights: unknown) => () => bn.forward(x, { weights: weights as Weights });
    refused(
      forward([1, 2, 3, 4]),
      TypeError,
      'weights must be a Float32Array, Float64Array or Uint8Array, got an array',
    );
    refused(
      forward(new Float32Array(7)),
      RangeError,
      'weights must have 4 values (one per sample) or 12 values (one per position), got 7',
    );
    refused(
      () => forwardTraining(x, { axis: 0, weights: new Float32Array(4) }),
      RangeError,
      'weights must have 6 values (one per position), got 4',
    );
    refused(
      forward(Float32Array.of(1, -1, 1, 1)),
      RangeError,
      'weights must be finite numbers from 0 on, got -1 at 1',
    );
    refused(
      forward(Float32Array.of(1, 1, Number.NaN, 1)),
      RangeError,
      'weights must be finite numbers from 0 on, got NaN at 2',
    );
    refused(
      forward(Float64Array.of(1e200, 1, 1, 1)),
      RangeError,
      'weights must have a sum below 1e154, got 3e+200',
    );
    refused(
      () => new BatchNorm(2, { missing: 'drop' as Missing }),
      RangeError,
      "missing must be 'propagate' or 'throw' or 'skip' or 'impute', got \"drop\"",
    );
    refused(
      () => bn.forward(x, { outside: 'clip' as Outside }),
      RangeError,
      "outside must be 'normalize' or 'zero', got \"clip\"",
    );
    bn.forward(x);
    const dy = { data: new Float32Array(24), shape: [4, 2, 3] };
    refused(
      () => bn.backward(dy, { weightsGrad: true }),
      TypeError,
      'weightsGrad must be left out behind a forward without weights, got true',
    );
    refused(
      () => bn.backward(dy, { weightsGrad: true, only: 'parameters' }),
      TypeError,
      "weightsGrad must be left out with only: 'parameters', got true",
    );
    refused(
      () => backward(dy, x, { mean: new Float32Array(2), variance: new Float32Array(2), weightsGrad: true }),
      TypeError,
      'weightsGrad must be left out without weights, got true',
    );
    refused(() => maskOf('3' as never), TypeError, 'lengths must be an array of integers, got "3"');
    refused(() => maskOf([3], 2), RangeError, 'lengths[0] must be an integer from 0 to 2, got 3');
    expect(bn.batchesTracked).toBe(1);
  });

  it("a NaN that counts is an error with 'throw', by channel and place, before anything is written", async () => {
    const data = new Float32Array(24);
    data[22] = Number.NaN;
    const bad = { data, shape: [4, 2, 3] };
    const out = new Float32Array(24).fill(9);
    const bn = new BatchNorm(2, { missing: 'throw' });
    const message = "x must have no NaN with missing: 'throw', got one at 22, in channel 1";
    refused(() => bn.forward(bad, { out }), RangeError, message);
    expect(() => bn.forward(bad)).toThrow(expect.objectContaining({ code: 'ERR_BATCHNORM_MISSING_VALUE' }));
    await expect(bn.forwardAsync(bad)).rejects.toThrow(message);
    refused(() => forwardTraining(bad, { missing: 'throw', out }), RangeError, message);
    refused(() => Moments.of(bad, { missing: 'throw' }), RangeError, message);
    expect([...out]).toEqual(new Array(24).fill(9));
    expect(bn.batchesTracked).toBe(0);
    // Where it has no weight it is none.
    const y = bn.forward(bad, { weights: Uint8Array.of(1, 1, 1, 0) });
    expect(y.data[22]).toBeNaN();
    expect(bn.batchesTracked).toBe(1);
  });
});
