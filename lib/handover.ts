// Memory that another thread may use while JavaScript goes on: shared memory as it is, memory that the caller gives away,
// or a copy (staging.ts). A buffer that the caller keeps could be detached and collected, or shrunk, in mid-operation.

import { backend } from './backend/index.js';
import { dtypes } from './dtype.js';
import { rangeError } from './errors.js';
import { platform } from './platform/node.js';
import { bufferOf, copyInto, extentOf, isResizable, lengthOf, viewOf } from './typed-array.js';
import type { DType, FloatArray } from './types.js';
import { checkKept } from './validate.js';

// Taken when the library is loaded: nobody's replacement sees the buffers, or says what they are.
const { structuredClone } = globalThis;
const { isSharedArrayBuffer } = platform;

/** Whether an array lies in a SharedArrayBuffer. These grow, but never shrink and cannot be detached. */
export function isShared(array: FloatArray): boolean {
  return isSharedArrayBuffer(bufferOf(array));
}

/**
 * Moves the buffer of an array here: the caller's views of it are detached, as by postMessage.
 *
 * @returns the same values in the same memory.
 * @throws RangeError for memory that cannot be moved; then it is the caller's as before.
 */
export function move<T extends FloatArray>(name: string, array: T, dtype: DType): T {
  const buffer = bufferOf(array);
  const refuse = (actual: string, cause?: unknown) =>
    rangeError(
      name,
      'lie in an ArrayBuffer of its own with transfer: true',
      actual,
      'NOT_TRANSFERABLE',
      cause,
    );
  if (isSharedArrayBuffer(buffer)) throw refuse('a SharedArrayBuffer, which is never copied anyway');
  if (isResizable(buffer)) throw refuse('a resizable ArrayBuffer');
  // As the binding would find, too late for its owner.
  const bytes = dtypes[dtype].bytes;
  if (!backend.isAligned(array, bytes))
    throw rangeError(
      name,
      `begin at a multiple of ${bytes} bytes in memory`,
      'an external ArrayBuffer that does not; copy it',
    );
  const { begin } = extentOf(array);
  const length = lengthOf(array);
  const pinned = 'memory that cannot be transferred (a pooled Buffer, WebAssembly memory)';
  let moved: ArrayBuffer;
  try {
    moved = structuredClone(buffer, { transfer: [buffer] });
  } catch (error) {
    throw refuse(pinned, error);
  }
  // Node 20 copies such memory without a word.
  if (length > 0 && lengthOf(array) > 0) throw refuse(pinned);
  return viewOf<T>(dtype, moved, begin, length);
}

/** Writes a result where the caller wants it. */
export function deliver<T extends FloatArray>(result: T, out: T): T {
  if (result === out) return out;
  checkKept('out', out, lengthOf(result));
  copyInto(out, result);
  return out;
}
