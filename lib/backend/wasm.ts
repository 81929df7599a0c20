// The C++ as WebAssembly: the same arithmetic wherever no binary can be loaded. Arrays are copied into the module's memory
// and results, which take the place of the input, out of it; binding/wasm.cpp is the other side.
import { dtypeNamed, dtypes } from '../dtype.js';
import { rangeError, stateError } from '../errors.js';
import { platform } from '../platform/node.js';
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
import type { DType, FloatArray } from '../types.js';
import { checkApart, isInPlace } from '../validate.js';
import {
  type Backend,
  type BackwardPass,
  type ForwardPass,
  maskBytes,
  nothingOnTheWay,
  type Passes,
} from './backend.js';
import { type Prepared, Turns } from './turns.js';
import { wasmBytes } from './wasm-bytes.js';

const { apply } = Reflect;

/** An address in the memory of the module; 0 for an array that is absent. */
type Pointer = number;

interface Exports {
  readonly memory: WebAssembly.Memory;
  _initialize(): void;
  /** 0 where there is no more memory. */
  allocate(bytes: number): Pointer;
  release(memory: Pointer): void;
  updateRunningStats(...args: number[]): number;
}

type PassName = 'forwardTraining' | 'forwardInference' | 'backward' | 'frozenBytes' | 'freeze' | 'runFrozen';
type NumericFunction = (...args: (number | boolean)[]) => number;

type AnyArray = FloatArray | Uint8Array;

/** Arrays begin at lines, as the module's own do. */
const lineBytes = 64;
/** Memory that is kept from call to call. What needs more gets its own, and gives it back to the module, not to the system. */
const keptBytes = 2 ** 24;
const pageBytes = 2 ** 16;
/** Of each tensor, what stays in a cache while it is copied in, computed and copied out. */
const partBytes = 2 ** 17;
/** Shorter runs cost more to copy one by one than is won. */
const runBytes = 2 ** 12;
/** Of a channel at least so many values, beside which the arithmetic of its coefficients is little. */
const perChannel = 32;
const mostBytes = 2 ** 32 - pageBytes;

/** Three coefficients of 8 bytes for each come to less than 2 GiB. */
const mostFrozen = 2 ** 26;

function roundUp(bytes: number): number {
  return Math.ceil(bytes / lineBytes) * lineBytes;
}

function outOfMemory(what: string, actual: string, cause?: unknown): Error {
  return rangeError(what, 'fit into the memory of WebAssembly', actual, 'OUT_OF_MEMORY', cause);
}

/** The module and its memory, and the room that a call has in it. */
class Machine {
  readonly #module: WebAssembly.Module;
  #exports: Exports;
  #buffer: ArrayBuffer;
  #kept: Pointer = 0;
  #keptBytes = 0;
  #next = 0;

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

  /** Runs a call with room for so many bytes, each array of which {@link put} or {@link reserve} takes its part. */
  within<R>(bytes: number, use: () => R): R {
    const own = bytes > keptBytes;
    const place = own ? this.#take(bytes) : this.#keep(bytes);
    this.#next = place;
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
    if (part === undefined || part.length === length) {
      const inside = this.#view(array, place, length);
      if (out) copyInto(array, inside);
      else copyInto(inside, array);
      return;
    }
    const values = array as FloatArray;
    const dtype = dtypeNamed(typedArrayType(values)) as DType;
    const runBytes = part.length * dtypes[dtype].bytes;
    for (let run = 0; run < part.runs; run++) {
      const inside = this.#view(values, place + run * runBytes, part.length);
      const outside = partOf(values, dtype, part.first + run * part.stride, part.length);
      if (out) copyInto(outside, inside);
      else copyInto(inside, outside);
    }
  }

