// Any shape, axis, groups and options: the textbook, and the bits of other ways to the same result.
import fc from 'fast-check';
import { describe, expect } from 'vitest';
import { type DType, setThreads, type TensorArray, threads } from '../../lib/index.js';
import { holds } from '../support/fuzz.js';
import { expectRounded, type Half, halves } from '../support/half.js';
import {
  allDtypes,
  type Drawn,
  drawFor,
  type Fusion,
  fusedOptions,
  fusions,
  goBack,
  layerOf,
  type NormGradients,
  normalize,
  numbersOf,
  passOf,
  type Values,
} from '../support/norm-cases.js';
import { largestOfRow, type Norm, normBackward, normForward, placesOf } from '../support/norm-reference.js';
import { Random } from '../support/random.js';
import { expectClose, expectSame, type FloatDType } from '../support/tensors.js';

const promised = { float32: 2e-6, float64: 1e-11 } as const;

const dimension = fc.oneof(
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 9 }) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 70 }) },
);

/** Of at most so many values that the textbook is quick; the last dimensions may be long. */
const shape = fc
  .tuple(fc.array(dimension, { minLength: 1, maxLength: 5 }), fc.integer({ min: 1, max: 3000 }), fc.nat(9))
  .map(([sizes, long, at]) => (at < sizes.length ? sizes.with(at, long) : sizes))
  .filter((sizes) => sizes.reduce((product, size) => product * size, 1) <= 30_000);

const divisorsOf = (channels: number) =>
  Array.from({ length: channels }, (_, i) => i + 1).filter((groups) => channels % groups === 0);

const norm: fc.Arbitrary<Norm> = shape.chain((sizes): fc.Arbitrary<Norm> => {
  const rank = sizes.length;
  const axis = fc.integer({ min: -rank, max: rank - 1 });
  const dimensions = fc.integer({ min: 1, max: rank });
  const group = axis.chain((at) =>
    fc
      .constantFrom(...divisorsOf(sizes.at(at) as number))
      .map((groups): Norm => ({ kind: 'group', shape: sizes, axis: at, groups })),
  );
  const over = (kind: 'layer' | 'rms') =>
    dimensions.map((count): Norm => ({ kind, shape: sizes, dimensions: count }));
  const instances = Array.from(
    { length: 2 * rank },
    (_, i): Norm => ({ kind: 'instance', shape: sizes, axis: i - rank }),
  ).filter(hasManyValues);
  const choices = [group, over('layer'), over('rms')];
  return fc.oneof(...choices, ...(instances.length > 0 ? [fc.constantFrom(...instances)] : []));
});

/** Which instance norm wants. */
function hasManyValues(one: Norm): boolean {
  const { row, rows } = placesOf(one);
  return row.length > rows;
}

interface Case {
  norm: Norm;
  fusion: Fusion;
  seed: number;
  threads: number;
  eps: number;
  hasWeight: boolean;
  hasBias: boolean;
  inPlace: boolean;
}

const anyCase: fc.Arbitrary<Case> = fc.record({
  norm,
  fusion: fc.constantFrom(...fusions),
  seed: fc.nat(2 ** 30),
  threads: fc.integer({ min: 1, max: 5 }),
  eps: fc.constantFrom(1e-5, 1e-3, 1, 1e-12),
  hasWeight: fc.boolean(),
  hasBias: fc.boolean(),
  inPlace: fc.boolean(),
});

function drawn({ norm: one, seed }: Case, dtype: DType): Drawn {
  return drawFor(new Random(0, seed), one, dtype);
}

function optionsOf({ fusion, eps, hasWeight, hasBias }: Case, values: Drawn, dtype: DType) {
  const { weight, bias, ...rest } = fusedOptions(fusion, values, dtype);
  return { ...rest, eps, ...(hasWeight ? { weight } : {}), ...(hasBias ? { bias } : {}) };
}

function arraysOf(y: Values, { dx, dWeight, dBias, dResidual }: NormGradients): Record<string, TensorArray> {
  const arrays = { y: y.data, dx: dx.data, dWeight, dBias, dResidual: dResidual?.data };
  return Object.fromEntries(
    Object.entries(arrays).filter((entry): entry is [string, TensorArray] => entry[1] !== undefined),
  );
}

