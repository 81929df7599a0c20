// Layers of group, instance, layer and RMS norm: parameters, states, JSON, pending forwards, running statistics.
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { GroupNorm, InstanceNorm, LayerNorm, RMSNorm } from '../../lib/index.js';
import { drawFor, goBack, layerOf, normalize, passOf, smallNorms, titleOf } from '../support/norm-cases.js';
import { type Norm, normForward, placesOf } from '../support/norm-reference.js';
import { Random, seedNote } from '../support/random.js';
import { dtypes, expectClose, expectSame, typed, zeros } from '../support/tensors.js';

// biome-ignore lint/suspicious/noExplicitAny: layers of four classes
type Any = any;

const each = smallNorms.map((norm, index) => ({ norm, index, title: titleOf(norm) }));
const eachDtype = dtypes.flatMap((dtype) => each.map((one) => ({ ...one, dtype })));
const classes = { group: GroupNorm, instance: InstanceNorm, layer: LayerNorm, rms: RMSNorm } as Any;
const names = { group: 'GroupNorm', instance: 'InstanceNorm', layer: 'LayerNorm', rms: 'RMSNorm' } as const;

const noForward = expect.objectContaining({ code: 'ERR_BATCHNORM_NO_FORWARD' });

/** A layer whose parameters are not those of a new one. */
function drawnLayer(norm: Norm, dtype: (typeof dtypes)[number], index: number, options: object = {}) {
  const drawn = drawFor(new Random(index), norm, dtype);
  const layer = layerOf(norm, { dtype, ...options });
  layer.weight?.set(drawn.weight);
  layer.bias?.set(drawn.bias);
  return { ...drawn, layer };
}

describe(`parameters (${seedNote})`, () => {
  it.each(eachDtype)(
    'are those that there are, in the dtype of the layer: $title, $dtype',
    ({ norm, dtype }) => {
      const { parameters: count } = placesOf(norm);
      const layer = layerOf(norm, { dtype });
      const expected = norm.kind === 'rms' ? ['weight'] : ['weight', 'bias'];
      expect(layer.parameters().map(({ name }: Any) => name)).toEqual(expected);
      for (const { name, value, grad } of layer.parameters()) {
        expect(value).toBe(layer[name]);
        expect(value).toEqual(zeros(dtype, count).fill(name === 'weight' ? 1 : 0));
        expect(grad).toEqual(zeros(dtype, count));
      }
      const bare = layerOf(norm, { dtype, weight: false, bias: false });
      expect(bare.parameters()).toEqual([]);
      expect([bare.weight ?? undefined, bare.bias ?? undefined]).toEqual([undefined, undefined]);
    },
  );

  it.each(eachDtype)(
    'have the gradients of the last backward, or their sum: $title, $dtype',
    ({ norm, dtype, index }) => {
      const { layer, x, dy } = drawnLayer(norm, dtype, index);
      layer.forward(x);
      const first = layer.backward(dy);
      for (const { name, grad } of layer.parameters())
        expectSame(grad, name === 'weight' ? first.dWeight : first.dBias, name);
      layer.forward(x);
      const second = layer.backward(dy, { accumulate: true });
      expectSame(second.dWeight, first.dWeight, 'the dWeight of this call');
      const [{ grad }] = layer.parameters();
      expectSame(
        grad,
        first.dWeight.map((value: number) => value + value),
        'the sum',
      );
      layer.zeroGrad();
      for (const parameter of layer.parameters())
        expect(parameter.grad.every((value: number) => value === 0)).toBe(true);
    },
  );

  it.each(each)('are written to, not replaced: $title', ({ norm }) => {
    const layer = layerOf(norm);
    const { weight } = layer;
    expect(() => {
      layer.weight = new Float32Array(weight.length);
    }).toThrow(expect.objectContaining({ message: expect.stringContaining('weight.set(') }));
    expect(layer.weight).toBe(weight);
  });
});

