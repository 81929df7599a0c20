/** The arrays a tensor may lie in; each stands for one dtype of the file. */
export type Values = Float32Array | Float64Array | BigInt64Array;

/** An array and its shape; `[]` is the shape of a single value. */
export interface StoredTensor {
  readonly data: Values;
  readonly shape: readonly number[];
}

/** What a file holds: tensors by name, and free text by key. */
export interface Checkpoint {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** The dtypes of the format that batch normalization needs. */
export type StoredDType = 'F32' | 'F64' | 'I64';

/** Bytes of the number in front of the header, which says how long the header is. */
export const LENGTH_BYTES = 8;

/** Not the name of a tensor: the text entries of a file lie there. */
export const METADATA = '__metadata__';

/** How the values of a dtype are laid out, and the array that holds them. */
export const LAYOUTS: Record<StoredDType, { readonly bytes: number; create(count: number): Values }> = {
  F32: { bytes: 4, create: (count) => new Float32Array(count) },
  F64: { bytes: 8, create: (count) => new Float64Array(count) },
  I64: { bytes: 8, create: (count) => new BigInt64Array(count) },
};

export function dtypeOf({ data }: StoredTensor): StoredDType {
  if (data instanceof Float32Array) return 'F32';
  return data instanceof Float64Array ? 'F64' : 'I64';
}

/** The number of values; undefined where it is more than an integer can count exactly. */
export function valuesIn(shape: readonly number[]): number | undefined {
  // Zero first: a dimension of 0 leaves nothing to count, however large the others.
  const count = shape.includes(0) ? 0 : shape.reduce((product, dimension) => product * dimension, 1);
  return Number.isSafeInteger(count) ? count : undefined;
}
