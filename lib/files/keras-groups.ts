// What Keras writes into HDF5: the groups of .h5, and of the weights in .keras.
import type { StateDict } from '../state.js';
import { abridged, abridgedName } from './abridged.js';
import {
  findLayers,
  kerasNames,
  type Parameters,
  readState,
  type Settings,
  type StoredBatchNorm,
} from './entries.js';
import { invalidFile, unsupportedFile } from './failures.js';
import type { Hdf5 } from './hdf5.js';
import { parseText } from './json.js';
import { type ConfiguredLayer, has, isNorm, NormsByName, normsOf, readConfig, settingsOf } from './keras.js';

type Layers = Map<string, StoredBatchNorm>;

/** The batch norms of a .h5 file, whichever Keras has written it. */
export function layersOf(file: Hdf5): Layers {
  const config = file.text('', 'model_config');
  const model =
    config === undefined ? undefined : readConfig('model_config', parseText('model_config', config));
  if (file.keys('').includes('model_weights')) return layersByName(file, 'model_weights', model);
  if (file.hasAttribute('', 'layer_names')) return layersByName(file, '', model);
  return unconfigured(file);
}

/** Keras 2, and the .h5 of Keras 3: datasets have the names of weights. */
function layersByName(file: Hdf5, root: string, model: ConfiguredLayer | undefined): Layers {
  const norms = new NormsByName(model === undefined ? [] : normsOf(model));
  const layers: Layers = new Map();
  const start = root === '' ? 0 : root.length + 1;
  const names: string[] = [];
  for (const path of file.walk(root)) names.push(path.slice(start));
  for (const [prefix, parts] of findLayers(names, kerasNames)) {
    const norm = norms.match(prefix);
    const name = norm?.path ?? withoutRepeats(prefix);
    const parameters: Parameters = new Map();
    for (const [part, stored] of parts)
      parameters.set(part, file.parameter(root === '' ? stored : `${root}/${stored}`));
    add(layers, name, parameters, norm?.settings ?? { axis: -1 });
  }
  return layers;
}

/** 'bn/bn' is where the weights of the layer 'bn' lie. */
function withoutRepeats(prefix: string): string {
  const names = prefix.split('/');
  return names.filter((name, i) => i === 0 || name !== names[i - 1]).join('/');
}

function add(layers: Layers, name: string, parameters: Parameters, { eps, axis }: Settings): void {
  if (layers.has(name)) throw invalidFile('a layer', 'have a name of its own', abridged(name));
  const state = readState(name, parameters);
  layers.set(name, { state, ...(eps !== undefined && { eps }), convention: 'keras', axis });
}

/** The variables of a batch norm in the order in which it makes them. */
function variablesOf(scale: boolean, center: boolean): (keyof StateDict)[] {
  const own: (keyof StateDict)[] = [];
  if (scale) own.push('weight');
  if (center) own.push('bias');
  own.push('running_mean', 'running_var');
  return own;
}

function variables(file: Hdf5, path: string, wanted: readonly (keyof StateDict)[]): Parameters {
  const keys = file.keys(`${path}/vars`);
  const parameters: Parameters = new Map();
  for (const [i, part] of wanted.entries()) {
    if (!keys.includes(`${i}`))
      throw invalidFile(abridgedName(`${path}/vars`), `have ${wanted.length} variables`, `${keys.length}`);
    parameters.set(part, file.parameter(`${path}/vars/${i}`));
  }
  return parameters;
}

/** As Keras names the groups of a container: after the classes of its layers. */
function snakeCase(className: string): string {
  return className
    .replace(/\W+/g, '')
    .replace(/(.)([A-Z][a-z]+)/g, '$1_$2')
    .replace(/([a-z])([A-Z])/g, '$1_$2')
    .toLowerCase();
}

/** The batch norms of weights of Keras 3 that belong to a configuration. */
export function layersOfModel(file: Hdf5, model: ConfiguredLayer): Layers {
  const layers: Layers = new Map();
  configured(file, model, '', '', layers);
  return layers;
}

/** Keras 3: the variables of a layer are numbered, and lie in groups that follow the layers of a configuration. */
function configured(file: Hdf5, model: ConfiguredLayer, group: string, prefix: string, layers: Layers): void {
  const inner = group === '' ? 'layers' : `${group}/layers`;
  // Later versions write the names of layers beside their variables.
  const byName = new Map<string, string>();
  for (const key of model.layers.length > 0 ? file.keys(inner) : []) {
    const name = file.text(`${inner}/${key}/vars`, 'name');
    if (name !== undefined) byName.set(name, key);
  }
  const used = new Map<string, number>();
  for (const layer of model.layers) {
    if (layer.className === 'InputLayer' && model.className === 'Sequential') continue;
    const snake = snakeCase(layer.className);
    const times = used.get(snake) ?? 0;
    used.set(snake, times + 1);
    const key = byName.get(layer.name) ?? (times === 0 ? snake : `${snake}_${times}`);
    one(file, layer, `${inner}/${key}`, prefix, layers);
  }
  if (model.wrapped !== undefined) one(file, model.wrapped, `${group}/layer`, prefix, layers);
}

function one(file: Hdf5, layer: ConfiguredLayer, group: string, prefix: string, layers: Layers): void {
  const name = prefix === '' ? layer.name : `${prefix}/${layer.name}`;
  if (isNorm(layer)) {
    const wanted = variablesOf(has(layer, 'scale'), has(layer, 'center'));
    add(layers, name, variables(file, group, wanted), settingsOf(layer));
  } else configured(file, layer, group, name, layers);
}

const normGroup = /(?:^|\/)(?:sync_)?batch_normalization(?:_\d+)?$/;

/** Weights of Keras 3 without a configuration: groups have the names of classes. */
function unconfigured(file: Hdf5): Layers {
  const layers: Layers = new Map();
  const names = new Map<string, string>();
  for (const path of file.walk('')) {
    if (!path.endsWith('/vars')) continue;
    const group = path.slice(0, -'/vars'.length);
    const key = group.slice(group.lastIndexOf('/') + 1);
    const name = file.text(path, 'name') ?? key;
    names.set(group, name);
    if (!normGroup.test(group)) continue;
    const count = file.keys(path).length;
    if (count !== 2 && count !== 4)
      throw unsupportedFile(
        abridgedName(group),
        'have two variables, or four (which of gamma and beta a third is, only a .keras file says)',
        `${count}`,
      );
    add(layers, around(file, group) + name, variables(file, group, variablesOf(count === 4, count === 4)), {
      axis: -1,
    });
  }
  return layers;
}

/** The names of the models that a group lies in. */
function around(file: Hdf5, group: string): string {
  const parts = group.split('/');
  let names = '';
  for (let i = 2; i < parts.length - 1; i += 2) {
    const path = parts.slice(0, i).join('/');
    names += `${file.text(`${path}/vars`, 'name') ?? parts[i - 1]}/`;
  }
  return names;
}
