// States as files have them: forms, names, parts of whole models. What is refused, with its message: validation.test.ts.
import vm from 'node:vm';
import { afterEach, describe, expect, it } from 'vitest';
import {
  type AnyState,
  BatchNorm,
  compose,
  FrozenBatchNorm,
  foldIntoConv,
  forwardTraining,
  type StateDict,
} from '../../lib/index.js';
import { Random, seedNote } from '../support/random.js';
import { expectError, expectSame } from '../support/tensors.js';

const channels = 3;

/** Values that float32 holds, so that every form holds them. */
const values = {
  weight: [1.5, -2, 0.25],
  bias: [0.5, 0, -1],
  running_mean: [10, -20, 0.125],
  running_var: [4, 0.5, 0],
};

const doubles = (list: readonly number[]) => Float64Array.from(list);
const singles = (list: readonly number[]) => Float32Array.from(list);

function expectLoaded(bn: BatchNorm, batches = 5): void {
  expect(bn.weight).toEqual(singles(values.weight));
  expect(bn.bias).toEqual(singles(values.bias));
  expect(bn.runningMean).toEqual(doubles(values.running_mean));
  expect(bn.runningVar).toEqual(doubles(values.running_var));
  expect(bn.batchesTracked).toBe(batches);
}

function mapped(form: (list: readonly number[]) => unknown): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).map(([name, list]) => [name, form(list)]));
}

const forms: Record<string, (list: readonly number[]) => unknown> = {
  'a Float32Array': singles,
  'a Float64Array': doubles,
  'an array': (list) => [...list],
  'a frozen array of another realm': (list) => vm.runInNewContext(`Object.freeze(${JSON.stringify(list)})`),
  'a tensor': (list) => ({ data: singles(list), shape: [channels] }),
  'a tensor with dims': (list) => ({ data: doubles(list), dims: [1, channels, 1, 1] }),
  'a tensor of numbers': (list) => ({ data: [...list], shape: [channels] }),
  'a part of a longer array': (list) => ({
    data: doubles([7, ...list, 8]),
    shape: [channels],
    strides: [1],
    offset: 1,
  }),
};

const counts: Record<string, unknown> = {
  'a number': 5,
  'a bigint': 5n,
  'a BigInt64Array': BigInt64Array.of(5n),
  'a BigUint64Array': BigUint64Array.of(5n),
  'an Int32Array': Int32Array.of(5),
  'a Float32Array': Float32Array.of(5),
  'an array of a number': [5],
  'an array of a bigint': [5n],
  'a tensor without dimensions': { data: BigInt64Array.of(5n), shape: [] },
  'a tensor of one': { data: [5], shape: [1] },
};

describe('values of a state', () => {
  it.each(Object.keys(forms))('may be %s', (form) => {
    const state = { ...mapped(forms[form]), num_batches_tracked: 5 };
    expectLoaded(new BatchNorm(channels).loadStateDict(state));
    const frozen = FrozenBatchNorm.from(state);
    const expected = new BatchNorm(channels).loadStateDict(state).freeze();
    const x = { data: Float32Array.of(1, 2, 3, 4, 5, 6), shape: [2, channels] };
    expectSame(frozen.run(x).data, expected.run(x).data, 'y');
  });

  it.each(Object.keys(counts))('may count their batches by %s', (form) => {
    const state = { ...mapped(doubles), num_batches_tracked: counts[form] };
    expectLoaded(new BatchNorm(channels).loadStateDict(state));
    FrozenBatchNorm.from(state);
  });

  it('may come without a count, as in old files', () => {
    expectLoaded(new BatchNorm(channels).loadStateDict(mapped(doubles)), 0);
  });

  it('may count up to 2^53 - 1 batches', () => {
    const bn = new BatchNorm(channels);
    bn.loadStateDict({ ...mapped(doubles), num_batches_tracked: BigInt(Number.MAX_SAFE_INTEGER) });
    expect(bn.batchesTracked).toBe(Number.MAX_SAFE_INTEGER);
    expect(bn.loadStateDict(bn.stateDict()).batchesTracked).toBe(Number.MAX_SAFE_INTEGER);
  });

  it('are copied, whatever they came in', () => {
    for (const form of Object.values(forms)) {
      const state = mapped(form) as Record<string, { data?: number[] } & number[]>;
      const bn = new BatchNorm(channels).loadStateDict(state);
      const frozen = FrozenBatchNorm.from(state);
      const before = frozen.toJSON();
      for (const value of Object.values(state)) {
        const list = value.data ?? value;
        if (!Object.isFrozen(list)) list[0] = 99;
      }
      expectLoaded(bn, 0);
      expect(frozen.toJSON()).toEqual(before);
    }
  });
});

