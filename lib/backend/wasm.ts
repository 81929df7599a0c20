// The C++ as WebAssembly: the same arithmetic wherever no binary can be loaded. Arrays are copied into the module's memory
// and results out of it; binding/wasm.cpp is the other side.
import { rangeError, stateError } from '../errors.js';
import { platform } from '../platform/node.js';
import type { DType, FloatArray } from '../tensor.js';
import {
  byteLengthOf,
  bytesOf,
  copyInto,
  lengthOf,
  typedArrayType,
  viewOf,
  viewOfBytes,
} from '../typed-array.js';
import { checkApart, isInPlace } from '../validate.js';
import { type Backend, maskBytes, nothingOnTheWay, type Passes } from './backend.js';
import { now, type Prepared, Turns } from './turns.js';
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
/** Memory that is kept from call to call. What needs more gets its own, and gives it back to the module. */
const keptBytes = 2 ** 24;
const pageBytes = 2 ** 16;
const mostBytes = 2 ** 32 - pageBytes;

/** Three coefficients of 8 bytes for each come to less than 2 GiB. */
const mostFrozen = 2 ** 26;

function roundUp(bytes: number): number {
  return Math.ceil(bytes / lineBytes) * lineBytes;
}

/** What the C library would do with files, which it never comes to. */
const noFiles = () => 52;
const imports = {
  wasi_snapshot_preview1: { fd_close: noFiles, fd_seek: noFiles, fd_write: noFiles },
};

function outOfMemory(what: string, actual: string, cause?: unknown): Error {
  return rangeError(what, 'fit into the memory of WebAssembly', actual, 'OUT_OF_MEMORY', cause);
}

/** The module and its memory, and the room that a call has in it. */
class Machine {
  readonly #module: WebAssembly.Module;
  #exports: Exports;
  #kept: Pointer = 0;
  #keptBytes = 0;
  #next = 0;

  constructor(bytes: Uint8Array) {
    this.#module = new WebAssembly.Module(bytes);
    this.#exports = this.#instantiate();
  }

  #instantiate(): Exports {
    const exports = new WebAssembly.Instance(this.#module, imports).exports as Exports;
    exports._initialize();
    return exports;
  }

  /** The pass of a dtype. */
  pass(name: PassName, dtype: DType): NumericFunction {
    const suffix = dtype === 'float32' ? 'Float32' : 'Float64';
    const full = `${name}${suffix}` as never;
    return (...args) => this.invoke(full, args);
  }

