// Layers as JSON: plain objects and arrays of numbers, from which everything comes back bit for bit. Reading, like writing,
// asks nothing of prototypes: fields are those of the object itself, and elements of arrays are defined, not assigned.
import type { Activation } from './activation.js';
import type { BatchNormConfig } from './config.js';
import { describe, isArray, nameOf, rangeError, typeError, wordedTypeError } from './errors.js';
import type { Missing } from './presence.js';
import { propertyOf } from './properties.js';
import type { Renorm } from './renorm.js';
import { filled, lengthOf, typedArrayType } from './typed-array.js';
import type { DType, FloatArray } from './types.js';
import {
  channelsError,
  channelsOf,
  checkInteger,
  checkObject,
  checkPerChannel,
  copyAs,
  maxChannels,
  newArray,
  perChannelError,
} from './validate.js';

/** A number; as a string where JSON has no such number. */
export type NumberJSON = number | 'NaN' | 'Infinity' | '-Infinity' | '-0';

/** Parameters and statistics, one value per channel each; what the layer does not have is absent. */
export interface StateJSON {
  /** As of a {@link StateDict}, like all of them. */
  weight?: NumberJSON[];
  /** As of a {@link StateDict}. */
  bias?: NumberJSON[];
  /** As of a {@link StateDict}. */
  running_mean?: NumberJSON[];
  /** As of a {@link StateDict}. */
  running_var?: NumberJSON[];
  /** As of a {@link StateDict}. */
  num_batches_tracked?: number;
}

/** What a frozen layer has beside its values; what is undefined is absent. */
export interface FrozenConfigJSON<D extends DType = DType> {
  /** The channel axis; −1 is the last. */
  axis: number;
  /** Added to the variance under the root. */
  eps: number;
  /** Of the data that the layer takes; absent for either. */
  dtype?: D;
  /** What follows the normalization. */
  activation?: Activation;
  /** What a NaN in x means; absent for 'propagate'. */
  missing?: Missing;
}

/** The bounds of batch renormalization. */
export interface RenormJSON {
  /** As of {@link Renorm}, like both of them. */
  rMax: NumberJSON;
  /** As of {@link Renorm}. */
  dMax: NumberJSON;
}

/** What {@link BatchNorm.toJSON} gives, and {@link BatchNorm.fromJSON} takes. */
export interface BatchNormJSON<D extends DType = DType> {
  /** The class. */
  type: 'BatchNorm';
  /** Of this format. */
  version: 1;
  /** Values per channel array. */
  channels: number;
  /** The options in full, those that are undefined left out. */
  config: Omit<BatchNormConfig<D>, 'activation' | 'convention' | 'group' | 'virtualBatchSize' | 'renorm'> &
    Partial<Pick<BatchNormConfig<D>, 'activation' | 'convention' | 'virtualBatchSize'>> & {
      /** As of the options. */
      renorm?: RenormJSON;
    };
  /** What {@link BatchNorm.stateDict} has. */
  state: StateJSON;
  /** The mode. */
  training: boolean;
  /** As of {@link BatchNorm.rejectedUpdates}. */
  rejectedUpdates: number;
  /** With decay 'cumulative': how many batches the statistics of each channel are the mean of. */
  acceptedBatches?: number[];
}

/** What {@link FrozenBatchNorm.toJSON} gives, and {@link FrozenBatchNorm.fromJSON} takes. */
export interface FrozenBatchNormJSON<D extends DType = DType> {
  /** The class. */
  type: 'FrozenBatchNorm';
  /** Of this format. */
  version: 1;
  /** Values per channel array. */
  channels: number;
  /** All but the values. */
  config: FrozenConfigJSON<D>;
  /** Statistics, and the parameters that there are. */
  state: StateJSON;
}

/** The version that is written, and read. */
export const jsonVersion = 1;

const { create, defineProperty, hasOwn, is } = Object;

// ---- Writing ----

function toNumber(value: number): NumberJSON {
  if (Number.isFinite(value) && !is(value, -0)) return value;
  return is(value, -0) ? '-0' : (String(value) as NumberJSON);
}

/** The values of an array, for JSON. */
export function toNumbers(values: FloatArray): NumberJSON[] {
  const length = lengthOf(values);
  const numbers: NumberJSON[] = [];
  const element: PropertyDescriptor = create(null);
  element.writable = true;
  element.enumerable = true;
  element.configurable = true;
  for (let i = 0; i < length; i++) {
    element.value = toNumber(values[i]);
    defineProperty(numbers, i, element);
  }
  return numbers;
}

export function renormToJSON(renorm: Renorm | undefined): RenormJSON | undefined {
  return renorm && { rMax: toNumber(renorm.rMax), dMax: toNumber(renorm.dMax) };
}

/** A copy without what is undefined, which JSON has not. */
export function defined<T extends object>(object: T): T {
  const copy = { ...object };
  for (const key in copy) if (hasOwn(copy, key) && copy[key] === undefined) delete copy[key];
  return copy;
}

// ---- Reading ----

