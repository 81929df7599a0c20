// What a forward leaves to the backward that goes back through it, and how the tensor that it returned leads there.
import { type Arithmetic, dtypes } from './dtype.js';
import { stateError, typeError } from './errors.js';
import type { Groups } from './ghost.js';
import { type GradientSums, sumsError } from './gradient-sums.js';
import { checkApartFromOwn, type OwnArrays } from './overlap.js';
import type { ReadPresence } from './presence.js';
import type { Renormed } from './renorm.js';
import type { Origin } from './statistics.js';
import { lengthOf, viewOf } from './typed-array.js';
import type { FloatArray, ParametersOf, Tensor, TensorArray } from './types.js';
import {
  checkLength,
  checkOut,
  checkSameShape,
  type Geometry,
  newMemory,
  type ReadTensor,
} from './validate.js';

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
export interface Pending<T extends TensorArray> {
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
export interface Forward<T extends TensorArray> {
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
  /** Whose statistics it has. */
  readonly origin: Origin;
  readonly held: Held<ParametersOf<T>>;
  /** Values per channel that the statistics are of. */
  readonly count: number | Float64Array;
  /** Whether there was one. */
  readonly residual: boolean;
  /** What a ReLU after it lets through. */
  readonly mask: Uint8Array | undefined;
  /** Which values count, where not all of them do alike. */
  readonly present: ReadPresence | undefined;
  /** Each with its statistics, in the place of those that are held. */
  readonly groups: Groups | undefined;
  readonly renormed: Renormed<ParametersOf<T>> | undefined;
}

/** A result in memory that is used again: the how-manieth. */
export interface Result {
  readonly of: { readonly turn: number };
  readonly turn: number;
}

/** What a tensor that a layer has returned knows. */
interface Mark {
  readonly pending: Pending<TensorArray>;
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
  #mark: Mark | undefined;

  constructor(tensor: object, mark: Mark) {
    super(tensor);
    this.#mark = mark;
  }

