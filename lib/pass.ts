// What the functions read of x and their options.
import { type Activation, checkActivation } from './activation.js';
import { arithmeticOf } from './dtype.js';
import { checkApart, type NamedArrays } from './overlap.js';
import { newResult } from './result.js';
import type { DType, DTypeOf, FloatArray, ParametersOf, TensorArray, TensorLike } from './types.js';
import {
  checkAxis,
  checkDtype,
  checkEps,
  checkLength,
  checkOut,
  checkPerChannel,
  type Geometry,
  geometryOf,
  type ReadTensor,
  readResidual,
  readShape,
  toDtype,
} from './validate.js';

/** What all passes take. */
export interface PassOptions<T extends TensorArray> {
  /**
   * Of x: to be said of a Uint16Array, whose bits may be bfloat16 or float16. Parameters, their gradients and all arithmetic are then
   * in float32. Default: what the data are.
   */
  dtype?: DTypeOf<T>;
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
export const passNames = ['axis', 'eps', 'weight', 'bias', 'activation', 'residual', 'out', 'dtype'];

/** What every pass reads of x and its options, checked but for lengths of data. */
export interface ReadPass<T extends TensorArray> {
  input: ReadTensor<T>;
  dtype: DType;
  /** As it was given; −1 is the last. */
  axis: number;
  geometry: Geometry;
  eps: number;
  weight: ParametersOf<T> | undefined;
  bias: ParametersOf<T> | undefined;
  relu: boolean;
  residual: ReadTensor<T> | undefined;
  /** The caller's own per-channel arrays, which a result must not overlap. */
  given: NamedArrays;
}

/** @param read x, where it has been read. */
export function readPass<T extends TensorArray>(
  x: unknown,
  options: PassOptions<T>,
  read?: ReadTensor<T>,
): ReadPass<T> {
  const { dtype: wanted, axis = 1, eps = defaultEps, weight, bias, activation, residual } = options;
  checkDtype(wanted);
  const input = read ?? readShape<T>('x', x, wanted);
  const { dtype } = input;
  const geometry = geometryOf(input, checkAxis(axis));
  const { channels } = geometry;
  const perChannel = (name: string, value: unknown) =>
    value === undefined || value === null
      ? undefined
      : toDtype<ParametersOf<T>>(checkPerChannel(name, value, channels), arithmeticOf(dtype));
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

/** Where `out` is to be written, or a new array. Its checks come last: no code of the caller's runs after them. */
export function resultFor<T extends TensorArray>(
  out: T | undefined,
  inPlace: ReadTensor<T>,
  residual: ReadTensor<T> | undefined,
  others: NamedArrays,
): T {
  checkLength(inPlace);
  if (residual !== undefined) checkLength(residual);
  if (out === undefined) return newResult(inPlace.dtype, inPlace.size);
  const result = checkOut(out, inPlace);
  checkApart('out', result, others);
  return result;
}
