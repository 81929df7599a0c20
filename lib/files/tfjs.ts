// Models of TensorFlow.js: model.json with its shards, the same as artifacts in memory, and models that are loaded.
import { normalize } from 'node:path';
import { typeError } from '../errors.js';
import type { StateDict } from '../state.js';
import { abridged, abridgedName } from './abridged.js';
import {
  findLayers,
  kerasNames,
  type Parameter,
  type Parameters,
  readState,
  type StoredBatchNorm,
  ValueBudget,
} from './entries.js';
import { invalidFile, tooLarge, unsupportedFile } from './failures.js';
import {
  along,
  epsOf,
  finiteOf,
  isJson,
  type Json,
  listOf,
  mostDepth,
  own,
  parseSource,
  sizesOf,
  textOf,
} from './json.js';
import { NormsByName, normsOf, readConfig } from './keras.js';
import { openBeside } from './onnx.js';
import { isBytes, type Source } from './source.js';
import { type StoredValues, valuesIn } from './tensors.js';
import { readValues } from './values.js';

type Layers = Map<string, StoredBatchNorm>;

/** Names of values.ts and bytes of a value. */
const dtypes = new Map([
  ['float32', { dtype: 'F32', bytes: 4 }],
  ['float16', { dtype: 'F16', bytes: 2 }],
  ['int32', { dtype: 'I32', bytes: 4 }],
  ['uint16', { dtype: 'U16', bytes: 2 }],
  ['uint8', { dtype: 'U8', bytes: 1 }],
  ['bool', { dtype: 'BOOL', bytes: 1 }],
  ['complex64', { dtype: 'C64', bytes: 8 }],
]);

/** The bytes of a group of weights, which shards hold one after the other. */
interface Bytes {
  readonly size: number;
  read(begin: number, end: number): Uint8Array;
}

/** A weight in the bytes of its group. */
interface Weight {
  readonly name: string;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
  /** undefined for strings. */
  readonly stored: string | undefined;
  readonly quantization?: { readonly min: number; readonly scale: number };
}

function readSpec(value: unknown, begin: number): Weight {
  const name = textOf('the name of a weight', own(value, 'name'));
  const what = abridgedName(name);
  const shape = sizesOf(`${what}.shape`, own(value, 'shape'));
  const count = valuesIn(shape);
  if (count === undefined)
    throw invalidFile(`${what}.shape`, 'have at most 2^53 - 1 values', abridged(shape));
  const dtype = textOf(`${what}.dtype`, own(value, 'dtype'));
  if (dtype === 'string') return { name, shape, begin, end: Number.NaN, stored: undefined };
  const quantized = own(value, 'quantization');
  const stored =
    quantized === undefined ? dtype : textOf(`${what}.quantization.dtype`, own(quantized, 'dtype'));
  const layout = dtypes.get(stored);
  if (layout === undefined)
    throw invalidFile(`${what}.dtype`, `be ${[...dtypes.keys()].join(', ')} or string`, abridged(stored));
  const weight = { name, shape, begin, end: begin + count * layout.bytes, stored: layout.dtype };
  if (quantized === undefined || stored === 'float16') return weight;
  const min = finiteOf(`${what}.quantization.min`, own(quantized, 'min'));
  const scale = finiteOf(`${what}.quantization.scale`, own(quantized, 'scale'));
  return { ...weight, quantization: { min, scale } };
}

function valuesOf({ name, begin, end, stored, quantization }: Weight, bytes: Bytes): StoredValues {
  if (stored === undefined || stored === 'C64' || Number.isNaN(end))
    throw unsupportedFile(
      abridgedName(name),
      'be numbers that lie before all strings of their group',
      'something else',
    );
  const values = readValues(stored, bytes.read(begin, end));
  if (quantization === undefined) return values;
  const { min, scale } = quantization;
  const decoded = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) decoded[i] = Number(values[i]) * scale + min;
  return decoded;
}

/** The weights of a group; each is read once, when it is asked for. */
function readGroup(
  specs: unknown,
  bytes: Bytes,
  weights: Map<string, Parameter>,
  budget = new ValueBudget(),
): void {
  let at = 0;
  for (const spec of listOf('weights', specs)) {
    const weight = readSpec(spec, at);
    at = weight.end;
    if (at > bytes.size)
      throw invalidFile(
        abridgedName(weight.name),
        `lie in the ${bytes.size} bytes of its shards`,
        `an end at ${at}`,
      );
    if (weights.has(weight.name))
      throw invalidFile('weights', 'have each name once', `${abridged(weight.name)} twice`);
    let values: StoredValues | undefined;
    const read = () => {
      if (values === undefined) {
        budget.take(abridgedName(weight.name), weight.shape, Float32Array.BYTES_PER_ELEMENT);
        values = valuesOf(weight, bytes);
      }
      return values;
    };
    weights.set(weight.name, { shape: weight.shape, read });
  }
  if (at < bytes.size) throw invalidFile('shards', `have ${at} bytes as their weights`, `${bytes.size}`);
}