describe('names of a state', () => {
  const keras = {
    gamma: values.weight,
    beta: values.bias,
    moving_mean: values.running_mean,
    moving_variance: values.running_var,
  };
  const onnx = {
    scale: values.weight,
    B: values.bias,
    input_mean: values.running_mean,
    input_var: values.running_var,
  };
  const renamed = (state: object, name: (key: string) => string) =>
    Object.fromEntries(Object.entries(state).map(([key, value]) => [name(key), value]));

  it.each([
    ['keras', keras],
    ['keras', renamed(keras, (key) => `${key}:0`)],
    ['keras', values],
    ['onnx', onnx],
    ['onnx', values],
    ['pytorch', values],
  ] as const)('are those of PyTorch and of the convention %s', (convention, state) => {
    const bn = new BatchNorm(channels, { convention });
    expectLoaded(bn.loadStateDict(state), 0);
    expect(bn.config.convention).toBe(convention);
    const again = new BatchNorm(channels, bn.config).loadStateDict(state);
    expectLoaded(again, 0);
  });

  it('of Keras bring its eps along, in a frozen layer and in folding (f08)', () => {
    const x = { data: Float32Array.of(0.01), shape: [1, 1] };
    const state = { running_mean: [0], running_var: [1e-4] };
    const byKeras = 0.01 / Math.sqrt(1e-4 + 1e-3);
    expect(FrozenBatchNorm.from(state, { convention: 'keras' }).run(x).data[0]).toBeCloseTo(byKeras, 6);
    expect(FrozenBatchNorm.from(state, { convention: 'keras' }).eps).toBe(1e-3);
    expect(FrozenBatchNorm.from(state, { convention: 'keras', eps: 1e-5 }).eps).toBe(1e-5);
    expect(FrozenBatchNorm.from(state).eps).toBe(1e-5);
    const conv = { weight: Float64Array.of(1), shape: [1, 1] };
    const folded = foldIntoConv(conv, { moving_mean: [0], moving_variance: [1e-4], convention: 'keras' });
    expect(folded.weight[0]).toBe(1 / Math.sqrt(1e-4 + 1e-3));
    const given = { gamma: [1], beta: [0], moving_mean: [0], moving_variance: [1] };
    new BatchNorm(1, { convention: 'keras' }).loadStateDict(given);
  });

  it.each(['weight', 'bias'] as const)('are fewer where a layer has no %s', (missing) => {
    const { [missing]: _, ...state } = values;
    const bn = new BatchNorm(channels, { [missing]: false }).loadStateDict(state);
    expect(bn[missing]).toBe(null);
    expect(bn.runningMean).toEqual(doubles(values.running_mean));
    expect(FrozenBatchNorm.from(state).toJSON().state[missing]).toBe(undefined);
  });
});

describe('a part of a whole model', () => {
  const separators = ['.', '/'];

  it.each(separators)('is what has the prefix, with or without its last %s', (separator) => {
    const model: Record<string, unknown> = { 'conv.weight': new Float32Array(9), global_step: 7n };
    const places = ['bn1', 'bn10', 'layer1.0.bn1', 'a/b'];
    for (const [i, place] of places.entries())
      for (const [key, list] of Object.entries(values))
        model[`${place}${separator}${key}`] = list.map((value) => (key === 'running_mean' ? i : value));
    for (const [i, place] of places.entries()) {
      for (const prefix of [place, `${place}${separator}`]) {
        const bn = new BatchNorm(channels).loadStateDict(model, { prefix });
        expect(bn.runningMean).toEqual(doubles([i, i, i]));
        expect(bn.weight).toEqual(singles(values.weight));
        expect(FrozenBatchNorm.from(model, { prefix }).toJSON().state.running_mean).toEqual([i, i, i]);
      }
    }
  });

  it('may be one layer of Keras', () => {
    const model = {
      'conv/kernel:0': [1],
      'bn/gamma:0': [2],
      'bn/beta:0': [3],
      'bn/moving_mean:0': [4],
      'bn/moving_variance:0': [5],
    };
    const bn = new BatchNorm(1, { convention: 'keras' }).loadStateDict(model, { prefix: 'bn' });
    expect([bn.weight, bn.bias, bn.runningMean, bn.runningVar].map((array) => array?.[0])).toEqual([
      2, 3, 4, 5,
    ]);
  });

  it('is not what another separator follows', () => {
    const model = { 'bn/running_mean': [1], 'bn/running_var': [1] };
    expectError(() => FrozenBatchNorm.from(model, { prefix: 'bn.' }), RangeError);
    expect(FrozenBatchNorm.from(model, { prefix: 'bn/' }).channels).toBe(1);
  });

  it('is the whole of it with an empty prefix', () => {
    expectLoaded(new BatchNorm(channels).loadStateDict(values, { prefix: '' }), 0);
  });
});

