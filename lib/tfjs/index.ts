/**
 * Batch norm and layer norm of TensorFlow.js models, computed by this library.
 *
 * @module batchnorm/tfjs
 */
import type * as tfc from '@tensorflow/tfjs-core';
import { typeError } from '../errors.js';
import { namesOf } from '../properties.js';
import { checkOneOf, readOptions } from '../validate.js';

export { type FoldedModel, fold, type Left } from './fold/index.js';

import { followContainers, type Models } from './frozen.js';
import { fusedBatchNorm, fusedBatchNormGradient, kernelName } from './kernel.js';
import { type BatchNormalization, type Call, fusedCall, type Trainable } from './layer.js';
import { type LayerNormalization, layerNormCall } from './layer-norm.js';
import { followMasks, type Masks } from './masks.js';
import { replace } from './replace.js';

/**
 * The module of TensorFlow.js, as `import * as tf from '@tensorflow/tfjs'` gives it (version 4). `@tensorflow/tfjs-core` is
 * enough for `tf.batchNorm` and graph models.
 */
export interface TensorFlow {
  /** @hidden */
  registerKernel(config: never): void;
  /** @hidden */
  unregisterKernel(kernelName: string, backendName: string): void;
  /** @hidden */
  getKernel(kernelName: string, backendName: string): unknown;
  /** @hidden */
  registerGradient(config: never): void;
  /** @hidden */
  getGradient(kernelName: string): unknown;
  /** @hidden */
  engine(): unknown;
  /** @hidden */
  backend(): unknown;
  /** @hidden */
  customGrad(f: never): unknown;
  /** Absent from `@tensorflow/tfjs-core`, as are the two below. */
  readonly layers?: unknown;
  /** @hidden */
  readonly LayersModel?: unknown;
  /** @hidden */
  readonly Sequential?: unknown;
}

/** The backends whose batch norm can be replaced. */
export type TensorFlowBackend = 'cpu' | 'wasm';

/** What this library computes for TensorFlow.js. */
export interface Installation {
  /** Where `tf.batchNorm` and its gradient are replaced. */
  readonly backends: readonly TensorFlowBackend[];
  /** Whether `tf.layers.batchNormalization` and `tf.layers.layerNormalization` are replaced, on these backends. */
  readonly layers: boolean;
}

/** How {@link install} lets layers behave. */
export interface InstallOptions {
  /**
   * What a batch norm layer does in training that is not to be trained (`trainable = false`, its own or that of a model
   * around it). `'keras'`, the default: it infers with its moving statistics, which stay as they are. `'tfjs'`: it normalizes
   * with the statistics of the batch and updates the moving ones, as TensorFlow.js does; only gamma and beta stay.
   */
  trainable?: 'keras' | 'tfjs' | undefined;
  /**
   * What a batch norm layer does in training with the mask of its input, of `tf.layers.masking` or an embedding with `maskZero`.
   * `'keras'`, the default: what is masked is left out of the statistics of the batch, and normalized with them. `'ignore'`: it
   * counts like the rest, as in TensorFlow.js.
   */
  masks?: 'keras' | 'ignore' | undefined;
}

const optionNames = namesOf(['trainable', 'masks']);

const knownBackends: readonly TensorFlowBackend[] = ['cpu', 'wasm'];

interface Settings {
  trainable: Trainable;
  masks: Masks;
}

/** On what was put in place, so that a second copy of this module knows it, and its settings. */
const mark = Symbol.for('batchnorm.tfjs');

type Prototype = { call: Call };

type Marked = { [mark]?: Settings };

const settingsOf = (value: unknown) => (value as Marked | undefined)?.[mark];
const isOurs = (value: unknown) => settingsOf(value) !== undefined;

function marked<T extends object>(value: T, settings: Settings): T {
  return Object.defineProperty(value, mark, { value: settings });
}

/** A copy of TensorFlow.js that was installed to. Copies share kernels and gradients, but not their layers. */
interface Instance {
  core: typeof tfc;
  /** Of its batch norm layer, which tells copies apart; undefined for `@tensorflow/tfjs-core` by itself. */
  prototype: Prototype | undefined;
  undoLayers: () => void;
}

let instances: Instance[] = [];

