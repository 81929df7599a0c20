// The configuration of Keras' models, of Keras itself and of TensorFlow.js: which layers are batch norms, and with what settings.

import { abridged, abridgedName } from './abridged.js';
import type { Settings } from './entries.js';
import { invalidFile, tooLarge } from './failures.js';
import { along, epsOf, isJson, listOf, mostDepth, own, textOf } from './json.js';

/** A layer of a configuration, with those that it consists of. */
export interface ConfiguredLayer {
  readonly name: string;
  readonly className: string;
  readonly config: unknown;
  /** Of a model within the model. */
  readonly layers: readonly ConfiguredLayer[];
  /** Of TimeDistributed and the like. */
  readonly wrapped?: ConfiguredLayer;
}

const normClass = /^(?:Sync)?BatchNormalization(?:V[12])?$/;

export const isNorm = ({ className }: ConfiguredLayer) => normClass.test(className);

/** @param model `{ class_name, config }` */
export function readConfig(name: string, model: unknown, depth = 0): ConfiguredLayer {
  if (depth > mostDepth)
    throw tooLarge(name, `have layers at most ${mostDepth} deep in each other`, 'deeper ones');
  if (!isJson(model)) throw invalidFile(name, 'be an object', abridged(model));
  const config = own(model, 'config');
  // Keras 2.2 and older: a Sequential is a list of layers.
  const layers = Array.isArray(config) ? config : own(config, 'layers');
  const wrapped = own(config, 'layer');
  const given = own(config, 'name') ?? own(model, 'name');
  return {
    name: given === undefined ? '' : textOf(`${name}.name`, given),
    className: textOf(`${name}.class_name`, own(model, 'class_name')),
    config,
    layers:
      layers === undefined
        ? []
        : listOf(`${name}.layers`, layers).map((layer, i) =>
            readConfig(`${name}.layers[${i}]`, layer, depth + 1),
          ),
    ...(isJson(wrapped) && { wrapped: readConfig(`${name}.layer`, wrapped, depth + 1) }),
  };
}

export function settingsOf({ name, config }: ConfiguredLayer): Settings {
  const what = abridgedName(name);
  const axis = own(config, 'axis') ?? -1;
  // Keras 2 keeps a list of one.
  const number = Array.isArray(axis) && axis.length === 1 ? axis[0] : axis;
  if (!Number.isSafeInteger(number)) throw invalidFile(`${what}.axis`, 'be an integer', abridged(axis));
  return { eps: epsOf(`${what}.epsilon`, own(config, 'epsilon') ?? 1e-3), axis: number as number };
}

export const has = (layer: ConfiguredLayer, part: 'scale' | 'center') => along(layer.config, part) !== false;

/** A batch norm of a configuration, with the names of the layers around it. */
export interface ConfiguredNorm {
  readonly path: string;
  readonly name: string;
  readonly settings: Settings;
}

/** All batch norms of a model. */
export function normsOf(model: ConfiguredLayer, prefix = ''): ConfiguredNorm[] {
  const inner = model.wrapped === undefined ? model.layers : [...model.layers, model.wrapped];
  return inner.flatMap((layer) => {
    const path = prefix === '' ? layer.name : `${prefix}/${layer.name}`;
    if (isNorm(layer)) return [{ path, name: layer.name, settings: settingsOf(layer) }];
    return normsOf(layer, path);
  });
}

/**
 * The batch norm whose parameters have names that begin so: those of a weight have more or fewer of the names around it than a
 * layer has, by the version of Keras.
 */
export function matchNorm(norms: readonly ConfiguredNorm[], prefix: string): ConfiguredNorm | undefined {
  const endsWith = (end: string) => prefix === end || prefix.endsWith(`/${end}`);
  const whole = norms.filter(({ path }) => endsWith(path));
  if (whole.length > 0)
    return whole.reduce((best, norm) => (norm.path.length > best.path.length ? norm : best));
  const named = norms.filter(({ name }) => endsWith(name));
  return named.length === 1 ? named[0] : undefined;
}
