import { describe, expect, it } from 'vitest';
import { install, installed, uninstall } from '../../lib/tfjs/index.js';
import { expectListed } from '../support/messages.js';
import { normBackward, normForward } from '../support/norm-reference.js';
import { Random } from '../support/random.js';
import { expectClose, largest } from '../support/tensors.js';
import { eachBackend, randomTensor, shapes, tf, valuesOf, withStock } from '../support/tfjs.js';

type Layer = ReturnType<typeof tf.layers.layerNormalization>;
type Args = Parameters<typeof tf.layers.layerNormalization>[0];

const eps = 1e-3;

/** Built, with parameters that are not those it starts with. */
function randomLayer(random: Random, shape: number[], args: Args = {}): Layer {
  const layer = tf.layers.layerNormalization(args);
  layer.build(shape);
  layer.setWeights(layer.weights.map((weight) => randomTensor(random, weight.shape as number[], 1, 0.5)));
  return layer;
}

const apply = (layer: Layer, x: tf.Tensor) => layer.apply(x) as tf.Tensor;

const named = (layer: Layer, name: string) => {
  const weight = layer.weights.find((variable) => variable.name.includes(name));
  return weight && valuesOf(weight.read());
};

function gradientsOf(layer: Layer, x: tf.Tensor, dy: tf.Tensor) {
  const variable = tf.variable(x);
  const { grads } = tf.variableGrads(() => apply(layer, variable).mul(dy).sum() as tf.Scalar);
  const entries = Object.entries(grads).map(([name, grad]) => {
    const known = ['gamma', 'beta'].find((parameter) => name.includes(parameter));
    return [known ?? 'x', valuesOf(grad)] as const;
  });
  variable.dispose();
  return Object.fromEntries(entries) as Partial<Record<'x' | 'gamma' | 'beta', Float32Array>>;
}

/** All that a layer gives, by TensorFlow.js' kernels or without them. */
function computed(layer: Layer, x: tf.Tensor, dy: tf.Tensor) {
  return { y: valuesOf(apply(layer, x)), ...gradientsOf(layer, x, dy) };
}

const parts = [{}, { scale: false }, { center: false }, { scale: false, center: false }];
/** Every number of last axes of every rank, the first of them too. */
const cases = shapes.flatMap((shape) =>
  shapes[0].flatMap((_, less) =>
    [1, 2, shape.length - less].map((dimensions, i) => ({ shape, dimensions, ...parts[(i + less) % 4] })),
  ),
);

/** Kernels that a call runs. */
async function kernelsOf(action: () => tf.Tensor): Promise<string[]> {
  const { kernelNames } = await tf.profile(action as never);
  return kernelNames;
}

