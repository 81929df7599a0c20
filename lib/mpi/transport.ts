// Exchanges over MPI. Each begins with a frame of one size, whose header says what it is: members that make different exchanges
// find it out, where MPI would hang or mix them up. What did not fit into the frame follows when all agree. MPI moves values and
// adds none: sums in the order of ranks have the same bits everywhere, with any library, over any network.
import type { Mpi } from '../backend/backend.js';
import { stateError } from '../errors.js';
import { codes, type Kind, mismatch, resultLength, type Transport, takeBrought } from '../member.js';
import { platform } from '../platform/node.js';
import { copyInto, filled, partOf, zeros } from '../typed-array.js';
import { newArray } from '../validate.js';

const headerLength = 2;
/** Values in a frame: as many as the layers of a group exchange at a time. */
const inFrame = 512;
const frameLength = headerLength + inFrame;

/** Values of all members in one exchange of MPI, about: what is longer goes in several. */
const roundValues = 2 ** 22;

/**
 * What an exchange takes before the first value comes, in values that go over the network in that time: 20 µs and 1 GB/s, between
 * shared memory and Ethernet.
 */
const valuesPerLatency = 2500;

/**
 * Turns of the event loop that wait for a moment, in which others have the CPU, since members of one machine come soon. Who
 * waits for longer looks at times.
 */
const turns = 40;
const millisecondsOfTurn = 0.05;
const millisecondsBetweenLooks = 1;

const PromiseClass = Promise;
const startTimer = setTimeout;
const { ceil, floor } = Math;
const { later, now } = platform;

/** A sum by way of all values, or by shares: each member adds up its own, and all get the sums. */
function isShared(count: number, size: number): boolean {
  // The one way each member gets (size − 1)·count values, the other 2·(size − 1)/size·count in two exchanges.
  return size > 2 && count * (size - 1) * (1 - 2 / size) > valuesPerLatency;
}

export class MpiTransport implements Transport {
  readonly #mpi: Mpi;
  readonly #size: number;
  readonly #timeout: number;
  readonly #capacity: number;
  readonly #frame = zeros<Float64Array>('float64', frameLength);
  readonly #frames: Float64Array;
  /** Why no exchange can follow. */
  #broken: string | undefined;

  constructor(mpi: Mpi, size: number, timeout: number) {
    this.#mpi = mpi;
    this.#size = size;
    this.#timeout = timeout;
    this.#frames = zeros('float64', size * frameLength);
    const share = floor(roundValues / size);
    this.#capacity = share > inFrame ? share : inFrame;
  }

  /** The process ends. */
  end(code: number): void {
    this.#broken = 'a group over MPI must be used before its process ends, got an exchange after that';
    this.#mpi.end(code);
  }