  static markOf(value: object): Mark | undefined {
    return #mark in value ? value.#mark : undefined;
  }
}

/** The tensor, which from now on knows the forward that returned it. */
export function marked<T extends TensorArray>(
  tensor: Tensor<T>,
  pending: Pending<T>,
  result: Result | undefined,
): Tensor<T> {
  return new Marked(tensor, {
    pending: pending as unknown as Pending<TensorArray>,
    result,
  }) as unknown as Tensor<T>;
}

/** The forward that returned a tensor; undefined for any other object. */
export function pendingOf<T extends TensorArray>(tensor: object): Pending<T> | undefined {
  return Marked.markOf(tensor)?.pending as unknown as Pending<T> | undefined;
}

/** Whether a layer has ever used its memory again: to ask a tensor costs as much as all other checks together. */
let isAnyReused = false;

/** To be told before any result comes out of reused memory. */
export function noteReuse(): void {
  isAnyReused = true;
}

/** Which result in reused memory a tensor is; undefined where it is none. */
export function resultOf(tensor: object): Result | undefined {
  return isAnyReused ? Marked.markOf(tensor)?.result : undefined;
}

/** The halves of a backward that are wanted. */
interface Halves {
  readonly wantsInput: boolean;
  readonly wantsParameters: boolean;
}

/**
 * A forward that has not been gone back through.
 *
 * @param clears how often the layer has been cleared.
 * @param training whether it is in training now, for the message.
 * @throws Error where there is none, or it is spent, cleared or failed.
 */
export function checkPending<T extends TensorArray>(
  pending: Pending<T> | undefined,
  clears: number,
  training: boolean,
  { wantsInput, wantsParameters }: Halves,
): Pending<T> & { forward: Forward<T> } {
  if (pending?.state === 'failed')
    throw stateError(
      'NO_FORWARD',
      'backward() must follow a forward(), got one that was rejected',
      pending.cause,
    );
  if (pending === undefined || pending.state === 'waiting')
    throw stateError(
      'NO_FORWARD',
      `backward() must follow a forward() in ${training ? 'training' : 'evaluation'}, got none since the layer was made or cleared`,
    );
  if (pending.state === 'cleared' || pending.clears !== clears)
    throw stateError('NO_FORWARD', 'backward() must follow a forward(), got one from before clear()');
  if ((wantsInput && !pending.leavesInput) || (wantsParameters && !pending.leavesParameters))
    throw stateError(
      'NO_FORWARD',
      'backward() must go through each forward() once, got a second time; call forward() again, or give the first backward() retain: true',
    );
  return pending as Pending<T> & { forward: Forward<T> };
}

/** A forward that can be gone back through. */
export type Known<T extends TensorArray> = Forward<T> & { x: T };

/** What goes back through a forward. */
interface Through<T extends TensorArray> {
  /** dy. */
  readonly gradient: ReadTensor<T>;
  /** Where dx is to go. */
  readonly out: T | undefined;
  readonly sums: GradientSums | undefined;
  readonly wantsInput: boolean;
  readonly weightsGrad: boolean;
}

/**
 * The forward, of which all that hangs on it has been checked.
 *
 * @param call what goes back through it.
 * @param arrays those of the layer, which it must not overlap.
 * @throws Error where x is no longer what it was, RangeError and TypeError where dy or out do not fit.
 */
export function checkForward<T extends TensorArray>(
  forward: Forward<T>,
  { gradient, out, sums, wantsInput, weightsGrad }: Through<T>,
  arrays: OwnArrays,
): Known<T> {
  const { x, fingerprint, source } = forward;
  if (sums !== undefined && forward.origin === 'running')
    throw typeError('sums', 'be left out in evaluation', sums);
  if (weightsGrad && forward.present?.given === undefined)
    throw typeError('weightsGrad', 'be left out behind a forward without weights', weightsGrad);
  if (forward.origin === 'moments' && wantsInput && sums === undefined) throw sumsError();
  if (x === undefined)
    throw stateError(
      'INPUT_OVERWRITTEN',
      'backward() must find the x of the last forward(), got one that wrote its result over x; give forward() another out',
    );
  checkSameShape(gradient, 'the last x', forward.shape);
  checkLength({ ...gradient, name: 'x', data: x });
  if (source !== undefined && source.of.turn !== source.turn)
    throw stateError(
      'INPUT_OVERWRITTEN',
      'backward() must find the x of its forward() as it was, got one that a layer with reuse: true has written its next result over',
    );
  if (fingerprint !== undefined && !matches(x, gradient.size, fingerprint))
    throw stateError(
      'INPUT_OVERWRITTEN',
      'backward() must find the x of its forward() as it was, got other values in it; give forward() memory that stays until backward()',
    );
  if (out !== undefined) {
    checkOut(out, gradient);
    checkApartFromOwn('out', out, arrays);
  }
  return forward as Known<T>;
}

const { create, is } = Object;
const { ceil, floor } = Math;
const nothing: Fingerprint = [];
/** Of sets that are made together, at most. */
const slabBytes = 2 ** 16;

/** Eight values from all over an x of `size`, or all of them where it is shorter. */
export function fingerprintOf(x: TensorArray, size: number): Fingerprint {
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
export function matches(x: TensorArray, size: number, fingerprint: Fingerprint): boolean {
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
  #kept: Held<T> | undefined;
  #memory: ArrayBuffer | undefined;
  #used = 0;
  #sets = 1;
  readonly #bytes: number;

  constructor(
    readonly dtype: Arithmetic,
    readonly channels: number,
    readonly weight: boolean,
    readonly bias: boolean,
  ) {
    const parameters = (weight ? 1 : 0) + (bias ? 1 : 0);
    // Whole doubles, so that the next set begins where one may lie.
    this.#bytes = ceil((channels * (16 + parameters * dtypes[dtype].bytes)) / 8) * 8;
  }

  /** @param statistics how many of each: by default one per channel. */
  take(statistics = this.channels): Held<T> {
    if (this.#freeCount === 0) return this.make(statistics);
    const held = this.#free[--this.#freeCount];
    if (lengthOf(held.mean) !== statistics) return this.make(statistics);
    held.isNeeded = true;
    return held;
  }

  /** A set that nobody else has had. */
  make(statistics = this.channels): Held<T> {
    const { channels } = this;
    // Of rows there may be as many as values: each has memory of its own.
    if (statistics !== channels)
      return this.#viewsOf(newMemory(this.#bytes + 16 * (statistics - channels)), 0, statistics);
    if (this.#memory === undefined || this.#used === this.#sets) {
      const most = floor(slabBytes / this.#bytes);
      this.#sets =
        this.#memory === undefined ? 2 : this.#sets * 2 < most ? this.#sets * 2 : most > 1 ? most : 1;
      this.#memory = newMemory(this.#sets * this.#bytes);
      this.#used = 0;
    }
    return this.#viewsOf(this.#memory, this.#used++ * this.#bytes, channels);
  }

  #viewsOf(memory: ArrayBuffer, begin: number, statistics: number): Held<T> {
    const { dtype, channels } = this;
    const bytes = channels * dtypes[dtype].bytes;
    const parameters = begin + 16 * statistics;
    return {
      mean: viewOf('float64', memory, begin, statistics),
      variance: viewOf('float64', memory, begin + 8 * statistics, statistics),
      weight: this.weight ? viewOf(dtype, memory, parameters, channels) : undefined,
      bias: this.bias ? viewOf(dtype, memory, parameters + (this.weight ? bytes : 0), channels) : undefined,
      isNeeded: true,
    };
  }

  /** No forward needs it any more. Enough are kept for a loop of forward and backward to make none. */
  release(held: Held<T>): void {
    held.isNeeded = false;
    if (held !== this.#kept && this.#freeCount < 2) this.#free[this.#freeCount++] = held;
  }

  /** Nobody else gets it before another is kept, whether a forward needs it or not. */
  keep(held: Held<T>): void {
    const before = this.#kept;
    this.#kept = held;
    if (before !== undefined && !before.isNeeded) this.release(before);
  }

  get kept(): Held<T> | undefined {
    return this.#kept;
  }
}
