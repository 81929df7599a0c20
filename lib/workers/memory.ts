// The memory that the members of a group share: what each has put there in which round. A member puts its values of round n
// into the one half of its slot, says so, and waits for the others; it comes back to that half in round n + 2 only, when
// all have come to round n + 1 and so are done with round n: one wait a round is enough.
import { rangeError, stateError } from '../errors.js';
import type { Exchange } from '../member.js';
import { copyInto, partOf, sharedBytesOf, viewOf, viewOfIntegers } from '../typed-array.js';

/** More would be a mistake. */
export const maxSize = 1024;

/** Why a group is at its end. */
export type Broken =
  | { readonly why: 'late'; readonly rank: number; readonly timeout: number }
  | {
      readonly why: 'mismatch';
      /** That of rank 0. */
      readonly first: Exchange;
      /** Who makes another. */
      readonly rank: number;
      readonly other: Exchange;
    };

// 32-bit integers from the beginning of the memory on, those of the ranks last.
const magicAt = 0;
const sizeAt = 1;
const timeoutAt = 2;
/** Counts whatever happens: what members sleep on. */
const bellAt = 3;
/** 0, or why the group is broken and because of whom, as one number: who says so may be ended at any moment. */
const brokenAt = 4;
const ranksAt = 16;

// Of each rank.
const joined = 0;
const round = 1;
const exchanges = 2;
const integersPerRank = 6;

const magic = 0x424e_5731;
const [late, mismatch] = [1, 2] as const;
const bitsOfWhy = 2;

/** Values of a member in each half of its slot: what is longer goes in several rounds. */
export const capacity = 4096;

/** Some tens of microseconds, for members that come at the same time; who waits for longer sleeps. */
const looks = 8000;

const { load, store, add, compareExchange, notify, wait } = Atomics;
// Of ES2024; Node.js has it.
const { waitAsync } = Atomics as unknown as {
  waitAsync?: (array: Int32Array, index: number, value: number) => { value: Promise<string> | string };
};
const { apply } = Reflect;
const { ceil } = Math;
const clock = performance;
const { now } = clock;
const PromiseClass = Promise;
const SharedMemory = globalThis.SharedArrayBuffer;
const startTimer = setTimeout;
const stopTimer = clearTimeout;
/** Where there is no waitAsync. */
const millisecondsBetweenLooks = 1;

const time = (): number => apply(now, clock, []);

/** Pages have workers wait for them, and never wait themselves. */
export function mayWait(memory: SharedArrayBuffer): boolean {
  try {
    // Another value stands there.
    wait(viewOfIntegers(memory, 0, ranksAt), magicAt, 0, 0);
    return true;
  } catch {
    return false;
  }
}

/** Slots begin at a line. */
function bytesBeforeSlots(size: number): number {
  return ceil(((ranksAt + integersPerRank * size) * 4) / 64) * 64;
}

function bytesOfGroup(size: number): number {
  return bytesBeforeSlots(size) + 2 * size * capacity * 8;
}

export function newGroupMemory(size: number, timeout: number): SharedArrayBuffer {
  if (SharedMemory === undefined)
    throw stateError(
      'NO_SHARED_MEMORY',
      'a WorkerGroup must have shared memory, got a page that is not isolated; serve it with Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp',
    );
  const memory = newSharedMemory(bytesOfGroup(size));
  const integers = viewOfIntegers(memory, 0, ranksAt);
  integers[sizeAt] = size;
  integers[timeoutAt] = ceil(timeout);
  integers[magicAt] = magic;
  return memory;
}

function newSharedMemory(bytes: number): SharedArrayBuffer {
  try {
    return new SharedMemory(bytes);
  } catch (error) {
    throw rangeError('size', 'fit into memory', `${bytes} bytes for it`, 'OUT_OF_MEMORY', error);
  }
}

export function isGroupMemory(value: unknown): value is SharedArrayBuffer {
  const bytes = sharedBytesOf(value);
  if (bytes === undefined || bytes < ranksAt * 4) return false;
  const integers = viewOfIntegers(value as SharedArrayBuffer, 0, ranksAt);
  const size = integers[sizeAt];
  return integers[magicAt] === magic && size >= 1 && size <= maxSize && bytes === bytesOfGroup(size);
}

/** A group as one of its members sees it. */
export class GroupMemory {
  readonly size: number;
  readonly #integers: Int32Array;
  readonly #slots: Float64Array;
  #rank = 0;
  /** The one that the member is in. */
  #round = 0;

  constructor(memory: SharedArrayBuffer) {
    this.size = viewOfIntegers(memory, 0, ranksAt)[sizeAt];
    this.#integers = viewOfIntegers(memory, 0, ranksAt + integersPerRank * this.size);
    this.#slots = viewOf('float64', memory, bytesBeforeSlots(this.size), 2 * this.size * capacity);
  }

