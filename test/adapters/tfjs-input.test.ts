// What is given to a batch norm layer of TensorFlow.js beside floats of the right shape: integers, mistakes.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { expectListed } from '../support/messages.js';
import { Random } from '../support/random.js';
import * as textbook from '../support/reference.js';
import { expectClose, extentsOf, largest } from '../support/tensors.js';
import { axes, eachBackend, randomTensor, tf, valuesOf } from '../support/tfjs.js';

type Layer = ReturnType<typeof tf.layers.batchNormalization>;

const eps = 1e-3;
const warn = vi.spyOn(console, 'warn').mockImplementation(() => {});
beforeEach(() => warn.mockClear());

const apply = (layer: Layer, x: tf.Tensor, training: boolean) => layer.apply(x, { training }) as tf.Tensor;

function compile(model: tf.LayersModel): void {
  model.compile({ optimizer: tf.train.sgd(0.01), loss: 'meanSquaredError' });
}

eachBackend('integers', () => {
  beforeEach(() => tf.engine().startScope());
  afterEach(() => {
    tf.engine().endScope();
    tf.disposeVariables();
  });

  const dtypes = ['int32', 'bool'] as const;
  const cases = axes.flatMap((along) => dtypes.map((dtype) => ({ ...along, dtype })));

  it.each(cases)('are computed as floats: $dtype, axis $axis of $shape', ({ shape, axis, dtype }) => {
    const random = new Random();
    const layer = tf.layers.batchNormalization({ axis, momentum: 0.9 });
    layer.build(shape);
    const [gamma, beta, movingMean] = [1, 2, 3].map((mean) => randomTensor(random, [shape[axis]], mean, 0.5));
    layer.setWeights([gamma, beta, movingMean, tf.ones([shape[axis]]).mul(4)]);
    const [weight, bias, mean, variance] = layer.getWeights().map(valuesOf);
    const most = dtype === 'bool' ? 1 : 100;
    const values = Int32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random.integer(0, most));
    // Two values differ in every channel.
    const x = tf.tensor(values, shape, dtype);
    const floats = Float32Array.from(values);
    const dy = randomTensor(random, shape);
    const extents = extentsOf(shape, axis);

    const inferred = apply(layer, x, false);
    expect(inferred.dtype).toBe('float32');
    const rightInferred = textbook.forwardInference(floats, extents, { eps, mean, variance, weight, bias });
    expectClose(valuesOf(inferred), rightInferred, 2e-6 * largest(rightInferred), 'y of inference');

    const gradients = (training: boolean) => {
      const { grads } = tf.variableGrads(() => apply(layer, x, training).mul(dy).sum() as tf.Scalar);
      return Object.entries(grads).map(([name, grad]) => [name, valuesOf(grad)] as const);
    };
    for (const training of [false, true]) {
      const sums = training
        ? textbook.backwardTraining(valuesOf(dy), floats, extents, { eps, weight })
        : textbook.backwardFrozen(valuesOf(dy), floats, extents, { eps, mean, variance, weight });
      const found = gradients(training);
      expect(found).toHaveLength(2);
      for (const [name, grad] of found) {
        const [right, magnitude] = name.includes('gamma')
          ? [sums.dWeight, sums.magnitude.dWeight]
          : [sums.dBias, sums.magnitude.dBias];
        expectClose(grad, right, 1e-6 * largest(magnitude), name);
      }
    }

    layer.setWeights([gamma, beta, movingMean, tf.ones([shape[axis]]).mul(4)]);
    const y = apply(layer, x, true);
    expect(y.dtype).toBe('float32');
    const right = textbook.forwardTraining(floats, extents, { eps, weight, bias });
    expectClose(valuesOf(y), right.y, 2e-6 * largest(right.y), 'y of training');
    const updated = textbook.updatedRunningStats({ mean, variance }, right, { decay: 0.9, unbiased: false });
    const [, , newMean, newVariance] = layer.getWeights().map(valuesOf);
    expectClose(newMean, updated.mean, 1e-6 * largest(updated.mean), 'moving mean');
    expectClose(newVariance, updated.variance, 1e-6 * largest(updated.variance), 'moving variance');
  });

  it('train and predict in models, and leave no tensor behind', async () => {
    const model = tf.sequential({
      layers: [tf.layers.batchNormalization({ inputShape: [3] }), tf.layers.dense({ units: 1 })],
    });
    compile(model);
    const values = [1, 2, 3, 4, 5, 7, 7, 8, 8, 10, 11, 11];
    const weights = model.getWeights().map((weight) => weight.clone());
    const trained = async (dtype: 'int32' | 'float32') => {
      model.setWeights(weights);
      const x = tf.tensor(values, [4, 3], dtype);
      const y = tf.ones([4, 1]);
      const before = tf.memory().numTensors;
      await model.trainOnBatch(x, y);
      await model.fit(x, y, { shuffle: false, verbose: 0 });
      expect(tf.memory().numTensors).toBe(before);
      return [...model.getWeights(), model.predict(x) as tf.Tensor].map(valuesOf);
    };
    // The optimizer makes its own tensors in the first step.
    await trained('float32');
    expect(await trained('int32')).toEqual(await trained('float32'));
  });
});

