// Statistics and gradient sums as values: those of the whole from those of its parts.
import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  backward,
  type DType,
  type FloatArray,
  forwardTraining,
  GradientSums,
  Moments,
} from '../../lib/index.js';
import { expectListed } from '../support/messages.js';
import { Random, seedNote } from '../support/random.js';
import * as reference from '../support/reference.js';
import {
  channelValues,
  dtypes,
  expectClose,
  expectSame,
  extentsOf,
  type Layout,
  largest,
  randomActivations,
  randomNormals,
  randomParameters,
  rounding,
  summedLayouts,
} from '../support/tensors.js';

interface Tensor {
  data: FloatArray;
  shape: number[];
}

/** Samples [from, to) of a tensor. */
function samplesOf({ data, shape }: Tensor, from: number, to: number): Tensor {
  const size = data.length / shape[0];
  return { data: data.slice(from * size, to * size), shape: [to - from, ...shape.slice(1)] };
}

/** A tensor in parts of random sizes, empty ones too. */
function partsOf(random: Random, tensor: Tensor): Tensor[] {
  const [samples] = tensor.shape;
  const cuts = [0, 0, samples, ...Array.from({ length: 3 }, () => random.integer(0, samples))].sort(
    (a, b) => a - b,
  );
  return cuts.slice(1).map((to, i) => samplesOf(tensor, cuts[i], to));
}

const eps = 1e-5;
const channels = 5;

function shapeFor(layout: Layout): number[] {
  return layout.shape(24, channels, 6);
}

function draw(random: Random, dtype: DType, shape: number[], axis: number): Tensor {
  return { data: randomActivations(random, dtype, extentsOf(shape, axis)), shape };
}

function expectMoments(
  actual: Moments,
  expected: reference.Moments & { count: number },
  share: number,
): void {
  for (let c = 0; c < actual.channels; c++) expect(actual.count[c]).toBe(expected.count);
  expectSame(actual.squares, actual.count, 'squares');
  const deviation = (c: number) => Math.sqrt(expected.variance[c]);
  expectClose(actual.mean, expected.mean, (c) => share * deviation(c), 'mean');
  expectClose(actual.variance, expected.variance, (c) => share * expected.variance[c], 'variance');
}

/** That a call throws a message that docs/errors.md lists. */
function expectRefused(
  call: () => unknown,
  message: string,
  type: typeof TypeError | typeof RangeError,
): void {
  expect(call).toThrow(type);
  expect(call).toThrow(message);
  expectListed(message);
}

