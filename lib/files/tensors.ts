/** The arrays that hold the values of a file. */
export type StoredValues =
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array;

/** An array and its shape; `[]` is the shape of a single value. */
export interface StoredTensor<T extends StoredValues = StoredValues> {
  /** The values, those of the last dimension side by side. */
  readonly data: T;
  /** Non-negative integers whose product is the number of values. */
  readonly shape: readonly number[];
}

/** What a file holds: tensors by name, and free text by key. */
export interface Checkpoint<T extends StoredValues = StoredValues> {
  /** In the order of the file's header. */
  readonly tensors: ReadonlyMap<string, StoredTensor<T>>;
  /** Empty where the file has none. */
  readonly metadata: ReadonlyMap<string, string>;
}

/** Bytes of the number in front of the header, which says how long the header is. */
export const lengthBytes = 8;

/** Not the name of a tensor: the text entries of a file lie there. */
export const metadataName = '__metadata__';

/** How many bits a value of each dtype of the format has, those that are not read too. */
export const bitsOf = new Map<string, number>([
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['BOOL', 8],
  ['U8', 8],
  ['I8', 8],
  ['F8_E4M3', 8],
  ['F8_E5M2', 8],
  ['F8_E8M0', 8],
  ['F8_E4M3FNUZ', 8],
  ['F8_E5M2FNUZ', 8],
  ['I16', 16],
  ['U16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['I32', 32],
  ['U32', 32],
  ['F32', 32],
  ['C64', 64],
  ['F64', 64],
  ['I64', 64],
  ['U64', 64],
]);

/** The number of values; undefined where it is more than an integer can count exactly. */
export function valuesIn(shape: readonly number[]): number | undefined {
  // Zero first: a dimension of 0 leaves nothing to count, however large the others.
  const count = shape.includes(0) ? 0 : shape.reduce((product, dimension) => product * dimension, 1);
  return Number.isSafeInteger(count) ? count : undefined;
}
