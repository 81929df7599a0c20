import { largestDifference } from '../difference.js';
import { CLASSES, type Digits, head, readMnist } from '../mnist/data.js';
import { showProgress } from '../mnist/progress.js';
import { MOMENTUM } from '../mnist/recipe.js';
import { grouped, type Section } from '../mnist/report.js';
import { BATCH, batches } from '../mnist/train.js';
import { TIME_COLUMNS, timeCells } from './tables.js';
import {
  inTurns,
  milliseconds,
  NAMES,
  onBothSides,
  type Pair,
  type Side,
  sidesOf,
  takeSide,
  tf,
  useBackend,
} from './tensorflow.js';

/**
 * How far the losses of a step may lie apart, as a share of the loss. Within {@link MOST_STEPS}, TensorFlow.js with one
 * weight changed in its last bit lies 1e-4 from itself: first 1e-7, and more once another value wins in the pooling.
 */
const LOSS_TOLERANCE = 1e-3;

/** Beyond, rounding alone would drive the losses apart. */
export const MOST_STEPS = 60;

/** How far accuracies may lie apart. */
const ACCURACY_TOLERANCE = 0.005;

const LEARNING_RATE = 0.05;

const TEST_IMAGES = 1000;

/** Rows of the table of losses. */
const ROWS = 8;

export interface TrainingOptions {
  /** Of {@link BATCH} images; {@link MOST_STEPS} at most. */
  readonly steps: number;
  /** In which a batch norm is timed on either side. */
  readonly rounds: number;
}

interface Run {
  readonly model: tf.Sequential;
  readonly losses: number[];
  /** Milliseconds of each step. */
  readonly times: number[];
}

/**
 * A small convolutional network learns MNIST on the cpu backend with either batch norm, from the same weights and on the
 * same images. Then the batch norms alone are timed.
 *
 * @throws {Error} where losses or accuracies lie further apart than rounding explains.
 */
export async function compareTraining({ steps, rounds }: TrainingOptions): Promise<Section[]> {
  await useBackend('cpu');
  const test = head(readMnist('t10k'), TEST_IMAGES);
  const runs = await train(head(readMnist('train'), steps * BATCH));
  const { stock, ours } = runs;
  stock.losses.forEach((loss, i) => {
    if (!(Math.abs(loss - ours.losses[i]) <= LOSS_TOLERANCE * loss))
      throw new Error(`the loss of step ${i + 1} must be ${loss}, got ${ours.losses[i]}`);
  });
  const accuracies = await onBothSides((side) => accuracyOf(runs[side].model, test));
  if (!(Math.abs(accuracies.stock - accuracies.ours) <= ACCURACY_TOLERANCE))
    throw new Error(`the accuracy must be ${accuracies.stock}, got ${accuracies.ours}`);
  const sections = [
    outcomeSection(runs, accuracies),
    lossSection(runs),
    await timeSection(stock.model, test, rounds),
  ];
  for (const { model } of [stock, ours]) model.dispose();
  return sections;
}

/** Every call gives the same weights. */
function createModel(): tf.Sequential {
  const kernelInitializer = (seed: number) => tf.initializers.glorotUniform({ seed });
  const model = tf.sequential({
    layers: [
      tf.layers.conv2d({
        inputShape: [28, 28, 1],
        filters: 8,
        kernelSize: 3,
        strides: 2,
        useBias: false,
        kernelInitializer: kernelInitializer(1),
      }),
      batchNormalization(),
      tf.layers.reLU(),
      tf.layers.maxPooling2d({ poolSize: 2 }),
      tf.layers.conv2d({
        filters: 16,
        kernelSize: 3,
        useBias: false,
        kernelInitializer: kernelInitializer(2),
      }),
      batchNormalization(),
      tf.layers.reLU(),
      tf.layers.flatten(),
      tf.layers.dense({ units: CLASSES, activation: 'softmax', kernelInitializer: kernelInitializer(3) }),
    ],
  });
  const optimizer = tf.train.momentum(LEARNING_RATE, MOMENTUM);
  model.compile({ optimizer, loss: 'sparseCategoricalCrossentropy' });
  return model;
}

/** Its running statistics follow within the few steps there are. */
function batchNormalization(): tf.layers.Layer {
  return tf.layers.batchNormalization({ momentum: 0.9 });
}

/** Step by step on either side, so that what slows the machine down hits both. */
async function train(digits: Digits): Promise<Pair<Run>> {
  const runs = await onBothSides((): Run => ({ model: createModel(), losses: [], times: [] }));
  const progress = showProgress('training', 1, digits.count / BATCH);
  let step = 0;
  let sum = 0;
  for (const { x, labels } of batches(digits)) {
    const images = imagesOf(x.data);
    const classes = tf.tensor1d(Float32Array.from(labels));
    for (const side of sidesOf(step)) {
      const { model, losses, times } = runs[side];
      takeSide(side);
      const time = await milliseconds(async () => {
        losses.push((await model.trainOnBatch(images, classes)) as number);
      });
      times.push(time);
    }
    tf.dispose([images, classes]);
    sum += runs.ours.losses[step];
    step++;
    progress.step(step, 0, sum / step);
  }
  progress.stop();
  return runs;
}

