import { afterEach, beforeEach, expect, it } from 'vitest';
import { install, uninstall } from '../../lib/tfjs/index.js';
import { Random } from '../support/random.js';
import * as textbook from '../support/reference.js';
import { expectClose, extentsOf, largest } from '../support/tensors.js';
import { axes, eachBackend, randomTensor, tf, valuesOf, withStock } from '../support/tfjs.js';

type Layer = ReturnType<typeof tf.layers.batchNormalization>;

const eps = 1e-3;

function randomWeights(random: Random, name: string, shape: number[]): tf.Tensor {
  const weights = randomTensor(random, shape, 1, 0.5);
  return name.includes('variance') ? weights.square().add(0.5) : weights;
}

/** A layer with parameters and moving statistics that are not those it starts with. */
function randomLayer(
  random: Random,
  shape: number[],
  args: { axis: number; scale?: boolean; center?: boolean },
) {
  const channels = shape[args.axis];
  const layer = tf.layers.batchNormalization({ ...args, momentum: 0.9 });
  layer.build(shape);
  layer.setWeights(layer.weights.map(({ name }) => randomWeights(random, name, [channels])));
  return layer;
}

/** The weights of a layer by their names in Keras; undefined for one that it does without. */
function weightsOf(layer: Layer) {
  const named = (name: string) => layer.weights.find((weight) => weight.name.includes(name));
  const [gamma, beta, movingMean, movingVariance] = ['gamma', 'beta', 'moving_mean', 'moving_variance'].map(
    named,
  );
  return { gamma, beta, movingMean, movingVariance };
}

const read = (weight: { read(): tf.Tensor } | undefined) => weight && valuesOf(weight.read());

const apply = (layer: Layer, x: tf.Tensor, training: boolean) => layer.apply(x, { training }) as tf.Tensor;

/** Of the sum of y · dy: dx and those of the parameters, by name. */
function gradientsOf(layer: Layer, x: tf.Tensor, dy: tf.Tensor, training: boolean) {
  const variable = tf.variable(x);
  const { grads } = tf.variableGrads(() => apply(layer, variable, training).mul(dy).sum() as tf.Scalar);
  const entries = Object.entries(grads).map(([name, grad]) => {
    const known = ['gamma', 'beta'].find((parameter) => name.includes(parameter));
    return [known ?? 'x', valuesOf(grad)] as const;
  });
  variable.dispose();
  return Object.fromEntries(entries) as Partial<Record<'x' | 'gamma' | 'beta', Float32Array>>;
}

const parts = [
  { scale: true, center: true },
  { scale: false, center: true },
  { scale: true, center: false },
  { scale: false, center: false },
];
const cases = axes.flatMap((along) => parts.map((part) => ({ ...along, ...part })));

function randomCase(given: (typeof cases)[number]) {
  const { shape, axis } = given;
  const random = new Random();
  const layer = randomLayer(random, shape, given);
  const x = randomTensor(random, shape, 3, 2);
  const dy = randomTensor(random, shape);
  return { layer, x, dy, extents: extentsOf(shape, axis), ...weightsOf(layer) };
}

function expectGradients(
  gradients: ReturnType<typeof gradientsOf>,
  sums: textbook.Gradients,
  layer: Layer,
): void {
  const { gamma, beta } = weightsOf(layer);
  expectClose(gradients.x ?? [], sums.dx, 1e-6 * largest(sums.magnitude.dx), 'dx');
  if (gamma)
    expectClose(gradients.gamma ?? [], sums.dWeight, 1e-6 * largest(sums.magnitude.dWeight), 'dGamma');
  if (beta) expectClose(gradients.beta ?? [], sums.dBias, 1e-6 * largest(sums.magnitude.dBias), 'dBeta');
}

