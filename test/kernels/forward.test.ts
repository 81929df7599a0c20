import { describe, expect, it } from 'vitest';
import { type FloatArray, forwardInference, forwardTraining, type Tensor, tensor } from '../../lib/index.js';
import { Random, seedNote } from '../support/random.js';
import * as reference from '../support/reference.js';
import { eachShape } from '../support/shapes.js';
import {
  atOffset,
  beyondCaches,
  bytesPerValue,
  channelValues,
  dtypes,
  eachKind,
  expectClose,
  expectSame,
  expectUnmodified,
  extentsOf,
  type FloatDType,
  foreign,
  fromChannels,
  guarded,
  largest,
  type Parameters,
  randomActivations,
  randomNormals,
  randomParameters,
  randomStatistics,
  rounding,
  type Statistics,
  shared,
  sizeOf,
  typed,
  zeros,
} from '../support/tensors.js';

const eps = 1e-5;

interface Case {
  readonly x: FloatArray;
  readonly shape: number[];
  readonly axis: number;
  readonly parameters: Partial<Parameters>;
  readonly statistics: Statistics;
}

function randomCase(random: Random, dtype: FloatDType, shape: number[], axis: number): Case {
  const extents = extentsOf(shape, axis);
  return {
    x: randomActivations(random, dtype, extents),
    shape,
    axis,
    parameters: randomParameters(random, dtype, extents.channels),
    statistics: randomStatistics(random, extents.channels),
  };
}

function expectTextbook({ x, shape, axis, parameters, statistics }: Case): void {
  const extents = extentsOf(shape, axis);
  const where = `axis ${axis} of [${shape}]`;
  const share = x instanceof Float32Array ? rounding.float32 : rounding.float64;
  // y is a product plus the bias, which may cancel; both are at most this large.
  const largestTerms = (y: ArrayLike<number>) => largest(y) + 2 * largest(parameters.bias ?? []);

  const training = reference.forwardTraining(x, extents, { eps, ...parameters });
  const { y, mean, variance, count } = forwardTraining({ data: x, shape }, { axis, eps, ...parameters });
  expect(count, `count over ${where}`).toBe(training.count);
  expect(y.shape).toEqual(shape);
  expectClose(y.data, training.y, share * largestTerms(training.y), `y of training over ${where}`);
  const spread = (c: number) => Math.abs(training.mean[c]) + Math.sqrt(training.variance[c]);
  expectClose(mean, training.mean, (c) => share * spread(c), `mean over ${where}`);
  // A handful of values may be summed about one of them, whose distance from the mean is several deviations.
  expectClose(variance, training.variance, (c) => 3 * share * training.variance[c], `variance over ${where}`);

  const inference = reference.forwardInference(x, extents, { eps, ...statistics, ...parameters });
  const result = forwardInference({ data: x, shape }, { axis, eps, ...statistics, ...parameters });
  expect(result.shape).toEqual(shape);
  expectClose(result.data, inference, share * largestTerms(inference), `y of inference over ${where}`);
}

/** Both forward functions on one input, as bits to compare. */
function bothForwards(
  x: FloatArray,
  { shape, axis, parameters, statistics }: Omit<Case, 'x'>,
  out?: { training: FloatArray; inference: FloatArray },
): { training: FloatArray; mean: Float64Array; variance: Float64Array; inference: FloatArray } {
  const training = forwardTraining({ data: x, shape }, { axis, eps, ...parameters, out: out?.training });
  const inference = forwardInference(
    { data: x, shape },
    { axis, eps, ...statistics, ...parameters, out: out?.inference },
  );
  return {
    training: training.y.data,
    mean: training.mean,
    variance: training.variance,
    inference: inference.data,
  };
}

function expectSameForwards(
  actual: ReturnType<typeof bothForwards>,
  expected: ReturnType<typeof bothForwards>,
  what: string,
): void {
  expectSame(actual.training, expected.training, `y of training, ${what}`);
  expectSame(actual.mean, expected.mean, `mean, ${what}`);
  expectSame(actual.variance, expected.variance, `variance, ${what}`);
  expectSame(actual.inference, expected.inference, `y of inference, ${what}`);
}