/** TensorFlow.js' own in place of which a kernel or gradient of ours stands. */
const stocks = new WeakMap<object, tfc.KernelConfig | tfc.GradConfig>();

/**
 * Lets this library compute the batch norms of TensorFlow.js, in all models, those that exist already too: `tf.batchNorm` with
 * its gradient on the backends `cpu` and `wasm`, and `tf.layers.batchNormalization` in training and inference; and its layer norms,
 * `tf.layers.layerNormalization` over the last axis or axes. Values are read and written where the backend keeps them. Models are saved and loaded as before.
 *
 * A backend that is imported later (`@tensorflow/tfjs-backend-wasm`) is not replaced, and another copy of TensorFlow.js that is
 * loaded later puts its own back: install again then. What is in place already stays as it is; an option that is given counts
 * from then on. Each copy is installed by itself. Other backends, dtypes and gradients of gradients are left to TensorFlow.js.
 *
 * @param tf the module that the models are made with.
 * @param options how layers behave that are not to be trained, and those whose input has a mask.
 * @returns what is in place now.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`) where `tf` is not the module of TensorFlow.js or an option no string,
 * (`ERR_BATCHNORM_UNKNOWN_OPTION`) for an unknown option, RangeError (`ERR_BATCHNORM_INVALID_VALUE`) for another string;
 * then nothing is changed.
 * @example
 * import * as tf from '@tensorflow/tfjs';
 * import { install } from 'batchnorm/tfjs';
 *
 * console.log(install(tf).layers); // true
 */
export function install(tf: TensorFlow, options?: InstallOptions): Installation {
  const core = checkModule(tf);
  const given = readOptions(options, optionNames);
  const trainable =
    given.trainable === undefined ? undefined : checkOneOf('trainable', given.trainable, ['keras', 'tfjs']);
  const masks = given.masks === undefined ? undefined : checkOneOf('masks', given.masks, ['keras', 'ignore']);
  const settings: Settings = { trainable: trainable ?? 'keras', masks: masks ?? 'keras' };
  for (const backendName of knownBackends) {
    const stock = core.getKernel(kernelName, backendName);
    if (!stock || isOurs(stock)) continue;
    const kernel = marked(fusedBatchNorm(core, stock), settings);
    stocks.set(kernel, stock);
    replaceKernel(core, backendName, kernel);
  }
  const stockGradient = core.getGradient(kernelName);
  if (stockGradient && !isOurs(stockGradient)) {
    const gradient = marked(fusedBatchNormGradient(core, stockGradient), settings);
    stocks.set(gradient, stockGradient);
    replaceGradient(core, gradient);
  }
  const prototype = layerPrototype(tf);
  const present = settingsOf(prototype?.call);
  if (present !== undefined && trainable !== undefined) present.trainable = trainable;
  if (present !== undefined && masks !== undefined) present.masks = masks;
  const undoLayers =
    prototype !== undefined && present === undefined
      ? replaceLayers(core, tf as Models, prototype, layerNormPrototype(tf), settings)
      : undefined;
  if (undoLayers || !instances.some((instance) => isOf(instance, core, prototype)))
    instances.push({ core, prototype, undoLayers: undoLayers ?? (() => {}) });
  return installed(tf);
}

/**
 * Whether, and where, {@link install} is in effect.
 *
 * @param tf the module that the models are made with.
 * @returns what is in place, as {@link install} says it.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`) where `tf` is not the module of TensorFlow.js.
 * @example
 * import * as tf from '@tensorflow/tfjs';
 * import { installed, uninstall } from 'batchnorm/tfjs';
 *
 * uninstall();
 * console.log(installed(tf)); // { backends: [], layers: false }
 */
export function installed(tf: TensorFlow): Installation {
  const core = checkModule(tf);
  return {
    backends: knownBackends.filter((backendName) => isOurs(core.getKernel(kernelName, backendName))),
    layers: isOurs(layerPrototype(tf)?.call),
  };
}

/**
 * Gives TensorFlow.js its own norms back. Harmless where nothing is installed.
 *
 * @param tf a module that was installed to: the others stay as they are, and so do the kernels and gradients that they share
 * with it. Without it, all.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`) where `tf` is given and not the module of TensorFlow.js.
 * @example
 * import { uninstall } from 'batchnorm/tfjs';
 *
 * uninstall();
 */
