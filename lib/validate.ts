// Every check and, with errors.ts, every message. Reads each property of the caller's objects once: a getter that
// changes things while they are read cannot make what was checked differ from what is used. What a getter or a proxy of
// the caller's throws comes out as it is.
import {
  type Arithmetic,
  arrayNames,
  dtypeNamed,
  dtypeNames,
  dtypes,
  type HalfDType,
  integerNamed,
  isHalf,
  tensorDtypeNamed,
} from './dtype.js';
import {
  describe,
  describeShape,
  isArray,
  isObject,
  isRecord,
  rangeError,
  stateError,
  typeError,
  wordedTypeError,
} from './errors.js';

import {
  callPropertiesOf,
  isNamed,
  type Names,
  propertiesOf,
  runPropertiesOf,
  tensorPropertiesOf,
} from './properties.js';
import { newShape, readDimensions } from './shapes.js';
import { suggestionFor } from './suggest.js';
import {
  bitsOf,
  copyInto,
  halvesOf,
  hasHalves,
  isAttached,
  lengthOf,
  memoryOf,
  partOf,
  typedArrayType,
  valuesOf,
  zeroBytes,
  zeros,
} from './typed-array.js';
import type { AnyDType, DType, FloatArray, IntegerArray, TensorArray, ValueArray } from './types.js';

/** A tensor whose shape has been checked; its length is checked by {@link checkLength}, last of all. */
export interface ReadTensor<T extends TensorArray = TensorArray> {
  name: string;
  /** Of a Float16Array its bits. */
  data: T;
  dtype: DType;
  /** Whether they are those of a Float16Array. */
  isHalves: boolean;
  shape: readonly number[];
  /** The product of the shape. */
  size: number;
}

/** x[outer][channels][inner]. */
export interface Geometry {
  outer: number;
  channels: number;
  inner: number;
}

/** So many that per-channel arrays can still be made. */
export const maxChannels = 2 ** 31 - 1;

const { hasOwn } = Object;
const noOptions = Object.freeze(Object.create(null));

export function checkObject(name: string, value: unknown): asserts value is object {
  if (!isObject(value)) throw typeError(name, 'be an object', value);
}

/** An options object with no property but those known: what of it counts, or no property at all for undefined. */
export function readOptions<T extends object>(value: T | undefined, names: Names, name = 'options'): T {
  if (value === undefined) return noOptions;
  checkOptions(value, names, name);
  return propertiesOf(value, names);
}

/** The same of what the methods of layers take. */
export function readCallOptions<T extends object>(value: T | undefined, names: Names): T {
  if (value === undefined) return noOptions;
  checkOptions(value, names, 'options');
  return callPropertiesOf(value, names);
}

/** The same of what a run of a frozen layer takes. */
export function readRunOptions<T extends object>(value: T | undefined, names: Names): T {
  if (value === undefined) return noOptions;
  checkOptions(value, names, 'options');
  return runPropertiesOf(value, names);
}

function checkOptions(value: object, names: Names, name: string): void {
  if (!isRecord(value)) throw typeError(name, 'be an object', value);
  for (const key in value)
    if (!isNamed(key, names) && hasOwn(value, key) && (value as Record<string, unknown>)[key] !== undefined)
      throw unknownOption(name, key, names.list);
}

function unknownOption(name: string, key: string, known: readonly string[]): Error {
  if (known.length === 0) return typeError(name, 'have no properties', key, 'UNKNOWN_OPTION');
  return typeError(name, `only have ${known.join(', ')}`, key, 'UNKNOWN_OPTION', suggestionFor(key, known));
}

/** The dtype of an array of parameters or statistics. */
export function dtypeOf(name: string, data: unknown): Arithmetic {
  const dtype = tryDtypeOf(data);
  if (dtype !== undefined) return dtype;
  const cure =
    typedArrayType(data) === 'Uint16Array'
      ? '; of the bits of bfloat16 or float16 decode(values, dtype) makes a Float32Array'
      : '';
  throw typeError(name, `be a ${arrayNames}`, data, 'INVALID_TYPE', cure);
}

function tryDtypeOf(data: unknown): Arithmetic | undefined {
  return dtypeNamed(typedArrayType(data));
}

