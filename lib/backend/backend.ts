import type { FloatArray } from '../tensor.js';

/**
 * The passes for one data type over x[outer][channels][inner]. Callers have checked everything: arrays of `T` have
 * outer * channels * inner values, per-channel arrays `channels`. An absent weight is 1, an absent bias 0. Where an array
 * has lost its buffer since, they throw ERR_BATCHNORM_BUFFER_CHANGED, where a result overlaps an input of its size without
 * being in its place, ERR_BATCHNORM_OVERLAP; both before anything is written.
 */
export interface Passes<T extends FloatArray> {
  /** Writes y, mean and the biased variance. y may be x; returns whether it is. */
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
  ): boolean;
  /** Writes y. y may be x; returns whether it is. */
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
  ): boolean;
  /** Writes the gradients that are given. dx may be dy. */
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
    dx: T | undefined,
    dWeight: T | undefined,
    dBias: T | undefined,
  ): void;
  /** An inference with parameters that are copied once. */
  freeze(
    channels: number,
    eps: number,
    weight: T | undefined,
    bias: T | undefined,
    mean: Float64Array,
    variance: Float64Array,
  ): FrozenRun<T>;
}

/** Writes y. y may be x. */
export type FrozenRun<T extends FloatArray> = (outer: number, inner: number, x: T, y: T) => void;

/** One interface, two answers: native.ts and js.ts. Both give the same bits. */
export interface Backend {
  readonly name: 'native' | 'js';
  /** The instruction set in use. */
  readonly isa: string;
  /** Those that could be used here, best first. */
  readonly isas: readonly string[];
  readonly float32: Passes<Float32Array>;
  readonly float64: Passes<Float64Array>;
  /** In place; returns the number of channels whose batch statistics are not finite and were left out. */
  updateRunningStats(
    mean: Float64Array,
    variance: Float64Array,
    channels: number,
    count: number,
    decay: number,
    unbiased: boolean,
    runningMean: Float64Array,
    runningVar: Float64Array,
  ): number;
  /** What traversals follow; no bit of a result does. 0 on the JS backend, which follows nothing. */
  readonly l2Bytes: number;
  /** Results from this size on are written past the caches. */
  streamBytes(): number;
  /** For memory that nobody has touched yet: a hint, without which only time is lost. */
  adviseHugePages(array: FloatArray): void;
  setThreads(count: number): void;
  /** 0 before the first setThreads of the process. */
  threads(): number;
}
