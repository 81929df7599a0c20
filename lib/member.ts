// What members of groups have in common, whatever carries their values: the checks of what is exchanged, the order of exchanges,
// and that one that fails leaves the caller's arrays as they were.
import { isArray, rangeError, stateError, typeError } from './errors.js';
import type { ProcessGroup } from './group.js';
import { copyInto, lengthOf, partOf, typedArrayType } from './typed-array.js';
import { checkAttached, checkKept, newArray } from './validate.js';

/** What an exchange does with the values of all. */
export type Kind = 'allGather' | 'allReduce';

export const codes = { allGather: 1, allReduce: 2 } as const;
const mostValues = 2 ** 31 - 1;
const kinds: readonly (Kind | 'nothing')[] = ['nothing', 'allGather', 'allReduce'];

/** What a member says of its exchange; all must make the same. */
export interface Exchange {
  /** Which operation. */
  readonly code: number;
  /** How many values each member brings. */
  readonly length: number;
}

/** What carries the values of one member, one exchange at a time. What it throws breaks the group. */
export interface Transport {
  /** Returns the result, which may have more values behind it, and is the transport's own. */
  exchange(kind: Kind, mine: Float64Array, length: number): Float64Array;
  /** The same without blocking; `mine` is the transport's until the promise resolves. */
  exchangeLater(kind: Kind, mine: Float64Array, length: number): Promise<Float64Array>;
}

export class Member implements Required<ProcessGroup> {
  readonly rank: number;
  readonly size: number;
  readonly #transport: Transport;
  /** The last of the asynchronous exchanges on their way, which follow each other. */
  #last: Promise<unknown> | undefined;

  constructor(rank: number, size: number, transport: Transport) {
    this.rank = rank;
    this.size = size;
    this.#transport = transport;
  }

  allGather(mine: Float64Array, all: Float64Array): void {
    this.#exchange('allGather', mine, 'all', all, this.#checkGather(mine, all));
  }

  allReduce(values: Float64Array): void {
    this.#exchange('allReduce', values, 'values', values, checkValues('values', values));
  }

  async allGatherAsync(mine: Float64Array, all: Float64Array): Promise<void> {
    await this.#exchangeLater('allGather', mine, 'all', all, this.#checkGather(mine, all));
  }

  async allReduceAsync(values: Float64Array): Promise<void> {
    await this.#exchangeLater('allReduce', values, 'values', values, checkValues('values', values));
  }

  #checkGather(mine: Float64Array, all: Float64Array): number {
    const length = checkValues('mine', mine);
    const found = lengthOfValues('all', all);
    if (found !== this.size * length)
      throw rangeError('all', `have ${this.size * length} values (${this.size} times ${length})`, `${found}`);
    return length;
  }

  #exchange(kind: Kind, mine: Float64Array, name: string, to: Float64Array, length: number): void {
    if (this.#last !== undefined)
      throw stateError(
        'GROUP_BUSY',
        `${kind}() must wait for the asynchronous exchanges of its member, got one on its way`,
      );
    const result = this.#transport.exchange(kind, mine, length);
    this.#give(kind, result, name, to, length);
  }

  async #exchangeLater(
    kind: Kind,
    mine: Float64Array,
    name: string,
    to: Float64Array,
    length: number,
  ): Promise<void> {
    const own = newArray<Float64Array>('float64', length);
    copyInto(own, mine);
    const exchange = this.#exchangeAfter(this.#last, kind, own, length);
    this.#last = exchange;
    try {
      this.#give(kind, await exchange, name, to, length);
    } finally {
      if (this.#last === exchange) this.#last = undefined;
    }
  }

  async #exchangeAfter(
    before: Promise<unknown> | undefined,
    kind: Kind,
    own: Float64Array,
    length: number,
  ): Promise<Float64Array> {
    try {
      await before;
    } catch {
      // Whoever called it hears of it, and the group knows that it is broken.
    }
    return this.#transport.exchangeLater(kind, own, length);
  }

  #give(kind: Kind, result: Float64Array, name: string, to: Float64Array, length: number): void {
    const values = resultLength(kind, length, this.size);
    checkKept(name, to, values);
    copyInto(to, partOf(result, 'float64', 0, values));
  }
}

/** How many values an exchange gives. */
export function resultLength(kind: Kind, length: number, size: number): number {
  return kind === 'allGather' ? size * length : length;
}

/** Which of the values of an exchange a member has brought: `count` of `length`, from `first` on. */
export interface Brought {
  readonly rank: number;
  readonly length: number;
  readonly first: number;
  readonly count: number;
}

/** Puts what a member has brought into the result. In the order of ranks, so that sums have the same bits everywhere. */
export function takeBrought(
  kind: Kind,
  result: Float64Array,
  { rank, length, first, count }: Brought,
  values: Float64Array,
): void {
  if (kind === 'allGather') copyInto(partOf(result, 'float64', rank * length + first, count), values);
  else if (rank === 0) copyInto(partOf(result, 'float64', first, count), values);
  else for (let i = 0; i < count; i++) result[first + i] += values[i];
}

/** What is to be said of members that make different exchanges: that of rank 0, and of one that makes another. */
export function mismatch(first: Exchange, other: Exchange & { readonly rank: number }): string {
  const told = (rank: number, { code, length }: Exchange) =>
    `${kinds[code]}() of ${length} values from rank ${rank}`;
  return `all members must make the same exchange, got ${told(0, first)} and ${told(other.rank, other)}`;
}

/** Milliseconds; those of somebody who says nothing. */
export function checkTimeout(timeout: unknown = 30_000): number {
  if (typeof timeout !== 'number') throw typeError('timeout', 'be a number of milliseconds', timeout);
  if (!(timeout >= 1 && timeout <= 2 ** 31 - 1))
    throw rangeError('timeout', 'be a number of milliseconds from 1 to 2147483647', String(timeout));
  return timeout;
}

function lengthOfValues(name: string, values: unknown): number {
  if (isArray(values) || typedArrayType(values) !== 'Float64Array')
    throw typeError(name, 'be a Float64Array', values);
  // The others would hear of an exchange of no values.
  checkAttached(name, values as Float64Array);
  return lengthOf(values as Float64Array);
}

function checkValues(name: string, values: unknown): number {
  const length = lengthOfValues(name, values);
  // Members tell each other how many, in 32 bits.
  if (length > mostValues) throw rangeError(name, `have at most ${mostValues} values`, String(length));
  return length;
}
