// Copies for the time of one operation.
import { dtypes } from './dtype.js';
import { isShared } from './handover.js';
import { newResult } from './result.js';
import { bufferOf, byteLengthOf, bytesOf, copyInto, lengthOf, viewOf } from './typed-array.js';
import type { DType, FloatArray } from './types.js';

/** From this size on, memory that has been used costs much less to write than memory that nobody has touched. */
const largeBytes = 2 ** 20;
/** More than are used at once by an operation, so that two in turn find theirs. */
const mostSpare = 8;

const WeakReference = WeakRef;
const { deref } = WeakRef.prototype;
const { apply } = Reflect;

/**
 * What no operation uses, for as long as nobody else needs the room: the garbage collector may have it. Nobody else must see
 * it, and the methods of an array, or setters among its elements, would show it to whoever replaced them.
 */
const spare: Record<number, WeakRef<ArrayBuffer>> = Object.create(null);
let spares = 0;

/** Takes one out; the last takes its place. */
function removeSpare(index: number): void {
  spares--;
  spare[index] = spare[spares];
  delete spare[spares];
}

/** Whether a copy of an array lies in memory that is used again. */
export function isStaged(dtype: DType, length: number): boolean {
  return length * dtypes[dtype].bytes >= largeBytes;
}

/** Memory for an operation; what it holds is of no meaning. */
export function takeStaging<T extends FloatArray>(dtype: DType, length: number): T {
  const bytes = length * dtypes[dtype].bytes;
  for (let i = spares - 1; i >= 0; i--) {
    const buffer: ArrayBuffer | undefined = apply(deref, spare[i], []);
    if (buffer !== undefined && bytesOf(buffer) < bytes) continue;
    removeSpare(i);
    if (buffer !== undefined) return viewOf<T>(dtype, buffer, 0, length);
  }
  return newResult<T>(dtype, length);
}

/**
 * A copy of an array, or the array itself where it is shared. Large ones take memory that an earlier operation has had: the
 * event loop waits for the copy (25 MB: 1.3 ms, in new memory 2 to 15).
 */
export function stage<T extends FloatArray>(array: T, dtype: DType): T {
  if (isShared(array)) return array;
  const length = lengthOf(array);
  const copy = isStaged(dtype, length) ? takeStaging<T>(dtype, length) : newResult<T>(dtype, length);
  copyInto(copy, array);
  return copy;
}

/** Gives memory of {@link stage} or {@link takeStaging} back; what is small or shared is left alone. */
export function unstage(array: FloatArray | undefined): void {
  if (array === undefined || byteLengthOf(array) < largeBytes || isShared(array)) return;
  if (spares === mostSpare) removeSpare(0);
  const buffer = new WeakReference(bufferOf(array) as ArrayBuffer);
  spare[spares++] = buffer;
}
