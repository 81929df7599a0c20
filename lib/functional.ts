// The functions: no state.

import { checkActivation } from './activation.js';
import { backend, passesFor } from './backend/index.js';
import { arithmeticOf, integerNamed, isInteger } from './dtype.js';
import { typeError } from './errors.js';
import { checkSums, type GradientSums, sumsError } from './gradient-sums.js';
import { checkMoments, checkWhole, evenCountOf, Moments, momentsOf } from './moments.js';
import { checkApart } from './overlap.js';
import { defaultEps, type PassOptions, passNames, readPass, resultFor } from './pass.js';
import {
  checkMissing,
  checkPresent,
  gradientOfWeights,
  type Missing,
  type PresenceOptions,
  presenceNames,
  presentPass,
  readPresence,
} from './presence.js';
import { namesOf, propertiesOf } from './properties.js';
import { newResult } from './result.js';
import { unevenBatch, updateRunningArrays } from './running.js';
import { findOwn } from './statistics.js';
import {
  checkNoneMissingStored,
  type GivenStored,
  imputedBias,
  isStored,
  readStored,
  storedPass,
  wholeOf,
} from './stored.js';
import { throughForward, throughPresent } from './through.js';
import { lengthOf, typedArrayType } from './typed-array.js';
import type {
  AnyDType,
  DType,
  DTypeOf,
  FloatArray,
  HalfArray,
  IntegerArray,
  NamedResultOf,
  ParametersOf,
  ResidualOf,
  ResultArrayOf,
  ResultDType,
  ResultOf,
  Said,
  Saying,
  Tensor,
  TensorArray,
  TensorLike,
  UnnamedResultOf,
  ValueArray,
  WrittenOf,
} from './types.js';
import {
  channelsOf,
  checkAxis,
  checkBoolean,
  checkDivisors,
  checkDtype,
  checkEps,
  checkFraction,
  checkInteger,
  checkLength,
  checkObject,
  checkPerChannel,
  checkSameShape,
  checkVariance,
  checkVaries,
  copyOf,
  geometryOf,
  inClassOf,
  newArray,
  newMemory,
  type ReadTensor,
  type ReadView,
  readOptions,
  readShape,
  readView,
  toDtype,
  viewDtypeError,
} from './validate.js';

/** What {@link forwardTraining} takes. */
export interface ForwardTrainingOptions<T extends TensorArray> extends PassOptions<T>, PresenceOptions {
  /** The statistics to normalize with, of a batch that x is a part of. Default: those of x. */
  moments?: Moments;
}

/** What {@link forwardInference} takes. */
export interface ForwardInferenceOptions<
  T extends ValueArray,
  N extends AnyDType = AnyDType,
  O extends ValueArray = ResultOf<T>,
> extends Omit<PassOptions<TensorArray>, 'dtype' | 'out' | 'residual'> {
  /**
   * Of x: to be said of a Uint16Array, whose bits may be bfloat16 or float16. Of the result where x or `out` is of integers, or where
   * `out` is a Uint16Array and x is none. Default: what the data are, and of integers float32.
   */
  dtype?: N;
  /**
   * Where the result goes: as long as x, of the class that its values shall have, as {@link RunOptions.out}. It may be the input's own
   * memory, where a result lies as x does, or overlap nothing. Default: a new array.
   */
  out?: O;
  /** Added before the activation: as {@link RunOptions.residual}. Default: nothing. */
  residual?: TensorLike<ResidualOf<T, O>>;
  /** Where the channel axis goes; −1 is the last. Default: where it is. */
  outAxis?: number;
  /** One value per channel. */
  mean: FloatArray;
  /** One value per channel, none negative: biased, as in a forward pass. */
  variance: FloatArray;
  /** What a NaN in x means. Default 'propagate'. */
  missing?: Missing;
}

/** What `dtype` may say of such an x, or of its result. */
export type InferenceDTypeOf<T extends ValueArray> = T extends TensorArray
  ? DTypeOf<T> | (T extends Float32Array ? ResultDType : never)
  : ResultDType;

/** What may be written: of bits `dtype` says what x is. */
export type InferenceResultOf<T extends ValueArray, N extends AnyDType> = [N] extends [never]
  ? UnnamedResultOf<T>
  : T extends Uint16Array
    ? Uint16Array | Float32Array
    : NamedResultOf<N>;

/** What is written where there is no `out`. */
export type DefaultInferenceResultOf<T extends ValueArray, N extends AnyDType> = T extends TensorArray
  ? T
  : [N] extends [ResultDType]
    ? [N] extends [never]
      ? Float32Array
      : ResultArrayOf<N>
    : Float32Array;

