// Masks, of `tf.layers.masking` and embeddings: nothing computes with them in a batch norm, so that it must be said.
import type { BatchNormalization } from './layer.js';

const { apply } = Reflect;

export type ComputeMask = (this: BatchNormalization, inputs: unknown, mask?: unknown) => unknown;

/** Layers whose last call normalized with the statistics of its batch. */
const trained = new WeakSet<object>();
const warned = new WeakSet<object>();

/**
 * Warns of a mask that the caller of a layer gives it in training. In a model the mask among the arguments may be that of a
 * layer before, long gone: there computeMask() is asked right after each call, with what really is there.
 */
export function noteCall(
  layer: BatchNormalization,
  inputs: unknown,
  kwargs: { training?: boolean | null; mask?: unknown } | undefined,
): void {
  if (!kwargs?.training) {
    trained.delete(layer);
    return;
  }
  trained.add(layer);
  // Models give lists.
  if (!Array.isArray(inputs)) warnOfMask(layer, kwargs.mask);
}

/** The `computeMask` in place of `stock`. */
export function watchedComputeMask(stock: ComputeMask): ComputeMask {
  return function computeMask(inputs, mask) {
    if (trained.has(this)) warnOfMask(this, mask);
    return apply(stock, this, [inputs, mask]);
  };
}

function warnOfMask(layer: BatchNormalization, given: unknown): void {
  const masks = Array.isArray(given) ? given : [given];
  if (warned.has(layer) || masks.every((mask) => mask == null)) return;
  warned.add(layer);
  console.warn(
    `The batch norm "${layer.name}" does not heed the mask of its input: masked steps count in its statistics, ` +
      'which Keras leaves out. This is said once for each layer.',
  );
}