describe(`Moments (${seedNote})`, () => {
  for (const dtype of dtypes)
    for (const layout of summedLayouts) {
      const { axis } = layout;
      it(`of ${dtype} ${layout.name} are those that training finds, at once and later`, async () => {
        const random = new Random();
        const x = draw(random, dtype, shapeFor(layout), axis);
        const { mean, variance, count, moments } = forwardTraining(x, { axis });
        for (const found of [
          Moments.of(x, { axis, dtype }),
          await Moments.ofAsync(x, { axis }),
          await Moments.ofAsync({ ...x, data: x.data.slice() }, { axis, transfer: true }),
        ]) {
          expect(found.toJSON()).toEqual(moments.toJSON());
          expectSame(found.mean, mean, 'mean');
          expectSame(found.variance, variance, 'variance');
          expect([...found.count]).toEqual(new Array(channels).fill(count));
        }
      });

      it(`of parts of ${dtype} ${layout.name} merge to those of the whole`, () => {
        const random = new Random();
        const x = draw(random, dtype, shapeFor(layout), axis);
        const extents = extentsOf(x.shape, axis);
        const expected = { ...reference.moments(x.data, extents), count: extents.outer * extents.inner };
        const parts = partsOf(random, x).map((part) => Moments.of(part, { axis }));
        expectMoments(Moments.merge(...parts), expected, dtype === 'float64' ? 1e-13 : 1e-6);
        // In any order and nesting.
        const [first, ...rest] = parts;
        const nested = Moments.merge(Moments.merge(...rest.reverse()), first);
        expectMoments(nested, expected, dtype === 'float64' ? 1e-13 : 1e-6);
      });
    }

  it('merge to rounding where the statistics of the parts are exact', () => {
    const random = new Random();
    for (const mean of [0, 1e6, -1e-3]) {
      const whole = Array.from({ length: 1000 }, () => random.normal(mean, 1));
      const exact = (values: number[]) => {
        const centre = values.reduce((sum, value) => sum + (value - mean), 0) / values.length;
        const squares = values.reduce((sum, value) => sum + (value - mean - centre) ** 2, 0);
        return Moments.from({
          count: values.length,
          mean: [mean + centre],
          variance: [squares / values.length],
        });
      };
      const cuts = [0, 1, 1, 3, 700, 1000];
      const merged = Moments.merge(
        ...cuts.slice(1).flatMap((to, i) => (to > cuts[i] ? [exact(whole.slice(cuts[i], to))] : [])),
      );
      const expected = exact(whole);
      // Means are doubles: half an ulp of 1e6 is a part of a deviation of 1.
      expect(Math.abs(merged.mean[0] - expected.mean[0])).toBeLessThanOrEqual(
        1e-14 + 2 ** -52 * Math.abs(mean),
      );
      expect(Math.abs(merged.variance[0] / expected.variance[0] - 1)).toBeLessThan(
        1e-14 + 2 ** -51 * Math.abs(mean),
      );
    }
  });

  it('of nothing are 0, and nothing to whoever they are merged with', () => {
    const empty = Moments.of({ data: new Float32Array(0), shape: [0, 2] });
    expect(empty.toJSON()).toEqual({ count: [0, 0], squares: [0, 0], mean: [0, 0], variance: [0, 0] });
    const x = { data: Float32Array.of(1, 2, 4, 8), shape: [2, 2] };
    const some = Moments.of(x);
    expect(Moments.merge(empty, some, empty).toJSON()).toEqual(some.toJSON());
    expect(Moments.merge(empty, empty).toJSON()).toEqual(empty.toJSON());
    // What training says of no values is NaN.
    expect(Moments.from(forwardTraining({ data: new Float32Array(0), shape: [0, 2] })).toJSON()).toEqual(
      empty.toJSON(),
    );
  });

  it('merge to what is right where one worker has no sample', () => {
    const column = (...values: number[]) => ({ data: Float32Array.from(values), shape: [values.length, 1] });
    const merged = Moments.merge(
      ...[[1, 2, 3, 6], []].map((values) => Moments.from(forwardTraining(column(...values)))),
    );
    expect([merged.mean[0], merged.variance[0]]).toEqual([3, 3.5]);
  });

  it('keep what is not finite in its channel', () => {
    const x = { data: Float64Array.of(1, Number.NaN, 3, 4), shape: [2, 2] };
    const merged = Moments.merge(Moments.of(x), Moments.of(x));
    expect([...merged.mean]).toEqual([2, Number.NaN]);
    const again = Moments.from(JSON.parse(JSON.stringify(merged)));
    expect(again.toJSON()).toEqual(merged.toJSON());
    expect(again.toJSON().mean[1]).toBe('NaN');
  });

  it('know the unbiased variance, of weights too', () => {
    const { variance, count } = Moments.from({ count: 5, mean: [0], variance: [4] });
    expect([variance[0], count[0]]).toEqual([4, 5]);
    const of = (count: number, squares?: number) =>
      Moments.from({
        count,
        ...(squares !== undefined && { squares }),
        mean: [0],
        variance: [4],
      }).unbiasedVariance()[0];
    expect(of(5)).toBe(5);
    expect(of(1)).toBeNaN();
    expect(of(0)).toBeNaN();
    expect(of(3, 5)).toBe((4 * 9) / 4);
  });

  it.each([
    [
      'counts that are negative',
      { count: [-1], mean: [0], variance: [0] },
      'moments.count[0] must be a finite number from 0 on, got -1',
    ],
    [
      'a count that is NaN',
      { count: Number.NaN, mean: [0], variance: [0] },
      'moments.count must be a finite number from 0 on, got NaN',
    ],
    [
      'squares that are not there for all',
      { count: 1, squares: [1], mean: [0, 0], variance: [0, 0] },
      'moments.squares must have 2 values (one per channel), got 1',
    ],
    [
      'a negative variance',
      { count: 1, mean: [0], variance: [-1] },
      'moments.variance must not be negative, got -1 in channel 0',
    ],
    [
      'too few means',
      { count: [1, 1], mean: [0], variance: [0, 0] },
      'moments.variance must have 1 value (one per channel), got 2',
    ],
    [
      'no channel',
      { count: 1, mean: [], variance: [] },
      'moments.mean must have at least one value (one per channel), got 0',
    ],
  ] as const)('are not made from %s', (_, parts, message) => {
    expectRefused(() => Moments.from(parts), message, RangeError);
  });

  it('are not made of what they are not', () => {
    const [one, two] = [1, 2].map((size) =>
      Moments.of({ data: new Float32Array(2 * size), shape: [2, size] }),
    );
    expectRefused(() => Moments.merge(one, two), 'moments[1] must have 1 channels, got 2', RangeError);
    expectRefused(() => Moments.merge(), 'moments must be one at least, got none', RangeError);
    expectRefused(
      () => Moments.merge({ ...one } as Moments),
      'moments[0] must be Moments (of Moments.of, merge or from), got an object',
      TypeError,
    );
    expect(() => new (Moments as never as new () => Moments)()).toThrow(
      'Moments must be made by Moments.of(), merge() or from(), got a call of its constructor',
    );
    const proxy = new Proxy(one, {});
    expectRefused(
      () => Moments.merge(proxy),
      'moments[0] must be Moments (of Moments.of, merge or from), got an object',
      TypeError,
    );
    expect(() => Object.assign(one, { mean: two.mean })).toThrow(TypeError);
    structuredClone(two.mean, { transfer: [two.mean.buffer as ArrayBuffer] });
    expectRefused(
      () => two.unbiasedVariance(),
      'moments.mean must have 2 values (one per channel), got 0',
      RangeError,
    );
  });
});

