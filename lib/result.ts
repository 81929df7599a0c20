import { backend } from './backend/index.js';
import { byteLengthOf } from './typed-array.js';
import type { DType, FloatArray } from './types.js';
import { newArray } from './validate.js';

/**
 * Beyond what an allocator keeps and hands out again, memory is always new: touching it first, 4 KiB at a time, takes
 * several times as long as a batch norm of it (inference of 103 MB on one thread: 55 ms on average, on huge pages 27).
 */
const largeBytes = 32 * 2 ** 20;

/** Zeros for a result that was given no place. Large ones lie on huge pages where the system has them on offer. */
export function newResult<T extends FloatArray>(dtype: DType, size: number): T {
  const result = newArray<T>(dtype, size);
  if (byteLengthOf(result) >= largeBytes) backend.adviseHugePages(result);
  return result;
}
