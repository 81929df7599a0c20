// The forwards of a layer: which of them a backward goes back through that does not say so.
import { checkPending, type Forward, type Pending } from './pending.js';
import type { TensorArray } from './types.js';

type Halves = Parameters<typeof checkPending>[3];

/** The last forward in training and the last in evaluation. */
interface Last<T extends TensorArray> {
  training: Pending<T> | undefined;
  evaluation: Pending<T> | undefined;
}

function forget<T extends TensorArray>(
  pending: Pending<T> | undefined,
  free: (forward: Forward<T>) => void,
): void {
  if (pending?.state !== 'done') return;
  const { forward, busy } = pending;
  pending.state = 'cleared';
  pending.forward = undefined;
  if (forward !== undefined && busy === 0) free(forward);
}

function note<T extends TensorArray>(last: Last<T>, pending: Pending<T>): void {
  if (pending.mode) {
    if (pending.order >= (last.training?.order ?? 0)) last.training = pending;
  } else if (pending.order >= (last.evaluation?.order ?? 0)) last.evaluation = pending;
}

/** See the top of the file. */
export class Forwards<T extends TensorArray> {
  /** Those that are done. */
  readonly #done: Last<T> = { training: undefined, evaluation: undefined };
  /** Those that have been called, done or not. */
  readonly #called: Last<T> = { training: undefined, evaluation: undefined };
  #order = 0;
  /** Forwards from before the last one are gone. */
  #clears = 0;

  /** @param owner the layer. @param mode whether it is in training. */
  begin(owner: object, mode: boolean): Pending<T> {
    return {
      owner,
      order: ++this.#order,
      mode,
      state: 'waiting',
      cause: undefined,
      busy: 0,
      clears: this.#clears,
      leavesInput: true,
      leavesParameters: true,
      forward: undefined,
    };
  }

  /** From its call on, so that a backward that is called next goes through this one or through none. */
  called(pending: Pending<T>): void {
    note(this.#called, pending);
  }

  /** It has been computed: what it leaves to backward. */
  done(pending: Pending<T>, forward: Forward<T>): void {
    pending.forward = forward;
    pending.state = 'done';
    pending.clears = this.#clears;
    note(this.#done, pending);
    note(this.#called, pending);
  }

  /** That one which is done, for a synchronous backward. */
  lastDone(training: boolean): Pending<T> | undefined {
    return training ? this.#done.training : this.#done.evaluation;
  }

  /** That one which has been called, for an asynchronous backward. */
  lastCalled(training: boolean): Pending<T> | undefined {
    return training ? this.#called.training : this.#called.evaluation;
  }

  check(pending: Pending<T> | undefined, training: boolean, halves: Halves) {
    return checkPending(pending, this.#clears, training, halves);
  }

  /** @param free is given what nobody goes back through any more. */
  clear(free: (forward: Forward<T>) => void): void {
    this.#clears++;
    forget(this.#done.training, free);
    forget(this.#done.evaluation, free);
    forget(this.#called.training, free);
    forget(this.#called.evaluation, free);
  }
}
