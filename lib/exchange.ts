// What a layer exchanges with those of the other members of its group: its moments on the way forward, its gradient sums on
// the way back. Each exchange begins with a frame of one size, whose header says what it is, so that members that are not at the
// same place find it out instead of taking each other's numbers.
import type { Sums } from './backend/backend.js';
import { isObject, stateError, typeError } from './errors.js';
import type { ProcessGroup } from './group.js';
import { type Moments, mergeMoments, type Part } from './moments.js';
import { settled } from './operations.js';
import { propertyOf } from './properties.js';
import { copyInto, filled, lengthOf, partOf } from './typed-array.js';
import { checkInteger, checkKept, type Geometry, newArray } from './validate.js';

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

const directions = { forward: 1, backward: 2, 'forward with weights': 3 } as const;
/** Which way an exchange goes. */
type Direction = keyof typeof directions;

/** Per channel. */
interface MeanAndVariance {
  readonly mean: Float64Array;
  readonly variance: Float64Array;
}

/** Per channel, with what counts. */
interface Counted extends MeanAndVariance {
  readonly count: Float64Array;
  readonly squares: Float64Array;
}

const WeakMapClass = WeakMap;
const { apply } = Reflect;
const { get: getOf, set: setOf } = WeakMap.prototype;
const { create } = Object;
const { isSafeInteger } = Number;

/** Of every group how many layers have joined it, and why it is broken. */
interface Known {
  layers: number;
  broken: string | undefined;
}
const knownGroups = new WeakMapClass<object, Known>();

function knownOf(group: object): Known {
  const known: Known | undefined = apply(getOf, knownGroups, [group]);
  if (known !== undefined) return known;
  const first: Known = { layers: 0, broken: undefined };
  apply(setOf, knownGroups, [group, first]);
  return first;
}

/** What a group says of itself: as much is checked as can be without an exchange. */
function readGroup(value: unknown): { group: ProcessGroup; size: number; rank: number } {
  if (!isObject(value)) throw typeError('group', 'be a ProcessGroup', value);
  const givenSize = propertyOf(value, 'size');
  const givenRank = propertyOf(value, 'rank');
  const allGather = propertyOf(value, 'allGather');
  const size = checkInteger('group.size', givenSize, 1, Number.MAX_SAFE_INTEGER);
  const rank = checkInteger('group.rank', givenRank, 0, size - 1);
  if (typeof allGather !== 'function') throw typeError('group.allGather', 'be a function', allGather);
  return { group: value as ProcessGroup, size, rank };
}

export function checkGroup(value: unknown): ProcessGroup {
  return readGroup(value).group;
}

/** The exchanges of one layer. */
export class Exchange {
  readonly #group: ProcessGroup;
  readonly #size: number;
  readonly #rank: number;
  readonly #known: Known;
  readonly #layer: number;
  readonly #channels: number;
  /** How many exchanges it has begun. */
  #step = 0;

  constructor(value: ProcessGroup, channels: number) {
    const { group, size, rank } = readGroup(value);
    this.#group = group;
    this.#size = size;
    this.#rank = rank;
    this.#channels = channels;
    this.#known = knownOf(group);
    this.#layer = this.#known.layers++;
  }

  /** The statistics of all members' values, of this one's: as many per channel as it has. */
  moments({ outer, inner }: Geometry, statistics: MeanAndVariance): Moments {
    return this.#merged(this.#gather('forward', this.#valuesOf(outer * inner, statistics)));
  }

  /** {@link moments}, off the event loop where the group can. */
  async momentsLater({ outer, inner }: Geometry, statistics: MeanAndVariance): Promise<Moments> {
    return this.#merged(await this.#gatherLater('forward', this.#valuesOf(outer * inner, statistics)));
  }

  /** The same of values of which not all count alike. */
  momentsOfPresent(statistics: Counted): Moments {
    return this.#mergedCounted(this.#gather('forward with weights', this.#countedOf(statistics)));
  }

  /** {@link momentsOfPresent}, off the event loop where the group can. */
  async momentsOfPresentLater(statistics: Counted): Promise<Moments> {
    return this.#mergedCounted(await this.#gatherLater('forward with weights', this.#countedOf(statistics)));
  }

