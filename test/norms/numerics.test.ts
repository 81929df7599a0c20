// Data on which statistics in float32 lose digits, in each norm and layout.
import { describe, expect, it } from 'vitest';
import { kinds as dataKinds, type Numbers } from '../support/data.js';
import { drawFor, goBack, normalize, passOf, titleOf } from '../support/norm-cases.js';
import { largestOfRow, type Norm, normBackward, normForward, placesOf } from '../support/norm-reference.js';
import { Random, seedNote } from '../support/random.js';
import { dtypes, expectClose, expectSame, type FloatDType, generate, largest } from '../support/tensors.js';

const eps = 1e-12;
const float32Largest = (2 - 2 ** -23) * 2 ** 127;
const promised = { float32: 2e-6, float64: 1e-11 } as const;

/** Rows that are long enough to lose digits, in each layout; few of them, for the textbook is slow. */
const norms: readonly Norm[] = [
  { kind: 'group', shape: [2, 4, 3000], axis: 1, groups: 2 },
  { kind: 'group', shape: [1, 32, 7, 7], axis: 1, groups: 4 },
  { kind: 'group', shape: [2, 900, 12], axis: -1, groups: 3 },
  { kind: 'group', shape: [1, 400, 64], axis: -1, groups: 1 },
  { kind: 'group', shape: [2, 40, 3, 2], axis: 1, groups: 4 },
  { kind: 'instance', shape: [1, 3, 9000], axis: 1 },
  { kind: 'instance', shape: [1, 2500, 5], axis: -1 },
  { kind: 'layer', shape: [9, 768], dimensions: 1 },
  { kind: 'layer', shape: [20, 64], dimensions: 1 },
  { kind: 'layer', shape: [2, 9001], dimensions: 1 },
  { kind: 'layer', shape: [2, 30, 40], dimensions: 2 },
  { kind: 'rms', shape: [9, 768], dimensions: 1 },
  { kind: 'rms', shape: [2, 9001], dimensions: 1 },
];

const titled = norms.map((norm) => ({ norm, title: titleOf(norm) }));

/** A tensor from the value at a place of a row. */
function fromRows(
  norm: Norm,
  dtype: FloatDType,
  value: (place: number, row: number, count: number) => number,
) {
  const { row, rows } = placesOf(norm);
  const next = new Uint32Array(rows);
  const count = row.length / rows;
  const data = generate(dtype, row.length, (i) => value(next[row[i]]++, row[i], count));
  return { data, shape: norm.shape };
}

/** Against the textbook to what is promised: y and dx by the largest of their row, or where there are few different values dx by r·max|dy·weight|. */
function expectAccurate(
  norm: Norm,
  dtype: FloatDType,
  x: ReturnType<typeof fromRows>,
  random: Random,
  { few = false, activation }: { few?: boolean; activation?: 'relu' } = {},
): void {
  const { dy, weight } = drawFor(random, norm, dtype);
  const places = placesOf(norm);
  const options = { eps, weight, activation };
  const pass = passOf(norm, dtype, x, eps, options);
  const plain = normForward({ ...pass, relu: false });
  const expectedY = normForward(pass).y;
  const y = normalize(norm, x, options).y.data as ArrayLike<number>;
  const largestY = largestOfRow(places, plain.y);
  // Half an ulp of the mean is a share of a deviation that double cannot do without.
  const ulps = dtype === 'float64' ? (2 ** -52 * largest(x.data)) / Math.sqrt(leastVariance(plain)) : 0;
  const allowed = promised[dtype] + 4 * ulps;
  expectClose(y, expectedY, (i) => allowed * largestY[i], 'y');
  const expected = normBackward({ ...pass, gate: y }, dy.data as ArrayLike<number>);
  const { dx, dWeight, dBias } = goBack(norm, dy, x, options);
  const { row, parameter } = places;
  const terms = expected.dResidual.map(
    (value, i) => (value * (weight[parameter[i]] as number)) / Math.sqrt(plain.variance[row[i]] + eps),
  );
  const largestDx = largestOfRow(places, expected.dx);
  const largestTerm = largestOfRow(places, terms);
  const sizeOfDx = (i: number) => Math.max(largestDx[i], few ? largestTerm[i] : 0);
  expectClose(dx.data as ArrayLike<number>, expected.dx, (i) => allowed * sizeOfDx(i), 'dx');
  const { magnitude } = expected;
  expectClose(dWeight ?? [], expected.dWeight, (i) => allowed * magnitude.dWeight[i], 'dWeight');
  if (dBias) expectClose(dBias, expected.dBias, (i) => allowed * magnitude.dBias[i], 'dBias');
}

function leastVariance({ variance }: ReturnType<typeof normForward>): number {
  const variances = Array.from(variance).filter((value) => value > 0);
  return Math.min(1e300, ...variances);
}

