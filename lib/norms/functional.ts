// Group, instance, layer and RMS norm as functions: no state.
import { type Activation, checkActivation } from '../activation.js';
import type { RowGeometry } from '../backend/backend.js';
import { passesFor } from '../backend/index.js';
import { arithmeticOf } from '../dtype.js';
import { rangeError } from '../errors.js';
import type { NamedArrays } from '../overlap.js';
import { defaultEps, resultFor } from '../pass.js';
import { type Names, namesOf } from '../properties.js';
import { newResult } from '../result.js';
import { lengthOf } from '../typed-array.js';
import type {
  DType,
  DTypeOf,
  FloatArray,
  ParametersOf,
  Said,
  Saying,
  Tensor,
  TensorArray,
  TensorLike,
} from '../types.js';
import {
  checkAxis,
  checkDtype,
  checkEps,
  checkLength,
  checkObject,
  checkPerChannel,
  checkSameShape,
  checkVariance,
  checkVaries,
  dtypeOf,
  inClassOf,
  newArray,
  type ReadTensor,
  readOptions,
  readResidual,
  readShape,
  toDtype,
} from '../validate.js';
import { rmsEps } from './config.js';
import { checkGroups, groupGeometry, layerGeometry, numberOfRows, readNormalizedShape } from './rows.js';

/** What the functions of all norms of rows take. */
export interface RowOptions<T extends TensorArray> {
  /** Added to the variance under the root, from 0 on. Default 1e-5; of RMS norm the machine epsilon of the dtype. */
  eps?: number;
  /** One value per channel, of layer and RMS norm one per place of a row. Default, and for null: 1 for each. */
  weight?: FloatArray | null;
  /** As many; RMS norm has none. Default, and for null: 0 for each. */
  bias?: FloatArray | null;
  /** What follows the normalization, in the same pass over memory. Default: nothing. */
  activation?: Activation;
  /** Added before the activation: in the dtype and shape of x. Default: nothing. */
  residual?: TensorLike<T>;
  /** Where the result goes: as long as x and of its dtype, in the input's own memory or apart from it. Default: a new array. */
  out?: T;
  /** Of x: to be said of a Uint16Array, whose bits may be bfloat16 or float16. Default: what the data are. */
  dtype?: DTypeOf<T>;
}

/** What {@link groupNorm} takes. */
export interface GroupNormFunctionOptions<T extends TensorArray> extends RowOptions<T> {
  /** Into how many the channels are parted. */
  groups: number;
  /** The channel axis; −1 is the last. Default 1. */
  axis?: number;
}

/** What {@link instanceNorm} takes. */
export interface InstanceNormFunctionOptions<T extends TensorArray> extends RowOptions<T> {
  /** The channel axis; −1 is the last. Default 1. */
  axis?: number;
}

/** What {@link layerNorm} takes. */
export interface LayerNormFunctionOptions<T extends TensorArray> extends RowOptions<T> {
  /** The last dimensions of x, which are normalized together: one number, or an array. Default: the last one. */
  shape?: number | readonly number[];
}

/** What {@link rmsNorm} takes. */
export type RMSNormFunctionOptions<T extends TensorArray> = Omit<LayerNormFunctionOptions<T>, 'bias'>;

/** What the backward functions take besides: the statistics of the forward pass, if they are at hand. */
export interface RowStatistics {
  /** One value per row, as the forward function gave it. Default: found again. */
  mean?: FloatArray;
  /** Likewise. */
  variance?: FloatArray;
}

/** What the functions of norms of rows give. */
export interface RowResult<T extends TensorArray> {
  /** In the dtype and shape of x. */
  y: Tensor<T>;
  /** One value per row: of group norm samples × groups, of instance norm samples × channels; of RMS norm 0. */
  mean: Float64Array;
  /** Biased; of RMS norm the mean square. */
  variance: Float64Array;
}

