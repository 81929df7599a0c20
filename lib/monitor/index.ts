// What batch norms do while a network learns.
import { BatchNorm } from '../batchnorm.js';
import { describe, isObject, nameOf, rangeError, stateError, typeError } from '../errors.js';
import { FrozenBatchNorm } from '../frozen.js';
import { inspect } from '../inspect.js';
import { platform } from '../platform/node.js';
import { namesOf } from '../properties.js';
import { suggestionFor } from '../suggest.js';
import type { DType, TensorArray, TensorLike } from '../types.js';
import {
  checkInteger,
  checkLength,
  geometryOf,
  type ReadTensor,
  readOptions,
  readShape,
} from '../validate.js';
import { entriesOf } from './entries.js';
import { pageOf } from './page.js';
import type { LayerRecord } from './record.js';
import { tableOf } from './table.js';
import { Watched } from './watched.js';

/** Things by the names of layers: a record, a Map, an array of [name, thing], or an array, in which layers are called by their index. */
export type Named<T> =
  | Readonly<Record<string, T>>
  | ReadonlyMap<string, T>
  | readonly (readonly [name: string, value: T])[]
  | readonly T[];

/** What {@link monitor} takes. */
export interface MonitorOptions {
  /** Look at each so many steps, beginning with the first: an integer from 1 on. Default 1. */
  every?: number;
  /**
   * Where monitor.jsonl and monitor.html are written; made where it is not there, and files of these names are written over. Default:
   * nothing is written. Where it cannot be written, and in pages, which have no files, training goes on: there is one warning
   * (`BATCHNORM_MONITOR`).
   */
  folder?: string;
  /** The heading of the page. Default: 'Batch norms in training'. */
  title?: string;
}

/** What {@link Monitor.toJSON} gives. */
export interface MonitorJSON {
  /** Calls of {@link Monitor.step} so far. */
  steps: number;
  /** Each so many of them were looked at. */
  every: number;
  /** By name. */
  layers: {
    /** As the caller has called it. */
    name: string;
    /** Of the layer. */
    channels: number;
    /** The oldest first, 400 at most: of a long training one for so many looks, the one in which the layer had drifted furthest. */
    records: LayerRecord[];
  }[];
}

const optionNames = namesOf(['every', 'folder', 'title'], () => false);

/** Lines are written so often, and the page so seldom: a training that is ended loses a second of the ones. */
const linesEvery = 1000;
const pageEvery = 10_000;

const lines = 'monitor.jsonl';
const page = 'monitor.html';
const { freeze } = Object;

/**
 * Watches batch norms while a network learns: made by {@link monitor}. It reads what layers show of themselves, and changes nothing.
 *
 * @example
 * import { BatchNorm, monitor } from 'batchnorm';
 *
 * const bn = new BatchNorm(2, { decay: 0 }); // the running statistics are those of the last batch
 * const watch = monitor({ bn });
 * bn.forward({ data: Float32Array.of(1, 7, 3, 7), shape: [2, 2] }); // the second channel does not vary
 * const [{ maxMeanDrift, dead }] = watch.step() ?? [];
 * console.log(maxMeanDrift, dead); // 0 1
 */
export class Monitor {
  readonly #layers: readonly Watched[];
  readonly #every: number;
  readonly #title: string;
  /** Where files go; undefined for nowhere, or no longer. */
  #folder: string | undefined;
  #steps = 0;
  #isClosed = false;
  /** As text they cost most, and least all at once. */
  #unwritten: LayerRecord[] = [];
  #linesAt: number;
  #pageAt: number;

  /** @internal */
  constructor(layers: readonly Watched[], every: number, folder: string | undefined, title: string) {
    this.#layers = layers;
    this.#every = every;
    this.#folder = folder;
    this.#title = title;
    this.#linesAt = platform.now();
    this.#pageAt = this.#linesAt;
    // Files of a training before, with which these lines would be taken for one.
    this.#write(lines, '', false);
  }

  /** Calls of {@link step} so far. */
  get steps(): number {
    return this.#steps;
  }