/** For data of a tensor, or room for them, that are of another kind. */
function dataError(name: string, data: unknown, wanted: DType | undefined, cure: string): Error {
  if (wanted === undefined) return typeError(name, `be a ${arrayNames}`, data, 'INVALID_TYPE', cure);
  const orHalves = wanted === 'float16' && hasHalves ? ' or Float16Array' : '';
  return typeError(name, `be a ${dtypes[wanted].arrayName}${orHalves}`, data, 'INVALID_TYPE', cure);
}

function dataCure(data: unknown, wanted: DType | undefined): string {
  if (typeof data === 'function')
    return '; of a tensor of TensorFlow.js give { data: await t.data(), shape: t.shape }';
  switch (typedArrayType(data)) {
    case 'Uint16Array':
      return "; the bits of bfloat16 or float16 need dtype: 'bfloat16' or 'float16'";
    case 'Float16Array':
      return "; it needs dtype: 'float16'";
    case 'Float32Array':
      return wanted !== undefined && isHalf(wanted) ? `; encode(values, '${wanted}') makes one` : '';
    case 'Uint8Array':
    case 'Uint8ClampedArray':
    case 'Int8Array':
    case 'Int16Array':
      return '; integers are input of inference alone: of run(), runAsync() and forwardInference()';
    default:
      return '';
  }
}

/** For what is no tensor, or one of other values. */
function tensorError(name: string, value: unknown, data: unknown, dtype: DType | undefined): Error {
  const type = typedArrayType(value);
  const rule = 'be a tensor { data, shape }';
  if (type !== undefined) return wordedTypeError(name, rule, `${type.startsWith('I') ? 'an' : 'a'} ${type}`);
  if (!isObject(value) || isArray(value)) return typeError(name, rule, value);
  if (data === undefined) return wordedTypeError(name, rule, 'an object without data');
  return dataError(`${name}.data`, data, dtype, dataCure(data, dtype));
}

/** Reads a tensor and checks all of it but its length; with `dtype`, its type too. Without one, bits are refused. */
export function readShape<T extends TensorArray>(name: string, value: unknown, dtype?: DType): ReadTensor<T> {
  if (!isObject(value)) throw tensorError(name, value, undefined, dtype);
  const {
    data,
    shape,
    dims,
    stride,
    strides = stride,
    offset,
  } = tensorPropertiesOf(value) as { data: T } & Record<string, unknown>;
  const type = typedArrayType(data);
  const found = tensorDtypeNamed(type, dtype);
  if (found === undefined || (dtype !== undefined && found !== dtype))
    throw tensorError(name, value, data, dtype);
  const { copy, size } = readDimensions(name, shape, dims);
  const isHalves = type === 'Float16Array';
  const values = isHalves ? (bitsOf(data) as TensorArray as T) : data;
  const tensor = { name, data: values, dtype: found, isHalves, shape: copy, size };
  if (strides === undefined) return tensor;
  return withoutStrides(tensor, strides === stride ? 'stride' : 'strides', strides, offset);
}

/** A copy of strides, whose values are not checked. */
function readStrides(
  name: string,
  stridesName: string,
  strides: unknown,
  shape: readonly number[],
): unknown[] {
  const rule = 'be an array, one for each dimension';
  if (!isArray(strides)) throw typeError(`${name}.${stridesName}`, rule, strides);
  if (strides.length !== shape.length)
    throw rangeError(`${name}.${stridesName}`, rule, `${describe(strides.length)} of them`);
  const given: unknown[] = newShape(shape.length);
  for (let i = 0; i < shape.length; i++) given[i] = strides[i];
  return given;
}

