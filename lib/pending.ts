// What a forward leaves to the backward that goes back through it, and how the tensor that it returned leads there.
import { dtypes } from './dtype.js';
import { viewOf } from './typed-array.js';
import type { DType, FloatArray, Tensor } from './types.js';
import { type Geometry, newMemory } from './validate.js';

/** Statistics and parameters that a forward computes with: never arrays that anybody else may write to. */
export interface Held<T extends FloatArray> {
  readonly mean: Float64Array;
  readonly variance: Float64Array;
  readonly weight: T | undefined;
  readonly bias: T | undefined;
  /** Whether there is a forward that has it and may be gone back through. */
  isNeeded: boolean;
}

/** A few values of x, by which a refilled x is known. */
export type Fingerprint = readonly number[];

/** A forward, from its call on. */
export interface Pending<T extends FloatArray> {
  /** Which layer's it is. */
  readonly owner: object;
  /** Later ones have a larger number. */
  readonly order: number;
  /** Whether the layer was in training mode. */
  readonly mode: boolean;
  state: 'waiting' | 'done' | 'failed' | 'cleared';
  /** Why it has failed. */
  cause: unknown;
  /** How many asynchronous backwards are going back through it now. */
  busy: number;
  /** How often the layer had been cleared when it was done. */
  clears: number;
  /** What has not been gone back through yet. */
  leavesInput: boolean;
  leavesParameters: boolean;
  /** What it was; undefined until it is done, and from when it has been gone back through. */
  forward: Forward<T> | undefined;
}

/** A forward as it is computed, and as backward goes back through it. */
export interface Forward<T extends FloatArray> {
  /** undefined where y was written over it. */
  x: T | undefined;
  /** Whether nobody else can take the memory of x away. */
  readonly isOwn: boolean;
  /** Of an x that others may write to. */
  fingerprint: Fingerprint | undefined;
  /** Of an x that is the result of a layer with `reuse`: whose, and which of its results. */
  readonly source: Result | undefined;
  readonly shape: readonly number[];
  readonly geometry: Geometry;
  /** Whether the statistics are those of x. */
  readonly training: boolean;
  readonly held: Held<T>;
  /** Whether there was one. */
  readonly residual: boolean;
  /** What a ReLU after it lets through. */
  readonly mask: Uint8Array | undefined;
}

/** A result in memory that is used again: the how-manieth. */
export interface Result {
  readonly of: { readonly turn: number };
  readonly turn: number;
}

/** What a tensor that a layer has returned knows. */
interface Origin {
  readonly pending: Pending<FloatArray>;
  readonly result: Result | undefined;
}

// A private field is the cheapest way to hang something on an object that nobody else can see or forge, and it dies
// with the object; a WeakMap costs more than a small batch norm.
const Returned = function (this: unknown, object: object) {
  return object;
} as unknown as new (
  object: object,
) => object;

class Marked extends Returned {
  #origin: Origin | undefined;

  constructor(tensor: object, origin: Origin) {
    super(tensor);
    this.#origin = origin;
  }

  static originOf(value: object): Origin | undefined {
    return #origin in value ? value.#origin : undefined;
  }
}

/** The tensor, which from now on knows the forward that returned it. */
export function marked<T extends FloatArray>(
  tensor: Tensor<T>,
  pending: Pending<T>,
  result: Result | undefined,
): Tensor<T> {
  return new Marked(tensor, {
    pending: pending as unknown as Pending<FloatArray>,
    result,
  }) as unknown as Tensor<T>;
}

/** The forward that returned a tensor; undefined for any other object. */
export function pendingOf<T extends FloatArray>(tensor: object): Pending<T> | undefined {
  return Marked.originOf(tensor)?.pending as unknown as Pending<T> | undefined;
}

/** Whether a layer has ever used its memory again: to ask a tensor costs as much as all other checks together. */
let isAnyReused = false;

