import vm from 'node:vm';
import { expect, it } from 'vitest';
import { capabilities, type FloatArray } from '../../lib/index.js';
import type { Random } from './random.js';
import type { Extents } from './reference.js';

/** Those that are computed in. */
export type FloatDType = 'float32' | 'float64';

export const dtypes: readonly FloatDType[] = ['float32', 'float64'];
export const bytesPerValue = { float32: 4, float64: 8 } as const;

const constructors = { float32: Float32Array, float64: Float64Array } as const;

export function zeros(dtype: FloatDType, length: number): FloatArray {
  return new constructors[dtype](length);
}

/** The values in a new array of that dtype: its buffer has exactly their size. */
export function typed(dtype: FloatDType, values: ArrayLike<number>): FloatArray {
  return constructors[dtype].from(values);
}

export function generate(dtype: FloatDType, length: number, value: (index: number) => number): FloatArray {
  const array = zeros(dtype, length);
  for (let i = 0; i < length; i++) array[i] = value(i);
  return array;
}

/** A copy that starts byteOffset bytes into a buffer that ends with it. */
export function atOffset(values: FloatArray, byteOffset: number): FloatArray {
  const buffer = new ArrayBuffer(byteOffset + values.byteLength);
  const view =
    values instanceof Float32Array
      ? new Float32Array(buffer, byteOffset)
      : new Float64Array(buffer, byteOffset);
  view.set(values);
  return view;
}

/** A copy in shared memory. */
export function shared(values: FloatArray): FloatArray {
  const buffer = new SharedArrayBuffer(values.byteLength);
  const view = values instanceof Float32Array ? new Float32Array(buffer) : new Float64Array(buffer);
  view.set(values);
  return view;
}

const realm = vm.createContext();

/** A copy made by another realm's constructor: `instanceof Float32Array` is false for it. */
export function foreign(values: FloatArray): FloatArray {
  const name = values instanceof Float32Array ? 'Float32Array' : 'Float64Array';
  const view = vm.runInContext(`new ${name}(${values.length})`, realm) as FloatArray;
  view.set(values);
  return view;
}

const canary = 0xa5;

/** An array for results in the midst of a buffer whose other bytes must keep their value. */
export function guarded(
  dtype: FloatDType,
  length: number,
  byteOffset = 0,
): { view: FloatArray; expectIntact: () => void } {
  const margin = 256;
  const start = margin + byteOffset;
  const end = start + length * bytesPerValue[dtype];
  const bytes = new Uint8Array(end + margin).fill(canary);
  return {
    view: new constructors[dtype](bytes.buffer, start, length),
    expectIntact() {
      const isDamaged = (byte: number) => byte !== canary;
      expect(bytes.subarray(0, start).findLastIndex(isDamaged), 'a byte before out was written').toBe(-1);
      expect(bytes.subarray(end).findIndex(isDamaged), 'a byte after out was written').toBe(-1);
    },
  };
}

/** Runs the action and expects it to leave every one of the arrays as it was. */
export function expectUnmodified<R>(arrays: Record<string, FloatArray | undefined>, action: () => R): R {
  const entries = Object.entries(arrays).filter(
    (entry): entry is [string, FloatArray] => entry[1] !== undefined,
  );
  const before = entries.map(([, array]) => array.slice());
  const result = action();
  entries.forEach(([name, array], i) => {
    expectSame(array, before[i], name);
  });
  return result;
}

export function extentsOf(shape: readonly number[], axis: number): Extents {
  const at = axis < 0 ? axis + shape.length : axis;
  const product = (sizes: readonly number[]) => sizes.reduce((total, size) => total * size, 1);
  return { outer: product(shape.slice(0, at)), channels: shape[at], inner: product(shape.slice(at + 1)) };
}

export function sizeOf({ outer, channels, inner }: Extents): number {
  return outer * channels * inner;
}

export function channelAt({ channels, inner }: Extents): (index: number) => number {
  return (index) => Math.floor(index / inner) % channels;
}

