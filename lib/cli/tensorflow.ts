// TensorFlow.js as the caller has installed it: models from files and into files, and how long a prediction takes.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type * as tfjs from '@tensorflow/tfjs';
import { stateError } from '../errors.js';
import { unsupportedFile } from '../files/failures.js';
import { openSource } from '../files/source.js';
import { readWholeModel } from '../files/tfjs.js';
import { progress } from './table.js';
import { UsageError } from './usage.js';

export type TensorFlow = typeof tfjs;
export type Model = tfjs.LayersModel | tfjs.GraphModel;

/** Where the program runs, or beside this package: the one that its user has. */
async function load(name: string): Promise<unknown> {
  for (const base of [join(process.cwd(), 'package.json'), import.meta.url]) {
    let path: string;
    try {
      path = createRequire(base).resolve(name);
    } catch {
      continue;
    }
    return (await import(pathToFileURL(path).href)) as unknown;
  }
  return undefined;
}

export async function loadTensorFlow(): Promise<{ tf: TensorFlow; backends: string[] }> {
  const found = (await load('@tensorflow/tfjs')) as (TensorFlow & { default?: TensorFlow }) | undefined;
  if (found === undefined)
    throw stateError(
      'PACKAGE_MISSING',
      'reading models of TensorFlow.js needs the package @tensorflow/tfjs: npm install @tensorflow/tfjs',
    );
  const tf = found.default ?? found;
  // Otherwise it says that there are faster backends for Node.js.
  tf.enableProdMode();
  await load('@tensorflow/tfjs-backend-wasm');
  await tf.setBackend('cpu');
  return { tf, backends: ['cpu', 'wasm'].filter((name) => tf.findBackendFactory(name) !== null) };
}

export async function loadModel(tf: TensorFlow, path: string): Promise<Model> {
  const source = openSource(path);
  try {
    const beginning = source.read(0, Math.min(source.size, 16));
    // Else it would be said of other formats that they are no UTF-8.
    if (!/^\s*\{/.test(String.fromCharCode(...beginning)))
      throw unsupportedFile(
        'file',
        'be a model.json of TensorFlow.js (with a modelTopology)',
        'another format',
      );
    const artifacts = readWholeModel(source) as unknown as tfjs.io.ModelArtifacts;
    const handler = tf.io.fromMemory(artifacts);
    const { node } = artifacts.modelTopology as { node?: unknown };
    return await (node === undefined ? tf.loadLayersModel(handler) : tf.loadGraphModel(handler));
  } finally {
    source.close();
  }
}

/** The files of a model, by their names. */
export async function filesOf(tf: TensorFlow, model: Model): Promise<Map<string, Uint8Array>> {
  const artifacts = await new Promise<tfjs.io.ModelArtifacts>((resolve, reject) => {
    const handler = tf.io.withSaveHandler(async (given) => {
      resolve(given);
      return { modelArtifactsInfo: { dateSaved: new Date(), modelTopologyType: 'JSON' } };
    });
    model.save(handler).catch(reject);
  });
  const { weightSpecs, weightData, ...rest } = artifacts;
  const shards = [weightData ?? []].flat().map((buffer) => new Uint8Array(buffer as ArrayBuffer));
  const paths = shards.map((_, i) => `group1-shard${i + 1}of${shards.length}.bin`);
  const description = { ...rest, weightsManifest: [{ paths, weights: weightSpecs ?? [] }] };
  return new Map([
    ...shards.map((bytes, i): [string, Uint8Array] => [paths[i], bytes]),
    ['model.json', new TextEncoder().encode(JSON.stringify(description))],
  ]);
}

/** Inputs of random values, of the shapes that a model has or is told. */
export function inputsFor(tf: TensorFlow, model: Model, given: readonly string[] = []): tfjs.Tensor[] {
  if (given.length > 0 && given.length !== model.inputs.length)
    throw new UsageError(`--shape must be given for ${model.inputs.length} inputs, got ${given.length}`);
  return model.inputs.map(({ name, shape = [], dtype }, i) => {
    const sizes = given[i] === undefined ? shape : given[i].split(',').map(Number);
    if (given[i] !== undefined && !sizes.every((size) => Number.isSafeInteger(size) && Number(size) > 0))
      throw new UsageError(`--shape must be sizes like 1,224,224,3, got ${JSON.stringify(given[i])}`);
    const whole = sizes.map((size, axis) => {
      if (size !== null && size > 0) return size;
      if (axis === 0) return 1;
      throw new UsageError(
        `--shape must say the shape of ${JSON.stringify(name)}, which the model leaves open, got nothing`,
      );
    });
    return dtype === 'float32' ? tf.randomNormal(whole) : tf.zeros(whole, dtype);
  });
}

export interface Times {
  readonly min: number;
  readonly median: number;
}

const rounds = 15;

/** Milliseconds of a prediction, by side; the sides in turns, for what slows the machine down hits all of them then. */
export function measure<K extends string>(
  what: string,
  sides: Readonly<Record<K, () => Model>>,
  inputs: readonly tfjs.Tensor[],
): Record<K, Times> {
  const names = Object.keys(sides) as K[];
  const times = new Map(names.map((name) => [name, [] as number[]]));
  // The first is to warm up.
  for (let round = 0; round <= rounds; round++) {
    progress(what, round, rounds + 1);
    for (const name of names) {
      const model = sides[name]();
      const start = performance.now();
      predict(model, inputs);
      if (round > 0) times.get(name)?.push(performance.now() - start);
    }
  }
  progress(what, 1, 1);
  const entries = names.map((name) => {
    const sorted = (times.get(name) as number[]).sort((a, b) => a - b);
    return [name, { min: sorted[0], median: sorted[sorted.length >> 1] }];
  });
  return Object.fromEntries(entries);
}

/** All that a model predicts. */
export function predict(model: Model, inputs: readonly tfjs.Tensor[]): ArrayLike<number>[] {
  const results = [model.predict([...inputs] as tfjs.Tensor[])].flat() as (
    | tfjs.Tensor
    | tfjs.NamedTensorMap
  )[];
  const tensors = results.flatMap((one) => ('dataSync' in one ? [one as tfjs.Tensor] : Object.values(one)));
  const values = tensors.map((tensor) => tensor.dataSync());
  for (const tensor of tensors) tensor.dispose();
  return values;
}

export const milliseconds = (value: number) => `${value.toPrecision(3)} ms`;