describe('strict: false', () => {
  it('passes over what the layer does not have', () => {
    const bn = new BatchNorm(channels, { bias: false, trackRunningStats: false });
    bn.loadStateDict(
      { ...values, num_batches_tracked: 5, other: 'x', running_mean: 'nonsense' },
      { strict: false },
    );
    expect(bn.weight).toEqual(singles(values.weight));
    expect(bn.bias).toBe(null);
  });

  it('leaves what the state lacks as it is', () => {
    const entries = [...Object.entries(values), ['num_batches_tracked', 5]] as [keyof StateDict, number[]][];
    for (const [name, value] of entries) {
      const bn = new BatchNorm(channels, { decay: 'cumulative' });
      const x = { data: Float32Array.of(1, 2, 3, 5, 7, 9), shape: [2, channels] };
      bn.forward(x);
      const before = bn.stateDict();
      bn.loadStateDict({ [name]: value }, { strict: false });
      expect(bn.stateDict()).toEqual({
        ...before,
        [name]:
          name === 'num_batches_tracked'
            ? 5
            : before[name] instanceof Float32Array
              ? singles(value)
              : doubles(value),
      });
      // With the mean of one batch, or of five, the next one weighs a half, or a sixth.
      bn.loadStateDict({ running_mean: [0, 0, 0] }, { strict: false });
      bn.forward(x);
      const share = name === 'num_batches_tracked' ? 6 : 2;
      expect(bn.runningMean?.[0]).toBeCloseTo(3 / share, 14);
    }
  });

  it('refuses what is wrong in what matches, and then changes nothing', () => {
    const bn = new BatchNorm(channels);
    const before = bn.stateDict();
    for (const wrong of [{ bias: [1, 2] }, { running_var: [1, 1, -1] }, { running_mean: [1, 1, Number.NaN] }])
      expectError(() => bn.loadStateDict({ weight: values.weight, ...wrong }, { strict: false }), RangeError);
    expect(bn.stateDict()).toEqual(before);
  });

  it('makes a frozen layer of a state with more in it', () => {
    const frozen = FrozenBatchNorm.from({ ...values, epsilon: 1 }, { strict: false });
    expect(frozen.channels).toBe(channels);
  });
});

describe(`states in folding (${seedNote})`, () => {
  it('are what they are in a frozen layer', () => {
    const random = new Random();
    for (let round = 0; round < 20; round++) {
      const size = random.integer(1, 9);
      const draw = (low: number) => Array.from({ length: size }, () => Math.fround(random.uniform(low, 3)));
      const state = { weight: draw(-3), bias: draw(-3), running_mean: draw(-3), running_var: draw(0) };
      const conv = {
        weight: Float32Array.from({ length: size * 4 }, () => random.normal()),
        shape: [size, 4],
      };
      const eps = random.pick([1e-5, 1e-3]);
      expect(foldIntoConv(conv, { ...state, eps })).toEqual(
        foldIntoConv(conv, FrozenBatchNorm.from(state, { eps })),
      );
      const identity = { mean: new Float64Array(size), variance: new Float64Array(size).fill(1), eps: 1e-12 };
      const x = { data: Float32Array.from({ length: size * 2 }, () => random.normal()), shape: [2, size] };
      const composed = compose({ ...state, eps }, identity);
      expectSame(
        composed.run(x).data,
        compose(FrozenBatchNorm.from(state, { eps }), identity).run(x).data,
        'y',
      );
    }
  });
});