describe(`a batch in parts (${seedNote})`, () => {
  const variants = [
    {},
    { activation: 'relu' },
    { weight: false, decay: 'cumulative' },
    { bias: false, unbiasedRunningVar: false, reuse: false },
  ] as const;

  for (const dtype of dtypes)
    for (const layout of summedLayouts)
      for (const later of [false, true])
        it(`of ${dtype} ${layout.name} is the batch${later ? ', off the event loop' : ''}`, async () => {
          const random = new Random();
          const { axis } = layout;
          for (const options of variants)
            for (const hasResidual of [false, true]) {
              const x = draw(random, dtype, shapeFor(layout), axis);
              const length = x.data.length;
              const dy = { data: randomNormals(random, dtype, length), shape: x.shape };
              const residual = { data: randomNormals(random, dtype, length), shape: x.shape };
              const [whole, parted] = [0, 1].map(
                () => new BatchNorm<DType>(channels, { dtype, axis, ...options }),
              );
              const { weight, bias } = randomParameters(random, dtype, channels);
              for (const bn of [whole, parted]) {
                bn.weight?.set(weight);
                bn.bias?.set(bias);
              }
              const of = (tensor: Tensor, bounds: number[]) => samplesOf(tensor, bounds[0], bounds[1]);
              const cuts = [0, 0, random.integer(1, 23), 24];
              const bounds = cuts.slice(1).map((to, i) => [cuts[i], to]);
              const given = hasResidual ? { residual } : {};
              const y = whole.forward(x, given);
              const gradients = whole.backward(dy);

              const moments = Moments.merge(...bounds.map((it) => Moments.of(of(x, it), { axis })));
              const ys = [];
              for (const it of bounds) {
                const part = hasResidual ? { residual: of(residual, it), moments } : { moments };
                ys.push(later ? await parted.forwardAsync(of(x, it), part) : parted.forward(of(x, it), part));
              }
              const share = dtype === 'float64' ? 1e-12 : 2e-6;
              const joined = (tensors: readonly { data: FloatArray }[]) =>
                tensors.flatMap(({ data }) => [...data]);
              expectClose(joined(ys), y.data, share * largest(y.data), 'y');
              expect(parted.batchesTracked).toBe(1);
              expectClose(parted.runningMean ?? [], whole.runningMean ?? [], share, 'runningMean');
              expectClose(parted.runningVar ?? [], whole.runningVar ?? [], share * 4, 'runningVar');
              expect(parted.lastMoments?.toJSON()).toEqual(moments.toJSON());

              const { weight: w, bias: b } = parted;
              const passed = { axis, moments, weight: w, bias: b, activation: whole.config.activation };
              const sumsOf = (it: number[]) =>
                GradientSums.of(of(dy, it), of(x, it), {
                  ...passed,
                  ...(hasResidual && { residual: of(residual, it) }),
                });
              const sums = GradientSums.merge(...bounds.map(sumsOf));
              parted.zeroGrad();
              const dxs = [];
              const dResiduals = [];
              for (const [i, it] of bounds.entries()) {
                const behind = { of: ys[i], sums, accumulate: true };
                const part = later
                  ? await parted.backwardAsync(of(dy, it), behind)
                  : parted.backward(of(dy, it), behind);
                if (part.dx) dxs.push(part.dx);
                if (part.dResidual) dResiduals.push(part.dResidual);
              }
              const dx = gradients.dx?.data ?? [];
              expectClose(joined(dxs), dx, share * largest(dx), 'dx');
              expectSame(joined(dResiduals), gradients.dResidual?.data ?? [], 'dResidual');
              const [grads, expected] = [parted, whole].map((bn) => bn.parameters());
              for (const [i, { grad }] of grads.entries())
                expectClose(
                  grad,
                  expected[i].grad,
                  share * 24 * largest(expected[i].grad) + share,
                  `the gradient of ${i}`,
                );
            }
        });

  it('of one part has the bits of the batch', () => {
    const random = new Random();
    for (const dtype of dtypes)
      for (const layout of summedLayouts)
        for (const options of variants) {
          const { axis } = layout;
          const x = draw(random, dtype, shapeFor(layout), axis);
          const dy = { data: randomNormals(random, dtype, x.data.length), shape: x.shape };
          const [whole, parted] = [0, 1].map(
            () => new BatchNorm<DType>(channels, { dtype, axis, ...options }),
          );
          const y = whole.forward(x);
          const moments = Moments.of(x, { axis });
          expectSame(parted.forward(x, { moments }).data, y.data, 'y');
          const expected = whole.backward(dy);
          const sums = GradientSums.of(dy, x, { axis, moments, activation: whole.config.activation });
          for (const retain of [true, false]) {
            const { dx, dWeight, dBias } = parted.backward(dy, { sums, retain });
            expectSame(dx?.data ?? [], expected.dx?.data ?? [], 'dx');
            expectSame(dWeight ?? [], expected.dWeight ?? [], 'dWeight');
            expectSame(dBias ?? [], expected.dBias ?? [], 'dBias');
          }
          expect(parted.stateDict()).toEqual(whole.stateDict());
          const own = { axis, activation: whole.config.activation, weight: whole.weight, bias: whole.bias };
          const once = backward(dy, x, { ...own, moments });
          expectSame(once.dx.data, expected.dx?.data ?? [], 'dx of the function');
          const again = backward(dy, x, { ...own, moments, sums });
          expectSame(again.dx.data, once.dx.data, 'dx of the function with sums');
          expectSame(again.dWeight, once.dWeight, 'dWeight of the function with sums');
          const inPlace = { data: dy.data.slice(), shape: dy.shape };
          backward(inPlace, x, { ...own, moments, sums, out: inPlace.data });
          expectSame(inPlace.data, once.dx.data, 'dx in the place of dy');
        }
  });

  it('of one function has the bits of the fused pass', () => {
    const random = new Random();
    const x = draw(random, 'float32', [8, 5, 7], 1);
    const residual = draw(random, 'float32', [8, 5, 7], 1);
    const options = { activation: 'relu', residual } as const;
    const { y, moments, mean, variance } = forwardTraining(x, options);
    const again = forwardTraining(x, { ...options, moments });
    expectSame(again.y.data, y.data, 'y');
    expect(again.count).toBe(56);
    const expected = backward(x, x, { ...options, mean, variance });
    const sums = GradientSums.of(x, x, { ...options, moments });
    const actual = backward(x, x, { ...options, moments, sums });
    expect(actual).toEqual(expected);
  });

  it('needs the sums of all parts, and says so', async () => {
    const random = new Random();
    const x = draw(random, 'float32', [6, 5], 1) as { data: Float32Array; shape: number[] };
    const half = samplesOf(x, 0, 3) as typeof x;
    const moments = Moments.of(x);
    const bn = new BatchNorm(5);
    const message =
      'sums must be the GradientSums of all parts behind a forward with moments, got undefined; give it GradientSums.merge() of the GradientSums.of() of each part';
    bn.forward(half, { moments });
    expectRefused(() => bn.backward(half), message, RangeError);
    await expect(bn.backwardAsync(half)).rejects.toThrow(message);
    expectRefused(() => backward(half, half, { moments }), message, RangeError);
    // Those of the parameters are this part's own anyway.
    const { dBias } = bn.backward(half, { only: 'parameters' });
    expectSame(
      dBias ?? [],
      backward(half, half, { mean: moments.mean, variance: moments.variance }).dBias,
      'dBias',
    );
    const sums = GradientSums.of(x, x, { moments });
    const wrong = GradientSums.from({ sumDy: [1], sumDyXmu: [1] });
    expectRefused(() => bn.backward(half, { sums: wrong }), 'sums must have 5 channels, got 1', RangeError);
    expectRefused(
      () => bn.backward(half, { sums: {} as never }),
      'sums must be GradientSums (of GradientSums.of, merge or from), got an object',
      TypeError,
    );
    bn.eval().forward(half);
    expectRefused(
      () => bn.backward(half, { sums }),
      'sums must be left out in evaluation, got an object',
      TypeError,
    );
    expectRefused(
      () => bn.forward(half, { moments }),
      'moments must be left out in evaluation, got an object',
      TypeError,
    );
    bn.train();
    const before = structuredClone(bn.stateDict());
    const few = Moments.from({ count: [2, 2, 0, 2, 2], mean: [0, 0, 0, 0, 0], variance: [1, 1, 1, 1, 1] });
    expectRefused(
      () => bn.forward(half, { moments: few }),
      'moments must have values in every channel, got 0 in channel 2',
      RangeError,
    );
    const single = Moments.from({ count: 1, mean: new Float64Array(5), variance: new Float64Array(5) });
    expectRefused(
      () => bn.forward(half, { moments: single }),
      'moments must have more than one value per channel, got 1',
      RangeError,
    );
    const other = Moments.of({ data: new Float32Array(4), shape: [2, 2] });
    expectRefused(
      () => bn.forward(half, { moments: other }),
      'moments must have 5 channels, got 2',
      RangeError,
    );
    expect(bn.stateDict()).toEqual(before);
  });

  it('goes into the running statistics once, and not at all with updateStats: false', () => {
    const random = new Random();
    const x = draw(random, 'float32', [6, 5], 1) as { data: Float32Array; shape: number[] };
    const moments = Moments.of(x);
    const [bn, twin] = [new BatchNorm(5), new BatchNorm(5)];
    bn.forward(x, { moments, updateStats: false });
    expect(bn.batchesTracked).toBe(0);
    twin.forward(x);
    for (let i = 0; i < 3; i++) bn.forward(samplesOf(x, i, i + 1) as typeof x, { moments });
    bn.forward(samplesOf(x, 0, 0) as typeof x, { moments });
    expect(bn.stateDict()).toEqual(twin.stateDict());
    bn.forward(x, { moments: Moments.of(x) });
    expect(bn.batchesTracked).toBe(2);
  });

  it('counts in each channel what there is of it', () => {
    const bn = new BatchNorm(3, { decay: 0 });
    const moments = Moments.from({
      count: [4, 1, 3],
      squares: [4, 1, 5],
      mean: [1, 2, 3],
      variance: [3, 0, 4],
    });
    const x = { data: Float32Array.of(1, 2, 3), shape: [1, 3] };
    const y = bn.forward(x, { moments });
    expectSame(y.data, Float32Array.of(0, 0, 0), 'y');
    expect([...(bn.runningMean ?? [])]).toEqual([1, 2, 3]);
    // 3 · 4/3; of one value there is none, and 1 stays; 4 · 9/(9 − 5).
    expect([...(bn.runningVar ?? [])]).toEqual([4, 1, 9]);
    const dy = { data: Float32Array.of(1, 1, 1), shape: [1, 3] };
    const sums = GradientSums.from({ sumDy: [4, 1, 6], sumDyXmu: [0, 0, 0] });
    const { dx } = bn.backward(dy, { sums });
    const scale = (variance: number) => 1 / Math.sqrt(variance + eps);
    expectClose(dx?.data ?? [], [0, 0, -scale(4)], 1e-6, 'dx');
  });
});

