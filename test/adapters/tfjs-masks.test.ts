// Masks, of `tf.layers.masking` and embeddings: which reach a batch norm, and what it does with them.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { install, uninstall } from '../../lib/tfjs/index.js';
import { maskedCases, maskedTitle } from '../support/masked.js';
import { expectListed } from '../support/messages.js';
import * as textbook from '../support/presence.js';
import { Random } from '../support/random.js';
import { expectClose, extentsOf, largest } from '../support/tensors.js';
import { eachBackend, randomTensor, shapes, tf, valuesOf, withStock } from '../support/tfjs.js';

type Layer = ReturnType<typeof tf.layers.batchNormalization>;

const eps = 1e-3;
const momentum = 0.9;
const warn = vi.spyOn(console, 'warn').mockImplementation(() => {});
beforeEach(() => warn.mockClear());

const said = () => warn.mock.calls.map(([message]) => String(message));

function expectWarnings(...layers: Layer[]): void {
  expect(said()).toEqual(
    layers.map(
      ({ name }) =>
        `The batch norm "${name}" does not heed the mask of its input: masked steps count in its statistics, ` +
        'which Keras leaves out. This is said once for each layer.',
    ),
  );
  said().forEach(expectListed);
}

/** What masked training of a layer with moving mean 0 and variance 1 makes of its input. */
interface Seen {
  x: Float32Array;
  shape: number[];
  mask: ArrayLike<number>;
}

function passOf({ x, shape, mask }: Seen) {
  const extents = extentsOf(shape, shape.length - 1);
  return { x, extents, eps, weights: mask, missing: false, impute: false, zero: false } as const;
}

function expectStatistics(norm: Layer, seen: Seen): void {
  const right = textbook.statistics(passOf(seen));
  const [mean, variance] = norm.getWeights().slice(-2).map(valuesOf);
  const expected = [right.mean, right.variance].map((values, which) =>
    Float64Array.from(values, (value) => momentum * which + (1 - momentum) * value),
  );
  expectClose(mean, expected[0], 1e-6 * Math.max(1, largest(expected[0])), 'moving mean');
  expectClose(variance, expected[1], 1e-6 * largest(expected[1]), 'moving variance');
}

function randomMask(random: Random, shape: number[]): tf.Tensor {
  const size = shape.reduce((product, dimension) => product * dimension, 1);
  const values = Uint8Array.from({ length: size }, (_, i) => (i === 0 ? 1 : random.integer(0, 1)));
  return tf.tensor(values, shape, 'bool');
}

const normOf = (args: object = {}) => tf.layers.batchNormalization({ momentum, ...args });

const parts = [true, false].flatMap((scale) => [true, false].map((center) => ({ scale, center })));
const cases = shapes.flatMap((shape) => parts.map((part) => ({ shape, ...part })));

