// Which memory results may share with what a call reads, and with the arrays of a layer.
import { rangeError } from './errors.js';
import { bufferOf, extentOf, shareBuffer } from './typed-array.js';
import type { TensorArray, ValueArray } from './types.js';

const { create, hasOwn } = Object;

/** Arrays by the names that messages give them. */
export type NamedArrays = Readonly<Record<string, ValueArray | null | undefined>>;

/** An array must share no memory with others. */
export function checkApart(name: string, array: ValueArray, others: NamedArrays): void {
  for (const other in others) {
    // What somebody has added to Object.prototype is no array.
    const input = hasOwn(others, other) ? others[other] : undefined;
    const shared = input ? sharedBytes(array, input) : 0;
    if (shared > 0) throw overlapError(name, `not overlap ${other}`, shared);
  }
}

/** The arrays of a layer, beside the buffers that they lie in: an array never lies in another one. */
export interface OwnArrays {
  readonly all: NamedArrays;
  readonly count: number;
  readonly names: Readonly<Record<number, string>>;
  readonly buffers: Readonly<Record<number, ArrayBufferLike>>;
}

/** To ask an array for its buffer takes as long as to copy a hundred values. */
export function ownArraysOf(all: NamedArrays): OwnArrays {
  const names: Record<number, string> = create(null);
  const buffers: Record<number, ArrayBufferLike> = create(null);
  let count = 0;
  for (const name in all) {
    // What somebody has added to Object.prototype is no array.
    const array = hasOwn(all, name) ? all[name] : undefined;
    if (!array) continue;
    names[count] = name;
    buffers[count++] = bufferOf(array);
  }
  return { all, count, names, buffers };
}

/** {@link checkApart} of a layer's own. */
export function checkApartFromOwn(
  name: string,
  array: ValueArray,
  { all, count, names, buffers }: OwnArrays,
): void {
  const buffer = bufferOf(array);
  for (let i = 0; i < count; i++)
    if (buffers[i] === buffer) checkApart(name, array, { [names[i]]: all[names[i]] });
}

/** What is given away takes its buffer along: nothing else may lie there, empty as it may be. */
export function checkElsewhere(name: string, array: TensorArray, others: NamedArrays): void {
  for (const other in others) {
    const kept = hasOwn(others, other) ? others[other] : undefined;
    if (kept && shareBuffer(array, kept))
      throw rangeError(name, `lie elsewhere than ${other} with transfer: true`, 'the same buffer', 'OVERLAP');
  }
}

/**
 * Whether a result begins where an input does. It may then take that input's place; otherwise it must not overlap it.
 * Backends check it, last of all: the native one sees memory that two SharedArrayBuffer objects map.
 */
export function isInPlace(result: ValueArray, name: string, input: ValueArray): boolean {
  const shared = sharedBytes(result, input);
  if (shared === 0) return false;
  if (extentOf(result).begin === extentOf(input).begin) return true;
  throw overlapError('out', `be ${name} itself or not overlap it`, shared);
}

function sharedBytes(a: ValueArray, b: ValueArray): number {
  // Nearly always different buffers: nothing more to ask then.
  if (!shareBuffer(a, b)) return 0;
  const first = extentOf(a);
  const second = extentOf(b);
  return Math.max(0, Math.min(first.end, second.end) - Math.max(first.begin, second.begin));
}

function overlapError(name: string, rule: string, bytes: number): Error {
  return rangeError(name, rule, `views that share ${bytes} bytes`, 'OVERLAP');
}
