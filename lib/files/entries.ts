// What all formats come to: parameters by name, made states that layers take.
import type { StateDict } from '../state.js';
import type { FloatArray } from '../types.js';
import { abridged, abridgedName } from './abridged.js';
import { invalidFile, tooLarge, unsupportedFile } from './failures.js';
import type { StoredValues } from './tensors.js';

/** A batch norm as a file has it. `FrozenBatchNorm.from(state, { eps, convention, axis })` and `loadStateDict(state)` take it. */
export interface StoredBatchNorm {
  /** Parameters and statistics under PyTorch's names, decoded; what the layer does not have is absent. */
  readonly state: StateDict;
  /** As the file says it; absent where it says nothing: safetensors and weights without a model. */
  readonly eps?: number;
  /** Whose defaults and meaning of momentum the layer has; undefined for PyTorch's. */
  readonly convention: 'keras' | 'onnx' | undefined;
  /** The channel axis: -1 is the last. */
  readonly axis: number;
}

/** What a file says of a batch norm beside its parameters. */
export interface Settings {
  readonly eps?: number;
  readonly axis: number;
}

/** What a parameter is called, by what it is called in files. */
export const pytorchNames = new Map<string, keyof StateDict>([
  ['weight', 'weight'],
  ['bias', 'bias'],
  ['running_mean', 'running_mean'],
  ['running_var', 'running_var'],
  ['num_batches_tracked', 'num_batches_tracked'],
]);
export const kerasNames = new Map<string, keyof StateDict>([
  ['gamma', 'weight'],
  ['beta', 'bias'],
  ['moving_mean', 'running_mean'],
  ['moving_variance', 'running_var'],
]);

/** More channels than any layer has. */
export const mostChannels = 1 << 24;

/** Zeros compress so well, and bytes may be named so often, that a small file may have any number of values. */
const mostValueBytes = 1 << 28;

/** Counts the values that are read of a file. */
export class ValueBudget {
  #bytes = 0;

  /** @throws where they have become too many. */
  take(name: string, shape: readonly number[], bytesPerValue: number): void {
    this.#bytes += shape.reduce((product, dimension) => product * dimension, bytesPerValue);
    if (this.#bytes > mostValueBytes)
      throw tooLarge(name, `stay below ${mostValueBytes} bytes with all others`, `shape ${abridged(shape)}`);
  }
}

/** Something in a file that can be read when it is needed. */
export interface Parameter {
  readonly shape: readonly number[];
  read(): StoredValues;
}

/** Parameters of a layer, by the names of a state. */
export type Parameters = Map<keyof StateDict, Parameter>;

/**
 * The layers that have statistics, by name: everything before the last part of the names of their parameters.
 *
 * @param names of all tensors of a file.
 */
export function findLayers(
  names: Iterable<string>,
  known: ReadonlyMap<string, keyof StateDict>,
): Map<string, Map<keyof StateDict, string>> {
  const layers = new Map<string, Map<keyof StateDict, string>>();
  for (const name of names) {
    const plain = name.endsWith(':0') ? name.slice(0, -2) : name;
    const at = Math.max(plain.lastIndexOf('.'), plain.lastIndexOf('/'));
    const part = known.get(plain.slice(at + 1));
    if (part === undefined) continue;
    const prefix = plain.slice(0, Math.max(at, 0));
    const layer = layers.get(prefix) ?? new Map<keyof StateDict, string>();
    if (layer.has(part))
      throw invalidFile(abridgedName(prefix), `have each parameter once`, `two of ${part}`);
    layers.set(prefix, layer.set(part, name));
  }
  // What has none is another kind of layer.
  for (const [name, layer] of layers)
    if (!layer.has('running_mean') && !layer.has('running_var')) layers.delete(name);
  return layers;
}

/**
 * Reads the parameters of a layer.
 *
 * @throws {Error} where they do not belong together.
 */
export function readState(layer: string, parameters: Parameters): StateDict {
  const name = abridgedName(layer);
  const mean = parameters.get('running_mean');
  const variance = parameters.get('running_var');
  if (mean === undefined)
    throw invalidFile(`${name}.running_mean`, 'be in the file beside the variance', 'none');
  if (variance === undefined)
    throw invalidFile(`${name}.running_var`, 'be in the file beside the mean', 'none');
  const channels = mean.shape.length === 1 ? mean.shape[0] : 0;
  if (channels < 1)
    throw invalidFile(
      `${name}.running_mean`,
      'have one value per channel (shape [channels])',
      abridged(mean.shape),
    );
  if (channels > mostChannels)
    throw tooLarge(`${name}.running_mean`, `have at most ${mostChannels} values`, `${channels}`);
  const state: StateDict = {};
  for (const [part, parameter] of parameters) {
    const { shape } = parameter;
    if (part === 'num_batches_tracked') {
      if (shape.length > 1 || (shape[0] ?? 1) !== 1)
        throw invalidFile(`${name}.${part}`, 'be a single value', `shape ${abridged(shape)}`);
      state[part] = countOf(`${name}.${part}`, parameter.read());
    } else {
      if (shape.length !== 1 || shape[0] !== channels)
        throw invalidFile(`${name}.${part}`, `have shape [${channels}] as running_mean`, abridged(shape));
      state[part] = floatsOf(`${name}.${part}`, parameter.read());
    }
  }
  return state;
}

function floatsOf(name: string, values: StoredValues): FloatArray {
  if (values instanceof Float32Array || values instanceof Float64Array) return values;
  throw unsupportedFile(name, 'be floating-point numbers', values.constructor.name);
}

function countOf(name: string, values: StoredValues): number {
  const count = Number(values[0]);
  if (!Number.isSafeInteger(count) || count < 0)
    throw invalidFile(name, 'be a non-negative integer', `${values[0]}`);
  return count;
}