/** A tensor of a library that has strides, as one without: a view of its values, which must lie in rows, one after the other. */
function withoutStrides<T extends TensorArray>(
  tensor: ReadTensor<T>,
  stridesName: string,
  strides: unknown,
  offset: unknown = 0,
): ReadTensor<T> {
  const { name, data, dtype, shape, size } = tensor;
  const given = readStrides(name, stridesName, strides, shape);
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    // What is not gone along has no stride to speak of.
    if (shape[i] !== 1 && size > 0 && given[i] !== expected)
      throw rangeError(
        `${name}.${stridesName}`,
        `be those of rows one after the other for shape ${describeShape(shape)} (copy the values into such an array)`,
        `[${given.map(describe).join(', ')}]`,
      );
    expected *= shape[i];
  }
  const first = checkInteger(`${name}.offset`, offset, 0, Number.MAX_SAFE_INTEGER);
  const length = lengthOf(data);
  if (first + size > length)
    throw rangeError(
      `${name}.data`,
      `have ${first + size} values (${shape.join(' x ')} from offset ${first} on)`,
      String(length),
    );
  if (length === size) return tensor;
  return { ...tensor, data: partOf(data, dtype, first, size) };
}

/** The data of a tensor must have the values its shape says. */
export function checkLength(tensor: Pick<ReadView, 'name' | 'data' | 'size' | 'shape'>): void {
  const length = lengthOf(tensor.data);
  if (length !== tensor.size)
    throw rangeError(
      `${tensor.name}.data`,
      `have ${tensor.size} values (${tensor.shape.join(' x ')})`,
      String(length),
    );
}

/** A result in the class of a tensor: a Float16Array where that is one. */
export function inClassOf<T extends TensorArray>({ isHalves }: ReadTensor<T>, result: T): T {
  return isHalves ? (halvesOf(result) as T) : result;
}

/** A tensor to be added to `input`, checked but for its length. */
export function readResidual<T extends TensorArray>(value: unknown, input: ReadTensor<T>): ReadTensor<T> {
  const residual = readShape<T>('residual', value, input.dtype);
  checkSameShape(residual, input.name, input.shape);
  return residual;
}

export function readTensor(name: string, value: unknown, dtype?: DType): ReadTensor {
  const tensor = readShape(name, value, dtype);
  checkLength(tensor);
  return tensor;
}

/** A tensor that lies anywhere: of values one after the other, or with strides. */
export interface ReadView {
  name: string;
  /** Of a Float16Array its bits, of a Uint8ClampedArray or Buffer its bytes. */
  data: ValueArray;
  /** As the caller has it. */
  given: unknown;
  /** How many values there are, those that are stepped over too. */
  length: number;
  dtype: AnyDType;
  isHalves: boolean;
  shape: readonly number[];
  size: number;
  /** Values between neighbours along each dimension; undefined where they lie one after the other from the first on. */
  strides: readonly number[] | undefined;
  /** The place of the first value. */
  offset: number;
}

/** What a tensor may have. */
export interface TensorProperties {
  readonly data: unknown;
  readonly shape: unknown;
  readonly dims: unknown;
  readonly stride: unknown;
  readonly strides: unknown;
  readonly offset: unknown;
}

/**
 * {@link readShape} for inference: integers too, and with the strides that it has.
 *
 * @param dtype the layer's, which integers need not have.
 * @param bits what a Uint16Array holds where there is no layer.
 */
export function readView(
  name: string,
  value: unknown,
  dtype: DType | undefined,
  bits: HalfDType | undefined = undefined,
): ReadView {
  return viewOfProperties(name, value, tensorProperties(name, value, dtype), dtype, bits);
}

/** What a tensor has: the properties that count, not one of them read yet. */
export function tensorProperties(name: string, value: unknown, dtype: DType | undefined): TensorProperties {
  if (!isObject(value)) throw tensorError(name, value, undefined, dtype);
  return tensorPropertiesOf(value) as TensorProperties;
}

/** {@link readView} of what a tensor has, from which each property is read once. */
export function viewOfProperties(
  name: string,
  value: unknown,
  { data, shape, dims, stride, strides = stride, offset }: TensorProperties,
  dtype: DType | undefined,
  bits: HalfDType | undefined = undefined,
): ReadView {
  const type = typedArrayType(data);
  const integer = integerNamed(type);
  const found = integer ?? tensorDtypeNamed(type, dtype ?? bits);
  if (found === undefined || (integer === undefined && dtype !== undefined && found !== dtype))
    throw tensorError(name, value, data, dtype);
  const { copy, size } = readDimensions(name, shape, dims);
  const isHalves = type === 'Float16Array';
  const values =
    integer !== undefined
      ? valuesOf(data as IntegerArray, integer)
      : isHalves
        ? bitsOf(data as TensorArray)
        : (data as TensorArray);
  const view: ReadView = {
    name,
    data: values,
    given: data,
    length: lengthOf(values),
    dtype: found,
    isHalves,
    shape: copy,
    size,
    strides: undefined,
    offset: 0,
  };
  if (strides === undefined) return view;
  const stridesName = strides === stride ? 'stride' : 'strides';
  return placed(view, stridesName, readStrides(name, stridesName, strides, copy), offset);
}

