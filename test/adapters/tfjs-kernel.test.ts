import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { expectListed } from '../support/messages.js';
import { Random } from '../support/random.js';
import * as textbook from '../support/reference.js';
import { expectClose, expectError, extentsOf, largest } from '../support/tensors.js';
import { along, axes, eachBackend, randomTensor, tf, valuesOf, withStock } from '../support/tfjs.js';

const eps = 1e-3;

interface Arguments {
  x: tf.Tensor;
  mean: tf.Tensor;
  variance: tf.Tensor;
  offset: tf.Tensor;
  scale: tf.Tensor;
}

function randomArguments(random: Random, shape: number[], parameterShape: number[]): Arguments {
  const parameter = (mean: number) => randomTensor(random, parameterShape, mean, 0.5);
  return {
    x: randomTensor(random, shape, 1, 2),
    mean: parameter(1),
    variance: parameter(0).square().add(0.5),
    offset: parameter(0),
    scale: parameter(1),
  };
}

// The ops that TensorFlow.js has for it stop at rank 4; the kernel does not.
function batchNorm({ x, mean, variance, offset, scale }: Partial<Arguments> & { x: tf.Tensor }): tf.Tensor {
  const inputs = { x, mean, variance, offset, scale } as unknown as tf.NamedTensorMap;
  return tf.engine().runKernel('FusedBatchNorm', inputs, { varianceEpsilon: eps });
}

function expected(given: Arguments, shape: number[], axis: number): Float64Array {
  return textbook.forwardInference(valuesOf(given.x), extentsOf(shape, axis), {
    eps,
    mean: valuesOf(given.mean),
    variance: valuesOf(given.variance),
    weight: valuesOf(given.scale),
    bias: valuesOf(given.offset),
  });
}