/** The values of one channel, in memory order. */
export function channelValues(x: ArrayLike<number>, extents: Extents, channel: number): Float64Array {
  const { outer, channels, inner } = extents;
  const values = new Float64Array(outer * inner);
  for (let o = 0; o < outer; o++) {
    const start = (o * channels + channel) * inner;
    for (let i = 0; i < inner; i++) values[o * inner + i] = x[start + i];
  }
  return values;
}

/** A tensor from the value of channel c at its own position j = outer index · inner + inner index. */
export function fromChannels(
  dtype: FloatDType,
  { outer, channels, inner }: Extents,
  value: (channel: number, position: number) => number,
): FloatArray {
  const x = zeros(dtype, outer * channels * inner);
  for (let c = 0; c < channels; c++) {
    for (let o = 0; o < outer; o++) {
      const start = (o * channels + c) * inner;
      for (let i = 0; i < inner; i++) x[start + i] = value(c, o * inner + i);
    }
  }
  return x;
}

/** Normally distributed values, with another mean and spread in every channel. */
export function randomActivations(random: Random, dtype: FloatDType, extents: Extents): FloatArray {
  const means = Array.from({ length: extents.channels }, () => random.normal(0, 2));
  const stds = Array.from({ length: extents.channels }, () => random.uniform(0.25, 3));
  return fromChannels(dtype, extents, (c) => random.normal(means[c], stds[c]));
}

export function randomNormals(random: Random, dtype: FloatDType, length: number): FloatArray {
  return generate(dtype, length, () => random.normal());
}

export interface Parameters {
  readonly weight: FloatArray;
  readonly bias: FloatArray;
}

export function randomParameters(random: Random, dtype: FloatDType, channels: number): Parameters {
  return {
    weight: generate(dtype, channels, () => random.normal(1, 0.5)),
    bias: generate(dtype, channels, () => random.normal()),
  };
}

export interface Statistics {
  readonly mean: FloatArray;
  readonly variance: FloatArray;
}

export function randomStatistics(random: Random, channels: number): Statistics {
  return {
    mean: Float64Array.from({ length: channels }, () => random.normal(0, 2)),
    variance: Float64Array.from({ length: channels }, () => random.uniform(0.1, 4)),
  };
}

/** Any rank from 1 to 5 with the channel axis anywhere in it, counted from either end. */
export function randomShape(random: Random): { shape: number[]; axis: number } {
  const rank = random.integer(1, 5);
  const longest = [300, 70, 17, 9, 6][rank - 1];
  const shape = Array.from({ length: rank }, () => random.integer(1, longest));
  const axis = random.integer(0, rank - 1);
  return { shape, axis: random.pick([axis, axis - rank]) };
}

export const channelCounts = [1, 3, 15, 16, 17, 100] as const;

/** Every outer size with every inner size, and the longer batches of channels-last. */
export const allExtents: readonly { readonly outer: number; readonly inner: number }[] = [
  ...[1, 2, 3, 17].flatMap((outer) => [1, 2, 7, 49, 1000].map((inner) => ({ outer, inner }))),
  { outer: 49, inner: 1 },
  { outer: 1000, inner: 1 },
];

/** 2^k − 1, 2^k and 2^k + 1 for each exponent from first to last. */
export function nearPowersOfTwo(first: number, last: number): number[] {
  const sizes = new Set<number>();
  for (let k = first; k <= last; k++) for (const size of [2 ** k - 1, 2 ** k, 2 ** k + 1]) sizes.add(size);
  return [...sizes];
}

/** The two layouts: one axis after the channels, or none. */
export interface Layout {
  readonly name: 'channels-first' | 'channels-last' | 'short planes';
  readonly axis: number;
  readonly shape: (samples: number, channels: number, positions: number) => number[];
}

export const layouts: readonly Layout[] = [
  {
    name: 'channels-first',
    axis: 1,
    shape: (samples, channels, positions) => [samples, channels, positions],
  },
  {
    name: 'channels-last',
    axis: -1,
    shape: (samples, channels, positions) => [samples, positions, channels],
  },
];