/** For data that are not of the dtype that was said. */
export function viewDtypeError({ name, given }: ReadView, wanted: DType | undefined): Error {
  return dataError(`${name}.data`, given, wanted, dataCure(given, wanted));
}

/** The same with strides, where it does not lie one value after the other. */
function placed(
  view: ReadView,
  stridesName: string,
  given: readonly unknown[],
  offset: unknown = 0,
): ReadView {
  const { name, data, dtype, shape, size } = view;
  const first = checkInteger(`${name}.offset`, offset, 0, Number.MAX_SAFE_INTEGER);
  const strides = newShape(shape.length);
  let expected = 1;
  let isPlain = true;
  let least = first;
  let most = first;
  for (let i = shape.length - 1; i >= 0; i--) {
    const stride = given[i];
    if (typeof stride !== 'number') throw typeError(`${name}.${stridesName}[${i}]`, 'be an integer', stride);
    if (!Number.isSafeInteger(stride))
      throw rangeError(`${name}.${stridesName}[${i}]`, 'be an integer', String(stride));
    strides[i] = stride;
    if (shape[i] !== 1 && stride !== expected) isPlain = false;
    expected *= shape[i];
    if (size === 0) continue;
    const reach = (shape[i] - 1) * stride;
    if (reach < 0) least += reach;
    else most += reach;
  }
  const what = `${shape.join(' x ')} with strides [${strides.join(', ')}] from offset ${first} on`;
  if (least < 0) throw rangeError(`${name}.offset`, `be at least ${first - least} (${what})`, String(first));
  const length = lengthOf(data);
  if (size > 0 && most >= length)
    throw rangeError(`${name}.data`, `have ${most + 1} values (${what})`, String(length));
  if (size === 0 || isPlain)
    return { ...view, data: length === size ? data : partOf(data, dtype, size === 0 ? 0 : first, size) };
  return { ...view, strides, offset: first };
}

/** Where the channels of a tensor are. `channels` is what they must be, or undefined for any number from 1 on. */
export function geometryOf(
  tensor: { readonly name: string; readonly shape: readonly number[] },
  axis: number,
  channels?: number,
): Geometry {
  const { name, shape } = tensor;
  const rank = shape.length;
  const index = axis < 0 ? axis + rank : axis;
  if (index < 0 || index >= rank)
    throw rangeError(
      'axis',
      `be an integer from ${-rank} to ${rank - 1} (${name} has shape ${describeShape(shape)})`,
      String(axis),
    );
  if (channels === undefined ? shape[index] === 0 : shape[index] !== channels)
    throw rangeError(
      `${name}.shape[${index}]`,
      channels === undefined ? 'be at least 1 (channels)' : `be ${channels} (channels)`,
      `${shape[index]}${axisHint(shape, index, channels)}`,
    );
  if (shape[index] > maxChannels)
    throw rangeError(`${name}.shape[${index}]`, `be at most ${maxChannels} (channels)`, String(shape[index]));
  let outer = 1;
  let inner = 1;
  for (let i = 0; i < index; i++) outer *= shape[i];
  for (let i = index + 1; i < rank; i++) inner *= shape[i];
  return { outer, channels: shape[index], inner };
}

/** The other of the two axes that channels usually have, where it fits. */
function axisHint(shape: readonly number[], index: number, channels: number | undefined): string {
  const last = shape.length - 1;
  if (channels === undefined) return '';
  if (index !== last && shape[last] === channels) return `; axis: -1 has ${channels}`;
  return index !== 1 && last >= 1 && shape[1] === channels ? `; axis: 1 has ${channels}` : '';
}

