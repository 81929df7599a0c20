// What typed arrays are, asked in a way that no object can forge or answer with code of the caller's: the getters of
// %TypedArray%.prototype. They work for arrays of any realm and cost a nanosecond.
import type { DType, FloatArray } from './tensor.js';

/** The size of a value. */
export const bytesPerValue = { float32: 4, float64: 8 } as const;

type Getter<T> = (this: unknown) => T;

const prototype = Object.getPrototypeOf(Uint8Array.prototype);

function getter<T>(name: string | symbol): Getter<T> {
  return Object.getOwnPropertyDescriptor(prototype, name)?.get as Getter<T>;
}

const type = getter<string | undefined>(Symbol.toStringTag);
const length = getter<number>('length');
const buffer = getter<ArrayBufferLike>('buffer');
const byteOffset = getter<number>('byteOffset');
const byteLength = getter<number>('byteLength');

const { set } = prototype as Float32Array;

/** `target.set(source)`, whatever the caller has made of that method. */
export function copyInto(target: FloatArray, source: FloatArray): void {
  set.call(target, source);
}

/** 'Float32Array' and the like, undefined for anything that is no typed array. */
export function typedArrayType(value: unknown): string | undefined {
  return type.call(value);
}

/** 0 for a detached array. */
export function lengthOf(array: FloatArray | Uint8Array): number {
  return length.call(array);
}

export function bufferOf(array: FloatArray): ArrayBufferLike {
  return buffer.call(array);
}

/** `length` values of a buffer from a byte on, as an array of a data type. */
export function viewOf<T extends FloatArray>(
  dtype: DType,
  memory: ArrayBufferLike,
  begin: number,
  length: number,
): T {
  return new (dtype === 'float32' ? Float32Array : Float64Array)(
    memory as ArrayBuffer,
    begin,
    length,
  ) as FloatArray as T;
}

/** Whether two arrays are views of one buffer object. */
export function shareBuffer(a: FloatArray, b: FloatArray): boolean {
  return bufferOf(a) === bufferOf(b);
}

/** The bytes of its buffer that an array covers. */
export interface Extent {
  begin: number;
  end: number;
}

export function extentOf(array: FloatArray): Extent {
  const begin = byteOffset.call(array);
  return { begin, end: begin + byteLength.call(array) };
}