describe('a checkpoint with NaN or infinity (f05)', () => {
  const state = (value: number) => ({ weight: [1], bias: [0], running_mean: [0], running_var: [value] });

  it.each([Number.NaN, Infinity, -1e-8])('is refused with %s, and training goes on', (value) => {
    const bn = new BatchNorm(1);
    const conv = { weight: Float32Array.of(1), shape: [1, 1, 1] };
    expectError(() => bn.loadStateDict(state(value)), RangeError);
    expectError(() => FrozenBatchNorm.from(state(value)), RangeError);
    expectError(() => foldIntoConv(conv, state(value)), RangeError);
    expectError(
      () => foldIntoConv(conv, { mean: Float32Array.of(0), variance: Float32Array.of(value) }),
      RangeError,
    );
    for (let i = 0; i < 200; i++) bn.forward({ data: Float32Array.of(1, 2, 3, 4), shape: [4, 1] });
    expect(bn.runningVar?.[0]).toBeCloseTo(5 / 3, 8);
    expect(bn.rejectedUpdates).toBe(0);
  });
});

describe('parts of a batch, one of them empty (f07)', () => {
  it('merge by hand where those without values are left out', () => {
    const parts = [[1, 2, 3, 6], [], [10, 20]]
      .map((list) => forwardTraining({ data: Float32Array.from(list), shape: [list.length, 1] }))
      .filter(({ count }) => count > 0);
    const total = parts.reduce((sum, { count }) => sum + count, 0);
    expect(parts.reduce((sum, { mean, count }) => sum + mean[0] * count, 0) / total).toBe(7);
  });
});

describe('hostile states', () => {
  const prototype = Object.prototype as unknown as Record<string, unknown>;
  afterEach(() => {
    for (const key of ['weight', 'gamma', 'bn.weight', 'prefix', 'strict', 'num_batches_tracked'])
      delete prototype[key];
  });

  it('have nothing of Object.prototype, of this realm or another', () => {
    prototype.weight = [9, 9, 9];
    prototype['bn.weight'] = [9, 9, 9];
    prototype.prefix = 'bn';
    prototype.strict = false;
    prototype.num_batches_tracked = 9;
    const { weight: _, ...state } = values;
    const hasWeight = (given: AnyState) =>
      Object.hasOwn(FrozenBatchNorm.from(given).toJSON().state, 'weight');
    expect(hasWeight(state)).toBe(false);
    expectError(() => new BatchNorm(channels).loadStateDict(state), TypeError);
    expectLoaded(new BatchNorm(channels).loadStateDict(values), 0);
    const foreign = vm.runInNewContext(
      'Object.prototype.weight = [9, 9, 9]; ({ running_mean: [1], running_var: [1] })',
    ) as AnyState;
    expect(hasWeight(foreign)).toBe(false);
  });

  it('may have their entries from a class or along their prototypes, each read once', () => {
    const reads: string[] = [];
    class State {}
    for (const [name, list] of Object.entries(values))
      Object.defineProperty(State.prototype, name, {
        get() {
          reads.push(name);
          return list;
        },
      });
    expectLoaded(new BatchNorm(channels).loadStateDict(new State() as AnyState), 0);
    expect(reads).toEqual(['weight', 'bias', 'running_mean', 'running_var']);
    expectLoaded(new BatchNorm(channels).loadStateDict(Object.create(values)), 0);
  });

  it('change nothing where a getter throws, lies, or takes memory away', () => {
    const bn = new BatchNorm(channels);
    const before = bn.stateDict();
    const running_var = doubles(values.running_var);
    const detaching = {
      ...values,
      running_var,
      num_batches_tracked: {
        get data() {
          structuredClone(running_var.buffer, { transfer: [running_var.buffer] });
          return [3];
        },
      },
    };
    expectError(() => bn.loadStateDict(detaching), RangeError);
    expect(() =>
      bn.loadStateDict({
        ...values,
        get running_mean() {
          throw new SyntaxError('on purpose');
        },
      }),
    ).toThrow(SyntaxError);
    const lie = new Proxy([1, 2, 3], {
      get: (target, key) => (key === 'length' ? 4 : Reflect.get(target, key)),
    });
    expectError(() => bn.loadStateDict({ ...values, bias: lie }), TypeError);
    expect(bn.stateDict()).toEqual(before);
  });

  it('may be called as they like', () => {
    const model = JSON.parse(
      '{"__proto__.weight":[2],"__proto__.running_mean":[1],"__proto__.running_var":[4]}',
    );
    const frozen = FrozenBatchNorm.from(model, { prefix: '__proto__' });
    expect(frozen.toJSON().state).toEqual({ weight: [2], running_mean: [1], running_var: [4] });
    expectError(() => FrozenBatchNorm.from(model, { prefix: 'constructor' }), RangeError);
  });
});
