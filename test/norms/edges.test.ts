// What a search for faults found once, of each kind.
import {
  FrozenNorm,
  GroupNorm,
  groupNorm,
  groupNormBackward,
  InstanceNorm,
  LayerNorm,
  layerNorm,
  RMSNorm,
  rmsNormBackward,
} from 'batchnorm';
import { afterEach, describe, expect, it } from 'vitest';
import { errorOf } from '../support/error-of.js';

const wave = (size: number, scale = 1) =>
  Float32Array.from({ length: size }, (_, i) => Math.sin(7 * i + 1) * scale);
const tensor = (shape: readonly number[], scale = 1) => ({
  data: wave(
    shape.reduce((a, b) => a * b, 1),
    scale,
  ),
  shape,
});

describe('an empty batch', () => {
  it.each([[[0, 4]], [[0, 2, 3, 4]], [[5, 0, 4]]])(
    'of shape %j gives an empty y and no gradients',
    (shape) => {
      const norm = new LayerNorm(4);
      const x = { data: new Float32Array(0), shape };
      expect(norm.forward(x).data).toHaveLength(0);
      const { dx, dWeight } = norm.backward(x);
      expect(dx?.data).toHaveLength(0);
      expect(dWeight).toEqual(new Float32Array(4));
      expect(layerNorm(x).y.data).toHaveLength(0);
      expect(norm.freeze().run(x).data).toHaveLength(0);
    },
  );

  it('takes no memory for statistics that nobody can have', () => {
    const x = { data: new Float32Array(0), shape: [2 ** 40, 4, 0] };
    expect(new GroupNorm(2, 4).forward(x).data).toHaveLength(0);
    expect(new GroupNorm(2, 4).freeze().run(x).data).toHaveLength(0);
  });
});

describe('half a backward behind a residual and a ReLU', () => {
  it.each(['sync', 'async'])('has the gradients of the parameters: %s', async (mode) => {
    const make = () => {
      const norm = new GroupNorm(2, 4, { activation: 'relu' });
      norm.forward(tensor([2, 4, 6]), { residual: tensor([2, 4, 6], 0.5) });
      return norm;
    };
    const whole = make().backward(tensor([2, 4, 6], 2));
    const norm = make();
    const half =
      mode === 'sync'
        ? norm.backward(tensor([2, 4, 6], 2), { only: 'parameters' })
        : await norm.backwardAsync(tensor([2, 4, 6], 2), { only: 'parameters' });
    expect(half.dWeight).toEqual(whole.dWeight);
    expect(half.dBias).toEqual(whole.dBias);
    expect(half.dResidual).toBeUndefined();
  });
});

describe('what is not finite in one group', () => {
  const dy = { data: Float32Array.of(1, 0, 2, 1, 1, 3, 1, 2, 1, 1, 2, 0), shape: [1, 12] };
  const x = Float32Array.of(4, 2, 3, 5, 2, 1, 7, 3, 2, 6, 1, 1);

  it.each([NaN, Infinity])('stays there: %s in x', (value) => {
    const broken = x.slice();
    broken[0] = value;
    const options = { groups: 3 };
    const right = groupNormBackward(dy, { data: x, shape: [1, 12] }, options);
    const { dx, dWeight } = groupNormBackward(dy, { data: broken, shape: [1, 12] }, options);
    expect(dWeight.slice(4)).toEqual(right.dWeight.slice(4));
    expect(dx.data.slice(4)).toEqual(right.dx.data.slice(4));
  });

  it('stays there: NaN in a weight', () => {
    const weight = new Float32Array(12).fill(1);
    const right = groupNormBackward(dy, { data: x, shape: [1, 12] }, { groups: 3, weight });
    weight[6] = NaN;
    const { dx } = groupNormBackward(dy, { data: x, shape: [1, 12] }, { groups: 3, weight });
    expect(dx.data.slice(0, 4)).toEqual(right.dx.data.slice(0, 4));
    expect(dx.data.slice(8)).toEqual(right.dx.data.slice(8));
    expect(dx.data[5]).toBeNaN();
  });
});

