// Which layers are not to be trained. In Keras a container that is frozen freezes the layers in it, however deep; in
// TensorFlow.js it marks the weights of those that lie directly in it, and nothing else.
import type { BatchNormalization } from './layer.js';
import { replace } from './replace.js';

const { apply } = Reflect;

/** What is used of `Layer`, `Container` and `Wrapper`. */
interface Layer {
  trainable: boolean;
  /** Of a container. */
  readonly layers?: readonly Layer[];
  /** Of a wrapper, `tf.layers.timeDistributed`. */
  readonly layer?: Layer;
}

/** What is used of the module beside its functions. */
export interface Models {
  readonly LayersModel?: { readonly prototype: object };
  readonly Sequential?: { readonly prototype: object };
}

/** The container that froze a layer last, unless the layer or its container was told otherwise since. */
const frozenBy = new WeakMap<object, Layer>();

/** Whether a layer is not to be trained, at the moment of the call. */
export function isFrozen(layer: BatchNormalization): boolean {
  const { trainable, gamma, beta } = layer;
  if (trainable === false || frozenBy.get(layer)?.trainable === false) return true;
  const parameters = [gamma, beta].filter((variable) => variable != null);
  return parameters.length > 0 && parameters.every((variable) => !variable.trainable);
}

/**
 * Notes from now on which containers freeze and thaw which layers.
 *
 * @param prototype of the batch norm layer.
 * @returns what undoes it.
 */
export function followContainers({ LayersModel, Sequential }: Models, prototype: object): () => void {
  const container = LayersModel && Object.getPrototypeOf(LayersModel.prototype);
  // A Sequential makes a model of its layers, and tells that one what it is itself: nobody has said anything then.
  let building = 0;
  const undoes = [
    replace(Sequential?.prototype, 'build', (build) => ({
      ...build,
      value(this: object, ...args: unknown[]) {
        building++;
        try {
          return apply(build.value, this, args);
        } finally {
          building--;
        }
      },
    })),
    replace(container, 'trainable', (stock) => ({
      ...stock,
      set(this: Layer, trainable: boolean) {
        apply(stock.set as (value: boolean) => void, this, [trainable]);
        if (building === 0) note(this, this, trainable);
      },
    })),
    replace(prototype, 'trainable', (stock) => ({
      ...stock,
      set(this: Layer, trainable: boolean) {
        apply(stock.set as (value: boolean) => void, this, [trainable]);
        frozenBy.delete(this);
      },
    })),
  ];
  return () => {
    for (const undo of undoes) undo();
  };
}

function note(container: Layer, parent: Layer, trainable: boolean): void {
  for (const layer of parent.layers ?? (parent.layer ? [parent.layer] : [])) {
    if (trainable === false) frozenBy.set(layer, container);
    // One that is frozen itself stays so.
    else if (layer.trainable === false) continue;
    else frozenBy.delete(layer);
    note(container, layer, trainable);
  }
}
