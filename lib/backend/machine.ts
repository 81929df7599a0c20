// The module and its memory, into which arrays are copied and results out of it. What is of 16 bits is float32 in there.
import { arithmeticOf, dtypeNamed, dtypes, type HalfDType, isHalf } from '../dtype.js';
import { rangeError, stateError } from '../errors.js';
import {
  byteLengthOf,
  bytesOf,
  copyInto,
  lengthOf,
  partOf,
  typedArrayType,
  viewOf,
  viewOfBytes,
} from '../typed-array.js';
import type { DType, TensorArray, ValueArray } from '../types.js';
import { conversions } from './convert.js';
import type { Prepared } from './turns.js';

const { apply } = Reflect;

/** An address in the memory of the module; 0 for an array that is absent. */
export type Pointer = number;

export interface Exports {
  readonly memory: WebAssembly.Memory;
  _initialize(): void;
  /** 0 where there is no more memory. */
  allocate(bytes: number): Pointer;
  release(memory: Pointer): void;
  updateRunningStats(...args: number[]): number;
  widen(...args: number[]): void;
  narrow(...args: number[]): void;
  runStored(...args: number[]): void;
  findMissingStored(...args: number[]): number;
}

export type PassName =
  | 'forwardTraining'
  | 'forwardInference'
  | 'moments'
  | 'backward'
  | 'gradSums'
  | 'gradInput'
  | 'gradParameters'
  | 'momentsOfPresent'
  | 'inferPresent'
  | 'gradSumsOfPresent'
  | 'gradInputOfPresent'
  | 'gradWeights'
  | 'findMissing'
  | 'forwardRows'
  | 'backwardRows'
  | 'frozenBytes'
  | 'freeze'
  | 'runFrozen';
export type NumericFunction = (...args: (number | boolean)[]) => number;

export type AnyArray = ValueArray;

/** Of each tensor, what stays in a cache while it is copied in, computed and copied out. */
export const partBytes = 2 ** 17;
/** Arrays begin at lines, as the module's own do. */
const lineBytes = 64;
/** Memory that is kept from call to call. What needs more gets its own, and gives it back to the module, not to the system. */
const keptBytes = 2 ** 24;
const pageBytes = 2 ** 16;
const mostBytes = 2 ** 32 - pageBytes;

export function roundUp(bytes: number): number {
  return Math.ceil(bytes / lineBytes) * lineBytes;
}

export function outOfMemory(what: string, actual: string, cause?: unknown): Error {
  return rangeError(what, 'fit into the memory of WebAssembly', actual, 'OUT_OF_MEMORY', cause);
}

/** The module and its memory, and the room that a call has in it. */
export class Machine {
  readonly #module: WebAssembly.Module;
  #exports: Exports;
  #buffer: ArrayBuffer;
  #kept: Pointer = 0;
  #keptBytes = 0;
  #next = 0;
  /** Of the bits that a call is given. */
  #half: HalfDType | undefined;

  constructor(bytes: Uint8Array) {
    this.#module = new WebAssembly.Module(bytes);
    this.#exports = this.#instantiate();
    this.#buffer = this.#exports.memory.buffer;
  }

  #instantiate(): Exports {
    const exports = new WebAssembly.Instance(this.#module).exports as Exports;
    exports._initialize();
    return exports;
  }

  /** The pass of a dtype. */
  pass(name: PassName, dtype: DType): NumericFunction {
    const { suffix } = dtypes[dtype];
    const full = `${name}${suffix}` as never;
    return (...args) => this.invoke(full, args);
  }