eachBackend('tf.layers.layerNormalization', () => {
  it.each(cases)(
    'is the textbook’s: $shape, $dimensions dimensions, scale $scale, center $center',
    (given) => {
      const { shape, dimensions, ...args } = given;
      const random = new Random();
      const axis = Array.from({ length: dimensions }, (_, i) => i - dimensions);
      const layer = randomLayer(random, shape, { ...args, axis: dimensions === 1 ? -1 : axis });
      const x = randomTensor(random, shape, 3, 2);
      const dy = randomTensor(random, shape);
      const pass = {
        norm: { kind: 'layer', shape, dimensions } as const,
        x: valuesOf(x),
        eps,
        weight: named(layer, 'gamma'),
        bias: named(layer, 'beta'),
      };
      const right = normForward(pass);
      const gradients = normBackward(pass, valuesOf(dy));
      const ours = computed(layer, x, dy);
      const { magnitude } = gradients;
      expectClose(ours.y, right.y, 1e-6 * (1 + largest(right.magnitude)), 'y');
      expectClose(ours.x ?? [], gradients.dx, 1e-6 * (1 + largest(magnitude.dx)), 'dx');
      if (pass.weight)
        expectClose(ours.gamma ?? [], gradients.dWeight, 1e-6 * largest(magnitude.dWeight), 'dGamma');
      if (pass.bias)
        expectClose(ours.beta ?? [], gradients.dBias, 1e-6 * (1 + largest(magnitude.dWeight)), 'dBeta');
      expect([ours.gamma === undefined, ours.beta === undefined]).toEqual([
        given.scale === false,
        given.center === false,
      ]);
    },
  );

  it.each([[[8, 6]], [[3, 4, 5]], [[2, 3, 5, 4]]])('is that of TensorFlow.js over %j', (shape) => {
    const random = new Random();
    const layer = randomLayer(random, shape);
    const [x, dy] = [randomTensor(random, shape, 1, 2), randomTensor(random, shape)];
    const stock = withStock(() => computed(layer, x, dy));
    const ours = computed(layer, x, dy);
    for (const name of ['y', 'x', 'gamma', 'beta'] as const)
      expectClose(ours[name] ?? [], stock[name] ?? [], 2e-5 * (1 + largest(stock[name] ?? [])), name);
  });

  it('is one call of ours over the last axes, and TensorFlow.js’ own over others', async () => {
    const random = new Random();
    const x = randomTensor(random, [3, 4, 5]);
    const composed = expect.arrayContaining(['Mean', 'Tile']);
    for (const axis of [-1, 2, [1, 2], [-2, -1], [0, 1, 2]])
      expect(await kernelsOf(() => apply(randomLayer(new Random(), [3, 4, 5], { axis }), x))).not.toEqual(
        composed,
      );
    for (const axis of [0, 1, [0, 1], [2, 1], [0, 2]]) {
      const layer = randomLayer(random, [3, 4, 5], { axis });
      expect(await kernelsOf(() => apply(layer, x))).toEqual(composed);
      const stock = withStock(() => valuesOf(apply(layer, x)));
      expectClose(valuesOf(apply(layer, x)), stock, 1e-5 * largest(stock), `y over ${axis}`);
    }
  });

  it('has the right variance at a mean of a million, as TensorFlow.js has not on wasm', () => {
    const values = Float32Array.from({ length: 4096 }, (_, i) => 1e6 + 0.5 * Math.sin(i * i));
    const x = tf.tensor(values, [1, 4096]);
    const layer = tf.layers.layerNormalization({ epsilon: 1e-12 });
    const { y } = normForward({ norm: { kind: 'layer', shape: [1, 4096] }, x: values, eps: 1e-12 });
    expectClose(valuesOf(apply(layer, x)), y, 1e-6, 'y');
    const stock = withStock(() => valuesOf(apply(layer, x)));
    if (tf.getBackend() === 'wasm') expect(Math.abs(stock[0] - y[0])).toBeGreaterThan(0.1);
  });

  it('computes integers and booleans as floats', () => {
    const layer = randomLayer(new Random(), [2, 3]);
    const values = [1, 0, 1, 0, 0, 1];
    const right = valuesOf(apply(layer, tf.tensor(values, [2, 3])));
    for (const dtype of ['int32', 'bool'] as const)
      expect(valuesOf(apply(layer, tf.tensor(values, [2, 3], dtype)))).toEqual(right);
  });

  it('takes an empty batch', () => {
    const layer = randomLayer(new Random(), [2, 3]);
    expect(apply(layer, tf.zeros([0, 3])).shape).toEqual([0, 3]);
    expect(gradientsOf(layer, tf.zeros([0, 3]), tf.zeros([0, 3])).gamma).toEqual(new Float32Array(3));
  });

  it('leaves gradients of gradients to TensorFlow.js', () => {
    const layer = randomLayer(new Random(), [3, 4]);
    const x = randomTensor(new Random(), [3, 4]);
    const twice = () => {
      const once = tf.grad((t) => apply(layer, t).pow(tf.scalar(3)));
      return valuesOf(tf.grad((t) => once(t).square())(x));
    };
    const stock = withStock(twice);
    expectClose(twice(), stock, 1e-3 * largest(stock), 'second gradient');
  });

  it('refuses a gradient of its gradient that the tape of the outer one would lack', () => {
    const layer = tf.layers.layerNormalization({});
    const twice = tf.grad((t) => {
      const y = apply(layer, t).pow(tf.scalar(3)).sum();
      return tf
        .grad(() => y as tf.Scalar)(t)
        .square();
    });
    const message =
      'a layer norm whose gradient is differentiated must be called within the inner tf.grad, got one from outside';
    expectListed(message);
    expect(() => twice(randomTensor(new Random(), [8, 3]))).toThrow(message);
  });

  it('names an x that it was not built for, and what is disposed', () => {
    const layer = tf.layers.layerNormalization({ name: 'norm' });
    layer.build([2, 3]);
    const wrong = 'x.shape[1] must be 3 (what the layer was built for), got 4; layer "norm", x shape [2, 4]';
    expectListed(wrong);
    expect(() => apply(layer, tf.zeros([2, 4]))).toThrow(wrong);
    const x = tf.zeros([2, 3]);
    x.dispose();
    expect(() => apply(layer, x)).toThrow(expect.objectContaining({ code: 'ERR_BATCHNORM_DISPOSED' }));
    layer.getWeights()[0].dispose();
    expect(() => apply(layer, tf.zeros([2, 3]))).toThrow(/^gamma of layer "norm" must not be disposed/);
  });

  it('trains in models as with TensorFlow.js, and leaves no tensor behind', async () => {
    const trained = async () => {
      const random = new Random();
      const model = tf.sequential({
        layers: [
          tf.layers.dense({ inputShape: [3, 5], units: 4, name: 'hidden' }),
          tf.layers.layerNormalization({ name: 'norm' }),
          tf.layers.flatten({ name: 'flat' }),
          tf.layers.dense({ units: 2, name: 'out' }),
        ],
      });
      model.setWeights(model.weights.map(({ shape }) => randomTensor(random, shape as number[], 0, 0.5)));
      model.compile({ optimizer: tf.train.sgd(0.05), loss: 'meanSquaredError' });
      const [x, y] = [randomTensor(random, [8, 3, 5]), randomTensor(random, [8, 2])];
      const losses = [await model.trainOnBatch(x, y)];
      const { numTensors } = tf.memory();
      for (let step = 0; step < 20; step++) losses.push(await model.trainOnBatch(x, y));
      expect(tf.memory().numTensors).toBe(numTensors);
      const weights = model.getWeights().map(valuesOf);
      model.dispose();
      tf.dispose([x, y]);
      return [Float64Array.from(losses as number[]), ...weights];
    };
    const ours = await trained();
    uninstall();
    const stock = await trained();
    install(tf);
    ours.forEach((values, i) => {
      expectClose(values, stock[i], 1e-3 * (1 + largest(stock[i])), `values ${i}`);
    });
  });
});

describe('install', () => {
  it('is undone for layer norm too', () => {
    const call = () => (Object.getPrototypeOf(tf.layers.layerNormalization({})) as { call: unknown }).call;
    uninstall();
    const stock = call();
    install(tf);
    expect(call()).not.toBe(stock);
    expect(installed(tf).layers).toBe(true);
    uninstall();
    expect(call()).toBe(stock);
  });
});
