// Asynchronous calls of a backend that computes on the calling thread: each in a turn of the event loop of its own.
import { platform } from '../platform/node.js';
import { lengthOf } from '../typed-array.js';
import type { FinishedHandler, Slot } from './backend.js';

const { later } = platform;

/** A pass whose arguments have been checked. */
export interface Prepared<R> {
  result: R;
  compute: () => void;
}

/** What waits for a turn of the event loop, in its order. */
export class Turns {
  #handler: FinishedHandler | undefined;
  /** Slots from `#taken` to `#reported`, each gone when it has been taken. */
  readonly #finished: Record<number, Slot> = Object.create(null);
  #taken = 0;
  #reported = 0;
  /** What takes each back. */
  readonly #waiting: Record<Slot, (() => void) | undefined> = Object.create(null);

  onFinished(handler: FinishedHandler): void {
    this.#handler = handler;
  }

  takeFinished(slots: Int32Array): number {
    const room = lengthOf(slots);
    let count = 0;
    while (count < room && this.#taken < this.#reported) {
      slots[count++] = this.#finished[this.#taken];
      delete this.#finished[this.#taken++];
    }
    return count;
  }

  /** Computes a pass that has been checked in a turn of its own. */
  later<R>({ result, compute }: Prepared<R>, slot: Slot): R {
    this.#waiting[slot] = later(() => {
      this.#waiting[slot] = undefined;
      let report = slot;
      try {
        compute();
      } catch {
        report = ~slot;
      }
      this.#finished[this.#reported++] = report;
      this.#handler?.();
    });
    return result;
  }

  cancel(slot: Slot): boolean {
    const takeBack = this.#waiting[slot];
    if (takeBack === undefined) return false;
    takeBack();
    this.#waiting[slot] = undefined;
    return true;
  }
}
