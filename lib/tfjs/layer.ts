// tf.layers.batchNormalization: its call, in training and in inference.
import type * as tfc from '@tensorflow/tfjs-core';
import { describeShape, rangeError } from '../errors.js';
import { isFrozen } from './frozen.js';
import { gradientDepth, kernelName } from './kernel.js';
import { fittingMask, type Masks, maskOf, warnOfMask } from './masks.js';
import { checkAlive, memoryOf } from './memory.js';
import { train } from './training.js';

const { apply } = Reflect;

/** What is used of `LayerVariable`. */
export interface LayerVariable {
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
  settings: Readonly<{ trainable: Trainable; masks: Masks }>,
): Call {
  return function call(inputs, args) {
    const kwargs =
      settings.trainable === 'keras' && args?.training && isFrozen(this)
        ? { ...args, training: false }
        : args;
    const given = kwargs?.training && settings.masks === 'keras' ? maskOf(kwargs) : undefined;
    const x = Array.isArray(inputs) && inputs.length === 1 ? inputs[0] : inputs;
    const memory = memoryOf(tf.backend());
    if (
      Array.isArray(x) ||
      !numbers.includes(x.dtype) ||
      memory === undefined ||
      !isReplaced(tf.getBackend())
    ) {
      if (given !== undefined) warnOfMask(this);
      return apply(stock, this, [inputs, kwargs]);
    }
    const axis = check(this, x);
    const isStock = gradientDepth(tf) > 1;
    const mask = isStock ? undefined : fittingMask(this, given, x, axis);
    if (given !== undefined && mask === undefined) warnOfMask(this);
    return tf.tidy('BatchNormalization', () => {
      // TensorFlow.js would cut y down to integers.
      const floats = x.dtype === 'float32' ? x : tf.cast(x, 'float32');
      if (isStock) return apply(stock, this, [floats, kwargs]);
      return kwargs?.training ? train(tf, this, memory, floats, axis, mask) : infer(tf, this, floats, axis);
    });
  };
}

/** The dtypes that are computed, as floats. */
export const numbers = ['float32', 'int32', 'bool'];

export function checkInput(x: tfc.Tensor): void {
  checkAlive('x', x, 'dispose of it after the call, or take it out of tf.tidy() by tf.keep()');
}

/** @param variables by their names in the layer; null or undefined where it has none. */
export function checkVariables(
  name: string,
  variables: Readonly<Record<string, LayerVariable | null | undefined>>,
): void {
  for (const [key, variable] of Object.entries(variables))
    if (variable?.val.isDisposed)
      checkAlive(
        `${key} of layer "${name}"`,
        variable.val,
        "getWeights() gives the layer's own tensors: dispose of clones of them",
      );
}

/**
 * What apply() leaves to call(), and call() by itself does not look at.
 *
 * @returns the axis, counted from the first.
 */
function check(layer: BatchNormalization, x: tfc.Tensor): number {
  const { name, gamma, beta, movingMean, movingVariance } = layer;
  checkInput(x);
  checkVariables(name, { gamma, beta, movingMean, movingVariance });
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
