// What a layer exchanges with those of the other members of its group: its moments on the way forward, its gradient sums on
// the way back. Each exchange begins with a frame of one size, whose header says what it is, so that members that are not at the
// same place find it out instead of taking each other's numbers.
import type { Sums } from './backend/backend.js';
import { isObject, stateError, typeError } from './errors.js';
import { newSums } from './gradient-sums.js';
import type { ProcessGroup } from './group.js';
import { checkKept } from './handover.js';
import { type Moments, mergeMoments, momentsOf } from './moments.js';
import { propertyOf } from './properties.js';
import { copyInto, lengthOf, partOf, zeros } from './typed-array.js';
import { checkInteger, type Geometry, newArray } from './validate.js';

/** Doubles in a frame: 4 KB. */
const frameLength = 512;
const headerLength = 8;
const inFrame = frameLength - headerLength;
/** Which a frame begins with, and the version of what follows. */
const magic = 0x424e_0001;
const version = 1;

/** Where things are in a header. */
const [magicAt, versionAt, layerAt, channelsAt, stepAt, directionAt, lengthAt] = [
  0, 1, 2, 3, 4, 5, 6,
] as const;

const directions = { forward: 1, backward: 2 } as const;
/** Which way an exchange goes. */
type Direction = keyof typeof directions;

/** Per channel. */
interface Statistics {
  readonly mean: Float64Array;
  readonly variance: Float64Array;
}

const WeakMapClass = WeakMap;
const { apply } = Reflect;
const { get: getOf, set: setOf } = WeakMap.prototype;
const { create } = Object;

/** Of every group how many layers have joined it, and why it is broken. */
interface Known {
  layers: number;
  broken: Error | undefined;
}
const knownGroups = new WeakMapClass<object, Known>();

function knownOf(group: object): Known {
  const known: Known | undefined = apply(getOf, knownGroups, [group]);
  if (known !== undefined) return known;
  const first: Known = { layers: 0, broken: undefined };
  apply(setOf, knownGroups, [group, first]);
  return first;
}

/** A group, of which as much is checked as can be without an exchange. */
export function checkGroup(value: unknown): ProcessGroup {
  if (!isObject(value)) throw typeError('group', 'be a ProcessGroup', value);
  const size = propertyOf(value, 'size');
  const rank = propertyOf(value, 'rank');
  const allGather = propertyOf(value, 'allGather');
  const checkedSize = checkInteger('group.size', size, 1, Number.MAX_SAFE_INTEGER);
  checkInteger('group.rank', rank, 0, checkedSize - 1);
  if (typeof allGather !== 'function') throw typeError('group.allGather', 'be a function', allGather);
  return value as ProcessGroup;
}

/** The exchanges of one layer. */
export class Exchange {
  readonly rank: number;
  readonly size: number;
  readonly #group: ProcessGroup;
  readonly #known: Known;
  readonly #layer: number;
  readonly #channels: number;
  #step = 0;

  constructor(group: ProcessGroup, channels: number) {
    this.#group = group;
    this.rank = group.rank;
    this.size = group.size;
    this.#channels = channels;
    this.#known = knownOf(group);
    this.#layer = this.#known.layers++;
  }

  /** The statistics of all members' values, of this one's: as many per channel as it has. */
  moments({ outer, inner }: Geometry, statistics: Statistics): Moments {
    const values = this.#valuesOf(outer * inner, statistics);
    return this.#merged(this.#gather('forward', values, lengthOf(values)));
  }

  /** {@link moments}, off the event loop where the group can. */
  async momentsLater({ outer, inner }: Geometry, statistics: Statistics): Promise<Moments> {
    const values = this.#valuesOf(outer * inner, statistics);
    return this.#merged(await this.#gatherLater('forward', values, lengthOf(values)));
  }

  /** The sums over all members, of this one's. */
  sums(own: Sums): Sums {
    const values = this.#joined(own);
    return this.#added(this.#gather('backward', values, lengthOf(values)));
  }

  /** {@link sums}, off the event loop where the group can. */
  async sumsLater(own: Sums): Promise<Sums> {
    const values = this.#joined(own);
    return this.#added(await this.#gatherLater('backward', values, lengthOf(values)));
  }

