// Gradients by differences, and what holds of them whatever the data.
import { describe, expect, it } from 'vitest';
import {
  type Drawn,
  drawFor,
  fusedOptions,
  fusions,
  goBack,
  layerOf,
  normalize,
  parameterDtype,
  smallNorms,
  titleOf,
} from '../support/norm-cases.js';
import { type Norm, placesOf, productOf } from '../support/norm-reference.js';
import { Random, seedNote } from '../support/random.js';
import {
  differenceOf,
  dtypes,
  expectClose,
  expectSame,
  type FloatDType,
  generate,
  largest,
  typed,
  zeros,
} from '../support/tensors.js';

const eps = 1e-3;
const rounding = { float32: 2e-6, float64: 1e-11 } as const;

const each = smallNorms.map((norm, index) => ({ norm, index, title: titleOf(norm) }));
const eachDtype = dtypes.flatMap((dtype) => each.map((one) => ({ ...one, dtype })));

/** The sum over each row. */
function rowSums(norm: Norm, term: (index: number) => number): Float64Array {
  const { row, rows } = placesOf(norm);
  const sums = new Float64Array(rows);
  row.forEach((at, i) => {
    sums[at] += term(i);
  });
  return sums;
}

/** A residual with which no value lies so near to 0 that a step of the differences could take it across. */
function keepFromKinks(norm: Norm, drawn: Drawn): void {
  const { x, residual, weight, bias } = drawn;
  const { y } = normalize(norm, x, { eps, weight, bias, residual });
  y.data.forEach((value: number, i: number) => {
    if (Math.abs(value) < 0.1) residual.data[i] += value < 0 ? -0.2 : 0.2;
  });
}

describe(`gradients are those by differences: (${seedNote})`, () => {
  for (const { norm, index, title } of each)
    it.each(fusions)(`${title}, $fused`, (fusion) => {
      const drawn = drawFor(new Random(index), norm, 'float64');
      keepFromKinks(norm, drawn);
      // Without a residual what would be at a kink is not asked for.
      const { x, dy, weight, bias, residual } = drawn;
      // A weight of 0 is one like any other.
      weight[0] = 0;
      const options = { ...fusedOptions(fusion, drawn, 'float64'), eps };
      const near = normalize(norm, x, { ...options, activation: undefined }).y.data.map((value: number) =>
        Number(Math.abs(value) < 0.01),
      );
      if (fusion.activation)
        near.forEach((isNear: number, i: number) => {
          if (isNear) dy.data[i] = 0;
        });
      const loss = () => {
        const { y } = normalize(norm, x, options);
        let sum = 0;
        for (let i = 0; i < y.data.length; i++) sum += dy.data[i] * y.data[i];
        return sum;
      };
      const difference = differenceOf(loss);
      const { dx, dWeight, dBias, dResidual } = goBack(norm, dy, x, options);
      const inputs = [
        ['x', x.data, dx.data],
        ['weight', weight, dWeight],
        ...(norm.kind === 'rms' ? [] : [['bias', bias, dBias]]),
        ...(fusion.hasResidual ? [['residual', residual.data, dResidual?.data]] : []),
      ] as [string, Float64Array, Float64Array][];
      for (const [name, values, gradient] of inputs) {
        const expected = Float64Array.from(values, (_, i) => difference(values, i));
        expectClose(gradient, expected, 1e-6 * (1 + largest(expected)), `the gradient of ${name}`);
      }
    });
});

