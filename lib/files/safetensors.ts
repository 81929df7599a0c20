import { abridged, abridgedName } from './abridged.js';
import { duplicateKey } from './duplicate-key.js';
import { invalidFile, tooLarge, unsupportedFile } from './failures.js';
import { isJson, isSizes, parseText } from './json.js';
import type { Source } from './source.js';
import { bitsOf, lengthBytes, metadataName, valuesIn } from './tensors.js';
import { readable, readValues } from './values.js';

/** A header of this size names a hundred thousand tensors; a longer one is refused before it costs memory. */
export const mostHeaderBytes = 1 << 24;

/** What the header says of a tensor, with its place in the file. */
export interface StoredInfo {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** A header that has been checked. */
export interface Header {
  readonly tensors: ReadonlyMap<string, StoredInfo>;
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * Reads the header of a safetensors file (https://huggingface.co/docs/safetensors): its length as a little-endian 64-bit
 * integer, then JSON. The values behind it are little-endian and without a gap. All of it is checked.
 *
 * @throws {Error} `<name> must <rule>, got <actual>` for a file that is damaged or inconsistent.
 */
export function readHeader(source: Source): Header {
  const { header, start } = split(source);
  const tensors = new Map<string, StoredInfo>();
  let metadata: ReadonlyMap<string, string> = new Map();
  // Entries are the object's own: a tensor named "__proto__" is a name like any other here.
  for (const [name, info] of Object.entries(header)) {
    if (name === metadataName) metadata = readMetadata(info);
    else tensors.set(name, readInfo(name, info, start, source.size - start));
  }
  checkCover(tensors, start, source.size);
  return { tensors, metadata };
}

/** The values of a tensor; their array is a copy, whatever its alignment within the file. */
export function readTensor(source: Source, name: string, { dtype, begin, end }: StoredInfo) {
  if (!readable.includes(dtype))
    throw unsupportedFile(`${abridgedName(name)}.dtype`, `be ${readable.join(', ')}`, abridged(dtype));
  return readValues(dtype, source.read(begin, end));
}

function split(source: Source): { header: object; start: number } {
  if (source.size < lengthBytes)
    throw invalidFile('file', `have at least ${lengthBytes} bytes (the header's length)`, `${source.size}`);
  const bytes = source.read(0, lengthBytes);
  const length = new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getBigUint64(0, true);
  if (length > mostHeaderBytes)
    throw tooLarge('header', `have at most ${mostHeaderBytes} bytes`, `${length}`);
  const start = lengthBytes + Number(length);
  if (start > source.size)
    throw invalidFile('file', `have at least ${start} bytes (its header ends there)`, `${source.size}`);
  return { header: parseHeader(source.read(lengthBytes, start)), start };
}

function parseHeader(bytes: Uint8Array): object {
  if (bytes[0] !== 0x7b) throw invalidFile('header', 'begin with "{"', `${bytes[0] ?? 'no byte'}`);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw invalidFile('header', 'be UTF-8', 'other bytes', error);
  }
  const header = parseText('header', text) as object;
  const twice = duplicateKey(text);
  if (twice !== undefined) throw invalidFile('header', 'have each key once', `${abridged(twice)} twice`);
  return header;
}

function readMetadata(value: unknown): ReadonlyMap<string, string> {
  if (!isJson(value)) throw invalidFile(metadataName, 'be an object', abridged(value));
  for (const [key, text] of Object.entries(value))
    if (typeof text !== 'string')
      throw invalidFile(`${metadataName}[${abridged(key)}]`, 'be a string', abridged(text));
  return new Map(Object.entries(value as Record<string, string>));
}

function readInfo(key: string, info: unknown, start: number, bodyBytes: number): StoredInfo {
  const name = abridgedName(key);
  if (!isJson(info)) throw invalidFile(name, 'be an object', abridged(info));
  const keys = Object.keys(info).sort().join(', ');
  if (keys !== 'data_offsets, dtype, shape')
    throw invalidFile(name, 'have data_offsets, dtype, shape and nothing else', abridged(keys));
  const { dtype, shape, data_offsets: offsets } = info;
  const bits = typeof dtype === 'string' ? bitsOf.get(dtype) : undefined;
  if (typeof dtype !== 'string' || bits === undefined)
    throw invalidFile(`${name}.dtype`, 'be one of the format (F32, F64, F16, BF16, I64 …)', abridged(dtype));
  if (!isSizes(shape))
    throw invalidFile(`${name}.shape`, 'be an array of non-negative integers', abridged(shape));
  const count = valuesIn(shape);
  if (count === undefined)
    throw invalidFile(`${name}.shape`, 'have at most 2^53 - 1 values', abridged(shape));
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1])
    throw invalidFile(`${name}.data_offsets`, 'be [begin, end] with begin <= end', abridged(offsets));
  const [begin, end] = offsets;
  if (end > bodyBytes)
    throw invalidFile(`${name}.data_offsets`, `lie in the ${bodyBytes} bytes of data`, abridged(offsets));
  const bytes = (count * bits) / 8;
  if (end - begin !== bytes)
    throw invalidFile(
      `${name}.data_offsets`,
      `span ${bytes} bytes (${dtype} of shape ${abridged(shape)})`,
      `${end - begin}`,
    );
  return { dtype, shape, begin: start + begin, end: start + end };
}

/** Each byte of data belongs to one tensor: nothing can hide between them, and none can alias another. */
function checkCover(tensors: ReadonlyMap<string, StoredInfo>, start: number, size: number): void {
  let covered = start;
  const places = [...tensors].toSorted(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  for (const [name, { begin, end }] of places) {
    if (begin !== covered) {
      const rule = `begin at ${covered - start}, where the tensor before it ends`;
      throw invalidFile(`${abridgedName(name)}.data_offsets`, rule, `${begin - start}`);
    }
    covered = end;
  }
  if (covered !== size) throw invalidFile('file', 'end with its last tensor', `${size - covered} more bytes`);
}
