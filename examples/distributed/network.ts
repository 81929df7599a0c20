import { BatchNorm, type ProcessGroup } from 'batchnorm';
import { addProduct, addTransposedProduct, transpose } from '../mnist/matrix.js';

/** What is learned, and the gradient of this member's samples. */
export interface Parameter {
  readonly value: Float64Array;
  readonly grad: Float64Array;
}

/** y = x · weight + bias for `x[samples][inputs]`, `weight[inputs][outputs]`. */
class Linear {
  readonly #weight: Parameter;
  readonly #bias: Parameter;
  #x: Float64Array = new Float64Array(0);

  /** Weights begin uniform with variance 2 / inputs (He et al. 2015), biases at zero. */
  constructor(
    readonly samples: number,
    readonly inputs: number,
    readonly outputs: number,
    random: () => number,
  ) {
    this.#weight = parameter(inputs * outputs);
    this.#bias = parameter(outputs);
    const bound = Math.sqrt(6 / inputs);
    for (let i = 0; i < inputs * outputs; i++) this.#weight.value[i] = bound * (2 * random() - 1);
  }

  get parameters(): readonly Parameter[] {
    return [this.#weight, this.#bias];
  }

  forward(x: Float64Array): Float64Array {
    const { samples, inputs, outputs } = this;
    const y = new Float64Array(samples * outputs);
    for (let n = 0; n < samples; n++) y.set(this.#bias.value, n * outputs);
    addProduct(x, this.#weight.value, y, samples, inputs, outputs);
    this.#x = x;
    return y;
  }

  backward(dy: Float64Array, needsDx: boolean): Float64Array {
    const { samples, inputs, outputs } = this;
    addTransposedProduct(this.#x, dy, this.#weight.grad.fill(0), inputs, samples, outputs);
    const dBias = this.#bias.grad.fill(0);
    for (let i = 0; i < dy.length; i++) dBias[i % outputs] += dy[i];
    const dx = new Float64Array(needsDx ? samples * inputs : 0);
    if (!needsDx) return dx;
    const transposed = new Float64Array(inputs * outputs);
    transpose(this.#weight.value, transposed, inputs, outputs);
    addProduct(dy, transposed, dx, samples, outputs, inputs);
    return dx;
  }
}

/**
 * The digit network as one member of a group has it: its part of each batch, everything in double, so that training differs
 * from that of one process by the order of sums alone, and not by what float32 makes of that.
 */
export class Network {
  readonly #linears: readonly Linear[];
  readonly #norms: readonly BatchNorm<'float64'>[];
  readonly #samples: number;

  /** `sizes` are the features from the input to the logits; without a group it computes alone. */
  constructor(samples: number, sizes: readonly number[], random: () => number, group?: ProcessGroup) {
    this.#samples = samples;
    this.#linears = sizes.slice(1).map((outputs, i) => new Linear(samples, sizes[i], outputs, random));
    this.#norms = sizes
      .slice(1, -1)
      .map((features) => new BatchNorm(features, { dtype: 'float64', activation: 'relu', group }));
  }

  parameters(): readonly Parameter[] {
    return [
      ...this.#linears.flatMap(({ parameters }) => parameters),
      ...this.#norms.flatMap((norm) => norm.parameters()),
    ];
  }

  forward(x: Float64Array): Float64Array {
    return this.#linears.reduce((values, linear, i) => {
      const y = linear.forward(values);
      const norm = this.#norms[i];
      return norm === undefined ? y : norm.forward({ data: y, shape: [this.#samples, linear.outputs] }).data;
    }, x);
  }

  backward(dLogits: Float64Array): void {
    this.#linears.reduceRight((gradient, linear, i) => {
      const norm = this.#norms[i];
      const dy =
        norm === undefined
          ? gradient
          : norm.backward({ data: gradient, shape: [this.#samples, linear.outputs] }).dx?.data;
      return linear.backward(dy as Float64Array, i > 0);
    }, dLogits);
  }
}

/**
 * The sum of −log softmax(logits)[label] over these samples; the gradient of the mean over all `total` of the batch goes to
 * `dLogits`.
 */
export function lossOf(
  logits: Float64Array,
  labels: Uint8Array,
  total: number,
  dLogits: Float64Array,
): number {
  const classes = logits.length / labels.length;
  let loss = 0;
  for (let n = 0; n < labels.length; n++) {
    const row = logits.subarray(n * classes, (n + 1) * classes);
    const largest = row.reduce((a, b) => Math.max(a, b));
    const sum = row.reduce((all, logit) => all + Math.exp(logit - largest), 0);
    for (let c = 0; c < classes; c++)
      dLogits[n * classes + c] = (Math.exp(row[c] - largest) / sum - Number(c === labels[n])) / total;
    loss += Math.log(sum) + largest - row[labels[n]];
  }
  return loss;
}

function parameter(size: number): Parameter {
  return { value: new Float64Array(size), grad: new Float64Array(size) };
}
