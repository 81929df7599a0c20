import { join, parse } from 'node:path';
import { BatchNorm, type StateDict } from 'batchnorm';
import { readSafetensors, type StoredTensor, writeSafetensors } from 'batchnorm/files';
import { abridgedName } from '../abridged.js';
import type { Network } from './network.js';

/** y = x · weightᵀ + bias, with `weight[outputs][inputs]`. */
export interface TrainedLinear {
  readonly weight: Float32Array;
  readonly shape: readonly [outputs: number, inputs: number];
  readonly bias: Float32Array;
  /** Where no batch norm stands between the two. */
  readonly activation?: 'relu';
}

/** A linear layer and, everywhere but at the end, the batch normalization behind it, if the network has any. */
export interface TrainedBlock {
  readonly linear: TrainedLinear;
  readonly norm?: StateDict;
}

/** Room for the header, with names and free text. */
const MOST_HEADER_BYTES = 1 << 16;

/** Each layer's place in a `torch.nn.Sequential` called `layers`: linear, batch norm, ReLU, linear, … */
function prefixes(blocks: number): { linear: string; norm: string }[] {
  return Array.from({ length: blocks }, (_, i) => ({
    linear: `layers.${3 * i}.`,
    norm: `layers.${3 * i + 1}.`,
  }));
}

/** Where the network lies that was trained as the one at `path`, but for its batch norms. */
export function pathWithout(path: string): string {
  const { dir, name, ext } = parse(path);
  return join(dir, `${name}-without${ext}`);
}

/** Writes the state of a network to a safetensors file. */
export function saveNetwork(path: string, network: Network, metadata: ReadonlyMap<string, string>): void {
  const tensors = new Map<string, StoredTensor>();
  const { layers } = network;
  const places = prefixes((layers.length + 1) / 2).flatMap(({ linear, norm }) => [linear, norm]);
  for (const [i, layer] of layers.entries()) {
    for (const [name, tensor] of layer.state()) tensors.set(`${places[i]}${name}`, tensor);
  }
  writeSafetensors(path, { tensors, metadata });
}

/**
 * Reads the network that `saveNetwork` wrote: with batch norm or without, and of these `sizes` from the input to the logits.
 *
 * @throws {Error} naming the tensor that is missing, unknown, or of another shape, dtype or range, of a batch norm as
 * `BatchNorm.loadStateDict` does; for a file that cannot be read, see `readSafetensors`.
 */
export function loadNetwork(path: string, sizes: readonly number[], batchNorm = true): TrainedBlock[] {
  const wanted = layout(sizes, batchNorm);
  const { tensors } = readSafetensors(path, { mostBytes: MOST_HEADER_BYTES + mostDataBytes(wanted) });
  const network = `the network ${sizes.join('-')}`;
  for (const name of tensors.keys()) {
    if (!wanted.has(name))
      throw new Error(`file must have the tensors of ${network} only, got ${abridgedName(name)}`);
  }
  const read = (name: string) => {
    const { shape } = wanted.get(name) as Expected;
    return readParameter(name, tensors.get(name), shape, network);
  };
  const state = Object.fromEntries(tensors);
  return prefixes(sizes.length - 1).map(({ linear, norm }, i) => {
    const isHidden = i < sizes.length - 2;
    return {
      linear: {
        weight: read(`${linear}weight`),
        shape: [sizes[i + 1], sizes[i]],
        bias: read(`${linear}bias`),
        ...(isHidden && !batchNorm && { activation: 'relu' }),
      },
      // The library checks all of it: names, sizes, signs, and that every value is finite.
      ...(isHidden &&
        batchNorm && {
          norm: new BatchNorm(sizes[i + 1]).loadStateDict(state, { prefix: norm }).stateDict(),
        }),
    };
  });
}

interface Expected {
  readonly shape: readonly number[];
  readonly bytesPerValue: number;
}

function layout(sizes: readonly number[], batchNorm: boolean): ReadonlyMap<string, Expected> {
  const wanted = new Map<string, Expected>();
  for (const [i, { linear, norm }] of prefixes(sizes.length - 1).entries()) {
    const [inputs, outputs] = sizes.slice(i);
    wanted.set(`${linear}weight`, { shape: [outputs, inputs], bytesPerValue: 4 });
    wanted.set(`${linear}bias`, { shape: [outputs], bytesPerValue: 4 });
    if (!batchNorm || i === sizes.length - 2) continue;
    for (const name of ['weight', 'bias']) wanted.set(norm + name, { shape: [outputs], bytesPerValue: 4 });
    // PyTorch keeps statistics in the dtype of the weights, this package in double.
    for (const name of ['running_mean', 'running_var'])
      wanted.set(norm + name, { shape: [outputs], bytesPerValue: 8 });
    wanted.set(`${norm}num_batches_tracked`, { shape: [], bytesPerValue: 8 });
  }
  return wanted;
}

function mostDataBytes(wanted: ReadonlyMap<string, Expected>): number {
  let bytes = 0;
  for (const { shape, bytesPerValue } of wanted.values()) {
    bytes += bytesPerValue * shape.reduce((count, size) => count * size, 1);
  }
  return bytes;
}

function readParameter(
  name: string,
  tensor: StoredTensor | undefined,
  shape: readonly number[],
  network: string,
): Float32Array {
  if (tensor === undefined) throw new Error(`${name} must be in the file (${network}), got none`);
  const { data } = tensor;
  if (!(data instanceof Float32Array))
    throw new Error(`${name} must be a Float32Array, got a ${data.constructor.name}`);
  if (tensor.shape.join() !== shape.join()) {
    throw new Error(
      `${name} must have shape [${shape.join(', ')}] (${network}), got [${tensor.shape.join(', ')}]`,
    );
  }
  for (const [i, value] of data.entries()) {
    if (!Number.isFinite(value)) throw new Error(`${name}[${i}] must be finite, got ${value}`);
  }
  return data;
}
