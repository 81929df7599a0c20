import { typedArrayType } from './typed-array.js';

/** What is wrong, as a program tells it apart; each value is the end of an error's `code`. */
export type Reason =
  | 'INVALID_TYPE'
  | 'INVALID_VALUE'
  | 'UNKNOWN_OPTION'
  | 'OVERLAP'
  | 'BUFFER_CHANGED'
  | 'OUT_OF_MEMORY'
  | 'NO_THREAD'
  | 'MISSING_VALUE'
  | 'ONE_VALUE_PER_CHANNEL'
  | 'NO_FORWARD'
  | 'INPUT_OVERWRITTEN'
  | 'NO_RUNNING_STATS'
  | 'GROUP_BROKEN'
  | 'GROUP_BUSY'
  | 'MAIN_THREAD'
  | 'NO_SHARED_MEMORY'
  | 'MPI_UNAVAILABLE'
  | 'NOT_FOLDABLE'
  | 'NOT_DIFFERENTIABLE'
  | 'DISPOSED'
  | 'NOT_TRANSFERABLE'
  | 'INVALID_FILE'
  | 'UNSUPPORTED_FILE'
  | 'FILE_TOO_LARGE'
  | 'FILE_TOO_SLOW'
  | 'PACKAGE_MISSING'
  | 'UNSUPPORTED_ISA'
  | 'NATIVE_UNAVAILABLE'
  | 'WASM_UNAVAILABLE';

const { create, defineProperty } = Object;
// By a name of its own: bundlers take Array.isArray for harmless, and leave out a call whose result nobody reads.
const { isArray: askForArray } = Array;

type ErrorClass = new (message: string, options?: ErrorOptions) => Error;

function withCode(Class: ErrorClass, reason: Reason, message: string, cause?: unknown): Error {
  const error = new Class(message, cause === undefined ? undefined : { cause });
  // A property of its own whatever stands on Object.prototype: a setter for `code`, or a `get` for descriptors.
  const code: PropertyDescriptor = create(null);
  code.value = `ERR_BATCHNORM_${reason}`;
  code.writable = true;
  code.enumerable = true;
  code.configurable = true;
  return defineProperty(error, 'code', code);
}

/** `<name> must <rule>, got <actual>` for a value of the wrong type; `cure` is written behind it as it stands. */
export function typeError(
  name: string,
  rule: string,
  actual: unknown,
  reason: Reason = 'INVALID_TYPE',
  cure = '',
): Error {
  return withCode(TypeError, reason, `${name} must ${rule}, got ${describe(actual)}${cure}`);
}

/** {@link typeError} where `actual` is written as it stands. */
export function wordedTypeError(
  name: string,
  rule: string,
  actual: string,
  reason: Reason = 'INVALID_TYPE',
): Error {
  return withCode(TypeError, reason, `${name} must ${rule}, got ${actual}`);
}

/** `<name> must <rule>, got <actual>` for a wrong value; `actual` is written as it stands. */
export function rangeError(
  name: string,
  rule: string,
  actual: string,
  reason: Reason = 'INVALID_VALUE',
  cause?: unknown,
): Error {
  return withCode(RangeError, reason, `${name} must ${rule}, got ${actual}`, cause);
}

/**
 * Batch statistics that do not exist, in training or in evaluation without running statistics.
 *
 * @param larger what has to become larger.
 */
export function oneValuePerChannelError(
  shape: readonly number[],
  training: boolean,
  larger = 'batch',
): Error {
  const what = training ? 'training' : 'evaluation without running statistics';
  const cure = training ? `call eval() or use a larger ${larger}` : `use a larger ${larger}`;
  return withCode(
    RangeError,
    'ONE_VALUE_PER_CHANNEL',
    `${what} needs more than one value per channel, got shape ${describeShape(shape)}; ${cure}`,
  );
}

/** The same of an instance norm, of which each sample has statistics of its own. */
export function oneValuePerRowError(shape: readonly number[], hasRunning: boolean): Error {
  const cure = hasRunning ? '; call eval()' : '';
  return withCode(
    RangeError,
    'ONE_VALUE_PER_CHANNEL',
    `an instance norm needs more than one value per sample and channel, got shape ${describeShape(shape)}${cure}`,
  );
}

/** For a call that is right, at the wrong time. */
export function stateError(reason: Reason, message: string, cause?: unknown): Error {
  return withCode(Error, reason, message, cause);
}

export function describeShape(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}

/** A short name for any value that runs none of the caller's code. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
    case 'symbol':
      return 'a symbol';
    case 'bigint':
      // The digits of a large one take minutes.
      return BigInt.asIntN(64, value) === value ? `${value}n` : 'a large BigInt';
    case 'function':
      return 'a function';
    case 'object':
      if (value === null) return 'null';
      if (!isObject(value)) return 'a revoked proxy';
      return typedArrayType(value) ?? (isArray(value) ? 'an array' : 'an object');
    default:
      return String(value);
  }
}

/** A key of a dictionary as a message writes it: whole, unless it is endless. */
export function quoted(key: string): string {
  return JSON.stringify(key.length > 200 ? `${key.slice(0, 200)}…` : key);
}

/** A property as a message names it. */
export function nameOf(object: string, key: string): string {
  return /^[a-z_]\w*$/i.test(key) ? `${object}.${key}` : `${object}[${quoted(key)}]`;
}

/** Array.isArray, which throws for a revoked proxy. */
export function isArray(value: unknown): value is readonly unknown[] {
  try {
    return askForArray(value);
  } catch {
    return false;
  }
}

/** An object that is no array, and no revoked proxy. */
export function isRecord(value: unknown): value is object {
  try {
    return typeof value === 'object' && value !== null && !askForArray(value);
  } catch {
    return false;
  }
}

/** An object that has properties to read: no revoked proxy. */
export function isObject(value: unknown): value is object {
  if (value === null || typeof value !== 'object') return false;
  try {
    askForArray(value);
    return true;
  } catch {
    return false;
  }
}
