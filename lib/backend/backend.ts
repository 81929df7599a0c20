import type { FloatArray } from '../types.js';

/**
 * Where a pass computes off the calling thread, this says which operation it is; see operations.ts. The arrays must stay
 * as they are until it has been reported.
 */
export type Slot = number;

/** More than any machine has cores for one process; a bound against typing errors. */
export const maxThreads = 1024;

/** The size of a mask: one bit per value, where they begin, and what a kernel may read behind them; as native/batchnorm.h. */
export function maskBytes(size: number): number {
  return Math.floor(size / 8) + 8;
}

/**
 * The passes for one data type over x[outer][channels][inner]. Callers have checked everything: arrays of `T` have
 * outer * channels * inner values, per-channel arrays `channels`. An absent weight is 1, an absent bias 0, `relu` whether a
 * ReLU follows. Where an array has lost its buffer since, they throw ERR_BATCHNORM_BUFFER_CHANGED, where a result overlaps
 * an input of its size without being in its place, ERR_BATCHNORM_OVERLAP; both before anything is written.
 */
export interface Passes<T extends FloatArray> {
  /**
   * Writes y = activation(normalized x + residual), mean and the biased variance. y may be x; returns whether it is. A
   * mask is filled with what a ReLU behind a residual lets through.
   */
  forwardTraining(
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
  ): boolean;
  /** The same with given statistics. */
  forwardInference(
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
  ): boolean;
  /**
   * Writes the gradients that are given. dx may be dy. Of a residual and a ReLU, `mask` is what the forward pass has
   * filled, or undefined to compute it from the residual; dResidual must then be given.
   */
  backward(
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
  ): void;
  forwardTrainingLater: Later<Passes<T>['forwardTraining']>;
  forwardInferenceLater: Later<Passes<T>['forwardInference']>;
  backwardLater: Later<Passes<T>['backward']>;
  /** The size of the memory that freeze fills. */
  frozenBytes(channels: number): number;
  /**
   * Prepares an inference with fixed statistics in memory of JavaScript's, which its garbage collector sees and counts. Only
   * the backend knows what lies there, and nobody else may have it.
   */
  freeze(
    channels: number,
    eps: number,
    weight: T | undefined,
    bias: T | undefined,
    mean: Float64Array,
    variance: Float64Array,
    relu: boolean,
    memory: ArrayBuffer,
  ): void;
  /** Writes y from x with what freeze has prepared. y may be x. */
  runFrozen(outer: number, inner: number, memory: ArrayBuffer, x: T, y: T, residual?: T): void;
  runFrozenLater(
    outer: number,
    inner: number,
    memory: ArrayBuffer,
    x: T,
    y: T,
    residual: T | undefined,
    slot: Slot,
  ): void;
}

/** Checks its arguments at once, but computes off the calling thread. */
export type Later<Pass extends (...args: never[]) => unknown> = (
  ...args: [...Parameters<Pass>, slot: Slot]
) => ReturnType<Pass>;

/** An operation on the way. */
export interface Operation {
  /** On this thread, when it has been computed: what the promise becomes. May throw. */
  finish: () => unknown;
  resolve: (value: unknown) => void;
  reject: (reason: unknown) => void;
  /** Lets go of the signal, if there is one. */
  unlisten: (() => void) | undefined;
  /** What the operation reads and writes, which must stay alive until it has been reported. */
  arrays: unknown;
}

/**
 * What operations.ts knows of those on the way. Records without a prototype: what lies here keeps memory alive that threads
 * work on, so that nobody else may come between, by a method or a setter of Array.prototype.
 */
export interface OnTheWay {
  readonly bySlot: Record<Slot, Operation | undefined>;
  /** Slots that have been given out at some time. */
  slots: number;
  /** Those of them that are free: as many as `free`, from 0 on. */
  readonly freeSlots: Record<number, Slot>;
  free: number;
  /** Whether onFinished has been called. */
  isHeard: boolean;
}

export function nothingOnTheWay(): OnTheWay {
  return { bySlot: Object.create(null), slots: 0, freeSlots: Object.create(null), free: 0, isHeard: false };
}

/** Is called when an operation has finished, and then not again before takeFinished has found none. */
export type FinishedHandler = () => void;

/** One interface, two answers: native.ts and wasm.ts. Both give the same bits. */
export interface Backend {
  readonly name: 'native' | 'wasm';
  /** The instruction set in use. */
  readonly isa: string;
  /** Those that could be used here, best first. */
  readonly isas: readonly string[];
  readonly float32: Passes<Float32Array>;
  readonly float64: Passes<Float64Array>;
  /**
   * In place; returns the number of channels whose new mean or variance would not be finite and which were left out.
   * `accepted` takes the place of decay where it is given: how many batches each channel is the mean of, which is counted on.
   */
  updateRunningStats(
    mean: Float64Array,
    variance: Float64Array,
    channels: number,
    count: number,
    decay: number,
    unbiased: boolean,
    runningMean: Float64Array,
    runningVar: Float64Array,
    accepted?: Float64Array,
  ): number;
  /** What traversals follow; no bit of a result does. 0 on the WebAssembly backend, which follows nothing. */
  readonly l2Bytes: number;
  /** Results from this size on are written past the caches. */
  streamBytes(): number;
  /** Frees what freeze has filled before it is collected, where that is possible. No operation may be using it. */
  release(memory: ArrayBuffer): void;
  /** Whether an array begins where a pass can take values of so many bytes; only another addon's memory does not. */
  isAligned(array: FloatArray, bytes: number): boolean;
  /** For memory that nobody has touched yet: a hint, without which only time is lost. */
  adviseHugePages(array: FloatArray): void;
  /**
   * Modules can be evaluated twice in a process (a test runner that resets them, two bundles) over one binary, which counts
   * slots and reports them once: so this belongs to the binary.
   */
  readonly onTheWay: OnTheWay;
  /** Once, before the first operation that computes later. */
  onFinished(handler: FinishedHandler): void;
  /** Writes the slots of finished operations, or ~slot of those for which memory ran out; returns how many. */
  takeFinished(slots: Int32Array): number;
  /** Whether an operation had not begun: it never will then, and is not reported. */
  cancel(slot: Slot): boolean;
  setThreads(count: number): void;
  /** 0 before the first setThreads of the process. */
  threads(): number;
}