/** To be told before any result comes out of reused memory. */
export function noteReuse(): void {
  isAnyReused = true;
}

/** Which result in reused memory a tensor is; undefined where it is none. */
export function resultOf(tensor: object): Result | undefined {
  return isAnyReused ? Marked.originOf(tensor)?.result : undefined;
}

const { create, is } = Object;
const { ceil, floor } = Math;
const nothing: Fingerprint = [];
/** Of sets that are made together, at most. */
const slabBytes = 2 ** 16;

/** Eight values from all over an x of `size`, or all of them where it is shorter. */
export function fingerprintOf(x: FloatArray, size: number): Fingerprint {
  const last = size - 1;
  if (last < 0) return nothing;
  const step = last / 7;
  return [
    x[0],
    x[floor(step)],
    x[floor(2 * step)],
    x[floor(3 * step)],
    x[floor(4 * step)],
    x[floor(5 * step)],
    x[floor(6 * step)],
    x[last],
  ];
}

/** Whether x still has these values, NaN and −0 too. */
export function matches(x: FloatArray, size: number, fingerprint: Fingerprint): boolean {
  const last = size - 1;
  if (last < 0) return true;
  const step = last / 7;
  return (
    is(x[0], fingerprint[0]) &&
    is(x[floor(step)], fingerprint[1]) &&
    is(x[floor(2 * step)], fingerprint[2]) &&
    is(x[floor(3 * step)], fingerprint[3]) &&
    is(x[floor(4 * step)], fingerprint[4]) &&
    is(x[floor(5 * step)], fingerprint[5]) &&
    is(x[floor(6 * step)], fingerprint[6]) &&
    is(x[last], fingerprint[7])
  );
}

/** Sets for a layer's forwards. Those that are not given back are made some at a time: an array of its own costs more than a view. */
export class HeldSets<T extends FloatArray> {
  readonly #free: Record<number, Held<T>> = create(null);
  #freeCount = 0;
  #memory: ArrayBuffer | undefined;
  #used = 0;
  #sets = 1;
  readonly #bytes: number;

  constructor(
    readonly dtype: DType,
    readonly channels: number,
    readonly weight: boolean,
    readonly bias: boolean,
  ) {
    const parameters = (weight ? 1 : 0) + (bias ? 1 : 0);
    // Whole doubles, so that the next set begins where one may lie.
    this.#bytes = ceil((channels * (16 + parameters * dtypes[dtype].bytes)) / 8) * 8;
  }

  take(): Held<T> {
    if (this.#freeCount === 0) return this.make();
    const held = this.#free[--this.#freeCount];
    held.isNeeded = true;
    return held;
  }

  /** A set that nobody else has had. */
  make(): Held<T> {
    const { dtype, channels } = this;
    if (this.#memory === undefined || this.#used === this.#sets) {
      const most = floor(slabBytes / this.#bytes);
      this.#sets =
        this.#memory === undefined ? 2 : this.#sets * 2 < most ? this.#sets * 2 : most > 1 ? most : 1;
      this.#memory = newMemory(this.#sets * this.#bytes);
      this.#used = 0;
    }
    const begin = this.#used++ * this.#bytes;
    const bytes = channels * dtypes[dtype].bytes;
    const parameters = begin + 16 * channels;
    const held: Held<T> = {
      mean: viewOf('float64', this.#memory, begin, channels),
      variance: viewOf('float64', this.#memory, begin + 8 * channels, channels),
      weight: this.weight ? viewOf(dtype, this.#memory, parameters, channels) : undefined,
      bias: this.bias
        ? viewOf(dtype, this.#memory, parameters + (this.weight ? bytes : 0), channels)
        : undefined,
      isNeeded: true,
    };
    return held;
  }

  /** Gives one back: enough are kept for a loop of forward and backward to make none. */
  giveBack(held: Held<T>): void {
    if (this.#freeCount < 2) this.#free[this.#freeCount++] = held;
  }
}
