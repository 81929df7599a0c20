// What computes off the calling thread: a promise for each operation, and how to take it back.
import type { Operation, Slot } from './backend/backend.js';
import { backend } from './backend/index.js';
import { isObject, rangeError, typeError } from './errors.js';
import { platform } from './platform/node.js';
import { areCallsUntouched, namesOf, propertiesOf } from './properties.js';
import { zeroIntegers } from './typed-array.js';
import { checkBoolean, checkObject } from './validate.js';

const PromiseClass = Promise;
const { onTheWay } = backend;
const { later, now } = platform;
/** Reports that have been taken: as many as `taken`, of which those before `next` have been dealt with. */
const reports = zeroIntegers(256);
let taken = 0;
let next = 0;
/** Copies into `out`, and what promises lead to, may take time: the rest then waits for its turn. */
const millisecondsPerTurn = 1;

/** What finishes while others are heard of waits for the next turn too: the event loop must get on in between. */
function onFinished(): void {
  if (next === taken) {
    next = 0;
    taken = backend.takeFinished(reports);
    if (taken === 0) return;
  }
  later(onFinished);
  const end = now() + millisecondsPerTurn;
  do settle(reports[next++]);
  while (next < taken && now() < end);
}

function settle(report: number): void {
  const slot = report < 0 ? ~report : report;
  const operation = release(slot);
  if (operation === undefined) return;
  try {
    operation.unlisten?.();
    if (report < 0) throw rangeError('an operation', 'fit into memory', 'no more of it', 'OUT_OF_MEMORY');
    operation.resolve(operation.finish());
  } catch (error) {
    operation.reject(error);
  }
}

function release(slot: Slot): Operation | undefined {
  const operation = onTheWay.bySlot[slot];
  if (operation === undefined) return undefined;
  onTheWay.bySlot[slot] = undefined;
  onTheWay.freeSlots[onTheWay.free++] = slot;
  return operation;
}

/** What each signal cancels. One listener for all of it: Node warns of more than ten. */
const listeners = new WeakMap<AbortSignal, { aborts: Set<() => void>; listener: () => void }>();

function listen(signal: AbortSignal, abort: () => void): void {
  const known = listeners.get(signal);
  if (known !== undefined) {
    known.aborts.add(abort);
    return;
  }
  const aborts = new Set<() => void>();
  aborts.add(abort);
  const listener = () =>
    aborts.forEach((each) => {
      each();
    });
  listeners.set(signal, { aborts, listener });
  try {
    signal.addEventListener('abort', listener);
  } catch (error) {
    listeners.delete(signal);
    throw error;
  }
}

function unlisten(signal: AbortSignal, abort: () => void): void {
  const known = listeners.get(signal);
  known?.aborts.delete(abort);
  if (known?.aborts.size !== 0) return;
  listeners.delete(signal);
  signal.removeEventListener('abort', known.listener);
}

/** Options that only asynchronous calls have. */
type AsyncOptions = { signal?: AbortSignal; transfer?: boolean };
const asyncNames = namesOf(['signal', 'transfer'], areCallsUntouched);

/**
 * The options that only asynchronous calls have. To be read before memory is: what a signal of the caller's making has for
 * getters is the caller's code.
 *
 * @throws the signal's reason where it has aborted.
 */
export function readAsync(options: AsyncOptions | undefined): {
  signal: AbortSignal | undefined;
  transfer: boolean;
} {
  if (options === undefined) return { signal: undefined, transfer: false };
  checkObject('options', options);
  const { signal, transfer = false } = propertiesOf<AsyncOptions>(options, asyncNames);
  if (signal !== undefined) checkSignal(signal);
  return { signal, transfer: checkBoolean('transfer', transfer) };
}

/** Signals of other realms and of libraries that stand in for them are as good. */
function checkSignal(signal: unknown): asserts signal is AbortSignal {
  const rule = 'be an AbortSignal';
  if (!isObject(signal)) throw typeError('signal', rule, signal);
  const { aborted, addEventListener, removeEventListener } = signal as Record<string, unknown>;
  if (
    typeof aborted !== 'boolean' ||
    typeof addEventListener !== 'function' ||
    typeof removeEventListener !== 'function'
  )
    throw typeError('signal', rule, signal);
  throwIfAborted(signal as AbortSignal);
}

/** What to reject with. What throws where it is read must not leave a promise unsettled. */
function reasonOf(signal: AbortSignal | undefined): unknown {
  try {
    return signal?.reason;
  } catch (error) {
    return error;
  }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw signal.reason;
}

/**
 * Begins an operation in the order of the calls, and resolves to what `finish` returns when it has been computed. Rejects
 * with the signal's reason where it aborts before the operation has begun to compute, with what `begin` or `finish` throws.
 *
 * @param begin hands the operation to the backend and returns what it reads and writes. Nothing of the caller's can fail
 *   behind it: what the caller gives away is to be moved here.
 */
