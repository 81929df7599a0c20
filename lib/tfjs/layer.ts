// tf.layers.batchNormalization: its call, in training and in inference.
import type * as tfc from '@tensorflow/tfjs-core';
import { backend, passesFor } from '../backend/index.js';
import { gradientDepth, kernelName } from './kernel.js';
import { type Memory, memoryOf } from './memory.js';

/** What is used of `LayerVariable`. */
interface LayerVariable {
  read(): tfc.Tensor;
  write(value: tfc.Tensor): unknown;
}

/** What is used of the layer; absent are the parameters that it was told to do without. */
export interface BatchNormalization {
  axis: number;
  momentum: number;
  epsilon: number;
  gamma?: LayerVariable | null;
  beta?: LayerVariable | null;
  movingMean: LayerVariable;
  movingVariance: LayerVariable;
}

export type Call = (
  this: BatchNormalization,
  inputs: tfc.Tensor | tfc.Tensor[],
  kwargs: { training?: boolean | null },
) => tfc.Tensor | tfc.Tensor[];

/**
 * The `call` in place of `stock`, which stays in charge of other backends, other dtypes and gradients of gradients.
 *
 * @param isReplaced whether the kernel of a backend is ours, so that it broadcasts.
 */
export function fusedCall(tf: typeof tfc, stock: Call, isReplaced: (backend: string) => boolean): Call {
  return function call(inputs, kwargs) {
    const x = Array.isArray(inputs) && inputs.length === 1 ? inputs[0] : inputs;
    const memory = memoryOf(tf.backend());
    if (
      Array.isArray(x) ||
      x.dtype !== 'float32' ||
      memory === undefined ||
      !isReplaced(tf.getBackend()) ||
      gradientDepth(tf) > 1
    )
      return stock.call(this, inputs, kwargs);
    return tf.tidy(() => (kwargs?.training ? train(tf, this, memory, x) : infer(tf, this, x)));
  };
}

function infer(tf: typeof tfc, layer: BatchNormalization, x: tfc.Tensor): tfc.Tensor {
  const { epsilon, gamma, beta, movingMean, movingVariance } = layer;
  const axis = layer.axis < 0 ? layer.axis + x.rank : layer.axis;
  const shape = x.shape.map((dimension, i) => (i === axis ? dimension : 1));
  const along = (variable: LayerVariable) => tf.reshape(variable.read(), shape);
  const inputs: tfc.NamedTensorMap = { x, mean: along(movingMean), variance: along(movingVariance) };
  if (gamma) inputs.scale = along(gamma);
  if (beta) inputs.offset = along(beta);
  return tf.engine().runKernel(kernelName, inputs, { varianceEpsilon: epsilon });
}

function train(tf: typeof tfc, layer: BatchNormalization, memory: Memory, x: tfc.Tensor): tfc.Tensor {
  const { epsilon: eps, momentum, movingMean, movingVariance } = layer;
  const { shape } = x;
  const axis = layer.axis < 0 ? layer.axis + x.rank : layer.axis;
  const extent = (dimensions: number[]) => dimensions.reduce((size, dimension) => size * dimension, 1);
  const channels = shape[axis];
  const outer = extent(shape.slice(0, axis));
  const inner = extent(shape.slice(axis + 1));
  const passes = passesFor<Float32Array>('float32');
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  const gamma = layer.gamma?.read();
  const beta = layer.beta?.read();
  const toTensor = (info: tfc.TensorInfo) => tf.engine().makeTensorFromTensorInfo(info);

  const normalize = tf.customGrad((...args: (tfc.Tensor | tfc.GradSaveFunc)[]) => {
    const save = args[args.length - 1] as tfc.GradSaveFunc;
    save(gamma ? [x, gamma] : [x]);
    const inputs = [x, ...(gamma ? [gamma] : []), ...(beta ? [beta] : [])];
    const [y] = memory.compute(inputs, [shape], ([values, ...parameters], [result]) => {
      const weight = gamma && parameters[0];
      const bias = beta && parameters[parameters.length - 1];
      if (values.length === 0) return;
      passes.forwardTraining(
        outer,
        channels,
        inner,
        eps,
        values,
        result,
        weight,
        bias,
        mean,
        variance,
        false,
        undefined,
        undefined,
      );
    });
    const gradFunc = (dy: tfc.Tensor, saved: tfc.Tensor[]) => {
      const perChannel = [gamma, beta].filter((parameter) => parameter !== undefined).map(() => [channels]);
      return memory
        .compute([dy, ...saved], [shape, ...perChannel], ([dyValues, values, weight], [dx, ...sums]) => {
          if (values.length === 0) {
            for (const sum of sums) sum.fill(0);
            return;
          }
          passes.backward(
            outer,
            channels,
            inner,
            eps,
            true,
            dyValues,
            values,
            mean,
            variance,
            weight,
            undefined,
            false,
            undefined,
            undefined,
            dx,
            gamma && sums[0],
            beta && sums[sums.length - 1],
            undefined,
          );
        })
        .map(toTensor);
    };
    return { value: toTensor(y), gradFunc };
  });
  const y = normalize(...[x, gamma, beta].filter((tensor) => tensor !== undefined));

  if (outer * inner > 0) {
    const moving = [movingMean, movingVariance];
    const updated = memory.compute(
      moving.map((variable) => variable.read()),
      [[channels], [channels]],
      (old, results) => {
        const [runningMean, runningVar] = old.map((values) => Float64Array.from(values));
        // Keras keeps the biased variance; its momentum is the weight of the old value.
        backend.updateRunningStats(
          mean,
          variance,
          channels,
          outer * inner,
          momentum,
          false,
          runningMean,
          runningVar,
        );
        results[0].set(runningMean);
        results[1].set(runningVar);
      },
    );
    updated.forEach((info, i) => {
      moving[i].write(toTensor(info));
    });
  }
  return y;
}
