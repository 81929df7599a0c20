import { BatchNorm, type StateDict } from 'batchnorm';
import { eps } from '../contender.js';

/** Results are inputs again where memory is handed over: with this state they neither grow nor become subnormal. */
export function neutralState(channels: number): StateDict {
  const state = new BatchNorm(channels, { eps }).stateDict();
  return { ...state, running_var: new Float64Array(channels).fill(1 - eps) };
}

/** Values of a tensor. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((size, dimension) => size * dimension, 1);
}

/** Fills an array with values that repeat late and are of both signs. */
export function fill(values: Float32Array): Float32Array {
  for (let i = 0; i < values.length; i++) values[i] = ((i * 7919) % 4093) / 2048 - 1;
  return values;
}
