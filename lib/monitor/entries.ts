// What a caller names: a record, a Map, an array, or an array of [name, value].
import { describe, isArray, isObject, rangeError, typeError } from '../errors.js';
import { typedArrayType } from '../typed-array.js';

/** A value and what it is called. */
export interface Entry {
  readonly name: string;
  readonly value: unknown;
}

const { apply, getOwnPropertyDescriptor } = Reflect;
const { keys } = Object;
const { forEach } = Map.prototype;
const sizeOf = getOwnPropertyDescriptor(Map.prototype, 'size')?.get as (this: unknown) => number;

function isMap(value: object): value is Map<unknown, unknown> {
  try {
    apply(sizeOf, value, []);
    return true;
  } catch {
    return false;
  }
}

/**
 * The entries of what the caller gives, in its order. Those of a plain array are called by their index.
 *
 * @param what stands in it, for messages.
 * @throws TypeError for anything else; RangeError for a name that stands there twice.
 */
export function entriesOf(name: string, given: unknown, what: string): Entry[] {
  if (!isObject(given) || typedArrayType(given) !== undefined)
    throw typeError(name, `be ${what} by name, or an array of them`, given);
  const entries: Entry[] = [];
  const names = new Set<string>();
  const add = (key: unknown, value: unknown, place: string) => {
    if (typeof key !== 'string') throw typeError(place, 'have a string as its name', key);
    if (names.has(key)) throw rangeError(place, 'have a name of its own', `${describe(key)} twice`);
    names.add(key);
    entries[entries.length] = { name: key, value };
  };
  if (isArray(given)) {
    for (let i = 0; i < given.length; i++) {
      const item = given[i];
      if (isArray(item)) add(item[0], item[1], `${name}[${i}]`);
      else add(`${i}`, item, `${name}[${i}]`);
    }
  } else if (isMap(given)) apply(forEach, given, [(value: unknown, key: unknown) => add(key, value, name)]);
  else {
    const own = keys(given);
    for (let i = 0; i < own.length; i++) add(own[i], given[own[i] as never], name);
  }
  return entries;
}
