// What is fused into the passes. The plain passes have been compared with the textbook; what is fused is the same to the
// bit as they are with an addition and a ReLU of their own before or behind them.
import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  backward,
  type DType,
  type FloatArray,
  FrozenBatchNorm,
  forwardInference,
  forwardTraining,
} from '../../lib/index.js';
import { Random, seedNote } from '../support/random.js';
import { eachShape } from '../support/shapes.js';
import {
  beyondCaches,
  dtypes,
  eachKind,
  expectError,
  expectSame,
  extentsOf,
  type Parameters,
  randomActivations,
  randomNormals,
  randomParameters,
  sizeOf,
  typed,
  zeros,
} from '../support/tensors.js';

interface Case {
  readonly dtype: DType;
  readonly x: FloatArray;
  readonly residual: FloatArray;
  readonly dy: FloatArray;
  readonly shape: number[];
  readonly axis: number;
  readonly parameters: Partial<Parameters>;
}

function randomCase(random: Random, dtype: DType, shape: number[], axis: number): Case {
  const extents = extentsOf(shape, axis);
  const size = sizeOf(extents);
  return {
    dtype,
    x: randomActivations(random, dtype, extents),
    residual: randomNormals(random, dtype, size),
    dy: randomNormals(random, dtype, size),
    shape,
    axis,
    parameters: randomParameters(random, dtype, extents.channels),
  };
}

const relu = (values: FloatArray) => values.map((value) => (value <= 0 ? 0 : value)) as FloatArray;
const sum = (a: FloatArray, b: FloatArray) => a.map((value, i) => value + b[i]) as FloatArray;
const passed = (dy: FloatArray, y: FloatArray) => dy.map((value, i) => (y[i] <= 0 ? 0 : value)) as FloatArray;

/** Every pass with every combination of what can be fused. */
function expectComposition({ dtype, x, residual, dy, shape, axis, parameters }: Case): void {
  const input = { data: x, shape };
  const options = { axis, ...parameters };
  const plain = forwardTraining(input, options);
  const { mean, variance } = plain;
  const statistics = { mean, variance };
  const state = { ...parameters, running_mean: mean, running_var: variance };
  for (const [activation, addend] of [
    ['relu', undefined],
    [undefined, residual],
    ['relu', residual],
  ] as const) {
    const name = `${activation ?? 'identity'}${addend ? ' behind a residual' : ''}`;
    const fused = { ...options, activation, residual: addend && { data: addend, shape } };
    const added = addend ? sum(plain.y.data, addend) : plain.y.data;
    const y = activation ? relu(added) : added;
    const forward = forwardTraining(input, fused);
    expectSame(forward.y.data, y, `y, ${name}`);
    expectSame(forward.mean, mean, `mean, ${name}`);
    expectSame(forward.variance, variance, `variance, ${name}`);
    expectSame(forwardInference(input, { ...fused, ...statistics }).data, y, `y in inference, ${name}`);
    const frozen = FrozenBatchNorm.from(state, { axis, activation });
    expectSame(frozen.run(input, { residual: fused.residual }).data, y, `y of a frozen layer, ${name}`);

    const gradient = activation ? passed(dy, y) : dy;
    for (const training of [true, false]) {
      const note = `${training ? '' : 'frozen, '}${name}`;
      const expected = backward({ data: gradient, shape }, input, { ...options, ...statistics, training });
      const actual = backward({ data: dy, shape }, input, { ...fused, ...statistics, training });
      expectSame(actual.dx.data, expected.dx.data, `dx, ${note}`);
      expectSame(actual.dWeight, expected.dWeight, `dWeight, ${note}`);
      expectSame(actual.dBias, expected.dBias, `dBias, ${note}`);
      expect(actual.dResidual !== undefined, `whether there is a dResidual, ${note}`).toBe(
        addend !== undefined,
      );
      if (actual.dResidual) expectSame(actual.dResidual.data, gradient, `dResidual, ${note}`);
    }
    expectLayer({ dtype, x, residual, dy, shape, axis, parameters }, activation, addend, y, gradient);
  }
}

function expectLayer(
  { dtype, x, dy, shape, axis, parameters }: Case,
  activation: 'relu' | undefined,
  residual: FloatArray | undefined,
  y: FloatArray,
  gradient: FloatArray,
): void {
  const extents = extentsOf(shape, axis);
  if (extents.outer * extents.inner < 2) return;
  const layer = (options: { activation?: 'relu'; reuse?: boolean }) => {
    const bn = new BatchNorm(extents.channels, { axis, dtype, ...options });
    bn.weight?.set(parameters.weight ?? zeros(dtype, extents.channels).fill(1));
    bn.bias?.set(parameters.bias ?? zeros(dtype, extents.channels));
    return bn;
  };
  const tensor = (data: FloatArray) => ({ data, shape }) as never;
  const plain = layer({});
  plain.forward(tensor(x));
  const expected = plain.backward(tensor(gradient));
  for (const reuse of [false, true]) {
    const bn = layer({ activation, reuse });
    const forward = { residual: residual && tensor(residual) };
    if (reuse) bn.forward(tensor(x.map((value) => -value) as FloatArray), { ...forward, updateStats: false });
    expectSame(bn.forward(tensor(x), forward).data, y, 'y of the layer');
    const { dx, dWeight, dBias, dResidual } = bn.backward(tensor(dy), { retain: true });
    expectSame(dx?.data ?? [], expected.dx?.data ?? [], 'dx of the layer');
    expectSame(dWeight ?? [], expected.dWeight ?? [], 'dWeight of the layer');
    expectSame(dBias ?? [], expected.dBias ?? [], 'dBias of the layer');
    expectSame(dResidual?.data ?? [], residual ? gradient : [], 'dResidual of the layer');
    const parameters = bn.backward(tensor(dy), { only: 'parameters', retain: true });
    expect(Object.keys(parameters)).toEqual(['dWeight', 'dBias']);
    expectSame(parameters.dWeight ?? [], expected.dWeight ?? [], 'dWeight alone');
    const inPlace = dy.slice() as FloatArray;
    const again = bn.backward(tensor(inPlace), { out: inPlace as never });
    expectSame(inPlace, expected.dx?.data ?? [], 'dx over dy');
    expectSame(again.dResidual?.data ?? [], residual ? gradient : [], 'dResidual beside a dx over dy');
    expectSame(bn.runningVar ?? [], plain.runningVar ?? [], 'runningVar');
  }
}