eachBackend('tf.layers.batchNormalization', () => {
  beforeEach(() => tf.engine().startScope());
  afterEach(() => {
    tf.engine().endScope();
    tf.disposeVariables();
  });

  it.each(cases)('trains as Keras: axis $axis of $shape, scale $scale, center $center', (given) => {
    const { layer, x, dy, extents, gamma, beta, movingMean, movingVariance } = randomCase(given);
    const [weight, bias] = [read(gamma), read(beta)];
    const running = { mean: read(movingMean) ?? [], variance: read(movingVariance) ?? [] };

    const y = apply(layer, x, true);
    const right = textbook.forwardTraining(valuesOf(x), extents, { eps, weight, bias });
    expect(y.shape).toEqual(given.shape);
    expectClose(valuesOf(y), right.y, 2e-6 * largest(right.y), 'y');
    const updated = textbook.updatedRunningStats(running, right, { decay: 0.9, unbiased: false });
    expectClose(read(movingMean) ?? [], updated.mean, 1e-6 * largest(updated.mean), 'moving mean');
    expectClose(
      read(movingVariance) ?? [],
      updated.variance,
      1e-6 * largest(updated.variance),
      'moving variance',
    );

    const gradients = gradientsOf(layer, x, dy, true);
    const sums = textbook.backwardTraining(valuesOf(dy), valuesOf(x), extents, { eps, weight });
    expect(Object.keys(gradients).sort()).toEqual(
      ['x', ...(gamma ? ['gamma'] : []), ...(beta ? ['beta'] : [])].sort(),
    );
    expectGradients(gradients, sums, layer);
  });

  it.each(cases)('infers as Keras: axis $axis of $shape, scale $scale, center $center', (given) => {
    const { layer, x, dy, extents, gamma, beta, movingMean, movingVariance } = randomCase(given);
    const statistics = { eps, mean: read(movingMean) ?? [], variance: read(movingVariance) ?? [] };
    const [weight, bias] = [read(gamma), read(beta)];

    const right = textbook.forwardInference(valuesOf(x), extents, { ...statistics, weight, bias });
    expectClose(valuesOf(apply(layer, x, false)), right, 2e-6 * largest(right), 'y');
    expect(read(movingMean)).toEqual(statistics.mean);
    expect(read(movingVariance)).toEqual(statistics.variance);

    const gradients = gradientsOf(layer, x, dy, false);
    const sums = textbook.backwardFrozen(valuesOf(dy), valuesOf(x), extents, { ...statistics, weight });
    expectGradients(gradients, sums, layer);
  });

  it.each([[[40, 5]], [[8, 6, 5]], [[4, 3, 6, 5]]])(
    'is that of TensorFlow.js along the last axis of %j',
    (shape) => {
      const compute = (training: boolean) => {
        const random = new Random();
        const layer = randomLayer(random, shape, { axis: shape.length - 1 });
        const x = randomTensor(random, shape, 3, 2);
        const dy = randomTensor(random, shape);
        const y = valuesOf(apply(layer, x, training));
        const moving = read(weightsOf(layer).movingVariance);
        return { y, moving, ...gradientsOf(layer, x, dy, training) };
      };
      for (const training of [true, false]) {
        const stock = Object.entries(withStock(() => compute(training)));
        const ours = Object.values(compute(training));
        stock.forEach(([name, values], i) => {
          expectClose(ours[i] ?? [], values ?? [], 2e-5 * largest(values ?? []), name);
        });
      }
    },
  );

  it('has the right variance at a mean of a million', () => {
    const x = tf.tensor(
      Float32Array.from({ length: 4096 }, (_, i) => 1e6 + (i % 2)),
      [4096, 1],
    );
    const layer = tf.layers.batchNormalization({ momentum: 0 });
    const y = apply(layer, x, true);
    expect(valuesOf(layer.getWeights()[3])[0]).toBe(0.25);
    expectClose(
      valuesOf(y).subarray(0, 2),
      [-0.5, 0.5].map((d) => d / Math.sqrt(0.25 + eps)),
      1e-6,
      'y',
    );
  });

  it('leaves the moving statistics of a channel alone whose batch is not finite', () => {
    const layer = tf.layers.batchNormalization({ momentum: 0.5 });
    apply(layer, tf.tensor([1, Number.NaN, 3, 4], [2, 2]), true);
    expectClose(valuesOf(layer.getWeights()[2]), [1, 0], 0, 'moving mean');
  });

  it('leaves those of a channel alone that float32 could not hold', () => {
    const layer = tf.layers.batchNormalization({ momentum: 0.5 });
    apply(layer, tf.tensor([-1e20, 1, 3e20, 3], [2, 2]), true);
    expectClose(valuesOf(layer.getWeights()[2]), [0, 1], 0, 'moving mean');
    expectClose(valuesOf(layer.getWeights()[3]), [1, 1], 0, 'moving variance');
  });

  it('takes an empty batch', () => {
    const layer = randomLayer(new Random(), [2, 3], { axis: 1 });
    const before = layer.getWeights().map(valuesOf);
    expect(apply(layer, tf.zeros([0, 3]), true).shape).toEqual([0, 3]);
    expect(gradientsOf(layer, tf.zeros([0, 3]), tf.zeros([0, 3]), true).gamma).toEqual(new Float32Array(3));
    expect(layer.getWeights().map(valuesOf)).toEqual(before);
  });

  it.each([1, 3])('takes its axis as a list of one, as Keras saves it: [%i]', async (axis) => {
    const made = tf.sequential({
      layers: [tf.layers.batchNormalization({ inputShape: [2, 3, 4], axis: [axis] as unknown as number })],
    });
    const plain = tf.sequential({ layers: [tf.layers.batchNormalization({ inputShape: [2, 3, 4], axis })] });
    const x = randomTensor(new Random(), [5, 2, 3, 4]);
    for (const model of [made, plain]) {
      model.compile({ optimizer: 'sgd', loss: 'meanSquaredError' });
      await model.trainOnBatch(x, x);
    }
    const [ours, right] = [made, plain].map((model) => valuesOf(model.predict(x) as tf.Tensor));
    expect(ours).toEqual(right);
  });

  it('may be on another backend than is current when its gradient is computed', async () => {
    const other = tf.getBackend() === 'cpu' ? 'wasm' : 'cpu';
    const own = tf.getBackend();
    await tf.setBackend(other);
    await tf.setBackend(own);
    const x = randomTensor(new Random(), [8, 3]);
    const gradient = (switches: boolean) =>
      tf.grad((t) => {
        const y = apply(tf.layers.batchNormalization({}), t, true).square();
        if (switches) void tf.setBackend(other);
        return y;
      })(x);
    const right = valuesOf(gradient(false));
    const values = valuesOf(gradient(true));
    await tf.setBackend(own);
    expectClose(values, right, 1e-5, 'dx');
  });

  it('refuses a gradient of its gradient that the tape of the outer one would lack', () => {
    const layer = tf.layers.batchNormalization({});
    const x = randomTensor(new Random(), [8, 3]);
    const twice = tf.grad((t) => {
      const y = apply(layer, t, true).pow(tf.scalar(3)).sum();
      return tf
        .grad(() => y as tf.Scalar)(t)
        .square();
    });
    expect(() => twice(x)).toThrow(/^a batch norm whose gradient is differentiated must be called within/);
  });

  it('leaves gradients of gradients to TensorFlow.js', () => {
    const twice = () => {
      const random = new Random();
      const layer = randomLayer(random, [2, 3, 2, 4], { axis: 3 });
      const x = randomTensor(random, [2, 3, 2, 4]);
      const once = tf.grad((t) => apply(layer, t, true).pow(tf.scalar(3)));
      return valuesOf(tf.grad((t) => once(t).square())(x));
    };
    const stock = withStock(twice);
    expectClose(twice(), stock, 1e-3 * largest(stock), 'second gradient');
  });
});

