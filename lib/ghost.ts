// Ghost batch norm (Hoffer, Hubara and Soudry, "Train longer, generalize better", 2017): groups of samples, each normalized by itself.
import {
  type BackwardPass,
  type ForwardPass,
  type MomentsOfPresentPass,
  maskBytes,
  type Passes,
  type Presence,
  type Slot,
} from './backend/backend.js';
import { backend } from './backend/index.js';
import { arithmeticOf } from './dtype.js';
import { isShared } from './handover.js';
import { type Moments, momentsOf } from './moments.js';
import { operateAll } from './operations.js';
import { presentPass } from './presence.js';
import { type PresentBackward, throughPresent, throughPresentLater } from './through.js';
import {
  bufferOf,
  byteLengthOf,
  copyInto,
  extentOf,
  lengthOf,
  partOf,
  shareBuffer,
  viewOfBytes,
} from './typed-array.js';
import type { DType, FloatArray, ParametersOf, TensorArray } from './types.js';
import { checkVaries, type Geometry, newArray } from './validate.js';

/** How a batch is divided into groups. */
export interface Division {
  readonly groups: number;
  /** In each but the last, which has `lastSamples`. */
  readonly samples: number;
  readonly lastSamples: number;
  /** Values per channel of a sample. */
  readonly perSample: number;
}

/** A group: one sample after the other, so a part of every tensor. */
interface Group {
  readonly geometry: Geometry;
  /** The first of its values. */
  readonly first: number;
  readonly size: number;
  readonly mean: Float64Array;
  readonly variance: Float64Array;
  /** The first byte of what a ReLU after a residual lets through of it. */
  readonly maskBegin: number;
  /** Where not all values count alike: how much of each channel does; undefined where the statistics are constants. */
  counts: Float64Array | undefined;
}

/** The groups of a forward. */
export interface Groups {
  readonly number: number;
  readonly list: Readonly<Record<number, Group>>;
}

const { create } = Object;
const { ceil } = Math;

/**
 * undefined where there is but one group: the batch. A last group of one value per channel is a part of the group before; but
 * three or more of that kind are alike.
 */
export function divisionOf(
  shape: readonly number[],
  { outer, inner }: Geometry,
  size: number,
): Division | undefined {
  const samples = shape[0];
  if (outer * inner === 0 || samples <= size) return undefined;
  const perSample = (outer * inner) / samples;
  let groups = ceil(samples / size);
  const isLastOne = (samples - (groups - 1) * size) * perSample === 1;
  if (isLastOne && (groups === 2 || size * perSample > 1)) groups--;
  if (groups === 1) return undefined;
  return { groups, samples: size, lastSamples: samples - (groups - 1) * size, perSample };
}

/** The bytes of the masks of all groups of a batch. */
export function groupMaskBytes(
  { channels }: Geometry,
  { groups, samples, lastSamples, perSample }: Division,
): number {
  const values = channels * perSample;
  return (groups - 1) * maskBytes(samples * values) + maskBytes(lastSamples * values);
}

/** With room for their statistics. */
export function groupsOf(
  { groups, samples, lastSamples, perSample }: Division,
  { channels, inner }: Geometry,
): Groups {
  const statistics = newArray<Float64Array>('float64', 2 * groups * channels);
  const list: Record<number, Group> = create(null);
  let first = 0;
  let maskBegin = 0;
  for (let i = 0; i < groups; i++) {
    const values = (i < groups - 1 ? samples : lastSamples) * perSample;
    const size = values * channels;
    list[i] = {
      geometry: { outer: values / inner, channels, inner },
      first,
      size,
      mean: partOf(statistics, 'float64', 2 * i * channels, channels),
      variance: partOf(statistics, 'float64', (2 * i + 1) * channels, channels),
      maskBegin,
      counts: undefined,
    };
    first += size;
    maskBegin += maskBytes(size);
  }
  return { number: groups, list };
}

/**
 * The statistics of the batch, of those of its groups: as mergeMoments has it, but in plain sums of doubles, since every group has as
 * many values in each channel. Where those are few, this is what takes the time.
 */