describe(`what holds of every row: (${seedNote})`, () => {
  const tolerance = (dtype: FloatDType, norm: Norm, dx: ArrayLike<number>) =>
    (4 * rounding[dtype] * largest(dx) * productOf(norm.shape)) / placesOf(norm).rows;

  it.each(eachDtype.filter(({ norm }) => norm.kind !== 'rms'))(
    'dx adds up to 0, whatever the weight: $title, $dtype',
    ({ norm, dtype, index }) => {
      const { x, dy, weight } = drawFor(new Random(index), norm, dtype);
      for (const given of [undefined, weight]) {
        const { dx } = goBack(norm, dy, x, { eps, weight: given });
        expect(largest(dx.data)).toBeGreaterThan(0);
        const sums = rowSums(norm, (i) => dx.data[i] as number);
        expectClose(sums, new Float64Array(sums.length), tolerance(dtype, norm, dx.data), 'the sum of dx');
      }
    },
  );

  it.each(eachDtype)('dx is orthogonal to x̂ where eps is small: $title, $dtype', ({ norm, dtype, index }) => {
    const { x, dy, weight } = drawFor(new Random(index), norm, dtype);
    const { dx } = goBack(norm, dy, x, { eps: 1e-14, weight });
    const { y } = normalize(norm, x, { eps: 1e-14 });
    const sums = rowSums(norm, (i) => (dx.data[i] as number) * (y.data[i] as number));
    // Of rows that hardly vary dx is the difference of large values.
    const allowed = 20 * tolerance(dtype, norm, dx.data) + 1e-6 * rounding[dtype];
    expectClose(sums, new Float64Array(sums.length), allowed, 'the sum of dx·x̂');
  });

  it.each(eachDtype.filter(({ norm }) => norm.kind !== 'rms'))(
    'a constant added to x changes nothing: $title, $dtype',
    ({ norm, dtype, index }) => {
      const { x, dy, weight, bias } = drawFor(new Random(index), norm, dtype);
      // Multiples of 1/16: the sum with the constant is exact.
      const data = generate(dtype, x.data.length, (i) => Math.round((x.data[i] as number) * 16) / 16);
      const moved = { data: data.map((value) => value + 96), shape: x.shape };
      const given = { data, shape: x.shape };
      const options = { eps, weight, bias };
      const y = normalize(norm, given, options).y.data as ArrayLike<number>;
      expectClose(
        normalize(norm, moved, options).y.data as ArrayLike<number>,
        y,
        rounding[dtype] * largest(y),
        'y',
      );
      const dx = goBack(norm, dy, given, options).dx.data as ArrayLike<number>;
      const size = rounding[dtype] * largest(dx) * 8;
      expectClose(goBack(norm, dy, moved, options).dx.data as ArrayLike<number>, dx, size, 'dx');
    },
  );

  it.each(eachDtype)(
    'x times a power of two, eps with it, changes no bit of y: $title, $dtype',
    ({ norm, dtype, index }) => {
      const { x, dy, weight, bias } = drawFor(new Random(index), norm, dtype);
      const larger = {
        data: generate(dtype, x.data.length, (i) => 4 * (x.data[i] as number)),
        shape: x.shape,
      };
      const options = { weight, bias };
      const small = normalize(norm, x, { ...options, eps: 2 ** -10 }).y.data;
      expectSame(normalize(norm, larger, { ...options, eps: 2 ** -6 }).y.data, small, 'y');
      const { dx } = goBack(norm, dy, x, { ...options, eps: 2 ** -10 });
      const quarter = goBack(norm, dy, larger, { ...options, eps: 2 ** -6 }).dx.data as ArrayLike<number>;
      expectSame(
        generate(dtype, quarter.length, (i) => 4 * quarter[i]),
        dx.data,
        'dx',
      );
    },
  );

  it.each(eachDtype.filter(({ norm }) => norm.kind !== 'rms'))(
    'a constant row gives the bias, exactly: $title, $dtype',
    ({ norm, dtype, index }) => {
      const { dy, weight, bias } = drawFor(new Random(index), norm, dtype);
      const { row, parameter } = placesOf(norm);
      const data = generate(dtype, row.length, (i) => 1e4 + 0.1 * row[i]);
      const { y } = normalize(norm, { data, shape: norm.shape }, { eps, weight, bias });
      expectSame(
        y.data,
        generate(dtype, row.length, (i) => bias[parameter[i]] as number),
        'y',
      );
      const { dx, dWeight } = goBack(norm, dy, { data, shape: norm.shape }, { eps, weight, bias });
      expect(dx.data.every(Number.isFinite)).toBe(true);
      expectSame(
        dWeight ?? [],
        zeros(dtype, weight.length).map((zero) => zero + 0),
        'dWeight',
      );
    },
  );

  it.each(eachDtype)(
    'a weight of 0 hides no gradient of its own: $title, $dtype',
    ({ norm, dtype, index }) => {
      const { x, dy, weight } = drawFor(new Random(index), norm, dtype);
      const expected = goBack(norm, dy, x, { eps, weight });
      const { dx, dWeight } = goBack(norm, dy, x, { eps, weight: zeros(dtype, weight.length) });
      expectSame(dWeight ?? [], expected.dWeight ?? [], 'dWeight');
      expect(largest(dWeight ?? [])).toBeGreaterThan(0);
      expect(largest(dx.data)).toBe(0);
    },
  );

  it.each(eachDtype)('another row changes no bit of it: $title, $dtype', ({ norm, dtype, index }) => {
    const { x, dy, weight, bias } = drawFor(new Random(index), norm, dtype);
    const { row } = placesOf(norm);
    const of = (data: ArrayLike<number>, at: number) => Array.from(data).filter((_, i) => row[i] === at);
    const last = row[row.length - 1];
    const other = { data: typed(dtype, x.data as Float32Array), shape: x.shape };
    row.forEach((at, i) => {
      if (at !== last) other.data[i] = i % 3 ? Number.NaN : Number.POSITIVE_INFINITY;
    });
    const options = { eps, weight, bias };
    const [alone, beside] = [x, other].map((input) => {
      const { y } = normalize(norm, input, options);
      const { dx } = goBack(norm, dy, input, options);
      return [y, dx].map(({ data }) => of(data as Float32Array, last));
    });
    expectSame(beside[0], alone[0], 'y');
    expectSame(beside[1], alone[1], 'dx');
  });
});