/** What an object has under these names, each read once; nothing else may be there. */
export function fieldsOf(name: string, value: unknown, names: readonly string[]): Record<string, unknown> {
  if (typeof value === 'string')
    throw typeError(name, 'be an object', value, 'INVALID_TYPE', '; JSON.parse() it first');
  checkObject(name, value);
  if (isArray(value) || typedArrayType(value) !== undefined) throw typeError(name, 'be an object', value);
  const fields: Record<string, unknown> = create(null);
  for (let i = 0; i < names.length; i++) fields[names[i]] = propertyOf(value, names[i]);
  for (const key in value)
    if (!(key in fields) && hasOwn(value, key))
      throw wordedTypeError(name, `only have ${names.join(', ')}`, describe(key), 'UNKNOWN_OPTION');
  return fields;
}

/** That a text of JSON is of this class and of this version, with the number of channels it names. */
export function readHead(type: string, fields: Record<string, unknown>): number {
  if (fields.type !== type) throw rangeError('json.type', `be '${type}'`, describe(fields.type));
  if (fields.version !== jsonVersion)
    throw rangeError('json.version', `be ${jsonVersion}`, describe(fields.version));
  return checkInteger('json.channels', fields.channels, 1, maxChannels);
}

/** Every option that the layer has been given must have stood there: a default is no memory. */
export function checkGiven(config: object, fields: Record<string, unknown>): void {
  for (const key in config)
    if (hasOwn(config, key) && config[key as never] !== undefined && fields[key] === undefined)
      throw typeError(nameOf('json.config', key), 'be given', undefined);
}

const numberRule = "be a number, 'NaN', 'Infinity', '-Infinity' or '-0'";

function fromNumber(name: string, value: unknown, index?: number): number {
  if (typeof value === 'number') return value;
  switch (value) {
    case 'NaN':
      return Number.NaN;
    case 'Infinity':
      return Infinity;
    case '-Infinity':
      return -Infinity;
    case '-0':
      return -0;
    default:
      throw typeError(index === undefined ? name : `${name}[${index}]`, numberRule, value);
  }
}

const renormNames = ['rMax', 'dMax'];

/** What {@link renormToJSON} gave. */
export function renormFromJSON(name: string, value: unknown): Renorm | undefined {
  if (value === undefined) return undefined;
  const { rMax, dMax } = fieldsOf(name, value, renormNames);
  return { rMax: fromNumber(`${name}.rMax`, rMax), dMax: fromNumber(`${name}.dMax`, dMax) };
}

export function checkAbsent(name: string, value: unknown): void {
  if (value !== undefined) throw rangeError(name, 'be absent (the layer has none)', 'a value');
}

/** Values per channel of what the layer has; undefined, and nothing in JSON, where it has none. */
export function partFrom<T extends FloatArray>(
  name: string,
  value: unknown,
  isThere: boolean,
  channels: number,
  dtype: DType,
): T | undefined {
  if (isThere) return fromNumbers<T>(name, value, channels, dtype);
  checkAbsent(name, value);
  return undefined;
}

/** Values per channel. */
function fromNumbers<T extends FloatArray>(name: string, value: unknown, channels: number, dtype: DType): T {
  if (!isArray(value)) throw typeError(name, 'be an array of numbers', value);
  const { length } = value;
  if (length !== channels) throw perChannelError(name, channels, length);
  const values = newArray<T>(dtype, channels);
  for (let i = 0; i < channels; i++) {
    const number = fromNumber(name, value[i], i);
    values[i] = number;
    if (Number.isFinite(number) && !Number.isFinite(values[i]))
      throw rangeError(`${name}[${i}]`, 'be finite in float32', String(number));
  }
  return values;
}

/** Values of which each belongs to a channel, in arrays of any kind; as many as there are, where `channels` is left out. */
export function valuesFrom(name: string, value: unknown, channels?: number): Float64Array {
  if (isArray(value)) {
    const count = channels ?? channelCount(name, value.length);
    return fromNumbers<Float64Array>(name, value, count, 'float64');
  }
  const count = channels ?? channelsOf(name, value);
  return copyAs<Float64Array>('float64', checkPerChannel(name, value, count));
}

function channelCount(name: string, length: unknown): number {
  if (!Number.isInteger(length) || (length as number) < 1 || (length as number) > maxChannels)
    throw channelsError(name, length);
  return length as number;
}

/** Numbers of values, or sums of weights, one per channel or one for all: finite, and none negative. */
export function weightsFrom(name: string, value: unknown, channels: number): Float64Array {
  const isOne = typeof value === 'number';
  const weights = isOne
    ? filled(newArray<Float64Array>('float64', channels), value)
    : valuesFrom(name, value, channels);
  for (let i = 0; i < channels; i++)
    if (!(weights[i] >= 0 && weights[i] < Infinity))
      throw rangeError(isOne ? name : `${name}[${i}]`, 'be a finite number from 0 on', String(weights[i]));
  return weights;
}

/** Numbers of batches, one per channel. */
export function fromCounts(name: string, value: unknown, channels: number): Float64Array {
  const counts = fromNumbers<Float64Array>(name, value, channels, 'float64');
  for (let i = 0; i < channels; i++) checkInteger(`${name}[${i}]`, counts[i], 0, Number.MAX_SAFE_INTEGER);
  return counts;
}
