// The functions: no state.

import { type Activation, checkActivation } from './activation.js';
import { passesFor } from './backend/index.js';
import { namesOf, propertiesOf } from './properties.js';
import { newResult } from './result.js';
import { updateRunningArrays } from './running.js';
import type { DType, FloatArray, Tensor, TensorLike } from './types.js';
import {
  channelsOf,
  checkApart,
  checkAxis,
  checkBoolean,
  checkEps,
  checkFraction,
  checkInteger,
  checkLength,
  checkObject,
  checkOut,
  checkPerChannel,
  checkSameShape,
  checkVariance,
  type Geometry,
  geometryOf,
  type NamedArrays,
  newArray,
  type ReadTensor,
  readOptions,
  readResidual,
  readShape,
  toDtype,
} from './validate.js';

/** What all passes take. */
export interface PassOptions<T extends FloatArray> {
  /** The channel axis; −1 is the last. Default 1. */
  axis?: number;
  /** Added to the variance under the root. Positive and finite. Default 1e-5. */
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

/** What {@link forwardInference} takes. */
export interface ForwardInferenceOptions<T extends FloatArray> extends PassOptions<T> {
  /** One value per channel. */
  mean: FloatArray;
  /** One value per channel, none negative: biased, as in a forward pass. */
  variance: FloatArray;
}

/** What {@link backward} takes: what its forward pass was given, and the statistics. */
export interface BackwardOptions<T extends FloatArray> extends ForwardInferenceOptions<T> {
  /**
   * true: `mean` and `variance` are those of x, and carry gradient. false: they are constants (running statistics).
   * Default true.
   */
  training?: boolean;
}

/** What {@link forwardTraining} returns. */
export interface TrainingResult<T extends FloatArray> {
  /** In the dtype and shape of x. */
  y: Tensor<T>;
  /** Per channel. */
  mean: Float64Array;
  /** Per channel, biased: divided by `count`. */
  variance: Float64Array;
  /** Values per channel. */
  count: number;
}

/** What {@link backward} returns. */
export interface Gradients<T extends FloatArray> {
  /** In the dtype and shape of x. */
  dx: Tensor<T>;
  /** Per channel: the gradient of the weight. */
  dWeight: T;
  /** Per channel: the gradient of the bias. */
  dBias: T;
  /** The gradient of the residual, where there is one: dy as the activation lets it through. Always memory of its own. */
  dResidual?: Tensor<T>;
}

/** Statistics of one batch, as {@link forwardTraining} returns them. */
export interface BatchStats {
  /** One value per channel. */
  mean: FloatArray;
  /** One value per channel, biased: divided by `count`. */
  variance: FloatArray;
  /** Values per channel. */
  count: number;
}

/** What {@link updateRunningStats} writes to. */
export interface RunningStats {
  /** One value per channel. */
  runningMean: FloatArray;
  /** One value per channel, none negative. */
  runningVar: FloatArray;
}

/** How {@link updateRunningStats} mixes old and new. */
export interface RunningStatsOptions {
  /** Weight of the old running value, from 0 to 1. Default 0.9. */
  decay?: number;
  /** Store variance * count / (count - 1) rather than the biased variance. Default true. */
  unbiasedRunningVar?: boolean;
}

const defaultEps = 1e-5;
const passNames = ['axis', 'eps', 'weight', 'bias', 'activation', 'residual', 'out'];
const trainingNames = namesOf([...passNames]);
const inferenceNames = namesOf([...passNames, 'mean', 'variance']);
const backwardNames = namesOf([...passNames, 'mean', 'variance', 'training']);
const runningNames = namesOf(['runningMean', 'runningVar']);
const batchNames = namesOf(['mean', 'variance', 'count']);
const updateNames = namesOf(['decay', 'unbiasedRunningVar']);

/** What every pass reads of x and its options, checked but for lengths of data. */
interface ReadPass<T extends FloatArray> {
  input: ReadTensor<T>;
  dtype: DType;
  geometry: Geometry;
  eps: number;
  weight: T | undefined;
  bias: T | undefined;
  relu: boolean;
  residual: ReadTensor<T> | undefined;
  /** The caller's own per-channel arrays, which a result must not overlap. */
  given: NamedArrays;
}

function readPass<T extends FloatArray>(x: unknown, options: PassOptions<T>): ReadPass<T> {
  const { axis = 1, eps = defaultEps, weight, bias, activation, residual } = options;
  const input = readShape<T>('x', x);
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
    geometry,
    eps: checkEps(eps),
    weight: perChannel('weight', weight),
    bias: perChannel('bias', bias),
    relu: checkActivation(activation) !== undefined,
    residual: residual === undefined ? undefined : readResidual<T>(residual, input),
    given: { weight, bias },
  };
}

