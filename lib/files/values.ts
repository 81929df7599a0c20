// Little-endian values of any alignment, as arrays of this machine.
import { allocated } from '../validate.js';
import type { StoredValues } from './tensors.js';

const single = new Float32Array(1);
const singleBits = new Uint32Array(single.buffer);

/** The value of a bfloat16: the upper half of a float32. */
function fromBfloat16(bits: number): number {
  singleBits[0] = bits << 16;
  return single[0];
}

/** The value of an IEEE half, exactly. */
export function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

interface Kind {
  readonly bytes: number;
  create(count: number): StoredValues;
  /** @param at the first byte. */
  read(view: DataView, at: number): number | bigint;
}

const half: Omit<Kind, 'read'> = { bytes: 2, create: (count) => new Float32Array(count) };

/** The dtypes that are read, by their names in safetensors. */
const kinds = new Map<string, Kind>([
  ['F16', { ...half, read: (view, at) => fromHalf(view.getUint16(at, true)) }],
  ['BF16', { ...half, read: (view, at) => fromBfloat16(view.getUint16(at, true)) }],
  ['F32', { bytes: 4, create: (n) => new Float32Array(n), read: (view, at) => view.getFloat32(at, true) }],
  ['F64', { bytes: 8, create: (n) => new Float64Array(n), read: (view, at) => view.getFloat64(at, true) }],
  ['I64', { bytes: 8, create: (n) => new BigInt64Array(n), read: (view, at) => view.getBigInt64(at, true) }],
  [
    'U64',
    { bytes: 8, create: (n) => new BigUint64Array(n), read: (view, at) => view.getBigUint64(at, true) },
  ],
  ['I32', { bytes: 4, create: (n) => new Int32Array(n), read: (view, at) => view.getInt32(at, true) }],
  ['U32', { bytes: 4, create: (n) => new Uint32Array(n), read: (view, at) => view.getUint32(at, true) }],
  ['I16', { bytes: 2, create: (n) => new Int16Array(n), read: (view, at) => view.getInt16(at, true) }],
  ['U16', { bytes: 2, create: (n) => new Uint16Array(n), read: (view, at) => view.getUint16(at, true) }],
  ['I8', { bytes: 1, create: (n) => new Int8Array(n), read: (view, at) => view.getInt8(at) }],
  ['U8', { bytes: 1, create: (n) => new Uint8Array(n), read: (view, at) => view.getUint8(at) }],
  ['BOOL', { bytes: 1, create: (n) => new Uint8Array(n), read: (view, at) => view.getUint8(at) }],
]);

/** The names of the dtypes that {@link readValues} knows. */
export const readable: readonly string[] = [...kinds.keys()];

/**
 * The values of bytes; halves and bfloat16 become float32.
 *
 * @param dtype one of {@link readable}.
 * @param bytes as many as whole values need.
 */
export function readValues(dtype: string, bytes: Uint8Array): StoredValues {
  const kind = kinds.get(dtype);
  if (kind === undefined) throw new Error(`dtype must be readable, got ${dtype}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const count = bytes.length / kind.bytes;
  const values = allocated(count, `values of ${dtype}`, () => kind.create(count));
  for (let i = 0; i < values.length; i++) values[i] = kind.read(view, i * kind.bytes);
  return values;
}
