// The options of group, instance, layer and RMS norm.
import { type Activation, checkActivation } from '../activation.js';
import type { CoreConfig } from '../calls.js';
import { checkDecay } from '../config.js';
import { type Convention, conventions, type Decay, defaultsOf } from '../conventions.js';
import { dtypeNames, dtypes } from '../dtype.js';
import { typeError } from '../errors.js';
import { namesOf } from '../properties.js';
import type { DType } from '../types.js';
import { checkAxis, checkBoolean, checkEps, checkOneOf, readOptions } from '../validate.js';

/** What all norms of rows can be told, in full. */
export interface RowNormConfig<D extends DType = DType> {
  /**
   * Added to the variance under the root, from 0 on (RMS norm: to the mean square). Default 1e-5, with convention 'keras' 1e-3. RMS
   * norm: the machine epsilon of the dtype, with 'keras' 1e-6, with 'onnx' 1e-5. With 0 a row that does not vary is an error.
   */
  eps: number;
  /**
   * Of x, y, weight, bias and their gradients; with 'bfloat16' and 'float16', whose bits come in a Uint16Array, weight, bias and all
   * arithmetic are in float32. Statistics are always in double. Default 'float32'.
   */
  dtype: D;
  /** Learn a factor for each channel (layer and RMS norm: for each place of a row), at first 1. Default true; instance norm false. */
  weight: boolean;
  /** Learn a summand for each, at first 0. Default true; instance norm false, RMS norm has none. */
  bias: boolean;
  /** What follows the normalization, in the same pass over memory. Default: nothing. */
  activation: Activation | undefined;
  /** The layer owns its results: each is valid until the next call of the same method. Default false. */
  reuse: boolean;
  /** Whose defaults were taken, and whose names states may have too. Default: PyTorch's. */
  convention: Convention | undefined;
}

/** The options of {@link GroupNorm} in full. */
export interface GroupNormConfig<D extends DType = DType> extends RowNormConfig<D> {
  /** The channel axis; −1 is the last. Samples are what the first axis counts. Default 1, with convention 'keras' −1. */
  axis: number;
}

/** The options of {@link InstanceNorm} in full. */
export interface InstanceNormConfig<D extends DType = DType> extends GroupNormConfig<D> {
  /** Keep running statistics, the mean of those of the samples, for evaluation. Default false. */
  trackRunningStats: boolean;
  /** Weight of the old running value, from 0 to 1, or 'cumulative'. Default 0.9. */
  decay: Decay;
  /** Store the variance divided by M − 1 rather than M, for M values per sample and channel. Default true. */
  unbiasedRunningVar: boolean;
}

/** The options of {@link GroupNorm}. */
export type GroupNormOptions<D extends DType = DType> = Partial<GroupNormConfig<D>>;

/** The options of {@link InstanceNorm}. */
export interface InstanceNormOptions<D extends DType = DType> extends Partial<InstanceNormConfig<D>> {
  /** Only with `convention`, without `decay`, and in that framework's meaning, as of {@link BatchNormOptions}. */
  momentum?: number | null;
}

/** The options of {@link LayerNorm}. */
export type LayerNormOptions<D extends DType = DType> = Partial<RowNormConfig<D>>;

/** The options of {@link RMSNorm}, which has no bias. */
export type RMSNormOptions<D extends DType = DType> = Partial<Omit<RowNormConfig<D>, 'bias'>>;

const rowNames = ['eps', 'dtype', 'weight', 'bias', 'activation', 'reuse', 'convention'];
const groupNames = namesOf(['axis'].concat(rowNames));
const instanceNames = namesOf(
  ['axis', 'trackRunningStats', 'decay', 'momentum', 'unbiasedRunningVar'].concat(rowNames),
);
const layerNames = namesOf(rowNames);
const rmsNames = namesOf(rowNames.filter((name) => name !== 'bias'));

function readRowConfig<D extends DType>(
  {
    eps,
    dtype = 'float32' as D,
    weight,
    bias,
    activation,
    reuse = false,
    convention,
  }: Partial<RowNormConfig<D>>,
  hasParameters: boolean,
  epsOf: (dtype: D) => number,
): RowNormConfig<D> {
  const checked = checkOneOf('dtype', dtype, dtypeNames) as D;
  return {
    eps: checkEps(eps === undefined ? epsOf(checked) : eps),
    dtype: checked,
    weight: checkBoolean('weight', weight === undefined ? hasParameters : weight),
    bias: checkBoolean('bias', bias === undefined ? hasParameters : bias),
    activation: checkActivation(activation),
    reuse: checkBoolean('reuse', reuse),
    convention,
  };
}

function axisOf(axis: unknown, convention: Convention | undefined): number {
  return checkAxis(axis === undefined ? (convention === 'keras' ? -1 : 1) : axis);
}

export function readGroupConfig<D extends DType>(options: GroupNormOptions<D>): GroupNormConfig<D> {
  const read = readOptions(options, groupNames);
  const { eps } = defaultsOf(read.convention, undefined);
  return Object.freeze({
    axis: axisOf(read.axis, read.convention),
    ...readRowConfig(read, true, () => eps),
  });
}

export function readInstanceConfig<D extends DType>(options: InstanceNormOptions<D>): InstanceNormConfig<D> {
  const read = readOptions(options, instanceNames);
  const { convention, momentum, decay } = read;
  const defaults = defaultsOf(convention, momentum);
  const { trackRunningStats = false, unbiasedRunningVar = defaults.unbiasedRunningVar } = read;
  if (decay !== undefined && momentum !== undefined)
    throw typeError('decay', 'be left out beside momentum', decay);
  return Object.freeze({
    axis: axisOf(read.axis, convention),
    ...readRowConfig(read, false, () => defaults.eps),
    trackRunningStats: checkBoolean('trackRunningStats', trackRunningStats),
    decay: checkDecay(decay === undefined ? defaults.decay : decay),
    unbiasedRunningVar: checkBoolean('unbiasedRunningVar', unbiasedRunningVar),
  });
}

export function readLayerConfig<D extends DType>(options: LayerNormOptions<D>): RowNormConfig<D> {
  const read = readOptions(options, layerNames);
  const { eps } = defaultsOf(read.convention, undefined);
  return Object.freeze(readRowConfig(read, true, () => eps));
}

/** What RMS norm has as eps where it is not given: of torch.nn.RMSNorm, keras.layers.RMSNormalization and ONNX. */
export function rmsEps(dtype: DType, convention?: Convention): number {
  return convention === 'keras' ? 1e-6 : convention === 'onnx' ? 1e-5 : dtypes[dtype].epsilon;
}

export function readRMSConfig<D extends DType>(options: RMSNormOptions<D>): RowNormConfig<D> {
  // Each by its name: a spread would leave out what is inherited.
  const { eps, dtype, weight, activation, reuse, convention } = readOptions(options, rmsNames);
  if (convention !== undefined) checkOneOf('convention', convention, conventions);
  const read = { eps, dtype, weight, bias: false, activation, reuse, convention };
  return Object.freeze(readRowConfig(read, true, (checked: D) => rmsEps(checked, convention)));
}

/** What layers compute with. */
export function coreConfigOf<D extends DType>(
  config: RowNormConfig<D> & { readonly axis?: number },
): CoreConfig<D> {
  const { eps, dtype, weight, bias, activation, reuse, axis = -1 } = config;
  return {
    axis,
    eps,
    dtype,
    weight,
    bias,
    activation,
    reuse,
    singleValue: 'throw',
    group: undefined,
    missing: 'propagate',
    virtualBatchSize: undefined,
    renorm: undefined,
  };
}