eachBackend('tf.batchNorm', () => {
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  it.each(axes)('is the textbook along axis $axis of $shape', ({ shape, axis }) => {
    const given = randomArguments(new Random(), shape, along(shape, axis));
    const y = batchNorm(given);
    expect(y.shape).toEqual(shape);
    expect(y.dtype).toBe('float32');
    const right = expected(given, shape, axis);
    expectClose(valuesOf(y), right, 1e-6 * largest(right), 'y');
  });

  it.each([[[6]], [[4, 6]], [[3, 4, 6]], [[2, 3, 4, 6]]])('is that of TensorFlow.js for %j', (shape) => {
    const { x, mean, variance, offset, scale } = randomArguments(new Random(), shape, [6]);
    const compute = () => valuesOf(tf.batchNorm(x as tf.Tensor4D, mean, variance, offset, scale, eps));
    const stock = withStock(compute);
    expectClose(compute(), stock, 2e-6 * largest(stock), 'y');
  });

  it('is that of TensorFlow.js where parameters have the shape of x', () => {
    const { x, mean, variance, offset, scale } = randomArguments(new Random(), [3, 4, 5], [3, 4, 5]);
    const compute = () => valuesOf(tf.batchNorm(x as tf.Tensor3D, mean, variance, offset, scale, eps));
    const stock = withStock(compute);
    expectClose(compute(), stock, 2e-6 * largest(stock), 'y');
  });

  it('takes parameters of different shapes, each broadcast on its own', () => {
    const random = new Random();
    const x = randomTensor(random, [2, 3, 4, 5]);
    const mean = randomTensor(random, [1, 3, 1, 5]);
    const variance = randomTensor(random, [1, 1, 4, 1]).square().add(1);
    const scale = randomTensor(random, [1, 1, 1, 1]);
    const offset = randomTensor(random, [1, 3, 1, 1]);
    const right = x.sub(mean).div(variance.add(eps).sqrt()).mul(scale).add(offset);
    expectClose(valuesOf(batchNorm({ x, mean, variance, scale, offset })), valuesOf(right), 2e-5, 'y');
  });

  it('does without scale and offset', () => {
    const given = randomArguments(new Random(), [2, 3, 4], [1, 3, 1]);
    const { x, mean, variance } = given;
    const right = expected({ ...given, scale: tf.ones([3]), offset: tf.zeros([3]) }, [2, 3, 4], 1);
    expectClose(valuesOf(batchNorm({ x, mean, variance })), right, 1e-6 * largest(right), 'y');
  });

  it('is exact where TensorFlow.js on axis 1 is wrong (tfjs#1106)', () => {
    const x = tf.tensor([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 2, 2]);
    const mean = tf.tensor([1, 5], [1, 2, 1, 1]);
    const variance = tf.ones([1, 2, 1, 1]).sub(eps);
    const compute = () => [
      ...valuesOf(tf.batchNorm(x as tf.Tensor4D, mean, variance, undefined, undefined, eps)),
    ];
    const right = [0, 1, 2, 3, 0, 1, 2, 3];
    expectClose(compute(), right, 1e-6, 'y');
    expect(withStock(compute).map(Math.round)).not.toEqual(right);
  });

  it('reads integers that were cast to floats', () => {
    const x = tf.tensor([1, 2, 3, 4], [2, 2], 'int32').toFloat();
    const y = tf.batchNorm(x as tf.Tensor2D, tf.tensor1d([1, 2]), tf.ones([2]), undefined, undefined, eps);
    expectClose(valuesOf(y), [0, 0, 2, 2], 2e-3, 'y');
  });

  it('gives nothing for nothing', () => {
    const x = tf.zeros([0, 3]);
    expect(
      tf.batchNorm(x as tf.Tensor2D, tf.zeros([3]), tf.ones([3]), undefined, undefined, eps).shape,
    ).toEqual([0, 3]);
  });

  it('leaves no tensor behind, neither after an error', () => {
    const { x, mean, variance } = randomArguments(new Random(), [2, 3, 4], [4]);
    const wrong = tf.zeros([3]);
    const tensors = () => tf.memory().numTensors + tf.engine().backend.numDataIds();
    const before = tensors();
    tf.batchNorm(x as tf.Tensor3D, mean, variance).dispose();
    expectError(() => tf.batchNorm(x as tf.Tensor3D, wrong, variance), RangeError);
    tf.dispose(tf.grad((t) => tf.batchNorm(t as tf.Tensor3D, mean, variance))(x));
    expect(tensors()).toBe(before);
  });
});

