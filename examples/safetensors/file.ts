import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  writeSync,
} from 'node:fs';
import { decode } from './decode.js';
import { encode } from './encode.js';
import type { Checkpoint } from './tensors.js';

/**
 * Reads a file of at most `mostBytes`, whose size is looked at before any of it is read.
 *
 * @throws {Error} where the file cannot be opened (with the `code` of node:fs), is too large, or is not what its
 * header says.
 */
export function readSafetensors(path: string, mostBytes: number): Checkpoint {
  checkRegular(statSync(path));
  // In case it has become a FIFO meanwhile, whose opening would wait for a writer; Windows has neither.
  const file = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  try {
    const stat = fstatSync(file);
    checkRegular(stat);
    if (stat.size > mostBytes) {
      throw new Error(`file must have at most ${mostBytes} bytes, got ${stat.size}`);
    }
    const bytes = new Uint8Array(stat.size);
    let filled = 0;
    while (filled < bytes.length) {
      const count = readSync(file, bytes, filled, bytes.length - filled, filled);
      if (count === 0)
        throw new Error(`file must have ${bytes.length} bytes as at its opening, got ${filled}`);
      filled += count;
    }
    return decode(bytes);
  } finally {
    closeSync(file);
  }
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
  throw new Error(`file must be a regular file, got ${kind}`);
}

/** Writes beside the file and renames, so that a reader finds the old file or the new one, never a part. */
export function writeSafetensors(path: string, checkpoint: Checkpoint): void {
  const bytes = encode(checkpoint);
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const file = openSync(temporary, 'w');
    try {
      for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
      // Otherwise a crash of the machine may leave the new name on bytes that never reached the disk.
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}
