import { BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm } from 'batchnorm';
import { CLASSES } from '../mnist/data.js';
import { type Activations, Linear, type Parameter, Relu, run, type Stage } from '../mnist/network.js';
import { SIZES } from '../mnist/recipe.js';
import { BATCH, type Trainable } from '../mnist/train.js';

/** What stands between the linear layers; instance norm, which needs more than one value per channel, before the first. */
export type NormName = 'none' | 'batch' | 'group' | 'layer' | 'rms' | 'instance';

/** Of group norm: 16 features in each of the first layer, 8 of the second. */
export const GROUPS = 8;

/** What the norms of the library have in common. */
interface Norm {
  forward(x: Activations): { readonly data: Float32Array };
  backward(dy: Activations, options: { out: Float32Array }): unknown;
  parameters(): readonly Parameter[];
  freeze(): { run(x: Activations, options: { out: Float32Array }): unknown };
}

/** Between two linear layers. */
interface Hidden extends Stage {
  backward(dy: Activations): Activations;
  parameters(): readonly Parameter[];
  freeze(): Stage;
}

const options = { activation: 'relu', reuse: true } as const;

/** A norm with the ReLU behind it, in one pass. */
class Normalized implements Hidden {
  readonly #norm: Norm;

  constructor(norm: Norm) {
    this.#norm = norm;
  }

  forward(x: Activations): Activations {
    return { data: this.#norm.forward(x).data, shape: x.shape };
  }

  backward(dy: Activations): Activations {
    this.#norm.backward(dy, { out: dy.data });
    return dy;
  }

  parameters(): readonly Parameter[] {
    return this.#norm.parameters();
  }

  freeze(): Stage {
    const frozen = this.#norm.freeze();
    return {
      forward(x) {
        frozen.run(x, { out: x.data });
        return x;
      },
    };
  }
}

function hidden(norm: NormName, features: number): Hidden {
  switch (norm) {
    case 'batch':
      return new Normalized(new BatchNorm(features, options));
    case 'group':
      return new Normalized(new GroupNorm(GROUPS, features, options));
    case 'layer':
      return new Normalized(new LayerNorm(features, options));
    case 'rms':
      return new Normalized(new RMSNorm(features, options));
    default:
      return new Relu();
  }
}

/** Each image by its own mean and variance: its only channel has as many values as pixels. */
function eachImage(): Stage {
  const norm = new InstanceNorm(1, { reuse: true });
  return {
    forward({ data, shape }) {
      const y = norm.forward({ data, shape: [shape[0], 1, shape[1]] });
      return { data: y.data, shape };
    },
  };
}

/** The network of examples/mnist with any of the norms, for batches of any size. */
export class NormNetwork implements Trainable {
  readonly #images: readonly Stage[];
  readonly #first: Linear;
  readonly #rest: readonly [Hidden, Linear][];

  constructor(batch: number, norm: NormName, random: () => number) {
    this.#images = norm === 'instance' ? [eachImage()] : [];
    this.#first = new Linear(batch, SIZES[0], SIZES[1], random);
    this.#rest = [
      [hidden(norm, SIZES[1]), new Linear(batch, SIZES[1], SIZES[2], random)],
      [hidden(norm, SIZES[2]), new Linear(batch, SIZES[2], CLASSES, random)],
    ];
  }

  forward(x: Activations): Activations {
    return run([...this.#images, this.#first, ...this.#rest.flat()], x);
  }

  backward(dLogits: Activations): void {
    const dy = this.#rest.reduceRight(
      (gradient, [norm, linear]) => norm.backward(linear.backward(gradient)),
      dLogits,
    );
    this.#first.parameterGradients(dy);
  }

  parameters(): readonly Parameter[] {
    return [this.#first, ...this.#rest.flat()].flatMap((layer) => layer.parameters());
  }

  /** The stages for inference, for as many images as `accuracy` takes at a time. */
  freeze(): readonly Stage[] {
    return [
      ...this.#images,
      copyOf(this.#first, SIZES[0], SIZES[1]),
      ...this.#rest.flatMap(([norm, linear], i) => [
        norm.freeze(),
        copyOf(linear, SIZES[i + 1], SIZES[i + 2]),
      ]),
    ];
  }
}

function copyOf(linear: Linear, inputs: number, outputs: number): Stage {
  const copy = new Linear(BATCH, inputs, outputs, () => 0);
  const values = linear.parameters();
  for (const [i, { value }] of copy.parameters().entries()) value.set(values[i].value);
  return copy;
}
