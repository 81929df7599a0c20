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

/** Names are short. Long ones around many layers would be there once for each of them. */
const mostCharacters = 1 << 26;

/** All batch norms of a model. */
export function normsOf(model: ConfiguredLayer): ConfiguredNorm[] {
  const norms: ConfiguredNorm[] = [];
  let characters = 0;
  const add = ({ layers, wrapped }: ConfiguredLayer, prefix: string) => {
    for (const layer of wrapped === undefined ? layers : [...layers, wrapped]) {
      const path = prefix === '' ? layer.name : `${prefix}/${layer.name}`;
      if (!isNorm(layer)) {
        add(layer, path);
        continue;
      }
      characters += path.length;
      if (characters > mostCharacters)
        throw tooLarge('names of layers', `have at most ${mostCharacters} characters`, 'more');
      norms.push({ path, name: layer.name, settings: settingsOf(layer) });
    }
  };
  add(model, '');
  return norms;
}

/** Names by their parts, from the last to the first. */
interface Endings {
  readonly before: Map<string, Endings>;
  /** Those that begin here. */
  readonly norms: ConfiguredNorm[];
}

/** Batch norms, to be found by names that end as theirs: with as many steps as a name has parts, however many there are. */
export class NormsByName {
  readonly #byPath: Endings = { before: new Map(), norms: [] };
  readonly #byName: Endings = { before: new Map(), norms: [] };

  constructor(norms: readonly ConfiguredNorm[]) {
    for (const norm of norms) {
      placeOf(this.#byPath, norm.path).norms.push(norm);
      placeOf(this.#byName, norm.name).norms.push(norm);
    }
  }

  /**
   * The batch norm whose parameters have names that begin so: those of a weight have more or fewer of the names around it than a
   * layer has, by the version of Keras.
   */
  match(prefix: string): ConfiguredNorm | undefined {
    let best: ConfiguredNorm | undefined;
    for (const [norm] of endingsOf(this.#byPath, prefix)) best = norm ?? best;
    if (best !== undefined) return best;
    let named: ConfiguredNorm | undefined;
    for (const norms of endingsOf(this.#byName, prefix)) {
      if (norms.length > 1 || (norms.length === 1 && named !== undefined)) return undefined;
      named = norms[0] ?? named;
    }
    return named;
  }
}

function placeOf(endings: Endings, name: string): Endings {
  let at = endings;
  for (const part of name.split('/').reverse()) {
    const next = at.before.get(part) ?? { before: new Map(), norms: [] };
    at.before.set(part, next);
    at = next;
  }
  return at;
}

/** Those whose name is an ending of another, the shortest first. */
function* endingsOf(endings: Endings, name: string): Generator<readonly ConfiguredNorm[]> {
  let at: Endings | undefined = endings;
  for (const part of name.split('/').reverse()) {
    at = at.before.get(part);
    if (at === undefined) return;
    yield at.norms;
  }
}