/** `out`, or a new array. Its checks come last: no code of the caller's runs after them. */
function resultFor<T extends FloatArray>(
  out: T | undefined,
  inPlace: ReadTensor<T>,
  residual: ReadTensor<T> | undefined,
  others: NamedArrays,
): T {
  checkLength(inPlace);
  if (residual !== undefined) checkLength(residual);
  if (out === undefined) return newResult(inPlace.dtype, inPlace.size);
  checkOut(out, inPlace);
  checkApart('out', out, others);
  return out;
}

/**
 * Normalizes x with the mean and the biased variance of each channel: y = (x − mean) / √(variance + eps) · weight + bias
 * (Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1), plus the residual, through the activation.
 *
 * One value per channel is allowed (variance 0). An empty x gives an empty y and NaN statistics. A channel with a value
 * that is not finite has statistics that are not, and touches no other channel. A variance that a double cannot hold is
 * Infinity.
 *
 * @param x any rank from 1 to 64, with at least one channel.
 * @param options axis 1, eps 1e-5, weight 1 and bias 0 by default.
 * @returns y in the dtype and shape of x; statistics in double.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
 *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, Error
 *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where a getter of the arguments takes the memory of an array away; then nothing is
 *   written.
 * @example
 * import { forwardTraining } from 'batchnorm';
 *
 * const x = { data: Float32Array.of(1, 10, 3, 30), shape: [2, 2] }; // two samples of two channels
 * const { y, mean, variance, count } = forwardTraining(x, { eps: 1e-12 });
 * console.log(mean, variance, count); // Float64Array(2) [ 2, 20 ] Float64Array(2) [ 1, 100 ] 2
 * console.log(y.data); // Float32Array(4) [ -1, -1, 1, 1 ]
 */
export function forwardTraining<T extends FloatArray>(
  x: TensorLike<T>,
  options: PassOptions<T> = {},
): TrainingResult<T> {
  const read = readOptions(options, trainingNames);
  const { out } = read;
  const { input, dtype, geometry, eps, weight, bias, relu, residual, given } = readPass(x, read);
  const y = resultFor(out, input, residual, given);
  const mean = newArray<Float64Array>('float64', geometry.channels);
  const variance = newArray<Float64Array>('float64', geometry.channels);
  passesFor<T>(dtype).forwardTraining({
    geometry,
    eps,
    x: input.data,
    y,
    weight,
    bias,
    mean,
    variance,
    relu,
    residual: residual?.data,
    mask: undefined,
  });
  return { y: { data: y, shape: input.shape }, mean, variance, count: geometry.outer * geometry.inner };
}

/**
 * Normalizes x with given statistics: y = activation((x − mean) / √(variance + eps) · weight + bias + residual).
 *
 * An empty x gives an empty y.
 *
 * @param x any rank from 1 to 64, with at least one channel.
 * @param options `mean` and `variance` must be there; axis 1, eps 1e-5, weight 1 and bias 0 by default.
 * @returns y in the dtype and shape of x.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
 *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, Error
 *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where a getter of the arguments takes the memory of an array away; then nothing is
 *   written.
 * @example
 * import { forwardInference } from 'batchnorm';
 *
 * const x = { data: Float32Array.of(1, 10, 3, 30), shape: [2, 2] };
 * const statistics = { mean: Float64Array.of(1, 10), variance: Float64Array.of(1, 100) };
 * console.log(forwardInference(x, { ...statistics, eps: 1e-12 }).data); // Float32Array(4) [ 0, 0, 2, 2 ]
 */
export function forwardInference<T extends FloatArray>(
  x: TensorLike<T>,
  options: ForwardInferenceOptions<T>,
): Tensor<T> {
  checkObject('options', options);
  const read = readOptions(options, inferenceNames);
  const { mean, variance, out } = read;
  const { input, dtype, geometry, eps, weight, bias, relu, residual, given } = readPass(x, read);
  const stats = statsOf(mean, variance, geometry.channels);
  const y = resultFor(out, input, residual, { ...given, mean, variance });
  passesFor<T>(dtype).forwardInference({
    geometry,
    eps,
    x: input.data,
    y,
    weight,
    bias,
    mean: stats.mean,
    variance: stats.variance,
    relu,
    residual: residual?.data,
    mask: undefined,
  });
  return { data: y, shape: input.shape };
}