eachBackend('mistakes', () => {
  afterEach(() => tf.disposeVariables());

  function expectFailure(action: () => unknown, code: string, message: string): void {
    const tensors = tf.memory().numTensors;
    expect(action).toThrow(expect.objectContaining({ code: `ERR_BATCHNORM_${code}`, message }));
    expectListed(message);
    expect(tf.memory().numTensors).toBe(tensors);
  }

  const shapes = [
    { axis: 1, built: [2, 3], given: [2, 4], at: 1 },
    { axis: -1, built: [2, 3, 4], given: [2, 4, 3], at: 2 },
    { axis: 1, built: [2, 3, 4, 5], given: [2, 5, 4, 3], at: 1 },
    { axis: -4, built: [2, 3, 4, 5, 6], given: [2, 1, 4, 5, 6], at: 1 },
  ].flatMap((shape) => [true, false].map((training) => ({ ...shape, training })));

  it.each(shapes)(
    'in the number of channels are told with the shape that was given: $given, axis $axis, training $training',
    ({ axis, built, given, at, training }) => {
      const layer = tf.layers.batchNormalization({ axis });
      layer.build(built);
      const x = tf.zeros(given);
      expectFailure(
        () => layer.call(x, { training }),
        'INVALID_VALUE',
        `x.shape[${at}] must be ${built[at]} (channels), got ${given[at]}; layer "${layer.name}" has axis ${axis}, ` +
          `x shape [${given.join(', ')}]`,
      );
      x.dispose();
    },
  );

  it('in the rank are told, too', () => {
    const layer = tf.layers.batchNormalization({ axis: 3 });
    layer.build([2, 3, 4, 5]);
    const x = tf.zeros([2, 5]);
    expectFailure(
      () => layer.call(x, { training: true }),
      'INVALID_VALUE',
      `x.shape[3] must be 5 (channels), got undefined; layer "${layer.name}" has axis 3, x shape [2, 5]`,
    );
    x.dispose();
  });

  describe.each([true, false])('with training %s', (training) => {
    it.each([
      [[2, 3], 'float32'],
      [[2, 4, 3], 'float32'],
      [[2, 2, 2, 3], 'float32'],
      [[2, 3], 'int32'],
    ] as const)('are an x of shape %j, %s, that is disposed', (shape, dtype) => {
      const layer = tf.layers.batchNormalization({});
      layer.build([...shape]);
      const before = layer.getWeights().map(valuesOf);
      const x = tf.zeros([...shape], dtype);
      x.dispose();
      expectFailure(
        () => apply(layer, x, training),
        'DISPOSED',
        `x must not be disposed, got a disposed tensor of shape [${shape.join(', ')}]; ` +
          'dispose of it after the call, or take it out of tf.tidy() by tf.keep()',
      );
      expect(layer.getWeights().map(valuesOf)).toEqual(before);
    });

    it.each(['gamma', 'beta', 'movingMean', 'movingVariance'])('are %s that is disposed', (name) => {
      const layer = tf.layers.batchNormalization({ axis: 1 });
      layer.build([null, 3, 2]);
      const x = tf.ones([4, 3, 2]);
      const i = ['gamma', 'beta', 'movingMean', 'movingVariance'].indexOf(name);
      // As who takes the weights for copies does.
      tf.dispose(layer.getWeights()[i]);
      expectFailure(
        () => apply(layer, x, training),
        'DISPOSED',
        `${name} of layer "${layer.name}" must not be disposed, got a disposed tensor of shape [3]; ` +
          "getWeights() gives the layer's own tensors: dispose of clones of them",
      );
      x.dispose();
    });
  });

  it('that TensorFlow.js meets before a batch norm has errors of its own, as docs/tfjs.md says', () => {
    const x = tf.zeros([2, 3]);
    x.dispose();
    const model = tf.sequential({ layers: [tf.layers.batchNormalization({ inputShape: [3] })] });
    const op = () => tf.tidy(() => tf.batchNorm(x as tf.Tensor2D, tf.zeros([3]), tf.ones([3])));
    for (const run of [op, () => model.predict(x)]) {
      expect(run).toThrow(TypeError);
      expect(run).not.toThrow(expect.objectContaining({ code: expect.anything() }));
    }
  });
});