eachBackend('a batch norm that is called with a mask', () => {
  beforeEach(() => tf.engine().startScope());
  afterEach(() => {
    tf.engine().endScope();
    tf.disposeVariables();
  });

  const call = (layer: Layer, x: tf.Tensor, mask: unknown, training = true) =>
    layer.apply(x, { training, mask } as object) as tf.Tensor;

  /** Of the sum of y · dy, by name. */
  function gradientsOf(layer: Layer, x: tf.Tensor, mask: tf.Tensor, dy: tf.Tensor) {
    const variable = tf.variable(x);
    const { grads } = tf.variableGrads(() => call(layer, variable, mask).mul(dy).sum() as tf.Scalar);
    const named = Object.entries(grads).map(([name, grad]) => {
      const known = ['gamma', 'beta'].find((parameter) => name.includes(parameter));
      return [known ?? 'x', valuesOf(grad)] as const;
    });
    variable.dispose();
    return Object.fromEntries(named) as Partial<Record<'x' | 'gamma' | 'beta', Float32Array>>;
  }

  function built(random: Random, shape: number[], part: object) {
    const layer = normOf(part);
    layer.build(shape);
    const channels = shape.slice(-1);
    layer.setWeights(
      layer.weights.map(({ name }) => {
        const values = randomTensor(random, channels, 1, 0.5);
        return name.includes('variance') ? values.square().add(0.5) : values;
      }),
    );
    const read = (name: string) => {
      const weight = layer.weights.find((candidate) => candidate.name.includes(name));
      return weight && valuesOf(weight.read());
    };
    return { layer, read };
  }

  it.each(cases)('trains as the textbook: $shape, scale $scale, center $center', ({ shape, ...part }) => {
    const random = new Random();
    const { layer, read } = built(random, shape, part);
    const x = randomTensor(random, shape, 3, 2);
    const dy = randomTensor(random, shape);
    const mask = randomMask(random, shape.slice(0, -1));
    const pass = {
      ...passOf({ x: valuesOf(x), shape, mask: valuesOf(mask) }),
      weight: read('gamma'),
      bias: read('beta'),
    };
    const before = [read('moving_mean') ?? [], read('moving_variance') ?? []];

    const y = call(layer, x, mask);
    const statistics = textbook.statistics(pass);
    const right = textbook.forward(pass, statistics);
    expect(y.shape).toEqual(shape);
    expectClose(valuesOf(y), right, 2e-6 * largest(right), 'y');
    const after = [read('moving_mean') ?? [], read('moving_variance') ?? []];
    [statistics.mean, statistics.variance].forEach((batch, which) => {
      const moved = batch.map((value, c) => momentum * before[which][c] + (1 - momentum) * value);
      expectClose(after[which], moved, 1e-6 * largest(moved), which ? 'moving variance' : 'moving mean');
    });

    const gradients = gradientsOf(layer, x, mask, dy);
    const sums = textbook.backward(pass, valuesOf(dy), statistics);
    expect(Object.keys(gradients).sort()).toEqual(
      [...(part.center ? ['beta'] : []), ...(part.scale ? ['gamma'] : []), 'x'].sort(),
    );
    const size = shape.reduce((a, b) => a * b);
    const most = 1 + largest(valuesOf(dy)) * largest(pass.weight ?? [1]);
    expectClose(gradients.x ?? [], sums.dx, 1e-6 * most * largest(sums.dx) + 1e-6, 'dx');
    if (part.scale) expectClose(gradients.gamma ?? [], sums.dWeight, 2e-6 * size, 'dGamma');
    if (part.center) expectClose(gradients.beta ?? [], sums.dBias, 2e-6 * size, 'dBeta');
  });

  it.each(maskedCases.filter(({ by }) => by === 'keras'))(`trains as that ${maskedTitle}`, (given) => {
    const { shape, decay, x, mask, y, weight, bias, runningMean, runningVar } = given;
    const layer = tf.layers.batchNormalization({ momentum: decay, epsilon: given.eps });
    layer.build(shape);
    layer.setWeights([weight, bias, runningMean, runningVar].map((values) => tf.tensor1d(values)));
    const result = call(layer, tf.tensor(x, shape), tf.tensor(mask, shape.slice(0, -1), 'bool'));
    expectClose(valuesOf(result), y, 1e-6 * largest(y), 'y');
    const [mean, variance] = layer.getWeights().slice(-2).map(valuesOf);
    expectClose(mean, given.newRunningMean, 1e-6 * largest(given.newRunningMean), 'moving mean');
    expectClose(variance, given.newRunningVar, 1e-6 * largest(given.newRunningVar), 'moving variance');
  });

  it('is that of TensorFlow.js where a mask lets everything through', () => {
    const shape = [8, 6, 5];
    const compute = (mask: tf.Tensor | undefined) => {
      const random = new Random();
      const { layer, read } = built(random, shape, {});
      const x = randomTensor(random, shape, 3, 2);
      const y = valuesOf(call(layer, x, mask));
      return { y, moving: read('moving_variance') ?? [] };
    };
    const stock = withStock(() => compute(undefined));
    const ours = compute(tf.ones([8, 6], 'bool'));
    expectClose(ours.y, stock.y, 2e-5 * largest(stock.y), 'y');
    expectClose(ours.moving, stock.moving, 2e-5 * largest(stock.moving), 'moving variance');
  });

  it('takes what is not 0 for true, of any dtype, and a list of one', () => {
    const x = tf.tensor([1, 2, 5, 9], [2, 2, 1]);
    const masks = [
      tf.tensor([1, 1, 0, 0], [2, 2], 'bool'),
      tf.tensor([7, -1, 0, 0], [2, 2], 'int32'),
      tf.tensor([0.5, 3, 0, 0], [2, 2], 'float32'),
    ];
    for (const mask of [...masks, [masks[0]]]) {
      const norm = normOf({ momentum: 0 });
      call(norm, x, mask);
      expect(norm.getWeights().slice(-2).map(valuesOf)).toEqual([
        Float32Array.of(1.5),
        Float32Array.of(0.25),
      ]);
    }
    expectWarnings();
  });

  it('lets a NaN that is masked harm nothing', () => {
    const x = tf.tensor([1, 3, Number.NaN, Number.NaN], [4, 1]);
    const mask = tf.tensor([1, 1, 0, 0], [4], 'bool');
    const norm = normOf({ momentum: 0 });
    expect([...valuesOf(call(norm, x, mask))].map(Number.isNaN)).toEqual([false, false, true, true]);
    expect(norm.getWeights().slice(-2).map(valuesOf)).toEqual([Float32Array.of(2), Float32Array.of(1)]);
    const { gamma, beta } = gradientsOf(norm, x, mask, tf.ones([4, 1]));
    expect([...(gamma ?? []), ...(beta ?? [])].map(Number.isFinite)).toEqual([true, true]);
  });

  it('evaluates where a mask lets nothing through, with the gradient of that', () => {
    const shape = [3, 4, 2];
    const random = new Random();
    const { layer } = built(random, shape, {});
    const x = randomTensor(random, shape);
    const dy = randomTensor(random, shape);
    const before = layer.getWeights().map(valuesOf);
    const right = valuesOf(call(layer, x, undefined, false));
    const mask = tf.zeros([3, 4], 'bool');
    expect(valuesOf(call(layer, x, mask))).toEqual(right);
    expect(layer.getWeights().map(valuesOf)).toEqual(before);

    const [gamma, beta, mean, variance] = before;
    const pass = {
      ...passOf({ x: valuesOf(x), shape, mask: new Uint8Array(12).fill(1) }),
      weight: gamma,
      bias: beta,
    };
    const count = new Float64Array(2).fill(1);
    const fixed = {
      count,
      squares: count,
      mean: Float64Array.from(mean),
      variance: Float64Array.from(variance),
    };
    const sums = textbook.backward(pass, valuesOf(dy), fixed, false);
    const gradients = gradientsOf(layer, x, mask, dy);
    expectClose(gradients.x ?? [], sums.dx, 2e-6 * largest(sums.dx), 'dx');
    expectClose(gradients.gamma ?? [], sums.dWeight, 2e-5, 'dGamma');
    expectClose(gradients.beta ?? [], sums.dBias, 2e-5, 'dBeta');
  });

  it('takes an empty batch', () => {
    const { layer } = built(new Random(), [2, 3, 4], {});
    const before = layer.getWeights().map(valuesOf);
    expect(call(layer, tf.zeros([0, 3, 4]), tf.ones([0, 3], 'bool')).shape).toEqual([0, 3, 4]);
    expect(layer.getWeights().map(valuesOf)).toEqual(before);
  });

  it('changes nothing in inference', () => {
    const norm = normOf();
    const x = tf.tensor([1, 2, 0, 0], [2, 2, 1]);
    const plain = valuesOf(call(norm, x, undefined, false));
    expect(valuesOf(call(norm, x, tf.tensor([1, 1, 0, 0], [2, 2], 'bool'), false))).toEqual(plain);
    expectWarnings();
  });

  describe('that it cannot heed', () => {
    const x = () => tf.tensor([1, 2, 0, 0, 3, 4, 0, 0], [2, 2, 2]);

    it.each([
      ['of another rank', () => tf.ones([2], 'bool')],
      ['of another shape', () => tf.ones([2, 3], 'bool')],
      ['of the shape of x', () => tf.ones([2, 2, 2], 'bool')],
      ['that is no tensor', () => [1, 0]],
    ])('says so, and does what TensorFlow.js does: a mask %s', (_, mask) => {
      const [masked, plain] = [normOf(), normOf()];
      const y = valuesOf(call(masked, x(), mask()));
      expect(y).toEqual(valuesOf(call(plain, x(), undefined)));
      call(masked, x(), mask());
      expectWarnings(masked);
    });

    it.each([[[2]], [[2, 2]]])(
      'says so on an axis that is not the last, as Keras has no mask there: %j',
      (shape) => {
        const norm = normOf({ axis: 1 });
        call(norm, x(), tf.ones(shape, 'bool'));
        expectWarnings(norm);
      },
    );

    it('says so in gradients of gradients, which TensorFlow.js computes', () => {
      const norm = normOf();
      const mask = tf.ones([2, 2], 'bool');
      const once = tf.grad((t) => call(norm, t, mask).square());
      tf.grad((t) => once(t).square())(x());
      expectWarnings(norm);
    });
  });

  it('refuses a mask that is disposed', () => {
    const mask = tf.ones([2, 2], 'bool');
    mask.dispose();
    const act = () => call(normOf(), tf.ones([2, 2, 2]), mask);
    expect(act).toThrow(expect.objectContaining({ code: 'ERR_BATCHNORM_DISPOSED' }));
    expect(act).toThrow(/^mask must not be disposed, got a disposed tensor of shape \[2, 2\]/);
    let message = '';
    try {
      act();
    } catch (error) {
      message = (error as Error).message;
    }
    expectListed(message);
  });

  it("leaves it as TensorFlow.js has it with masks: 'ignore', and says nothing", () => {
    install(tf, { masks: 'ignore' });
    const norm = normOf({ momentum: 0 });
    const x = tf.tensor([1, 2, 0, 0], [2, 2, 1]);
    call(norm, x, tf.tensor([1, 1, 0, 0], [2, 2], 'bool'));
    expect([...valuesOf(norm.getWeights()[2])]).toEqual([0.75]);
    expectWarnings();
    install(tf);
    call(norm, x, tf.tensor([1, 1, 0, 0], [2, 2], 'bool'));
    expect([...valuesOf(norm.getWeights()[2])], 'a setting stays until another is given').toEqual([0.75]);
    install(tf, { masks: 'keras' });
    call(norm, x, tf.tensor([1, 1, 0, 0], [2, 2], 'bool'));
    expect([...valuesOf(norm.getWeights()[2])]).toEqual([1.5]);
  });
});

