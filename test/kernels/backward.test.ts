import { describe, expect, it } from 'vitest';
import { backward, type FloatArray, forwardInference, forwardTraining } from '../../lib/index.js';
import { Random, seedNote } from '../support/random.js';
import * as reference from '../support/reference.js';
import { eachShape } from '../support/shapes.js';
import {
  atOffset,
  beyondCaches,
  bytesPerValue,
  channelAt,
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
  generate,
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
  zeros,
} from '../support/tensors.js';

const eps = 1e-5;

interface Case {
  readonly x: FloatArray;
  readonly dy: FloatArray;
  readonly shape: number[];
  readonly axis: number;
  readonly parameters: Partial<Parameters>;
  /** For the frozen gradient. */
  readonly statistics: Statistics;
}

function randomCase(random: Random, dtype: FloatDType, shape: number[], axis: number): Case {
  const extents = extentsOf(shape, axis);
  return {
    x: randomActivations(random, dtype, extents),
    dy: randomNormals(random, dtype, sizeOf(extents)),
    shape,
    axis,
    parameters: randomParameters(random, dtype, extents.channels),
    statistics: randomStatistics(random, extents.channels),
  };
}

/** The gradient of the training forward, with the statistics that forward found. */
function trainingGradient({ x, dy, shape, axis, parameters }: Omit<Case, 'statistics'>, out?: FloatArray) {
  const options = { axis, eps, ...parameters };
  const { mean, variance } = forwardTraining({ data: x, shape }, options);
  return backward(
    { data: dy, shape },
    { data: x, shape },
    { ...options, mean, variance, training: true, out },
  );
}

function frozenGradient({ x, dy, shape, axis, parameters, statistics }: Case, out?: FloatArray) {
  const options = { axis, eps, ...parameters, ...statistics, training: false, out };
  return backward({ data: dy, shape }, { data: x, shape }, options);
}

type Gradient = ReturnType<typeof trainingGradient>;

function present<T>(value: T | null | undefined, name: string): T {
  if (value === undefined || value === null) expect.fail(`${name} is missing`);
  return value;
}

function expectSameGradient(actual: Gradient, expected: Gradient, what: string): void {
  expectSame(actual.dx.data, expected.dx.data, `dx, ${what}`);
  expectSame(present(actual.dWeight, 'dWeight'), present(expected.dWeight, 'dWeight'), `dWeight, ${what}`);
  expectSame(present(actual.dBias, 'dBias'), present(expected.dBias, 'dBias'), `dBias, ${what}`);
}

function expectGradient(actual: Gradient, expected: reference.Gradients, whole: Case, what: string): void {
  const { x, shape, axis } = whole;
  const share = x instanceof Float32Array ? rounding.float32 : rounding.float64;
  const channelOf = channelAt(extentsOf(shape, axis));
  const { magnitude } = expected;
  expect(actual.dx.shape).toEqual(shape);
  expectClose(actual.dx.data, expected.dx, (i) => share * magnitude.dx[channelOf(i)], `dx, ${what}`);
  if (whole.parameters.weight) {
    const dWeight = present(actual.dWeight, 'dWeight');
    expect(dWeight.constructor).toBe(x.constructor);
    expectClose(dWeight, expected.dWeight, (c) => share * magnitude.dWeight[c], `dWeight, ${what}`);
  }
  if (whole.parameters.bias) {
    const dBias = present(actual.dBias, 'dBias');
    expect(dBias.constructor).toBe(x.constructor);
    expectClose(dBias, expected.dBias, (c) => share * magnitude.dBias[c], `dBias, ${what}`);
  }
}

function expectTextbook(whole: Case): void {
  const { x, dy, shape, axis, parameters, statistics } = whole;
  const extents = extentsOf(shape, axis);
  const { weight } = parameters;
  const where = `axis ${axis} of [${shape}]`;
  const training = reference.backwardTraining(dy, x, extents, { eps, weight });
  expectGradient(trainingGradient(whole), training, whole, `training over ${where}`);
  const frozen = reference.backwardFrozen(dy, x, extents, { eps, weight, ...statistics });
  expectGradient(frozenGradient(whole), frozen, whole, `frozen over ${where}`);
}

describe(`backward against the textbook (${seedNote})`, () => {
  eachShape(randomCase, expectTextbook);

  it('is the training gradient unless told otherwise, with axis 1 and eps 1e-5', () => {
    const whole = randomCase(new Random(), 'float32', [4, 3, 5], 1);
    const { x, dy, shape, parameters } = whole;
    const { mean, variance } = forwardTraining({ data: x, shape });
    const implied = backward({ data: dy, shape }, { data: x, shape }, { mean, variance, ...parameters });
    expectSameGradient(implied, trainingGradient(whole), 'defaults');
  });
});