  /** Calls a function of the module. One that runs out of memory leaves it in no state to go on: another takes its place. */
  invoke(name: keyof Exports, args: (number | boolean)[]): number {
    try {
      return apply(this.#exports[name] as unknown as NumericFunction, undefined, args);
    } catch (error) {
      this.#exports = this.#instantiate();
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

  /** Room for an array. */
  reserve(array: AnyArray | undefined): Pointer {
    if (array === undefined) return 0;
    const place = this.#next;
    this.#next += roundUp(byteLengthOf(array));
    return place;
  }

  /** Room for an array with its values in it. */
  put(array: AnyArray | undefined): Pointer {
    const place = this.reserve(array);
    if (array !== undefined) copyInto(this.#view(array, place), array);
    return place;
  }

  putBytes(memory: ArrayBuffer): Pointer {
    return this.put(viewOfBytes(memory, 0, bytesOf(memory)));
  }

  /** Copies a result out. */
  get(array: AnyArray | undefined, place: Pointer): void {
    if (array !== undefined) copyInto(array, this.#view(array, place));
  }

  #view(array: AnyArray, place: Pointer): AnyArray {
    const { buffer } = this.#exports.memory;
    const type = typedArrayType(array);
    const length = lengthOf(array);
    return type === 'Uint8Array'
      ? viewOfBytes(buffer, place, length)
      : viewOf(type === 'Float32Array' ? 'float32' : 'float64', buffer, place, length);
  }
}

/** The bytes that arrays take together. */
function bytesFor(...arrays: (AnyArray | undefined)[]): number {
  let bytes = 0;
  for (let i = 0; i < arrays.length; i++) {
    const array = arrays[i];
    if (array !== undefined) bytes += roundUp(byteLengthOf(array));
  }
  return bytes;
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

function passesOf<T extends FloatArray>(dtype: DType, machine: Machine, turns: Turns): Passes<T> {
  const forwardOf =
    (name: 'forwardTraining' | 'forwardInference', pass = machine.pass(name, dtype)) =>
    (
      outer: number,
      channels: number,
      inner: number,
      eps: number,
      x: T,
      y: T,
      weight: T | undefined,
      bias: T | undefined,
      mean: Float64Array,
      variance: Float64Array,
      relu: boolean,
      residual: T | undefined,
      mask: Uint8Array | undefined,
    ): Prepared<boolean> => {
      const size = outer * channels * inner;
      checkLengths(size, x, y, residual);
      checkLengths(channels, weight, bias, mean, variance);
      checkLengths(maskBytes(size), mask);
      const result = isInPlace(y, 'x.data', x);
      if (residual) checkApart('out', y, { 'residual.data': residual });
      const bytes = bytesFor(x, y, weight, bias, mean, variance, residual, mask);
      const compute = () =>
        machine.within(bytes, () => {
          const px = machine.put(x);
          const py = result ? px : machine.reserve(y);
          const pMean = machine.put(mean);
          const pVariance = machine.put(variance);
          const pMask = machine.reserve(mask);
          const pWeight = machine.put(weight);
          const pBias = machine.put(bias);
          const pResidual = machine.put(residual);
          pass(outer, channels, inner, eps, px, py, pWeight, pBias, pMean, pVariance, relu, pResidual, pMask);
          machine.get(y, py);
          machine.get(mask, pMask);
          if (name === 'forwardInference') return;
          machine.get(mean, pMean);
          machine.get(variance, pVariance);
        });
      return { result, compute };
    };

  const backwardPass = machine.pass('backward', dtype);
  const backward = (
    outer: number,
    channels: number,
    inner: number,
    eps: number,
    training: boolean,
    dy: T,
    x: T,
    mean: Float64Array,
    variance: Float64Array,
    weight: T | undefined,
    bias: T | undefined,
    relu: boolean,
    residual: T | undefined,
    mask: Uint8Array | undefined,
    dx: T | undefined,
    dWeight: T | undefined,
    dBias: T | undefined,
    dResidual: T | undefined,
  ): Prepared<void> => {
    const size = outer * channels * inner;
    checkLengths(size, dy, x, residual, dx, dResidual);
    checkLengths(channels, mean, variance, weight, bias, dWeight, dBias);
    checkLengths(maskBytes(size), mask);
    if (dx) {
      isInPlace(dx, 'dy.data', dy);
      checkApart('out', dx, { 'x.data': x, 'residual.data': residual });
    }
    const inputs = bytesFor(dy, x, mean, variance, weight, bias, residual, mask);
    const bytes = inputs + bytesFor(dx, dWeight, dBias, dResidual);
    const compute = () =>
      machine.within(bytes, () => {
        const at = {
          dy: machine.put(dy),
          x: machine.put(x),
          mean: machine.put(mean),
          variance: machine.put(variance),
          weight: machine.put(weight),
          bias: machine.put(bias),
          residual: machine.put(residual),
          mask: machine.put(mask),
          dx: machine.reserve(dx),
          dWeight: machine.reserve(dWeight),
          dBias: machine.reserve(dBias),
          dResidual: machine.reserve(dResidual),
        };
        backwardPass(
          outer,
          channels,
          inner,
          eps,
          training,
          at.dy,
          at.x,
          at.mean,
          at.variance,
          at.weight,
          at.bias,
          relu,
          at.residual,
          at.mask,
          at.dx,
          at.dWeight,
          at.dBias,
          at.dResidual,
        );
        machine.get(dx, at.dx);
        machine.get(dWeight, at.dWeight);
        machine.get(dBias, at.dBias);
        machine.get(dResidual, at.dResidual);
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
    const inPlace = isInPlace(y, 'x.data', x);
    if (residual) checkApart('out', y, { 'residual.data': residual });
    const bytes = bytesFor(x, y, residual) + roundUp(bytesOf(memory));
    const compute = () => {
      if (channels === 0) return;
      machine.within(bytes, () => {
        const pMemory = machine.putBytes(memory);
        const px = machine.put(x);
        const py = inPlace ? px : machine.reserve(y);
        runPass(outer, channels, inner, pMemory, px, py, machine.put(residual));
        machine.get(y, py);
      });
    };
    return { result: undefined, compute };
  };

  return {
    forwardTraining: now(forwardOf('forwardTraining')),
    forwardInference: now(forwardOf('forwardInference')),
    backward: now(backward),
    forwardTrainingLater: turns.later(forwardOf('forwardTraining')),
    forwardInferenceLater: turns.later(forwardOf('forwardInference')),
    backwardLater: turns.later(backward),
    frozenBytes(channels) {
      if (channels > mostFrozen) throw outOfMemory('a frozen layer', `${channels} channels`);
      return frozenBytes(channels);
    },
    freeze(channels, eps, weight, bias, mean, variance, relu, memory) {
      checkLengths(channels, weight, bias, mean, variance);
      const bytes = bytesFor(weight, bias, mean, variance) + roundUp(bytesOf(memory));
      machine.within(bytes, () => {
        const filled = viewOfBytes(memory, 0, bytesOf(memory));
        const pMemory = machine.reserve(filled);
        const pWeight = machine.put(weight);
        const pBias = machine.put(bias);
        freezePass(channels, eps, pWeight, pBias, machine.put(mean), machine.put(variance), relu, pMemory);
        machine.get(filled, pMemory);
      });
    },
    runFrozen: now(runFrozen),
    runFrozenLater: turns.later(runFrozen),
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
      return machine.within(bytesFor(mean, variance, runningMean, runningVar, accepted), () => {
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