export function checkSameShape(
  tensor: Pick<ReadView, 'name' | 'shape'>,
  name: string,
  shape: readonly number[],
): void {
  const given = tensor.shape;
  let isSame = given.length === shape.length;
  for (let i = 0; isSame && i < shape.length; i++) isSame = given[i] === shape[i];
  if (!isSame)
    throw rangeError(
      `${tensor.name}.shape`,
      `be ${describeShape(shape)} (the shape of ${name})`,
      describeShape(given),
    );
}

export function checkAxis(axis: unknown, name = 'axis'): number {
  if (typeof axis !== 'number') throw typeError(name, 'be an integer', axis);
  if (!Number.isSafeInteger(axis)) throw rangeError(name, 'be an integer', String(axis));
  return axis;
}

export function checkEps(eps: unknown, name = 'eps'): number {
  const rule = 'be a finite number from 0 on';
  if (typeof eps !== 'number') throw typeError(name, rule, eps);
  if (!(eps >= 0 && eps < Infinity)) throw rangeError(name, rule, String(eps));
  return eps;
}

/** A number from 0 to 1. `rule` says what else would have been right. */
export function checkFraction(name: string, value: unknown, rule = 'be a number from 0 to 1'): number {
  if (typeof value !== 'number') throw typeError(name, rule, value);
  if (!(value >= 0 && value <= 1)) throw rangeError(name, rule, String(value));
  return value;
}

/** A number from `least` on, Infinity too. */
export function checkAtLeast(name: string, value: unknown, least: number): number {
  const rule = `be a number from ${least} on`;
  if (typeof value !== 'number') throw typeError(name, rule, value);
  if (!(value >= least)) throw rangeError(name, rule, String(value));
  return value;
}

export function checkInteger(name: string, value: unknown, from: number, to: number): number {
  const rule =
    to === Number.MAX_SAFE_INTEGER ? `be an integer from ${from} on` : `be an integer from ${from} to ${to}`;
  if (typeof value !== 'number') throw typeError(name, rule, value);
  if (!Number.isSafeInteger(value) || value < from || value > to) throw rangeError(name, rule, String(value));
  return value;
}

export function checkBoolean(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw typeError(name, 'be true or false', value);
  return value;
}

export function checkOneOf<const T extends string>(name: string, value: unknown, known: readonly T[]): T {
  const rule = `be ${known.map((one) => `'${one}'`).join(' or ')}`;
  if (typeof value !== 'string') throw typeError(name, rule, value);
  for (let i = 0; i < known.length; i++) if (known[i] === value) return known[i];
  throw rangeError(name, rule, describe(value));
}

/** A dtype that was given, if it was. */
export function checkDtype(dtype: unknown, name = 'dtype'): DType | undefined {
  return dtype === undefined ? undefined : checkOneOf(name, dtype, dtypeNames);
}

/** A per-channel array: Float32Array or Float64Array with a value for each channel. */
export function checkPerChannel(name: string, value: unknown, channels: number): FloatArray {
  dtypeOf(name, value);
  const length = lengthOf(value as FloatArray);
  if (length !== channels) throw perChannelError(name, channels, length);
  return value as FloatArray;
}

/** For a number of values that is not that of the channels. */
export function perChannelError(name: string, channels: number, length: unknown): Error {
  const rule = `have ${channels} ${channels === 1 ? 'value' : 'values'} (one per channel)`;
  return rangeError(name, rule, describe(length));
}

/** The number of channels of a per-channel array, which decides that of the others. */
export function channelsOf(name: string, value: unknown): number {
  dtypeOf(name, value);
  const length = lengthOf(value as FloatArray);
  if (length === 0) throw channelsError(name, length);
  return length;
}

/** For a number of values that channels cannot have. */
export function channelsError(name: string, length: unknown): Error {
  const rule = length === 0 ? 'have at least one value' : `have from 1 to ${maxChannels} values`;
  return rangeError(name, `${rule} (one per channel)`, describe(length));
}

export function checkVariance(name: string, value: unknown, channels: number): FloatArray {
  const array = checkPerChannel(name, value, channels);
  for (let channel = 0; channel < channels; channel++)
    if (array[channel] < 0)
      throw rangeError(name, 'not be negative', `${array[channel]} in channel ${channel}`);
  return array;
}

