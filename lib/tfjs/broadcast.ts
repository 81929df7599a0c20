// TensorFlow.js gives mean, variance, scale and offset shapes that broadcast to that of x: [C], [1, C, 1, 1], or that of x.
import { describeShape, rangeError } from '../errors.js';
import { copyInto, lengthOf, zeroIntegers } from '../typed-array.js';
import type { FloatArray } from '../types.js';
import { type Geometry, newArray } from '../validate.js';

/** Which value of a parameter each channel takes; undefined where there is one for each, in order. */
export type Indices = Int32Array | undefined;

/** The axes over which parameters vary, and all between, are the channels. */
export interface Channels extends Geometry {
  /** Of the parameters, as they were given. */
  indices: Indices[];
}

/** Shapes of parameters by their names in messages; undefined for one that is absent. */
export type ParameterShapes = Readonly<Record<string, readonly number[] | undefined>>;

/** @throws RangeError for a parameter whose shape does not broadcast to that of x. */
export function broadcast(x: readonly number[], parameters: ParameterShapes): Channels {
  let first = x.length;
  let last = -1;
  for (const [name, shape = []] of Object.entries(parameters))
    shape.forEach((dimension, i) => {
      const axis = x.length - shape.length + i;
      if (dimension === 1) return;
      if (dimension !== x[axis])
        throw rangeError(`${name}.shape`, `broadcast to ${describeTarget(x)}`, describeShape(shape));
      first = Math.min(first, axis);
      last = Math.max(last, axis);
    });
  const block = x.slice(first, last + 1);
  return {
    outer: sizeOf(x.slice(0, first)),
    channels: sizeOf(block),
    inner: sizeOf(x.slice(Math.max(first, last + 1))),
    indices: Object.values(parameters).map((shape = block) => {
      const padded = block.map((_, i) => shape[i + first - x.length + shape.length] ?? 1);
      return indicesOf(padded, block);
    }),
  };
}

/** Before tf.batchNorm calls the kernel, it puts ones in front of a shape until it has four dimensions. */
function describeTarget(x: readonly number[]): string {
  const first = x.length === 4 ? x.findIndex((dimension) => dimension !== 1) : 0;
  return first > 0
    ? `${describeShape(x.slice(first))} (the shape of x, ones in front of it aside)`
    : `${describeShape(x)} (the shape of x)`;
}

function indicesOf(shape: readonly number[], block: readonly number[]): Indices {
  if (sizeOf(shape) === sizeOf(block)) return undefined;
  const length = sizeOf(block);
  const indices = zeroIntegers(length);
  let stride = 1;
  let repeats = 1;
  for (let axis = block.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1)
      for (let i = 0; i < length; i++) indices[i] += (Math.floor(i / repeats) % block[axis]) * stride;
    stride *= shape[axis];
    repeats *= block[axis];
  }
  return indices;
}

/** The value of a parameter for each channel. */
export function spread(values: Float32Array, indices: Indices): Float32Array {
  if (indices === undefined) return values;
  const length = lengthOf(indices);
  const each = newArray<Float32Array>('float32', length);
  for (let i = 0; i < length; i++) each[i] = values[indices[i]];
  return each;
}

/** The gradient of {@link spread}: what channels share adds up. */
export function gather(values: FloatArray, indices: Indices, sums: Float32Array): void {
  if (indices === undefined) {
    copyInto(sums, values);
    return;
  }
  const exact = newArray<Float64Array>('float64', lengthOf(sums));
  const length = lengthOf(indices);
  for (let i = 0; i < length; i++) exact[indices[i]] += values[i];
  copyInto(sums, exact);
}

/** The number of values that a shape has. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((size, dimension) => size * dimension, 1);
}