const hard: Record<string, (random: Random) => (place: number, row: number) => number> = {
  'mean 0, deviation 1': (random) => () => random.normal(),
  'mean 1000, deviation 1': (random) => () => random.normal(1000, 1),
  'mean 10,000, deviation 0.01': (random) => () => random.normal(1e4, 1e-2),
  'mean -10,000, deviation 0.01, then 10,000': (random) => (_, row) =>
    random.normal(row % 2 ? 1e4 : -1e4, 1e-2),
  'mean 1,000,000, deviation 1': (random) => () => random.normal(1e6, 1),
  'one value far from the others': (random) => (place) => (place === 5 ? 1e4 : random.normal()),
  'the first value far from the others': (random) => (place) => (place === 0 ? 3e6 : random.normal()),
};

describe(`hard data are normalized to what is promised: (${seedNote})`, () => {
  for (const [name, draw] of Object.entries(hard))
    for (const dtype of dtypes)
      it.each(titled)(`${name}, ${dtype}: $title`, ({ norm }) => {
        const random = new Random();
        expectAccurate(norm, dtype, fromRows(norm, dtype, draw(random)), random);
      });
});

describe(`hard data behind a ReLU, whose gate is found again: (${seedNote})`, () => {
  for (const [name, draw] of Object.entries(hard))
    it.each(titled.flatMap((one) => dtypes.map((dtype) => ({ ...one, dtype }))))(
      `${name}, $dtype: $title`,
      ({ norm, dtype }) => {
        const random = new Random();
        const x = fromRows(norm, dtype, draw(random));
        // What lets one value through, far from all others, leaves little of its gradient.
        expectAccurate(norm, dtype, x, random, { activation: 'relu', few: name.includes('far') });
      },
    );
});

describe(`other kinds of data are, too: (${seedNote})`, () => {
  // Every kind on a part of the norms, every norm on a part of the kinds.
  for (const [index, [name, { domains, data, few }]] of Object.entries(dataKinds).entries())
    it.each(titled.filter((_, i) => (i + index) % 4 === 0))(`${name}: $title`, ({ norm }) => {
      const random = new Random(name.length);
      const numbers: Numbers = Object.fromEntries(
        Object.entries(domains).map(([key, { low, high, whole, logarithmic }]) => {
          const value = logarithmic ? low * (high / low) ** random.uniform() : random.uniform(low, high);
          return [key, whole ? Math.min(high, Math.round(value)) : value];
        }),
      );
      const { row, rows } = placesOf(norm);
      const valueAt = data(numbers, row.length / rows);
      const scale = random.uniform(0.5, 2);
      const x = fromRows(norm, 'float32', (place, at) => scale * (1 + at) * valueAt(place));
      expectAccurate(norm, 'float32', x, random, { few });
    });
});

describe(`exact data have exact statistics: (${seedNote})`, () => {
  // Of few bits, in pairs around the mean of their row, those of a channel where it has an even number of them; a variance
  // of 4, so that x̂ is half the deviation.
  it.each(
    titled
      .filter(({ norm }) => norm.kind !== 'rms')
      .filter(({ norm }) => (placesOf(norm).row.length / placesOf(norm).rows) % 2 === 0)
      .flatMap((one) => dtypes.map((dtype) => ({ ...one, dtype }))),
  )('$title, $dtype', ({ norm, dtype }) => {
    const random = new Random();
    const { row, rows, parameter, parameters } = placesOf(norm);
    const perChannel = row.length / (norm.kind === 'layer' ? rows * parameters : norm.shape[0] * parameters);
    const partOf = (i: number) => (perChannel % 2 === 0 ? row[i] * parameters + parameter[i] : row[i]);
    const open = new Map<number, number>();
    const deviations = Float64Array.from(row, (_, i) => {
      const half = open.get(partOf(i));
      if (half === undefined) {
        const deviation = random.pick([2, -2]);
        open.set(partOf(i), deviation);
        return deviation;
      }
      open.delete(partOf(i));
      return -half;
    });
    const x = { data: generate(dtype, row.length, (i) => 128 * row[i] + deviations[i]), shape: norm.shape };
    const { y } = normalize(norm, x, { eps: 0 });
    expectSame(
      y.data,
      deviations.map((deviation) => deviation / 2),
      'y',
    );
  });
});