describe(`backward against finite differences (${seedNote})`, () => {
  const step = 1e-5;
  const shapes = [
    { shape: [6, 4], axis: 1 },
    { shape: [3, 2, 5], axis: 1 },
    { shape: [2, 4, 3], axis: -1 },
    { shape: [3, 2, 2, 3], axis: 0 },
    { shape: [2, 3, 2, 2, 2], axis: -3 },
  ];

  /** The gradient of loss(values) by central differences. */
  function differences(values: Float64Array, loss: () => number): Float64Array {
    return values.map((value, i) => {
      values[i] = value + step;
      const above = loss();
      values[i] = value - step;
      const below = loss();
      values[i] = value;
      return (above - below) / (2 * step);
    });
  }

  for (const { shape, axis } of shapes) {
    it(`training and frozen gradients over [${shape}], channels on axis ${axis}`, () => {
      const random = new Random();
      const whole = randomCase(random, 'float64', shape, axis);
      const x = whole.x as Float64Array;
      const v = whole.dy as Float64Array;
      const weight = whole.parameters.weight as Float64Array;
      const bias = whole.parameters.bias as Float64Array;
      const options = { axis, eps, weight, bias };
      const functional = (y: FloatArray) => v.reduce((sum, value, i) => sum + value * y[i], 0);
      const training = () => functional(forwardTraining({ data: x, shape }, options).y.data);
      const frozen = () =>
        functional(forwardInference({ data: x, shape }, { ...options, ...whole.statistics }).data);

      for (const { name, loss, gradient } of [
        { name: 'training', loss: training, gradient: trainingGradient(whole) },
        { name: 'frozen', loss: frozen, gradient: frozenGradient(whole) },
      ]) {
        // The step's own error: step²·(third derivative) from above, 1e-16·(the functional)/step from below.
        for (const [values, actual, what] of [
          [x, gradient.dx.data, 'dx'],
          [weight, present(gradient.dWeight, 'dWeight'), 'dWeight'],
          [bias, present(gradient.dBias, 'dBias'), 'dBias'],
        ] as const) {
          const expected = differences(values, loss);
          expectClose(actual, expected, 1e-6 * largest(expected), `${name} ${what}`);
        }
      }
    });
  }
});