describe(`GradientSums (${seedNote})`, () => {
  it.each(dtypes)('are those of the textbook, %s', async (dtype) => {
    const random = new Random();
    for (const { axis, shape } of [
      { axis: 1, shape: [6, 5, 7] },
      { axis: -1, shape: [6, 7, 5] },
    ]) {
      const x = draw(random, dtype, shape, axis);
      const dy = draw(random, dtype, shape, axis);
      const moments = Moments.of(x, { axis });
      const extents = extentsOf(shape, axis);
      const sums = GradientSums.of(dy, x, { axis, moments });
      for (let c = 0; c < channels; c++) {
        const [xs, dys] = [x, dy].map(({ data }) => channelValues(data, extents, c));
        const terms = dys.map((value, i) => value * (xs[i] - moments.mean[c]));
        const total = (values: number[]) => values.reduce((sum, value) => sum + value, 0);
        const sizes = (values: number[]) => rounding[dtype] * total(values.map(Math.abs));
        expect(Math.abs(sums.sumDy[c] - total([...dys]))).toBeLessThanOrEqual(sizes([...dys]));
        expect(Math.abs(sums.sumDyXmu[c] - total([...terms]))).toBeLessThanOrEqual(sizes([...terms]));
      }
      const later = [
        await GradientSums.ofAsync(dy, x, { axis, moments }),
        await GradientSums.ofAsync({ ...dy, data: dy.data.slice() }, x, { axis, moments, transfer: true }),
      ];
      for (const each of later) expect(each.toJSON()).toEqual(sums.toJSON());
      expect(GradientSums.from(JSON.parse(JSON.stringify(sums))).toJSON()).toEqual(sums.toJSON());
    }
  });

  it('of nothing are 0', () => {
    const none = { data: new Float32Array(0), shape: [0, 2] };
    const moments = Moments.from({ count: 3, mean: [1, 2], variance: [1, 1] });
    expect(GradientSums.of(none, none, { moments }).toJSON()).toEqual({ sumDy: [0, 0], sumDyXmu: [0, 0] });
  });

  it('refuse what does not fit', () => {
    const x = { data: new Float32Array(4), shape: [2, 2] };
    const moments = Moments.from({ count: 2, mean: [1], variance: [1] });
    expectRefused(
      () => GradientSums.of(x, x, { moments }),
      'moments must have 2 channels, got 1',
      RangeError,
    );
    expectRefused(
      () => GradientSums.of(x, x, {} as never),
      'moments must be Moments (of Moments.of, merge or from), got undefined',
      TypeError,
    );
    expectRefused(() => GradientSums.merge(), 'sums must be one at least, got none', RangeError);
    expect(() => new (GradientSums as never as new () => GradientSums)()).toThrow(
      'GradientSums must be made by GradientSums.of(), merge() or from(), got a call of its constructor',
    );
  });
});