/** What `dtype` must say of such an x; and of floats, what the result is only where `out` is another array. */
export type ResultNamed<T extends ValueArray, N extends AnyDType> = [N] extends [never]
  ? unknown
  : [N] extends [InferenceDTypeOf<T>]
    ? T extends Float32Array
      ? N extends 'float32'
        ? unknown
        : {
            /** Of the class that `dtype` says. */
            readonly out: NamedResultOf<N>;
          }
      : unknown
    : {
        /** Of x. */
        readonly dtype: InferenceDTypeOf<T>;
      };

/** What {@link backward} takes: what its forward pass was given, and the statistics. */
export interface BackwardOptions<T extends TensorArray> extends PassOptions<T>, PresenceOptions {
  /** true: also `dWeights`, the gradient of `weights`. Default false. */
  weightsGrad?: boolean;
  /** One value per channel; or `moments`. */
  mean?: FloatArray;
  /** One value per channel, none negative: biased, as in a forward pass; or `moments`. */
  variance?: FloatArray;
  /** In the place of mean and variance: those of the forward pass, which also say how many values they are of. */
  moments?: Moments;
  /** Where x is a part of a batch: the sums of all parts, which dx follows from; dWeight and dBias are this part's own. */
  sums?: GradientSums;
  /**
   * true: `mean` and `variance` are those of x, and carry gradient. false: they are constants (running statistics).
   * Default true.
   */
  training?: boolean;
}

/** What {@link forwardTraining} returns. */
export interface TrainingResult<T extends TensorArray> {
  /** In the dtype and shape of x. */
  y: Tensor<T>;
  /** Per channel. */
  mean: Float64Array;
  /** Per channel, biased: divided by `count`. */
  variance: Float64Array;
  /** Values per channel that those are of; where that differs, as with weights, the most. */
  count: number;
  /** All of that, as a value. */
  moments: Moments;
}

/** What {@link backward} returns. */
export interface Gradients<T extends TensorArray> {
  /** In the dtype and shape of x. */
  dx: Tensor<T>;
  /** Per channel: the gradient of the weight; in float32 where x is of 16 bits. */
  dWeight: ParametersOf<T>;
  /** Per channel: the gradient of the bias; likewise. */
  dBias: ParametersOf<T>;
  /** The gradient of the residual, where there is one: dy as the activation lets it through. Always memory of its own. */
  dResidual?: Tensor<T>;
  /** With `weightsGrad`: as long as `weights`, in float32 where they are, else in float64. */
  dWeights?: FloatArray;
}