  /** The sums over all members, of this one's. */
  sums(own: Sums): Sums {
    return this.#added(this.#gather('backward', this.#joined(own)));
  }

  /** {@link sums}, off the event loop where the group can. */
  async sumsLater(own: Sums): Promise<Sums> {
    return this.#added(await this.#gatherLater('backward', this.#joined(own)));
  }

  /** How many values a channel has, and its mean and variance, if there are any. */
  #valuesOf(count: number, { mean, variance }: MeanAndVariance): Float64Array {
    const channels = this.#channels;
    const values = newArray<Float64Array>('float64', 1 + 2 * channels);
    values[0] = count;
    if (count > 0) {
      copyInto(partOf(values, 'float64', 1, channels), mean);
      copyInto(partOf(values, 'float64', 1 + channels, channels), variance);
    }
    return values;
  }

  /** In the order of ranks, so that all members have the same bits. */
  #merged(gathered: Float64Array): Moments {
    const channels = this.#channels;
    const length = 1 + 2 * channels;
    const parts: Record<number, Part> = create(null);
    for (let rank = 0; rank < this.#size; rank++) {
      const count = gathered[rank * length];
      if (!isSafeInteger(count) || count < 0)
        throw this.#break(`the count of rank ${rank} must be an integer from 0 on, got ${count}`);
      const mean = partOf(gathered, 'float64', rank * length + 1, channels);
      const variance = partOf(gathered, 'float64', rank * length + 1 + channels, channels);
      const counts = filled(newArray<Float64Array>('float64', channels), count);
      parts[rank] = { channels, count: counts, squares: counts, mean, variance };
    }
    return mergeMoments(parts, this.#size);
  }

  /** Per channel counts, squares, means and variances. */
  #countedOf({ count, squares, mean, variance }: Counted): Float64Array {
    const channels = this.#channels;
    const values = newArray<Float64Array>('float64', 4 * channels);
    copyInto(partOf(values, 'float64', 0, channels), count);
    copyInto(partOf(values, 'float64', channels, channels), squares);
    copyInto(partOf(values, 'float64', 2 * channels, channels), mean);
    copyInto(partOf(values, 'float64', 3 * channels, channels), variance);
    return values;
  }

  #mergedCounted(gathered: Float64Array): Moments {
    const channels = this.#channels;
    const parts: Record<number, Part> = create(null);
    for (let rank = 0; rank < this.#size; rank++) {
      const at = (index: number) =>
        partOf(gathered, 'float64', (4 * rank + index) * channels, channels) as Float64Array;
      const count = at(0);
      for (let c = 0; c < channels; c++)
        if (!(count[c] >= 0 && count[c] < Infinity))
          throw this.#break(`the weights of rank ${rank} must have a finite sum from 0 on, got ${count[c]}`);
      parts[rank] = { channels, count, squares: at(1), mean: at(2), variance: at(3) };
    }
    return mergeMoments(parts, this.#size);
  }

  #joined({ sumDy, sumDyXmu }: Sums): Float64Array {
    const channels = this.#channels;
    const values = newArray<Float64Array>('float64', 2 * channels);
    copyInto(partOf(values, 'float64', 0, channels), sumDy);
    copyInto(partOf(values, 'float64', channels, channels), sumDyXmu);
    return values;
  }

  /** In the order of ranks too. */
  #added(gathered: Float64Array): Sums {
    const channels = this.#channels;
    const sumDy = partOf(gathered, 'float64', 0, channels);
    const sumDyXmu = partOf(gathered, 'float64', channels, channels);
    for (let rank = 1; rank < this.#size; rank++)
      for (let c = 0; c < channels; c++) {
        sumDy[c] += gathered[2 * rank * channels + c];
        sumDyXmu[c] += gathered[(2 * rank + 1) * channels + c];
      }
    return { sumDy, sumDyXmu };
  }

  /** The values of all members, in the order of their ranks: as many as this one brings, of each. */
  #gather(direction: Direction, values: Float64Array): Float64Array {
    const mine = this.#frame(direction, values);
    const all = this.#room(frameLength);
    this.#exchange(mine, all);
    const rest = this.#rest(mine, all, values);
    if (rest !== undefined) this.#exchange(rest.mine, rest.all);
    return this.#taken(all, rest?.all, lengthOf(values));
  }

  async #gatherLater(direction: Direction, values: Float64Array): Promise<Float64Array> {
    const mine = this.#frame(direction, values);
    const all = this.#room(frameLength);
    await this.#exchangeLater(mine, all);
    const rest = this.#rest(mine, all, values);
    if (rest !== undefined) await this.#exchangeLater(rest.mine, rest.all);
    return this.#taken(all, rest?.all, lengthOf(values));
  }

  #room(length: number): Float64Array {
    return newArray('float64', this.#size * length);
  }

  #frame(direction: Direction, values: Float64Array): Float64Array {
    const { broken } = this.#known;
    if (broken !== undefined) throw brokenError(broken);
    const length = lengthOf(values);
    const frame = newArray<Float64Array>('float64', frameLength);
    frame[magicAt] = magic;
    frame[versionAt] = version;
    frame[layerAt] = this.#layer;
    frame[channelsAt] = this.#channels;
    frame[stepAt] = this.#step;
    frame[directionAt] = directions[direction];
    frame[lengthAt] = length;
    const count = inFrameOf(length);
    copyInto(partOf(frame, 'float64', headerLength, count), partOf(values, 'float64', 0, count));
    return frame;
  }

  #exchange(mine: Float64Array, all: Float64Array): void {
    const length = lengthOf(all);
    const returned: unknown = this.#group.allGather(mine, all);
    if (isObject(returned) && typeof (returned as PromiseLike<unknown>).then === 'function') {
      // That it fails is no news.
      settled(returned as unknown as Promise<unknown>, () => {});
      throw typeError(
        'group.allGather',
        'return when all have come',
        returned,
        'INVALID_TYPE',
        '; give it as allGatherAsync, and call forwardAsync() and backwardAsync()',
      );
    }
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
    mine: Float64Array,
    all: Float64Array,
    values: Float64Array,
  ): { mine: Float64Array; all: Float64Array } | undefined {
    this.#step++;
    for (let rank = 1; rank < this.#size; rank++)
      for (let i = 0; i < headerLength; i++)
        if (all[rank * frameLength + i] !== all[i])
          throw this.#break(
            `all members must make the same exchange, got ${toldOf(all, 0)} and ${toldOf(all, rank)}`,
          );
    for (let i = 0; i < headerLength; i++)
      if (all[i] !== mine[i])
        throw this.#break(
          `group.allGather must give what each member brings, got ${toldOf(all, 0)} where this one brought ${toldOf(mine, 0, this.#rank)}`,
        );
    const length = lengthOf(values);
    if (length <= inFrame) return undefined;
    const rest = newArray<Float64Array>('float64', length - inFrame);
    copyInto(rest, partOf(values, 'float64', inFrame, length - inFrame));
    return { mine: rest, all: this.#room(length - inFrame) };
  }

  #taken(all: Float64Array, rest: Float64Array | undefined, length: number): Float64Array {
    const taken = this.#room(length);
    const count = inFrameOf(length);
    const left = length - count;
    for (let rank = 0; rank < this.#size; rank++) {
      const begin = rank * length;
      copyInto(
        partOf(taken, 'float64', begin, count),
        partOf(all, 'float64', rank * frameLength + headerLength, count),
      );
      if (rest !== undefined)
        copyInto(partOf(taken, 'float64', begin + count, left), partOf(rest, 'float64', rank * left, left));
    }
    return taken;
  }

  #break(why: string): Error {
    this.#known.broken = why;
    return brokenError(why);
  }
}

function inFrameOf(length: number): number {
  return length < inFrame ? length : inFrame;
}

function brokenError(why: string): Error {
  return stateError('GROUP_BROKEN', `${why}; the group is broken`);
}

/** What the header of a member's frame says. */
function toldOf(frames: Float64Array, place: number, rank = place): string {
  const at = (index: number) => frames[place * frameLength + index];
  if (at(magicAt) !== magic || at(versionAt) !== version) return `something else from rank ${rank}`;
  const code = at(directionAt);
  const isForward = code === directions.forward;
  const direction: Direction = isForward
    ? 'forward'
    : code === directions.backward
      ? 'backward'
      : 'forward with weights';
  return `${direction} of layer ${at(layerAt)} with ${at(channelsAt)} channels as exchange ${at(stepAt)} from rank ${rank}`;
}
