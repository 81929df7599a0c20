// tf.layers.batchNormalization: its call, in training and in inference.
import type * as tfc from '@tensorflow/tfjs-core';
import { passesFor } from '../backend/index.js';
import { stateError } from '../errors.js';
import { updateRunningArrays } from '../running.js';
import { copyInto, filled, lengthOf } from '../typed-array.js';
import { type Geometry, geometryOf, newArray } from '../validate.js';
import { gradientDepth, kernelName, plain } from './kernel.js';
import { type Memory, memoryOf } from './memory.js';

const { apply } = Reflect;

/** What is used of `LayerVariable`. */
interface LayerVariable {
  read(): tfc.Tensor;
  write(value: tfc.Tensor): unknown;
}

/** What is used of the layer; absent are the parameters that it was told to do without. */
export interface BatchNormalization {
  /** A list of one in models that Keras has saved. */
  axis: number | readonly number[];
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
      return apply(stock, this, [inputs, kwargs]);
    return tf.tidy('BatchNormalization', () =>
      kwargs?.training ? train(tf, this, memory, x) : infer(tf, this, x),
    );
  };
}

function axisOf({ axis }: BatchNormalization): number {
  return Number(axis);
}

function infer(tf: typeof tfc, layer: BatchNormalization, x: tfc.Tensor): tfc.Tensor {
  const { epsilon, gamma, beta, movingMean, movingVariance } = layer;
  const given = axisOf(layer);
  const axis = given < 0 ? given + x.rank : given;
  const shape = x.shape.map((dimension, i) => (i === axis ? dimension : 1));
  // [C] broadcasts along the last axis as it is; each reshape would be a kernel more.
  const along = (variable: LayerVariable) =>
    axis === x.rank - 1 ? variable.read() : tf.reshape(variable.read(), shape);
  const inputs: tfc.NamedTensorMap = { x, mean: along(movingMean), variance: along(movingVariance) };
  if (gamma) inputs.scale = along(gamma);
  if (beta) inputs.offset = along(beta);
  return tf.engine().runKernel(kernelName, inputs, { varianceEpsilon: epsilon });
}

function train(tf: typeof tfc, layer: BatchNormalization, memory: Memory, x: tfc.Tensor): tfc.Tensor {
  const geometry = geometryOf({ name: 'x', shape: x.shape }, axisOf(layer), layer.movingMean.read().shape[0]);
  const count = geometry.outer * geometry.inner;
  const { y, mean, variance } = normalize(tf, memory, x, geometry, layer);
  if (count === 0) return y;

  const { momentum, movingMean, movingVariance } = layer;
  const { channels } = geometry;
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

interface Normalized {
  y: tfc.Tensor;
  mean: Float64Array;
  variance: Float64Array;
}

/** One call on the tape, with a gradient for x and for each parameter that is there. */
function normalize(
  tf: typeof tfc,
  memory: Memory,
  x: tfc.Tensor,
  geometry: Geometry,
  { epsilon: eps, gamma, beta }: BatchNormalization,
): Normalized {
  const { channels } = geometry;
  const scale = gamma?.read();
  const offset = beta?.read();
  const mean = newArray<Float64Array>('float64', channels);
  const variance = newArray<Float64Array>('float64', channels);
  // By the time of the gradient another backend may be current.
  const holder = tf.backend();
  const toTensor = (info: tfc.TensorInfo) => tf.engine().makeTensorFromTensorInfo(info, holder);

  const recorded = tf.customGrad((...args: (tfc.Tensor | tfc.GradSaveFunc)[]) => {
    const save = args[args.length - 1] as tfc.GradSaveFunc;
    save(scale ? [x, scale] : [x]);
    const [y] = memory.compute([x, scale, offset], [x.shape], ([values, weight, bias], [result]) => {
      if (lengthOf(values) === 0) return;
      passesFor<Float32Array>('float32').forwardTraining({
        ...plain,
        geometry,
        eps,
        x: values,
        y: result,
        weight,
        bias,
        mean,
        variance,
      });
    });
    const gradFunc = (dy: tfc.Tensor, saved: tfc.Tensor[]) => {
      // What follows is not on the tape: the outer gradient would lack it.
      if (gradientDepth(tf) > 0)
        throw stateError(
          'NOT_DIFFERENTIABLE',
          'a batch norm whose gradient is differentiated must be called within the inner tf.grad, got one from outside',
        );
      const [savedX, savedScale] = saved as [tfc.Tensor, tfc.Tensor | undefined];
      return memory
        .compute(
          [dy, savedX, savedScale],
          [x.shape, scale?.shape, offset?.shape],
          ([dyValues, values, weight], [dx, dWeight, dBias]) => {
            if (lengthOf(values) === 0) {
              if (dWeight) filled(dWeight, 0);
              if (dBias) filled(dBias, 0);
              return;
            }
            passesFor<Float32Array>('float32').backward({
              ...plain,
              geometry,
              eps,
              training: true,
              dy: dyValues,
              x: values,
              mean,
              variance,
              weight,
              bias: undefined,
              dx,
              dWeight,
              dBias,
              dResidual: undefined,
            });
          },
        )
        .filter((info) => info !== undefined)
        .map(toTensor);
    };
    return { value: toTensor(y), gradFunc };
  });
  return { y: recorded(...[x, scale, offset].filter((tensor) => tensor !== undefined)), mean, variance };
}
