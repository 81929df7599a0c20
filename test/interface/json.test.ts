// Layers as JSON, as they are printed, and that they are not cloned.
import { inspect } from 'node:util';
import * as workerThreads from 'node:worker_threads';
import { MessageChannel } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { BatchNorm, type BatchNormOptions, compose, type DType, FrozenBatchNorm } from '../../lib/index.js';
import { expectListed } from '../support/messages.js';
import { Random, seedNote } from '../support/random.js';
import { dtypes, expectSame, generate, randomNormals } from '../support/tensors.js';

// biome-ignore lint/suspicious/noExplicitAny: wrong types are what is tested
type Wrong = any;

const special = [Number.NaN, Infinity, -Infinity, -0, 0, 5e-324, 1e-45, 3.4028234663852886e38, Math.PI];

function randomOptions(random: Random): BatchNormOptions<DType> {
  return {
    axis: random.pick([1, -1, 0]),
    eps: random.pick([1e-5, 1e-3, 5e-324]),
    dtype: random.pick(dtypes),
    decay: random.pick([0, 0.9, 1 / 3, 'cumulative' as const]),
    unbiasedRunningVar: random.pick([true, false]),
    weight: random.pick([true, false]),
    bias: random.pick([true, false]),
    trackRunningStats: random.integer(0, 3) > 0,
    activation: random.pick([undefined, 'relu' as const]),
    reuse: random.pick([true, false]),
    convention: random.pick([undefined, 'pytorch' as const, 'keras' as const]),
  };
}

/** A layer that has been used, and into whose arrays somebody has written. */
function randomLayer(random: Random): BatchNorm<DType> {
  const channels = random.integer(1, 6);
  const bn = new BatchNorm<DType>(channels, randomOptions(random));
  for (let batch = random.integer(0, 3); batch > 0; batch--) bn.forward(batchFor(random, bn));
  for (const array of [bn.weight, bn.bias, bn.runningMean, bn.runningVar]) {
    if (array && random.integer(0, 1) === 0)
      for (let i = 0; i < channels; i++) array[i] = random.pick([...special, random.normal(0, 100)]);
  }
  return bn.train(random.pick([true, false]));
}

function batchFor(random: Random, bn: BatchNorm<DType>) {
  const shape = bn.config.axis === 0 ? [bn.channels, 7] : [7, bn.channels];
  const data = randomNormals(random, bn.config.dtype, 7 * bn.channels);
  // Such a channel rejects the batch: with 'cumulative' the counts of the channels then differ.
  if (random.integer(0, 1) === 0) data[0] = Infinity;
  return { data, shape };
}

function expectAlike(again: BatchNorm<DType>, bn: BatchNorm<DType>): void {
  expect(again.channels).toBe(bn.channels);
  expect(again.config).toEqual(bn.config);
  for (const name of ['weight', 'bias', 'runningMean', 'runningVar'] as const) {
    expect(again[name] === null).toBe(bn[name] === null);
    expect(again[name]?.constructor).toBe(bn[name]?.constructor);
    expectSame(again[name] ?? [], bn[name] ?? [], name);
  }
  expect(again.batchesTracked).toBe(bn.batchesTracked);
  expect(again.rejectedUpdates).toBe(bn.rejectedUpdates);
  expect(again.training).toBe(bn.training);
}