describe(`forward against the textbook (${seedNote})`, () => {
  eachShape(randomCase, expectTextbook);

  it('the channel axis is 1 and eps is 1e-5 by default', () => {
    const random = new Random();
    const shape = [2, 3, 4];
    const { x, statistics } = randomCase(random, 'float32', shape, 1);
    const implied = forwardTraining({ data: x, shape });
    expectSame(
      implied.y.data,
      forwardTraining({ data: x, shape }, { axis: 1, eps: 1e-5 }).y.data,
      'y of training',
    );
    expectSame(
      forwardInference({ data: x, shape }, statistics).data,
      forwardInference({ data: x, shape }, { axis: 1, eps: 1e-5, ...statistics }).data,
      'y of inference',
    );
  });

  it.each([1e-12, 1e-3, 10])('eps = %d stands inside the root', (value) => {
    const shape = [4, 1];
    const x = Float64Array.of(1, 2, 4, 9);
    const { y } = forwardTraining({ data: x, shape }, { eps: value });
    expectClose(
      y.data,
      x.map((v) => (v - 4) / Math.sqrt(9.5 + value)),
      1e-15,
      'y',
    );
  });
});

describe(`what forward accepts and returns (${seedNote})`, () => {
  it('returns an array of its own with the dtype and shape of the input', () => {
    for (const dtype of dtypes) {
      const shape = [2, 3, 5];
      const x = randomNormals(new Random(), dtype, 30);
      const { y } = forwardTraining({ data: x, shape });
      expect(y.data.constructor).toBe(x.constructor);
      expect(y.data.buffer).not.toBe(x.buffer);
      expect(y.data.byteLength).toBe(y.data.buffer.byteLength);
      expect(y.shape).toEqual([2, 3, 5]);
    }
  });

  it('takes tensors that call their shape dims', () => {
    const random = new Random();
    const { x, shape, axis, parameters, statistics } = randomCase(random, 'float32', [3, 5, 7], 1);
    const options = { axis, eps, ...parameters };
    const fromDims = forwardTraining({ data: x, dims: shape }, options);
    expect(fromDims.y.shape).toEqual(shape);
    expectSame(fromDims.y.data, forwardTraining({ data: x, shape }, options).y.data, 'y of training');
    const inference = forwardInference({ data: x, dims: shape }, { ...options, ...statistics });
    expect(inference.shape).toEqual(shape);
    expectSame(inference.data, forwardInference({ data: x, shape }, { ...options, ...statistics }).data, 'y');
  });

  it('takes what tensor() made, which keeps the array it was given', () => {
    const data = Float32Array.of(1, 2, 3, 4, 5, 6);
    const x: Tensor<Float32Array> = tensor(data, [3, 2]);
    expect(x.data).toBe(data);
    expect(x.shape).toEqual([3, 2]);
    expectSame(forwardTraining(x).y.data, forwardTraining({ data, shape: [3, 2] }).y.data, 'y');
  });

  eachKind('gives the same for parameters in either dtype', ({ dtype, layout }) => {
    const random = new Random();
    const shape = layout.shape(4, 17, 9);
    const whole = randomCase(random, dtype, shape, layout.axis);
    const { weight, bias } = whole.parameters as Parameters;
    const { mean, variance } = whole.statistics;
    // Values that both dtypes hold exactly, so that nothing but the container differs.
    const singles = [weight, bias, mean, variance].map((values) => Float32Array.from(values));
    const doubles = singles.map((values) => Float64Array.from(values));
    const run = ([w, b, m, v]: FloatArray[]) =>
      bothForwards(whole.x, {
        ...whole,
        parameters: { weight: w, bias: b },
        statistics: { mean: m, variance: v },
      });
    const expected = run(singles);
    expectSameForwards(run(doubles), expected, 'parameters in doubles');
    const mixed = [singles[0], doubles[1], doubles[2], singles[3]];
    expectSameForwards(run(mixed), expected, 'parameters in both');
  });

  eachKind('takes x and out at any byte offset', ({ dtype, layout }) => {
    const random = new Random();
    const step = bytesPerValue[dtype];
    for (const shape of [layout.shape(2, 3, 37), layout.shape(3, 17, 5)]) {
      const whole = randomCase(random, dtype, shape, layout.axis);
      const aligned = bothForwards(whole.x, whole);
      for (let xOffset = 0; xOffset < 64; xOffset += step) {
        const x = atOffset(whole.x, xOffset);
        for (let outOffset = 0; outOffset < 64; outOffset += step) {
          const training = guarded(dtype, x.length, outOffset);
          const inference = guarded(dtype, x.length, outOffset);
          const actual = bothForwards(x, whole, { training: training.view, inference: inference.view });
          expectSameForwards(actual, aligned, `x at byte ${xOffset}, out at byte ${outOffset}`);
          training.expectIntact();
          inference.expectIntact();
        }
      }
    }
  });

  eachKind('takes parameters at any byte offset', ({ dtype, layout }) => {
    const random = new Random();
    const whole = randomCase(random, dtype, layout.shape(3, 33, 4), layout.axis);
    const { weight, bias } = whole.parameters as Parameters;
    const { mean, variance } = whole.statistics;
    const aligned = bothForwards(whole.x, whole);
    for (let offset = 0; offset < 64; offset += 8) {
      const parameters = { weight: atOffset(weight, offset), bias: atOffset(bias, offset) };
      const statistics = {
        mean: atOffset(mean, offset),
        variance: atOffset(variance, offset),
      };
      const actual = bothForwards(whole.x, { ...whole, parameters, statistics });
      expectSameForwards(actual, aligned, `parameters at byte ${offset}`);
    }
  });

  for (const { memory, copy } of [
    { memory: 'shared memory', copy: shared },
    { memory: 'another realm', copy: foreign },
  ]) {
    eachKind(`takes every array from ${memory}`, ({ dtype, layout }) => {
      const whole = randomCase(new Random(), dtype, layout.shape(3, 17, 11), layout.axis);
      const { weight, bias } = whole.parameters as Parameters;
      const { mean, variance } = whole.statistics;
      const out = {
        training: copy(zeros(dtype, whole.x.length)),
        inference: copy(zeros(dtype, whole.x.length)),
      };
      const actual = bothForwards(
        copy(whole.x),
        {
          ...whole,
          parameters: { weight: copy(weight), bias: copy(bias) },
          statistics: { mean: copy(mean), variance: copy(variance) },
        },
        out,
      );
      expect(actual.training).toBe(out.training);
      expect(actual.inference).toBe(out.inference);
      expectSameForwards(actual, bothForwards(whole.x, whole), memory);
    });
  }

  it('takes x from shared memory or another realm without out', () => {
    const whole = randomCase(new Random(), 'float32', [3, 5, 7], 1);
    const expected = bothForwards(whole.x, whole);
    expectSameForwards(bothForwards(shared(whole.x), whole), expected, 'x in shared memory');
    expectSameForwards(bothForwards(foreign(whole.x), whole), expected, 'x of another realm');
  });

  eachKind('writes into out = x.data what it writes elsewhere', ({ dtype, layout }) => {
    const random = new Random();
    for (const positions of [1, 49, 1000, 9000]) {
      const whole = randomCase(random, dtype, layout.shape(3, 5, positions), layout.axis);
      const training = whole.x.slice();
      const inference = whole.x.slice();
      const options = { axis: whole.axis, eps, ...whole.parameters };
      const inPlace = forwardTraining({ data: training, shape: whole.shape }, { ...options, out: training });
      expect(inPlace.y.data).toBe(training);
      forwardInference(
        { data: inference, shape: whole.shape },
        { ...options, ...whole.statistics, out: inference },
      );
      const { mean, variance } = inPlace;
      const expected = bothForwards(whole.x, whole);
      expectSameForwards({ training, mean, variance, inference }, expected, `in place over [${whole.shape}]`);
    }
  });

  it('counts another view of the same memory as in place', () => {
    const whole = randomCase(new Random(), 'float32', [4, 3, 25], 1);
    const expected = bothForwards(whole.x, whole);
    const x = whole.x.slice();
    const out = new Float32Array(x.buffer);
    forwardTraining({ data: x, shape: whole.shape }, { axis: 1, eps, ...whole.parameters, out });
    expectSame(x, expected.training, 'x written through the other view');
  });

  eachKind('writes every value of out and no byte beside it', ({ dtype, layout }) => {
    const random = new Random();
    const sizes = [...Array.from({ length: 70 }, (_, i) => i + 1), 1000, 4097, 8193];
    for (const size of sizes) {
      for (const shape of [layout.shape(1, 1, size), layout.shape(2, 3, size), layout.shape(2, size, 3)]) {
        const whole = randomCase(random, dtype, shape, layout.axis);
        const training = guarded(dtype, whole.x.length);
        const inference = guarded(dtype, whole.x.length);
        bothForwards(whole.x, whole, { training: training.view, inference: inference.view });
        training.expectIntact();
        inference.expectIntact();
        const expected = bothForwards(whole.x, whole);
        expectSame(training.view, expected.training, `y of training over [${shape}]`);
        expectSame(inference.view, expected.inference, `y of inference over [${shape}]`);
      }
    }
  });

  eachKind('leaves its inputs as they were', ({ dtype, layout }) => {
    const whole = randomCase(new Random(), dtype, layout.shape(3, 17, 50), layout.axis);
    expectUnmodified({ x: whole.x, ...whole.parameters, ...whole.statistics }, () =>
      bothForwards(whole.x, whole),
    );
  });

  eachKind('is right for tensors beyond the caches, at odd addresses', ({ dtype, layout }) => {
    const random = new Random();
    const shape = beyondCaches(dtype, layout);
    const extents = extentsOf(shape, layout.axis);
    const noise = randomNormals(random, dtype, 65_537);
    const x = guarded(dtype, sizeOf(extents), 20 - (20 % bytesPerValue[dtype])).view;
    for (let i = 0; i < x.length; i++) x[i] = noise[i % noise.length];
    const parameters = randomParameters(random, dtype, extents.channels);
    const expected = reference.forwardTraining(x, extents, { eps, ...parameters });
    const share = rounding[dtype] * largest(expected.y);
    for (const byteOffset of [0, 24]) {
      const out = guarded(dtype, x.length, byteOffset);
      const options = { axis: layout.axis, eps, ...parameters, out: out.view };
      const { mean, variance } = forwardTraining({ data: x, shape }, options);
      out.expectIntact();
      expectClose(out.view, expected.y, share, `y of training, out at byte ${byteOffset}`);
      expectClose(variance, expected.variance, rounding[dtype], 'variance');
      out.view.fill(Number.NaN);
      forwardInference({ data: x, shape }, { ...options, mean, variance });
      out.expectIntact();
      expectClose(out.view, expected.y, share, `y of inference, out at byte ${byteOffset}`);
    }
  });
});