describe('setRunningStats', () => {
  it('makes the running statistics those of other data, and leaves what was counted', () => {
    for (const unbiasedRunningVar of [true, false]) {
      const bn = new BatchNorm(2, { unbiasedRunningVar });
      const x = { data: Float32Array.of(1, 2, 3, 4, 5, 9), shape: [3, 2] };
      bn.forward(x);
      const moments = Moments.merge(Moments.of(x), Moments.of(x));
      expect(bn.setRunningStats(moments)).toBe(bn);
      expect(bn.runningMean).toEqual(moments.mean);
      expect(bn.runningVar).toEqual(unbiasedRunningVar ? moments.unbiasedVariance() : moments.variance);
      expect(bn.batchesTracked).toBe(1);
    }
  });

  it.each([
    [
      'no values in a channel',
      { count: [2, 0], mean: [0, 0], variance: [1, 1] },
      'moments must have values in every channel, got 0 in channel 1',
    ],
    [
      'one value in a channel',
      { count: [2, 1], mean: [0, 0], variance: [1, 1] },
      'moments must have more than one value per channel, got 1 in channel 1',
    ],
    [
      'a NaN',
      { count: 2, mean: [0, 'NaN'], variance: [1, 1] },
      'moments must be finite, got mean NaN and variance 1 in channel 1',
    ],
    [
      'another number of channels',
      { count: 2, mean: [0], variance: [1] },
      'moments must have 2 channels, got 1',
    ],
  ] as const)('refuses %s', (_, parts, message) => {
    const bn = new BatchNorm(2);
    expectRefused(() => bn.setRunningStats(Moments.from(parts)), message, RangeError);
    expect([...(bn.runningVar ?? [])]).toEqual([1, 1]);
  });

  it('needs running statistics', () => {
    const bn = new BatchNorm(1, { trackRunningStats: false });
    const moments = Moments.from({ count: 2, mean: [0], variance: [1] });
    const message = 'setRunningStats() must have running statistics, got trackRunningStats: false';
    expect(() => bn.setRunningStats(moments)).toThrow(
      expect.objectContaining({ code: 'ERR_BATCHNORM_NO_RUNNING_STATS', message }),
    );
    expectListed(message);
  });
});
