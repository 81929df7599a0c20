// Forward and backward of each norm against the textbook, to what is promised.
import { describe, expect, it } from 'vitest';
import {
  allNorms,
  type Drawn,
  drawFor,
  type Fusion,
  fusedOptions,
  fusions,
  goBack,
  layerOf,
  normalize,
  normKinds,
  passOf,
  smallNorms,
  titleOf,
  type Values,
} from '../support/norm-cases.js';
import {
  largestOfRow,
  type Norm,
  normBackward,
  normForward,
  placesOf,
  productOf,
} from '../support/norm-reference.js';
import { Random, seedNote } from '../support/random.js';
import { dtypes, expectClose, expectSame, type FloatDType, typed } from '../support/tensors.js';

const eps = 1e-5;

/** Of float32 as docs/promises.md has it. */
const promised = { float32: 2e-6, float64: 1e-11 } as const;

function expectForward(
  norm: Norm,
  dtype: FloatDType,
  x: Values,
  options: object,
  actual: ReturnType<typeof normalize>,
): void {
  const expected = normForward(passOf(norm, dtype, x, eps, options));
  const size = largestOfRow(placesOf(norm), expected.magnitude);
  const { y, mean, variance } = actual;
  expect(y.shape).toEqual(norm.shape);
  expectClose(y.data, expected.y, (i) => promised[dtype] * size[i], 'y');
  if (mean && norm.kind !== 'rms')
    expectClose(
      mean,
      expected.mean,
      (row) => 1e-6 * (Math.abs(expected.mean[row]) + Math.sqrt(expected.variance[row])),
      'mean',
    );
  if (variance) expectClose(variance, expected.variance, (row) => 1e-6 * expected.variance[row], 'variance');
}

function expectBackward(
  norm: Norm,
  dtype: FloatDType,
  { x, dy }: Drawn,
  options: { activation?: string; residual?: Values; weight?: unknown; bias?: unknown },
  y: Values,
  actual: ReturnType<typeof goBack>,
): void {
  const { dx, dWeight, dBias, dResidual } = actual;
  const pass = { ...passOf(norm, dtype, x, eps, options), gate: y.data };
  const expected = normBackward(pass, dy.data);
  const size = largestOfRow(placesOf(norm), expected.magnitude.dx);
  expect(dx.shape).toEqual(norm.shape);
  expectClose(dx.data, expected.dx, (i) => promised[dtype] * size[i], 'dx');
  const { magnitude } = expected;
  if (dWeight)
    expectClose(dWeight, expected.dWeight, (i) => promised[dtype] * magnitude.dWeight[i], 'dWeight');
  if (dBias) expectClose(dBias, expected.dBias, (i) => promised[dtype] * magnitude.dBias[i], 'dBias');
  if (options.residual) expectSame((dResidual as Values).data, typed(dtype, expected.dResidual), 'dResidual');
  else expect(dResidual).toBeUndefined();
}

function expectTextbook(norm: Norm, dtype: FloatDType, fusion: Fusion, drawn: Drawn): void {
  const options = { ...fusedOptions(fusion, drawn, dtype), eps };
  const forward = normalize(norm, drawn.x, options);
  expectForward(norm, dtype, drawn.x, options, forward);
  const gradients = goBack(norm, drawn.dy, drawn.x, options);
  expect(gradients.dWeight).toHaveLength(placesOf(norm).parameters);
  if (norm.kind === 'rms') expect(gradients.dBias).toBeUndefined();
  else expect(gradients.dBias).toHaveLength(placesOf(norm).parameters);
  expectBackward(norm, dtype, drawn, options, forward.y, gradients);
}

it('there are norms of each kind, both layouts among them', () => {
  for (const kind of normKinds)
    expect(smallNorms.filter((norm) => norm.kind === kind).length).toBeGreaterThan(2);
  for (const axis of [0, 1, -1, 2])
    for (const kind of ['group', 'instance'])
      expect(allNorms.some((norm) => norm.kind === kind && norm.axis === axis)).toBe(true);
});