describe(`fused passes (${seedNote})`, () => {
  eachShape(randomCase, expectComposition);

  eachKind('is right beyond the caches', ({ dtype, layout }) => {
    const shape = beyondCaches(dtype, layout);
    expectComposition(randomCase(new Random(), dtype, shape, layout.axis));
  });
});

describe('relu', () => {
  const special = [Number.NaN, -0, 0, -1, 1, Infinity, -Infinity, 5e-324, -5e-324];

  it.each(dtypes)('%s is NaN for NaN, +0 for -0 and below, and lets the rest through', (dtype) => {
    // Of mean 0, variance 1 - eps, y is x.
    for (const shape of [
      [special.length, 1],
      [1, 1, special.length],
    ]) {
      const x = typed(dtype, special);
      const options = {
        mean: new Float64Array(1),
        variance: Float64Array.of(1 - 1e-5),
        activation: 'relu' as const,
      };
      const { data } = forwardInference({ data: x, shape }, options);
      expectSame(data, relu(x), 'y');
      const dy = { data: typed(dtype, special).fill(-2), shape };
      const { dx, dBias } = backward(dy, { data: x, shape }, { ...options, training: false });
      // NaN passes: what is wrong must show.
      expectSame(dx.data, x.map((value) => (value <= 0 ? 0 : -2)) as FloatArray, 'dx');
      expect(dBias[0]).toBe(-2 * x.filter((value) => !(value <= 0)).length);
      const zero = { data: zeros(dtype, special.length), shape };
      const added = backward(dy, zero, { ...options, residual: { data: x, shape }, training: false });
      expectSame(added.dResidual?.data ?? [], dx.data, 'dResidual');
    }
  });

  it('agrees with finite differences, also behind a residual', () => {
    const random = new Random();
    const shape = [5, 3, 4];
    const { x, residual, dy, parameters } = randomCase(random, 'float64', shape, 1);
    const run = (input: FloatArray, addend: FloatArray) =>
      forwardTraining(
        { data: input, shape },
        { ...parameters, activation: 'relu', residual: { data: addend, shape } },
      );
    const loss = (input: FloatArray, addend: FloatArray) =>
      Array.from(run(input, addend).y.data).reduce((total, value, i) => total + value * dy[i], 0);
    const { mean, variance } = run(x, residual);
    const { dx, dResidual } = backward(
      { data: dy, shape },
      { data: x, shape },
      { ...parameters, mean, variance, activation: 'relu', residual: { data: residual, shape } },
    );
    const step = 1e-6;
    for (const [array, gradient, at] of [
      [x, dx.data, (input: FloatArray) => loss(input, residual)],
      [residual, dResidual?.data as FloatArray, (addend: FloatArray) => loss(x, addend)],
    ] as const)
      for (let i = 0; i < array.length; i++) {
        const moved = (by: number) => array.map((value, j) => (i === j ? value + by : value)) as FloatArray;
        expect((at(moved(step)) - at(moved(-step))) / (2 * step)).toBeCloseTo(gradient[i], 5);
      }
  });

  it('belongs to the layer: in its config, in evaluation and in what is frozen, unless freeze adds it', () => {
    const bn = new BatchNorm(2, { activation: 'relu' });
    expect(bn.config.activation).toBe('relu');
    expect(new BatchNorm(2, bn.config).config).toEqual(bn.config);
    const x = { data: Float32Array.of(-1, 1, -2, 2), shape: [2, 2] };
    expect([...bn.eval().forward(x).data].filter((value) => value < 0)).toEqual([]);
    expect(bn.freeze().activation).toBe('relu');
    expect(bn.freeze().run(x).data[0]).toBe(0);
    const plain = new BatchNorm(2);
    expect(plain.freeze().activation).toBeUndefined();
    expect(plain.freeze({ activation: 'relu' }).run(x).data[0]).toBe(0);
  });

  it('refuses a result over the residual', () => {
    const x = { data: new Float32Array(6), shape: [3, 2] };
    const residual = { data: new Float32Array(6), shape: [3, 2] };
    const options = { residual, out: residual.data };
    const bn = new BatchNorm(2);
    expectError(() => bn.forward(x, options), RangeError);
    expectError(() => bn.freeze().run(x, options), RangeError);
    expectError(() => forwardTraining(x, options), RangeError);
    expect(bn.batchesTracked).toBe(0);
  });
});
