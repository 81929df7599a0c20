import {
  type Convention,
  conventions,
  type StateName,
  type StateNames,
  stateNamesOf,
} from './conventions.js';
import {
  describe,
  isArray,
  isObject,
  nameOf,
  quoted,
  rangeError,
  typeError,
  wordedTypeError,
} from './errors.js';
import { namesOf, propertiesOf, propertyOf, tensorNames } from './properties.js';
import { distance, suggestionFor } from './suggest.js';
import { lengthOf, typedArrayType } from './typed-array.js';
import type { DType, FloatArray } from './types.js';
import {
  channelsError,
  checkBoolean,
  checkDivisors,
  checkLength,
  checkObject,
  maxChannels,
  newArray,
  perChannelError,
  readOptions,
  readShape,
} from './validate.js';

/**
 * The parameters and statistics of a layer under PyTorch's names, as {@link BatchNorm.stateDict} gives them. What a layer does
 * not have is absent.
 */
export interface StateDict {
  /** γ of the paper: one value per channel, like all arrays here. */
  weight?: FloatArray;
  /** β of the paper. */
  bias?: FloatArray;
  /** Of the batches so far. */
  running_mean?: FloatArray;
  /** Of the batches so far, none negative. */
  running_var?: FloatArray;
  /** Batches that the running statistics have seen. May be absent beside them: then 0. */
  num_batches_tracked?: number;
}

/**
 * A state as files have it: under PyTorch's names, and those of the `convention` too (Keras: gamma, beta, moving_mean,
 * moving_variance, with or without `:0`; ONNX: scale, B, input_mean, input_var). Values per channel are Float32Array,
 * Float64Array, `{ data, shape }` or arrays of numbers, all of them finite; the number of batches is a number, a bigint, or an
 * array of one (BigInt64Array, Int32Array and others), `{ data, shape }` of it too. It may be the dictionary of a whole model,
 * of which `prefix` says what part is meant.
 */
export type AnyState = StateDict | Readonly<Record<string, unknown>>;

/** Which part of a dictionary is meant, and whether it must be all that the layer has. */
export interface StateOptions {
  /**
   * What stands before the names of this layer in the dictionary of a whole model: 'layer1.0.bn1' takes 'layer1.0.bn1.weight',
   * or 'layer1.0.bn1/weight', and so on. Default: nothing.
   */
  prefix?: string;
  /**
   * false: what the layer does not have is passed over, and what the state lacks stays as it is, but one entry at least must
   * be there. Default true: everything, and nothing else.
   */
  strict?: boolean;
}

/** A part of the library that has such an entry (true), has none (false), or may have one ('optional'). */
interface Parts {
  readonly weight: boolean | 'optional';
  readonly bias: boolean | 'optional';
  readonly stats: boolean;
}

/** Of what reads a state: its own and the caller's. */
interface Reading extends Parts, StateOptions {
  /** What each array must have; undefined for as many as there are running means. */
  readonly channels: number | undefined;
  readonly convention: Convention | undefined;
  /** Of weight and bias where they are copied to; undefined for either. */
  readonly dtype: DType | undefined;
  /** Whether running statistics must be there even where the reading is not strict. */
  readonly needsStats: boolean;
  /** That no variance may be 0 with; any may where it is undefined. */
  readonly eps?: number;
}

/** A state that has been checked, with the number of its channels. */
export interface ReadState extends StateDict {
  readonly channels: number;
}

/** An entry as the caller's object has it. */
export interface Entry {
  /** As messages call it. */
  readonly name: string;
  readonly value: unknown;
}

const { apply, getOwnPropertyDescriptor } = Reflect;
const { hasOwn, keys } = Object;
const { MAX_SAFE_INTEGER } = Number;
const mapSize = getOwnPropertyDescriptor(Map.prototype, 'size')?.get as (this: unknown) => number;