eachBackend('the gradient of tf.batchNorm', (backend) => {
  beforeEach(() => tf.engine().startScope());
  afterEach(() => tf.engine().endScope());

  const names = ['x', 'mean', 'variance', 'offset', 'scale'] as const;
  const gradients = (given: Arguments, dy: tf.Tensor) =>
    tf.grads((x, mean, variance, offset, scale) => batchNorm({ x, mean, variance, offset, scale }))(
      names.map((name) => given[name]),
      dy,
    );

  it.each(axes)('is the textbook along axis $axis of $shape', ({ shape, axis }) => {
    const random = new Random();
    const given = randomArguments(random, shape, along(shape, axis));
    const dy = randomTensor(random, shape);
    const [dx, dMean, dVariance, dOffset, dScale] = gradients(given, dy).map(valuesOf);
    const variance = valuesOf(given.variance);
    const weight = valuesOf(given.scale);
    const right = textbook.backwardFrozen(valuesOf(dy), valuesOf(given.x), extentsOf(shape, axis), {
      eps,
      mean: valuesOf(given.mean),
      variance,
      weight,
    });
    const tolerance = (magnitudes: Float64Array) => 1e-6 * largest(magnitudes);
    expectClose(dx, right.dx, tolerance(right.magnitude.dx), 'dx');
    expectClose(dOffset, right.dBias, tolerance(right.magnitude.dBias), 'dOffset');
    expectClose(dScale, right.dWeight, tolerance(right.magnitude.dWeight), 'dScale');
    const slope = (c: number) => weight[c] / Math.sqrt(variance[c] + eps);
    expectClose(
      dMean,
      right.dBias.map((sum, c) => -sum * slope(c)),
      4 * tolerance(right.magnitude.dBias),
      'dMean',
    );
    expectClose(
      dVariance,
      right.dWeight.map((sum, c) => (-0.5 * sum * slope(c)) / Math.sqrt(variance[c] + eps)),
      4 * tolerance(right.magnitude.dWeight),
      'dVariance',
    );
  });

  it('is the slope: finite differences of mean and variance', () => {
    const random = new Random();
    const given = randomArguments(random, [40, 3], [3]);
    const dy = randomTensor(random, [40, 3]);
    const [, dMean, dVariance] = gradients(given, dy).map(valuesOf);
    const loss = (changed: Partial<Arguments>) =>
      batchNorm({ ...given, ...changed })
        .mul(dy)
        .sum()
        .dataSync()[0];
    const h = 1e-2;
    for (const [name, gradient] of [
      ['mean', dMean],
      ['variance', dVariance],
    ] as const)
      for (let c = 0; c < 3; c++) {
        const step = tf.oneHot(tf.scalar(c, 'int32'), 3).toFloat().mul(h);
        const difference = loss({ [name]: given[name].add(step) }) - loss({ [name]: given[name].sub(step) });
        const allowed = 0.02 * Math.max(1, Math.abs(gradient[c]));
        expect(Math.abs(difference / (2 * h) - gradient[c]), `${name}[${c}]`).toBeLessThan(allowed);
      }
  });

  it('is that of TensorFlow.js along the last axis', () => {
    const random = new Random();
    const given = randomArguments(random, [2, 3, 4, 5], [5]);
    const dy = randomTensor(random, [2, 3, 4, 5]);
    const ours = gradients(given, dy).map(valuesOf);
    const stock = withStock(() => gradients(given, dy).map(valuesOf));
    ours.forEach((gradient, i) => {
      expectClose(gradient, stock[i], 1e-5 * largest(stock[i]), names[i]);
    });
  });

  it('adds up what parameters of different shapes share', () => {
    const random = new Random();
    const given = {
      x: randomTensor(random, [2, 3, 4]),
      mean: randomTensor(random, [1, 3, 1]),
      variance: randomTensor(random, [1, 1, 4]).square().add(1),
      offset: randomTensor(random, [1, 1, 1]),
      scale: randomTensor(random, [1, 3, 4]),
    };
    const dy = randomTensor(random, [2, 3, 4]);
    const composed = tf.grads((x, mean, variance, offset, scale) =>
      x.sub(mean).div(variance.add(eps).sqrt()).mul(scale).add(offset),
    )(
      names.map((name) => given[name]),
      dy,
    );
    gradients(given, dy).forEach((gradient, i) => {
      expect(gradient.shape).toEqual(given[names[i]].shape);
      expectClose(valuesOf(gradient), valuesOf(composed[i]), 1e-4, names[i]);
    });
  });

  it('does without scale and offset, where TensorFlow.js fails', () => {
    const random = new Random();
    const { x, mean, variance } = randomArguments(random, [6, 3], [3]);
    const gradient = () => tf.grad((t) => tf.batchNorm(t as tf.Tensor2D, mean, variance).square())(x);
    const right = tf.grad((t) => t.sub(mean).div(variance.add(eps).sqrt()).square())(x);
    expectClose(valuesOf(gradient()), valuesOf(right), 1e-4, 'dx');
    expect(() => withStock(gradient)).toThrow(TypeError);
  });

  it('of a gradient is left to TensorFlow.js', () => {
    const random = new Random();
    const { x, mean, variance, offset, scale } = randomArguments(random, [2, 2, 3, 4], [4]);
    const twice = () => {
      const once = tf.grad((t) =>
        tf.batchNorm(t as tf.Tensor4D, mean, variance, offset, scale, eps).pow(tf.scalar(3)),
      );
      return valuesOf(tf.grad((t) => once(t).square())(x));
    };
    const stock = withStock(twice);
    expectClose(twice(), stock, 1e-4 * largest(stock), `second gradient on ${backend}`);
  });
});

