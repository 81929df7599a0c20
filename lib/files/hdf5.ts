// HDF5 files as trees of groups and datasets, by way of h5wasm. Runs in hdf5-worker.ts alone.
import fs from 'node:fs';
import { basename, resolve } from 'node:path';
import { abridged, abridgedName } from './abridged.js';
import type { Parameter } from './entries.js';
import { mostChannels, ValueBudget } from './entries.js';
import { invalidFile, tooLarge, unsupportedFile } from './failures.js';
import { mostDepth } from './json.js';
import { type Hdf5Library, loadHdf5 } from './peers.js';
import type { StoredValues } from './tensors.js';

/** More groups and datasets than a model has; groups that contain themselves have more. */
const mostObjects = 100_000;

type Module = Awaited<Hdf5Library['ready']>;
type File = InstanceType<Hdf5Library['File']>;

/** An open file. */
export class Hdf5 {
  readonly #library: Hdf5Library;
  readonly #module: Module;
  readonly #file: File;
  /** Paths that lead through no link. */
  readonly #own = new Set<string>();
  #objects = 0;
  readonly #budget = new ValueBudget();

  private constructor(library: Hdf5Library, module: Module, file: File) {
    this.#library = library;
    this.#module = module;
    this.#file = file;
  }

  /**
   * Calls `use` with the file at a path, once in a thread: it is not closed, for after a trap that may never come back.
   *
   * @throws {Error} of this library for whatever h5wasm throws.
   */
  static async open<T>(path: string, use: (file: Hdf5) => T): Promise<T> {
    const library = await loadHdf5();
    const module = await library.ready;
    // Otherwise what is wrong with a file is printed.
    module.activate_throwing_error_handler();
    confineTo(path);
    return use(
      new Hdf5(
        library,
        module,
        guarded('file', () => new library.File(path, 'r')),
      ),
    );
  }

  /** What a group has, in order; nothing for what is no group. */
  keys(path: string): string[] {
    return guarded(path, () => {
      const group = this.#get(path);
      return group instanceof this.#library.Group ? group.keys() : [];
    });
  }

  /** A text, or undefined where there is none. */
  text(path: string, name: string): string | undefined {
    return guarded(path, () => {
      const object = this.#get(path);
      if (!(object instanceof this.#library.Group) || !Object.hasOwn(object.attrs, name)) return undefined;
      const { metadata } = object.attrs[name];
      if (metadata.total_size > 1) return undefined;
      const { value } = object.attrs[name];
      if (typeof value === 'string') return value;
      return value instanceof Uint8Array ? new TextDecoder().decode(value) : undefined;
    });
  }

  hasAttribute(path: string, name: string): boolean {
    return guarded(path, () => {
      const object = this.#get(path);
      return object instanceof this.#library.Group && Object.hasOwn(object.attrs, name);
    });
  }

  parameter(path: string): Parameter {
    const name = abridgedName(path);
    const dataset = guarded(path, () => this.#get(path));
    if (!(dataset instanceof this.#library.Dataset))
      throw invalidFile(name, 'be a dataset', 'something else');
    const { shape, type, size, littleEndian, virtual_sources } = guarded(path, () => dataset.metadata);
    if (shape === null) throw invalidFile(name, 'have values', 'none');
    return {
      shape,
      read: () => {
        if (type !== this.#module.H5T_class_t.H5T_FLOAT.value || (size !== 4 && size !== 8) || !littleEndian)
          throw unsupportedFile(name, 'be little-endian float32 or float64', `${dataset.dtype}`);
        if (virtual_sources !== undefined && virtual_sources.length > 0)
          throw unsupportedFile(name, 'have its values in the file', 'those of other files');
        const count = shape.reduce((product, dimension) => product * dimension, 1);
        if (count > mostChannels)
          throw tooLarge(name, `have at most ${mostChannels} values`, `shape ${abridged(shape)}`);
        this.#budget.take(name, shape, size);
        const values = guarded(path, () => dataset.value);
        if (values instanceof Float32Array || values instanceof Float64Array) return values as StoredValues;
        throw invalidFile(name, 'have values', 'none');
      },
    };
  }

  /** The paths of everything below a group, groups before what is in them. */
  *walk(path: string, depth = 0): Generator<string> {
    if (depth > mostDepth)
      throw tooLarge(abridgedName(path), `have groups at most ${mostDepth} deep`, 'deeper ones');
    for (const key of this.keys(path)) {
      if (++this.#objects > mostObjects)
        throw tooLarge('file', `have at most ${mostObjects} objects`, 'more');
      const inner = path === '' ? key : `${path}/${key}`;
      yield inner;
      yield* this.walk(inner, depth + 1);
    }
  }

  /** An object of this very file: links could lead to others. */
  #get(path: string) {
    const parts = path === '' ? [] : path.split('/');
    let whole = '';
    for (const part of parts) {
      whole += `/${part}`;
      if (this.#own.has(whole)) continue;
      if (this.#isLink(whole)) return null;
      this.#own.add(whole);
    }
    return this.#file.get(`/${path}`);
  }

  /** Whether the last part of a path is one. */
  #isLink(path: string): boolean {
    try {
      // Of hard links there is neither to be had.
      const { filename } = this.#file.get_external_link(path);
      return filename !== undefined || this.#file.get_link(path) !== null;
    } catch {
      return false;
    }
  }
}

let isConfined = true;

/**
 * From now on h5wasm opens nothing but this file, and what it makes itself: a file can name others in more ways than h5wasm tells of, as
 * external storage and external links. It looks up `fs.openSync` at each opening; that of other threads stays as it is.
 */
function confineTo(path: string): void {
  const { openSync } = fs;
  const own = resolve(path);
  fs.openSync = (other, flags, mode) => {
    const isMade =
      typeof flags === 'number' &&
      (flags & fs.constants.O_EXCL) !== 0 &&
      basename(`${other}`).startsWith('tmpfile_');
    if (isMade || resolve(`${other}`) === own) return openSync(other, flags, mode);
    // HDF5 looks for its plugins, too, whatever the file says.
    isConfined &&= basename(`${other}`) === 'plugin';
    throw Object.assign(new Error('no such file'), { code: 'ENOENT' });
  };
}

function guarded<T>(path: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof Error && 'code' in error) throw error;
    if (!isConfined)
      throw unsupportedFile(abridgedName(path), 'have its values in the file', 'those of other files');
    throw invalidFile(abridgedName(path), 'be HDF5 that h5wasm reads', reasonOf(error), error);
  }
}

/** The innermost line of the trace that HDF5 gives. */
function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : `${error}`;
  return abridged(text.trim().split('\n').at(-1) ?? '');
}