/** PyTorch's. */
export const stateNames: readonly StateName[] = [
  'weight',
  'bias',
  'running_mean',
  'running_var',
  'num_batches_tracked',
];
const optionNames = namesOf(['prefix', 'strict']);
const separators = ['.', '/'] as const;
/** Stems of names with nothing before them. */
export const wholeObject = [''] as const;

const namesByConvention = Object.fromEntries(
  conventions.map((convention) => [
    convention,
    Object.fromEntries(
      stateNames.map((part) => [part, [part as string].concat(stateNamesOf(convention)[part])]),
    ) as unknown as StateNames,
  ]),
) as Record<Convention, StateNames>;

/** The names that entries may have under a convention: PyTorch's, then its own. */
export function namesUnder(convention: Convention | undefined): StateNames {
  return namesByConvention[convention ?? 'pytorch'];
}

/**
 * The entry of an object that has one of these names, behind one of these stems.
 *
 * @throws TypeError where there are two.
 */
export function entryOf(
  objectName: string,
  object: object,
  stems: readonly string[],
  names: readonly string[],
): Entry | undefined {
  let found: Entry | undefined;
  for (let i = 0; i < stems.length; i++) {
    for (let j = 0; j < names.length; j++) {
      const key = stems[i] + names[j];
      const value = propertyOf(object, key);
      if (value === undefined) continue;
      const name = nameOf(objectName, key);
      if (found !== undefined) throw typeError(name, `be left out beside ${found.name}`, value);
      found = { name, value };
    }
  }
  return found;
}

/** What may stand before the names: with a separator of either kind where the prefix has none. */
function stemsOf(prefix: unknown): readonly string[] {
  if (prefix === undefined || prefix === '') return wholeObject;
  if (typeof prefix !== 'string') throw typeError('prefix', 'be a string', prefix);
  const last = prefix[prefix.length - 1];
  return last === '.' || last === '/' ? [prefix] : [`${prefix}.`, `${prefix}/`];
}

/**
 * Reads `prefix` and `strict`, with what reads the state.
 *
 * @throws TypeError for another option.
 */
export function readStateOptions(options: StateOptions | undefined): StateOptions {
  const { prefix, strict } = readOptions(options, optionNames);
  return { prefix, strict };
}

/**
 * Reads a state and checks all of it before anything is changed.
 *
 * @throws TypeError, RangeError naming the entry that is missing, unknown, or of another type, size or value.
 */
export function readState(state: unknown, reading: Reading): ReadState {
  const { convention, prefix, strict = true, channels, dtype, stats, needsStats, eps } = reading;
  checkObject('state', state);
  if (isArray(state) || typedArrayType(state) !== undefined) throw typeError('state', 'be an object', state);
  if (isMap(state)) throw wordedTypeError('state', 'be an object', 'a Map; give Object.fromEntries(map)');
  const stems = stemsOf(prefix);
  checkBoolean('strict', strict);
  const names = namesUnder(convention);
  const entry = (part: StateName) => entryOf('state', state, stems, names[part]);
  const weight = entry('weight');
  const bias = entry('bias');
  const mean = entry('running_mean');
  const variance = entry('running_var');
  const counted = entry('num_batches_tracked');
  const isAnyThere = (weight ?? bias ?? mean ?? variance ?? counted) !== undefined;
  if (!isAnyThere && (prefix || !strict)) throw noMatchError(state, convention, prefix, stems);
  if (strict) checkKeys(state, convention, stems);
  const wanted = (
    part: StateName,
    found: Entry | undefined,
    rule: boolean | 'optional',
    isNeeded = strict,
  ) => {
    if (rule === false) {
      if (strict && found !== undefined)
        throw rangeError(found.name, 'be absent (the layer has none)', 'a value');
      return undefined;
    }
    if (found === undefined && rule === true && isNeeded)
      return { name: nameOf('state', stems[0] + part), value: undefined };
    return found;
  };
  const given = {
    weight: wanted('weight', weight, reading.weight),
    bias: wanted('bias', bias, reading.bias),
    mean: wanted('running_mean', mean, stats, strict || needsStats),
    variance: wanted('running_var', variance, stats, strict || needsStats),
    count: wanted('num_batches_tracked', counted, stats && 'optional'),
  };
  if (!strict && !(given.weight ?? given.bias ?? given.mean ?? given.variance ?? given.count))
    throw noMatchError(state, convention, prefix, stems);
  // Getters of tensors and elements of arrays run here, and none of the caller's code behind it.
  const values = {
    weight: given.weight && valuesOf(given.weight),
    bias: given.bias && valuesOf(given.bias),
    mean: given.mean && valuesOf(given.mean),
    variance: given.variance && valuesOf(given.variance),
    count: given.count && countOf(given.count),
  };
  const size = channels ?? sizeOf(given.mean, values.mean);
  if (given.weight && values.weight) checkValues(given.weight.name, values.weight, size, false, dtype);
  if (given.bias && values.bias) checkValues(given.bias.name, values.bias, size, false, dtype);
  if (given.mean && values.mean) checkValues(given.mean.name, values.mean, size);
  if (given.variance && values.variance) {
    checkValues(given.variance.name, values.variance, size, true);
    if (eps !== undefined) checkDivisors(given.variance.name, values.variance, eps);
  }
  return {
    channels: size,
    weight: values.weight,
    bias: values.bias,
    running_mean: values.mean,
    running_var: values.variance,
    num_batches_tracked: values.count,
  };
}