describe(`a layer as JSON (${seedNote})`, () => {
  it('comes back bit for bit, and goes on alike', () => {
    const random = new Random();
    for (let round = 0; round < 300; round++) {
      const bn = randomLayer(random);
      const text = JSON.stringify(bn);
      const again = BatchNorm.fromJSON<DType>(JSON.parse(text));
      expectAlike(again, bn);
      expect(JSON.stringify(again)).toBe(text);
      expectAlike(BatchNorm.fromJSON(bn.toJSON()), bn);
      for (const layer of [bn, again]) {
        layer.train();
        layer.runningVar?.forEach((value, i, array) => {
          if (value < 0) array[i] = 1;
        });
      }
      for (let batch = 0; batch < 2; batch++) {
        const x = batchFor(random, bn);
        expectSame(again.forward(x).data, bn.forward(x).data, 'y');
      }
      expectAlike(again, bn);
    }
  });

  it('has strings where JSON has no number, and nothing that is undefined', () => {
    const bn = new BatchNorm(4, { decay: 'cumulative', convention: 'keras' }).eval();
    bn.weight?.set([Number.NaN, Infinity, -Infinity, -0]);
    expect(bn.toJSON()).toStrictEqual({
      type: 'BatchNorm',
      version: 1,
      channels: 4,
      config: {
        axis: 1,
        eps: 1e-3,
        dtype: 'float32',
        decay: 'cumulative',
        unbiasedRunningVar: false,
        weight: true,
        bias: true,
        trackRunningStats: true,
        reuse: false,
        singleValue: 'throw',
        missing: 'propagate',
        convention: 'keras',
      },
      state: {
        weight: ['NaN', 'Infinity', '-Infinity', '-0'],
        bias: [0, 0, 0, 0],
        running_mean: [0, 0, 0, 0],
        running_var: [1, 1, 1, 1],
        num_batches_tracked: 0,
      },
      training: false,
      rejectedUpdates: 0,
      acceptedBatches: [0, 0, 0, 0],
    });
  });

  it('carries a network through text (f06)', () => {
    const layers = [new BatchNorm(2), new BatchNorm(3, { axis: -1 })];
    layers[0].forward({ data: Float32Array.of(1, 2, 3, 5), shape: [2, 2] });
    const text = JSON.stringify({ layers });
    const again = (JSON.parse(text) as { layers: Wrong[] }).layers.map((json) => BatchNorm.fromJSON(json));
    again.forEach((layer, i) => {
      expectAlike(layer, layers[i]);
    });
  });

  it('has nothing of what the layer goes on with', () => {
    const bn = new BatchNorm(2);
    const json = bn.toJSON();
    const before = structuredClone(json);
    bn.forward({ data: Float32Array.of(1, 2, 3, 5), shape: [2, 2] });
    bn.weight?.fill(7);
    expect(json).toEqual(before);
    const again = BatchNorm.fromJSON(json);
    json.state.weight?.fill(9);
    expect(again.weight).toEqual(Float32Array.of(1, 1));
  });

  it('is not written where an array of the layer is detached', () => {
    const bn = new BatchNorm(2);
    const buffer = bn.runningVar?.buffer as ArrayBuffer;
    structuredClone(buffer, { transfer: [buffer] });
    expect(() => bn.toJSON()).toThrow('runningVar must keep its length');
  });
});

describe(`a frozen layer as JSON (${seedNote})`, () => {
  it('gives the same bits', () => {
    const random = new Random();
    for (let round = 0; round < 200; round++) {
      const channels = random.integer(1, 6);
      const [mean, variance] = [0, 1].map(() => generate('float64', channels, () => random.uniform(0, 4)));
      const options = {
        axis: random.pick([1, -1]),
        eps: random.pick([1e-5, 1e-3]),
        dtype: random.pick([undefined, ...dtypes]),
        activation: random.pick([undefined, 'relu' as const]),
      };
      const given = {
        ...(random.integer(0, 1) && { weight: randomNormals(random, random.pick(dtypes), channels) }),
        ...(random.integer(0, 1) && { bias: randomNormals(random, random.pick(dtypes), channels) }),
      };
      const state = FrozenBatchNorm.from({ ...given, running_mean: mean, running_var: variance }, options);
      const frozen: FrozenBatchNorm = random.integer(0, 1)
        ? state
        : compose(state.activation ? { mean, variance } : state, { mean, variance });
      const text = JSON.stringify(frozen);
      const again = FrozenBatchNorm.fromJSON(JSON.parse(text));
      expect(JSON.stringify(again)).toBe(text);
      for (const name of ['channels', 'axis', 'eps', 'dtype', 'activation'] as const)
        expect(again[name]).toBe(frozen[name]);
      for (const dtype of frozen.dtype === undefined ? dtypes : [frozen.dtype]) {
        const x = { data: randomNormals(random, dtype, channels * 5), shape: [5, channels] };
        expectSame(again.run(x).data, frozen.run(x).data, 'y');
      }
    }
  });

  it('may have values that are not finite, and have been disposed of', () => {
    const bn = new BatchNorm(3);
    bn.runningMean?.set([Number.NaN, -0, 1]);
    bn.runningVar?.set([1, Infinity, Number.NaN]);
    const frozen = bn.freeze();
    frozen[Symbol.dispose]();
    const json = frozen.toJSON();
    expect(json).toStrictEqual({
      type: 'FrozenBatchNorm',
      version: 1,
      channels: 3,
      config: { axis: 1, eps: 1e-5, dtype: 'float32' },
      state: {
        weight: [1, 1, 1],
        bias: [0, 0, 0],
        running_mean: ['NaN', '-0', 1],
        running_var: [1, 'Infinity', 'NaN'],
      },
    });
    expect(FrozenBatchNorm.fromJSON(JSON.parse(JSON.stringify(json))).toJSON()).toStrictEqual(json);
  });
});