/** Statistics of one batch, as {@link forwardTraining} returns them. */
export interface BatchStats {
  /** One value per channel. */
  mean: FloatArray;
  /** One value per channel, biased: divided by `count`. */
  variance: FloatArray;
  /** Values per channel. */
  count: number;
  /** Where they tell channels apart, as behind weights and missing values, what they say counts. */
  moments?: Moments;
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

const trainingNames = namesOf([...passNames, 'moments', ...presenceNames]);
const inferenceNames = namesOf([...passNames, 'mean', 'variance', 'missing', 'outAxis']);
const backwardNames = namesOf([
  ...passNames,
  'mean',
  'variance',
  'training',
  'moments',
  'sums',
  ...presenceNames,
  'weightsGrad',
]);
const runningNames = namesOf(['runningMean', 'runningVar']);
const batchNames = namesOf(['mean', 'variance', 'count', 'moments']);
const updateNames = namesOf(['decay', 'unbiasedRunningVar']);

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
 *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, Error
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
export function forwardTraining<T extends Said<N>, N extends DType = never>(
  x: TensorLike<T>,
  options: ForwardTrainingOptions<T> & Saying<N> = {},
): TrainingResult<T> {
  const read = readOptions(options, trainingNames);
  const { out, moments, weights, outside, missing } = read;
  const { input, dtype, axis, geometry, eps, weight, bias, relu, residual, given } = readPass(x, read);
  const { channels } = geometry;
  const present = readPresence({ weights, outside, missing: checkMissing(missing) }, input, geometry, axis);
  const isUneven = present?.presence !== undefined;
  let whole =
    moments === undefined ? undefined : momentsOf(checkWhole(moments, channels, eps, isUneven, !isUneven));
  const passes = passesFor<T>(dtype);
  const mean = whole ? copyOf(whole.mean) : newArray<Float64Array>('float64', channels);
  const variance = whole ? copyOf(whole.variance) : newArray<Float64Array>('float64', channels);
  const y = resultFor(out, input, residual, given);
  const pass = {
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
  };
  if (present) checkPresent(passes, present, geometry, input.data);
  const presence = present?.presence;
  if (presence) {
    if (whole === undefined) {
      const counting = presentPass(pass, presence);
      passes.momentsOfPresent(counting);
      whole = momentsOf(counting);
    }
    passes.inferPresent({ ...pass, presence, ...statisticsOf(whole, eps) });
  } else if (whole === undefined && findOwn(passes, eps, pass)) passes.forwardTraining(pass);
  else passes.forwardInference(pass);
  const size = geometry.outer * geometry.inner;
  const count = whole ? largestOf(whole.count) : size;
  return {
    y: { data: out ?? inClassOf(input, y), shape: input.shape },
    mean,
    variance,
    count,
    moments: whole ?? momentsOf({ count, squares: count, mean, variance }),
  };
}

/**
 * Normalizes x with given statistics: y = activation((x − mean) / √(variance + eps) · weight + bias + residual).
 *
 * An empty x gives an empty y.
 *
 * @param x any rank from 1 to 64, with at least one channel.
 * @param options `mean` and `variance` must be there; axis 1, eps 1e-5, weight 1 and bias 0 by default.
 * @returns y in the dtype and shape of x, its channels where `outAxis` says.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
 *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, Error
 *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where a getter of the arguments takes the memory of an array away; then nothing is
 *   written.
 * @example
 * import { forwardInference } from 'batchnorm';
 *
 * const x = { data: Float32Array.of(1, 10, 3, 30), shape: [2, 2] };
 * const statistics = { mean: Float64Array.of(1, 10), variance: Float64Array.of(1, 100) };
 * console.log(forwardInference(x, { ...statistics, eps: 1e-12 }).data); // Float32Array(4) [ 0, 0, 2, 2 ]
 */
export function forwardInference<T extends FloatArray | HalfArray>(
  x: TensorLike<T>,
  options: ForwardInferenceOptions<T, DTypeOf<T>, T>,
): Tensor<T>;
/**
 * Of bits, whose `dtype` must be said, and of integers; and of what is written in another dtype.
 *
 * @param x any rank from 1 to 64, with at least one channel.
 * @param options as for floats; and `dtype` and `out` of another class than x.
 * @returns y in the shape of x: in the dtype of x, of integers in float32; or in what `out`, `dtype` and `outAxis` say.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
 *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, Error
 *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where a getter of the arguments takes the memory of an array away; then nothing is
 *   written.
 * @example
 * import { forwardInference } from 'batchnorm';
 *
 * const pixels = { data: Uint8Array.of(1, 10, 3, 30), shape: [2, 2] };
 * const statistics = { mean: Float64Array.of(1, 10), variance: Float64Array.of(1, 100) };
 * console.log(forwardInference(pixels, { ...statistics, dtype: 'int8', eps: 1e-12 }).data); // Int8Array(4) [ 0, 0, 2, 2 ]
 */
export function forwardInference<
  T extends Said<N> | IntegerArray,
  N extends AnyDType = never,
  O extends InferenceResultOf<T, N> = never,
>(
  x: TensorLike<T>,
  options: ForwardInferenceOptions<T, N, O> & ResultNamed<T, N>,
): Tensor<WrittenOf<O, DefaultInferenceResultOf<T, N>>>;
export function forwardInference<T extends TensorArray>(
  x: TensorLike<T>,
  options: ForwardInferenceOptions<T>,
): Tensor<ValueArray> {
  checkObject('options', options);
  const read = readOptions(options, inferenceNames);
  const { mean, variance, missing } = read;
  const view = readView(
    'x',
    x,
    undefined,
    read.dtype === 'float16' || read.dtype === 'bfloat16' ? read.dtype : undefined,
  );
  const outType = typedArrayType(read.out);
  const ofResult = isInteger(view.dtype) || outType === 'Uint16Array' || integerNamed(outType) !== undefined;
  if (!ofResult && read.dtype !== undefined && view.dtype !== read.dtype)
    throw viewDtypeError(view, checkDtype(read.dtype));
  const choice = {
    out: read.out,
    residual: read.residual,
    outAxis: read.outAxis,
    dtype: ofResult ? read.dtype : undefined,
  };
  const givenAxis = checkAxis(read.axis === undefined ? 1 : read.axis);
  if (isStored(view, givenAxis, choice)) return inferStored(view, choice, givenAxis, read);
  // Of its own dtype, and without strides.
  const plain = read as PassOptions<T>;
  const { out } = plain;
  const { input, dtype, axis, geometry, eps, weight, bias, relu, residual, given } = readPass(
    x,
    plain,
    view as ReadView & ReadTensor<T>,
  );
  const present = readPresence(
    { weights: undefined, outside: undefined, missing: checkMissing(missing) },
    input,
    geometry,
    axis,
  );
  const stats = statsOf(mean, variance, geometry.channels, eps);
  const y = resultFor(out, input, residual, { ...given, mean, variance });
  const passes = passesFor<T>(dtype);
  if (present) checkPresent(passes, present, geometry, input.data);
  const pass = {
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
  };
  if (present?.presence) passes.inferPresent({ ...pass, presence: present.presence });
  else passes.forwardInference(pass);
  return { data: out ?? inClassOf(input, y), shape: input.shape };
}

/** From one storage type to another, or to another place. */
function inferStored(
  view: ReadView,
  choice: GivenStored,
  axis: number,
  options: Omit<ForwardInferenceOptions<ValueArray>, 'dtype'>,
): Tensor<ValueArray> {
  const { mean, variance, weight, bias, activation, eps: givenEps = defaultEps } = options;
  const missing = checkMissing(options.missing);
  const eps = checkEps(givenEps);
  const relu = checkActivation(activation) !== undefined;
  const { channels } = geometryOf(view, axis);
  const perChannel = (name: string, value: FloatArray | null | undefined) =>
    value === undefined || value === null
      ? undefined
      : toDtype<Float32Array>(checkPerChannel(name, value, channels), 'float32');
  const ownWeight = perChannel('weight', weight);
  const ownBias = perChannel('bias', bias);
  const stats = statsOf(mean, variance, channels, eps);
  const call = readStored(view, choice, axis, channels, undefined);
  if (call.out !== undefined) checkApart('out', call.out, { weight, bias, mean, variance });
  if (missing === 'throw') checkNoneMissingStored(call);
  const passes = passesFor<Float32Array>('float32');
  const memory = newMemory(passes.frozenBytes(channels));
  passes.freeze(channels, eps, ownWeight, ownBias, stats.mean, stats.variance, relu, memory);
  const y = call.out ?? newResult(call.outDtype, view.size);
  const imputed = missing === 'impute' && !isInteger(call.dtype) ? imputedBias(ownBias, channels) : undefined;
  backend.runStored(storedPass(call, memory, wholeOf(call), y, call.residual, imputed));
  return { data: call.delivered(y), shape: call.shape };
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
 *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, Error
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
export function backward<T extends Said<N>, N extends DType = never>(
  dy: TensorLike<T>,
  x: TensorLike<T>,
  options: BackwardOptions<T> & Saying<N>,
): Gradients<T> {
  checkObject('options', options);
  const read = readOptions(options, backwardNames);
  const { mean, variance, training = true, out, moments, sums, weightsGrad = false } = read;
  const { weights, outside, missing } = read;
  const { input, dtype, axis, geometry, eps, weight, bias, relu, residual, given } = readPass(x, read);
  const { channels } = geometry;
  const gradient = readShape<T>('dy', dy, dtype);
  checkSameShape(gradient, 'x', input.shape);
  checkBoolean('training', training);
  const present = readPresence({ weights, outside, missing: checkMissing(missing) }, input, geometry, axis);
  const isUneven = present?.presence !== undefined;
  if (checkBoolean('weightsGrad', weightsGrad) && present?.given === undefined)
    throw typeError('weightsGrad', 'be left out without weights', weightsGrad);
  if (moments !== undefined && (mean !== undefined || variance !== undefined))
    throw typeError('mean and variance', 'be left out with moments', mean ?? variance);
  if (sums !== undefined && !training) throw typeError('sums', 'be left out with training: false', sums);
  const whole =
    moments === undefined ? undefined : momentsOf(checkWhole(moments, channels, eps, isUneven, !isUneven));
  // Of channels without values eps 0 asks nothing.
  const stats = whole ?? statsOf(mean, variance, channels, isUneven ? 1 : eps);
  if (sums !== undefined) checkSums('sums', sums, channels);
  else if (training && whole !== undefined && !isUneven && evenCountOf(whole) !== input.size / channels)
    throw sumsError();
  checkLength(input);
  const dx = resultFor(out, gradient, residual, { ...given, mean, variance });
  const dWeight = newArray<ParametersOf<T>>(arithmeticOf(dtype), channels);
  const dBias = newArray<ParametersOf<T>>(arithmeticOf(dtype), channels);
  const dResidual = residual && newResult<T>(dtype, input.size);
  const pass = {
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
  };
  const passes = passesFor<T>(dtype);
  if (present) checkPresent(passes, present, geometry, input.data);
  let dWeights: Float64Array | undefined;
  const presence = present?.presence;
  if (presence) {
    const counting = presentPass(
      { ...pass, mean: newArray('float64', channels), variance: newArray('float64', channels) },
      presence,
    );
    if (training && (sums === undefined || whole === undefined)) {
      passes.momentsOfPresent(counting);
      if (whole !== undefined && !haveSameCounts(whole, counting)) throw sumsError();
    }
    const counts = whole?.count ?? counting.count;
    if (weightsGrad) dWeights = newArray('float64', geometry.outer * geometry.inner);
    const used = training ? fallBack(counts, stats) : stats;
    checkDivisors('variance', used.variance, eps);
    throughPresent(
      passes,
      { ...pass, ...used },
      {
        presence,
        given: sums,
        gather: undefined,
        gatherLater: undefined,
        counts: training ? counts : undefined,
        dWeights,
      },
    );
  } else {
    const count = whole ? (evenCountOf(whole) ?? whole.count) : input.size / channels;
    throughForward(passes, pass, { given: sums, exchange: undefined, count });
  }
  const ofWeights = gradientOfWeights(dWeights, present);
  return {
    dx: { data: out ?? inClassOf(gradient, dx), shape: input.shape },
    dWeight,
    dBias,
    ...(dResidual && { dResidual: { data: inClassOf(gradient, dResidual), shape: input.shape } }),
    ...(ofWeights && { dWeights: ofWeights }),
  };
}

/** Where nothing counts, y is the bias: that of an infinite variance. */
function fallBack(
  counts: Float64Array,
  { mean, variance }: { readonly mean: Float64Array; readonly variance: Float64Array },
): { mean: Float64Array; variance: Float64Array } {
  const used = { mean: copyOf(mean), variance: copyOf(variance) };
  for (let channel = 0; channel < lengthOf(counts); channel++) {
    if (counts[channel] > 0) continue;
    used.mean[channel] = 0;
    used.variance[channel] = Infinity;
  }
  return used;
}

/** What a forward normalizes with. */
function statisticsOf(moments: Moments, eps: number): { mean: Float64Array; variance: Float64Array } {
  const used = fallBack(moments.count, moments);
  if (eps === 0) checkVaries(used.variance);
  return used;
}

/** Whether moments are of these values, and of no others beside. */
function haveSameCounts({ count }: Moments, { count: counted }: { readonly count: Float64Array }): boolean {
  for (let channel = 0; channel < lengthOf(count); channel++)
    if (count[channel] !== counted[channel]) return false;
  return true;
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
  const { mean, variance, count, moments } = propertiesOf(batch, batchNames);
  const { decay = 0.9, unbiasedRunningVar = true } = readOptions(options, updateNames);
  const channels = channelsOf('runningMean', runningMean);
  checkVariance('runningVar', runningVar, channels);
  const stats = statsOf(mean, variance, channels, defaultEps);
  const uneven = Moments.isOne(moments) && evenCountOf(moments) === undefined ? moments : undefined;
  if (uneven) checkMoments('moments', uneven, channels);
  else checkInteger('count', count, 0, Number.MAX_SAFE_INTEGER);
  checkApart('runningMean', runningMean, { runningVar, mean, variance });
  checkApart('runningVar', runningVar, { mean, variance });
  checkFraction('decay', decay);
  checkBoolean('unbiasedRunningVar', unbiasedRunningVar);
  if (count === 0) return 0;
  if (uneven) {
    const offered = unevenBatch(uneven, unbiasedRunningVar, runningVar);
    const rejected = updateRunningArrays(
      offered.mean,
      offered.variance,
      channels,
      1,
      decay,
      false,
      runningMean,
      runningVar,
    );
    for (let c = 0; c < channels; c++) if (!Number.isNaN(offered.kept[c])) runningVar[c] = offered.kept[c];
    return rejected - offered.empty;
  }
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

function statsOf(mean: unknown, variance: unknown, channels: number, eps: number) {
  const checked = {
    mean: toDtype<Float64Array>(checkPerChannel('mean', mean, channels), 'float64'),
    variance: toDtype<Float64Array>(checkVariance('variance', variance, channels), 'float64'),
  };
  checkDivisors('variance', checked.variance, eps);
  return checked;
}

function largestOf(values: Float64Array): number {
  let largest = 0;
  for (let i = 0; i < lengthOf(values); i++) if (values[i] > largest) largest = values[i];
  return largest;
}
