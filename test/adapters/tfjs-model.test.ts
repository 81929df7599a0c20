// A real model of TensorFlow.js on a photograph, with its own batch norm and with ours.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { largestDifference } from '../../examples/difference.js';
import {
  batchNormsOf,
  featuresOf,
  isBatchNorm,
  loadMobileNet,
  predict,
  profile,
} from '../../examples/tfjs/mobilenet.js';
import { batchOf, readPictures } from '../../examples/tfjs/pictures.js';
import { onBothSides, takeSide, tf, useBackend } from '../../examples/tfjs/tensorflow.js';
import { fold } from '../../lib/tfjs/index.js';

let model: tf.LayersModel;
let picture: tf.Tensor4D;
beforeAll(async () => {
  await useBackend('wasm');
  model = await loadMobileNet();
  picture = batchOf(readPictures(), 1);
});
afterAll(() => takeSide('stock'));

it('MobileNetV2 on wasm gives the same probabilities', async () => {
  const { stock, ours } = await onBothSides(() => predict(model, picture));
  expect(stock).toHaveLength(5);
  expect(stock.reduce((sum, probability) => sum + probability)).toBeCloseTo(1, 5);
  expect(largestDifference(stock, ours)).toBeLessThan(1e-4);
});

it('its last batch norm gives the same values', async () => {
  const { stock, ours } = await onBothSides(() => predict(featuresOf(model), picture));
  expect(Math.max(...stock)).toBeGreaterThan(1);
  expect(largestDifference(stock, ours)).toBeLessThan(1e-4 * Math.max(...stock));
});

it('all of its 52 batch norms run, and leave no tensor behind', async () => {
  expect(batchNormsOf(model)).toHaveLength(52);
  takeSide('ours');
  const before = tf.memory().numTensors;
  const kernels = await profile(model, picture);
  expect(kernels.filter(isBatchNorm)).toHaveLength(52);
  expect(tf.memory().numTensors).toBe(before);
});

it('folded it has none, and gives the same probabilities', () => {
  takeSide('stock');
  const { model: folded, ...rest } = fold(model);
  try {
    expect(rest).toEqual({ folded: 52, left: [] });
    expect(batchNormsOf(folded)).toEqual([]);
    expect(largestDifference(predict(folded, picture), predict(model, picture))).toBeLessThan(1e-5);
  } finally {
    folded.dispose();
  }
});
