// What computes off the calling thread: a promise for each operation, and how to take it back.
import { performance } from 'node:perf_hooks';
import { setImmediate } from 'node:timers';
import type { Operation, Slot } from './backend/backend.js';
import { backend } from './backend/index.js';
import { rangeError, typeError } from './errors.js';

const { onTheWay } = backend;
/** Reports that have been taken: as many as `taken`, of which those before `next` have been dealt with. */
const reports = new Int32Array(256);
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
  setImmediate(onFinished);
  const end = performance.now() + millisecondsPerTurn;
  do settle(reports[next++]);
  while (next < taken && performance.now() < end);
}

function settle(report: number): void {
  const slot = report < 0 ? ~report : report;
  const operation = release(slot);
  if (operation === undefined) return;
  if (report < 0) {
    operation.reject(rangeError('an operation', 'fit into memory', 'no more of it', 'OUT_OF_MEMORY'));
    return;
  }
  try {
    operation.resolve(operation.finish());
  } catch (error) {
    operation.reject(error);
  }
}

function release(slot: Slot): Operation | undefined {
  const operation = onTheWay.bySlot[slot];
  onTheWay.bySlot[slot] = undefined;
  onTheWay.freeSlots.push(slot);
  operation?.unlisten?.();
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
  const aborts = new Set([abort]);
  const listener = () => {
    for (const each of aborts) each();
  };
  listeners.set(signal, { aborts, listener });
  signal.addEventListener('abort', listener);
}

function unlisten(signal: AbortSignal, abort: () => void): void {
  const known = listeners.get(signal);
  known?.aborts.delete(abort);
  if (known?.aborts.size !== 0) return;
  listeners.delete(signal);
  signal.removeEventListener('abort', known.listener);
}

/**
 * An option that may be absent. Signals of other realms and of libraries that stand in for them are as good. To be read
 * before memory is: their getters may be the caller's code.
 *
 * @throws the signal's reason where it has aborted.
 */
export function readSignal(signal: unknown): AbortSignal | undefined {
  if (signal === undefined) return undefined;
  const rule = 'be an AbortSignal';
  if (signal === null || typeof signal !== 'object') throw typeError('signal', rule, signal);
  const { aborted, addEventListener, removeEventListener } = signal as Record<string, unknown>;
  if (
    typeof aborted !== 'boolean' ||
    typeof addEventListener !== 'function' ||
    typeof removeEventListener !== 'function'
  )
    throw typeError('signal', rule, signal);
  throwIfAborted(signal as AbortSignal);
  return signal as AbortSignal;
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw signal.reason;
}

/**
 * Begins an operation in the order of the calls, and resolves to what `finish` returns when it has been computed. Rejects
 * with the signal's reason where it aborts before the operation has begun to compute, with what `begin` or `finish` throws.
 *
 * @param begin hands the operation to the backend.
 * @param arrays what it reads and writes.
 */
export function operate<R>(
  signal: AbortSignal | undefined,
  arrays: unknown,
  begin: (slot: Slot) => void,
  finish: () => R,
): Promise<R> {
  return new Promise<R>((resolve, reject) => {
    throwIfAborted(signal);
    if (!onTheWay.isHeard) {
      backend.onFinished(onFinished);
      onTheWay.isHeard = true;
    }
    const slot = onTheWay.freeSlots.pop() ?? onTheWay.bySlot.length;
    const abort =
      signal &&
      (() => {
        if (backend.cancel(slot)) release(slot)?.reject(signal.reason);
      });
    onTheWay.bySlot[slot] = {
      finish,
      resolve: resolve as (value: unknown) => void,
      reject,
      unlisten: signal && abort && (() => unlisten(signal, abort)),
      arrays,
    };
    try {
      begin(slot);
    } catch (error) {
      release(slot);
      throw error;
    }
    if (signal && abort) listen(signal, abort);
  });
}

/** Resolves when `before` is settled, and rejects with the signal's reason if that comes first. */
export function after(before: Promise<unknown>, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal?.reason);
    const settle = () => {
      if (signal) unlisten(signal, abort);
      resolve();
    };
    if (signal) listen(signal, abort);
    before.then(settle, settle);
  });
}