/** A tensor of its own: the values will change with the next batch. */
function imagesOf(values: Float32Array): tf.Tensor4D {
  return tf.tensor4d(values.slice(), [BATCH, 28, 28, 1]);
}

function accuracyOf(model: tf.Sequential, test: Digits): number {
  let right = 0;
  for (const { x, labels } of batches(test)) {
    const guesses = tf.tidy(() => (model.predict(imagesOf(x.data)) as tf.Tensor2D).argMax(1).dataSync());
    right += guesses.filter((guess, n) => guess === labels[n]).length;
  }
  return right / test.count;
}

function outcomeSection({ stock, ours }: Pair<Run>, accuracies: Pair<number>): Section {
  const steps = stock.losses.length;
  const percent = (accuracy: number) => `${(100 * accuracy).toFixed(1)} %`;
  return {
    heading: 'MNIST on cpu: training',
    columns: ['steps', ...TIME_COLUMNS, `accuracy, ${NAMES.stock}`, NAMES.ours],
    rows: [
      [
        String(steps),
        ...timeCells({ stock: stock.times, ours: ours.times }),
        percent(accuracies.stock),
        percent(accuracies.ours),
      ],
    ],
    note: `The time of a step of ${BATCH} images; accuracy on ${grouped(TEST_IMAGES)} test images.`,
  };
}

function lossSection({ stock, ours }: Pair<Run>): Section {
  const steps = stock.losses.length;
  const shown = Array.from({ length: Math.min(ROWS, steps) }, (_, i, rows = Math.min(ROWS, steps)) =>
    rows === 1 ? steps - 1 : Math.round((i * (steps - 1)) / (rows - 1)),
  );
  return {
    heading: 'MNIST on cpu: the loss',
    columns: ['step', NAMES.stock, NAMES.ours, 'difference'],
    rows: shown.map((step) => [
      String(step + 1),
      stock.losses[step].toFixed(7),
      ours.losses[step].toFixed(7),
      (ours.losses[step] - stock.losses[step]).toExponential(1),
    ]),
    note: `Largest difference of all ${steps} steps: ${largestDifference(stock.losses, ours.losses).toExponential(1)}.`,
  };
}

/** Each batch norm of the trained network alone, on what reaches it from test images. */
async function timeSection(model: tf.Sequential, test: Digits, rounds: number): Promise<Section> {
  const rows: string[][] = [];
  const add = (name: string, samples: Pair<readonly number[]>) => rows.push([name, ...timeCells(samples)]);
  const steps: Pair<number[]>[] = [];
  for (const { layer, x } of normInputs(model, test)) {
    const time = (work: typeof inference) =>
      inTurns(rounds, () => milliseconds(() => tf.tidy(() => work(layer, x))));
    const step = await time(trainingStep);
    steps.push(step);
    const shape = `(${x.shape.join(', ')})`;
    add(`${shape}, training step`, step);
    add(`${shape}, inference`, await time(inference));
    x.dispose();
  }
  const sums = (side: Side) =>
    Array.from({ length: rounds }, (_, i) => steps.reduce((sum, step) => sum + step[side][i], 0));
  add('all, training step', { stock: sums('stock'), ours: sums('ours') });
  return {
    heading: 'MNIST on cpu: the time of batch norm alone',
    columns: ['shape, work', ...TIME_COLUMNS],
    rows,
    note: `A training step is the layer's call and the gradients of x, gamma and beta; ${rounds} rounds in turns.`,
  };
}

interface NormInput {
  readonly layer: tf.layers.Layer;
  readonly x: tf.Tensor;
}

/** What reaches each batch norm from the first test images. */
function normInputs(model: tf.Sequential, test: Digits): NormInput[] {
  const inputs: NormInput[] = [];
  const [{ x: batch }] = batches(test);
  tf.tidy(() => {
    let x: tf.Tensor = imagesOf(batch.data);
    for (const layer of model.layers) {
      if (layer.getClassName() === 'BatchNormalization') inputs.push({ layer, x: tf.keep(x) });
      x = layer.apply(x) as tf.Tensor;
    }
  });
  return inputs;
}

function trainingStep(layer: tf.layers.Layer, x: tf.Tensor): void {
  const weights = layer.trainableWeights.map((weight) => weight.read());
  const call = () => layer.apply(x, { training: true }) as tf.Tensor;
  // Any gradient will do, the time does not depend on its values.
  tf.grads(call)([x, ...weights], x);
}

function inference(layer: tf.layers.Layer, x: tf.Tensor): void {
  layer.apply(x);
}