  #view(array: AnyArray, place: Pointer, length: number): AnyArray {
    // A memory that grows loses its buffer. To ask for the buffer takes as long as a small copy.
    if (bytesOf(this.#buffer) === 0) this.#buffer = this.#exports.memory.buffer;
    const buffer = this.#buffer;
    const dtype = dtypeNamed(typedArrayType(array));
    return dtype === undefined ? viewOfBytes(buffer, place, length) : viewOf(dtype, buffer, place, length);
  }
}

/** The bytes that arrays take together: `each` where that is given, or as many as they have. */
function bytesFor(each: number | undefined, ...arrays: (AnyArray | undefined)[]): number {
  let bytes = 0;
  for (let i = 0; i < arrays.length; i++) {
    const array = arrays[i];
    if (array !== undefined) bytes += roundUp(each ?? byteLengthOf(array));
  }
  return bytes;
}

/** What of a tensor goes through the module at once: `runs` runs of `length` neighbouring values. */
interface Part {
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

/** What may be taken apart. A pass that sums a channel must see all of its samples. */
type Along = 'nothing' | 'samples' | 'channels' | 'both';

/** How a tensor is cut. */
interface Cut {
  /** How many parts there are. */
  count: number;
  /**
   * The bytes of the largest, which is the first. Not those of an array: one that lies in shared memory may have grown since
   * it was checked.
   */
  bytes: number;
  /** Of a part. */
  samples: number;
  channels: number;
  /** Parts side by side that have all the channels. */
  abreast: number;
}

/**
 * Cuts a tensor into parts that stay near while they are copied in, computed and copied out. No bit depends on it: what
 * a channel's sums are made of follows from the other sizes alone (native/partition.h), unless channels lie side by side.
 */
function cutOf(along: Along, outer: number, channels: number, inner: number, valueBytes: number): Cut {
  const near = partBytes / valueBytes;
  if (along === 'nothing' || outer * channels * inner <= 2 * near)
    return { count: 1, bytes: outer * channels * inner * valueBytes, samples: outer, channels, abreast: 1 };
  const fewest = Math.ceil(perChannel / inner);
  const samples =
    along === 'channels' ? outer : Math.min(outer, Math.max(fewest, Math.floor(near / (channels * inner))));
  let block = channels;
  if (along !== 'samples' && inner > 1) {
    const fitting = Math.min(channels, Math.max(1, Math.floor(near / (samples * inner))));
    if (fitting * inner * valueBytes >= runBytes) block = fitting;
  }
  const abreast = Math.ceil(channels / block);
  const count = abreast * Math.ceil(outer / samples);
  return { count, bytes: samples * block * inner * valueBytes, samples, channels: block, abreast };
}

function partAt(index: number, cut: Cut, outer: number, channels: number, inner: number): Part {
  const { abreast } = cut;
  const stride = channels * inner;
  const channel = (index % abreast) * cut.channels;
  const sample = Math.floor(index / abreast) * cut.samples;
  const samples = Math.min(cut.samples, outer - sample);
  const block = Math.min(cut.channels, channels - channel);
  const runs = abreast === 1 ? 1 : samples;
  const length = (abreast === 1 ? samples : 1) * block * inner;
  return {
    outer: samples,
    channel,
    channels: block,
    first: sample * stride + channel * inner,
    runs,
    length,
    stride,
  };
}

/** Each array must still be as long as it was when it was checked. */
function checkLengths(length: number, ...arrays: (AnyArray | undefined)[]): void {
  for (let i = 0; i < arrays.length; i++) {
    const array = arrays[i];
    if (array !== undefined && lengthOf(array) !== length)
      throw stateError(
        'BUFFER_CHANGED',
        'every array must keep its length during a call, got a buffer that was detached or resized',
      );
  }
}

function now<R>({ result, compute }: Prepared<R>): R {
  compute();
  return result;
}

function passesOf<T extends FloatArray>(dtype: DType, machine: Machine, turns: Turns): Passes<T> {
  const valueBytes = dtypes[dtype].bytes;
  /** The place of a channel's parameter, of an array that may be absent. */
  const from = (place: Pointer, channel: number) => place && place + channel * valueBytes;
  const trainingPass = machine.pass('forwardTraining', dtype);
  const inferencePass = machine.pass('forwardInference', dtype);
  const forward = (
    infers: boolean,
    {
      geometry: { outer, channels, inner },
      eps,
      x,
      y,
      weight,
      bias,
      mean,
      variance,
      relu,
      residual,
      mask,
    }: ForwardPass<T>,
  ): Prepared<boolean> => {
    const pass = infers ? inferencePass : trainingPass;
    const size = outer * channels * inner;
    checkLengths(size, x, y, residual);
    checkLengths(channels, weight, bias, mean, variance);
    checkLengths(maskBytes(size), mask);
    const result = isInPlace(y, 'x.data', x);
    if (residual) checkApart('out', y, { 'residual.data': residual });
    // The bits of a mask lie where its values do in the tensor.
    const along = mask ? 'nothing' : infers ? 'both' : 'channels';
    const cut = cutOf(along, outer, channels, inner, valueBytes);
    const bytes = bytesFor(cut.bytes, x, residual) + bytesFor(undefined, weight, bias, mean, variance, mask);
    const compute = () =>
      machine.within(bytes, () => {
        const px = machine.reserve(x, cut.bytes);
        const pResidual = machine.reserve(residual, cut.bytes);
        const pMean = infers ? machine.put(mean) : machine.reserve(mean);
        const pVariance = infers ? machine.put(variance) : machine.reserve(variance);
        const pMask = machine.reserve(mask);
        const pWeight = machine.put(weight);
        const pBias = machine.put(bias);
        for (let i = 0; i < cut.count; i++) {
          const part = partAt(i, cut, outer, channels, inner);
          const { channel } = part;
          machine.copyIn(x, px, part);
          machine.copyIn(residual, pResidual, part);
          pass(
            part.outer,
            part.channels,
            inner,
            eps,
            px,
            px,
            from(pWeight, channel),
            from(pBias, channel),
            pMean + channel * dtypes.float64.bytes,
            pVariance + channel * dtypes.float64.bytes,
            relu,
            pResidual,
            pMask,
          );
          machine.get(y, px, part);
        }
        machine.get(mask, pMask);
        if (infers) return;
        machine.get(mean, pMean);
        machine.get(variance, pVariance);
      });
    return { result, compute };
  };

  const backwardPass = machine.pass('backward', dtype);
  const backward = ({
    geometry: { outer, channels, inner },
    eps,
    training,
    dy,
    x,
    mean,
    variance,
    weight,
    bias,
    relu,
    residual,
    mask,
    dx,
    dWeight,
    dBias,
    dResidual,
  }: BackwardPass<T>): Prepared<void> => {
    const size = outer * channels * inner;
    checkLengths(size, dy, x, residual, dx, dResidual);
    checkLengths(channels, mean, variance, weight, bias, dWeight, dBias);
    checkLengths(maskBytes(size), mask);
    if (dx) {
      isInPlace(dx, 'dy.data', dy);
      checkApart('out', dx, { 'x.data': x, 'residual.data': residual });
    }
    const cut = cutOf(mask ? 'nothing' : 'channels', outer, channels, inner, valueBytes);
    const bytes =
      bytesFor(cut.bytes, dy, x, residual, dResidual) +
      bytesFor(undefined, mean, variance, weight, bias, mask, dWeight, dBias);
    const compute = () =>
      machine.within(bytes, () => {
        const pDy = machine.reserve(dy, cut.bytes);
        const px = machine.reserve(x, cut.bytes);
        const pResidual = machine.reserve(residual, cut.bytes);
        const pDResidual = machine.reserve(dResidual, cut.bytes);
        const pMean = machine.put(mean);
        const pVariance = machine.put(variance);
        const pWeight = machine.put(weight);
        const pBias = machine.put(bias);
        const pMask = machine.put(mask);
        const pDWeight = machine.reserve(dWeight);
        const pDBias = machine.reserve(dBias);
        for (let i = 0; i < cut.count; i++) {
          const part = partAt(i, cut, outer, channels, inner);
          const { channel } = part;
          machine.copyIn(dy, pDy, part);
          machine.copyIn(x, px, part);
          machine.copyIn(residual, pResidual, part);
          backwardPass(
            part.outer,
            part.channels,
            inner,
            eps,
            training,
            pDy,
            px,
            pMean + channel * dtypes.float64.bytes,
            pVariance + channel * dtypes.float64.bytes,
            from(pWeight, channel),
            from(pBias, channel),
            relu,
            pResidual,
            pMask,
            dx ? pDy : 0,
            from(pDWeight, channel),
            from(pDBias, channel),
            pDResidual,
          );
          machine.get(dx, pDy, part);
          machine.get(dResidual, pDResidual, part);
        }
        machine.get(dWeight, pDWeight);
        machine.get(dBias, pDBias);
      });
    return { result: undefined, compute };
  };

  const frozenBytes = machine.pass('frozenBytes', dtype);
  const freezePass = machine.pass('freeze', dtype);
  const runPass = machine.pass('runFrozen', dtype);
  const runFrozen = (
    outer: number,
    inner: number,
    memory: ArrayBuffer,
    x: T,
    y: T,
    residual?: T,
  ): Prepared<void> => {
    const channels = lengthOf(x) === 0 ? 0 : lengthOf(x) / (outer * inner);
    checkLengths(outer * channels * inner, x, residual, y);
    isInPlace(y, 'x.data', x);
    if (residual) checkApart('out', y, { 'residual.data': residual });
    const cut = cutOf('samples', outer, channels, inner, valueBytes);
    const bytes = bytesFor(cut.bytes, x, residual) + roundUp(bytesOf(memory));
    const compute = () => {
      if (channels === 0) return;
      machine.within(bytes, () => {
        const pMemory = machine.putBytes(memory);
        const px = machine.reserve(x, cut.bytes);
        const pResidual = machine.reserve(residual, cut.bytes);
        for (let i = 0; i < cut.count; i++) {
          const part = partAt(i, cut, outer, channels, inner);
          machine.copyIn(x, px, part);
          machine.copyIn(residual, pResidual, part);
          runPass(part.outer, channels, inner, pMemory, px, px, pResidual);
          machine.get(y, px, part);
        }
      });
    };
    return { result: undefined, compute };
  };

  return {
    forwardTraining: (pass) => now(forward(false, pass)),
    forwardInference: (pass) => now(forward(true, pass)),
    backward: (pass) => now(backward(pass)),
    forwardTrainingLater: (pass, slot) => turns.later(forward(false, pass), slot),
    forwardInferenceLater: (pass, slot) => turns.later(forward(true, pass), slot),
    backwardLater: (pass, slot) => turns.later(backward(pass), slot),
    frozenBytes(channels) {
      if (channels > mostFrozen) throw outOfMemory('a frozen layer', `${channels} channels`);
      return frozenBytes(channels);
    },
    freeze(channels, eps, weight, bias, mean, variance, relu, memory) {
      checkLengths(channels, weight, bias, mean, variance);
      const bytes = bytesFor(undefined, weight, bias, mean, variance) + roundUp(bytesOf(memory));
      machine.within(bytes, () => {
        const filled = viewOfBytes(memory, 0, bytesOf(memory));
        const pMemory = machine.reserve(filled);
        const pWeight = machine.put(weight);
        const pBias = machine.put(bias);
        freezePass(channels, eps, pWeight, pBias, machine.put(mean), machine.put(variance), relu, pMemory);
        machine.get(filled, pMemory);
      });
    },
    runFrozen: (outer, inner, memory, x, y, residual) => now(runFrozen(outer, inner, memory, x, y, residual)),
    runFrozenLater: (outer, inner, memory, x, y, residual, slot) =>
      turns.later(runFrozen(outer, inner, memory, x, y, residual), slot),
  };
}

/** @throws Error where the module is not there, or WebAssembly is not to be had: a policy forbids it, or --jitless. */
function load(): Machine {
  if (wasmBytes === undefined)
    throw stateError(
      'WASM_UNAVAILABLE',
      "the WebAssembly backend must have its module, got none: it is made by 'npm run build:wasm'",
    );
  try {
    return new Machine(platform.inflate(wasmBytes));
  } catch (error) {
    throw stateError(
      'WASM_UNAVAILABLE',
      `the WebAssembly module of batchnorm must compile, got ${String(error)} (${platform.wasmForbidden})`,
      error,
    );
  }
}

/** The backend that computes on the calling thread, in WebAssembly. */
export function createWasmBackend(): Backend {
  const machine = load();
  const turns = new Turns();
  return {
    name: 'wasm',
    isa: 'wasm',
    isas: ['wasm'],
    l2Bytes: 0,
    streamBytes: () => 0,
    // The language has no way to do that.
    release: () => {},
    isAligned: () => true,
    adviseHugePages: () => {},
    onTheWay: nothingOnTheWay(),
    onFinished: (handler) => turns.onFinished(handler),
    takeFinished: (slots) => turns.takeFinished(slots),
    cancel: (slot) => turns.cancel(slot),
    float32: passesOf<Float32Array>('float32', machine, turns),
    float64: passesOf<Float64Array>('float64', machine, turns),
    updateRunningStats(mean, variance, channels, count, decay, unbiased, runningMean, runningVar, accepted) {
      checkLengths(channels, mean, variance, runningMean, runningVar, accepted);
      return machine.within(bytesFor(undefined, mean, variance, runningMean, runningVar, accepted), () => {
        const pMean = machine.put(mean);
        const pVariance = machine.put(variance);
        const pRunningMean = machine.put(runningMean);
        const pRunningVar = machine.put(runningVar);
        const pAccepted = machine.put(accepted);
        const rejected = machine.invoke('updateRunningStats', [
          channels,
          pMean,
          pVariance,
          count,
          decay,
          unbiased,
          pRunningMean,
          pRunningVar,
          pAccepted,
        ]);
        machine.get(runningMean, pRunningMean);
        machine.get(runningVar, pRunningVar);
        machine.get(accepted, pAccepted);
        return rejected;
      });
    },
    setThreads() {},
    threads: () => 1,
  };
}