/** As many values per channel, in planes so short that their values are summed side by side. */
const shortPlanes: Layout = {
  name: 'short planes',
  axis: 1,
  shape: (samples, channels, positions) => {
    const count = samples * positions;
    const plane = [6, 5, 4, 3, 2].find((size) => count % size === 0 && count >= size * size) ?? 1;
    return [count / plane, channels, plane];
  },
};

/** All ways to sum a channel. */
export const summedLayouts: readonly Layout[] = [...layouts, shortPlanes];

/**
 * 26 MB: large enough for stores that bypass the caches, with planes that end inside a cache line. There are no such
 * stores in WebAssembly, so one sample does there.
 */
export function beyondCaches(dtype: FloatDType, layout: Layout): number[] {
  const samples = capabilities().backend === 'wasm' ? 1 : 44 / bytesPerValue[dtype];
  return layout.shape(Math.ceil(samples), 13, 45_001);
}

export interface Kind {
  readonly dtype: FloatDType;
  readonly layout: Layout;
}

/** Every dtype in both layouts. */
export const kinds: readonly Kind[] = dtypes.flatMap((dtype) => layouts.map((layout) => ({ dtype, layout })));

/** A test for each dtype and each way to sum. */
export function eachSummedKind(title: string, test: (kind: Kind) => void): void {
  for (const dtype of dtypes)
    for (const layout of summedLayouts)
      it(`${dtype} ${layout.name}: ${title}`, () => test({ dtype, layout }));
}

/** A test for each of them. */
export function eachKind(title: string, test: (kind: Kind) => void): void {
  for (const kind of kinds) it(`${kind.dtype} ${kind.layout.name}: ${title}`, () => test(kind));
}

/** Equal bits, except that one NaN is like another. */
export function expectSame(actual: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  expect(actual.length, `length of ${what}`).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    if (!Object.is(actual[i], expected[i])) expect(actual[i], `${what}[${i}]`).toBe(expected[i]);
  }
}

/** Every value within its tolerance of what is expected; NaN and infinities must be met exactly. */
export function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number | ((index: number) => number),
  what: string,
): void {
  expect(actual.length, `length of ${what}`).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    const allowed = typeof tolerance === 'number' ? tolerance : tolerance(i);
    const error = Math.abs(actual[i] - expected[i]);
    if (!(error <= allowed) && !Object.is(actual[i], expected[i])) {
      expect.fail(`${what}[${i}] must be ${expected[i]} ± ${allowed}, got ${actual[i]}`);
    }
  }
}

export function largest(values: ArrayLike<number>): number {
  let result = 0;
  for (let i = 0; i < values.length; i++) result = Math.max(result, Math.abs(values[i]));
  return result;
}

/** Rounding allowed to a dtype, as a share of the largest value or of the terms that are added up. */
export const rounding = { float32: 1e-6, float64: 1e-12 } as const;

/** Expects an error of ours: that class exactly, or any where none is named. Its wording has tests of its own. */
export function expectError(
  action: () => unknown,
  type?: typeof Error | typeof TypeError | typeof RangeError,
): void {
  let thrown: unknown;
  try {
    action();
  } catch (error) {
    thrown = error;
  }
  expect(thrown, 'what was thrown').toBeInstanceOf(type ?? Error);
  if (type === Error) {
    expect(thrown).not.toBeInstanceOf(TypeError);
    expect(thrown).not.toBeInstanceOf(RangeError);
  }
  expect((thrown as { code?: unknown }).code).toMatch(/^ERR_BATCHNORM_[A-Z0-9_]+$/);
}

/** The derivative of a loss by one value, from both sides. */
export function differenceOf(loss: () => number) {
  return (array: FloatArray, i: number): number => {
    const [value, step] = [array[i], 1e-5];
    array[i] = value + step;
    const more = loss();
    array[i] = value - step;
    const less = loss();
    array[i] = value;
    return (more - less) / (2 * step);
  };
}