describe('Object.prototype', () => {
  const prototype = Object.prototype as unknown as Record<string, unknown>;
  afterEach(() => {
    for (const name of ['shape', 'groups', 'channels']) delete prototype[name];
  });

  it('makes no norm another', () => {
    const x = tensor([1, 2, 4]);
    const right = new InstanceNorm(2).forward(x).data;
    prototype.shape = [2, 4];
    expect(new InstanceNorm(2).forward(x).data).toEqual(right);
    expect(new GroupNorm(2, 2).weight).toHaveLength(2);
  });

  it.each(['groups', 'channels', 'shape'])('gives JSON no field: %s', (name) => {
    const layers = [new LayerNorm(4), new RMSNorm(4), new InstanceNorm(4), new GroupNorm(2, 4)];
    const texts = layers.map((layer) => JSON.stringify(layer));
    prototype[name] = 5;
    expect(JSON.stringify(LayerNorm.fromJSON(JSON.parse(texts[0])))).toBe(texts[0]);
    expect(JSON.stringify(RMSNorm.fromJSON(JSON.parse(texts[1])))).toBe(texts[1]);
    expect(JSON.stringify(InstanceNorm.fromJSON(JSON.parse(texts[2])))).toBe(texts[2]);
    expect(JSON.stringify(GroupNorm.fromJSON(JSON.parse(texts[3])))).toBe(texts[3]);
    const frozen = JSON.stringify(layers[0].freeze());
    expect(JSON.stringify(FrozenNorm.fromJSON(JSON.parse(frozen)))).toBe(frozen);
  });
});

describe('deviations that are very large or very small', () => {
  it.each([
    [[1, 2, 20], 1],
    [[1, 20, 2], -1],
    [[1, 4, 2, 5], 2],
  ] as const)('leave the gradient behind a ReLU what it is without: %j', (shape, axis) => {
    for (const scale of [1e22, 1e19, 1, 1e-18]) {
      const gradient = (activation: 'relu' | undefined) => {
        const norm = new GroupNorm(1, 2, { axis, activation, eps: scale < 1 ? 0 : 1e-5 });
        // Large enough that the ReLU lets all through.
        norm.bias?.fill(10);
        norm.forward(tensor(shape, scale));
        const dx = norm.backward({ ...tensor(shape), data: tensor(shape).data.map(Math.cos) }).dx;
        return Array.from(dx?.data ?? [], (value) => value * scale);
      };
      const right = gradient(undefined);
      const largest = Math.max(...right.map(Math.abs));
      gradient('relu').forEach((value, i) => {
        expect(Math.abs(value - right[i]) / largest).toBeLessThan(2e-6);
      });
    }
  });
});

describe('one value per sample and channel', () => {
  it('is refused by an instance norm, frozen too, with what helps', () => {
    const x = tensor([2, 4, 1, 1]);
    const message =
      'an instance norm needs more than one value per sample and channel, got shape [2, 4, 1, 1]';
    expect(errorOf(() => new InstanceNorm(4).forward(x))).toHaveProperty('message', message);
    expect(errorOf(() => new InstanceNorm(4).freeze().run(x))).toHaveProperty('message', message);
    const tracking = new InstanceNorm(4, { trackRunningStats: true });
    expect(errorOf(() => tracking.forward(x))).toHaveProperty('message', `${message}; call eval()`);
    expect(tracking.eval().forward(x).shape).toEqual([2, 4, 1, 1]);
  });

  it('is the bias in a group norm', () => {
    const bias = Float32Array.of(1, 2);
    expect(groupNorm(tensor([3, 2]), { groups: 2, bias }).y.data).toEqual(Float32Array.of(1, 2, 1, 2, 1, 2));
  });
});

describe('RMS norm', () => {
  it('takes the weight of Keras under the name that it has there', () => {
    const norm = new RMSNorm(2, { convention: 'keras' }).loadStateDict({ scale: [2, 3] });
    expect(norm.weight).toEqual(Float32Array.of(2, 3));
  });

  it('has mean 0, whatever its backward is given', () => {
    const x = tensor([2, 5]);
    const right = rmsNormBackward(x, x);
    const variance = Float64Array.from([0, 1], (row) => {
      const values = Array.from(x.data.subarray(5 * row, 5 * row + 5));
      return values.reduce((sum, value) => sum + value * value, 0) / 5;
    });
    const { dx } = rmsNormBackward(x, x, { mean: Float64Array.of(5, 5), variance });
    dx.data.forEach((value, i) => {
      expect(value).toBeCloseTo(right.dx.data[i], 5);
    });
  });
});