  /** Calls a function of the module. One that runs out of memory leaves it in no state to go on: another takes its place. */
  invoke(name: keyof Exports, args: (number | boolean)[]): number {
    try {
      return apply(this.#exports[name] as unknown as NumericFunction, undefined, args);
    } catch (error) {
      this.#exports = this.#instantiate();
      this.#buffer = this.#exports.memory.buffer;
      this.#kept = 0;
      this.#keptBytes = 0;
      this.#next = 0;
      throw outOfMemory('an operation', 'no more of it', error);
    }
  }

  /**
   * Runs a call with room for so many bytes, each array of which {@link put} or {@link reserve} takes its part.
   *
   * @param dtype of the tensors that are copied in and out.
   */
  within<R>(dtype: DType, bytes: number, use: () => R): R {
    const own = bytes > keptBytes;
    const place = own ? this.#take(bytes) : this.#keep(bytes);
    this.#next = place;
    this.#half = isHalf(dtype) ? dtype : undefined;
    try {
      return use();
    } finally {
      // After a failure there is another memory, in which nothing was taken.
      if (own && this.#next !== 0) this.#exports.release(place);
    }
  }

  #keep(bytes: number): Pointer {
    if (bytes > this.#keptBytes) {
      if (this.#kept !== 0) this.#exports.release(this.#kept);
      this.#kept = 0;
      this.#keptBytes = 0;
      const more = Math.min(keptBytes, 2 ** Math.ceil(Math.log2(Math.max(bytes, pageBytes))));
      this.#kept = this.#take(more);
      this.#keptBytes = more;
    }
    return this.#kept;
  }

  #take(bytes: number): Pointer {
    const place = bytes > mostBytes ? 0 : this.invoke('allocate', [bytes]) >>> 0;
    if (place === 0) throw outOfMemory('an operation', `${bytes} bytes`);
    return place;
  }

  /** Room for an array, or for what of it goes through at once. */
  reserve(array: AnyArray | undefined, bytes?: number): Pointer {
    if (array === undefined) return 0;
    const place = this.#next;
    this.#next += bytesFor(bytes, array);
    return place;
  }

  /** Room for so many bytes. */
  room(bytes: number): Pointer {
    const place = this.#next;
    this.#next += roundUp(bytes);
    return place;
  }

  /** Room for an array with its values in it. */
  put(array: AnyArray | undefined): Pointer {
    const place = this.reserve(array);
    this.copyIn(array, place);
    return place;
  }

  putBytes(memory: ArrayBuffer): Pointer {
    return this.put(viewOfBytes(memory, 0, bytesOf(memory)));
  }

  copyIn(array: AnyArray | undefined, place: Pointer, part?: Part): void {
    if (array !== undefined) this.#copy(array, place, part, false);
  }

  /** Copies a result out. */
  get(array: AnyArray | undefined, place: Pointer, part?: Part): void {
    if (array !== undefined) this.#copy(array, place, part, true);
  }

  /** Into the module, or out of it. */
  #copy(array: AnyArray, place: Pointer, part: Part | undefined, out: boolean): void {
    const length = lengthOf(array);
    const dtype = this.#dtypeOf(array);
    if (part === undefined || part.length === length) {
      this.#move(array, place, length, dtype, out);
      return;
    }
    const values = array as TensorArray;
    const known = dtype as DType;
    const runBytes = part.length * dtypes[arithmeticOf(known)].bytes;
    for (let run = 0; run < part.runs; run++) {
      const outside = partOf(values, known, part.first + run * part.stride, part.length);
      this.#move(outside, place + run * runBytes, part.length, known, out);
    }
  }

  /** undefined for bytes. */
  #dtypeOf(array: AnyArray): DType | undefined {
    const type = typedArrayType(array);
    return type === 'Uint16Array' ? this.#half : dtypeNamed(type);
  }

  #move(outside: AnyArray, place: Pointer, length: number, dtype: DType | undefined, out: boolean): void {
    // A memory that grows loses its buffer. To ask for the buffer takes as long as a small copy.
    if (bytesOf(this.#buffer) === 0) this.#buffer = this.#exports.memory.buffer;
    const buffer = this.#buffer;
    if (dtype !== undefined && isHalf(dtype)) {
      const inside = viewOf<Float32Array>('float32', buffer, place, length);
      if (out) conversions.narrow(dtype, inside, outside as Uint16Array);
      else conversions.widen(dtype, outside as Uint16Array, inside);
      return;
    }
    const inside =
      dtype === undefined ? viewOfBytes(buffer, place, length) : viewOf(dtype, buffer, place, length);
    if (out) copyInto(outside, inside);
    else copyInto(inside, outside);
  }
}

/** The bytes that arrays take together in the module: `each` where that is given, or as many as they have there. */
export function bytesFor(each: number | undefined, ...arrays: (AnyArray | undefined)[]): number {
  let bytes = 0;
  for (let i = 0; i < arrays.length; i++) {
    const array = arrays[i];
    if (array !== undefined) bytes += roundUp(each ?? bytesInside(array));
  }
  return bytes;
}

/** Those of 16 bits are widened. */
function bytesInside(array: AnyArray): number {
  const bytes = byteLengthOf(array);
  return typedArrayType(array) === 'Uint16Array' ? 2 * bytes : bytes;
}

/** What of a tensor goes through the module at once: `runs` runs of `length` neighbouring values. */
export interface Part {
  outer: number;
  /** Its first channel. */
  channel: number;
  channels: number;
  first: number;
  runs: number;
  length: number;
  /** From the beginning of a run to that of the next. */
  stride: number;
}

/** Each array must still be as long as it was when it was checked. */
export function checkLengths(length: number, ...arrays: (AnyArray | undefined)[]): void {
  for (let i = 0; i < arrays.length; i++) {
    const array = arrays[i];
    if (array !== undefined && lengthOf(array) !== length)
      throw stateError(
        'BUFFER_CHANGED',
        'every array must keep its length during a call, got a buffer that was detached or resized',
      );
  }
}

export function now<R>({ result, compute }: Prepared<R>): R {
  compute();
  return result;
}