/** The number of channels where the running means decide it. */
function sizeOf(entry: Entry | undefined, values: FloatArray | undefined): number {
  const { name } = entry as Entry;
  const size = lengthOf(values as FloatArray);
  if (size === 0 || size > maxChannels) throw channelsError(name, size);
  return size;
}

function isMap(value: object): boolean {
  try {
    apply(mapSize, value, []);
    return true;
  } catch {
    return false;
  }
}

// ---- Values ----

const valuesRule = 'be a Float32Array, a Float64Array, { data, shape } or an array of numbers';
const dataRule = 'be a Float32Array, a Float64Array or an array of numbers';

/**
 * Values per channel in one of the forms they come in, as an array of one of the two dtypes: the caller's own, or a copy.
 * How many and which they are, {@link checkValues} looks at.
 */
export function valuesOf({ name, value }: Entry, hint = ''): FloatArray {
  if (isFloatArray(value)) return value;
  if (isArray(value)) return numbersIn(name, value);
  if (!isObject(value) || typedArrayType(value) !== undefined)
    throw valuesError(name, valuesRule, value, hint);
  const { data, shape, dims, strides, stride, offset } = propertiesOf(value, tensorNames) as Record<
    string,
    unknown
  >;
  if (data === undefined) throw valuesError(name, valuesRule, value);
  if (!isFloatArray(data) && !isArray(data)) throw valuesError(`${name}.data`, dataRule, data);
  const values = isArray(data) ? numbersIn(`${name}.data`, data) : data;
  const tensor = readShape(name, { data: values, shape, dims, strides, stride, offset });
  checkLength(tensor);
  return tensor.data;
}

function valuesError(name: string, rule: string, value: unknown, hint = ''): Error {
  const type = typedArrayType(value);
  if (type === undefined && isObject(value) && hasOwn(value, '0'))
    return wordedTypeError(
      name,
      rule,
      'an object with the key 0, as JSON makes of a typed array; save what toJSON() of the layer gives, and read it with fromJSON()',
    );
  const cure =
    type === 'Uint16Array'
      ? '; convert float16 or bfloat16 to a Float32Array first: bits alone do not say which they are'
      : type === 'Float16Array'
        ? '; give a Float32Array of its values'
        : hint;
  return typeError(name, rule, value, 'INVALID_TYPE', cure);
}

function isFloatArray(value: unknown): value is FloatArray {
  const type = typedArrayType(value);
  return type === 'Float32Array' || type === 'Float64Array';
}