describe('values that are not finite', () => {
  const finite = titled.filter(({ norm }) => placesOf(norm).rows > 1);
  it.each(finite)('stay in their row: $title', ({ norm }) => {
    const { x, dy, weight } = drawFor(new Random(), norm, 'float32');
    const { row } = placesOf(norm);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      x.data[3] = bad;
      const { y } = normalize(norm, x, { weight });
      const { dx } = goBack(norm, dy, x, { weight });
      for (const [name, { data }] of Object.entries({ y, dx })) {
        const isRight = (value: number, i: number) =>
          row[i] === row[3] ? !Number.isFinite(value) || value === 0 : Number.isFinite(value);
        expect(
          (data as Float32Array).findIndex((value, i) => !isRight(value, i)),
          name,
        ).toBe(-1);
      }
      expect(Number.isNaN(y.data[3]), 'the value itself').toBe(true);
    }
  });

  it.each(titled)('are none where x is large, or small: $title', ({ norm }) => {
    const random = new Random();
    for (const scale of [1e30, 3e37, 1e-30, 1e-37]) {
      const x = fromRows(norm, 'float32', () => scale * random.uniform(-1, 1));
      const { y } = normalize(norm, x, { eps: 0 });
      const expected = normForward(passOf(norm, 'float32', x, 0)).y;
      const size = largestOfRow(placesOf(norm), expected);
      expectClose(y.data as ArrayLike<number>, expected, (i) => 2e-6 * size[i], `y at ${scale}`);
    }
  });
});

describe('a variance and an eps that are less than 1e-77 together count as that in float32', () => {
  it.each(titled.filter(({ norm }) => norm.kind !== 'rms'))(
    'where no gradient is left: $title',
    ({ norm }) => {
      const { parameters } = placesOf(norm);
      const x = fromRows(norm, 'float32', () => 0);
      const dy = fromRows(norm, 'float32', (_, row) => row - 1.5);
      const bias = new Float32Array(parameters).fill(2);
      for (const tiny of [1e-78, 1e-200])
        for (const activation of [undefined, 'relu']) {
          const options = { eps: tiny, bias, activation };
          const { y } = normalize(norm, x, options);
          expect((y.data as Float32Array).every((value) => value === 2)).toBe(true);
          const { dx } = goBack(norm, dy, x, options);
          const wrong = (dx.data as Float32Array).findIndex((value) => value !== 0);
          expect(wrong, `where dx is not 0 with eps ${tiny}, ${activation}`).toBe(-1);
        }
    },
  );

  // One in four is another value, so that all rows have the same variance, and that with the last one float32 does not
  // hold the mean.
  const pairs = titled
    .filter(({ norm }) => norm.kind !== 'rms')
    .filter(({ norm }) => (placesOf(norm).row.length / placesOf(norm).rows) % 4 === 0)
    .flatMap((one) => [2 ** -136, -(2 ** -140), 5 * 2 ** -149].map((value) => ({ ...one, value })));
  it.each(pairs)('where rows vary by $value: $title', ({ norm, value }) => {
    const random = new Random();
    const { parameters } = placesOf(norm);
    const x = fromRows(norm, 'float32', (place) => (place % 4 === 1 ? value : 0));
    const variance = value ** 2 * (3 / 16);
    const weight = Float32Array.from({ length: parameters }, () => random.uniform(0.5, 1));
    const bias = Float32Array.from({ length: parameters }, () => random.pick([-2, 1e-8, 2]));
    // Little of dy goes to the weight, or what is lost of dy · (x − mean) would be more than nothing of it.
    const sizes = Array.from({ length: 9 }, () => random.uniform(0.2, 0.3));
    for (const activation of [undefined, 'relu'] as const) {
      const dy = fromRows(norm, 'float32', (_, of) => sizes[of % 9]);
      const options = { eps: 1e-200, weight, bias, activation };
      const y = normalize(norm, x, options).y.data as Float32Array;
      const { dx, dWeight, dBias } = goBack(norm, dy, x, options);
      const counted = float32Largest ** -2 - variance;
      const pass = { ...passOf(norm, 'float32', x, counted, options), gate: y };
      const expected = normBackward(pass, dy.data as Float32Array);
      const size = 0.3 * float32Largest;
      expectClose(dx.data as Float32Array, expected.dx, () => 2e-6 * size, `dx, ${activation}`);
      const { magnitude } = expected;
      expectClose(dWeight ?? [], expected.dWeight, (i) => 2e-6 * magnitude.dWeight[i], 'dWeight');
      if (dBias) expectClose(dBias, expected.dBias, (i) => 2e-6 * magnitude.dBias[i], 'dBias');
    }
  });
});

describe('eps 0', () => {
  it.each(titled.filter(({ norm }) => norm.kind !== 'rms'))(
    'is refused of a row that does not vary, before anything is written: $title',
    ({ norm }) => {
      const { x } = drawFor(new Random(), norm, 'float32');
      const { row } = placesOf(norm);
      const last = row[row.length - 1];
      row.forEach((at, i) => {
        if (at === last) x.data[i] = 3;
      });
      const out = new Float32Array(row.length).fill(7);
      expect(() => normalize(norm, x, { eps: 0, out })).toThrow(
        expect.objectContaining({
          code: 'ERR_BATCHNORM_INVALID_VALUE',
          message: expect.stringContaining('eps'),
        }),
      );
      expect(out.every((value) => value === 7)).toBe(true);
    },
  );
});