describe(`a forward (${seedNote})`, () => {
  it.each(each)('is gone back through once, whichever is asked for: $title', ({ norm, index }) => {
    const { layer, x, dy, residual, weight, bias } = drawnLayer(norm, 'float32', index);
    const expected = [x, residual].map((input) =>
      goBack(norm, dy, input, { weight, bias, eps: epsOf(norm) }),
    );
    const [first, second] = [layer.forward(x), layer.forward(residual)];
    expectSame(layer.backward(dy, { of: first }).dx.data, expected[0].dx.data, 'dx of the first');
    expect(() => layer.backward(dy, { of: first })).toThrow(noForward);
    expectSame(layer.backward(dy).dx.data, expected[1].dx.data, 'dx of the second');
    expect(() => layer.backward(dy)).toThrow(noForward);
    expect(() => layer.backward(dy, { of: second })).toThrow(noForward);
    expect(() => layer.backward(dy, { of: { data: x.data, shape: x.shape } })).toThrow(noForward);
  });

  it.each(
    each.flatMap((one) => [
      { ...one, behind: 'nothing', fused: false },
      { ...one, behind: 'a residual and a ReLU', fused: true },
    ]),
  )('is kept by retain, and gone through in halves: $title, $behind behind', ({ norm, index, fused }) => {
    const { layer, x, dy } = drawnLayer(norm, 'float32', index, fused ? { activation: 'relu' } : {});
    const y = layer.forward(x, fused ? { residual: dy } : {});
    const whole = layer.backward(dy, { retain: true });
    const input = layer.backward(dy, { of: y, only: 'input' });
    const parameters = layer.backward(dy, { of: y, only: 'parameters' });
    expect(Object.keys(input)).toEqual(fused ? ['dx', 'dResidual'] : ['dx']);
    expect(parameters.dx).toBeUndefined();
    expectSame(input.dx.data, whole.dx.data, 'dx');
    expectSame(parameters.dWeight, whole.dWeight, 'dWeight');
    expectSame(parameters.dBias ?? [], whole.dBias ?? [], 'dBias');
    expect(() => layer.backward(dy, { of: y })).toThrow(noForward);
  });

  it.each(each)('holds no more after clear, nor is there one before the first: $title', ({ norm, index }) => {
    const { layer, x, dy } = drawnLayer(norm, 'float32', index);
    expect(() => layer.backward(dy)).toThrow(noForward);
    const y = layer.forward(x);
    layer.clear();
    expect(() => layer.backward(dy, { of: y })).toThrow(noForward);
  });

  it.each(each)('needs its x as it was: $title', ({ norm, index }) => {
    const { layer, x, dy } = drawnLayer(norm, 'float32', index);
    layer.forward(x);
    x.data.fill(3);
    expect(() => layer.backward(dy)).toThrow(
      expect.objectContaining({ code: 'ERR_BATCHNORM_INPUT_OVERWRITTEN' }),
    );
    layer.forward(x, { out: x.data });
    expect(() => layer.backward(dy)).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_/) }),
    );
  });

  it.each(each)('keeps the weight that it used: $title', ({ norm, index }) => {
    const { layer, x, dy, weight, bias } = drawnLayer(norm, 'float32', index);
    const expected = goBack(norm, dy, x, { weight: weight.slice(), bias, eps: epsOf(norm) });
    layer.forward(x);
    layer.weight.fill(7);
    expectSame(layer.backward(dy).dx.data, expected.dx.data, 'dx');
  });

  it.each(each)('is the same in evaluation, backward too: $title', ({ norm, index }) => {
    const { layer, x, dy } = drawnLayer(norm, 'float32', index);
    expect(layer.training).toBe(true);
    const y = layer.forward(x);
    const { dx } = layer.backward(dy);
    expect(layer.eval()).toBe(layer);
    expect(layer.training).toBe(false);
    expectSame(layer.forward(x).data, y.data, 'y');
    expectSame(layer.backward(dy).dx.data, dx.data, 'dx');
    expect(layer.train().training).toBe(true);
  });

  it.each(each)('rejects where its backward follows one that fails: $title', async ({ norm, index }) => {
    const { layer, x, dy } = drawnLayer(norm, 'float32', index);
    layer.forward(x);
    const [failed, back] = await Promise.allSettled([
      layer.forwardAsync({ data: new Float32Array(1), shape: x.shape }),
      layer.backwardAsync(dy),
    ]);
    expect([failed.status, back.status]).toEqual(['rejected', 'rejected']);
    expect((back as PromiseRejectedResult).reason).toEqual(noForward);
  });

  it('of nothing gives nothing', () => {
    const x = { data: new Float32Array(0), shape: [0, 4, 3] };
    for (const layer of [
      new GroupNorm(2, 4),
      new InstanceNorm(4),
      new LayerNorm([4, 3]),
      new RMSNorm(3),
    ] as Any[]) {
      const y = layer.forward(x);
      expect(y.shape).toEqual([0, 4, 3]);
      expect(y.data).toHaveLength(0);
      const gradients = layer.backward(x);
      expect(gradients.dx.data).toHaveLength(0);
      for (const name of ['dWeight', 'dBias'])
        expect((gradients[name] ?? new Float32Array(1)).every((value: number) => value === 0)).toBe(true);
    }
  });
});