const single: Norm[] = [
  { kind: 'group', shape: [3, 4], axis: 1, groups: 4 },
  { kind: 'group', shape: [3, 4, 1, 1], axis: 1, groups: 4 },
  { kind: 'group', shape: [2, 1, 3], axis: -1, groups: 3 },
  { kind: 'layer', shape: [5, 1], dimensions: 1 },
  { kind: 'layer', shape: [2, 1, 1], dimensions: 2 },
];

describe(`rows of one value (${seedNote})`, () => {
  const cases = single.flatMap((norm) => dtypes.map((dtype) => ({ norm, dtype, title: titleOf(norm) })));

  it.each(cases)('give the bias, and no gradient but of that: $title, $dtype', ({ norm, dtype }) => {
    const { x, dy, weight, bias } = drawFor(new Random(), norm, dtype);
    const { parameter, parameters } = placesOf(norm);
    const { y } = normalize(norm, x, { weight, bias });
    expectSame(
      y.data,
      generate(dtype, x.data.length, (i) => bias[parameter[i]] as number),
      'y',
    );
    const { dx, dWeight, dBias } = goBack(norm, dy, x, { weight, bias });
    expect(largest(dx.data)).toBe(0);
    expect(largest(dWeight ?? [0])).toBe(0);
    const sums = zeros('float64', parameters);
    parameter.forEach((at, i) => {
      sums[at] += dy.data[i] as number;
    });
    expectClose(dBias ?? [], sums, 4 * rounding[dtype], 'dBias');
  });

  it.each(dtypes)('are divided by their size in RMS norm, %s', (dtype) => {
    const x = { data: typed(dtype, [3, -4, 0]), shape: [3, 1] };
    const norm: Norm = { kind: 'rms', shape: x.shape, dimensions: 1 };
    const expected = [3 / Math.sqrt(9.25), -4 / Math.sqrt(16.25), 0];
    const weight = typed(parameterDtype(dtype), [2]);
    const { y } = normalize(norm, x, { eps: 0.25, weight });
    expectClose(
      y.data,
      expected.map((value) => 2 * value),
      4 * rounding[dtype],
      'y',
    );
  });

  it.each(['float32', 'float64', 'bfloat16', 'float16'] as const)(
    'have nothing to be normalized by in instance norm, %s: an error',
    (dtype) => {
      const norm: Norm = { kind: 'instance', shape: [3, 4, 1], axis: 1 };
      const { x } = drawFor(new Random(), norm, dtype);
      expect(() => layerOf(norm, { dtype }).forward(x)).toThrow(
        expect.objectContaining({ code: 'ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL' }),
      );
    },
  );
});