export function operate<R>(
  signal: AbortSignal | undefined,
  begin: (slot: Slot) => unknown,
  finish: () => R,
): Promise<R> {
  return new PromiseClass<R>((resolve, reject) => {
    throwIfAborted(signal);
    if (!onTheWay.isHeard) {
      backend.onFinished(onFinished);
      onTheWay.isHeard = true;
    }
    if (signal === undefined) {
      start(undefined);
      return;
    }
    let slot: Slot | undefined;
    let isAborted = false;
    const stop = () => {
      // Another operation may have it next.
      slot = undefined;
      unlisten(signal, abort);
    };
    const abort = () => {
      isAborted = true;
      if (slot === undefined || !backend.cancel(slot)) return;
      release(slot)?.reject(reasonOf(signal));
      stop();
    };
    // A signal of the caller's making may call back at once, throw, or begin other operations.
    listen(signal, abort);
    try {
      if (isAborted) throw reasonOf(signal);
      slot = start(stop);
    } catch (error) {
      stop();
      throw error;
    }

    function start(unlisten: (() => void) | undefined): Slot {
      const slot = onTheWay.free > 0 ? onTheWay.freeSlots[--onTheWay.free] : onTheWay.slots++;
      const operation: Operation = {
        finish,
        resolve: resolve as (value: unknown) => void,
        reject,
        unlisten,
        arrays: undefined,
      };
      onTheWay.bySlot[slot] = operation;
      try {
        operation.arrays = begin(slot);
      } catch (error) {
        release(slot);
        throw error;
      }
      return slot;
    }
  });
}

/** So many of those that belong together wait at once: the next has begun when one is done, and the event loop turns in between. */
const mostAtOnce = 32;

/**
 * Begins operations that belong together, one behind the other, and resolves when all have been computed. A signal has an effect as
 * long as the first of them waits; where one fails, no more begin, and this rejects when none is on the way.
 *
 * @param begin as in {@link operate}, for each of them.
 */
export async function operateAll(
  signal: AbortSignal | undefined,
  count: number,
  begin: (index: number, slot: Slot) => unknown,
): Promise<void> {
  await operate(signal, (slot) => begin(0, slot), nothing);
  let next = 1;
  let onTheirWay = 0;
  let failure: { readonly cause: unknown } | undefined;
  await new PromiseClass<void>((resolve, reject) => {
    const one = async () => {
      onTheirWay++;
      while (next < count) {
        const index = next++;
        try {
          await operate(undefined, (slot) => begin(index, slot), nothing);
        } catch (cause) {
          failure ??= { cause };
          next = count;
        }
      }
      if (--onTheirWay > 0) return;
      if (failure) reject(failure.cause);
      else resolve();
    };
    for (let i = 0; i < mostAtOnce; i++) one();
  });
}

function nothing(): void {}

/** Resolves when `before` is settled, and rejects with the signal's reason if that comes first. */
function after(before: Promise<unknown>, signal: AbortSignal | undefined): Promise<void> {
  return new PromiseClass((resolve, reject) => {
    const abort = () => reject(reasonOf(signal));
    const settle = () => {
      try {
        if (signal) unlisten(signal, abort);
        resolve();
      } catch (error) {
        reject(error);
      }
    };
    if (signal) listen(signal, abort);
    settled(before, settle);
  });
}

/** Calls `then` when a promise is settled, whatever has become of that method. */
export async function settled(promise: Promise<unknown>, then: () => void): Promise<void> {
  try {
    await promise;
  } catch {
    // Whoever has made the call hears of it.
  }
  then();
}

/** Not by `then`, which somebody may have replaced: what follows each other here must. */
async function startAfter<R>(before: Promise<void>, start: () => Promise<R>): Promise<R> {
  await before;
  return start();
}

/** Calls `then` when both are settled: what a signal has cancelled is so before what it waited for. */
async function settledAfter(
  before: Promise<void> | undefined,
  call: Promise<unknown>,
  then: () => void,
): Promise<void> {
  await before;
  await settled(call, then);
}

/** Asynchronous calls that take effect one after the other. */
export class Sequence {
  /** Settled when all are; undefined where there are none. */
  #calls: Promise<void> | undefined;

  /** Starts when all calls before have settled: at once where there are none. */
  inTurn<R>(signal: AbortSignal | undefined, start: () => Promise<R>): Promise<R> {
    const before = this.#calls;
    const call = before === undefined ? start() : startAfter(after(before, signal), start);
    const calls = settledAfter(before, call, () => {
      if (this.#calls === calls) this.#calls = undefined;
    });
    this.#calls = calls;
    return call;
  }
}
