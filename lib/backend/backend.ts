import type { HalfDType } from '../dtype.js';
import type { ParametersOf, TensorArray, ValueArray } from '../types.js';
import type { Geometry } from '../validate.js';

/**
 * Where a pass computes off the calling thread, this says which operation it is; see operations.ts. The arrays must stay
 * as they are until it has been reported.
 */
export type Slot = number;

/** More than any machine has cores for one process; a bound against typing errors. */
export const maxThreads = 1024;

/** The size of a mask: one bit per value, where they begin, and what a kernel may read beyond them; as native/batchnorm.h. */
export function maskBytes(size: number): number {
  return Math.floor(size / 8) + 8;
}

/**
 * What a forward pass over x[outer][channels][inner] reads and writes; as `Forward` of native/batchnorm.h. Every property is there,
 * for nothing may be inherited.
 */
export interface ForwardPass<T extends TensorArray> {
  readonly geometry: Geometry;
  readonly eps: number;
  readonly x: T;
  /** May be x. */
  readonly y: T;
  /** One value per channel, as the next three have. An absent weight is 1, an absent bias 0. */
  readonly weight: ParametersOf<T> | undefined;
  readonly bias: ParametersOf<T> | undefined;
  /** Written in training, read in inference. */
  readonly mean: Float64Array;
  /** Biased. */
  readonly variance: Float64Array;
  /** Whether a ReLU follows. */
  readonly relu: boolean;
  /** Added before it. */
  readonly residual: T | undefined;
  /** {@link maskBytes}, to be filled with what a ReLU after a residual lets through. */
  readonly mask: Uint8Array | undefined;
}

/** A pass over x[outer][channels][inner] that finds its statistics: those that training finds. */
export interface MomentsPass<T extends TensorArray> {
  readonly geometry: Geometry;
  readonly x: T;
  readonly mean: Float64Array;
  /** Biased. */
  readonly variance: Float64Array;
}

/** What all passes back through a forward read; as `Backward` of native/batchnorm.h. */
export interface ThroughForward<T extends TensorArray> {
  readonly geometry: Geometry;
  readonly eps: number;
  readonly dy: T;
  readonly x: T;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
  readonly weight: ParametersOf<T> | undefined;
  readonly bias: ParametersOf<T> | undefined;
  readonly relu: boolean;
  readonly residual: T | undefined;
  /** Of a residual and a ReLU, what the forward pass has filled; or undefined to compute it from the residual. */
  readonly mask: Uint8Array | undefined;
  /** Must be there where a mask is computed. */
  readonly dResidual: T | undefined;
}

/** A backward pass; what it writes as `Gradients` of native/batchnorm.h. */
export interface BackwardPass<T extends TensorArray> extends ThroughForward<T> {
  /** Whether mean and variance are those of x, and carry gradient. */
  readonly training: boolean;
  /** The gradients that are asked for. dx may be dy. */
  readonly dx: T | undefined;
  readonly dWeight: ParametersOf<T> | undefined;
  readonly dBias: ParametersOf<T> | undefined;
}

/** The sums that gradients follow from, one value per channel: Σdy and Σdy·(x − mean), of the dy that an activation lets through. */
export interface Sums {
  readonly sumDy: Float64Array;
  readonly sumDyXmu: Float64Array;
}

/** One half of a backward pass in training: the sums, which it writes. */
export interface GradSumsPass<T extends TensorArray> extends ThroughForward<T> {
  readonly sums: Sums;
}

/** The other: dx of sums over `count` values per channel, of this pass or of a larger batch. */
export interface GradInputPass<T extends TensorArray> extends ThroughForward<T> {
  readonly sums: Sums;
  readonly count: number;
  /** May be dy. */
  readonly dx: T;
}

/** Which values count, and how much; as `Presence` of native/presence.h. */
export interface Presence {
  /** Of each of outer · inner positions, none below 0; undefined for 1 everywhere. */
  readonly weights: Float64Array | undefined;
  /** Whether a NaN in x is a missing value, which counts nothing. */
  readonly missing: boolean;
  /** Whether y of a missing value is that of the mean. */
  readonly impute: boolean;
  /** Whether y is 0 where the weight is 0, and lets no gradient through. */
  readonly zero: boolean;
}

/** A pass that finds the statistics of what counts: all 0 in a channel where nothing does. */
export interface MomentsOfPresentPass<T extends TensorArray> extends MomentsPass<T> {
  readonly presence: Presence;
  /** The sums of the weights, and of their squares. */
  readonly count: Float64Array;
  readonly squares: Float64Array;
}

/** An inference that is another one where `impute` or `zero` is true. */
export interface InferPresentPass<T extends TensorArray> extends ForwardPass<T> {
  readonly presence: Presence;
}

/** What goes back through a forward of values of which not all count alike. */
export interface ThroughPresent<T extends TensorArray> extends ThroughForward<T> {
  readonly presence: Presence;
  readonly sums: Sums;
}