/** Shards beside model.json, opened when one of their weights is read. */
function shardsOf(source: Source, paths: readonly string[]): Bytes {
  const shards = paths.map((path) => {
    const shard = openBeside(source, 'a shard', path);
    shard.close();
    return { path, size: shard.size };
  });
  const size = shards.reduce((sum, shard) => sum + shard.size, 0);
  return {
    size,
    read(begin, end) {
      const bytes = new Uint8Array(end - begin);
      let first = 0;
      for (const { path, size } of shards) {
        const from = Math.max(begin, first);
        const to = Math.min(end, first + size);
        if (from < to) {
          const shard = openBeside(source, 'a shard', path);
          try {
            if (shard.size !== size)
              throw invalidFile('a shard', `have ${size} bytes as before`, `${shard.size}`);
            bytes.set(shard.read(from - first, to - first), from - begin);
          } finally {
            shard.close();
          }
        }
        first += size;
      }
      return bytes;
    },
  };
}

/** A model.json, and the groups of its weights with the bytes of their shards. */
function parseModel(source: Source): {
  model: Json;
  topology: Json;
  groups: { specs: unknown; bytes: Bytes }[];
} {
  const model = parseSource('file', source);
  const topology = own(model, 'modelTopology');
  if (!isJson(model) || !isJson(topology))
    throw unsupportedFile('file', 'be a model.json of TensorFlow.js (with a modelTopology)', 'another JSON');
  // One that stood there again and again would make a model of any size.
  const known = new Set<string>();
  const groups = listOf('weightsManifest', own(model, 'weightsManifest') ?? []).map((group) => {
    const paths = listOf('paths', own(group, 'paths')).map((path) => textOf('a path', path));
    for (const path of paths) {
      if (known.has(normalize(path)))
        throw invalidFile('paths', 'have each shard once', `${abridged(path)} twice`);
      known.add(normalize(path));
    }
    return { specs: own(group, 'weights'), bytes: shardsOf(source, paths) };
  });
  return { model, topology, groups };
}

/** The batch norms of a model.json. */
export function readModelJson(source: Source): Layers {
  const { topology, groups } = parseModel(source);
  const weights = new Map<string, Parameter>();
  const budget = new ValueBudget();
  for (const { specs, bytes } of groups) readGroup(specs, bytes, weights, budget);
  return layersOf(topology, weights);
}

/** The whole of a model.json with its shards, as `tf.io` handlers have it. */
export function readWholeModel(source: Source): Json {
  const { model, groups } = parseModel(source);
  // That their weights fill them.
  for (const { specs, bytes } of groups) readGroup(specs, bytes, new Map());
  const { weightsManifest: _, ...rest } = model;
  return {
    ...rest,
    weightSpecs: groups.flatMap(({ specs }) => listOf('weights', specs)),
    weightData: groups.map(({ bytes }) => bytes.read(0, bytes.size).buffer as ArrayBuffer),
  };
}

/** Artifacts as `tf.io` handlers have them. */
export function isArtifacts(value: unknown): value is Json {
  return isJson(value) && isJson(value.modelTopology);
}

export function readArtifacts(artifacts: Json): Layers {
  const { modelTopology, weightSpecs, weightData } = artifacts;
  const parts = (
    Array.isArray(weightData) ? weightData : weightData === undefined ? [] : [weightData]
  ) as unknown[];
  if (!parts.every(isBytes))
    throw invalidFile('weightData', 'be one or several ArrayBuffers', abridged(weightData));
  const bytes = Buffer.concat(
    parts.map((part) => (part instanceof Uint8Array ? part : new Uint8Array(part))),
  );
  const weights = new Map<string, Parameter>();
  readGroup(
    weightSpecs ?? [],
    { size: bytes.length, read: (begin, end) => bytes.subarray(begin, end) },
    weights,
  );
  return layersOf(modelTopology as Json, weights);
}

function layersOf(topology: Json, weights: ReadonlyMap<string, Parameter>): Layers {
  const nodes = own(topology, 'node');
  if (nodes !== undefined) return layersOfGraph(listOf('modelTopology.node', nodes), weights);
  // What the converter writes has the model one level deeper than what TensorFlow.js saves.
  const config = own(topology, 'model_config') ?? topology;
  const norms = new NormsByName(normsOf(readConfig('modelTopology', config)));
  const layers: Layers = new Map();
  for (const [prefix, parts] of findLayers(weights.keys(), kerasNames)) {
    const norm = norms.match(prefix);
    const name = norm?.path ?? prefix;
    if (layers.has(name)) throw invalidFile('a layer', 'have a name of its own', abridged(name));
    const parameters: Parameters = new Map();
    for (const [part, stored] of parts) parameters.set(part, weights.get(stored) as Parameter);
    const state = readState(name, parameters);
    const { eps, axis } = norm?.settings ?? { axis: -1 };
    layers.set(name, { state, ...(eps !== undefined && { eps }), convention: 'keras', axis });
  }
  return layers;
}