/** Of a layer of which none was said. */
function epsOf({ kind }: Norm): number {
  return kind === 'rms' ? 2 ** -23 : 1e-5;
}

describe(`a state (${seedNote})`, () => {
  it.each(eachDtype)('has the names of PyTorch, and copies: $title, $dtype', ({ norm, dtype, index }) => {
    const { layer, weight, x } = drawnLayer(norm, dtype, index);
    const state = layer.stateDict();
    expect(Object.keys(state)).toEqual(norm.kind === 'rms' ? ['weight'] : ['weight', 'bias']);
    expectSame(state.weight, weight, 'weight');
    expect(state.weight).not.toBe(layer.weight);
    const again = layerOf(norm, { dtype });
    again.loadStateDict(state);
    expectSame(again.forward(x).data, layer.forward(x).data, 'y');
  });

  it.each(each)('may be a part of a whole model: $title', ({ norm, index }) => {
    const { layer } = drawnLayer(norm, 'float32', index);
    const state: Any = { 'fc.weight': new Float32Array(3) };
    for (const [key, value] of Object.entries(layer.stateDict())) state[`blocks.1.norm.${key}`] = value;
    const again = layerOf(norm);
    again.loadStateDict(state, { prefix: 'blocks.1.norm' });
    expect(again.stateDict()).toEqual(layer.stateDict());
    expect(() => layerOf(norm).loadStateDict(state, { prefix: 'blocks.1' })).toThrow(
      expect.objectContaining({
        code: 'ERR_BATCHNORM_INVALID_VALUE',
        message: expect.stringContaining('blocks.1.norm'),
      }),
    );
  });

  it.each(each)('is refused whole where it lacks something or has more: $title', ({ norm, index }) => {
    const { layer } = drawnLayer(norm, 'float32', index);
    const before = layer.stateDict();
    const { weight } = before;
    for (const wrong of [
      {},
      { ...before, gamma: weight },
      { ...before, running_mean: weight },
      { ...before, weight: new Float32Array(weight.length + 1) },
      { ...before, weight: weight.map(() => Number.NaN) },
    ]) {
      expect(() => layer.loadStateDict(wrong)).toThrow(
        expect.objectContaining({
          code: expect.stringMatching(/^ERR_BATCHNORM_(INVALID_VALUE|INVALID_TYPE|UNKNOWN_OPTION)$/),
        }),
      );
      expect(layer.stateDict()).toEqual(before);
    }
    layer.loadStateDict({ weight: new Float32Array(weight.length).fill(4), other: 1 }, { strict: false });
    expect(layer.weight).toEqual(new Float32Array(weight.length).fill(4));
    expect(layer.bias ?? undefined).toEqual(before.bias);
  });

  it('of layer norm may have its shape', () => {
    const layer = new LayerNorm([2, 3]) as Any;
    const data = Float32Array.from({ length: 6 }, (_, i) => i);
    layer.loadStateDict({ weight: { data, shape: [2, 3] }, bias: { data, shape: [2, 3] } });
    expect(layer.weight).toEqual(data);
  });
});