describe(`invariants of the training gradient (${seedNote})`, () => {
  eachKind('the sum of dx over each channel is 0', ({ dtype, layout }) => {
    const random = new Random();
    for (const positions of [1, 49, 3000]) {
      const whole = randomCase(random, dtype, layout.shape(17, 5, positions), layout.axis);
      const extents = extentsOf(whole.shape, whole.axis);
      const { dx } = trainingGradient(whole);
      for (let c = 0; c < extents.channels; c++) {
        const values = channelValues(dx.data, extents, c);
        const sum = values.reduce((total, value) => total + value, 0);
        const size = values.reduce((total, value) => total + Math.abs(value), 0);
        expect(size).toBeGreaterThan(0);
        expect(Math.abs(sum), `channel ${c}`).toBeLessThanOrEqual(rounding[dtype] * size);
      }
    }
  });

  eachKind('adding a constant to x leaves every gradient', ({ dtype, layout }) => {
    const random = new Random();
    const shape = layout.shape(5, 7, 200);
    const extents = extentsOf(shape, layout.axis);
    const length = sizeOf(extents);
    const whole = randomCase(random, dtype, shape, layout.axis);
    // Few enough bits for x + 512 to be exact.
    const x = generate(dtype, length, () => random.integer(-4096, 4096) / 1024);
    const { magnitude } = reference.backwardTraining(whole.dy, x, extents, { eps, ...whole.parameters });
    const here = trainingGradient({ ...whole, x });
    const there = trainingGradient({ ...whole, x: x.map((value: number) => value + 512) as FloatArray });
    const channelOf = channelAt(extents);
    const share = 2 * rounding[dtype];
    expectClose(there.dx.data, here.dx.data, (i) => share * magnitude.dx[channelOf(i)], 'dx');
    const dWeight = present(here.dWeight, 'dWeight');
    expectClose(present(there.dWeight, 'dWeight'), dWeight, (c) => share * magnitude.dWeight[c], 'dWeight');
    expectSame(present(there.dBias, 'dBias'), present(here.dBias, 'dBias'), 'dBias');
  });

  eachKind('variance 0 means r = 1/sqrt(eps), and no gradient to the weight', ({ dtype, layout }) => {
    const shape = layout.shape(4, 3, 40);
    const extents = extentsOf(shape, layout.axis);
    const whole = randomCase(new Random(), dtype, shape, layout.axis);
    const weight = present(whole.parameters.weight, 'weight');
    const x = fromChannels(dtype, extents, (c) => [0, 0.1, -1234.567][c]);
    const gradient = trainingGradient({ ...whole, x });
    expectSame(present(gradient.dWeight, 'dWeight'), zeros(dtype, 3), 'dWeight');
    for (let c = 0; c < extents.channels; c++) {
      const dy = channelValues(whole.dy, extents, c);
      const mean = dy.reduce((sum, value) => sum + value, 0) / dy.length;
      const scale = weight[c] / Math.sqrt(eps);
      expectClose(
        channelValues(gradient.dx.data, extents, c),
        dy.map((value) => scale * (value - mean)),
        rounding[dtype] * Math.abs(scale) * largest(dy),
        `dx of channel ${c}`,
      );
    }
  });

  it('one value per channel has dx = 0, dWeight = 0 and dBias = dy, exactly', () => {
    for (const dtype of dtypes) {
      for (const shape of [[1, 37], [1, 37, 1, 1], [37]]) {
        const whole = randomCase(new Random(), dtype, shape, shape.length === 1 ? 0 : 1);
        const { dx, dWeight, dBias } = trainingGradient(whole);
        expect(largest(dx.data), 'largest dx').toBe(0);
        expect(largest(present(dWeight, 'dWeight')), 'largest dWeight').toBe(0);
        expectSame(present(dBias, 'dBias'), whole.dy, 'dBias');
      }
    }
  });

  eachKind('an empty batch has empty dx and zero sums', ({ dtype, layout }) => {
    const { weight, bias } = randomParameters(new Random(), dtype, 3);
    const statistics = randomStatistics(new Random(), 3);
    for (const shape of [layout.shape(0, 3, 5), layout.shape(4, 3, 0)]) {
      for (const training of [true, false]) {
        const empty = { data: zeros(dtype, 0), shape };
        const options = { axis: layout.axis, ...statistics, weight, bias, training };
        const { dx, dWeight, dBias } = backward(empty, { data: zeros(dtype, 0), shape }, options);
        expect(dx.data).toHaveLength(0);
        expect(dx.shape).toEqual(shape);
        expectSame(present(dWeight, 'dWeight'), zeros(dtype, 3), 'dWeight');
        expectSame(present(dBias, 'dBias'), zeros(dtype, 3), 'dBias');
      }
    }
  });
});