export function momentsOfGroups({ number, list }: Groups): Moments {
  const { channels } = list[0].geometry;
  const centre = list[0].mean;
  const shift = newArray<Float64Array>('float64', channels);
  const variance = newArray<Float64Array>('float64', channels);
  let count = 0;
  for (let i = 0; i < number; i++) {
    const { geometry, mean } = list[i];
    const values = geometry.outer * geometry.inner;
    count += values;
    for (let c = 0; c < channels; c++) shift[c] += values * (mean[c] - centre[c]);
  }
  for (let c = 0; c < channels; c++) shift[c] /= count;
  for (let i = 0; i < number; i++) {
    const { geometry, mean, variance: ofGroup } = list[i];
    const share = (geometry.outer * geometry.inner) / count;
    for (let c = 0; c < channels; c++) {
      const distance = mean[c] - centre[c] - shift[c];
      variance[c] += share * (ofGroup[c] + distance * distance);
    }
  }
  for (let c = 0; c < channels; c++) shift[c] += centre[c];
  return momentsOf({ count, squares: count, mean: shift, variance });
}

/** Of values of which not all count alike: what there is of them in each group. */
export function eachPart<T extends TensorArray>(
  { number, list }: Groups,
  dtype: DType,
  x: T,
  presence: Presence,
  visit: (presence: Presence, geometry: Geometry, x: T) => void,
): void {
  for (let i = 0; i < number; i++) {
    const { geometry, first, size } = list[i];
    visit(presenceIn(presence, list[i]), geometry, partOf(x, dtype, first, size));
  }
}

/** The statistics of what counts in each group, which lie in the group itself. */
type PresentParts<T extends TensorArray> = Readonly<Record<number, MomentsOfPresentPass<T>>>;

export function momentsOfParts<T extends TensorArray>(
  passes: Passes<T>,
  { number, list }: Groups,
  dtype: DType,
  x: T,
  presence: Presence,
): PresentParts<T> {
  const parts: Record<number, MomentsOfPresentPass<T>> = create(null);
  for (let i = 0; i < number; i++) {
    parts[i] = presentPart(list[i], dtype, x, presence);
    passes.momentsOfPresent(parts[i]);
  }
  return parts;
}

/** {@link momentsOfParts} off the event loop; `take` gives x, when its turn has come. */
export async function momentsOfPartsLater<T extends TensorArray>(
  passes: Passes<T>,
  { number, list }: Groups,
  dtype: DType,
  take: () => T,
  presence: Presence,
  signal: AbortSignal | undefined,
): Promise<PresentParts<T>> {
  const parts: Record<number, MomentsOfPresentPass<T>> = create(null);
  await operateAll(signal, number, (index, slot) => {
    parts[index] = presentPart(list[index], dtype, take(), presence);
    passes.momentsOfPresentLater(parts[index], slot);
    return parts[index];
  });
  return parts;
}

function presentPart<T extends TensorArray>(group: Group, dtype: DType, x: T, presence: Presence) {
  const { geometry, first, size, mean, variance } = group;
  return presentPass(
    { geometry, x: partOf(x, dtype, first, size), mean, variance },
    presenceIn(presence, group),
  );
}

function presenceIn(presence: Presence, group: Group): Presence {
  const { weights } = presence;
  return weights ? { ...presence, weights: positionsOf(weights, group) } : presence;
}

/** Those of a group, of one value for each position. */
function positionsOf(array: Float64Array, { geometry, first }: Group): Float64Array {
  const { outer, channels, inner } = geometry;
  return partOf(array, 'float64', first / channels, outer * inner);
}

/**
 * Whether a result may lie over what another group of an input has, unseen by passes over single groups: two SharedArrayBuffer
 * objects can be one memory.
 */
export function mayOverlap(
  result: TensorArray | undefined,
  first: TensorArray,
  second: TensorArray | undefined,
): result is TensorArray {
  if (result === undefined || !isShared(result)) return false;
  const isOther = (input: TensorArray) => isShared(input) && !shareBuffer(result, input);
  return isOther(first) || (second !== undefined && isOther(second));
}

/**
 * A forward pass in training.
 *
 * @param presence of values of which not all count alike; then the statistics are there.
 */
