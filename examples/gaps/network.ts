import { BatchNorm } from 'batchnorm';
import { CLASSES } from '../mnist/data.js';
import { type Activations, type Layer, Linear, Normalization, run, type Stage } from '../mnist/network.js';
import { BATCH, type Trainable } from '../mnist/train.js';

/** Units between the pixels of an image and the logits of its classes. */
export const HIDDEN = 64;

/**
 * Pixels at the edge have ink once in thousands of images, and a variance of next to nothing: with the eps of hidden layers one such
 * image would give hundreds.
 */
const INPUT_EPS = 1e-2;

/** A perceptron that normalizes its input, whose NaN are gaps. */
export class GapNetwork implements Trainable {
  readonly #input: BatchNorm<'float32'>;
  readonly #layers: readonly Layer[];

  constructor(pixels: number, random: () => number) {
    this.#input = new BatchNorm(pixels, {
      missing: 'impute',
      eps: INPUT_EPS,
      // Images stay what they are while the network learns: all batches say the same.
      decay: 'cumulative',
      reuse: true,
    });
    this.#layers = [
      new Linear(BATCH, pixels, HIDDEN, random),
      new Normalization(HIDDEN),
      new Linear(BATCH, HIDDEN, CLASSES, random),
    ];
  }

  get runningMean(): Float64Array {
    return this.#input.runningMean as Float64Array;
  }

  get runningVar(): Float64Array {
    return this.#input.runningVar as Float64Array;
  }

  forward(x: Activations): Activations {
    return run(this.#layers, { data: this.#input.forward(x).data, shape: x.shape });
  }

  backward(dLogits: Activations): void {
    const dy = this.#layers.reduceRight((gradient, layer) => layer.backward(gradient), dLogits);
    this.#input.backward(dy, { only: 'parameters' });
  }

  parameters() {
    return [...this.#input.parameters(), ...this.#layers.flatMap((layer) => layer.parameters())];
  }

  /** The stages for inference: a frozen batch norm imputes as the layer does. */
  freeze(): readonly Stage[] {
    const input = this.#input.freeze();
    const first: Stage = {
      forward: (x) => ({ data: input.run(x).data, shape: x.shape }),
    };
    return [first, ...this.#layers.map((layer) => layer.freeze())];
  }
}