describe(`what backward accepts and returns (${seedNote})`, () => {
  it('takes tensors that call their shape dims', () => {
    const { x, dy, shape, axis, parameters, statistics } = randomCase(new Random(), 'float32', [3, 5, 7], 1);
    const options = { axis, eps, ...parameters, ...statistics };
    expectSameGradient(
      backward({ data: dy, dims: shape }, { data: x, dims: shape }, options),
      backward({ data: dy, shape }, { data: x, shape }, options),
      'dims',
    );
  });

  eachKind('gives the same for parameters in either dtype', ({ dtype, layout }) => {
    const whole = randomCase(new Random(), dtype, layout.shape(4, 17, 9), layout.axis);
    const { weight, bias } = whole.parameters as Parameters;
    const { mean, variance } = whole.statistics;
    const parameters = { weight: Float32Array.from(weight), bias: Float32Array.from(bias) };
    const statistics = { mean: Float32Array.from(mean), variance: Float32Array.from(variance) };
    const inDoubles = {
      ...whole,
      parameters: { weight: Float64Array.from(parameters.weight), bias: Float64Array.from(parameters.bias) },
      statistics: {
        mean: Float64Array.from(statistics.mean),
        variance: Float64Array.from(statistics.variance),
      },
    };
    const inSingles = { ...whole, parameters, statistics };
    expectSameGradient(trainingGradient(inDoubles), trainingGradient(inSingles), 'training');
    expectSameGradient(frozenGradient(inDoubles), frozenGradient(inSingles), 'frozen');
  });

  eachKind('takes x, dy and out at any byte offset', ({ dtype, layout }) => {
    const random = new Random();
    const step = bytesPerValue[dtype];
    for (const shape of [layout.shape(2, 3, 37), layout.shape(3, 17, 5)]) {
      const whole = randomCase(random, dtype, shape, layout.axis);
      const training = trainingGradient(whole);
      const frozen = frozenGradient(whole);
      for (let xOffset = 0; xOffset < 64; xOffset += step) {
        const x = atOffset(whole.x, xOffset);
        for (let dyOffset = 0; dyOffset < 64; dyOffset += step) {
          const outOffset = (3 * xOffset + 5 * dyOffset) % 64;
          const moved = { ...whole, x, dy: atOffset(whole.dy, dyOffset) };
          const what = `x at byte ${xOffset}, dy at byte ${dyOffset}, out at byte ${outOffset}`;
          for (const { gradient, expected } of [
            { gradient: trainingGradient, expected: training },
            { gradient: frozenGradient, expected: frozen },
          ]) {
            const out = guarded(dtype, x.length, outOffset);
            const actual = gradient(moved, out.view);
            expect(actual.dx.data).toBe(out.view);
            expectSameGradient(actual, expected, what);
            out.expectIntact();
          }
        }
      }
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
      const copied = {
        ...whole,
        x: copy(whole.x),
        dy: copy(whole.dy),
        parameters: { weight: copy(weight), bias: copy(bias) },
        statistics: { mean: copy(mean), variance: copy(variance) },
      };
      const out = copy(zeros(dtype, whole.x.length));
      expectSameGradient(trainingGradient(copied), trainingGradient(whole), `training, ${memory}`);
      const actual = frozenGradient(copied, out);
      expect(actual.dx.data).toBe(out);
      expectSameGradient(actual, frozenGradient(whole), `frozen, ${memory}`);
    });
  }

  eachKind('writes into out = dy.data what it writes elsewhere', ({ dtype, layout }) => {
    const random = new Random();
    for (const positions of [1, 49, 1000, 9000]) {
      const whole = randomCase(random, dtype, layout.shape(3, 5, positions), layout.axis);
      for (const gradient of [trainingGradient, frozenGradient]) {
        const dy = whole.dy.slice();
        const inPlace = gradient({ ...whole, dy }, dy);
        expect(inPlace.dx.data).toBe(dy);
        expectSameGradient(inPlace, gradient(whole), `${gradient.name} in place over [${whole.shape}]`);
      }
    }
  });

  eachKind('writes every value of out and no byte beside it', ({ dtype, layout }) => {
    const random = new Random();
    const sizes = [...Array.from({ length: 70 }, (_, i) => i + 1), 1000, 4097, 8193];
    for (const size of sizes) {
      for (const shape of [layout.shape(1, 1, size), layout.shape(2, 3, size), layout.shape(2, size, 3)]) {
        const whole = randomCase(random, dtype, shape, layout.axis);
        for (const gradient of [trainingGradient, frozenGradient]) {
          const out = guarded(dtype, whole.x.length);
          const actual = gradient(whole, out.view);
          out.expectIntact();
          expectSameGradient(actual, gradient(whole), `${gradient.name} over [${shape}]`);
        }
      }
    }
  });

  eachKind('leaves its inputs as they were', ({ dtype, layout }) => {
    const whole = randomCase(new Random(), dtype, layout.shape(3, 17, 50), layout.axis);
    const { x, dy, parameters, statistics } = whole;
    expectUnmodified({ x, dy, ...parameters, ...statistics }, () => trainingGradient(whole));
    expectUnmodified({ x, dy, ...parameters, ...statistics }, () => frozenGradient(whole));
  });

  eachKind('is right for tensors beyond the caches, at odd addresses', ({ dtype, layout }) => {
    const random = new Random();
    const shape = beyondCaches(dtype, layout);
    const extents = extentsOf(shape, layout.axis);
    const length = sizeOf(extents);
    const noise = randomNormals(random, dtype, 65_537);
    const x = generate(dtype, length, (i) => noise[i % noise.length]);
    const dy = generate(dtype, length, (i) => noise[(3 * i + 1) % noise.length]);
    const parameters = randomParameters(random, dtype, extents.channels);
    const whole = { x, dy, shape, axis: layout.axis, parameters, statistics: randomStatistics(random, 13) };
    const expected = reference.backwardTraining(dy, x, extents, { eps, ...parameters });
    const out = guarded(dtype, length, 24);
    expectGradient(trainingGradient(whole, out.view), expected, whole, 'training');
    out.expectIntact();
    out.view.fill(Number.NaN);
    const frozen = reference.backwardFrozen(dy, x, extents, { eps, ...parameters, ...whole.statistics });
    expectGradient(frozenGradient(whole, out.view), frozen, whole, 'frozen');
    out.expectIntact();
  });
});
