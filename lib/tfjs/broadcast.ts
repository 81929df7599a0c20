// TensorFlow.js gives mean, variance, scale and offset shapes that broadcast to that of x: [C], [1, C, 1, 1], or that of x.
import { describeShape, rangeError } from '../errors.js';
import type { Geometry } from '../validate.js';

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
        throw rangeError(
          `${name}.shape`,
          `broadcast to ${describeShape(x)} (the shape of x)`,
          describeShape(shape),
        );
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

function indicesOf(shape: readonly number[], block: readonly number[]): Indices {
  if (sizeOf(shape) === sizeOf(block)) return undefined;
  const indices = new Int32Array(sizeOf(block));
  let stride = 1;
  let repeats = 1;
  for (let axis = block.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1)
      for (let i = 0; i < indices.length; i++) indices[i] += (Math.floor(i / repeats) % block[axis]) * stride;
    stride *= shape[axis];
    repeats *= block[axis];
  }
  return indices;
}

/** The value of a parameter for each channel. */
export function spread(values: Float32Array, indices: Indices): Float32Array {
  return indices === undefined ? values : Float32Array.from(indices, (index) => values[index]);
}

/** The gradient of {@link spread}: what channels share adds up. */
export function gather(values: ArrayLike<number>, indices: Indices, sums: Float32Array): void {
  if (indices === undefined) {
    sums.set(values);
    return;
  }
  const exact = new Float64Array(sums.length);
  for (let i = 0; i < indices.length; i++) exact[indices[i]] += values[i];
  sums.set(exact);
}

/** The number of values that a shape has. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((size, dimension) => size * dimension, 1);
}
