import { decode, encode } from 'batchnorm';

/** How the activations of batch norms are stored. */
export type Storage = 'float32' | 'bfloat16';

export const STORAGES: readonly Storage[] = ['float32', 'bfloat16'];

/** Values as they are stored: themselves, or a copy of half the size. */
export function stored(values: Float32Array, dtype: Storage): Float32Array | Uint16Array {
  return dtype === 'float32' ? values : encode(values, dtype);
}

/** What is stored, as values. */
export function floatsOf(data: Float32Array | Uint16Array): Float32Array {
  return data instanceof Float32Array ? data : decode(data, 'bfloat16');
}

/** @throws {RangeError} for the name of another. */
export function storageNamed(name: string): Storage {
  const found = STORAGES.find((storage) => storage === name);
  if (found === undefined) throw new RangeError(`--dtype must be ${STORAGES.join(' or ')}, got ${name}`);
  return found;
}