/** What the backward functions of norms of rows give. */
export interface RowFunctionGradients<T extends TensorArray> {
  /** In the dtype and shape of x. */
  dx: Tensor<T>;
  /** As long as weight has to be. */
  dWeight: ParametersOf<T>;
  /** As long as bias has to be; RMS norm has none. */
  dBias: ParametersOf<T>;
  /** Where there was a residual: dy as the activation lets it through. */
  dResidual?: Tensor<T>;
}

const common = ['eps', 'weight', 'bias', 'activation', 'residual', 'out', 'dtype'];
const statisticNames = ['mean', 'variance'];
const withoutBias = common.filter((name) => name !== 'bias');

/** A norm as a function. */
interface FunctionKind {
  readonly forward: Names;
  readonly backward: Names;
  readonly centred: boolean;
  epsOf(dtype: DType): number;
  geometryOf(input: ReadTensor, options: AllOptions): RowGeometry;
}

type AllOptions = RowOptions<TensorArray> &
  RowStatistics & { groups?: unknown; axis?: unknown; shape?: unknown };

const fixedEps = () => defaultEps;
const axisOf = (axis: unknown) => checkAxis(axis === undefined ? 1 : axis);
const lastOf = (input: ReadTensor, { shape }: AllOptions) =>
  layerGeometry(
    input,
    shape === undefined ? [input.shape[input.shape.length - 1]] : readNormalizedShape(shape),
  );

function kind(
  own: readonly string[],
  names: readonly string[],
  of: Omit<FunctionKind, 'forward' | 'backward'>,
): FunctionKind {
  const all = own.concat(names);
  return { forward: namesOf(all), backward: namesOf(all.concat(statisticNames)), ...of };
}

const group = kind(['groups', 'axis'], common, {
  centred: true,
  epsOf: fixedEps,
  geometryOf(input, { groups, axis }) {
    // Before it is known that they divide the channels.
    const geometry = groupGeometry(input, axisOf(axis), 1);
    return { ...geometry, groups: checkGroups(groups, geometry.channels) };
  },
});
const instance = kind(['axis'], common, {
  centred: true,
  epsOf: fixedEps,
  geometryOf(input, { axis }) {
    const geometry = groupGeometry(input, axisOf(axis), 1);
    return { ...geometry, groups: geometry.channels };
  },
});
const layer = kind(['shape'], common, { centred: true, epsOf: fixedEps, geometryOf: lastOf });
const rms = kind(['shape'], withoutBias, { centred: false, epsOf: rmsEps, geometryOf: lastOf });

/** What a call reads, checked but for lengths of data. */
function readCall<T extends TensorArray>(
  { epsOf, geometryOf, centred }: FunctionKind,
  x: TensorLike<T>,
  options: AllOptions,
) {
  // Each once, for it may be a getter, and before anything is looked at.
  const { dtype: wanted, weight, bias, activation, residual, eps: givenEps, out, mean, variance } = options;
  checkDtype(wanted);
  const input = readShape<T>('x', x, wanted);
  const { dtype } = input;
  const geometry = geometryOf(input as ReadTensor as ReadTensor<TensorArray>, options);
  const { channels } = geometry;
  if (channels === 0) throw rangeError('x.shape', 'have at least one channel', '0');
  const parameter = (name: string, value: unknown) =>
    value === undefined || value === null
      ? undefined
      : toDtype<ParametersOf<T>>(checkPerChannel(name, value, channels), arithmeticOf(dtype));
  return {
    input,
    geometry,
    dtype,
    centred,
    eps: checkEps(givenEps === undefined ? epsOf(dtype) : givenEps),
    weight: parameter('weight', weight),
    bias: parameter('bias', bias),
    relu: checkActivation(activation) !== undefined,
    residual: residual === undefined ? undefined : readResidual<T>(residual, input),
    given: { weight, bias } as NamedArrays,
    out: out as T | undefined,
    givenMean: mean,
    givenVariance: variance,
  };
}

