import type { Digits } from '../mnist/data.js';
import { showProgress } from '../mnist/progress.js';
import { uniform } from '../mnist/random.js';
import { accuracy, BATCH, type History, type Prepare, train } from '../mnist/train.js';
import { fill, inTurn, knockOut, momentsOf } from './gaps.js';
import { GapNetwork } from './network.js';

/** What becomes of a gap: the layer imputes it, or it was filled before. */
export type Treatment = 'impute' | 'mean' | 'zero';

/** The share of the pixels that training images lack. */
export const SHARE = 0.3;

export const MOMENTUM = 0.9;
export const LEARNING_RATE = 0.1;

/** Test images lack other pixels than training images do. */
const TEST_SEED = 1_000_000;

export interface Run {
  readonly digits: Digits;
  readonly test: Digits;
  readonly epochs: number;
  readonly seed: number;
  /** Those of the test images to measure at. */
  readonly shares: readonly number[];
}

/** How one network did. */
export interface Outcome {
  readonly history: History;
  /** Of the test images, at each of the shares. */
  readonly accuracies: readonly number[];
  /** What the network has found for the input, as shares of what whole images have: of the mean and the variance, over all pixels. */
  readonly mean: number;
  readonly variance: number;
}

/** What fills the gaps before the network sees them; nothing where the layer does. */
function filling(treatment: Treatment, digits: Digits, seed: number): readonly Prepare[] {
  if (treatment === 'impute') return [];
  const values =
    treatment === 'mean' ? momentsOf(digits, knockOut(SHARE, seed)).mean : new Float64Array(digits.pixels);
  return [fill(values)];
}

/** Trains a network on images with gaps: the first weights, images, their order and their gaps follow from the seed alone. */
export function trainWithGaps(
  label: string,
  treatment: Treatment,
  { digits, test, epochs, seed, shares }: Run,
): Outcome {
  const random = uniform(seed);
  const network = new GapNetwork(digits.pixels, random);
  const filled = filling(treatment, digits, seed);
  const progress = showProgress(label, epochs, Math.floor(digits.count / BATCH));
  const history = train(network, digits, {
    epochs,
    learningRate: LEARNING_RATE,
    momentum: MOMENTUM,
    random,
    prepare: inTurn(knockOut(SHARE, seed), ...filled),
    onStep: progress.step,
  });
  progress.stop();
  const stages = network.freeze();
  const accuracies = shares.map((share) =>
    accuracy(stages, test, inTurn(knockOut(share, seed + TEST_SEED), ...filled)),
  );
  const whole = momentsOf(digits);
  const { runningMean, runningVar } = network;
  return {
    history,
    accuracies,
    mean: total(runningMean) / total(whole.mean),
    variance: total(runningVar) / total(whole.variance),
  };
}

function total(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0);
}