function passes(one: Case, values: Drawn, dtype: DType): Record<string, TensorArray> {
  const options = optionsOf(one, values, dtype);
  const copy = ({ data, shape: sizes }: Values) => ({ data: data.slice(), shape: sizes });
  const [x, dy] = [copy(values.x), copy(values.dy)];
  const gradients = goBack(one.norm, dy, x, one.inPlace ? { ...options, out: dy.data } : options);
  const { y } = normalize(one.norm, x, one.inPlace ? { ...options, out: x.data } : options);
  return arraysOf(y, gradients);
}

function expectTextbook(one: Case, dtype: FloatDType): void {
  const values = drawn(one, dtype);
  const actual = passes(one, values, dtype) as Record<string, Float64Array>;
  const options = optionsOf(one, values, dtype);
  const pass = { ...passOf(one.norm, dtype, values.x, one.eps, options), gate: actual.y };
  const { y, magnitude } = normForward(pass);
  const places = placesOf(one.norm);
  // Rows of few values, which may hardly vary, are differences of large ones.
  const sizeOfY = largestOfRow(places, magnitude);
  expectClose(actual.y, y, (i) => promised[dtype] * sizeOfY[i], 'y');
  const expected = normBackward(pass, values.dy.data as Float64Array);
  const sizeOfDx = largestOfRow(places, expected.magnitude.dx);
  expectClose(actual.dx, expected.dx, (i) => promised[dtype] * sizeOfDx[i], 'dx');
  for (const name of ['dWeight', 'dBias'] as const)
    if (actual[name])
      expectClose(actual[name], expected[name], (i) => promised[dtype] * expected.magnitude[name][i], name);
  if (actual.dResidual) expectClose(actual.dResidual, expected.dResidual, 0, 'dResidual');
}

const atStart = threads();

/** With so many threads, and as many as before after it. */
function withThreads(count: number, run: () => void): void {
  setThreads(count);
  try {
    run();
  } finally {
    setThreads(atStart);
  }
}

describe('group, instance, layer and RMS norm of anything', () => {
  for (const dtype of ['float32', 'float64'] as const)
    holds(`are the textbook's: ${dtype}`, 150, () =>
      fc.property(anyCase, (one) => {
        withThreads(one.threads, () => expectTextbook(one, dtype));
        return true;
      }),
    );

  for (const half of halves)
    holds(`are those of float32, rounded once: ${half}`, 100, () =>
      fc.property(anyCase, (one) => {
        const values = drawn(one, half);
        const wide = ({ data, shape: sizes }: Values) => ({
          data: numbersOf(half, data) as Float32Array,
          shape: sizes,
        });
        const { x, dy, residual } = values;
        const floats = { ...values, x: wide(x), dy: wide(dy), residual: wide(residual) };
        const [actual, expected] = [passes(one, values, half), passes(one, floats, 'float32')];
        for (const [name, array] of Object.entries(expected))
          if (name === 'dWeight' || name === 'dBias') expectSame(actual[name], array, name);
          else expectRounded(half as Half, actual[name], array, name);
        return true;
      }),
    );

  holds('have the same bits whatever way they are asked for', 100, () =>
    fc.asyncProperty(anyCase, fc.constantFrom(...allDtypes), async (one, dtype) => {
      const values = drawn(one, dtype);
      const { fusion, eps, hasWeight } = one;
      const hasBias = one.hasBias && one.norm.kind !== 'rms';
      let expected: Record<string, TensorArray> = {};
      withThreads(one.threads, () => {
        expected = passes({ ...one, hasBias }, values, dtype);
      });
      const layer = layerOf(one.norm, {
        dtype,
        eps,
        weight: hasWeight,
        bias: hasBias,
        activation: fusion.activation,
      });
      layer.weight?.set(values.weight);
      layer.bias?.set(values.bias);
      const run = fusion.hasResidual ? { residual: values.residual } : {};
      const results: [Values, NormGradients][] = [[layer.forward(values.x, run), layer.backward(values.dy)]];
      results.push(await Promise.all([layer.forwardAsync(values.x, run), layer.backwardAsync(values.dy)]));
      for (const [y, gradients] of results)
        for (const [name, array] of Object.entries(arraysOf(y, gradients)))
          expectSame(array, expected[name] ?? array, name);
      expect(layer.weight === null || layer.weight === undefined).toBe(!hasWeight);
      expectSame(layer.freeze().run(values.x, run).data, expected.y, 'what is frozen');
      return true;
    }),
  );
});
