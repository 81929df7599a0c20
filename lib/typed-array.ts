// Typed arrays, without a method, a getter or a constructor that the caller could have replaced: what the language has for
// them is taken here once, when the library is loaded. Nothing else in lib/ touches more of a typed array than its elements
// (scripts/check-arrays.ts). They are arrays of any realm, and the getters cannot be forged.
import { dtypes } from './dtype.js';
import type { AnyDType, TensorArray, ValueArray } from './types.js';

type AnyArray = ValueArray | Int32Array | Uint32Array;
type Getter<T> = (this: unknown) => T;

const { apply } = Reflect;
const Memory = ArrayBuffer;
const Integers = Int32Array;
const Bytes = Uint8Array;
const Words = Uint32Array;
/** Not every runtime has it. */
const Halves = (globalThis as { Float16Array?: unknown }).Float16Array as Uint16ArrayConstructor | undefined;
const prototype = Object.getPrototypeOf(Uint8Array.prototype);
const { at, fill, set } = prototype as Float32Array;

function getterOf<T>(holder: object, name: string | symbol): Getter<T> {
  return Object.getOwnPropertyDescriptor(holder, name)?.get as Getter<T>;
}

const type = getterOf<string | undefined>(prototype, Symbol.toStringTag);
const length = getterOf<number>(prototype, 'length');
const buffer = getterOf<ArrayBufferLike>(prototype, 'buffer');
const byteOffset = getterOf<number>(prototype, 'byteOffset');
const byteLength = getterOf<number>(prototype, 'byteLength');
const bufferLength = getterOf<number>(ArrayBuffer.prototype, 'byteLength');
const resizable = getterOf<boolean>(ArrayBuffer.prototype, 'resizable');
// Pages that are not isolated have none.
const sharedLength =
  typeof SharedArrayBuffer === 'undefined'
    ? undefined
    : getterOf<number>(SharedArrayBuffer.prototype, 'byteLength');

/** 'Float32Array' and the like, undefined for anything that is no typed array. */
export function typedArrayType(value: unknown): string | undefined {
  return apply(type, value, []);
}

/** 0 for a detached array. */
export function lengthOf(array: AnyArray): number {
  return apply(length, array, []);
}

/** Whether an array has its memory: its buffer is not detached, and not too short by now. An empty one has it as well. */
export function isAttached(array: AnyArray): boolean {
  try {
    apply(at, array, [0]);
    return true;
  } catch {
    return false;
  }
}

/** 0 for a detached array. */
export function byteLengthOf(array: AnyArray): number {
  return apply(byteLength, array, []);
}

export function bufferOf(array: AnyArray): ArrayBufferLike {
  return apply(buffer, array, []);
}

/** 0 for a detached buffer. */
export function bytesOf(memory: ArrayBuffer): number {
  return apply(bufferLength, memory, []);
}

/** undefined for anything that is no SharedArrayBuffer. */
export function sharedBytesOf(memory: unknown): number | undefined {
  if (sharedLength === undefined) return undefined;
  try {
    return apply(sharedLength, memory, []);
  } catch {
    return undefined;
  }
}

export function isResizable(memory: ArrayBuffer): boolean {
  return apply(resizable, memory, []);
}

/**
 * Zeros of a data type.
 *
 * @throws RangeError of the language where there is no memory for them.
 */
export function zeros<T extends ValueArray>(dtype: AnyDType, length: number): T {
  return new dtypes[dtype].Array(length) as ValueArray as T;
}

/** Bytes of 0. */
export function zeroBytes(length: number): Uint8Array {
  return new Bytes(length);
}

/** Integers, all of them 0. */
export function zeroIntegers(length: number): Int32Array {
  return new Integers(length);
}

/** Memory that is no array. */
export function memoryOf(bytes: number): ArrayBuffer {
  return new Memory(bytes);
}

/** `length` values of a buffer from a byte on, as an array of a data type. */
export function viewOf<T extends ValueArray>(
  dtype: AnyDType,
  memory: ArrayBufferLike,
  begin: number,
  length: number,
): T {
  return new dtypes[dtype].Array(memory as ArrayBuffer, begin, length) as ValueArray as T;
}

export function viewOfIntegers(memory: ArrayBufferLike, begin: number, length: number): Int32Array {
  return new Integers(memory as ArrayBuffer, begin, length);
}

export function viewOfBytes(memory: ArrayBufferLike, begin: number, length: number): Uint8Array {
  return new Bytes(memory as ArrayBuffer, begin, length);
}

/** Float32s as the integers that have their bits. */
export function viewOfWords(memory: ArrayBufferLike, begin: number, length: number): Uint32Array {
  return new Words(memory as ArrayBuffer, begin, length);
}

/** Whether there are Float16Arrays here. */
export const hasHalves = Halves !== undefined;

/** The bits of a Float16Array: the same memory, of a length that stays. Of one that has lost its buffer there are none. */
export function bitsOf(array: ValueArray): Uint16Array {
  const length = lengthOf(array);
  return length === 0
    ? zeros('float16', 0)
    : viewOf('float16', bufferOf(array), extentOf(array).begin, length);
}

/** Integers as the plain array of their type: the same memory. A Buffer, and a clamped array, are their bytes. */
export function valuesOf(array: ValueArray, dtype: AnyDType): ValueArray {
  const length = lengthOf(array);
  return length === 0 ? zeros(dtype, 0) : viewOf(dtype, bufferOf(array), extentOf(array).begin, length);
}

/** Bits as a Float16Array, in a runtime that has it: the same memory. */
export function halvesOf(bits: TensorArray): TensorArray {
  return Halves === undefined
    ? bits
    : new Halves(bufferOf(bits) as ArrayBuffer, extentOf(bits).begin, lengthOf(bits));
}

/** `length` values of an array from one on: the same memory. */
export function partOf<T extends ValueArray>(array: T, dtype: AnyDType, first: number, length: number): T {
  return viewOf<T>(dtype, bufferOf(array), extentOf(array).begin + first * dtypes[dtype].bytes, length);
}

/** `target.set(source)`. */
export function copyInto(target: AnyArray, source: AnyArray): void {
  apply(set, target, [source]);
}

/** `array.fill(value)`, and the array. */
export function filled<T extends AnyArray>(array: T, value: number): T {
  apply(fill, array, [value]);
  return array;
}

/** Whether two arrays are views of one buffer object. */
export function shareBuffer(a: ValueArray, b: ValueArray): boolean {
  return bufferOf(a) === bufferOf(b);
}

/** The bytes of its buffer that an array covers. */
export interface Extent {
  begin: number;
  end: number;
}

export function extentOf(array: AnyArray): Extent {
  const begin: number = apply(byteOffset, array, []);
  return { begin, end: begin + byteLengthOf(array) };
}
