import { abridged, abridgedName } from '../abridged.js';
import { duplicateKey } from './duplicate-key.js';
import {
  type Checkpoint,
  LAYOUTS,
  LENGTH_BYTES,
  METADATA,
  type StoredDType,
  type StoredTensor,
  type Values,
  valuesIn,
} from './tensors.js';

/** A header of this size names ten thousand tensors; a longer one is refused before it costs memory. */
export const MOST_HEADER_BYTES = 1 << 20;

/** Where a tensor lies, from the first byte behind the header. */
interface Place {
  readonly name: string;
  readonly begin: number;
  readonly end: number;
}

/**
 * Reads a safetensors file (https://huggingface.co/docs/safetensors): the length of the header as a little-endian
 * 64-bit integer, the header as JSON, then the values, little-endian and without a gap. Everything is checked before
 * an array is made; the arrays are copies and do not depend on the alignment within the file.
 *
 * @throws {Error} `<name> must <rule>, got <actual>` for a file that is damaged, inconsistent, or of another dtype.
 */
export function decode(bytes: Uint8Array): Checkpoint {
  const { header, body } = split(bytes);
  const tensors = new Map<string, StoredTensor>();
  const places: Place[] = [];
  const reads: (() => void)[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  // Entries are the object's own: a tensor named "__proto__" is a name like any other here.
  for (const [name, info] of Object.entries(header)) {
    if (name === METADATA) {
      metadata = readMetadata(info);
      continue;
    }
    const { dtype, shape, count, begin, end } = readInfo(name, info, body.byteLength);
    places.push({ name, begin, end });
    reads.push(() => tensors.set(name, { data: readValues(body, dtype, begin, count), shape }));
  }
  checkCover(places, body.byteLength);
  for (const read of reads) read();
  return { tensors, metadata };
}

function split(bytes: Uint8Array): { header: object; body: DataView } {
  if (bytes.length < LENGTH_BYTES) {
    throw new Error(
      `file must have at least ${LENGTH_BYTES} bytes (the header's length), got ${bytes.length}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const length = view.getBigUint64(0, true);
  if (length > MOST_HEADER_BYTES) {
    throw new Error(`header must have at most ${MOST_HEADER_BYTES} bytes, got ${length}`);
  }
  const start = LENGTH_BYTES + Number(length);
  if (start > bytes.length) {
    throw new Error(`file must have at least ${start} bytes (its header ends there), got ${bytes.length}`);
  }
  const header = parseHeader(bytes.subarray(LENGTH_BYTES, start));
  return { header, body: new DataView(bytes.buffer, bytes.byteOffset + start, bytes.length - start) };
}

function parseHeader(bytes: Uint8Array): object {
  if (bytes[0] !== 0x7b) throw new Error(`header must begin with "{", got ${bytes[0] ?? 'no byte'}`);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Error('header must be UTF-8, got other bytes');
  }
  let header: object;
  try {
    header = JSON.parse(text) as object;
  } catch (error) {
    throw new Error(`header must be JSON, got ${error instanceof Error ? error.message : error}`);
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) throw new Error(`header must have each key once, got ${abridged(twice)} twice`);
  return header;
}

function readMetadata(value: unknown): ReadonlyMap<string, string> {
  if (!isObject(value)) throw new Error(`${METADATA} must be an object, got ${abridged(value)}`);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw new Error(`${METADATA}[${abridged(key)}] must be a string, got ${abridged(text)}`);
    }
  }
  return new Map(Object.entries(value as Record<string, string>));
}

function readInfo(key: string, info: unknown, bodyBytes: number) {
  const name = abridgedName(key);
  if (!isObject(info)) throw new Error(`${name} must be an object, got ${abridged(info)}`);
  const keys = Object.keys(info).sort().join(', ');
  if (keys !== 'data_offsets, dtype, shape') {
    throw new Error(`${name} must have data_offsets, dtype, shape and nothing else, got ${abridged(keys)}`);
  }
  const { dtype, shape, data_offsets: offsets } = info as Record<string, unknown>;
  if (dtype !== 'F32' && dtype !== 'F64' && dtype !== 'I64') {
    throw new Error(`${name}.dtype must be F32, F64 or I64, got ${abridged(dtype)}`);
  }
  if (!isSizes(shape)) {
    throw new Error(`${name}.shape must be an array of non-negative integers, got ${abridged(shape)}`);
  }
  const count = valuesIn(shape);
  if (count === undefined) {
    throw new Error(`${name}.shape must have at most 2^53 - 1 values, got ${abridged(shape)}`);
  }
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw new Error(`${name}.data_offsets must be [begin, end] with begin <= end, got ${abridged(offsets)}`);
  }
  const [begin, end] = offsets;
  if (end > bodyBytes) {
    throw new Error(
      `${name}.data_offsets must lie in the ${bodyBytes} bytes of data, got ${abridged(offsets)}`,
    );
  }
  const bytes = count * LAYOUTS[dtype].bytes;
  if (end - begin !== bytes) {
    const rule = `span ${bytes} bytes (${dtype} of shape [${shape.join(', ')}])`;
    throw new Error(`${name}.data_offsets must ${rule}, got ${end - begin}`);
  }
  return { dtype, shape, count, begin, end } as const;
}

/** Each byte of data belongs to one tensor: nothing can hide between them, and none can alias another. */
function checkCover(places: readonly Place[], bodyBytes: number): void {
  let covered = 0;
  for (const { name, begin, end } of places.toSorted((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== covered) {
      const rule = `begin at ${covered}, where the tensor before it ends`;
      throw new Error(`${abridgedName(name)}.data_offsets must ${rule}, got ${begin}`);
    }
    covered = end;
  }
  if (covered !== bodyBytes) {
    throw new Error(`file must end with its last tensor, got ${bodyBytes - covered} more bytes`);
  }
}

function readValues(body: DataView, dtype: StoredDType, begin: number, count: number): Values {
  const values = LAYOUTS[dtype].create(count);
  if (values instanceof Float32Array) {
    for (let i = 0; i < count; i++) values[i] = body.getFloat32(begin + 4 * i, true);
  } else if (values instanceof Float64Array) {
    for (let i = 0; i < count; i++) values[i] = body.getFloat64(begin + 8 * i, true);
  } else {
    for (let i = 0; i < count; i++) values[i] = body.getBigInt64(begin + 8 * i, true);
  }
  return values;
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}
