import { typeError } from '../errors.js';
import { abridged, abridgedName } from './abridged.js';
import { invalidTensor } from './failures.js';
import { isSizes } from './json.js';
import {
  type Checkpoint,
  lengthBytes,
  metadataName,
  type StoredTensor,
  type StoredValues,
  valuesIn,
} from './tensors.js';

/** How the values of an array are written. */
interface Layout {
  readonly dtype: string;
  write(view: DataView, at: number, value: never): void;
}

const layouts: readonly (readonly [new (length: number) => StoredValues, Layout])[] = [
  [Float32Array, { dtype: 'F32', write: (view, at, value) => view.setFloat32(at, value, true) }],
  [Float64Array, { dtype: 'F64', write: (view, at, value) => view.setFloat64(at, value, true) }],
  [BigInt64Array, { dtype: 'I64', write: (view, at, value) => view.setBigInt64(at, value, true) }],
  [BigUint64Array, { dtype: 'U64', write: (view, at, value) => view.setBigUint64(at, value, true) }],
  [Int32Array, { dtype: 'I32', write: (view, at, value) => view.setInt32(at, value, true) }],
  [Uint32Array, { dtype: 'U32', write: (view, at, value) => view.setUint32(at, value, true) }],
  [Int16Array, { dtype: 'I16', write: (view, at, value) => view.setInt16(at, value, true) }],
  [Uint16Array, { dtype: 'U16', write: (view, at, value) => view.setUint16(at, value, true) }],
  [Int8Array, { dtype: 'I8', write: (view, at, value) => view.setInt8(at, value) }],
  [Uint8Array, { dtype: 'U8', write: (view, at, value) => view.setUint8(at, value) }],
];

function layoutOf(data: unknown): Layout | undefined {
  return layouts.find(([Class]) => data instanceof Class)?.[1];
}

/**
 * The bytes of a safetensors file. The data begin at a multiple of 8 bytes and wider dtypes come first, so that a reader
 * may map every tensor where it lies. The same tensors in the same order give the same bytes.
 *
 * @throws {Error} for data that do not fill their shape, or a tensor under the name of the metadata.
 */
export function encode({ tensors, metadata }: Checkpoint): Uint8Array {
  if (!(tensors instanceof Map)) throw typeError('checkpoint.tensors', 'be a Map', tensors);
  const entries: [name: string, info: unknown][] = [];
  if (metadata !== undefined) {
    checkMetadata(metadata);
    if (metadata.size > 0) entries.push([metadataName, Object.fromEntries(metadata)]);
  }
  const named = [...(tensors as ReadonlyMap<string, StoredTensor>)].map(
    ([name, tensor]) => [name, tensor, checkTensor(name, tensor)] as const,
  );
  const ordered = named.toSorted(([, a], [, b]) => b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT);
  let end = 0;
  for (const [name, { data, shape }, { dtype }] of ordered) {
    const begin = end;
    end += data.byteLength;
    entries.push([name, { dtype, shape, data_offsets: [begin, end] }]);
  }
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const header = Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(lengthBytes + header + end).fill(0x20, lengthBytes, lengthBytes + header);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(header), true);
  bytes.set(text, lengthBytes);
  const body = new DataView(bytes.buffer, lengthBytes + header);
  let at = 0;
  for (const [, { data }, { write }] of ordered)
    for (let i = 0; i < data.length; i++, at += data.BYTES_PER_ELEMENT) write(body, at, data[i] as never);
  return bytes;
}

function checkMetadata(metadata: unknown): void {
  if (!(metadata instanceof Map)) throw typeError('checkpoint.metadata', 'be a Map', metadata);
  for (const [key, text] of metadata)
    if (typeof key !== 'string' || typeof text !== 'string')
      throw typeError('checkpoint.metadata', 'have strings only', typeof key === 'string' ? text : key);
}

function checkTensor(key: string, tensor: StoredTensor): Layout {
  if (typeof key !== 'string') throw typeError('the name of a tensor', 'be a string', key);
  if (key === metadataName) throw invalidTensor('a tensor', 'have another name than the metadata', key);
  const name = abridgedName(key);
  const layout = layoutOf(tensor?.data);
  if (layout === undefined)
    throw typeError(`${name}.data`, 'be a typed array of numbers or bigints', tensor?.data);
  const { data, shape } = tensor;
  if (!isSizes(shape)) throw typeError(`${name}.shape`, 'be an array of non-negative integers', shape);
  if (valuesIn(shape) !== data.length)
    throw invalidTensor(name, `have the values of its shape ${abridged(shape)}`, `${data.length}`);
  return layout;
}
