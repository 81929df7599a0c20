// Ghost batch norm (Hoffer, Hubara and Soudry, "Train longer, generalize better", 2017): groups of samples, each normalized by itself.
import { type BackwardPass, type ForwardPass, maskBytes, type Passes, type Slot } from './backend/backend.js';
import { backend } from './backend/index.js';
import { isShared } from './handover.js';
import { type Moments, momentsOf } from './moments.js';
import { operateAll } from './operations.js';
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
import type { DType, FloatArray } from './types.js';
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
  /** What a ReLU after a residual lets through: bits that begin with the group. */
  readonly mask: Uint8Array | undefined;
}

/** The groups of a forward. */
export interface Groups {
  readonly number: number;
  readonly list: Readonly<Record<number, Group>>;
}

const { create } = Object;
const { ceil } = Math;

/** undefined where there is but one group: the batch. A last group of one value per channel is a part of the group before. */
export function divisionOf(
  shape: readonly number[],
  { outer, inner }: Geometry,
  size: number,
): Division | undefined {
  const samples = shape[0];
  if (outer * inner === 0 || samples <= size) return undefined;
  const perSample = (outer * inner) / samples;
  let groups = ceil(samples / size);
  if ((samples - (groups - 1) * size) * perSample === 1) groups--;
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

/** @param masks of {@link groupMaskBytes}. */
export function groupsOf(
  { groups, samples, lastSamples, perSample }: Division,
  { channels, inner }: Geometry,
  masks: Uint8Array | undefined,
): Groups {
  const statistics = newArray<Float64Array>('float64', 2 * groups * channels);
  const list: Record<number, Group> = create(null);
  let first = 0;
  let maskBegin = masks ? extentOf(masks).begin : 0;
  for (let i = 0; i < groups; i++) {
    const values = (i < groups - 1 ? samples : lastSamples) * perSample;
    const size = values * channels;
    list[i] = {
      geometry: { outer: values / inner, channels, inner },
      first,
      size,
      mean: partOf(statistics, 'float64', 2 * i * channels, channels),
      variance: partOf(statistics, 'float64', (2 * i + 1) * channels, channels),
      mask: masks && viewOfBytes(bufferOf(masks), maskBegin, maskBytes(size)),
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

/**
 * Whether a result may lie over what another group of an input has, unseen by passes over single groups: two SharedArrayBuffer
 * objects can be one memory.
 */
export function mayOverlap(
  result: FloatArray | undefined,
  first: FloatArray,
  second: FloatArray | undefined,
): result is FloatArray {
  if (result === undefined || !isShared(result)) return false;
  const isOther = (input: FloatArray) => isShared(input) && !shareBuffer(result, input);
  return isOther(first) || (second !== undefined && isOther(second));
}

/** A forward pass in training. */
export function forwardGroups<T extends FloatArray>(
  passes: Passes<T>,
  pass: ForwardPass<T>,
  dtype: DType,
  { number, list }: Groups,
): boolean {
  const isFused = pass.eps > 0;
  if (!isFused) {
    for (let i = 0; i < number; i++) passes.moments(forwardPart(pass, dtype, list[i]));
    checkAllVary(number, list);
  }
  return backend.inParts(byteLengthOf(pass.y), () => {
    let inPlace = false;
    for (let i = 0; i < number; i++) {
      const part = forwardPart(pass, dtype, list[i]);
      inPlace = isFused ? passes.forwardTraining(part) : passes.forwardInference(part);
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
export async function forwardGroupsLater<T extends FloatArray, R>(
  passes: Passes<T>,
  eps: number,
  dtype: DType,
  { number, list }: Groups,
  signal: AbortSignal | undefined,
  take: () => ForwardPass<T>,
  finish: (inPlace: boolean) => R,
): Promise<R> {
  let pass: ForwardPass<T> | undefined;
  let inPlace = false;
  const step = (
    stepSignal: AbortSignal | undefined,
    compute: (part: ForwardPass<T>, slot: Slot) => unknown,
  ) =>
    operateAll(stepSignal, number, (index, slot) => {
      pass ??= take();
      const part = forwardPart(pass, dtype, list[index]);
      backend.inParts(byteLengthOf(pass.y), () => compute(part, slot));
      return part;
    });
  if (eps > 0)
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

/** A backward pass behind {@link forwardGroups}. */
export function throughGroups<T extends FloatArray>(
  passes: Passes<T>,
  pass: BackwardPass<T>,
  dtype: DType,
  groups: Groups,
): void {
  const gradients = roomFor(pass, dtype, groups);
  backend.inParts(byteLengthOf(pass.x), () => {
    for (let i = 0; i < groups.number; i++)
      passes.backward(backwardPart(pass, dtype, groups.list[i], i, gradients));
  });
  addUp(pass, groups.number, gradients);
}

/** {@link throughGroups} off the event loop; `take` gives the pass, when its turn has come. */
export async function throughGroupsLater<T extends FloatArray, R>(
  passes: Passes<T>,
  dtype: DType,
  groups: Groups,
  signal: AbortSignal | undefined,
  take: () => BackwardPass<T>,
  finish: () => R,
): Promise<R> {
  let pass: BackwardPass<T> | undefined;
  let gradients: GradientsOfGroups<T> | undefined;
  await operateAll(signal, groups.number, (index, slot) => {
    pass ??= take();
    gradients ??= roomFor(pass, dtype, groups);
    const part = backwardPart(pass, dtype, groups.list[index], index, gradients);
    backend.inParts(byteLengthOf(pass.x), () => passes.backwardLater(part, slot));
    return part;
  });
  if (pass && gradients) addUp(pass, groups.number, gradients);
  return finish();
}

/** One value per channel of each group, those that are asked for. */
interface GradientsOfGroups<T extends FloatArray> {
  readonly dWeight: T | undefined;
  readonly dBias: T | undefined;
}

function roomFor<T extends FloatArray>(
  { geometry, dWeight, dBias }: BackwardPass<T>,
  dtype: DType,
  { number }: Groups,
): GradientsOfGroups<T> {
  const length = number * geometry.channels;
  return {
    dWeight: dWeight && newArray(dtype, length),
    dBias: dBias && newArray(dtype, length),
  };
}

function forwardPart<T extends FloatArray>(
  pass: ForwardPass<T>,
  dtype: DType,
  { geometry, first, size, mean, variance, mask }: Group,
): ForwardPass<T> {
  return {
    ...pass,
    geometry,
    x: partOf(pass.x, dtype, first, size),
    y: partOf(pass.y, dtype, first, size),
    mean,
    variance,
    residual: pass.residual && partOf(pass.residual, dtype, first, size),
    mask,
  };
}

function backwardPart<T extends FloatArray>(
  pass: BackwardPass<T>,
  dtype: DType,
  { geometry, first, size, mean, variance, mask }: Group,
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
    mask,
    dx: dx && partOf(dx, dtype, first, size),
    dWeight: dWeight && partOf(dWeight, dtype, index * channels, channels),
    dBias: dBias && partOf(dBias, dtype, index * channels, channels),
    dResidual: dResidual && partOf(dResidual, dtype, first, size),
  };
}

function addUp<T extends FloatArray>(
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
