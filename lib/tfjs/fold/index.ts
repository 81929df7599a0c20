import { typeError } from '../../errors.js';
import { foldGraph, type GraphModel } from './graph.js';
import { foldLayers, type Left, type Model } from './layers.js';

export type { Left } from './layers.js';

/** A model of TensorFlow.js without the batch norms that could be folded. */
export interface FoldedModel<M> {
  /** A new model, of the same class. It is the caller's to dispose of. */
  readonly model: M;
  /** How many batch norms it has less. */
  readonly folded: number;
  /** Those that it still has. */
  readonly left: readonly Left[];
}

/**
 * Folds the batch norms of a TensorFlow.js model into the layers beside them: a new model that predicts the same on every backend,
 * sooner where convolutions add their bias themselves (wasm, webgl, webgpu; not cpu). A batch norm goes into the convolution or dense layer that it stands behind, or into those that follow it, or two in
 * a row become one; `left` says of each that stays why.
 *
 * Layers models: sequential and functional ones, models in models, layers that are used more than once. Graph models: fused batch norms, and
 * products and sums with constants, behind Conv2D (of one dimension too), DepthwiseConv2dNative and MatMul. Predictions differ by the rounding of weights.
 *
 * @param model is not changed, and shares the weights that stay as they are. A layers model must be built, and its layers be such as
 * `tf.loadLayersModel` could make again.
 * @returns the new model, which is not compiled, and what became of the batch norms.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`) for what is no model of TensorFlow.js 4, or one that has not been built.
 * RangeError (`ERR_BATCHNORM_OUT_OF_MEMORY`) where there is no room for its weights. Errors of TensorFlow.js
 * for layers that it does not know.
 * @example
 * import * as tf from '@tensorflow/tfjs';
 * import { fold } from 'batchnorm/tfjs';
 *
 * const model = tf.sequential({
 *   layers: [
 *     tf.layers.conv2d({ filters: 8, kernelSize: 3, inputShape: [32, 32, 3] }),
 *     tf.layers.batchNormalization(),
 *     tf.layers.reLU(),
 *   ],
 * });
 * const { model: folded, left } = fold(model);
 * console.log(folded.layers.length, left.length); // 2 0
 */
export function fold<M extends object>(model: M): FoldedModel<M> {
  const members = (typeof model === 'object' && model !== null ? model : {}) as Record<string, unknown>;
  if (Array.isArray(members.layers) && typeof members.getConfig === 'function') {
    if (!Array.isArray(members.outputs) || members.outputs.length === 0)
      throw typeError('model', 'be built (its first layer needs an inputShape)', model);
    return foldLayers(model as unknown as Model) as unknown as FoldedModel<M>;
  }
  const { artifacts } = members as { artifacts?: { modelTopology?: { node?: unknown } } };
  if (typeof members.executeAsync === 'function' && Array.isArray(artifacts?.modelTopology?.node))
    return foldGraph(model as unknown as GraphModel) as unknown as FoldedModel<M>;
  throw typeError('model', 'be a layers model or graph model of TensorFlow.js 4', model);
}