  exchange(kind: Kind, mine: Float64Array, length: number): Float64Array {
    const result = this.#prepare(kind, mine, length);
    try {
      this.#mpi.begin(false, this.#frame, frameLength);
      this.#wait();
      this.#takeFrames(kind, result, length);
      for (let first = inFrame; first < length; first += this.#capacity) {
        const count = this.#partOfLength(length, first);
        if (kind === 'allReduce' && isShared(count, this.#size)) {
          this.#mpi.begin(true, this.#shares(mine, first, count), this.#shareOf(count));
          this.#wait();
          this.#mpi.begin(false, this.#sumOfShares(count), this.#shareOf(count));
          this.#wait();
          this.#takeShares(result, first, count);
        } else {
          this.#mpi.begin(false, partOf(mine, 'float64', first, count), count);
          this.#wait();
          this.#takeParts(kind, result, length, first, count);
        }
      }
      return result;
    } catch (error) {
      throw this.#failed(error);
    }
  }

  async exchangeLater(kind: Kind, mine: Float64Array, length: number): Promise<Float64Array> {
    const result = this.#prepare(kind, mine, length);
    try {
      this.#mpi.begin(false, this.#frame, frameLength);
      await this.#waitLater();
      this.#takeFrames(kind, result, length);
      for (let first = inFrame; first < length; first += this.#capacity) {
        const count = this.#partOfLength(length, first);
        if (kind === 'allReduce' && isShared(count, this.#size)) {
          this.#mpi.begin(true, this.#shares(mine, first, count), this.#shareOf(count));
          await this.#waitLater();
          this.#mpi.begin(false, this.#sumOfShares(count), this.#shareOf(count));
          await this.#waitLater();
          this.#takeShares(result, first, count);
        } else {
          this.#mpi.begin(false, partOf(mine, 'float64', first, count), count);
          await this.#waitLater();
          this.#takeParts(kind, result, length, first, count);
        }
      }
      return result;
    } catch (error) {
      throw this.#failed(error);
    }
  }

  /** Fills the frame; returns room for the result. What this throws breaks nothing: the others have heard of nothing. */
  #prepare(kind: Kind, mine: Float64Array, length: number): Float64Array {
    if (this.#broken !== undefined) throw stateError('GROUP_BROKEN', this.#broken);
    const result = newArray<Float64Array>('float64', resultLength(kind, length, this.#size));
    const frame = this.#frame;
    frame[0] = codes[kind];
    frame[1] = length;
    const count = inFrameOf(length);
    copyInto(partOf(frame, 'float64', headerLength, count), partOf(mine, 'float64', 0, count));
    filled(partOf(frame, 'float64', headerLength + count, inFrame - count), 0);
    return result;
  }

  #wait(): void {
    if (!this.#mpi.wait(this.#timeout)) throw this.#late();
  }

  /** {@link MpiTransport.#wait} in turns of the event loop, which it keeps alive. */
  async #waitLater(): Promise<void> {
    const end = now() + this.#timeout;
    for (let turn = 0; !this.#mpi.wait(turn < turns ? millisecondsOfTurn : 0); turn++) {
      if (now() >= end) throw this.#late();
      await new PromiseClass<void>((resolve) => {
        if (turn < turns) later(resolve);
        else startTimer(resolve, millisecondsBetweenLooks);
      });
    }
  }

  /** All must make the same exchange. */
  #takeFrames(kind: Kind, result: Float64Array, length: number): void {
    const frames = this.#frames;
    this.#mpi.take(frames);
    const first = { code: frames[0], length: frames[1] };
    for (let rank = 1; rank < this.#size; rank++) {
      const at = rank * frameLength;
      if (frames[at] !== first.code || frames[at + 1] !== first.length)
        throw this.#break(mismatch(first, { rank, code: frames[at], length: frames[at + 1] }));
    }
    const count = inFrameOf(length);
    for (let rank = 0; rank < this.#size; rank++)
      takeBrought(
        kind,
        result,
        { rank, length, first: 0, count },
        partOf(frames, 'float64', rank * frameLength + headerLength, count),
      );
  }

  #takeParts(kind: Kind, result: Float64Array, length: number, first: number, count: number): void {
    const parts = this.#taken(count);
    for (let rank = 0; rank < this.#size; rank++)
      takeBrought(
        kind,
        result,
        { rank, length, first, count },
        partOf(parts, 'float64', rank * count, count),
      );
  }

  /** Values for each member to add up, all of one length. */
  #shares(mine: Float64Array, first: number, count: number): Float64Array {
    const shares = newArray<Float64Array>('float64', this.#size * this.#shareOf(count));
    copyInto(partOf(shares, 'float64', 0, count), partOf(mine, 'float64', first, count));
    return shares;
  }

  #shareOf(count: number): number {
    return ceil(count / this.#size);
  }

  #sumOfShares(count: number): Float64Array {
    const share = this.#shareOf(count);
    const parts = this.#taken(share);
    const sums = newArray<Float64Array>('float64', share);
    for (let rank = 0; rank < this.#size; rank++)
      takeBrought(
        'allReduce',
        sums,
        { rank, length: share, first: 0, count: share },
        partOf(parts, 'float64', rank * share, share),
      );
    return sums;
  }

  #takeShares(result: Float64Array, first: number, count: number): void {
    const shares = this.#taken(this.#shareOf(count));
    copyInto(partOf(result, 'float64', first, count), partOf(shares, 'float64', 0, count));
  }

  /** So many values of each member. */
  #taken(count: number): Float64Array {
    const values = newArray<Float64Array>('float64', this.#size * count);
    this.#mpi.take(values);
    return values;
  }

  #partOfLength(length: number, first: number): number {
    return length - first < this.#capacity ? length - first : this.#capacity;
  }

  #late(): Error {
    return this.#break(
      `all members must come to the exchange within ${this.#timeout} ms, got some that did not`,
    );
  }

  /** For whatever is thrown once an exchange has begun, memory that runs out too: the others wait for the rest of it. */
  #failed(error: unknown): Error {
    if (this.#broken !== undefined) return error as Error;
    return this.#break(`MPI must make the exchange, got ${JSON.stringify((error as Error).message)}`);
  }

  #break(why: string): Error {
    this.#broken = `${why}; the group is broken; start the job again`;
    return stateError('GROUP_BROKEN', this.#broken);
  }
}

function inFrameOf(length: number): number {
  return length < inFrame ? length : inFrame;
}
