import { BatchNorm, type FloatArray, type StateDict, type Tensor } from 'batchnorm';
import type { StoredTensor } from 'batchnorm/files';
import { addProduct, addTransposedProduct, transpose } from './matrix.js';
import { floatsOf, type Storage, stored } from './storage.js';

/** Activations `[batch][features]`: what a layer takes and gives, and a tensor of the batchnorm package. */
export interface Activations {
  readonly data: Float32Array;
  readonly shape: readonly [batch: number, features: number];
}

/** What an optimiser sees of a parameter; `parameters()` of a `BatchNorm` layer has the same form. */
export interface Parameter {
  readonly name: string;
  readonly value: Float32Array;
  readonly grad: Float32Array;
}

/** A step from activations to activations, as a trained network needs it. */
export interface Stage {
  forward(x: Activations): Activations;
}

/** A stage that can be trained: `backward` turns dLoss/dy of the last forward into dLoss/dx. */
export interface Layer extends Stage {
  backward(dy: Activations): Activations;
  parameters(): readonly Parameter[];
  /** What a checkpoint holds of the layer, under PyTorch's names and in PyTorch's shapes. */
  state(): ReadonlyMap<string, StoredTensor>;
  /** The stage for inference, with everything fixed that training still changes. */
  freeze(): Stage;
}

/** y = x · weight + bias, with `weight[inputs][outputs]`. Its buffers hold one batch and are used again. */
export class Linear implements Layer {
  readonly #batch: number;
  readonly #inputs: number;
  readonly #outputs: number;
  readonly #weight: Parameter;
  readonly #bias: Parameter;
  readonly #transposed: Float32Array;
  readonly #y: Activations;
  readonly #dx: Activations;
  #x: Activations | undefined;

  /** Weights begin uniform with variance 2 / inputs (He et al. 2015), biases at zero. */
  constructor(batch: number, inputs: number, outputs: number, random: () => number) {
    this.#batch = batch;
    this.#inputs = inputs;
    this.#outputs = outputs;
    this.#weight = parameter('weight', inputs * outputs);
    this.#bias = parameter('bias', outputs);
    this.#transposed = new Float32Array(inputs * outputs);
    this.#y = activations(batch, outputs);
    this.#dx = activations(batch, inputs);
    const bound = Math.sqrt(6 / inputs);
    for (let i = 0; i < inputs * outputs; i++) this.#weight.value[i] = bound * (2 * random() - 1);
  }

