/**
 * Groups of the workers of one process, over shared memory.
 *
 * @module batchnorm/workers
 */
import { isObject, rangeError, stateError, typeError } from '../errors.js';
import type { ProcessGroup } from '../group.js';
import {
  checkTimeout,
  codes,
  type Kind,
  Member,
  mismatch,
  resultLength,
  type Transport,
  takeBrought,
} from '../member.js';
import { namesOf, propertyOf } from '../properties.js';
import { lengthOf, zeros } from '../typed-array.js';
import { checkInteger, newArray, readOptions } from '../validate.js';
import {
  type Broken,
  capacity,
  GroupMemory,
  isGroupMemory,
  maxSize,
  mayWait,
  newGroupMemory,
} from './memory.js';

export type { ProcessGroup } from '../group.js';

/** What {@link WorkerGroup} may be given besides its size. */
export interface WorkerGroupOptions {
  /** How many milliseconds a member waits for the others, until the group is broken. Default 30,000. */
  timeout?: number;
}

/** What a group is known by in other workers: for `workerData` and `postMessage`. */
export interface WorkerGroupHandle {
  /** What the members share. */
  readonly memory: SharedArrayBuffer;
}

const optionNames = namesOf(['timeout']);
const { freeze } = Object;

/**
 * So many workers that compute on one batch together. Whoever makes it hands {@link WorkerGroup.handle} to the workers and takes no
 * part; every member, be it on the main thread, calls {@link WorkerGroup.join} with a rank of its own.
 *
 * A member that does not come within the timeout, because it has ended, thrown or forgotten, breaks the group: every other
 * member's exchange then throws, and names it, and so does every later one. A member that ends after its last exchange breaks nothing.
 *
 * @example
 * import { Worker } from 'node:worker_threads';
 * import { WorkerGroup } from 'batchnorm/workers';
 *
 * const group = new WorkerGroup(2);
 * const code = `
 *   const { parentPort, workerData } = require('node:worker_threads');
 *   import('batchnorm/workers').then(({ WorkerGroup }) => {
 *     const values = Float64Array.of(workerData.rank, 1);
 *     WorkerGroup.join(workerData.handle, workerData.rank).allReduce(values);
 *     parentPort.postMessage(values.join(' '));
 *   });`;
 * const sums = [0, 1].map((rank) => {
 *   const worker = new Worker(code, { eval: true, workerData: { handle: group.handle, rank } });
 *   return new Promise((resolve) => worker.once('message', resolve));
 * });
 * console.log(await Promise.all(sums)); // [ '1 2', '1 2' ]
 */
export class WorkerGroup {
  /** For the workers: `workerData: { handle: group.handle, … }`. */
  readonly handle: WorkerGroupHandle;
  /** How many members it has. */
  readonly size: number;

  /**
   * @param size how many members: an integer from 1 to 1,024.
   * @param options how long members wait for each other.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`,
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`), Error (`ERR_BATCHNORM_NO_SHARED_MEMORY`) in a page that is not isolated.
   */
  constructor(size: number, options?: WorkerGroupOptions) {
    const { timeout } = readOptions(options, optionNames);
    this.size = checkInteger('size', size, 1, maxSize);
    this.handle = freeze({ memory: newGroupMemory(size, checkTimeout(timeout)) });
  }

  /**
   * Takes part, in this thread.
   *
   * @param handle of {@link WorkerGroup.handle}, as it came to this worker.
   * @param rank which member this is: an integer from 0 to size − 1 that no other member has.
   * @returns the group as this member sees it. Its exchanges throw, or reject with, Error (`GROUP_BROKEN`, `GROUP_BUSY`,
   *   `BUFFER_CHANGED`, and where one may not wait `MAIN_THREAD`, behind `ERR_BATCHNORM_`).
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`) for what is no handle, and for a
   *   rank that the group does not have, or another member has.
   * @example
   * import { WorkerGroup } from 'batchnorm/workers';
   *
   * const member = WorkerGroup.join(new WorkerGroup(1).handle, 0);
   * const values = Float64Array.of(1, 2);
   * member.allReduce(values);
   * console.log(values); // Float64Array(2) [ 1, 2 ]
   */
  static join(handle: WorkerGroupHandle, rank: number): Required<ProcessGroup> {
    const memory = isObject(handle) ? propertyOf(handle, 'memory') : undefined;
    if (!isGroupMemory(memory)) throw typeError('handle', 'be the handle of a WorkerGroup', handle);
    const shared = new GroupMemory(memory);
    checkInteger('rank', rank, 0, shared.size - 1);
    if (!shared.enter(rank)) throw rangeError('rank', 'be of one member only', `${rank}, which has joined`);
    return new Member(rank, shared.size, new SharedMemory(shared, shared.size === 1 || mayWait(memory)));
  }
}

/** Over the memory of the group. */
class SharedMemory implements Transport {
  readonly #memory: GroupMemory;
  readonly #mayWait: boolean;
  /** What an exchange gives, until it has all of it. */
  #result = zeros<Float64Array>('float64', 0);

  constructor(memory: GroupMemory, mayWait: boolean) {
    this.#memory = memory;
    this.#mayWait = mayWait;
  }

  exchange(kind: Kind, mine: Float64Array, length: number): Float64Array {
    if (!this.#mayWait)
      throw stateError(
        'MAIN_THREAD',
        `${kind}() must be called in a worker, got a page, which may not wait; call ${kind}Async(), or forwardAsync() and backwardAsync() of a layer`,
      );
    const memory = this.#memory;
    const values = resultLength(kind, length, memory.size);
    if (lengthOf(this.#result) < values) this.#result = newArray('float64', values);
    for (let first = 0; first < length || first === 0; first += capacity) {
      this.#check(memory.bring({ code: codes[kind], length }, mine, first, partOfLength(length, first)));
      this.#check(memory.wait());
      this.#take(kind, this.#result, length, first);
    }
    return this.#result;
  }

  async exchangeLater(kind: Kind, mine: Float64Array, length: number): Promise<Float64Array> {
    const memory = this.#memory;
    const result = newArray<Float64Array>('float64', resultLength(kind, length, memory.size));
    for (let first = 0; first < length || first === 0; first += capacity) {
      this.#check(memory.bring({ code: codes[kind], length }, mine, first, partOfLength(length, first)));
      this.#check(await memory.waitAsync());
      this.#take(kind, result, length, first);
    }
    return result;
  }

  #check(broken: Broken | undefined): void {
    if (broken !== undefined) throw brokenError(broken);
  }

  /** What all have brought in this round, those of rank 0 first: so the sums have the same bits everywhere. */
  #take(kind: Kind, result: Float64Array, length: number, first: number): void {
    const count = partOfLength(length, first);
    if (count === 0) return;
    const { size } = this.#memory;
    for (let rank = 0; rank < size; rank++)
      takeBrought(kind, result, { rank, length, first, count }, this.#memory.brought(rank, count));
  }
}

/** How many values go in the round that begins with this one. */
function partOfLength(length: number, first: number): number {
  return length - first < capacity ? length - first : capacity;
}

function brokenError(broken: Broken): Error {
  const cure = 'the group is broken; make a new WorkerGroup';
  if (broken.why === 'late')
    return stateError(
      'GROUP_BROKEN',
      `rank ${broken.rank} must come to the exchange within ${broken.timeout} ms, got nothing of it; ${cure}`,
    );
  return stateError(
    'GROUP_BROKEN',
    `${mismatch(broken.first, { rank: broken.rank, ...broken.other })}; ${cure}`,
  );
}