export function forwardGroups<T extends TensorArray>(
  passes: Passes<T>,
  pass: ForwardPass<T>,
  dtype: DType,
  { number, list }: Groups,
  presence: Presence | undefined,
): boolean {
  const isFused = pass.eps > 0;
  if (!isFused && !presence) {
    for (let i = 0; i < number; i++) passes.moments(forwardPart(pass, dtype, list[i]));
    checkAllVary(number, list);
  }
  return backend.inParts(byteLengthOf(pass.y), () => {
    let inPlace = false;
    for (let i = 0; i < number; i++) {
      const part = forwardPart(pass, dtype, list[i]);
      inPlace = presence
        ? passes.inferPresent({ ...part, presence: presenceIn(presence, list[i]) })
        : isFused
          ? passes.forwardTraining(part)
          : passes.forwardInference(part);
    }
    return inPlace;
  });
}

/**
 * {@link forwardGroups} off the event loop.
 *
 * @param take gives the pass, when its turn has come.
 * @param finish is told whether y is x.
 */
export async function forwardGroupsLater<T extends TensorArray, R>(
  passes: Passes<T>,
  eps: number,
  dtype: DType,
  { number, list }: Groups,
  presence: Presence | undefined,
  signal: AbortSignal | undefined,
  take: () => ForwardPass<T>,
  finish: (inPlace: boolean) => R,
): Promise<R> {
  let pass: ForwardPass<T> | undefined;
  let inPlace = false;
  const step = (
    stepSignal: AbortSignal | undefined,
    compute: (part: ForwardPass<T>, slot: Slot, group: Group) => unknown,
  ) =>
    operateAll(stepSignal, number, (index, slot) => {
      pass ??= take();
      const part = forwardPart(pass, dtype, list[index]);
      backend.inParts(byteLengthOf(pass.y), () => compute(part, slot, list[index]));
      return part;
    });
  if (presence)
    await step(signal, (part, slot, group) => {
      inPlace = passes.inferPresentLater({ ...part, presence: presenceIn(presence, group) }, slot);
    });
  else if (eps > 0)
    await step(signal, (part, slot) => {
      inPlace = passes.forwardTrainingLater(part, slot);
    });
  else {
    await step(signal, (part, slot) => passes.momentsLater(part, slot));
    checkAllVary(number, list);
    await step(undefined, (part, slot) => {
      inPlace = passes.forwardInferenceLater(part, slot);
    });
  }
  return finish(inPlace);
}

/**
 * A backward pass behind {@link forwardGroups}.
 *
 * @param beside of values of which not all count alike.
 */
export function throughGroups<T extends TensorArray>(
  passes: Passes<T>,
  pass: BackwardPass<T>,
  dtype: DType,
  groups: Groups,
  beside: PresentBackward | undefined,
): void {
  const gradients = roomFor(pass, dtype, groups);
  backend.inParts(byteLengthOf(pass.x), () => {
    for (let i = 0; i < groups.number; i++) {
      const part = backwardPart(pass, dtype, groups.list[i], i, gradients);
      if (beside) throughPresent(passes, part, besideIn(beside, groups.list[i]));
      else passes.backward(part);
    }
  });
  addUp(pass, groups.number, gradients);
}

/** {@link throughGroups} off the event loop; `take` gives the pass, when its turn has come. */
export async function throughGroupsLater<T extends TensorArray, R>(
  passes: Passes<T>,
  dtype: DType,
  groups: Groups,
  beside: PresentBackward | undefined,
  wants: { readonly wantsInput: boolean; readonly wantsParameters: boolean },
  signal: AbortSignal | undefined,
  take: () => BackwardPass<T>,
  finish: () => R,
): Promise<R> {
  let pass: BackwardPass<T> | undefined;
  let gradients: GradientsOfGroups<T> | undefined;
  const partAt = (index: number) => {
    pass ??= take();
    gradients ??= roomFor(pass, dtype, groups);
    return { whole: pass, part: backwardPart(pass, dtype, groups.list[index], index, gradients) };
  };
  if (beside)
    for (let i = 0; i < groups.number; i++) {
      const of = besideIn(beside, groups.list[i]);
      const begin = () => partAt(i).part;
      // Where one has begun, the others follow.
      await throughPresentLater(passes, of, wants, i === 0 ? signal : undefined, begin, nothing);
    }
  else
    await operateAll(signal, groups.number, (index, slot) => {
      const { whole, part } = partAt(index);
      backend.inParts(byteLengthOf(whole.x), () => passes.backwardLater(part, slot));
      return part;
    });
  if (pass && gradients) addUp(pass, groups.number, gradients);
  return finish();
}