/** The sums, which it writes. */
export interface GradSumsOfPresentPass<T extends TensorArray> extends ThroughPresent<T> {
  /** With `impute` the gradient of the bias. */
  readonly sumBias: Float64Array | undefined;
}

/** dx of sums over `counts` of weight per channel; 0, or undefined for all, where the statistics are constants. */
export interface GradInputOfPresentPass<T extends TensorArray> extends ThroughPresent<T> {
  readonly counts: Float64Array | undefined;
  /** May be dy. */
  readonly dx: T | undefined;
}

/** The gradients of the weights, which are there. */
export interface GradWeightsPass<T extends TensorArray> extends ThroughPresent<T> {
  readonly counts: Float64Array;
  readonly dWeights: Float64Array;
}

/**
 * How a pass over rows sees x[samples][places][groups · channels of a group][inner]; as `RowShape` of native/rows.h. `outer` are
 * samples · places, `channels` those of all groups.
 */
export interface RowGeometry extends Geometry {
  readonly samples: number;
  /** Of a sample, before its channels. */
  readonly places: number;
  readonly groups: number;
}

/** The size of a mask of such a pass: where the channels are not the second axis each sample has one of its own. */
export function rowMaskBytes({ samples, places, channels, inner }: RowGeometry): number {
  const ofSample = places * channels * inner;
  return places > 1 ? samples * maskBytes(ofSample) : maskBytes(samples * ofSample);
}

/** A forward pass over rows, each with statistics of its own: mean and variance have one value per row. */
export interface RowForwardPass<T extends TensorArray> extends Omit<ForwardPass<T>, 'geometry' | 'y'> {
  readonly geometry: RowGeometry;
  /** Whether the mean is subtracted; else mean is 0, and the variance the mean square. */
  readonly centred: boolean;
  /** undefined for the statistics alone. */
  readonly y: T | undefined;
}

/** The backward pass behind it. */
export interface RowBackwardPass<T extends TensorArray>
  extends Omit<BackwardPass<T>, 'geometry' | 'training'> {
  readonly geometry: RowGeometry;
  readonly centred: boolean;
}

/**
 * The passes for one data type. Callers have checked everything. Where an array has lost its buffer since, they throw
 * ERR_BATCHNORM_BUFFER_CHANGED, where a result overlaps an input of its size without being in its place,
 * ERR_BATCHNORM_OVERLAP; both before anything is written.
 */
