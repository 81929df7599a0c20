// tf.layers.batchNormalization in training: statistics, normalization and moving averages, with one gradient.
import type * as tfc from '@tensorflow/tfjs-core';
import type { Presence } from '../backend/backend.js';
import { passesFor } from '../backend/index.js';
import { presentPass } from '../presence.js';
import { updateRunningArrays } from '../running.js';
import { throughPresent } from '../through.js';
import { copyInto, filled } from '../typed-array.js';
import { type Geometry, geometryOf, newArray } from '../validate.js';
import { plain } from './kernel.js';
import type { BatchNormalization } from './layer.js';
import { weightsOf } from './masks.js';
import type { Memory } from './memory.js';
import { record } from './recorded.js';

/** What a call normalizes, and with what. */
interface Batch {
  readonly geometry: Geometry;
  /** What a mask lets through; undefined without one. */
  readonly presence: Presence | undefined;
  /** How many values of each channel count. */
  readonly count: number;
  /** Those of the batch; the moving ones where a mask lets nothing through. */
  readonly mean: Float64Array;
  readonly variance: Float64Array;
}

/** @param mask of the shape of x without the channel axis; undefined where all values count. */
export function train(
  tf: typeof tfc,
  layer: BatchNormalization,
  memory: Memory,
  x: tfc.Tensor,
  axis: number,
  mask: tfc.Tensor | undefined,
): tfc.Tensor {
  const geometry = geometryOf({ name: 'x', shape: x.shape }, axis);
  const { channels } = geometry;
  const present = mask && weightsOf(mask);
  const batch: Batch = {
    geometry,
    presence: present && { weights: present.weights, missing: false, impute: false, zero: false },
    count: present?.count ?? geometry.outer * geometry.inner,
    mean: newArray('float64', channels),
    variance: newArray('float64', channels),
  };
  const y = normalize(tf, memory, x, batch, layer);
  const { count, mean, variance } = batch;
  if (count === 0) return y;

  const { momentum, movingMean, movingVariance } = layer;
  const updated = memory.compute(
    [movingMean.read(), movingVariance.read()],
    [[channels], [channels]],
    ([oldMean, oldVariance], [newMean, newVariance]) => {
      copyInto(newMean, oldMean);
      copyInto(newVariance, oldVariance);
      // Keras keeps the biased variance; its momentum is the weight of the old value.
      const [decay, unbiased] = [momentum, false];
      updateRunningArrays(mean, variance, channels, count, decay, unbiased, newMean, newVariance);
    },
  );
  [movingMean, movingVariance].forEach((variable, i) => {
    variable.write(tf.engine().makeTensorFromTensorInfo(updated[i]));
  });
  return y;
}

/** One call on the tape. Fills the statistics. */
function normalize(
  tf: typeof tfc,
  memory: Memory,
  x: tfc.Tensor,
  { geometry, presence, count, mean, variance }: Batch,
  { epsilon: eps, gamma, beta, movingMean, movingVariance }: BatchNormalization,
): tfc.Tensor {
  const passes = passesFor<Float32Array>('float32');
  const shared = { ...plain, geometry, eps, mean, variance };
  return record(tf, memory, {
    norm: 'batch norm',
    x,
    gamma,
    beta,
    constants: [movingMean.read(), movingVariance.read()],
    forward(values, [oldMean, oldVariance]) {
      const pass = { ...shared, ...values };
      if (presence === undefined) {
        passes.forwardTraining(pass);
        return;
      }
      if (count > 0) passes.momentsOfPresent(presentPass(pass, presence));
      else {
        copyInto(mean, oldMean);
        copyInto(variance, oldVariance);
      }
      passes.forwardInference(pass);
    },
    backward(values) {
      const pass = { ...shared, ...values, training: true, bias: undefined, dResidual: undefined };
      if (presence === undefined) {
        passes.backward(pass);
        return;
      }
      // 0 of them says that the statistics are constants.
      const counts = filled(newArray<Float64Array>('float64', geometry.channels), count);
      throughPresent(passes, pass, {
        presence,
        given: undefined,
        gather: undefined,
        gatherLater: undefined,
        counts,
        dWeights: undefined,
      });
    },
  });
}