eachBackend('models', () => {
  const inputShape = [3, 5];

  function model(random: Random): tf.Sequential {
    const made = tf.sequential({
      name: 'model',
      layers: [
        tf.layers.dense({ name: 'hidden', inputShape, units: 4 }),
        tf.layers.batchNormalization({ name: 'norm', momentum: 0.8 }),
        tf.layers.reLU({ name: 'relu' }),
        tf.layers.flatten({ name: 'flat' }),
        tf.layers.dense({ name: 'digits', units: 3, activation: 'softmax' }),
      ],
    });
    made.setWeights(made.weights.map(({ name, shape }) => randomWeights(random, name, shape as number[])));
    made.compile({ optimizer: tf.train.sgd(0.05), loss: 'categoricalCrossentropy' });
    return made;
  }

  function data(random: Random, count: number) {
    const labels = Int32Array.from({ length: count }, () => random.integer(0, 2));
    return {
      x: randomTensor(random, [count, ...inputShape], 1, 2),
      y: tf.oneHot(tf.tensor1d(labels, 'int32'), 3).toFloat(),
    };
  }

  async function trained() {
    const random = new Random();
    const made = model(random);
    const { x, y } = data(random, 32);
    const { history } = await made.fit(x, y, { epochs: 5, batchSize: 8, shuffle: false, verbose: 0 });
    const result = {
      losses: Float64Array.from(history.loss as number[]),
      weights: made.getWeights().map(valuesOf),
      predictions: valuesOf(made.predict(x) as tf.Tensor),
    };
    const saved = await new Promise<tf.io.ModelArtifacts>((resolve) => {
      void made.save({
        save: async (artifacts) => {
          resolve(artifacts);
          return { modelArtifactsInfo: { dateSaved: new Date(0), modelTopologyType: 'JSON' as const } };
        },
      });
    });
    made.dispose();
    tf.dispose([x, y]);
    return { ...result, saved };
  }

  it('train, predict and are saved as with TensorFlow.js', async () => {
    const ours = await trained();
    uninstall();
    const stock = await trained();
    install(tf);
    expectClose(ours.losses, stock.losses, 1e-4, 'losses');
    expectClose(ours.predictions, stock.predictions, 1e-4, 'predictions');
    stock.weights.forEach((weights, i) => {
      expectClose(ours.weights[i], weights, 1e-4 * Math.max(1, largest(weights)), `weights ${i}`);
    });
    const { saved } = ours;
    expect(saved.modelTopology).toEqual(stock.saved.modelTopology);
    expect(saved.weightSpecs).toEqual(stock.saved.weightSpecs);

    const loaded = await tf.loadLayersModel(tf.io.fromMemory(saved));
    loaded.getWeights().forEach((weights, i) => {
      expect(valuesOf(weights)).toEqual(ours.weights[i]);
    });
    const random = new Random();
    model(random).dispose();
    const { x, y } = data(random, 32);
    expect(valuesOf(loaded.predict(x) as tf.Tensor)).toEqual(ours.predictions);
    loaded.dispose();
    tf.dispose([x, y]);
  });

  it('leave no tensor behind in 1000 steps', async () => {
    const random = new Random();
    const made = tf.sequential({
      layers: [
        tf.layers.dense({ inputShape: [3], units: 4 }),
        tf.layers.batchNormalization({}),
        tf.layers.dense({ units: 1 }),
      ],
    });
    made.compile({ optimizer: 'sgd', loss: 'meanSquaredError' });
    const x = randomTensor(random, [8, 3]);
    const y = randomTensor(random, [8, 1]);
    await made.trainOnBatch(x, y);
    const before = tf.memory();
    for (let step = 0; step < 1000; step++) await made.trainOnBatch(x, y);
    const after = tf.memory();
    expect({ tensors: after.numTensors, bytes: after.numBytes }).toEqual({
      tensors: before.numTensors,
      bytes: before.numBytes,
    });
    made.dispose();
    tf.dispose([x, y]);
  });
});