export function uninstall(tf?: TensorFlow): void {
  let leaving = instances;
  if (tf !== undefined) {
    const core = checkModule(tf);
    const prototype = layerPrototype(tf);
    leaving = instances.filter((instance) => isOf(instance, core, prototype));
  }
  instances = instances.filter((instance) => !leaving.includes(instance));
  for (const { core, undoLayers } of leaving.reverse()) {
    undoLayers();
    for (const backendName of knownBackends) {
      const stock = unneeded((other) => other.getKernel(kernelName, backendName), core);
      if (stock) replaceKernel(core, backendName, stock as tfc.KernelConfig);
    }
    const stockGradient = unneeded((other) => other.getGradient(kernelName), core);
    if (stockGradient) replaceGradient(core, stockGradient as tfc.GradConfig);
  }
}

/** What stood before in place of what `get` finds, where that is ours and no installation has it any more. */
function unneeded(get: (core: typeof tfc) => object | undefined, core: typeof tfc) {
  const present = get(core);
  return present && !instances.some((instance) => get(instance.core) === present)
    ? stocks.get(present)
    : undefined;
}

function isOf(instance: Instance, core: typeof tfc, prototype: Prototype | undefined): boolean {
  return prototype
    ? instance.prototype === prototype
    : !instance.prototype && instance.core.registerKernel === core.registerKernel;
}

function replaceKernel(core: typeof tfc, backendName: string, kernel: tfc.KernelConfig): void {
  // A second registration over the first would warn.
  core.unregisterKernel(kernelName, backendName);
  core.registerKernel(kernel);
}

function replaceGradient(core: typeof tfc, gradient: tfc.GradConfig): void {
  core.unregisterGradient(kernelName);
  core.registerGradient(gradient);
}

/** @returns what undoes it. */
function replaceLayers(
  core: typeof tfc,
  models: Models,
  prototype: Prototype,
  layerNorm: object | undefined,
  settings: Settings,
): () => void {
  const isReplaced = (backend: string) => isOurs(core.getKernel(kernelName, backend));
  const undoes = [
    followContainers(models, prototype),
    followMasks(Object.getPrototypeOf(prototype) as object),
    replace(prototype, 'call', ({ value, ...rest }) => ({
      ...rest,
      value: marked(fusedCall(core, value as Call, isReplaced, settings), settings),
    })),
    replace(layerNorm, 'call', ({ value, ...rest }) => ({
      ...rest,
      value: layerNormCall(core, value, isReplaced),
    })),
  ];
  return () => {
    for (const undo of undoes) undo();
  };
}

function checkModule(tf: TensorFlow): typeof tfc {
  const names = [
    'registerKernel',
    'unregisterKernel',
    'getKernel',
    'registerGradient',
    'unregisterGradient',
    'getGradient',
    'engine',
    'backend',
    'getBackend',
    'customGrad',
    'reshape',
    'tidy',
  ];
  const members = (typeof tf === 'object' && tf !== null ? tf : {}) as unknown as Record<string, unknown>;
  if (names.some((name) => typeof members[name] !== 'function'))
    throw typeError('tf', "be the module of TensorFlow.js 4 (import * as tf from '@tensorflow/tfjs')", tf);
  return tf as unknown as typeof tfc;
}

/** The class of `tf.layers.batchNormalization`, which TensorFlow.js does not export. */
function layerPrototype(tf: TensorFlow): Prototype | undefined {
  const { layers } = tf as { layers?: { batchNormalization?: (args: object) => BatchNormalization } };
  return prototypeOf(layers?.batchNormalization) as Prototype | undefined;
}

/** The same of `tf.layers.layerNormalization`. */
function layerNormPrototype(tf: TensorFlow): object | undefined {
  const { layers } = tf as { layers?: { layerNormalization?: (args: object) => LayerNormalization } };
  return prototypeOf(layers?.layerNormalization);
}

function prototypeOf(make: ((args: object) => object) | undefined): object | undefined {
  // A name of its own: TensorFlow.js counts the layers that have none, and names the weights of models after that.
  const layer = make?.({ name: 'batchnorm' });
  return layer && (Object.getPrototypeOf(layer) as object);
}