  forward(x: Activations): Activations {
    const y = this.#y.data;
    for (let n = 0; n < this.#batch; n++) y.set(this.#bias.value, n * this.#outputs);
    addProduct(x.data, this.#weight.value, y, this.#batch, this.#inputs, this.#outputs);
    this.#x = x;
    return this.#y;
  }

  backward(dy: Activations): Activations {
    this.parameterGradients(dy);
    const dx = this.#dx.data.fill(0);
    transpose(this.#weight.value, this.#transposed, this.#inputs, this.#outputs);
    addProduct(dy.data, this.#transposed, dx, this.#batch, this.#outputs, this.#inputs);
    return this.#dx;
  }

  /** `backward` without dLoss/dx, which nobody asks of the first layer and which would be its largest cost. */
  parameterGradients(dy: Activations): void {
    if (this.#x === undefined) throw new Error('backward must follow a forward, got none before it');
    const dWeight = this.#weight.grad.fill(0);
    const dBias = this.#bias.grad.fill(0);
    addTransposedProduct(this.#x.data, dy.data, dWeight, this.#inputs, this.#batch, this.#outputs);
    for (let i = 0; i < dy.data.length; i++) dBias[i % this.#outputs] += dy.data[i];
  }

  parameters(): readonly Parameter[] {
    return [this.#weight, this.#bias];
  }

  state(): ReadonlyMap<string, StoredTensor> {
    const weight = new Float32Array(this.#weight.value.length);
    transpose(this.#weight.value, weight, this.#inputs, this.#outputs);
    return new Map([
      ['weight', { data: weight, shape: [this.#outputs, this.#inputs] }],
      ['bias', { data: this.#bias.value.slice(), shape: [this.#outputs] }],
    ]);
  }

  freeze(): Stage {
    return this;
  }
}

/** max(x, 0), in place: neither the layer before nor the one after needs the value it replaces. */
export class Relu implements Layer {
  #y: Activations | undefined;

  forward(x: Activations): Activations {
    const { data } = x;
    for (let i = 0; i < data.length; i++) data[i] = Math.max(data[i], 0);
    this.#y = x;
    return x;
  }

  backward(dy: Activations): Activations {
    const y = this.#y;
    if (y === undefined) throw new Error('backward must follow a forward, got none before it');
    for (let i = 0; i < dy.data.length; i++) if (y.data[i] === 0) dy.data[i] = 0;
    return dy;
  }

  parameters(): readonly Parameter[] {
    return [];
  }

  state(): ReadonlyMap<string, StoredTensor> {
    return new Map();
  }

  freeze(): Stage {
    return this;
  }
}

/**
 * A `BatchNorm` and the ReLU behind it, in one pass over the activations, as a layer of this network. With bfloat16 its input, which
 * waits for backward, its output and their gradients are stored in half the bytes; the linear layers compute in float32.
 */
export class Normalization implements Layer {
  readonly norm: BatchNorm<Storage>;
  /** What the batch norm gave last. */
  y: Tensor<Float32Array | Uint16Array> | undefined;

  constructor(features: number, dtype: Storage = 'float32') {
    this.norm = new BatchNorm<Storage>(features, { dtype, activation: 'relu', reuse: true });
  }

  forward(x: Activations): Activations {
    this.y = this.norm.forward({ data: stored(x.data, this.norm.config.dtype), shape: x.shape });
    return { data: floatsOf(this.y.data), shape: x.shape };
  }

  backward(dy: Activations): Activations {
    const data = stored(dy.data, this.norm.config.dtype);
    this.norm.backward({ data, shape: dy.shape }, { out: data });
    return { data: floatsOf(data), shape: dy.shape };
  }

  parameters(): readonly Parameter[] {
    return this.norm.parameters();
  }

  state(): ReadonlyMap<string, StoredTensor> {
    const state = this.norm.stateDict() as Required<StateDict>;
    const perChannel = (data: FloatArray): StoredTensor => ({ data, shape: [this.norm.channels] });
    return new Map([
      ['weight', perChannel(state.weight)],
      ['bias', perChannel(state.bias)],
      ['running_mean', perChannel(state.running_mean)],
      ['running_var', perChannel(state.running_var)],
      ['num_batches_tracked', { data: BigInt64Array.of(BigInt(state.num_batches_tracked)), shape: [] }],
    ]);
  }

  freeze(): Stage {
    const frozen = this.norm.freeze();
    const { dtype } = this.norm.config;
    return {
      forward({ data: values, shape }) {
        const data = stored(values, dtype);
        frozen.run({ data, shape }, { out: data });
        return { data: floatsOf(data), shape };
      },
    };
  }
}

/** A perceptron: linear layers with, between them, a ReLU and if wanted a batch normalization before it. */
export class Network {
  readonly #first: Linear;
  readonly #rest: readonly Layer[];

  /** `sizes` are the features from the input to the logits. */
  constructor(
    batch: number,
    sizes: readonly number[],
    batchNorm: boolean,
    random: () => number,
    dtype: Storage = 'float32',
  ) {
    this.#first = new Linear(batch, sizes[0], sizes[1], random);
    this.#rest = sizes.slice(2).flatMap((outputs, i) => {
      const inputs = sizes[i + 1];
      const activation = batchNorm ? new Normalization(inputs, dtype) : new Relu();
      return [activation, new Linear(batch, inputs, outputs, random)];
    });
  }

  get layers(): readonly Layer[] {
    return [this.#first, ...this.#rest];
  }

  forward(x: Activations): Activations {
    return run(this.layers, x);
  }

  backward(dLogits: Activations): void {
    const dy = this.#rest.reduceRight((gradient, layer) => layer.backward(gradient), dLogits);
    this.#first.parameterGradients(dy);
  }

  parameters(): readonly Parameter[] {
    return this.layers.flatMap((layer) => layer.parameters());
  }

  freeze(): readonly Stage[] {
    return this.layers.map((layer) => layer.freeze());
  }
}

/** Sends activations through one stage after another. */
export function run(stages: readonly Stage[], x: Activations): Activations {
  return stages.reduce((activations, stage) => stage.forward(activations), x);
}

/**
 * The mean of −log softmax(logits)[label] over the batch; its gradient, (softmax(logits) − one-hot(label)) /
 * batch, is written to `dLogits`.
 */
export function softmaxCrossEntropy(logits: Activations, labels: Uint8Array, dLogits: Activations): number {
  const [batch, classes] = logits.shape;
  let loss = 0;
  for (let n = 0; n < batch; n++) {
    const row = logits.data.subarray(n * classes, (n + 1) * classes);
    const gradient = dLogits.data.subarray(n * classes, (n + 1) * classes);
    const logSum = softmax(row, gradient, batch);
    gradient[labels[n]] -= 1 / batch;
    loss += logSum - row[labels[n]];
  }
  return loss / batch;
}

/** Writes softmax(logits) / divisor of one image, and gives log Σ exp(logits). */
export function softmax(logits: Float32Array, out: Float32Array, divisor = 1): number {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  let sum = 0;
  for (let c = 0; c < logits.length; c++) sum += Math.exp(logits[c] - largest);
  for (let c = 0; c < logits.length; c++) out[c] = Math.exp(logits[c] - largest) / sum / divisor;
  return Math.log(sum) + largest;
}

/** Zeroed activations for a batch. */
export function activations(batch: number, features: number): Activations {
  return { data: new Float32Array(batch * features), shape: [batch, features] };
}

function parameter(name: string, size: number): Parameter {
  return { name, value: new Float32Array(size), grad: new Float32Array(size) };
}
