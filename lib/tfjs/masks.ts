// Masks, of `tf.layers.masking` and embeddings: which of them is that of the input of a batch norm, and what it lets through.
import type * as tfc from '@tensorflow/tfjs-core';
import { newArray } from '../validate.js';
import { sizeOf } from './broadcast.js';
import type { BatchNormalization } from './layer.js';
import { checkAlive } from './memory.js';
import { replace } from './replace.js';

const { apply } = Reflect;

/** What a layer does with the mask of its input in training: `keras` heeds it, `ignore` does not. */
export type Masks = 'keras' | 'ignore';

/** What layers are called with. */
interface Arguments {
  training?: boolean | null;
  mask?: unknown;
}

/** What is used of `Layer`. */
interface Layer {
  /** Of a container. */
  readonly layers?: readonly unknown[];
  /** Of a wrapper, `tf.layers.timeDistributed`. */
  readonly layer?: unknown;
}

/** A mask among arguments that a model shares between its layers. */
interface Shared {
  mask: unknown;
  /** Whether it was put there for the layer that is called next. */
  isNew: boolean;
}

/** A call of a layer with a mask among its arguments. */
interface MaskedCall {
  readonly layer: Layer;
  readonly kwargs: Arguments;
  /** That of the layer's input; undefined where it has none. */
  readonly mask: unknown;
}

const shared = new WeakMap<Arguments, Shared>();
let innermost: MaskedCall | undefined;

/** Layers of which it was said that they do not heed a mask. */
const warned = new WeakSet<object>();

/**
 * Tells from now on whose masks those are that models give their layers: a model puts that of a layer's input among the arguments, and
 * leaves it there for layers whose input has none.
 *
 * @param prototype of all layers.
 * @returns what undoes it.
 */
export function followMasks(prototype: object): () => void {
  return replace(prototype, 'apply', ({ value, ...rest }) => ({
    ...rest,
    value(this: Layer, inputs: unknown, kwargs?: Arguments) {
      if (!kwargs?.training || kwargs.mask == null) return apply(value, this, [inputs, kwargs]);
      const outer = innermost;
      innermost = { layer: this, kwargs, mask: maskOfCall(this, inputs, kwargs) };
      try {
        return apply(value, this, [inputs, kwargs]);
      } finally {
        innermost = outer;
      }
    },
  }));
}

function maskOfCall(layer: Layer, inputs: unknown, kwargs: Arguments): unknown {
  // Models give lists; and one within another gives its layers the arguments that it has itself.
  if (!Array.isArray(inputs) && layer.layers === undefined) return maskAmong(kwargs);
  const given = shared.get(kwargs) ?? share(kwargs);
  const mask = given.isNew ? given.mask : undefined;
  given.isNew = false;
  return mask;
}

/** Notes from now on when a mask is put among these arguments. For everybody else they stay as they are. */
function share(kwargs: Arguments): Shared {
  const given: Shared = { mask: kwargs.mask, isNew: true };
  shared.set(kwargs, given);
  Object.defineProperty(kwargs, 'mask', {
    configurable: true,
    enumerable: true,
    get: () => given.mask,
    set(mask: unknown) {
      given.mask = mask;
      given.isNew = true;
    },
  });
  return given;
}

/** That of the input, of a mask among arguments. */
function maskAmong(kwargs: Arguments): unknown {
  if (!shared.has(kwargs)) return kwargs.mask;
  return innermost?.kwargs === kwargs ? innermost.mask : undefined;
}

/** The mask of the input of a batch norm that is called with these arguments; undefined where it has none. */
export function maskOf(kwargs: Arguments | undefined): unknown {
  const mask = kwargs?.mask == null ? undefined : maskAmong(kwargs);
  return (Array.isArray(mask) && mask.length === 1 ? mask[0] : mask) ?? undefined;
}

/** A mask that fits: of the shape of x without the channel axis, which is the last. */
export function fittingMask(
  layer: BatchNormalization,
  mask: unknown,
  x: tfc.Tensor,
  axis: number,
): tfc.Tensor | undefined {
  // That of a wrapper is not that of a step, which is all that the layer sees.
  if (innermost?.layer.layer === layer || !isTensor(mask)) return undefined;
  const { shape } = mask;
  const fits =
    axis === x.rank - 1 && shape.length === axis && shape.every((dimension, i) => dimension === x.shape[i]);
  if (!fits) return undefined;
  checkAlive('mask', mask, 'dispose of it after the call, or take it out of tf.tidy() by tf.keep()');
  return mask;
}

function isTensor(mask: unknown): mask is tfc.Tensor {
  const { shape, dtype, dataSync } = Object(mask) as Partial<tfc.Tensor>;
  return (
    Array.isArray(shape) && typeof dataSync === 'function' && dtype !== 'string' && dtype !== 'complex64'
  );
}

/** As weights of the positions: 1 where a mask lets something through, and how many those are. */
export function weightsOf(mask: tfc.Tensor): { readonly weights: Float64Array; readonly count: number } {
  const values = mask.dataSync() as ArrayLike<number>;
  const positions = sizeOf(mask.shape);
  const weights = newArray<Float64Array>('float64', positions);
  let count = 0;
  for (let i = 0; i < positions; i++) {
    // bool in Keras: true is what is not 0.
    if (!values[i]) continue;
    weights[i] = 1;
    count++;
  }
  return { weights, count };
}

/** Once for each layer. */
export function warnOfMask(layer: BatchNormalization): void {
  if (warned.has(layer)) return;
  warned.add(layer);
  console.warn(
    `The batch norm "${layer.name}" does not heed the mask of its input: masked steps count in its statistics, ` +
      'which Keras leaves out. This is said once for each layer.',
  );
}
