// What the functions read of x and their options.
import { type Activation, checkActivation } from './activation.js';
import type { DType, FloatArray, TensorLike } from './types.js';
import {
  checkAxis,
  checkEps,
  checkPerChannel,
  type Geometry,
  geometryOf,
  type NamedArrays,
  type ReadTensor,
  readResidual,
  readShape,
  toDtype,
} from './validate.js';

/** What all passes take. */
export interface PassOptions<T extends FloatArray> {
  /** The channel axis; −1 is the last. Default 1. */
  axis?: number;
  /** Added to the variance under the root, from 0 on. Default 1e-5. With 0 a channel of variance 0 is an error. */
  eps?: number;
  /** One value per channel. Default, and for null: 1 for each. */
  weight?: FloatArray | null;
  /** One value per channel. Default, and for null: 0 for each. */
  bias?: FloatArray | null;
  /** What follows the normalization, in the same pass over memory. Default: nothing. */
  activation?: Activation;
  /** Added before the activation: in the dtype and shape of x. Default: nothing. */
  residual?: TensorLike<T>;
  /**
   * Where the result goes: an array of the result's length and dtype, which becomes the `data` of the returned tensor.
   * It may be the input's own memory (in place), or overlap nothing. Default: a new array.
   */
  out?: T;
}

export const defaultEps = 1e-5;
export const passNames = ['axis', 'eps', 'weight', 'bias', 'activation', 'residual', 'out'];

/** What every pass reads of x and its options, checked but for lengths of data. */
export interface ReadPass<T extends FloatArray> {
  input: ReadTensor<T>;
  dtype: DType;
  /** As it was given; −1 is the last. */
  axis: number;
  geometry: Geometry;
  eps: number;
  weight: T | undefined;
  bias: T | undefined;
  relu: boolean;
  residual: ReadTensor<T> | undefined;
  /** The caller's own per-channel arrays, which a result must not overlap. */
  given: NamedArrays;
}

/** @param wanted what x must be; undefined for either. */
export function readPass<T extends FloatArray>(
  x: unknown,
  options: PassOptions<T>,
  wanted?: DType,
): ReadPass<T> {
  const { axis = 1, eps = defaultEps, weight, bias, activation, residual } = options;
  const input = readShape<T>('x', x, wanted);
  const { dtype } = input;
  const geometry = geometryOf(input, checkAxis(axis));
  const { channels } = geometry;
  const perChannel = (name: string, value: unknown) =>
    value === undefined || value === null
      ? undefined
      : toDtype<T>(checkPerChannel(name, value, channels), dtype);
  return {
    input,
    dtype,
    axis,
    geometry,
    eps: checkEps(eps),
    weight: perChannel('weight', weight),
    bias: perChannel('bias', bias),
    relu: checkActivation(activation) !== undefined,
    residual: residual === undefined ? undefined : readResidual<T>(residual, input),
    given: { weight, bias },
  };
}