/**
 * The gradients of a forward pass over x with the same options.
 *
 * With r = 1 / √(variance + eps), x̂ = (x − mean) · r and M values per channel: dBias = Σdy, dWeight = Σdy·x̂,
 * dx = weight · r · (dy − dBias / M − x̂ · dWeight / M) in training and dx = weight · r · dy otherwise. With a ReLU, dy
 * is 0 in all of this where y is not above zero; which it is, is computed again.
 *
 * @param dy the gradient of y, of the dtype and shape of x.
 * @param x the input of the forward pass.
 * @param options `mean` and `variance` are those of the forward pass; `out` is for dx and may be dy's own memory; `bias`
 *   has an effect only with an activation.
 * @returns dx in the dtype and shape of x; dWeight and dBias in its dtype, one value per channel.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
 *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, Error
 *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where a getter of the arguments takes the memory of an array away; then nothing is
 *   written.
 * @example
 * import { backward, forwardTraining } from 'batchnorm';
 *
 * const x = { data: Float32Array.of(1, 10, 3, 30), shape: [2, 2] };
 * const { mean, variance } = forwardTraining(x, { eps: 1e-12 });
 * const dy = { data: Float32Array.of(1, 1, 1, 3), shape: [2, 2] };
 * const { dWeight, dBias } = backward(dy, x, { mean, variance, eps: 1e-12 });
 * console.log(dWeight, dBias); // Float32Array(2) [ 0, 2 ] Float32Array(2) [ 2, 4 ]
 */
export function backward<T extends FloatArray>(
  dy: TensorLike<T>,
  x: TensorLike<T>,
  options: BackwardOptions<T>,
): Gradients<T> {
  checkObject('options', options);
  const read = readOptions(options, backwardNames);
  const { mean, variance, training = true, out } = read;
  const { input, dtype, geometry, eps, weight, bias, relu, residual, given } = readPass(x, read);
  const { channels } = geometry;
  const gradient = readShape<T>('dy', dy, dtype);
  checkSameShape(gradient, 'x', input.shape);
  checkBoolean('training', training);
  const stats = statsOf(mean, variance, channels);
  checkLength(input);
  const dx = resultFor(out, gradient, residual, { ...given, mean, variance });
  const dWeight = newArray<T>(dtype, channels);
  const dBias = newArray<T>(dtype, channels);
  const dResidual = residual && newResult<T>(dtype, input.size);
  passesFor<T>(dtype).backward({
    geometry,
    eps,
    training,
    dy: gradient.data,
    x: input.data,
    mean: stats.mean,
    variance: stats.variance,
    weight,
    bias,
    relu,
    residual: residual?.data,
    mask: undefined,
    dx,
    dWeight,
    dBias,
    dResidual,
  });
  return {
    dx: { data: dx, shape: input.shape },
    dWeight,
    dBias,
    ...(dResidual && { dResidual: { data: dResidual, shape: input.shape } }),
  };
}

/**
 * running = decay · running + (1 − decay) · batch, in place, computed in double.
 *
 * Nothing changes where `count` is 0, and runningVar stays as it is where `count` is 1 and the unbiased variance does
 * not exist. A channel is left alone where its batch is not finite, and where its new mean or variance would not be
 * finite in the array that takes it.
 *
 * @param running runningMean and runningVar, one value per channel; these arrays are written.
 * @param batch what {@link forwardTraining} returned.
 * @param options decay 0.9 and the unbiased variance by default, as PyTorch.
 * @returns the number of channels left alone.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
 *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit; then
 *   nothing is written.
 * @example
 * import { forwardTraining, updateRunningStats } from 'batchnorm';
 *
 * const running = { runningMean: new Float64Array(2), runningVar: Float64Array.of(1, 1) };
 * const x = { data: Float32Array.of(1, 10, 3, 30), shape: [2, 2] };
 * updateRunningStats(running, forwardTraining(x), { decay: 0.5 });
 * console.log(running.runningMean); // Float64Array(2) [ 1, 10 ]
 * console.log(running.runningVar); // Float64Array(2) [ 1.5, 100.5 ]
 */
export function updateRunningStats(
  running: RunningStats,
  batch: BatchStats,
  options: RunningStatsOptions = {},
): number {
  checkObject('running', running);
  checkObject('batch', batch);
  const { runningMean, runningVar } = propertiesOf(running, runningNames);
  const { mean, variance, count } = propertiesOf(batch, batchNames);
  const { decay = 0.9, unbiasedRunningVar = true } = readOptions(options, updateNames);
  const channels = channelsOf('runningMean', runningMean);
  checkVariance('runningVar', runningVar, channels);
  const stats = statsOf(mean, variance, channels);
  checkInteger('count', count, 0, Number.MAX_SAFE_INTEGER);
  checkApart('runningMean', runningMean, { runningVar, mean, variance });
  checkApart('runningVar', runningVar, { mean, variance });
  checkFraction('decay', decay);
  checkBoolean('unbiasedRunningVar', unbiasedRunningVar);
  if (count === 0) return 0;
  return updateRunningArrays(
    stats.mean,
    stats.variance,
    channels,
    count,
    decay,
    unbiasedRunningVar,
    runningMean,
    runningVar,
  );
}

function statsOf(mean: unknown, variance: unknown, channels: number) {
  return {
    mean: toDtype<Float64Array>(checkPerChannel('mean', mean, channels), 'float64'),
    variance: toDtype<Float64Array>(checkVariance('variance', variance, channels), 'float64'),
  };
}
