// What a frozen layer is made of: from a state, from the constants of a model, from JSON and to it.
import { checkActivation } from './activation.js';
import { defaultsOf } from './conventions.js';
import { arithmeticOf } from './dtype.js';
import { isArray, rangeError, typeError } from './errors.js';
import type { FrozenOptions, FrozenParts, MeanStdOptions } from './frozen-options.js';
import {
  defined,
  type FrozenBatchNormJSON,
  fieldsOf,
  jsonVersion,
  partFrom,
  readHead,
  toNumbers,
} from './json.js';
import { checkMissing, type Missing } from './presence.js';
import { namesOf } from './properties.js';
import { type AnyState, readState } from './state.js';
import { lengthOf } from './typed-array.js';
import type { DType, FloatArray } from './types.js';
import {
  channelsError,
  checkAxis,
  checkDivisors,
  checkDtype,
  checkEps,
  checkObject,
  dtypeOf,
  maxChannels,
  newArray,
  perChannelError,
  readOptions,
} from './validate.js';

const frozenNames = namesOf([
  'axis',
  'eps',
  'dtype',
  'activation',
  'missing',
  'convention',
  'prefix',
  'strict',
]);
const meanStdNames = namesOf(['mean', 'std', 'scale', 'axis', 'dtype']);
const jsonNames = ['type', 'version', 'channels', 'config', 'state'];
const configNames = ['axis', 'eps', 'dtype', 'activation', 'missing'];
const jsonStateNames = ['weight', 'bias', 'running_mean', 'running_var'];

/** Those of {@link FrozenBatchNorm.from}. */
export function partsOfState<D extends DType>(state: AnyState, options: FrozenOptions<D>): FrozenParts<D> {
  const {
    axis = 1,
    eps: givenEps,
    dtype,
    activation,
    missing,
    convention,
    prefix,
    strict,
  } = readOptions(options, frozenNames);
  const defaults = defaultsOf(convention, undefined);
  const eps = givenEps === undefined ? defaults.eps : givenEps;
  checkAxis(axis);
  checkEps(eps);
  checkDtype(dtype);
  checkActivation(activation);
  const { channels, weight, bias, running_mean, running_var } = readState(state, {
    channels: undefined,
    convention,
    dtype: dtype && arithmeticOf(dtype),
    prefix,
    strict,
    weight: 'optional',
    bias: 'optional',
    stats: true,
    needsStats: true,
    eps,
  });
  return {
    channels,
    axis,
    eps,
    dtype,
    weight,
    bias,
    mean: running_mean as FloatArray,
    variance: running_var as FloatArray,
    activation,
    missing: checkMissing(missing),
  };
}

/** Those of {@link FrozenBatchNorm.fromMeanStd}. */
export function partsOfMeanStd<D extends DType>(options: MeanStdOptions<D>): FrozenParts<D> {
  checkObject('options', options);
  const { mean, std, scale = 1, axis = 1, dtype } = readOptions(options, meanStdNames);
  const checkedDtype = checkDtype(dtype) as D | undefined;
  const means = readConstants('mean', mean, undefined);
  const channels = lengthOf(means);
  const deviations = readConstants('std', std, channels);
  if (typeof scale !== 'number') throw typeError('scale', 'be a finite number other than 0', scale);
  if (!Number.isFinite(scale) || scale === 0)
    throw rangeError('scale', 'be a finite number other than 0', String(scale));
  const weight = newArray<Float64Array>('float64', channels);
  const variance = newArray<Float64Array>('float64', channels);
  for (let channel = 0; channel < channels; channel++) {
    if (!(deviations[channel] > 0))
      throw rangeError('std', 'be positive', `${deviations[channel]} in channel ${channel}`);
    means[channel] /= scale;
    weight[channel] = scale / deviations[channel];
    variance[channel] = 1;
    // In what is computed in.
    const inArithmetic = (value: number) => (checkedDtype === 'float64' ? value : Math.fround(value));
    if (!Number.isFinite(inArithmetic(means[channel])) || !Number.isFinite(inArithmetic(weight[channel])))
      throw rangeError(
        'scale',
        'leave mean / scale and scale / std finite',
        `${scale} in channel ${channel}`,
      );
  }
  return {
    channels,
    axis: checkAxis(axis),
    // The variance is 1: what is divided by stands in the weight, which no root has rounded.
    eps: 0,
    dtype: checkedDtype,
    weight,
    bias: undefined,
    mean: means,
    variance,
    activation: undefined,
    missing: 'propagate',
  };
}

/** What {@link FrozenBatchNorm.toJSON} gives. */
export function jsonOfParts<D extends DType>(parts: FrozenParts<D>): FrozenBatchNormJSON<D> {
  const { channels, axis, eps, dtype, activation, weight, bias, mean, variance } = parts;
  return {
    type: 'FrozenBatchNorm',
    version: jsonVersion,
    channels,
    config: defined({ axis, eps, dtype, activation, missing: givenMissing(parts) }),
    state: {
      ...(weight && { weight: toNumbers(weight) }),
      ...(bias && { bias: toNumbers(bias) }),
      running_mean: toNumbers(mean),
      running_var: toNumbers(variance),
    },
  };
}

/** undefined for the default, which is not told. */
export function givenMissing({ missing }: FrozenParts<DType>): Missing | undefined {
  return missing === 'propagate' ? undefined : missing;
}

/** Those of {@link FrozenBatchNorm.fromJSON}. */
export function partsOfJSON<D extends DType>(json: FrozenBatchNormJSON<D>): FrozenParts<D> {
  const fields = fieldsOf('json', json, jsonNames);
  const channels = readHead('FrozenBatchNorm', fields);
  const { axis, eps, dtype, activation, missing } = fieldsOf('json.config', fields.config, configNames);
  const state = fieldsOf('json.state', fields.state, jsonStateNames);
  const values = (name: string, isThere: boolean) =>
    partFrom<Float64Array>(`json.state.${name}`, state[name], isThere, channels, 'float64');
  const checkedEps = checkEps(eps, 'json.config.eps');
  const variance = values('running_var', true) as Float64Array;
  checkDivisors('json.state.running_var', variance, checkedEps);
  return {
    channels,
    axis: checkAxis(axis, 'json.config.axis'),
    eps: checkedEps,
    dtype: checkDtype(dtype, 'json.config.dtype') as D | undefined,
    weight: values('weight', state.weight !== undefined),
    bias: values('bias', state.bias !== undefined),
    mean: values('running_mean', true) as Float64Array,
    variance,
    activation: checkActivation(activation, 'json.config.activation'),
    missing: checkMissing(missing, 'json.config.missing'),
  };
}

/** A copy of finite numbers, one per channel. */
function readConstants(name: string, values: unknown, channels: number | undefined): Float64Array {
  if (!isArray(values)) dtypeOf(name, values);
  const given = values as readonly number[] | FloatArray;
  const length = isArray(given) ? given.length : lengthOf(given as FloatArray);
  if (channels !== undefined && length !== channels) throw perChannelError(name, channels, length);
  if (!(Number.isInteger(length) && length >= 1 && length <= maxChannels)) throw channelsError(name, length);
  const copy = newArray<Float64Array>('float64', length);
  for (let i = 0; i < length; i++) {
    const value: unknown = given[i];
    if (typeof value !== 'number') throw typeError(`${name}[${i}]`, 'be a finite number', value);
    if (!Number.isFinite(value)) throw rangeError(`${name}[${i}]`, 'be a finite number', String(value));
    copy[i] = value;
  }
  return copy;
}