function nothing(): void {}

/** What counts in a group. */
function besideIn(beside: PresentBackward, group: Group): PresentBackward {
  const { presence, dWeights } = beside;
  return {
    ...beside,
    presence: presenceIn(presence, group),
    counts: group.counts,
    dWeights: dWeights && positionsOf(dWeights, group),
  };
}

/** One value per channel of each group, those that are asked for. */
interface GradientsOfGroups<T extends TensorArray> {
  readonly dWeight: ParametersOf<T> | undefined;
  readonly dBias: ParametersOf<T> | undefined;
}

function roomFor<T extends TensorArray>(
  { geometry, dWeight, dBias }: BackwardPass<T>,
  dtype: DType,
  { number }: Groups,
): GradientsOfGroups<T> {
  const length = number * geometry.channels;
  return {
    dWeight: dWeight && newArray(arithmeticOf(dtype), length),
    dBias: dBias && newArray(arithmeticOf(dtype), length),
  };
}

function forwardPart<T extends TensorArray>(
  pass: ForwardPass<T>,
  dtype: DType,
  { geometry, first, size, mean, variance, maskBegin }: Group,
): ForwardPass<T> {
  return {
    ...pass,
    geometry,
    x: partOf(pass.x, dtype, first, size),
    y: partOf(pass.y, dtype, first, size),
    mean,
    variance,
    residual: pass.residual && partOf(pass.residual, dtype, first, size),
    mask: pass.mask && maskPart(pass.mask, maskBegin, size),
  };
}

/** The bits of a group begin with it. */
function maskPart(masks: Uint8Array, begin: number, size: number): Uint8Array {
  return viewOfBytes(bufferOf(masks), extentOf(masks).begin + begin, maskBytes(size));
}

function backwardPart<T extends TensorArray>(
  pass: BackwardPass<T>,
  dtype: DType,
  { geometry, first, size, mean, variance, maskBegin }: Group,
  index: number,
  { dWeight, dBias }: GradientsOfGroups<T>,
): BackwardPass<T> {
  const { channels } = geometry;
  const { dx, dResidual } = pass;
  return {
    ...pass,
    geometry,
    dy: partOf(pass.dy, dtype, first, size),
    x: partOf(pass.x, dtype, first, size),
    mean,
    variance,
    mask: pass.mask && maskPart(pass.mask, maskBegin, size),
    dx: dx && partOf(dx, dtype, first, size),
    dWeight: dWeight && partOf(dWeight, arithmeticOf(dtype), index * channels, channels),
    dBias: dBias && partOf(dBias, arithmeticOf(dtype), index * channels, channels),
    dResidual: dResidual && partOf(dResidual, dtype, first, size),
  };
}

function addUp<T extends TensorArray>(
  { dWeight, dBias }: BackwardPass<T>,
  number: number,
  ofGroups: GradientsOfGroups<T>,
): void {
  if (dWeight && ofGroups.dWeight) sumGroups(dWeight, number, ofGroups.dWeight);
  if (dBias && ofGroups.dBias) sumGroups(dBias, number, ofGroups.dBias);
}

/** In double, in the order of the groups. */
function sumGroups(target: FloatArray, number: number, ofGroups: FloatArray): void {
  const channels = lengthOf(target);
  const sums = newArray<Float64Array>('float64', channels);
  for (let i = 0; i < number; i++) for (let c = 0; c < channels; c++) sums[c] += ofGroups[i * channels + c];
  copyInto(target, sums);
}

function checkAllVary(number: number, list: Groups['list']): void {
  for (let i = 0; i < number; i++) checkVaries(list[i].variance);
}