describe('JSON that is no layer', () => {
  const layer = () => JSON.parse(JSON.stringify(new BatchNorm(2, { decay: 'cumulative' }))) as Wrong;
  const frozen = () => JSON.parse(JSON.stringify(new BatchNorm(2).freeze())) as Wrong;
  const without = (json: Wrong, path: string) => {
    const names = path.split('.');
    const last = names.pop() as string;
    delete names.reduce((object, name) => object[name], json)[last];
    return json;
  };
  const withValue = (json: Wrong, path: string, value: unknown) => {
    const names = path.split('.');
    const last = names.pop() as string;
    names.reduce((object, name) => object[name], json)[last] = value;
    return json;
  };
  const failure = (read: (json: Wrong) => unknown, json: unknown) => {
    try {
      read(json);
    } catch (error) {
      const { name, code, message } = error as Error & { code: string };
      expectListed(message);
      return [name, code.replace('ERR_BATCHNORM_', ''), message];
    }
    throw new Error('the call must throw');
  };

  const missing: [path: string, message: string, name?: string][] = [
    ['type', "json.type must be 'BatchNorm', got undefined", 'RangeError'],
    ['version', 'json.version must be 1, got undefined', 'RangeError'],
    ['channels', 'json.channels must be an integer from 1 to 2147483647, got undefined'],
    ['config', 'json.config must be an object, got undefined'],
    ['config.eps', 'json.config.eps must be given, got undefined'],
    ['config.axis', 'json.config.axis must be given, got undefined'],
    ['config.decay', 'json.config.decay must be given, got undefined'],
    ['config.reuse', 'json.config.reuse must be given, got undefined'],
    ['state', 'json.state must be an object, got undefined'],
    ['state.weight', 'json.state.weight must be an array of numbers, got undefined'],
    ['state.bias', 'json.state.bias must be an array of numbers, got undefined'],
    ['state.running_mean', 'json.state.running_mean must be an array of numbers, got undefined'],
    ['state.running_var', 'json.state.running_var must be an array of numbers, got undefined'],
    [
      'state.num_batches_tracked',
      'json.state.num_batches_tracked must be an integer from 0 on, got undefined',
    ],
    ['training', 'json.training must be true or false, got undefined'],
    ['rejectedUpdates', 'json.rejectedUpdates must be an integer from 0 on, got undefined'],
    ['acceptedBatches', 'json.acceptedBatches must be an array of numbers, got undefined'],
  ];
  it.each(missing)('is refused without %s', (path, message, name = 'TypeError') => {
    const reason = name === 'TypeError' ? 'INVALID_TYPE' : 'INVALID_VALUE';
    expect(failure(BatchNorm.fromJSON, without(layer(), path))).toEqual([name, reason, message]);
  });

  const wrong: [path: string, value: unknown, name: string, reason: string, message: string][] = [
    [
      'type',
      'FrozenBatchNorm',
      'RangeError',
      'INVALID_VALUE',
      `json.type must be 'BatchNorm', got "FrozenBatchNorm"`,
    ],
    ['version', 2, 'RangeError', 'INVALID_VALUE', 'json.version must be 1, got 2'],
    ['version', '1', 'RangeError', 'INVALID_VALUE', 'json.version must be 1, got "1"'],
    [
      'channels',
      3,
      'RangeError',
      'INVALID_VALUE',
      'json.state.weight must have 3 values (one per channel), got 2',
    ],
    [
      'channels',
      2 ** 31 - 1,
      'RangeError',
      'INVALID_VALUE',
      'json.state.weight must have 2147483647 values (one per channel), got 2',
    ],
    [
      'extra',
      1,
      'TypeError',
      'UNKNOWN_OPTION',
      'json must only have type, version, channels, config, state, training, rejectedUpdates, acceptedBatches, got "extra"',
    ],
    [
      'state.gamma',
      [1, 1],
      'TypeError',
      'UNKNOWN_OPTION',
      'json.state must only have weight, bias, running_mean, running_var, num_batches_tracked, got "gamma"',
    ],
    [
      'config.momentum',
      0.9,
      'TypeError',
      'UNKNOWN_OPTION',
      'json.config must only have axis, eps, dtype, decay, unbiasedRunningVar, weight, bias, trackRunningStats, activation, reuse, singleValue, missing, virtualBatchSize, renorm, convention, got "momentum"',
    ],
    ['config.eps', -1, 'RangeError', 'INVALID_VALUE', 'eps must be a finite number from 0 on, got -1'],
    [
      'config.weight',
      false,
      'RangeError',
      'INVALID_VALUE',
      'json.state.weight must be absent (the layer has none), got a value',
    ],
    [
      'config.decay',
      0.5,
      'RangeError',
      'INVALID_VALUE',
      'json.acceptedBatches must be absent (the layer has none), got a value',
    ],
    [
      'state.weight',
      [1, 1, 1],
      'RangeError',
      'INVALID_VALUE',
      'json.state.weight must have 2 values (one per channel), got 3',
    ],
    [
      'state.weight',
      [1, 'abc'],
      'TypeError',
      'INVALID_TYPE',
      `json.state.weight[1] must be a number, 'NaN', 'Infinity', '-Infinity' or '-0', got "abc"`,
    ],
    [
      'state.weight',
      [1, '1'],
      'TypeError',
      'INVALID_TYPE',
      `json.state.weight[1] must be a number, 'NaN', 'Infinity', '-Infinity' or '-0', got "1"`,
    ],
    [
      'state.weight',
      [1, null],
      'TypeError',
      'INVALID_TYPE',
      `json.state.weight[1] must be a number, 'NaN', 'Infinity', '-Infinity' or '-0', got null`,
    ],
    [
      'state.weight',
      { 0: 1, 1: 1 },
      'TypeError',
      'INVALID_TYPE',
      'json.state.weight must be an array of numbers, got an object',
    ],
    [
      'state.weight',
      [1, 1e39],
      'RangeError',
      'INVALID_VALUE',
      'json.state.weight[1] must be finite in float32, got 1e+39',
    ],
    [
      'state.num_batches_tracked',
      -1,
      'RangeError',
      'INVALID_VALUE',
      'json.state.num_batches_tracked must be an integer from 0 on, got -1',
    ],
    [
      'rejectedUpdates',
      0.5,
      'RangeError',
      'INVALID_VALUE',
      'json.rejectedUpdates must be an integer from 0 on, got 0.5',
    ],
    ['training', 'yes', 'TypeError', 'INVALID_TYPE', 'json.training must be true or false, got "yes"'],
    [
      'acceptedBatches',
      [0, -1],
      'RangeError',
      'INVALID_VALUE',
      'json.acceptedBatches[1] must be an integer from 0 on, got -1',
    ],
    [
      'acceptedBatches',
      [0, 'NaN'],
      'RangeError',
      'INVALID_VALUE',
      'json.acceptedBatches[1] must be an integer from 0 on, got NaN',
    ],
  ];
  it.each(wrong)('is refused with %s %j', (path, value, ...expected) => {
    expect(failure(BatchNorm.fromJSON, withValue(layer(), path, value))).toEqual(expected);
  });

  const notThere = (json: Wrong) =>
    withValue(withValue(json, 'config.trackRunningStats', false), 'acceptedBatches', undefined);
  it.each([
    [
      'the text of it',
      () => JSON.stringify(new BatchNorm(1)),
      'json must be an object, got "{\\"type\\":\\"BatchNorm\\",\\"version\\":1,\\"channel…"; JSON.parse() it first',
    ],
    ['null', () => null, 'json must be an object, got null'],
    ['a typed array', () => new Float64Array(2 ** 27), 'json must be an object, got Float64Array'],
    ['an array', () => [layer()], 'json must be an object, got an array'],
  ])('is refused as %s', (_, json, message) => {
    expect(failure(BatchNorm.fromJSON, json())).toEqual(['TypeError', 'INVALID_TYPE', message]);
    expect(failure(FrozenBatchNorm.fromJSON, json())).toEqual(['TypeError', 'INVALID_TYPE', message]);
  });

  it('is refused with statistics that the layer has not', () => {
    expect(failure(BatchNorm.fromJSON, notThere(layer()))[2]).toBe(
      'json.state.running_mean must be absent (the layer has none), got a value',
    );
  });

  it.each([
    ['type', 'BatchNorm', `json.type must be 'FrozenBatchNorm', got "BatchNorm"`],
    ['version', 0, 'json.version must be 1, got 0'],
    ['channels', 0, 'json.channels must be an integer from 1 to 2147483647, got 0'],
    ['config.axis', 'x', 'json.config.axis must be an integer, got "x"'],
    ['config.eps', Number.NaN, 'json.config.eps must be a finite number from 0 on, got NaN'],
    ['config.dtype', 'float16', `json.config.dtype must be 'float32' or 'float64', got "float16"`],
    ['config.activation', 'gelu', `json.config.activation must be 'relu', got "gelu"`],
    ['config.decay', 0.9, 'json.config must only have axis, eps, dtype, activation, missing, got "decay"'],
    ['state.running_mean', undefined, 'json.state.running_mean must be an array of numbers, got undefined'],
    ['state.running_var', [1], 'json.state.running_var must have 2 values (one per channel), got 1'],
    [
      'state.num_batches_tracked',
      1,
      'json.state must only have weight, bias, running_mean, running_var, got "num_batches_tracked"',
    ],
    ['training', true, 'json must only have type, version, channels, config, state, got "training"'],
  ] as const)('is refused by a frozen layer with %s %s', (path, value, message) => {
    expect(failure(FrozenBatchNorm.fromJSON, withValue(frozen(), path, value))[2]).toBe(message);
  });

  it('has nothing of Object.prototype, and each field is read once', () => {
    const prototype = Object.prototype as Wrong;
    try {
      prototype.training = true;
      prototype.activation = 'relu';
      expect(failure(BatchNorm.fromJSON, without(layer(), 'training'))[2]).toBe(
        'json.training must be true or false, got undefined',
      );
      expect(BatchNorm.fromJSON(layer()).config.activation).toBe(undefined);
      expect(FrozenBatchNorm.fromJSON(frozen()).activation).toBe(undefined);
    } finally {
      delete prototype.training;
      delete prototype.activation;
    }
    let reads = 0;
    const shifty = Object.defineProperty(layer(), 'channels', {
      enumerable: true,
      get: () => (reads++ === 0 ? 2 : 1000),
    });
    expect(BatchNorm.fromJSON(shifty).channels).toBe(2);
    expect(reads).toBe(1);
  });
});