describe(`forward at the edges (${seedNote})`, () => {
  eachKind('returns an empty tensor for an empty batch', ({ dtype, layout }) => {
    const { weight, bias } = randomParameters(new Random(), dtype, 3);
    const statistics = randomStatistics(new Random(), 3);
    for (const shape of [layout.shape(0, 3, 5), layout.shape(4, 3, 0)]) {
      const x = { data: zeros(dtype, 0), shape };
      const { y, mean, variance, count } = forwardTraining(x, { axis: layout.axis, weight, bias });
      expect(count).toBe(0);
      expect(y.data).toHaveLength(0);
      expect(y.data.constructor).toBe(x.data.constructor);
      expect(y.shape).toEqual(shape);
      expectSame(mean, new Float64Array(3).fill(Number.NaN), 'mean of nothing');
      expectSame(variance, new Float64Array(3).fill(Number.NaN), 'variance of nothing');
      const inference = forwardInference(x, { axis: layout.axis, ...statistics, weight, bias });
      expect(inference.data).toHaveLength(0);
      expect(inference.shape).toEqual(shape);
    }
  });

  it('one value per channel has mean x, variance 0 and y = bias, exactly', () => {
    const random = new Random();
    for (const dtype of dtypes) {
      for (const shape of [[1, 37], [1, 37, 1, 1], [37]]) {
        const axis = shape.length === 1 ? 0 : 1;
        const { x, parameters } = randomCase(random, dtype, shape, axis);
        const { y, mean, variance, count } = forwardTraining(
          { data: x, shape },
          { axis, eps, ...parameters },
        );
        expect(count).toBe(1);
        expectSame(mean, x, 'mean');
        expectSame(variance, new Float64Array(37), 'variance');
        expectSame(y.data, parameters.bias as FloatArray, 'y');
        const plain = forwardTraining({ data: x, shape }, { axis, eps });
        expect(largest(plain.y.data)).toBe(0);
      }
    }
  });

  eachKind('gives a constant channel variance 0 and y = bias, exactly', ({ dtype, layout }) => {
    const constants = [0, 1, -1, 0.1, -1234.567, 3e7, 1e30, -1e-30, 1e-44];
    const random = new Random();
    for (const positions of [2, 63, 64, 65, 1001, 20_011]) {
      const shape = layout.shape(2, constants.length, positions);
      const extents = extentsOf(shape, layout.axis);
      const x = fromChannels(dtype, extents, (c) => constants[c]);
      const { bias } = randomParameters(random, dtype, constants.length);
      const { y, mean, variance } = forwardTraining({ data: x, shape }, { axis: layout.axis, eps, bias });
      expectSame(mean, typed(dtype, constants), 'mean');
      expectSame(variance, new Float64Array(constants.length), 'variance');
      constants.forEach((constant, c) => {
        const values = channelValues(y.data, extents, c);
        expectSame(values, new Array(values.length).fill(bias[c]), `y of the channel of ${constant}`);
      });
    }
  });

  it('gives variance 0 in inference 1/sqrt(eps)', () => {
    const shape = [2, 2];
    const { data } = forwardInference(
      { data: Float64Array.of(1, 2, 3, 4), shape },
      { eps: 0.25, mean: Float64Array.of(1, 1), variance: Float64Array.of(0, 0) },
    );
    expectSame(data, Float64Array.of(0, 2, 4, 6), 'y');
  });
});