eachBackend('bad input of tf.batchNorm', (backend) => {
  const run = (x: tf.Tensor, mean: tf.Tensor, scale?: tf.Tensor) =>
    tf.tidy(() => batchNorm({ x, mean, variance: tf.ones(mean.shape), scale }));

  it('is a parameter that does not broadcast', () => {
    expect(() => run(tf.zeros([2, 3]), tf.zeros([2]))).toThrow(
      'mean.shape must broadcast to [2, 3] (the shape of x), got [2]',
    );
    expect(() => run(tf.zeros([2, 3]), tf.zeros([3]), tf.zeros([2, 1, 3]))).toThrow(
      'scale.shape must broadcast to [2, 3] (the shape of x), got [2, 1, 3]',
    );
  });

  it('is a tensor that was disposed', () => {
    const given = randomArguments(new Random(), [1, 2, 2, 3], [3]);
    for (const name of ['x', 'mean', 'variance', 'scale', 'offset'] as const) {
      const disposed = tf.zeros(given[name].shape);
      disposed.dispose();
      const run = () => batchNorm({ ...given, [name]: disposed });
      const message = `${name} must not be disposed, got a disposed tensor of shape [${disposed.shape.join(', ')}]; dispose of it after the call`;
      expectError(run, Error);
      expect(run).toThrow(expect.objectContaining({ code: 'ERR_BATCHNORM_DISPOSED', message }));
      expectListed(message);
    }
    tf.dispose(Object.values(given));
  });

  it.each([
    [[6], '[6] (the shape of x, ones in front of it aside)'],
    [[2, 6], '[2, 6] (the shape of x, ones in front of it aside)'],
    [[3, 2, 6], '[3, 2, 6] (the shape of x, ones in front of it aside)'],
    [[4, 3, 2, 6], '[4, 3, 2, 6] (the shape of x)'],
    [[1, 1, 1, 1], '[1, 1, 1, 1] (the shape of x)'],
  ])('is a parameter that does not broadcast to x of %j, as the caller gave it', (shape, named) => {
    const run = () =>
      tf.tidy(() => {
        const x: tf.Tensor = tf.fill(shape, 0);
        return tf.batchNorm(x as tf.Tensor4D, tf.zeros([5]), tf.ones([5]));
      });
    expectError(run, RangeError);
    const message = `mean.shape must broadcast to ${named}, got [5]`;
    expect(run).toThrow(expect.objectContaining({ message }));
    expectListed(message);
  });

  it('is an integer: TensorFlow.js has it on cpu, and reads its bits on wasm', () => {
    const x = tf.tensor([1, 2, 3], [1, 3], 'int32');
    if (backend === 'wasm') {
      expect(() => run(x, tf.zeros([3]))).toThrow('x must be float32 (cast it with toFloat()), got "int32"');
      expectError(() => run(x, tf.zeros([3])), TypeError);
    } else {
      expect(valuesOf(run(x, tf.zeros([3])))).toEqual(withStock(() => valuesOf(run(x, tf.zeros([3])))));
    }
  });
});

describe('a tensor of another backend', () => {
  it('is fetched, as by other kernels', async () => {
    const { install, uninstall } = await import('../../lib/tfjs/index.js');
    install(tf);
    await tf.setBackend('cpu');
    const x = tf.tensor([1, 2, 3, 4], [2, 2]);
    await tf.setBackend('wasm');
    const y = tf.batchNorm(x as tf.Tensor2D, tf.zeros([2]), tf.ones([2]));
    expectClose(valuesOf(y), [1, 2, 3, 4], 4e-3, 'y');
    uninstall();
  });
});