describe(`JSON (${seedNote})`, () => {
  it.each(eachDtype)('gives the same layer, bit for bit: $title, $dtype', ({ norm, dtype, index }) => {
    for (const options of [
      {},
      { weight: false },
      { bias: false, eps: 1 / 3 },
      { activation: 'relu', reuse: true },
    ]) {
      const { layer, x, dy } = drawnLayer(norm, dtype, index, options);
      if (layer.weight) layer.weight[0] = -0;
      layer.eval();
      const text = JSON.stringify(layer);
      expect(JSON.parse(text).type).toBe(names[norm.kind]);
      const again = classes[norm.kind].fromJSON(JSON.parse(text));
      expect(again).toBeInstanceOf(classes[norm.kind]);
      expect(JSON.stringify(again)).toBe(text);
      expect(again.config).toEqual(layer.config);
      expect(again.training).toBe(false);
      for (const name of ['weight', 'bias']) expectSame(again[name] ?? [], layer[name] ?? [], name);
      expectSame(again.forward(x).data, layer.forward(x).data, 'y');
      expectSame(again.backward(dy).dx.data, layer.backward(dy).dx.data, 'dx');
    }
  });

  it.each(each)('is refused of another class: $title', ({ norm }) => {
    const json = layerOf(norm).toJSON();
    for (const [kind, Class] of Object.entries(classes) as Any[])
      if (kind !== norm.kind)
        expect(() => Class.fromJSON(json)).toThrow(
          expect.objectContaining({ code: expect.stringMatching(/^ERR_BATCHNORM_/) }),
        );
  });
});

describe('a layer', () => {
  it.each(each)('is printed with its settings: $title', ({ norm }) => {
    const printed = inspect(layerOf(norm, { eps: 0.25 }));
    expect(printed).toMatch(new RegExp(`^${names[norm.kind]}\\(`));
    expect(printed).toContain('eps: 0.25');
    expect(printed).toContain('toJSON()');
  });

  it.each(each)('has a config that is all of its options: $title', ({ norm }) => {
    const { config } = layerOf(norm, { eps: 0.25, reuse: true, bias: false });
    expect(config).toMatchObject({ eps: 0.25, reuse: true, weight: true, dtype: 'float32' });
    expect(Object.isFrozen(config)).toBe(true);
    if (norm.kind === 'group' || norm.kind === 'instance') expect(config.axis).toBe(norm.axis);
  });

  it('takes a number for a shape of one dimension', () => {
    const x = { data: Float32Array.of(1, 2, 3, 6), shape: [2, 2] };
    for (const Class of [LayerNorm, RMSNorm] as Any[])
      expect(new Class(2).forward(x)).toEqual(new Class([2]).forward(x));
    expect(normalize({ kind: 'layer', shape: [2, 2] }, x, { shape: 2 }).y.data).toEqual(
      (new LayerNorm(2) as Any).forward(x).data,
    );
  });

  it('owns its shape', () => {
    const shape = [2, 3];
    const layer = new LayerNorm(shape) as Any;
    shape[0] = 5;
    expect(layer.forward({ data: new Float32Array(12), shape: [2, 2, 3] }).shape).toEqual([2, 2, 3]);
  });
});