describe('a layer that is printed', () => {
  it('shows its settings, its mode and the batches seen', () => {
    const bn = new BatchNorm(64, { axis: -1, decay: 'cumulative', activation: 'relu', convention: 'onnx' });
    const settings =
      "BatchNorm(64, { axis: -1, eps: 0.00001, dtype: 'float32', decay: 'cumulative', unbiasedRunningVar: false, weight: true, bias: true, trackRunningStats: true, activation: 'relu', reuse: false, singleValue: 'throw', missing: 'propagate', convention: 'onnx' })";
    expect(inspect(bn)).toBe(`${settings}, training, 0 batches seen; toJSON() can be saved and sent`);
    bn.forward({ data: new Float32Array(128), shape: [2, 64] });
    expect(inspect(bn)).toBe(`${settings}, training, 1 batch seen; toJSON() can be saved and sent`);
    expect(inspect([bn.eval()])).toBe(
      `[\n  ${settings}, evaluation, 1 batch seen; toJSON() can be saved and sent\n]`,
    );
  });

  it('shows what is frozen', () => {
    const frozen = new BatchNorm(3, { eps: 1e-3 }).freeze({ activation: 'relu' });
    const settings = "FrozenBatchNorm(3, { axis: 1, eps: 0.001, dtype: 'float32', activation: 'relu' })";
    expect(inspect(frozen)).toBe(`${settings}; toJSON() can be saved and sent`);
    frozen[Symbol.dispose]();
    expect(inspect(frozen)).toBe(`${settings}, disposed of; toJSON() can be saved and sent`);
  });

  it('may be a proxy or a prototype, without an error', () => {
    for (const layer of [new BatchNorm(2), new BatchNorm(2).freeze()]) {
      const { name } = layer.constructor;
      expect(() => inspect(Object.getPrototypeOf(layer))).not.toThrow();
      expect(inspect(new Proxy(layer, {}))).toBe(`${name} {}`);
      expect(inspect(Object.create(layer))).toBe(`${name} {}`);
    }
  });
});

describe.runIf('markAsUncloneable' in workerThreads)('a layer that is cloned or sent', () => {
  it('is refused', () => {
    const { port1 } = new MessageChannel();
    for (const layer of [new BatchNorm(2), new BatchNorm(2).freeze()]) {
      expect(() => structuredClone(layer)).toThrow(/could not be cloned|Cannot clone/);
      expect(() => port1.postMessage({ layer })).toThrow(/could not be cloned|Cannot clone/);
      expect(structuredClone(layer.toJSON())).toEqual(layer.toJSON());
    }
    port1.close();
  });
});
