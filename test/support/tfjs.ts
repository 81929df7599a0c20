// What the tests of batchnorm/tfjs share.
import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-backend-wasm';
import { afterAll, beforeAll, describe } from 'vitest';
import { install, uninstall } from '../../lib/tfjs/index.js';
import { type Random, seedNote } from './random.js';

// Otherwise it is said in every file that there are faster backends for Node.js.
tf.enableProdMode();

/** Runs tests on both backends that can be replaced, with the replacement in place. */
export function eachBackend(title: string, tests: (backend: string) => void): void {
  describe.each(['cpu', 'wasm'])(`on %s: ${title} (${seedNote})`, (backend) => {
    beforeAll(async () => {
      install(tf);
      await tf.setBackend(backend);
    });
    afterAll(() => uninstall());
    tests(backend);
  });
}

/** With TensorFlow.js' own batch norm. */
export function withStock<R>(action: () => R): R {
  uninstall();
  try {
    return action();
  } finally {
    install(tf);
  }
}

/** A shape of each rank from 2 to 5, no two of its dimensions alike. */
export const shapes = [
  [7, 5],
  [3, 4, 5],
  [2, 3, 5, 4],
  [2, 3, 2, 5, 4],
];

/** Every axis of every rank. */
export const axes = shapes.flatMap((shape) => shape.map((_, axis) => ({ shape, axis })));

export function randomTensor(random: Random, shape: number[], mean = 0, std = 1): tf.Tensor {
  const size = shape.reduce((product, dimension) => product * dimension, 1);
  return tf.tensor(
    Float32Array.from({ length: size }, () => random.normal(mean, std)),
    shape,
  );
}

/** The values of a tensor, which tidy() may then dispose. */
export function valuesOf(tensor: tf.Tensor): Float32Array {
  return Float32Array.from(tensor.dataSync());
}

/** The shape that lies along one axis: [1, C, 1]. */
export function along(shape: number[], axis: number): number[] {
  return shape.map((dimension, i) => (i === axis ? dimension : 1));
}

export { tf };