describe(`instance norm with running statistics (${seedNote})`, () => {
  const tracked = smallNorms.filter(({ kind }) => kind === 'instance');
  const cases = tracked.flatMap((norm) =>
    dtypes.flatMap((dtype) =>
      [true, false].map((unbiased) => ({ norm, dtype, unbiased, title: titleOf(norm) })),
    ),
  );

  it.each(cases)(
    'averages them over the samples: $title, $dtype, unbiased $unbiased',
    ({ norm, dtype, unbiased }) => {
      const decay = 0.75;
      const { layer, ...drawn } = drawnLayer(norm, dtype, 1, {
        trackRunningStats: true,
        decay,
        unbiasedRunningVar: unbiased,
      });
      const channels = layer.weight.length;
      const mean = new Float64Array(channels);
      const variance = new Float64Array(channels).fill(1);
      for (const x of [drawn.x, drawn.residual]) {
        const { x: values, eps, weight } = passOf(norm, dtype, x, 1e-5, drawn);
        const rows = normForward({ norm, x: values, eps, weight });
        const count = values.length / rows.mean.length;
        const samples = rows.mean.length / channels;
        const average = (of: Float64Array, c: number) =>
          Array.from({ length: samples }, (_, n) => of[n * channels + c]).reduce((sum, one) => sum + one) /
          samples;
        for (let c = 0; c < channels; c++) {
          mean[c] = decay * mean[c] + (1 - decay) * average(rows.mean, c);
          const factor = unbiased ? count / (count - 1) : 1;
          variance[c] = decay * variance[c] + (1 - decay) * average(rows.variance, c) * factor;
        }
        layer.forward(x);
      }
      expectClose(layer.runningMean, mean, 2e-6, 'runningMean');
      expectClose(layer.runningVar, variance, 2e-6 * 10, 'runningVar');
      expect(layer.batchesTracked).toBe(2);
      expect(Object.keys(layer.stateDict())).toEqual([
        'weight',
        'bias',
        'running_mean',
        'running_var',
        'num_batches_tracked',
      ]);

      // In evaluation it is batch norm's.
      layer.eval();
      const { data } = layer.forward(drawn.x);
      const { parameter } = placesOf(norm);
      const expected = Float64Array.from(drawn.x.data as Float32Array, (value, i) => {
        const c = parameter[i];
        const normalized = (value - layer.runningMean[c]) / Math.sqrt(layer.runningVar[c] + 1e-5);
        return normalized * (drawn.weight[c] as number) + (drawn.bias[c] as number);
      });
      expectClose(data, expected, 1e-5, 'y of evaluation');
      expectSame(layer.freeze().run(drawn.x).data, data, 'what is frozen');
      const { dx } = layer.backward(drawn.dy);
      const gradient = Float64Array.from(drawn.dy.data as Float32Array, (value, i) => {
        const c = parameter[i];
        return (value * (drawn.weight[c] as number)) / Math.sqrt(layer.runningVar[c] + 1e-5);
      });
      expectClose(dx.data, gradient, 1e-5, 'dx of evaluation');
      expect(layer.batchesTracked).toBe(2);
      const again = (InstanceNorm as Any).fromJSON(JSON.parse(JSON.stringify(layer)));
      expect(again.stateDict()).toEqual(layer.stateDict());
    },
  );

  it('takes one value per row in evaluation', () => {
    const layer = new InstanceNorm(2, { trackRunningStats: true, eps: 0 } as Any) as Any;
    const x = { data: Float32Array.of(3, -4), shape: [1, 2, 1] };
    expect(layer.eval().forward(x).data).toEqual(x.data);
    layer.train();
    const before = layer.stateDict();
    expect(() => layer.forward(x)).toThrow(
      expect.objectContaining({ code: 'ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL' }),
    );
    expect(layer.stateDict()).toEqual(before);
  });

  it('keeps what is not finite out of them', () => {
    const layer = new InstanceNorm(2, { trackRunningStats: true } as Any) as Any;
    layer.forward({ data: Float32Array.of(Number.NaN, 1, 2, 4), shape: [1, 2, 2] });
    expect(layer.runningMean[0]).toBe(0);
    expect(layer.runningVar[0]).toBe(1);
    expect(layer.runningMean[1]).toBeCloseTo(0.3, 6);
    expect(layer.rejectedUpdates).toBe(1);
  });

  it('has none by default', () => {
    const layer = new InstanceNorm(2) as Any;
    expect([layer.runningMean ?? undefined, layer.runningVar ?? undefined]).toEqual([undefined, undefined]);
    const x = { data: typed('float32', [1, 3, 2, 6]), shape: [1, 2, 2] };
    expectSame(layer.eval().forward(x).data, layer.train().forward(x).data, 'y of both modes');
  });
});