  /** Whether nobody has had this rank. */
  enter(rank: number): boolean {
    this.#rank = rank;
    return compareExchange(this.#integers, this.#of(rank) + joined, 0, 1) === 0;
  }

  /** Begins the next round with a part of what this member brings: `count` of its values from `first` on. */
  bring({ code, length }: Exchange, values: Float64Array, first: number, count: number): Broken | undefined {
    const broken = this.#broken();
    if (broken !== undefined) return broken;
    this.#round = (this.#round + 1) | 0;
    if (count > 0)
      copyInto(
        partOf(this.#slots, 'float64', this.#slot(this.#rank), count),
        partOf(values, 'float64', first, count),
      );
    const own = this.#exchangeAt(this.#rank);
    this.#integers[own] = code;
    this.#integers[own + 1] = length;
    store(this.#integers, this.#of(this.#rank) + round, this.#round);
    this.#ring();
    return undefined;
  }

  /** Waits until all have begun the round. */
  wait(): Broken | undefined {
    const end = time() + this.#integers[timeoutAt];
    // Who has come stays: only the others are asked for again.
    let missing = this.#missing(0);
    for (let i = 0; missing !== undefined && i < looks; i++) missing = this.#missing(missing);
    for (;;) {
      const bell = load(this.#integers, bellAt);
      missing = this.#missing(missing ?? this.size);
      if (missing === undefined) return this.#different();
      const broken = this.#broken();
      if (broken !== undefined) return broken;
      const left = end - time();
      if (left <= 0) return this.#break(late, missing);
      wait(this.#integers, bellAt, bell, left);
    }
  }

  /** {@link GroupMemory.wait} in turns of the event loop, which it keeps alive. */
  async waitAsync(): Promise<Broken | undefined> {
    const end = time() + this.#integers[timeoutAt];
    let missing: number | undefined = 0;
    for (;;) {
      const bell = load(this.#integers, bellAt);
      missing = this.#missing(missing);
      if (missing === undefined) return this.#different();
      const broken = this.#broken();
      if (broken !== undefined) return broken;
      const left = end - time();
      if (left <= 0) return this.#break(late, missing);
      await this.#rings(bell, left);
    }
  }

  /** What a member has brought in this round: the first `count` values of it. */
  brought(rank: number, count: number): Float64Array {
    return partOf(this.#slots, 'float64', this.#slot(rank), count);
  }

  #of(rank: number): number {
    return ranksAt + integersPerRank * rank;
  }

  #exchangeAt(rank: number): number {
    return this.#of(rank) + exchanges + 2 * (this.#round & 1);
  }

  #exchangeOf(rank: number): Exchange {
    const place = this.#exchangeAt(rank);
    return { code: this.#integers[place], length: this.#integers[place + 1] };
  }

  #slot(rank: number): number {
    return ((this.#round & 1) * this.size + rank) * capacity;
  }

  #ring(): void {
    add(this.#integers, bellAt, 1);
    notify(this.#integers, bellAt);
  }

  /** The first, from this rank on, that has not begun the round. */
  #missing(from: number): number | undefined {
    for (let rank = from; rank < this.size; rank++)
      if (((load(this.#integers, this.#of(rank) + round) - this.#round) | 0) < 0) return rank;
    return undefined;
  }

  /** Every member sees the same and says so, whoever says it first. */
  #different(): Broken | undefined {
    const first = this.#exchangeOf(0);
    for (let rank = 1; rank < this.size; rank++) {
      const other = this.#exchangeOf(rank);
      if (other.code !== first.code || other.length !== first.length) return this.#break(mismatch, rank);
    }
    return undefined;
  }

  #break(why: number, rank: number): Broken | undefined {
    if (compareExchange(this.#integers, brokenAt, 0, why | (rank << bitsOfWhy)) === 0) this.#ring();
    return this.#broken();
  }

  #broken(): Broken | undefined {
    const broken = load(this.#integers, brokenAt);
    if (broken === 0) return undefined;
    const rank = broken >> bitsOfWhy;
    if ((broken & mismatch) === 0) return { why: 'late', rank, timeout: this.#integers[timeoutAt] };
    // All have come to this round, and nobody goes on to the next.
    return { why: 'mismatch', first: this.#exchangeOf(0), rank, other: this.#exchangeOf(rank) };
  }

  /** Resolves when the bell is another, or some time has passed. */
  async #rings(bell: number, milliseconds: number): Promise<void> {
    if (waitAsync === undefined) {
      await new PromiseClass<void>((resolve) => startTimer(resolve, millisecondsBetweenLooks));
      return;
    }
    // Without a timer a process that does nothing else ends.
    let timer: ReturnType<typeof setTimeout> | undefined;
    const timeUp = new PromiseClass<void>((resolve) => {
      timer = startTimer(resolve, milliseconds);
    });
    const { value } = waitAsync(this.#integers, bellAt, bell);
    if (typeof value !== 'string') await firstOf(value, timeUp);
    stopTimer(timer);
  }
}

/** Resolves with the first of two: without a method of promises that somebody may have replaced. */
function firstOf(one: Promise<unknown>, other: Promise<unknown>): Promise<void> {
  return new PromiseClass<void>((resolve) => {
    const tell = async (promise: Promise<unknown>) => {
      await promise;
      resolve();
    };
    tell(one);
    tell(other);
  });
}
