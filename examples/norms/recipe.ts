import type { Digits } from '../mnist/data.js';
import { showProgress } from '../mnist/progress.js';
import { uniform } from '../mnist/random.js';
import { LEARNING_RATE, MOMENTUM } from '../mnist/recipe.js';
import { accuracy, BATCH, train } from '../mnist/train.js';
import { type NormName, NormNetwork } from './network.js';

export const BATCH_SIZES = [2, 8, 32, 128] as const;

/** Which images a network sees, how often, and where its random numbers begin. */
export interface Run {
  readonly digits: Digits;
  readonly test: Digits;
  readonly epochs: number;
  readonly seed: number;
}

/** How one network did. */
export interface Outcome {
  readonly batch: number;
  /** Of the test images. */
  readonly accuracy: number;
  /** Of a CPU, for a pass over the training images. */
  readonly seconds: number;
}

/**
 * Proportional to the batch (Goyal et al. 2017), so that a pass over the images moves the parameters about as far with batches of any
 * size. At {@link BATCH} it is the best rate of the network without a norm.
 */
export function learningRateFor(batch: number): number {
  return (LEARNING_RATE * batch) / BATCH;
}

/** Trains a network: its first weights and the order of the images follow from the seed alone, whatever the norm. */
export function trainWithNorm(
  label: string,
  norm: NormName,
  batch: number,
  { digits, test, epochs, seed }: Run,
): Outcome {
  const random = uniform(seed);
  const network = new NormNetwork(batch, norm, random);
  const progress = showProgress(label, epochs, Math.floor(digits.count / batch));
  // Time of a CPU, which other processes take none of.
  const begun = process.cpuUsage();
  train(network, digits, {
    epochs,
    learningRate: learningRateFor(batch),
    momentum: MOMENTUM,
    random,
    batch,
    onStep: progress.step,
  });
  const { user, system } = process.cpuUsage(begun);
  progress.stop();
  return { batch, accuracy: accuracy(network.freeze(), test), seconds: (user + system) / 1e6 / epochs };
}