eachBackend('graph models', () => {
  const parameters = ['scale', 'offset', 'mean', 'variance'];

  /** One batch norm, with the attributes that its exporter gave it. */
  function graphModel(values: Float32Array[], attributes: object = {}): Promise<tf.GraphModel> {
    const node = (name: string, op: string, input: string[] = [], attr: object = {}) => ({
      name,
      op,
      input,
      attr,
    });
    const floats = { dtype: { type: 'DT_FLOAT' } };
    return tf.loadGraphModel(
      tf.io.fromMemory({
        modelTopology: {
          node: [
            node('x', 'Placeholder', [], floats),
            ...parameters.map((name) => node(name, 'Const', [], floats)),
            node('y', 'FusedBatchNormV3', ['x', ...parameters], {
              T: { type: 'DT_FLOAT' },
              epsilon: { f: eps },
              ...attributes,
            }),
          ],
          versions: { producer: 1 },
        },
        weightSpecs: parameters.map((name, i) => ({
          name,
          shape: [values[i].length],
          dtype: 'float32' as const,
        })),
        weightData: Float32Array.from(values.flatMap((list) => [...list])).buffer,
      }),
    );
  }

  const randomValues = (random: Random) =>
    parameters.map((_, i) => Float32Array.from({ length: 3 }, () => random.uniform(0.5, 1) + i));

  it('use it', async () => {
    const random = new Random();
    const values = randomValues(random);
    const model = await graphModel(values);
    const x = randomTensor(random, [2, 2, 2, 3]);
    const [weight, bias, mean, variance] = values;
    const right = textbook.forwardInference(valuesOf(x), extentsOf([2, 2, 2, 3], 3), {
      eps,
      mean,
      variance,
      weight,
      bias,
    });
    const profile = await tf.profile(() => model.predict(x) as tf.Tensor);
    expectClose(valuesOf(profile.result as unknown as tf.Tensor), right, 1e-6 * largest(right), 'y');
    expect(profile.kernelNames).toContain('FusedBatchNorm');
  });

  it('have their channels last, whatever data_format says, as docs/tfjs.md lists', async () => {
    const random = new Random();
    const values = randomValues(random);
    const attributes = { data_format: { s: Buffer.from('NCHW').toString('base64') } };
    const [plain, first] = [await graphModel(values), await graphModel(values, attributes)];
    const x = randomTensor(random, [2, 3, 3, 3]);
    const compute = () => [first, plain].map((model) => valuesOf(model.predict(x) as tf.Tensor));
    for (const [y, last] of [compute(), withStock(compute)]) expect(y).toEqual(last);
  });

  it('that were exported in training mode are an error, where TensorFlow.js gives NaN', async () => {
    const [weight, bias] = randomValues(new Random());
    const values = [weight, bias, new Float32Array(0), new Float32Array(0)];
    const model = await graphModel(values, { is_training: { b: true } });
    const x = randomTensor(new Random(), [2, 2, 2, 3]);
    const compute = () => valuesOf(model.predict(x) as tf.Tensor);
    expect(compute).toThrow('mean.shape must broadcast to [2, 2, 2, 3] (the shape of x), got [0]');
    if (tf.getBackend() === 'cpu') expect(withStock(compute).every(Number.isNaN)).toBe(true);
  });
});
