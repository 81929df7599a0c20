// Shapes of tensors: checked, copied, compared.
import { describe, describeShape, isArray, rangeError, typeError } from './errors.js';

/** As NumPy and PyTorch have it. */
const maxRank = 64;

const { apply } = Reflect;
const ArrayClass = Array;
const arrayOf = Array.of;

const one = 1;

/** What there are of each rank, to be copied. */
const onesOfRank = Array.from({ length: maxRank + 1 }, (_, rank) => new Array<number>(rank).fill(1));

/**
 * A shape to be filled. It has its elements, so that no setter on Array.prototype is asked for them; literals because nothing
 * else is as fast, and not of constants, whose memory would be copied with the first write.
 */
export function newShape(rank: number): number[] {
  switch (rank) {
    case 1:
      return [one];
    case 2:
      return [one, one];
    case 3:
      return [one, one, one];
    case 4:
      return [one, one, one, one];
    default:
      return apply(arrayOf, ArrayClass, onesOfRank[rank]);
  }
}

/** Whether a shape is this one, of which nothing is to be checked any more. */
export function isShape(given: unknown, known: readonly number[]): boolean {
  if (!isArray(given) || given.length !== known.length) return false;
  for (let i = 0; i < known.length; i++) if (given[i] !== known[i]) return false;
  return true;
}

/** A copy. */
export function shapeOf(shape: readonly number[]): number[] {
  if (shape.length === 2) return [shape[0], shape[1]];
  if (shape.length === 4) return [shape[0], shape[1], shape[2], shape[3]];
  const copy = newShape(shape.length);
  for (let i = 0; i < shape.length; i++) copy[i] = shape[i];
  return copy;
}

/** The length of a proxy of an array may be anything. */
export function isRank(length: unknown): boolean {
  return Number.isInteger(length) && (length as number) >= 1 && (length as number) <= maxRank;
}

export function rankError(name: string, length: unknown): Error {
  return rangeError(name, `have from 1 to ${maxRank} dimensions`, describe(length));
}

/** The shape of a tensor, copied, and its product. */
export function readDimensions(
  name: string,
  shape: unknown,
  dims: unknown,
): { copy: number[]; size: number } {
  const hasDims = shape === undefined && dims !== undefined;
  const given = hasDims ? dims : shape;
  const named = hasDims ? 'dims' : 'shape';
  if (!isArray(given)) throw typeError(`${name}.${named}`, 'be an array of dimensions', given);
  const rank = given.length;
  // Names are put together where they are needed: a string costs as much as all checks of a small tensor.
  if (!isRank(rank)) throw rankError(`${name}.${named}`, rank);
  const copy = newShape(rank);
  let size = 1;
  // The product without the zeros: neither it nor a part of it may pass 2^53.
  let extent = 1;
  for (let i = 0; i < rank; i++) {
    const dimension = given[i];
    if (typeof dimension !== 'number')
      throw typeError(`${name}.${named}[${i}]`, 'be a non-negative safe integer', dimension);
    if (!Number.isSafeInteger(dimension) || dimension < 0)
      throw rangeError(`${name}.${named}[${i}]`, 'be a non-negative safe integer', String(dimension));
    copy[i] = dimension;
    size *= dimension;
    if (dimension > 0) extent *= dimension;
  }
  if (extent > Number.MAX_SAFE_INTEGER)
    throw rangeError(`${name}.${named}`, 'stay below 2^53 values', describeShape(copy));
  return { copy, size };
}