describe(`the textbook is met by (${seedNote})`, () => {
  for (const dtype of dtypes)
    for (const [index, norm] of allNorms.entries())
      it.each(fusions)(`${titleOf(norm)}, ${dtype}, $fused`, (fusion) => {
        expectTextbook(norm, dtype, fusion, drawFor(new Random(index), norm, dtype));
      });
});

describe(`the textbook is met, whatever parameters there are, by (${seedNote})`, () => {
  for (const dtype of dtypes)
    for (const [index, norm] of smallNorms.entries())
      it(`${titleOf(norm)}, ${dtype}`, () => {
        const drawn = drawFor(new Random(index), norm, dtype);
        const { x, dy, weight, bias } = drawn;
        for (const given of [{ weight }, { bias }, {}, { weight: null, bias: null }])
          for (const activation of [undefined, 'relu']) {
            const options = { eps, activation, ...given };
            const forward = normalize(norm, x, options);
            expectForward(norm, dtype, x, options, forward);
            expectBackward(norm, dtype, drawn, options, forward.y, goBack(norm, dy, x, options));
          }
      });
});

describe(`a layer gives the bits of the functions: (${seedNote})`, () => {
  for (const dtype of dtypes)
    for (const [index, norm] of smallNorms.entries())
      it.each(fusions)(`${titleOf(norm)}, ${dtype}, $fused`, (fusion) => {
        const drawn = drawFor(new Random(index), norm, dtype);
        const options = { ...fusedOptions(fusion, drawn, dtype), eps };
        const layer = layerOf(norm, { dtype, eps, activation: fusion.activation });
        layer.weight.set(drawn.weight);
        layer.bias?.set(drawn.bias);
        const { residual } = options;
        const y = layer.forward(drawn.x, { residual });
        expectSame(y.data, normalize(norm, drawn.x, options).y.data, 'y');
        const expected = goBack(norm, drawn.dy, drawn.x, options);
        const actual = layer.backward(drawn.dy);
        expectSame(actual.dx.data, expected.dx.data, 'dx');
        for (const name of ['dWeight', 'dBias'] as const) {
          expect(actual[name] === undefined).toBe(expected[name] === undefined);
          if (expected[name]) expectSame(actual[name], expected[name], name);
        }
        if (expected.dResidual) expectSame(actual.dResidual.data, expected.dResidual.data, 'dResidual');
      });
});

describe('sizes around powers of two are right:', () => {
  const sizes = Array.from({ length: 10 }, (_, k) => [
    2 ** (k + 1) - 1,
    2 ** (k + 1),
    2 ** (k + 1) + 1,
  ]).flat();
  const shapes: Record<string, (size: number) => Norm> = {
    'rows of layer norm': (size) => ({ kind: 'layer', shape: [3, size], dimensions: 1 }),
    'rows of RMS norm': (size) => ({ kind: 'rms', shape: [3, size], dimensions: 1 }),
    'how many rows of layer norm': (size) => ({ kind: 'layer', shape: [size, 5], dimensions: 1 }),
    'planes of group norm': (size) => ({ kind: 'group', shape: [2, 4, size], axis: 1, groups: 2 }),
    'places of group norm, channels last': (size) => ({
      kind: 'group',
      shape: [2, size, 6],
      axis: -1,
      groups: 2,
    }),
    'channels of a group': (size) => ({ kind: 'group', shape: [2, 2 * size, 3], axis: 1, groups: 2 }),
    'channels of a group, last': (size) => ({ kind: 'group', shape: [2, 3, 2 * size], axis: -1, groups: 2 }),
    'planes of instance norm': (size) => ({ kind: 'instance', shape: [2, 3, size], axis: 1 }),
    'channels of instance norm, last': (size) => ({ kind: 'instance', shape: [2, 5, size], axis: -1 }),
  };
  for (const [name, normFor] of Object.entries(shapes))
    it.each(dtypes)(`${name}, %s, ${seedNote}`, (dtype) => {
      for (const size of sizes) {
        const norm = normFor(size);
        if (norm.kind === 'instance' && productOf(norm.shape.slice(2)) < 2) continue;
        expectTextbook(norm, dtype, fusions[size % 4], drawFor(new Random(size), norm, dtype));
      }
    });
});