function numbersIn(name: string, array: readonly unknown[]): Float64Array {
  const { length } = array;
  if (typeof length !== 'number' || !(length >= 1 && length <= maxChannels))
    throw channelsError(name, length);
  const values = newArray<Float64Array>('float64', length);
  for (let i = 0; i < length; i++) {
    const value = array[i];
    if (typeof value !== 'number') throw typeError(`${name}[${i}]`, 'be a number', value);
    values[i] = value;
  }
  return values;
}

/** Runs none of the caller's code. */
export function checkValues(
  name: string,
  values: FloatArray,
  channels: number,
  isVariance = false,
  dtype?: DType,
): FloatArray {
  if (lengthOf(values) !== channels) throw perChannelError(name, channels, lengthOf(values));
  for (let channel = 0; channel < channels; channel++) {
    const value = values[channel];
    if (!Number.isFinite(value)) throw rangeError(name, 'be finite', `${value} in channel ${channel}`);
    if (isVariance && value < 0) throw rangeError(name, 'not be negative', `${value} in channel ${channel}`);
    if (dtype === 'float32' && !Number.isFinite(Math.fround(value)))
      throw rangeError(name, 'be finite in float32', `${value} in channel ${channel}`);
  }
  return values;
}

/** The number of batches seen. */
function countOf({ name, value: given }: Entry): number {
  const rule = `be an integer from 0 to ${MAX_SAFE_INTEGER}`;
  let value = given;
  // An array of one, or the tensor that has it.
  if (isObject(value) && !isArray(value) && typedArrayType(value) === undefined)
    value = propertyOf(value, 'data') ?? value;
  if (typedArrayType(value) !== undefined || isArray(value)) {
    const values = value as Int32Array;
    const length = isArray(value) ? value.length : lengthOf(values);
    if (length !== 1) throw rangeError(name, 'have one value', describe(length));
    value = values[0];
  }
  if (typeof value !== 'number' && typeof value !== 'bigint') throw typeError(name, rule, value);
  if (
    !(value >= 0 && value <= MAX_SAFE_INTEGER) ||
    (typeof value === 'number' && !Number.isSafeInteger(value))
  )
    throw rangeError(name, rule, describe(value));
  return Number(value);
}

// ---- What a message says of a dictionary ----

function listOf(convention: Convention | undefined): readonly string[] {
  const names = namesUnder(convention);
  const list: string[] = [];
  for (let i = 0; i < stateNames.length; i++) list.push(names[stateNames[i]][0]);
  if (convention === undefined) return list;
  for (let i = 0; i < stateNames.length; i++) {
    const own = names[stateNames[i]][1];
    if (own !== undefined) list.push(own);
  }
  return list;
}

/** Nothing but what a layer may have. */
function checkKeys(state: object, convention: Convention | undefined, stems: readonly string[]): void {
  const names = namesUnder(convention);
  for (const key in state) {
    if (!hasOwn(state, key)) continue;
    const rest = behind(key, stems);
    if (rest !== undefined && !isKnown(rest, names))
      throw unknownKeyError(state, key, rest, convention, stems);
  }
}

/** What of a key is behind one of the stems; undefined where it has none. */
function behind(key: string, stems: readonly string[]): string | undefined {
  for (let i = 0; i < stems.length; i++) if (key.startsWith(stems[i])) return key.slice(stems[i].length);
  return undefined;
}

function isKnown(name: string, names: StateNames): boolean {
  for (let i = 0; i < stateNames.length; i++) {
    const some = names[stateNames[i]];
    for (let j = 0; j < some.length; j++) if (some[j] === name) return true;
  }
  return false;
}

/** The convention that knows a name. */
function conventionOf(name: string): Convention | undefined {
  for (let i = 0; i < conventions.length; i++)
    if (isKnown(name, namesUnder(conventions[i]))) return conventions[i];
  return undefined;
}

/** A key of a whole model. */
interface KeyParts {
  /** With its separator. */
  readonly stem: string;
  readonly name: string;
}

