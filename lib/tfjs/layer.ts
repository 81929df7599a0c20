// tf.layers.batchNormalization: its call, in training and in inference.
import type * as tfc from '@tensorflow/tfjs-core';
import { passesFor } from '../backend/index.js';
import { describeShape, rangeError, stateError } from '../errors.js';
import { updateRunningArrays } from '../running.js';
import { copyInto, filled, lengthOf } from '../typed-array.js';
import { type Geometry, geometryOf, newArray } from '../validate.js';
import { isFrozen } from './frozen.js';
import { gradientDepth, kernelName, plain } from './kernel.js';
import { noteCall } from './masks.js';
import { checkAlive, type Memory, memoryOf } from './memory.js';

const { apply } = Reflect;

/** What is used of `LayerVariable`. */
interface LayerVariable {
  readonly trainable: boolean;
  /** Of a variable that is disposed read() throws an error of TensorFlow.js. */
  readonly val: { readonly isDisposed: boolean; readonly shape: readonly number[] };
  read(): tfc.Tensor;
  write(value: tfc.Tensor): unknown;
}

/** What is used of the layer; absent are the parameters that it was told to do without. */
export interface BatchNormalization {
  readonly name: string;
  /** A list of one in models that Keras has saved. */
  axis: number | readonly number[];
  momentum: number;
  epsilon: number;
  trainable: boolean;
  gamma?: LayerVariable | null;
  beta?: LayerVariable | null;
  movingMean: LayerVariable;
  movingVariance: LayerVariable;
}

export type Call = (
  this: BatchNormalization,
  inputs: tfc.Tensor | tfc.Tensor[],
  kwargs: { training?: boolean | null; mask?: unknown },
) => tfc.Tensor | tfc.Tensor[];

/** What a layer does in training that is not to be trained: `keras` infers, `tfjs` trains on. */
export type Trainable = 'keras' | 'tfjs';

/**
 * The `call` in place of `stock`, which stays in charge of other backends, other dtypes and gradients of gradients.
 *
 * @param isReplaced whether the kernel of a backend is ours, so that it broadcasts.
 * @param settings read at each call.
 */
export function fusedCall(
  tf: typeof tfc,
  stock: Call,
  isReplaced: (backend: string) => boolean,
  settings: Readonly<{ trainable: Trainable }>,
): Call {
  return function call(inputs, given) {
    const kwargs =
      settings.trainable === 'keras' && given?.training && isFrozen(this)
        ? { ...given, training: false }
        : given;
    noteCall(this, inputs, kwargs);
    const x = Array.isArray(inputs) && inputs.length === 1 ? inputs[0] : inputs;
    const memory = memoryOf(tf.backend());
    if (
      Array.isArray(x) ||
      !numbers.includes(x.dtype) ||
      memory === undefined ||
      !isReplaced(tf.getBackend())
    )
      return apply(stock, this, [inputs, kwargs]);
    const axis = check(this, x);
    return tf.tidy('BatchNormalization', () => {
      // TensorFlow.js would cut y down to integers.
      const floats = x.dtype === 'float32' ? x : tf.cast(x, 'float32');
      if (gradientDepth(tf) > 1) return apply(stock, this, [floats, kwargs]);
      return kwargs?.training ? train(tf, this, memory, floats, axis) : infer(tf, this, floats, axis);
    });
  };
}

const numbers = ['float32', 'int32', 'bool'];
const variableNames = ['gamma', 'beta', 'movingMean', 'movingVariance'] as const;

/**
 * What apply() leaves to call(), and call() by itself does not look at.
 *
 * @returns the axis, counted from the first.
 */
function check(layer: BatchNormalization, x: tfc.Tensor): number {
  const { name } = layer;
  checkAlive('x', x, 'dispose of it after the call, or take it out of tf.tidy() by tf.keep()');
  for (const key of variableNames) {
    const variable = layer[key];
    if (variable?.val.isDisposed)
      checkAlive(
        `${key} of layer "${name}"`,
        variable.val,
        "getWeights() gives the layer's own tensors: dispose of clones of them",
      );
  }
  const given = Number(layer.axis);
  const axis = given < 0 ? given + x.rank : given;
  const [channels] = layer.movingMean.read().shape;
  if (x.shape[axis] !== channels)
    throw rangeError(
      `x.shape[${axis}]`,
      `be ${channels} (channels)`,
      `${x.shape[axis]}; layer "${name}" has axis ${given}, x shape ${describeShape(x.shape)}`,
    );
  return axis;
}

function infer(tf: typeof tfc, layer: BatchNormalization, x: tfc.Tensor, axis: number): tfc.Tensor {
  const { epsilon, gamma, beta, movingMean, movingVariance } = layer;
  const shape = x.shape.map((dimension, i) => (i === axis ? dimension : 1));
  // [C] broadcasts along the last axis as it is; each reshape would be a kernel more.
  const along = (variable: LayerVariable) =>
    axis === x.rank - 1 ? variable.read() : tf.reshape(variable.read(), shape);
  const inputs: tfc.NamedTensorMap = { x, mean: along(movingMean), variance: along(movingVariance) };
  if (gamma) inputs.scale = along(gamma);
  if (beta) inputs.offset = along(beta);
  return tf.engine().runKernel(kernelName, inputs, { varianceEpsilon: epsilon });
}

function train(
  tf: typeof tfc,
  layer: BatchNormalization,
  memory: Memory,
  x: tfc.Tensor,
  axis: number,
): tfc.Tensor {
  const geometry = geometryOf({ name: 'x', shape: x.shape }, axis);
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