  /**
   * Looks at each layer, once behind every step of training: behind backward, and before gradients are set to 0.
   *
   * @param outputs what layers gave, by name or in their order, for {@link LayerRecord.notPositive}: tensors that are still what they
   *   were. Layers may be left out.
   * @returns a record per layer; undefined where `every` passes this step over.
   * @throws Error (`ERR_BATCHNORM_DISPOSED`) behind {@link close}; TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for outputs that do not fit the layers.
   * @example
   * import { BatchNorm, monitor } from 'batchnorm';
   *
   * const bn = new BatchNorm(1, { activation: 'relu' });
   * const watch = monitor([bn]);
   * const y = bn.forward({ data: Float32Array.of(1, 2, 3, 6), shape: [4, 1] });
   * const [{ notPositive }] = watch.step([y]) ?? [];
   * console.log(notPositive); // 0.75
   */
  step(outputs?: Named<TensorLike<TensorArray>>): readonly LayerRecord[] | undefined {
    if (this.#isClosed)
      throw stateError('DISPOSED', 'step() must come before close(), got a monitor that is closed');
    const tensors = outputs === undefined ? undefined : this.#readOutputs(outputs);
    this.#steps++;
    if ((this.#steps - 1) % this.#every !== 0) return undefined;
    const records: LayerRecord[] = [];
    for (let i = 0; i < this.#layers.length; i++) {
      const record = freeze(this.#layers[i].look(this.#steps, tensors?.[i]));
      records[i] = record;
      if (this.#folder !== undefined) this.#unwritten[this.#unwritten.length] = record;
    }
    if (this.#folder !== undefined) this.#writeInTime();
    return records;
  }

  /**
   * The latest look as text: a line per layer.
   *
   * @returns lines that end in line feeds.
   * @example
   * import { BatchNorm, monitor } from 'batchnorm';
   *
   * const watch = monitor({ bn: new BatchNorm(8) });
   * watch.step();
   * console.log(watch.table().includes('untrained')); // true
   */
  table(): string {
    return tableOf(this.#layers, this.#steps);
  }

  /**
   * A page with a plot of each measure for each layer, over the steps, all on the same scale; light or dark as the reader has it. It loads nothing.
   *
   * @returns HTML.
   * @example
   * import { BatchNorm, monitor } from 'batchnorm';
   *
   * console.log(monitor({ bn: new BatchNorm(8) }).html().slice(0, 15)); // <!doctype html>
   */
  html(): string {
    return pageOf(this.#title, this.#layers, this.#steps, this.#every);
  }

  /**
   * What plots are made of: the records of each layer.
   *
   * @returns plain objects.
   * @example
   * import { BatchNorm, monitor } from 'batchnorm';
   *
   * const watch = monitor([new BatchNorm(8)]);
   * watch.step();
   * console.log(watch.toJSON().layers[0].records[0].state); // untrained
   */
  toJSON(): MonitorJSON {
    const layers = this.#layers.map(({ name, layer, records }) => ({
      name,
      channels: layer.channels,
      records: records.map((record) => record),
    }));
    return { steps: this.#steps, every: this.#every, layers };
  }

  /**
   * Writes what is not yet written, if there is a folder. Closing it again does nothing; {@link table}, {@link html} and {@link toJSON}
   * go on.
   *
   * @example
   * import { BatchNorm, monitor } from 'batchnorm';
   *
   * const watch = monitor({ bn: new BatchNorm(8) });
   * watch.close();
   * console.log(watch.steps); // 0
   */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#writeLines();
    this.#writePage();
  }

  /**
   * {@link close}, for `using watch = monitor(…)`.
   *
   * @example
   * import { BatchNorm, monitor } from 'batchnorm';
   *
   * const watch = monitor({ bn: new BatchNorm(8) });
   * watch[Symbol.dispose]();
   * console.log(watch.steps); // 0
   */
  [Symbol.dispose](): void {
    this.close();
  }

  /** The {@link table}. @internal */
  [inspect](): string {
    return this.table();
  }

  /** The tensors in the order of the layers. */
  #readOutputs(outputs: unknown): (ReadTensor | undefined)[] {
    const entries = entriesOf('outputs', outputs, 'tensors');
    const tensors: (ReadTensor | undefined)[] = this.#layers.map(() => undefined);
    for (let i = 0; i < entries.length; i++) {
      const { name, value } = entries[i];
      if (value === undefined) continue;
      const place = this.#layers.findIndex((watched) => watched.name === name);
      if (place === -1) {
        const names = this.#layers.map((watched) => watched.name);
        throw rangeError(
          'outputs',
          'have names of layers that are watched',
          `${describe(name)}${/^\d+$/.test(name) ? '' : suggestionFor(name, names)}`,
        );
      }
      const { config, channels } = this.#layers[place].layer;
      const y = readShape(nameOf('outputs', name), value, config.dtype);
      geometryOf(y, config.axis, channels);
      checkLength(y);
      tensors[place] = y;
    }
    return tensors;
  }

  #writeInTime(): void {
    const now = platform.now();
    if (now - this.#linesAt >= linesEvery) this.#writeLines();
    if (now - this.#pageAt >= pageEvery) this.#writePage();
  }

  #writeLines(): void {
    const text = this.#unwritten.map((record) => `${JSON.stringify(record)}\n`).join('');
    this.#unwritten = [];
    this.#linesAt = platform.now();
    if (text !== '') this.#write(lines, text, true);
  }

  #writePage(): void {
    if (this.#folder !== undefined) this.#write(page, this.html(), false);
    this.#pageAt = platform.now();
  }

  /** Once it cannot, never again. */
  #write(name: string, text: string, isMore: boolean): void {
    const folder = this.#folder;
    if (folder === undefined) return;
    try {
      platform.writeText(folder, name, text, isMore);
    } catch (error) {
      this.#folder = undefined;
      this.#unwritten = [];
      const reason = isObject(error) ? (error as Error).message : String(error);
      platform.warn(
        'BATCHNORM_MONITOR',
        `the monitor cannot write ${name} into ${JSON.stringify(folder)}: ${reason}. Training goes on, and nothing more is written.`,
      );
    }
  }
}

/**
 * Watches batch norms while a network learns: how far running statistics are from the batch, dead channels, channels without a gradient,
 * updates that were rejected, and what a ReLU behind them makes 0. It costs some tens of microseconds per layer and step, and changes nothing.
 *
 * @param layers one at least, each under a name of its own. They may be in any mode, and new.
 * @param options `every`, `folder`, `title`.
 * @returns the monitor, whose {@link Monitor.step} is to be called once behind every step.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`) for what
 *   is no layer, no layers, or a name that two have; RangeError (`ERR_BATCHNORM_OUT_OF_MEMORY`).
 * @example
 * import { BatchNorm, monitor } from 'batchnorm';
 *
 * const layers = { bn1: new BatchNorm(3), bn2: new BatchNorm(3) };
 * const watch = monitor(layers);
 * layers.bn1.forward({ data: Float32Array.of(0, 1, 2, 3, 4, 5), shape: [2, 3] });
 * console.log(watch.step()?.map(({ layer, state }) => `${layer}: ${state}`)); // [ 'bn1: training', 'bn2: untrained' ]
 */
export function monitor<D extends DType>(layers: Named<BatchNorm<D>>, options?: MonitorOptions): Monitor {
  const { every = 1, folder, title = 'Batch norms in training' } = readOptions(options, optionNames);
  if (isObject(layers) && (BatchNorm.isLayer(layers) || FrozenBatchNorm.isLayer(layers)))
    throw typeError(
      'layers',
      'be layers by name, or an array of them',
      layers,
      'INVALID_TYPE',
      '; give { name: layer }',
    );
  const entries = entriesOf('layers', layers, 'layers');
  if (entries.length === 0) throw rangeError('layers', 'be one at least', 'none');
  const watched: Watched[] = [];
  for (let i = 0; i < entries.length; i++) {
    const { name, value } = entries[i];
    if (!isObject(value) || !BatchNorm.isLayer(value)) throw layerError(nameOf('layers', name), value);
    watched[i] = new Watched(name, value);
  }
  checkInteger('every', every, 1, Number.MAX_SAFE_INTEGER);
  if (folder !== undefined && typeof folder !== 'string') throw typeError('folder', 'be a string', folder);
  if (typeof title !== 'string') throw typeError('title', 'be a string', title);
  return new Monitor(watched, every, folder, title);
}

function layerError(name: string, value: unknown): Error {
  const isFrozen = isObject(value) && FrozenBatchNorm.isLayer(value);
  const cure = isFrozen ? ' (a FrozenBatchNorm, in which nothing changes)' : '';
  return typeError(name, 'be a BatchNorm', value, 'INVALID_TYPE', cure);
}