function forward<T extends TensorArray>(of: FunctionKind, x: TensorLike<T>, options: object): RowResult<T> {
  const read = readOptions(options as AllOptions, of.forward);
  const { input, geometry, dtype, centred, eps, weight, bias, relu, residual, given, out } = readCall<T>(
    of,
    x,
    read,
  );
  const rows = numberOfRows(geometry);
  const mean = newArray<Float64Array>('float64', rows);
  const variance = newArray<Float64Array>('float64', rows);
  const y = resultFor(out, input, residual, given);
  const pass = {
    geometry,
    centred,
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
  const { forwardRows } = passesFor<T>(dtype);
  if (eps === 0) {
    forwardRows({ ...pass, y: undefined });
    checkVaries(variance, 'row');
  }
  forwardRows(pass);
  const data = out ?? inClassOf(input, y);
  return { y: { data, shape: input.shape }, mean, variance };
}

/** A statistic that was given, or room for it. */
function statisticOf(name: string, value: unknown, rows: number): Float64Array {
  if (value === undefined) return newArray('float64', rows);
  dtypeOf(name, value);
  const length = lengthOf(value as FloatArray);
  if (length !== rows)
    throw rangeError(name, `have ${rows} ${rows === 1 ? 'value' : 'values'} (one per row)`, String(length));
  if (name === 'variance') checkVariance(name, value, rows);
  return toDtype(value as FloatArray, 'float64');
}

function backward<T extends TensorArray>(
  of: FunctionKind,
  dy: TensorLike<T>,
  x: TensorLike<T>,
  options: object,
): RowFunctionGradients<T> {
  const call = readCall<T>(of, x, readOptions(options as AllOptions, of.backward));
  const { input, geometry, dtype, centred, eps, weight, bias, relu, residual, given } = call;
  const { out, givenMean, givenVariance } = call;
  const gradient = readShape<T>('dy', dy, dtype);
  checkSameShape(gradient, 'x', input.shape);
  const rows = numberOfRows(geometry);
  if (centred && (givenMean === undefined) !== (givenVariance === undefined))
    throw rangeError(
      givenMean === undefined ? 'mean' : 'variance',
      'be given beside the other of mean and variance',
      'undefined',
    );
  // Of RMS norm it is 0, whatever was given.
  const mean = statisticOf('mean', centred ? givenMean : undefined, rows);
  const variance = statisticOf('variance', givenVariance, rows);
  checkLength(input);
  const others = { ...given, mean: givenMean, variance: givenVariance };
  const dx = resultFor(out, gradient, residual, others);
  const arithmetic = arithmeticOf(dtype);
  const dWeight = newArray<ParametersOf<T>>(arithmetic, geometry.channels);
  const dBias = newArray<ParametersOf<T>>(arithmetic, geometry.channels);
  const dResidual = residual && newResult<T>(dtype, input.size);
  const passes = passesFor<T>(dtype);
  const shared = {
    geometry,
    centred,
    eps,
    x: input.data,
    weight,
    bias,
    mean,
    variance,
    relu,
    residual: residual?.data,
    mask: undefined,
  };
  if (givenVariance === undefined) passes.forwardRows({ ...shared, y: undefined });
  if (eps === 0) checkVaries(variance, 'row');
  passes.backwardRows({ ...shared, dy: gradient.data, dx, dWeight, dBias, dResidual });
  const data = out ?? inClassOf(gradient, dx);
  return {
    dx: { data, shape: gradient.shape },
    dWeight,
    dBias,
    ...(dResidual && { dResidual: { data: inClassOf(gradient, dResidual), shape: input.shape } }),
  };
}

/**
 * Group normalization, as {@link GroupNorm} does it.
 *
 * @param x any rank from 1 to 64; samples are what its first axis counts.
 * @param options `groups` must be there.
 * @returns y in the dtype and shape of x; statistics in double, one per sample and group.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
 *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, Error
 *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where a getter of the arguments takes memory away; then nothing is written.
 * @example
 * import { groupNorm } from 'batchnorm';
 *
 * const { y, mean } = groupNorm({ data: Float32Array.of(1, 3, 10, 30), shape: [1, 4] }, { groups: 2, eps: 1e-12 });
 * console.log(y.data, mean); // Float32Array(4) [ -1, 1, -1, 1 ] Float64Array(2) [ 2, 20 ]
 */
export function groupNorm<T extends Said<N>, N extends DType = never>(
  x: TensorLike<T>,
  options: GroupNormFunctionOptions<T> & Saying<N>,
): RowResult<T> {
  checkObject('options', options);
  return forward<T>(group, x, options);
}

/**
 * The gradients of {@link groupNorm} with the same options.
 *
 * With g = dy · weight, over the M values of a row: dx = r · (g − mean(g) − x̂ · mean(g · x̂)), dWeight = Σ dy · x̂ and dBias = Σ dy over
 * all that shares them.
 *
 * @param dy the gradient of y, of the dtype and shape of x.
 * @param x the input of the forward pass.
 * @param options those of the forward pass, and its `mean` and `variance`, which are found again where they are not given; `out` is
 *   for dx and may be dy's own memory.
 * @returns dx in the dtype and shape of x; dWeight and dBias.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
 *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, Error
 *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where a getter of the arguments takes memory away; then nothing is written.
 * @example
 * import { groupNormBackward } from 'batchnorm';
 *
 * const x = { data: Float32Array.of(1, 3, 10, 30), shape: [1, 4] };
 * const dy = { data: Float32Array.of(1, 2, 3, 4), shape: [1, 4] };
 * console.log(groupNormBackward(dy, x, { groups: 2, eps: 1e-12 }).dWeight); // Float32Array(4) [ -1, 2, -3, 4 ]
 */
export function groupNormBackward<T extends Said<N>, N extends DType = never>(
  dy: TensorLike<T>,
  x: TensorLike<T>,
  options: GroupNormFunctionOptions<T> & RowStatistics & Saying<N>,
): RowFunctionGradients<T> {
  checkObject('options', options);
  return backward<T>(group, dy, x, options);
}

/**
 * Instance normalization, as {@link InstanceNorm} without running statistics does it; one value per sample and channel is allowed, and
 * becomes the bias.
 *
 * @param x any rank from 1 to 64; samples are what its first axis counts.
 * @param options axis 1 and eps 1e-5 by default.
 * @returns y in the dtype and shape of x; statistics in double, one per sample and channel.
 * @throws as {@link groupNorm}: `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`,
 *   `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_BUFFER_CHANGED`.
 * @example
 * import { instanceNorm } from 'batchnorm';
 *
 * const { y } = instanceNorm({ data: Float32Array.of(1, 3, 10, 30), shape: [1, 2, 2] }, { eps: 1e-12 });
 * console.log(y.data); // Float32Array(4) [ -1, 1, -1, 1 ]
 */
export function instanceNorm<T extends Said<N>, N extends DType = never>(
  x: TensorLike<T>,
  options: InstanceNormFunctionOptions<T> & Saying<N> = {},
): RowResult<T> {
  return forward<T>(instance, x, options);
}

/**
 * The gradients of {@link instanceNorm} with the same options, as {@link groupNormBackward} has them.
 *
 * @param dy the gradient of y, of the dtype and shape of x.
 * @param x the input of the forward pass.
 * @param options those of the forward pass, and its `mean` and `variance` if they are at hand.
 * @returns dx in the dtype and shape of x; dWeight and dBias, one value per channel.
 * @throws as {@link groupNormBackward}: `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`,
 *   `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_BUFFER_CHANGED`.
 * @example
 * import { instanceNormBackward } from 'batchnorm';
 *
 * const x = { data: Float32Array.of(1, 3), shape: [1, 1, 2] };
 * console.log(instanceNormBackward(x, x, { eps: 1e-12 }).dBias); // Float32Array(1) [ 4 ]
 */
export function instanceNormBackward<T extends Said<N>, N extends DType = never>(
  dy: TensorLike<T>,
  x: TensorLike<T>,
  options: InstanceNormFunctionOptions<T> & RowStatistics & Saying<N> = {},
): RowFunctionGradients<T> {
  return backward<T>(instance, dy, x, options);
}

/**
 * Layer normalization, as {@link LayerNorm} does it.
 *
 * @param x any rank from 1 to 64.
 * @param options the last dimension and eps 1e-5 by default.
 * @returns y in the dtype and shape of x; statistics in double, one per row.
 * @throws as {@link groupNorm}: `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`,
 *   `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_BUFFER_CHANGED`.
 * @example
 * import { layerNorm } from 'batchnorm';
 *
 * const { y, mean } = layerNorm({ data: Float32Array.of(1, 3, 10, 30), shape: [2, 2] }, { eps: 1e-12 });
 * console.log(y.data, mean); // Float32Array(4) [ -1, 1, -1, 1 ] Float64Array(2) [ 2, 20 ]
 */
export function layerNorm<T extends Said<N>, N extends DType = never>(
  x: TensorLike<T>,
  options: LayerNormFunctionOptions<T> & Saying<N> = {},
): RowResult<T> {
  return forward<T>(layer, x, options);
}

/**
 * The gradients of {@link layerNorm} with the same options, as {@link groupNormBackward} has them.
 *
 * @param dy the gradient of y, of the dtype and shape of x.
 * @param x the input of the forward pass.
 * @param options those of the forward pass, and its `mean` and `variance` if they are at hand.
 * @returns dx in the dtype and shape of x; dWeight and dBias, one value per place of a row.
 * @throws as {@link groupNormBackward}: `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`,
 *   `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_BUFFER_CHANGED`.
 * @example
 * import { layerNormBackward } from 'batchnorm';
 *
 * const x = { data: Float32Array.of(1, 3), shape: [1, 2] };
 * console.log(layerNormBackward(x, x, { eps: 1e-12 }).dWeight); // Float32Array(2) [ -1, 3 ]
 */
export function layerNormBackward<T extends Said<N>, N extends DType = never>(
  dy: TensorLike<T>,
  x: TensorLike<T>,
  options: LayerNormFunctionOptions<T> & RowStatistics & Saying<N> = {},
): RowFunctionGradients<T> {
  return backward<T>(layer, dy, x, options);
}

/**
 * Root mean square normalization, as {@link RMSNorm} does it.
 *
 * @param x any rank from 1 to 64.
 * @param options the last dimension and the machine epsilon of the dtype by default.
 * @returns y in the dtype and shape of x; `variance` is the mean square of each row, `mean` 0.
 * @throws as {@link groupNorm}: `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`,
 *   `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_BUFFER_CHANGED`.
 * @example
 * import { rmsNorm } from 'batchnorm';
 *
 * console.log(rmsNorm({ data: Float32Array.of(2, -2), shape: [1, 2] }, { eps: 1e-12 }).y.data); // Float32Array(2) [ 1, -1 ]
 */
export function rmsNorm<T extends Said<N>, N extends DType = never>(
  x: TensorLike<T>,
  options: RMSNormFunctionOptions<T> & Saying<N> = {},
): RowResult<T> {
  return forward<T>(rms, x, options);
}

/**
 * The gradients of {@link rmsNorm} with the same options: dx = r · (g − x̂ · mean(g · x̂)), with g = dy · weight and x̂ = x · r.
 *
 * @param dy the gradient of y, of the dtype and shape of x.
 * @param x the input of the forward pass.
 * @param options those of the forward pass, and its `mean` and `variance` if they are at hand.
 * @returns dx in the dtype and shape of x; dWeight, one value per place of a row.
 * @throws as {@link groupNormBackward}: `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`,
 *   `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_BUFFER_CHANGED`.
 * @example
 * import { rmsNormBackward } from 'batchnorm';
 *
 * const x = { data: Float32Array.of(2, -2), shape: [1, 2] };
 * console.log(rmsNormBackward(x, x, { eps: 1e-12 }).dWeight); // Float32Array(2) [ 2, 2 ]
 */
export function rmsNormBackward<T extends Said<N>, N extends DType = never>(
  dy: TensorLike<T>,
  x: TensorLike<T>,
  options: RMSNormFunctionOptions<T> & RowStatistics & Saying<N> = {},
): Omit<RowFunctionGradients<T>, 'dBias'> {
  const { dBias: _, ...gradients } = backward<T>(rms, dy, x, options);
  return gradients;
}
