import { randomUUID } from 'node:crypto';
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';

/** Writes beside the file and renames, so that a reader finds the old file or the new one, never a part. */
export function replaceFile(path: string, bytes: Uint8Array): void {
  // Another thread or process may write the same file now.
  const temporary = `${path}.${randomUUID()}.tmp`;
  const file = openSync(temporary, 'wx');
  try {
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
