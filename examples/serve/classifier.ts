import { FrozenBatchNorm, foldIntoLinear, type Linear } from 'batchnorm';
import type { TrainedBlock } from '../mnist/checkpoint.js';
import { addProduct, transpose } from '../mnist/matrix.js';
import { type Activations, activations, softmax } from '../mnist/network.js';
import { floatsOf, type Storage, stored } from '../mnist/storage.js';

/** A step of inference; it may take the memory of its input, which nobody else sees. */
type Step = (x: Activations) => Activations | Promise<Activations>;

/** Gives the probability of each class for each image of a batch, of any size. */
export type Classify = (x: Activations) => Promise<Activations>;

export interface ClassifierOptions {
  /**
   * false: the batch norms stay layers of their own and compute off the event loop, as larger ones should that nothing
   * can be folded into. Default true: these cost less than the way to another thread, and folded nothing at all.
   */
  readonly fold?: boolean;
  /** How what the batch norms take and give is stored, where they stay layers. Default float32. */
  readonly dtype?: Storage;
}

/** The network for inference: linear layers, and behind all but the last a batch norm with its ReLU. */
export function createClassifier(
  blocks: readonly TrainedBlock[],
  { fold = true, dtype = 'float32' }: ClassifierOptions = {},
): Classify {
  const steps = blocks.flatMap(({ linear, norm }): Step[] => {
    if (norm === undefined) return [linearStep(linear)];
    const frozen = FrozenBatchNorm.from<Storage>(norm, { dtype, activation: 'relu' });
    return fold ? [linearStep(foldIntoLinear(linear, frozen))] : [linearStep(linear), normStep(frozen)];
  });
  return async (x) => {
    let current = x;
    for (const step of steps) current = await step(current);
    return probabilities(current);
  };
}

/** y = x · weightᵀ + bias, and its activation, in new memory. */
export function linearStep({
  weight,
  shape: [outputs, inputs],
  bias,
  activation,
}: Linear<Float32Array>): (x: Activations) => Activations {
  const transposed = new Float32Array(weight.length);
  transpose(weight, transposed, outputs, inputs);
  return ({ data, shape: [batch] }) => {
    const y = activations(batch, outputs);
    if (bias) for (let n = 0; n < batch; n++) y.data.set(bias, n * outputs);
    addProduct(data, transposed, y.data, batch, inputs, outputs);
    if (activation === 'relu') rectify(y.data);
    return y;
  };
}

function normStep(frozen: FrozenBatchNorm<Storage>): Step {
  const { dtype = 'float32' } = frozen;
  return async ({ data: values, shape }) => {
    const { data } = await frozen.runAsync({ data: stored(values, dtype), shape }, { transfer: true });
    return { data: floatsOf(data), shape };
  };
}

/** max(x, 0), in place. */
export function rectify(data: Float32Array): void {
  // max(x, 0) without a branch: of the sign of these values nobody can guess which it will be.
  for (let i = 0; i < data.length; i++) data[i] = (data[i] + Math.abs(data[i])) / 2;
}

function probabilities({ data, shape: [batch, classes] }: Activations): Activations {
  const y = activations(batch, classes);
  for (let n = 0; n < batch; n++) {
    const row = n * classes;
    softmax(data.subarray(row, row + classes), y.data.subarray(row, row + classes));
  }
  return y;
}
