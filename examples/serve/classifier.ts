import { FrozenBatchNorm } from 'batchnorm';
import type { TrainedBlock, TrainedLinear } from '../mnist/checkpoint.js';
import { addProduct, transpose } from '../mnist/matrix.js';
import { type Activations, activations, softmax } from '../mnist/network.js';

/** A step of inference; it may overwrite its input, which nobody else sees. */
type Step = (x: Activations) => Activations | Promise<Activations>;

/** Gives the probability of each class for each image of a batch, of any size. */
export type Classify = (x: Activations) => Promise<Activations>;

/** The network for inference: linear layers, and behind all but the last a frozen batch norm with its ReLU. */
export function createClassifier(blocks: readonly TrainedBlock[]): Classify {
  const steps = blocks.flatMap(({ linear, norm }): Step[] => {
    if (norm === undefined) return [linearStep(linear)];
    return [linearStep(linear), normStep(FrozenBatchNorm.from(norm, { dtype: 'float32' }))];
  });
  return async (x) => {
    let current = x;
    for (const step of steps) current = await step(current);
    return probabilities(current);
  };
}

function linearStep({ weight, shape: [outputs, inputs], bias }: TrainedLinear): Step {
  const transposed = new Float32Array(weight.length);
  transpose(weight, transposed, outputs, inputs);
  return ({ data, shape: [batch] }) => {
    const y = activations(batch, outputs);
    for (let n = 0; n < batch; n++) y.data.set(bias, n * outputs);
    addProduct(data, transposed, y.data, batch, inputs, outputs);
    return y;
  };
}

function normStep(frozen: FrozenBatchNorm<'float32'>): Step {
  return (x) => {
    const { data } = x;
    frozen.run(x, { out: data });
    for (let i = 0; i < data.length; i++) data[i] = Math.max(data[i], 0);
    return x;
  };
}

function probabilities({ data, shape: [batch, classes] }: Activations): Activations {
  const y = activations(batch, classes);
  for (let n = 0; n < batch; n++) {
    const row = n * classes;
    softmax(data.subarray(row, row + classes), y.data.subarray(row, row + classes));
  }
  return y;
}