/** A channel whose variance and eps are both 0 cannot be divided by its deviation. */
export function checkDivisors(name: string, variance: FloatArray, eps: number): void {
  if (eps > 0) return;
  const channel = channelOfZero(variance);
  if (channel >= 0) checkDivisor(name, 0, channel);
}

/** The same of one channel, where eps is 0. */
export function checkDivisor(name: string, variance: number, channel: number): void {
  if (variance === 0)
    throw rangeError(name, 'be positive with eps: 0', `0 in channel ${channel}; give a positive eps`);
}

/** The same of the variance that a batch has turned out to have. */
export function checkVaries(variance: FloatArray, of: 'channel' | 'row' = 'channel'): void {
  const index = channelOfZero(variance);
  if (index >= 0)
    throw rangeError(
      'x',
      `vary in every ${of} with eps: 0`,
      `a variance of 0 in ${of} ${index}; give a positive eps`,
    );
}

function channelOfZero(variance: FloatArray): number {
  const channels = lengthOf(variance);
  for (let channel = 0; channel < channels; channel++) if (variance[channel] === 0) return channel;
  return -1;
}

/** A per-channel array in a dtype: itself where it has that dtype, else a copy. */
export function toDtype<T extends FloatArray>(values: FloatArray, dtype: Arithmetic): T {
  return tryDtypeOf(values) === dtype ? (values as T) : copyAs<T>(dtype, values);
}

/** A copy, in the same dtype. */
export function copyOf<T extends FloatArray>(values: T): T {
  return copyAs<T>(tryDtypeOf(values) as Arithmetic, values);
}

/** A copy in a dtype. */
export function copyAs<T extends FloatArray>(dtype: Arithmetic, values: FloatArray): T {
  const copy = newArray<T>(dtype, lengthOf(values));
  copyInto(copy, values);
  return copy;
}

/** Zeros of a dtype. */
export function newArray<T extends ValueArray>(dtype: AnyDType, length: number): T {
  return allocated(length, `values of ${dtype}`, () => zeros<T>(dtype, length));
}

/** Bytes of 0. */
export function newBytes(length: number): Uint8Array {
  return allocated(length, 'bytes', () => zeroBytes(length));
}

/** Memory that is no array. */
export function newMemory(bytes: number): ArrayBuffer {
  return allocated(bytes, 'bytes', () => memoryOf(bytes));
}

/** @throws RangeError where there is no memory for what is made. */
export function allocated<R>(size: number, unit: string, allocate: () => R): R {
  try {
    return allocate();
  } catch {
    throw rangeError('a result', 'fit into memory', `${size} ${unit}`, 'OUT_OF_MEMORY');
  }
}

/**
 * The type of a result array for a tensor.
 *
 * @returns what is to be written: of a Float16Array its bits.
 */
export function checkOutType<T extends TensorArray>(out: unknown, { dtype }: ReadTensor<T>): T {
  const type = typedArrayType(out);
  if (tensorDtypeNamed(type, dtype) !== dtype) throw dataError('out', out, dtype, '');
  return type === 'Float16Array' ? (bitsOf(out as T) as TensorArray as T) : (out as T);
}

/** {@link checkOutType}, and the length. */
export function checkOut<T extends TensorArray>(out: unknown, tensor: ReadTensor<T>): T {
  const result = checkOutType(out, tensor);
  const length = lengthOf(result);
  if (length !== tensor.size)
    throw rangeError('out', `have ${tensor.size} values (${tensor.shape.join(' x ')})`, String(length));
  return result;
}

/** The caller may have detached or shrunk its memory since it was checked. */
export function checkKept(name: string, array: ValueArray, length: number): void {
  if (lengthOf(array) !== length) throw bufferError(name);
}

/** For arrays of any length: one that has lost its memory is no empty one. */
export function checkAttached(name: string, array: ValueArray): void {
  if (!isAttached(array)) throw bufferError(name);
}

function bufferError(name: string): Error {
  return stateError(
    'BUFFER_CHANGED',
    `${name} must keep its length, got a buffer that was detached or resized`,
  );
}