  /** How many values a channel has, and its mean and variance, if there are any. */
  #valuesOf(count: number, { mean, variance }: Statistics): Float64Array {
    const channels = this.#channels;
    const values = newArray<Float64Array>('float64', 1 + 2 * channels);
    values[0] = count;
    if (count > 0) {
      copyInto(partOf(values, 'float64', 1, channels), mean);
      copyInto(partOf(values, 'float64', 1 + channels, channels), variance);
    }
    return values;
  }

  #merged(gathered: Readonly<Record<number, Float64Array>>): Moments {
    const channels = this.#channels;
    const parts: Record<number, Moments> = create(null);
    for (let rank = 0; rank < this.size; rank++) {
      const values = gathered[rank];
      const count = values[0];
      const mean = partOf(values, 'float64', 1, channels);
      const variance = partOf(values, 'float64', 1 + channels, channels);
      parts[rank] = momentsOf({ count, squares: count, mean, variance });
    }
    return mergeMoments(parts, this.size);
  }

  #joined({ sumDy, sumDyXmu }: Sums): Float64Array {
    const channels = this.#channels;
    const values = newArray<Float64Array>('float64', 2 * channels);
    copyInto(partOf(values, 'float64', 0, channels), sumDy);
    copyInto(partOf(values, 'float64', channels, channels), sumDyXmu);
    return values;
  }

  #added(gathered: Readonly<Record<number, Float64Array>>): Sums {
    const channels = this.#channels;
    const { sumDy, sumDyXmu } = newSums(channels);
    for (let rank = 0; rank < this.size; rank++)
      for (let c = 0; c < channels; c++) {
        sumDy[c] += gathered[rank][c];
        sumDyXmu[c] += gathered[rank][channels + c];
      }
    return { sumDy, sumDyXmu };
  }

  /** The values of all members, in the order of their ranks: as many as this one brings, of each. */
  #gather(direction: Direction, values: Float64Array, length: number): Record<number, Float64Array> {
    const mine = this.#frame(direction, values, length);
    const all = this.#room(frameLength);
    this.#exchange(mine, all);
    const rest = this.#rest(all, values, length);
    if (rest !== undefined) this.#exchange(rest.mine, rest.all);
    return this.#take(all, rest?.all, length);
  }

  async #gatherLater(
    direction: Direction,
    values: Float64Array,
    length: number,
  ): Promise<Record<number, Float64Array>> {
    const mine = this.#frame(direction, values, length);
    const all = this.#room(frameLength);
    await this.#exchangeLater(mine, all);
    const rest = this.#rest(all, values, length);
    if (rest !== undefined) await this.#exchangeLater(rest.mine, rest.all);
    return this.#take(all, rest?.all, length);
  }

  #room(length: number): Float64Array {
    return zeros('float64', this.size * length);
  }

  #frame(direction: Direction, values: Float64Array, length: number): Float64Array {
    if (this.#known.broken !== undefined) throw this.#known.broken;
    const frame = zeros<Float64Array>('float64', frameLength);
    frame[magicAt] = magic;
    frame[versionAt] = version;
    frame[layerAt] = this.#layer;
    frame[channelsAt] = this.#channels;
    frame[stepAt] = this.#step++;
    frame[directionAt] = directions[direction];
    frame[lengthAt] = length;
    const count = length < inFrame ? length : inFrame;
    copyInto(partOf(frame, 'float64', headerLength, count), partOf(values, 'float64', 0, count));
    return frame;
  }

  #exchange(mine: Float64Array, all: Float64Array): void {
    const length = lengthOf(all);
    const returned: unknown = this.#group.allGather(mine, all);
    if (isObject(returned) && typeof (returned as PromiseLike<unknown>).then === 'function')
      throw this.#break(
        typeError(
          'group.allGather',
          'return when all have come',
          returned,
          'INVALID_TYPE',
          '; give it as allGatherAsync, and call forwardAsync() and backwardAsync()',
        ),
      );
    checkKept('all', all, length);
  }

  async #exchangeLater(mine: Float64Array, all: Float64Array): Promise<void> {
    const allGatherAsync = propertyOf(this.#group, 'allGatherAsync');
    if (typeof allGatherAsync !== 'function') {
      this.#exchange(mine, all);
      return;
    }
    const length = lengthOf(all);
    await apply(allGatherAsync as (...args: unknown[]) => unknown, this.#group, [mine, all]);
    checkKept('all', all, length);
  }

  /** All must be at the same place; then what did not fit into the frames. */
  #rest(
    all: Float64Array,
    values: Float64Array,
    length: number,
  ): { mine: Float64Array; all: Float64Array } | undefined {
    for (let rank = 1; rank < this.size; rank++)
      for (let i = 0; i < headerLength; i++)
        if (all[rank * frameLength + i] !== all[i]) throw this.#break(mismatchError(all, rank));
    if (length <= inFrame) return undefined;
    const mine = zeros<Float64Array>('float64', length - inFrame);
    copyInto(mine, partOf(values, 'float64', inFrame, length - inFrame));
    return { mine, all: this.#room(length - inFrame) };
  }

  #take(all: Float64Array, rest: Float64Array | undefined, length: number): Record<number, Float64Array> {
    const taken: Record<number, Float64Array> = create(null);
    const count = length < inFrame ? length : inFrame;
    for (let rank = 0; rank < this.size; rank++) {
      const values = zeros<Float64Array>('float64', length);
      copyInto(
        partOf(values, 'float64', 0, count),
        partOf(all, 'float64', rank * frameLength + headerLength, count),
      );
      if (rest !== undefined)
        copyInto(
          partOf(values, 'float64', count, length - count),
          partOf(rest, 'float64', rank * (length - count), length - count),
        );
      taken[rank] = values;
    }
    return taken;
  }

  #break(error: Error): Error {
    this.#known.broken = error;
    return error;
  }
}

function mismatchError(all: Float64Array, rank: number): Error {
  const told = (of: number) => {
    const at = (index: number) => all[of * frameLength + index];
    if (at(magicAt) !== magic || at(versionAt) !== version) return `something else from rank ${of}`;
    const direction = at(directionAt) === directions.forward ? 'forward' : 'backward';
    return `${direction} of layer ${at(layerAt)} with ${at(channelsAt)} channels as exchange ${at(stepAt)} from rank ${of}`;
  };
  return stateError(
    'GROUP_BROKEN',
    `all members must make the same exchange, got ${told(0)} and ${told(rank)}; the group is broken`,
  );
}
