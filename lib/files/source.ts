// Bytes that are read piece by piece, from a file or from memory, so that a model of many gigabytes costs what is needed of it.
import { closeSync, constants, fstatSync, openSync, readSync, type Stats, statSync } from 'node:fs';
import { isAbsolute, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { typeError, wordedTypeError } from '../errors.js';
import { newBytes } from '../validate.js';
import { abridged } from './abridged.js';
import { invalidFile } from './failures.js';

/** A file, or its bytes. */
export type FileOrBytes = string | URL | ArrayBuffer | Uint8Array;

export interface Source {
  readonly size: number;
  /** Where it lies on the disk, if it does. */
  readonly path?: string;
  /** @param end at most `size`. */
  read(begin: number, end: number): Uint8Array;
  close(): void;
}

/** Before it is opened, because opening some devices does something. */
function checkRegular(stat: Stats): void {
  if (stat.isFile()) return;
  const kinds = [
    [stat.isDirectory(), 'a directory'],
    [stat.isFIFO(), 'a FIFO'],
    [stat.isSocket(), 'a socket'],
  ] as const;
  const kind = kinds.find(([is]) => is)?.[1] ?? 'a device';
  throw invalidFile('file', 'be a regular file', kind);
}

/** @throws what `node:fs` throws for a file that is not there or may not be read. */
function openFile(path: string): Source {
  checkRegular(statSync(path));
  // In case it has become a FIFO meanwhile, whose opening would wait for a writer; Windows has neither.
  const file = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  try {
    const stat = fstatSync(file);
    checkRegular(stat);
    const { size } = stat;
    return {
      size,
      path,
      read(begin, end) {
        const bytes = newBytes(end - begin);
        for (let filled = 0; filled < bytes.length; ) {
          const count = readSync(file, bytes, filled, bytes.length - filled, begin + filled);
          if (count === 0)
            throw invalidFile('file', `have ${size} bytes as at its opening`, `${begin + filled}`);
          filled += count;
        }
        return bytes;
      },
      close: () => closeSync(file),
    };
  } catch (error) {
    closeSync(file);
    throw error;
  }
}

/** Whether a path is neither that of a folder nor below it. */
export function isOutside(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way === '..' || way.startsWith(`..${sep}`) || isAbsolute(way);
}

export function isBytes(value: unknown): value is ArrayBuffer | Uint8Array {
  return value instanceof ArrayBuffer || value instanceof Uint8Array;
}

export function isPath(value: unknown): value is string | URL {
  return typeof value === 'string' || value instanceof URL;
}

/** @param rule what the file must be. */
export function pathOf(file: string | URL, rule: string): string {
  if (typeof file === 'string') return file;
  try {
    return fileURLToPath(file);
  } catch {
    throw wordedTypeError('file', rule, abridged(file.href));
  }
}

export function openSource(file: FileOrBytes): Source {
  if (isPath(file)) return openFile(pathOf(file, 'be a path, a file: URL, a Uint8Array or an ArrayBuffer'));
  if (!isBytes(file)) throw typeError('file', 'be a path, a file: URL, a Uint8Array or an ArrayBuffer', file);
  const bytes = file instanceof Uint8Array ? file : new Uint8Array(file);
  return { size: bytes.length, read: (begin, end) => bytes.subarray(begin, end), close() {} };
}