eachBackend('the mask that a model has', () => {
  afterEach(() => tf.disposeVariables());

  const steps = [4, 3];
  const masking = () => tf.layers.masking({ inputShape: steps });

  function compile(model: tf.LayersModel): void {
    model.compile({ optimizer: tf.train.sgd(0.01), loss: 'meanSquaredError' });
  }

  /** Sequences of lengths 4, 2, 1 and 3, with zeros behind their ends. */
  function sequences() {
    const mask = [1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0];
    const random = new Random();
    const x = Float32Array.from({ length: 48 }, (_, i) => mask[Math.floor(i / 3)] * random.normal(3, 2));
    return { x, mask, shape: [4, ...steps] };
  }

  async function step(model: tf.LayersModel, x: tf.Tensor): Promise<void> {
    const y = tf.zerosLike(model.predict(x) as tf.Tensor);
    await model.trainOnBatch(x, y);
    y.dispose();
  }

  it('is heeded in trainOnBatch', async () => {
    const norm = normOf();
    const model = tf.sequential({ layers: [masking(), norm, tf.layers.dense({ units: 1 })] });
    compile(model);
    const seen = sequences();
    await step(model, tf.tensor(seen.x, seen.shape));
    expectStatistics(norm, seen);
    expectWarnings();
  });

  it('is heeded in fit, by each of several layers, in each batch', async () => {
    const norms = [normOf({ momentum: 0 }), normOf({ momentum: 0 })];
    const model = tf.sequential({
      layers: [masking(), norms[0], tf.layers.dense({ units: 3 }), norms[1], tf.layers.dense({ units: 1 })],
    });
    model.compile({ optimizer: tf.train.sgd(0), loss: 'meanSquaredError' });
    const { x, mask, shape } = sequences();
    const given = tf.tensor(x, shape);
    await model.fit(given, tf.zeros([4, 4, 1]), { epochs: 2, batchSize: 2, shuffle: false, verbose: 0 });

    // With momentum 0 the moving statistics are those of the last batch.
    const last = { x: x.subarray(24), shape: [2, ...steps] };
    const pass = { ...passOf({ ...last, mask: mask.slice(8) }), weight: [1, 1, 1], bias: [0, 0, 0] };
    const statistics = textbook.statistics(pass);
    expectClose(valuesOf(norms[0].getWeights()[2]), statistics.mean, 1e-5, 'mean');
    expectClose(valuesOf(norms[0].getWeights()[3]), statistics.variance, 1e-5, 'variance');
    const y = textbook.forward(pass, statistics);
    const [kernel, bias] = model.layers[2].getWeights().map(valuesOf);
    const hidden = Float32Array.from(
      { length: 24 },
      (_, i) =>
        bias[i % 3] +
        y[i - (i % 3)] * kernel[i % 3] +
        y[i - (i % 3) + 1] * kernel[3 + (i % 3)] +
        y[i - (i % 3) + 2] * kernel[6 + (i % 3)],
    );
    const second = textbook.statistics(passOf({ ...last, x: hidden, mask: mask.slice(8) }));
    expectClose(valuesOf(norms[1].getWeights()[2]), second.mean, 1e-5, 'mean of the second');
    expectClose(valuesOf(norms[1].getWeights()[3]), second.variance, 1e-5, 'variance of the second');
    expectWarnings();
  });

  it('leaves no tensor behind', async () => {
    const model = tf.sequential({ layers: [masking(), normOf(), tf.layers.dense({ units: 1 })] });
    compile(model);
    const { x, shape } = sequences();
    const [given, wanted] = [tf.tensor(x, shape), tf.zeros([4, 4, 1])];
    await model.trainOnBatch(given, wanted);
    const before = tf.memory();
    for (let count = 0; count < 20; count++) await model.trainOnBatch(given, wanted);
    const after = tf.memory();
    expect([after.numTensors, after.numBytes]).toEqual([before.numTensors, before.numBytes]);
  });

  it('of an embedding is heeded, too', () => {
    const norm = normOf();
    const embedding = tf.layers.embedding({ inputDim: 5, outputDim: 3, maskZero: true, inputLength: 4 });
    const model = tf.sequential({ layers: [embedding, norm] });
    const tokens = [1, 2, 3, 0, 4, 0, 0, 0];
    model.apply(tf.tensor(tokens, [2, 4]), { training: true });
    const table = valuesOf(embedding.getWeights()[0]);
    const x = Float32Array.from({ length: 24 }, (_, i) => table[3 * tokens[Math.floor(i / 3)] + (i % 3)]);
    expectStatistics(norm, { x, shape: [2, 4, 3], mask: tokens.map((token) => Math.min(token, 1)) });
    expectWarnings();
  });

  it('of each layer is that of its own input', async () => {
    const [masked, plain] = [normOf(), normOf()];
    const [first, second] = [tf.input({ shape: steps }), tf.input({ shape: steps })];
    const one = masked.apply(masking().apply(first)) as tf.SymbolicTensor;
    // It is called with the mask of the other one still among the arguments.
    const other = plain.apply(tf.layers.reshape({ targetShape: steps }).apply(second)) as tf.SymbolicTensor;
    const outputs = tf.layers
      .concatenate()
      .apply([
        tf.layers.flatten().apply(one) as tf.SymbolicTensor,
        tf.layers.flatten().apply(other) as tf.SymbolicTensor,
      ]) as tf.SymbolicTensor;
    const model = tf.model({ inputs: [first, second], outputs });
    compile(model);
    const seen = sequences();
    const x = tf.tensor(seen.x, seen.shape);
    await model.trainOnBatch([x, x], tf.zeros([4, 24]));
    expectStatistics(masked, seen);
    expectStatistics(plain, { ...seen, mask: new Uint8Array(16).fill(1) });
    expectWarnings();
  });

  it('changes nothing in inference, and where a layer is not to be trained', async () => {
    const norm = normOf();
    const model = tf.sequential({ layers: [masking(), norm, tf.layers.dense({ units: 1 })] });
    norm.trainable = false;
    compile(model);
    const { x, shape } = sequences();
    const before = norm.getWeights().map(valuesOf);
    await step(model, tf.tensor(x, shape));
    norm.trainable = true;
    compile(model);
    await model.evaluate(tf.tensor(x, shape), tf.zeros([4, 4, 1]));
    expect(norm.getWeights().map(valuesOf)).toEqual(before);
    expectWarnings();
  });

  it('that a layer between them has ended is none', async () => {
    const norm = normOf();
    const model = tf.sequential({
      layers: [
        masking(),
        tf.layers.lstm({
          units: 12,
          kernelInitializer: 'randomNormal',
          recurrentInitializer: 'randomNormal',
        }),
        // What it gives has the shape of what was masked.
        tf.layers.reshape({ targetShape: steps }),
        norm,
      ],
    });
    compile(model);
    const { x, shape } = sequences();
    const given = tf.tensor(x, shape);
    const seen = tf
      .model({ inputs: model.inputs, outputs: model.layers[2].output })
      .predict(given) as tf.Tensor;
    await step(model, given);
    expectStatistics(norm, { x: valuesOf(seen), shape, mask: new Uint8Array(16).fill(1) });
    expectWarnings();
  });

  it('is heeded within a model that is nested, where it begins there', async () => {
    const norm = normOf();
    const inner = tf.sequential({ layers: [masking(), norm] });
    const model = tf.sequential({
      layers: [tf.layers.activation({ activation: 'linear', inputShape: steps }), inner],
    });
    compile(model);
    const seen = sequences();
    await step(model, tf.tensor(seen.x, seen.shape));
    expectStatistics(norm, seen);
    expectWarnings();
  });

  it('is lost before a nested model by TensorFlow.js itself, and nothing is said, as docs/tfjs.md lists', async () => {
    const norm = tf.layers.batchNormalization({ inputShape: steps, momentum });
    const inner = tf.sequential({ layers: [norm] });
    const model = tf.sequential({ layers: [masking(), inner] });
    compile(model);
    const seen = sequences();
    await step(model, tf.tensor(seen.x, seen.shape));
    expectStatistics(norm, { ...seen, mask: new Uint8Array(16).fill(1) });
    expectWarnings();
  });

  it('is not what a model is called with: TensorFlow.js takes none', () => {
    const norm = normOf({ inputShape: steps });
    const model = tf.sequential({ layers: [norm] });
    const seen = sequences();
    const mask = tf.tensor(seen.mask, [4, 4], 'bool');
    model.apply(tf.tensor(seen.x, seen.shape), { training: true, mask } as object);
    expectStatistics(norm, { ...seen, mask: new Uint8Array(16).fill(1) });
    expectWarnings();
  });

  it('is not that of one step: timeDistributed says so', async () => {
    const norm = normOf();
    const model = tf.sequential({
      layers: [masking(), tf.layers.timeDistributed({ layer: norm })],
    });
    compile(model);
    const { x, shape } = sequences();
    await step(model, tf.tensor(x, shape));
    expectWarnings(norm);
  });

  it('is not that of one step of as many places as there are steps', async () => {
    const norm = normOf({ momentum: 0 });
    const model = tf.sequential({
      layers: [
        masking(),
        // (4 sequences, 4 steps, 4 places, 1): a step has the shape of the mask, and a channel.
        tf.layers.timeDistributed({ layer: tf.layers.dense({ units: 4 }) }),
        tf.layers.timeDistributed({ layer: tf.layers.reshape({ targetShape: [4, 1] }) }),
        tf.layers.timeDistributed({ layer: norm }),
      ],
    });
    compile(model);
    const { x, shape } = sequences();
    await step(model, tf.tensor(x, shape));
    expectWarnings(norm);
  });

  it('reaches a batch norm in a layer of its own that hands its arguments on', async () => {
    const norm = normOf();
    class Block extends tf.layers.Layer {
      static className = 'Block';
      override supportsMasking = true;
      override computeOutputShape(shape: tf.Shape) {
        return shape;
      }
      override call(inputs: tf.Tensor | tf.Tensor[], kwargs: object) {
        return norm.apply(Array.isArray(inputs) ? inputs[0] : inputs, kwargs) as tf.Tensor;
      }
    }
    const model = tf.sequential({ layers: [masking(), new Block({}), tf.layers.dense({ units: 1 })] });
    compile(model);
    const seen = sequences();
    await step(model, tf.tensor(seen.x, seen.shape));
    expectStatistics(norm, seen);
    expectWarnings();
  });

  it("is not heeded with masks: 'ignore'", async () => {
    install(tf, { masks: 'ignore' });
    const norm = normOf();
    const model = tf.sequential({ layers: [masking(), norm, tf.layers.dense({ units: 1 })] });
    compile(model);
    const seen = sequences();
    await step(model, tf.tensor(seen.x, seen.shape));
    expectStatistics(norm, { ...seen, mask: new Uint8Array(16).fill(1) });
    expectWarnings();
    install(tf, { masks: 'keras' });
  });

  it('is not heeded by TensorFlow.js itself once uninstalled', async () => {
    const norm = normOf();
    const model = tf.sequential({ layers: [masking(), norm, tf.layers.dense({ units: 1 })] });
    compile(model);
    const seen = sequences();
    uninstall();
    await step(model, tf.tensor(seen.x, seen.shape));
    install(tf);
    expectStatistics(norm, { ...seen, mask: new Uint8Array(16).fill(1) });
  });
});
