import type { FloatArray, StateDict } from 'batchnorm';
import { readSafetensors, type StoredTensor, type StoredValues, writeSafetensors } from 'batchnorm/files';
import { abridgedName } from '../abridged.js';
import type { Network } from './network.js';

/** y = x · weightᵀ + bias, with `weight[outputs][inputs]`. */
export interface TrainedLinear {
  readonly weight: Float32Array;
  readonly shape: readonly [outputs: number, inputs: number];
  readonly bias: Float32Array;
}

/** A linear layer and, everywhere but at the end, the batch normalization behind it. */
export interface TrainedBlock {
  readonly linear: TrainedLinear;
  readonly norm?: StateDict;
}

/** The dtypes of a network in a file. */
const DTYPES = { F32: Float32Array, F64: Float64Array, I64: BigInt64Array } as const;
type StoredDType = keyof typeof DTYPES;

/** Room for the header, with names and free text. */
const MOST_HEADER_BYTES = 1 << 16;

/** Each layer's place in a `torch.nn.Sequential` called `layers`: linear, batch norm, ReLU, linear, … */
function prefixes(blocks: number): { linear: string; norm: string }[] {
  return Array.from({ length: blocks }, (_, i) => ({
    linear: `layers.${3 * i}.`,
    norm: `layers.${3 * i + 1}.`,
  }));
}

/** Writes the state of a network with batch norm to a safetensors file. */
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
 * Reads the network that `saveNetwork` wrote: with batch norm, and of these `sizes` from the input to the logits.
 *
 * @throws {Error} naming the tensor that is missing, unknown, or of another shape, dtype or range; for a file that
 * cannot be read, see `readSafetensors`.
 */
export function loadNetwork(path: string, sizes: readonly number[]): TrainedBlock[] {
  const wanted = layout(sizes);
  const { tensors } = readSafetensors(path, { mostBytes: MOST_HEADER_BYTES + mostDataBytes(wanted) });
  const network = `the network ${sizes.join('-')}`;
  for (const name of tensors.keys()) {
    if (!wanted.has(name))
      throw new Error(`file must have the tensors of ${network} only, got ${abridgedName(name)}`);
  }
  for (const [name, expected] of wanted) checkTensor(name, tensors.get(name), expected, network);
  const read = <T extends FloatArray>(name: string) => tensors.get(name)?.data as T;
  return prefixes(sizes.length - 1).map(({ linear, norm }, i) => ({
    linear: {
      weight: read<Float32Array>(`${linear}weight`),
      shape: [sizes[i + 1], sizes[i]],
      bias: read<Float32Array>(`${linear}bias`),
    },
    ...(i < sizes.length - 2 && {
      norm: {
        weight: read(`${norm}weight`),
        bias: read(`${norm}bias`),
        running_mean: read(`${norm}running_mean`),
        running_var: read(`${norm}running_var`),
      },
    }),
  }));
}

interface Expected {
  readonly dtypes: readonly StoredDType[];
  readonly shape: readonly number[];
  /** Values below are refused. */
  readonly least: number;
}

function layout(sizes: readonly number[]): ReadonlyMap<string, Expected> {
  const wanted = new Map<string, Expected>();
  const parameter = (name: string, shape: readonly number[]) =>
    wanted.set(name, { dtypes: ['F32'], shape, least: -Infinity });
  // PyTorch keeps statistics in the dtype of the weights, this package in double.
  const statistic = (name: string, channels: number, least: number) =>
    wanted.set(name, { dtypes: ['F64', 'F32'], shape: [channels], least });
  for (const [i, { linear, norm }] of prefixes(sizes.length - 1).entries()) {
    const [inputs, outputs] = sizes.slice(i);
    parameter(`${linear}weight`, [outputs, inputs]);
    parameter(`${linear}bias`, [outputs]);
    if (i === sizes.length - 2) break;
    parameter(`${norm}weight`, [outputs]);
    parameter(`${norm}bias`, [outputs]);
    statistic(`${norm}running_mean`, outputs, -Infinity);
    statistic(`${norm}running_var`, outputs, 0);
    wanted.set(`${norm}num_batches_tracked`, { dtypes: ['I64'], shape: [], least: 0 });
  }
  return wanted;
}

function mostDataBytes(wanted: ReadonlyMap<string, Expected>): number {
  let bytes = 0;
  for (const { dtypes, shape } of wanted.values()) {
    bytes += DTYPES[dtypes[0]].BYTES_PER_ELEMENT * shape.reduce((count, size) => count * size, 1);
  }
  return bytes;
}

function dtypeOf(values: StoredValues): string {
  const dtypes = Object.entries(DTYPES);
  return dtypes.find(([, Class]) => values instanceof Class)?.[0] ?? values.constructor.name;
}

function checkTensor(
  name: string,
  tensor: StoredTensor | undefined,
  { dtypes, shape, least }: Expected,
  network: string,
): void {
  if (tensor === undefined) throw new Error(`${name} must be in the file (${network}), got none`);
  const dtype = dtypeOf(tensor.data);
  if (!(dtypes as readonly string[]).includes(dtype))
    throw new Error(`${name} must have dtype ${dtypes.join(' or ')}, got ${dtype}`);
  if (tensor.shape.join() !== shape.join()) {
    throw new Error(
      `${name} must have shape [${shape.join(', ')}] (${network}), got [${tensor.shape.join(', ')}]`,
    );
  }
  const rule = least === 0 ? 'finite and not negative' : 'finite';
  for (const [i, value] of Array.from<number | bigint>(tensor.data).entries()) {
    if (!(value >= least && value < Infinity && value > -Infinity)) {
      throw new Error(`${name}[${i}] must be ${rule}, got ${value}`);
    }
  }
}
