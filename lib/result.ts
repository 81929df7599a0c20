import { backend } from './backend/index.js';
import type { LayerGradients } from './calls.js';
import type { Result } from './pending.js';
import { shapeOf } from './shapes.js';
import { byteLengthOf, lengthOf, partOf, shareBuffer } from './typed-array.js';
import type { AnyDType, DType, FloatArray, ParametersOf, TensorArray, ValueArray } from './types.js';
import { newArray } from './validate.js';

/**
 * Beyond what an allocator keeps and hands out again, memory is always new: touching it first, 4 KiB at a time, takes
 * several times as long as a batch norm of it (inference of 103 MB on one thread: 55 ms on average, on huge pages 27).
 */
const largeBytes = 32 * 2 ** 20;

/** Zeros for a result that was given no place. Large ones lie on huge pages where the system has them on offer. */
export function newResult<T extends ValueArray>(dtype: AnyDType, size: number): T {
  const result = newArray<T>(dtype, size);
  if (byteLengthOf(result) >= largeBytes) backend.adviseHugePages(result);
  return result;
}

/** The gradients that exist and were asked for. */
export function gradientsOf<T extends TensorArray>(
  shape: readonly number[],
  dx: T | undefined,
  dWeight: ParametersOf<T> | undefined,
  dBias: ParametersOf<T> | undefined,
  dResidual: T | undefined,
  dWeights?: FloatArray,
): LayerGradients<T> {
  // What nearly everybody asks for, as a literal: spreads cost as much as a small batch norm, and an assignment would be the
  // business of a setter that somebody has put on Object.prototype.
  if (dx && dWeight && dBias && !dResidual && !dWeights) return { dx: { data: dx, shape }, dWeight, dBias };
  return {
    ...(dx && { dx: { data: dx, shape } }),
    ...(dWeight && { dWeight }),
    ...(dBias && { dBias }),
    ...(dResidual && { dResidual: { data: dResidual, shape: shapeOf(shape) } }),
    ...(dWeights && { dWeights }),
  };
}

/** Where results go that were given no place: to new memory, or with `reuse` to a buffer that is kept for the next. */
export class ResultBuffer<T extends TensorArray> {
  readonly #reuse: boolean;
  #buffer: T | undefined;
  /** How many results have been in it. */
  #turns = { turn: 0 };

  constructor(reuse: boolean) {
    this.#reuse = reuse;
  }

  /** Never memory of the inputs: a result of this layer may come back as its input. */
  take(dtype: DType, length: number, input: T, second?: T, third?: T): T {
    if (!this.#reuse) return newResult(dtype, length);
    let buffer = this.#buffer;
    if (
      buffer === undefined ||
      lengthOf(buffer) < length ||
      shareBuffer(buffer, input) ||
      (second !== undefined && shareBuffer(buffer, second)) ||
      (third !== undefined && shareBuffer(buffer, third))
    ) {
      buffer = newResult<T>(dtype, length);
      this.#buffer = buffer;
      this.#turns = { turn: 0 };
    }
    return lengthOf(buffer) === length ? buffer : partOf(buffer, dtype, 0, length);
  }

  /** Which result is in the memory that {@link take} gave last, once it is written; undefined where it is not used again. */
  next(): Result | undefined {
    return this.#reuse ? { of: this.#turns, turn: ++this.#turns.turn } : undefined;
  }
}
