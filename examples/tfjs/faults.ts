import type { TensorFlowBackend } from 'batchnorm/tfjs';
import { backward, forwardTraining } from '../../bench/plain-js.js';
import { largestDifference } from '../difference.js';
import type { Section } from '../mnist/report.js';
import { NAMES, onBothSides, type Pair, tf, useBackend } from './tensorflow.js';

/** How far numbers may lie from the textbook's, as a share of their largest. */
const TOLERANCE = 1e-6;

const BACKENDS: readonly TensorFlowBackend[] = ['cpu', 'wasm'];

const EPS = 1e-3;

/** What TensorFlow.js gets wrong: work that says what batch norm gives, and what the textbook says. */
interface Fault {
  readonly name: string;
  readonly note: string;
  readonly expected: readonly number[];
  run(): tf.Tensor;
}

/**
 * What TensorFlow.js' batch norm gets wrong, and what this library makes of it.
 *
 * @throws {Error} where this library is wrong.
 */
export async function showFaults(): Promise<Section[]> {
  const sections: Section[] = [];
  for (const fault of [...axisFaults(), scaleFault(), varianceFault()]) {
    const { name, note, expected } = fault;
    const rows: Pair<string[][]> = { stock: [], ours: [] };
    for (const backend of BACKENDS) {
      await useBackend(backend);
      const { stock, ours } = await onBothSides(() => outcome(fault));
      if (typeof ours === 'string' || !isClose(ours, expected))
        throw new Error(`${name} on ${backend} must be ${textOf(expected)}, got ${textOf(ours)}`);
      rows.stock.push([`${NAMES.stock}, ${backend}`, textOf(stock)]);
      rows.ours.push([`${NAMES.ours}, ${backend}`, textOf(ours)]);
    }
    sections.push({
      heading: name,
      columns: ['', 'result'],
      rows: [['textbook', textOf(expected)], ...rows.stock, ...rows.ours],
      note,
    });
  }
  return sections;
}

/** The values, or the message of an error. */
function outcome({ run }: Fault): readonly number[] | string {
  try {
    return tf.tidy(() => [...run().dataSync()]);
  } catch (error) {
    return String(error);
  }
}

function isClose(values: readonly number[], expected: readonly number[]): boolean {
  const largest = Math.max(...expected.map(Math.abs));
  return values.length === expected.length && largestDifference(values, expected) <= TOLERANCE * largest;
}

function textOf(result: readonly number[] | string): string {
  return typeof result === 'string' ? result : result.map((value) => value.toFixed(3).padStart(7)).join(' ');
}

/** Two channels of three values, channel after channel. */
function axisFaults(): Fault[] {
  const data = [1, 2, 3, 10, 20, 30];
  const gradient = [1, 0, 0, 1, 0, 0];
  const shape = { outer: 1, channels: 2, inner: 3 };
  const affine = { weight: Float64Array.of(1, 1), bias: new Float64Array(2), eps: EPS };
  const moments = { mean: new Float64Array(2), variance: new Float64Array(2) };
  const y = new Float64Array(6);
  const gradients = { dx: new Float64Array(6), dWeight: new Float64Array(2), dBias: new Float64Array(2) };
  const x = Float64Array.from(data);
  forwardTraining(x, shape, affine, moments, y);
  backward(Float64Array.from(gradient), x, shape, moments, affine, gradients);

  const note = 'x is 1 2 3 in one channel and 10 20 30 in the other, of shape (1, 2, 1, 3).';
  const input = () => tf.tensor4d(data, [1, 2, 1, 3]);
  const layer = () => tf.layers.batchNormalization({ axis: 1, epsilon: EPS });
  return [
    {
      name: 'axis 1, inference: y',
      note,
      expected: [...y],
      run() {
        const trained = layer();
        trained.build([null, 2, 1, 3]);
        const [gamma, beta] = trained.getWeights();
        trained.setWeights([gamma, beta, tf.tensor1d([...moments.mean]), tf.tensor1d([...moments.variance])]);
        return trained.apply(input()) as tf.Tensor;
      },
    },
    {
      name: 'axis 1, training: y',
      note,
      expected: [...y],
      run: () => layer().apply(input(), { training: true }) as tf.Tensor,
    },
    {
      name: 'axis 1, training: dx',
      note: `${note} dy is 1 0 0 in both.`,
      expected: [...gradients.dx],
      run() {
        const norm = layer();
        const call = (values: tf.Tensor) => norm.apply(values, { training: true }) as tf.Tensor;
        return tf.grad(call)(input(), tf.tensor4d(gradient, [1, 2, 1, 3]));
      },
    },
  ];
}

function scaleFault(): Fault {
  const deviation = 1 / Math.sqrt(1 + EPS);
  return {
    name: 'scale: false, training: y',
    note: 'x is 1 3.',
    expected: [-deviation, deviation],
    run: () =>
      tf.layers
        .batchNormalization({ scale: false, epsilon: EPS })
        .apply(tf.tensor2d([1, 3], [2, 1]), { training: true }) as tf.Tensor,
  };
}

/** As many values as an image of 256 × 256 has, a million and around it. */
function varianceFault(): Fault {
  const values = Float32Array.from({ length: 256 * 256 }, (_, i) => 1e6 + [-1, 0, 0, 1][i % 4]);
  return {
    name: 'mean and variance of 65,536 values around 1e6',
    note: 'x is 999999 1000000 1000000 1000001, again and again.',
    expected: [1e6, 0.5],
    run() {
      // With this momentum the running statistics are those of the last batch.
      const norm = tf.layers.batchNormalization({ momentum: 0, epsilon: EPS });
      norm.apply(tf.tensor2d(values, [values.length, 1]), { training: true });
      const [, , mean, variance] = norm.getWeights();
      return tf.concat([mean, variance]);
    },
  };
}
