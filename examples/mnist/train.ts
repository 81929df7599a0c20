import { CLASSES, type Digits } from './data.js';
import {
  type Activations,
  activations,
  type Parameter,
  run,
  type Stage,
  softmaxCrossEntropy,
} from './network.js';
import { shuffle } from './random.js';

/** Images per step, unless another number is asked for. It divides 60,000 and 10,000, so that every batch is full. */
export const BATCH = 100;

/** How the training ran: loss and share of right answers on the batch of every step, before the step was taken. */
export interface History {
  readonly losses: Float64Array;
  readonly accuracies: Float64Array;
  readonly stepsPerEpoch: number;
}

/** What descent asks of a network: `backward` takes the gradient of the logits of the last forward. */
export interface Trainable extends Stage {
  backward(dLogits: Activations): void;
  parameters(): readonly Parameter[];
}

/** What happens to the pixels of a batch before a network sees them; `indices` are those of its images. */
export type Prepare = (pixels: Float32Array, indices: Uint32Array) => void;

/** What a training run is made of; `onStep` hears the mean loss of the epoch so far. */
export interface TrainingOptions {
  readonly epochs: number;
  readonly learningRate: number;
  readonly momentum: number;
  readonly random: () => number;
  readonly prepare?: Prepare;
  /** Images per step. Default {@link BATCH}. */
  readonly batch?: number;
  onStep(step: number, epoch: number, loss: number): void;
}

/**
 * Stochastic gradient descent with momentum. The learning rate falls linearly from `learningRate` to nothing,
 * and each epoch sees the images in a new order.
 */
export function train(network: Trainable, digits: Digits, options: TrainingOptions): History {
  const { batch = BATCH } = options;
  const stepsPerEpoch = Math.floor(digits.count / batch);
  const losses = new Float64Array(options.epochs * stepsPerEpoch);
  const accuracies = new Float64Array(losses.length);
  const descent = new MomentumDescent(network.parameters(), options.momentum);
  const order = Uint32Array.from({ length: digits.count }, (_, i) => i);
  const x = activations(batch, digits.pixels);
  const labels = new Uint8Array(batch);
  const dLogits = activations(batch, CLASSES);
  let step = 0;
  for (let epoch = 0; epoch < options.epochs; epoch++) {
    shuffle(order, options.random);
    let sum = 0;
    for (let i = 0; i < stepsPerEpoch; i++) {
      const indices = order.subarray(i * batch, (i + 1) * batch);
      load(digits, indices, x, labels);
      options.prepare?.(x.data, indices);
      const logits = network.forward(x);
      losses[step] = softmaxCrossEntropy(logits, labels, dLogits);
      accuracies[step] = countRight(logits, labels) / batch;
      network.backward(dLogits);
      descent.step(options.learningRate * (1 - step / losses.length));
      sum += losses[step];
      step++;
      options.onStep(step, epoch, sum / (i + 1));
    }
  }
  return { losses, accuracies, stepsPerEpoch };
}

/** The share of images whose largest logit is that of their label. */
export function accuracy(stages: readonly Stage[], digits: Digits, prepare?: Prepare): number {
  let right = 0;
  for (const { x, labels } of batches(digits, prepare)) right += countRight(run(stages, x), labels);
  return right / digits.count;
}

/** Where a logit is not a number, no answer is right. */
function countRight({ data, shape: [batch, classes] }: Activations, labels: Uint8Array): number {
  let right = 0;
  for (let n = 0; n < batch; n++) {
    const row = data.subarray(n * classes, (n + 1) * classes);
    if (row.indexOf(Math.max(...row)) === labels[n]) right++;
  }
  return right;
}

/** All images in their order. The same arrays are filled again for each batch. */
export function* batches(
  digits: Digits,
  prepare?: Prepare,
): Generator<{ x: Activations; labels: Uint8Array }> {
  const x = activations(BATCH, digits.pixels);
  const labels = new Uint8Array(BATCH);
  const order = Uint32Array.from({ length: digits.count }, (_, i) => i);
  for (let i = 0; i + BATCH <= digits.count; i += BATCH) {
    const indices = order.subarray(i, i + BATCH);
    load(digits, indices, x, labels);
    prepare?.(x.data, indices);
    yield { x, labels };
  }
}

/** Copies the images at `indices`, scaled to 0…1: paper stays exactly zero, which the linear layers skip. */
function load(digits: Digits, indices: Uint32Array, x: Activations, labels: Uint8Array): void {
  const { pixels } = digits;
  for (let n = 0; n < indices.length; n++) {
    const start = indices[n] * pixels;
    for (let i = 0; i < pixels; i++) x.data[n * pixels + i] = digits.images[start + i] / 255;
    labels[n] = digits.labels[indices[n]];
  }
}

/** velocity = momentum · velocity + grad; value −= rate · velocity. */
class MomentumDescent {
  readonly #parameters: readonly Parameter[];
  readonly #velocities: readonly Float32Array[];
  readonly #momentum: number;

  constructor(parameters: readonly Parameter[], momentum: number) {
    this.#parameters = parameters;
    this.#velocities = parameters.map(({ value }) => new Float32Array(value.length));
    this.#momentum = momentum;
  }

  step(rate: number): void {
    for (const [k, { value, grad }] of this.#parameters.entries()) {
      descend(value, grad, this.#velocities[k], rate, this.#momentum);
    }
  }
}

function descend(
  value: Float32Array,
  grad: Float32Array,
  velocity: Float32Array,
  rate: number,
  momentum: number,
): void {
  for (let i = 0; i < value.length; i++) {
    velocity[i] = momentum * velocity[i] + grad[i];
    value[i] -= rate * velocity[i];
  }
}