/** A key that ends with the name of an entry, under any convention. */
function split(key: string): KeyParts | undefined {
  const at = Math.max(key.lastIndexOf(separators[0]), key.lastIndexOf(separators[1])) + 1;
  const name = key.slice(at);
  return at > 0 && conventionOf(name) !== undefined ? { stem: key.slice(0, at), name } : undefined;
}

function unknownKeyError(
  state: object,
  key: string,
  rest: string,
  convention: Convention | undefined,
  stems: readonly string[],
): Error {
  const list = listOf(convention);
  const where = stems === wholeObject ? '' : ` behind ${quoted(stems[0])}`;
  // Of a whole model the first key that comes is seldom a batch norm's.
  const part = split(stems === wholeObject ? (nearKeys(keys(state), '')[0] ?? key) : key);
  const other = conventionOf(rest);
  const isPart = part !== undefined && (stems === wholeObject || split(rest) !== undefined);
  const cure = isPart
    ? prefixHint(part, convention)
    : other !== undefined
      ? `; convention: '${other}' knows it`
      : suggestionFor(rest, list);
  const rule = `only have ${list.join(', ')}${where}`;
  return wordedTypeError('state', rule, `${quoted(key)}${cure}`, 'UNKNOWN_OPTION');
}

function prefixHint({ stem, name }: KeyParts, convention: Convention | undefined): string {
  const other = isKnown(name, namesUnder(convention)) ? '' : ` with convention: '${conventionOf(name)}'`;
  return `; prefix: ${quoted(stem)}${other} takes a part of a whole model`;
}

/** That what an object has would be known under another convention; or nothing. */
export function conventionHint(object: object, stems: readonly string[]): string {
  const own = keys(object);
  for (let i = 0; i < own.length; i++) {
    const rest = behind(own[i], stems);
    const other = rest === undefined || isKnown(rest, namesUnder(undefined)) ? undefined : conventionOf(rest);
    if (other !== undefined) return `; convention: '${other}' knows ${quoted(own[i])}`;
  }
  return '';
}

/** Nothing of a dictionary is behind the prefix, or has a name that is known. */
function noMatchError(
  state: object,
  convention: Convention | undefined,
  prefix: string | undefined,
  stems: readonly string[],
): Error {
  const near = nearKeys(keys(state), prefix ?? '');
  const list =
    near.length === 0 ? '' : `; near ${near.length === 1 ? 'is' : 'are'} ${near.map(quoted).join(', ')}`;
  const cure = conventionHint(state, stems) || list;
  const names = listOf(convention).join(', ');
  return prefix
    ? rangeError('prefix', `be followed by one of ${names} in a key of state`, `${quoted(prefix)}${cure}`)
    : rangeError('state', `have at least one of ${names}`, `none of them${cure}`);
}

/** Keys whose prefixes are the nearest to the one that was given: of running means, where there are any. */
function nearKeys(own: readonly string[], prefix: string): string[] {
  const of = (parts: readonly StateName[]) =>
    own.filter((key) => {
      const name = split(key)?.name;
      return (
        name !== undefined &&
        conventions.some((one) => parts.some((part) => namesUnder(one)[part].includes(name)))
      );
    });
  const means = of(['running_mean']);
  const some = means.length > 0 ? means : of(stateNames);
  const bare = (text: string) => text.replace(/[./]$/, '').slice(-100);
  const wanted = bare(prefix);
  return (
    (some.length > 0 ? some : own)
      // More than any model has: the time that a message takes has an end.
      .slice(0, 10_000)
      .map((key) => {
        const stem = bare(split(key)?.stem ?? key);
        // A part of a path is nearer than a path of another spelling.
        const isPart = wanted !== '' && (stem.includes(wanted) || wanted.includes(stem));
        return { key, far: isPart ? Math.abs(stem.length - wanted.length) / 1000 : distance(wanted, stem) };
      })
      .sort((a, b) => a.far - b.far)
      .slice(0, 3)
      .map(({ key }) => key)
  );
}