export interface Passes<T extends TensorArray> {
  /** Writes y = activation(normalized x + residual), mean and the biased variance. Returns whether y is x. */
  forwardTraining(pass: ForwardPass<T>): boolean;
  /** The same with given statistics. */
  forwardInference(pass: ForwardPass<T>): boolean;
  /** Writes mean and variance. */
  moments(pass: MomentsPass<T>): void;
  /** Writes the gradients that are given. */
  backward(pass: BackwardPass<T>): void;
  /** Writes the sums. */
  gradSums(pass: GradSumsPass<T>): void;
  /** Writes dx, and dResidual where it is given. */
  gradInput(pass: GradInputPass<T>): void;
  /** The gradients of weight and bias that follow from sums, those that are given. */
  gradParameters(
    channels: number,
    eps: number,
    mean: Float64Array,
    variance: Float64Array,
    sums: Sums,
    dWeight: ParametersOf<T> | undefined,
    dBias: ParametersOf<T> | undefined,
  ): void;
  momentsOfPresent(pass: MomentsOfPresentPass<T>): void;
  inferPresent(pass: InferPresentPass<T>): boolean;
  gradSumsOfPresent(pass: GradSumsOfPresentPass<T>): void;
  gradInputOfPresent(pass: GradInputOfPresentPass<T>): void;
  gradWeights(pass: GradWeightsPass<T>): void;
  /** The place of the first NaN in x that has weight; the size of x where there is none. */
  findMissing(geometry: Geometry, x: T, weights: Float64Array | undefined): number;
  momentsOfPresentLater(pass: MomentsOfPresentPass<T>, slot: Slot): void;
  inferPresentLater(pass: InferPresentPass<T>, slot: Slot): boolean;
  gradSumsOfPresentLater(pass: GradSumsOfPresentPass<T>, slot: Slot): void;
  gradInputOfPresentLater(pass: GradInputOfPresentPass<T>, slot: Slot): void;
  gradWeightsLater(pass: GradWeightsPass<T>, slot: Slot): void;
  forwardTrainingLater(pass: ForwardPass<T>, slot: Slot): boolean;
  forwardInferenceLater(pass: ForwardPass<T>, slot: Slot): boolean;
  momentsLater(pass: MomentsPass<T>, slot: Slot): void;
  backwardLater(pass: BackwardPass<T>, slot: Slot): void;
  gradSumsLater(pass: GradSumsPass<T>, slot: Slot): void;
  gradInputLater(pass: GradInputPass<T>, slot: Slot): void;
  /** Writes y, where it is given, and mean and variance of each row. Returns whether y is x. */
  forwardRows(pass: RowForwardPass<T>): boolean;
  forwardRowsLater(pass: RowForwardPass<T>, slot: Slot): boolean;
  /** Writes the gradients that are given. */
  backwardRows(pass: RowBackwardPass<T>): void;
  backwardRowsLater(pass: RowBackwardPass<T>, slot: Slot): void;
  /** The size of the memory that freeze fills. */
  frozenBytes(channels: number): number;
  /**
   * Prepares an inference with fixed statistics in memory of JavaScript's, which its garbage collector sees and counts. Only
   * the backend knows what lies there, and nobody else may have it.
   */
  freeze(
    channels: number,
    eps: number,
    weight: ParametersOf<T> | undefined,
    bias: ParametersOf<T> | undefined,
    mean: Float64Array,
    variance: Float64Array,
    relu: boolean,
    memory: ArrayBuffer,
  ): void;
  /** Writes y from x with what freeze has prepared. y may be x. Whether they are as long as outer, inner and that say is checked here. */
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

/**
 * An inference from any storage type to any other; as `StoredPass` of native/stored.h. Storage types are numbers, those of
 * native/kernels.h.
 */
export interface StoredPass {
  /** The channel axis of x, that of y, the place of the first value of x, its dimensions, and its strides. */
  readonly view: Float64Array;
  /** What freeze of float32 has filled. */
  readonly memory: ArrayBuffer;
  readonly xStorage: number;
  readonly x: ValueArray;
  readonly yStorage: number;
  /** May be x, where they lie alike. */
  readonly y: ValueArray;
  /** With which missing values are as if they were the mean; undefined where they stay. */
  readonly bias: Float32Array | undefined;
  readonly residualStorage: number;
  /** Lies as y does. */
  readonly residual: ValueArray | undefined;
}

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

/** Between a type of 16 bits and float32; arrays are of the same length. */
export interface Conversions {
  /** Exactly. */
  widen(dtype: HalfDType, from: Uint16Array, to: Float32Array): void;
  /** To nearest even; what is beyond the range becomes infinite, NaN stays NaN. */
  narrow(dtype: HalfDType, from: Float32Array, to: Uint16Array): void;
}

/**
 * MPI as the binary has it, on the main thread alone. What goes wrong is an Error with the reason, of the loader or MPI's own,
 * as its message.
 */
export interface Mpi {
  /** Loads a library, by name or path; returns what it says it is. */
  load(library: string): string;
  /** Whether MPI has been started in this process, by whomever. */
  isStarted(): boolean;
  /** Once, with the library that was loaded. Returns how many members there are. */
  start(): number;
  rank(): number;
  /**
   * Begins an exchange: each member brings `count` values for all others, or so many to each of them. They are read before
   * this returns.
   */
  begin(toEach: boolean, values: Float64Array, count: number): void;
  /** Whether the exchange has ended, within so many milliseconds. */
  wait(milliseconds: number): boolean;
  /** Writes what the exchange that has ended has brought: `count` values of each member, in the order of ranks. */
  take(values: Float64Array): void;
  /** Once: with the exit code of the process, which ends. */
  end(code: number): void;
}

/** One interface, two answers: native.ts and wasm.ts. Both give the same bits. */
export interface Backend {
  readonly name: 'native' | 'wasm';
  /** The instruction set in use. */
  readonly isa: string;
  /** Why it is that one, in words. */
  readonly isaReason: string;
  /** Those that could be used here, best first. */
  readonly isas: readonly string[];
  readonly float32: Passes<Float32Array>;
  readonly float64: Passes<Float64Array>;
  /** Of bits: they compute what those of float32 compute of the widened values, and round the results once. */
  readonly bfloat16: Passes<Uint16Array>;
  readonly float16: Passes<Uint16Array>;
  readonly convert: Conversions;
  runStored(pass: StoredPass): void;
  runStoredLater(pass: StoredPass, slot: Slot): void;
  /** The place in y of the first NaN of an x as {@link StoredPass} has it; its size where there is none. */
  findMissingStored(view: Float64Array, xStorage: number, x: ValueArray): number;
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
  /** Absent where there is no MPI that it could load: on Windows, and on the WebAssembly backend. */
  readonly mpi?: Mpi | undefined;
  /** Results from this size on are written past the caches. */
  streamBytes(): number;
  /** Makes calls of passes whose results are parts of one of `bytes`, which are written as that one would be. No bit changes. */
  inParts<R>(bytes: number, call: () => R): R;
  /** Frees what freeze has filled before it is collected, where that is possible. No operation may be using it. */
  release(memory: ArrayBuffer): void;
  /** Whether an array begins where a pass can take values of so many bytes; only another addon's memory does not. */
  isAligned(array: ValueArray, bytes: number): boolean;
  /** For memory that nobody has touched yet: a hint, without which only time is lost. */
  adviseHugePages(array: ValueArray): void;
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