const fusedNorm = /^_?FusedBatchNorm(?:V[23]|Ex)?$/;
const parts: readonly (keyof StateDict)[] = ['weight', 'bias', 'running_mean', 'running_var'];

/** What TensorFlow.js computes with where a node says nothing, though the default of TensorFlow's operation is 1e-4. */
const graphEps = 1e-3;

/** Graph models have fused batch norms where the converter has not folded them. */
function layersOfGraph(nodes: readonly unknown[], weights: ReadonlyMap<string, Parameter>): Layers {
  const layers: Layers = new Map();
  for (const node of nodes) {
    const operator = own(node, 'op');
    if (typeof operator !== 'string' || !fusedNorm.test(operator)) continue;
    const key = textOf('the name of a node', own(node, 'name'));
    const name = abridgedName(key);
    if (layers.has(key)) throw invalidFile('a node', 'have a name of its own', name);
    const inputs = listOf(`${name}.input`, own(node, 'input')).map((input) => textOf(`${name}.input`, input));
    const parameters: Parameters = new Map();
    for (const [i, part] of parts.entries()) {
      const weight = weights.get((inputs[i + 1] ?? '').replace(/:0$/, ''));
      if (weight === undefined)
        throw unsupportedFile(
          `${name}.${part}`,
          'be a weight of the model',
          abridged(inputs[i + 1] ?? 'nothing'),
        );
      parameters.set(part, weight);
    }
    const eps = epsOf(`${name}.epsilon`, along(node, 'attr', 'epsilon', 'f') ?? graphEps);
    const format = along(node, 'attr', 'data_format', 's');
    const isFirst =
      typeof format === 'string' && /^NC/.test(Buffer.from(format, 'base64').toString('latin1'));
    layers.set(key, { state: readState(key, parameters), eps, convention: 'keras', axis: isFirst ? 1 : -1 });
  }
  return layers;
}

/** A tensor or variable of TensorFlow.js. */
interface Variable {
  readonly shape: readonly number[];
  read(): { dataSync(): StoredValues };
}

/** What counts of a layer of TensorFlow.js. */
export interface LoadedLayer {
  readonly name: string;
  getClassName?(): string;
  readonly layers?: readonly LoadedLayer[];
  readonly layer?: LoadedLayer;
  /** A list where the model was loaded: Keras writes one. */
  readonly axis?: number | readonly number[];
  readonly epsilon?: number;
  readonly gamma?: Variable | null;
  readonly beta?: Variable | null;
  readonly movingMean?: Variable;
  readonly movingVariance?: Variable;
}

export function isLoaded(value: unknown): value is LoadedLayer {
  return typeof value === 'object' && value !== null && Array.isArray((value as LoadedLayer).layers);
}

/** The batch norms of a layers model in memory. */
export function readLoaded(model: LoadedLayer, layers: Layers = new Map(), prefix = '', depth = 0): Layers {
  if (depth > mostDepth)
    throw tooLarge('model', `have layers at most ${mostDepth} deep in each other`, 'deeper ones');
  const inner = [...(model.layers ?? []), ...(model.layer === undefined ? [] : [model.layer])];
  for (const layer of inner) {
    if (typeof layer !== 'object' || layer === null || typeof layer.name !== 'string')
      throw typeError('layers', 'be layers of TensorFlow.js', layer);
    const name = prefix === '' ? layer.name : `${prefix}/${layer.name}`;
    if (layer.getClassName?.() !== 'BatchNormalization') {
      readLoaded(layer, layers, name, depth + 1);
      continue;
    }
    const parameters: Parameters = new Map();
    const add = (part: keyof StateDict, variable: Variable | null | undefined) => {
      if (variable)
        parameters.set(part, { shape: variable.shape, read: () => variable.read().dataSync().slice() });
    };
    add('weight', layer.gamma);
    add('bias', layer.beta);
    add('running_mean', layer.movingMean);
    add('running_var', layer.movingVariance);
    const { axis = -1, epsilon = 1e-3 } = layer;
    layers.set(name, {
      state: readState(name, parameters),
      eps: epsilon,
      convention: 'keras',
      axis: typeof axis === 'number' ? axis : axis[0],
    });
  }
  return layers;
}
