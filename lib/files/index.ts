/**
 * Batch norms out of model files, and safetensors.
 *
 * @module batchnorm/files
 */
import { typeError } from '../errors.js';
import { namesOf } from '../properties.js';
import type { StateDict } from '../state.js';
import { checkInteger, readOptions } from '../validate.js';
import { abridged } from './abridged.js';
import { encode } from './encode.js';
import {
  findLayers,
  kerasNames,
  type Parameters,
  pytorchNames,
  readState,
  type StoredBatchNorm,
} from './entries.js';
import { invalidFile, invalidTensor, tooLarge, unsupportedFile } from './failures.js';
import { readH5, readKeras } from './keras-files.js';
import { readOnnx } from './onnx.js';
import { readHeader, readTensor } from './safetensors.js';
import { type FileOrBytes, isBytes, isPath, openSource, pathOf, type Source } from './source.js';
import { type Checkpoint, lengthBytes, type StoredTensor } from './tensors.js';
import { isArtifacts, isLoaded, type LoadedLayer, readArtifacts, readLoaded, readModelJson } from './tfjs.js';
import { replaceFile } from './write.js';

export type { StateDict } from '../state.js';
export type { FloatArray } from '../types.js';
export type { StoredBatchNorm } from './entries.js';
export type { FileOrBytes } from './source.js';
export type { Checkpoint, StoredTensor, StoredValues } from './tensors.js';

/** A layers model of TensorFlow.js. */
export interface LayersModel {
  /** Its layers. */
  readonly layers: readonly object[];
}

/** A model of TensorFlow.js as its `io` handlers have it. */
export interface ModelArtifacts {
  /** The description of a layers model or a graph model. */
  readonly modelTopology: object | ArrayBuffer;
  /** What the weights are. */
  readonly weightSpecs?: readonly object[];
  /** The values of the weights, one behind the other. */
  readonly weightData?: ArrayBuffer | readonly ArrayBuffer[];
}

/** A model in memory. */
export type Model = LayersModel | ModelArtifacts;

/** How long the files of others may take. */
export interface LoadOptions {
  /** Milliseconds that HDF5 may take, in .h5 and .keras: damaged on purpose it can take for ever. Default 60,000. */
  timeout?: number;
}

/** What of a safetensors file is read. */
export interface ReadOptions {
  /** The tensors that are wanted; nothing else is read. Default: all. */
  names?: readonly string[];
  /** A file with more bytes is refused before any of it is read. Default: no limit. */
  mostBytes?: number;
}

const formats = '.safetensors, .onnx, .keras, .h5 or model.json of TensorFlow.js';

/** The tags of what a ModelProto begins with: its version, a name, or the graph. */
const onnxTags = new Set([0x08, 0x12, 0x1a, 0x22, 0x32, 0x3a, 0x42]);

type Format = 'safetensors' | 'onnx' | 'keras' | 'h5' | 'json';

const byExtension = new Map<string, Format>([
  ['safetensors', 'safetensors'],
  ['onnx', 'onnx'],
  ['keras', 'keras'],
  ['h5', 'h5'],
  ['hdf5', 'h5'],
  ['json', 'json'],
]);

/**
 * Finds the batch norms of a model.
 *
 * | file | name | `eps` | `convention` | `axis` |
 * | --- | --- | --- | --- | --- |
 * | `.safetensors`, PyTorch's names | what stands before `.running_mean` | | | 1 |
 * | `.safetensors`, Keras' names | what stands before `/moving_mean` | | `'keras'` | -1 |
 * | `.onnx` | of the node, or of its output | of the node | `'onnx'` | 1 |
 * | `.keras`, `.h5`, `model.json`, models of TensorFlow.js | of the layer, behind those of the models that it is in | of the layer | `'keras'` | of the layer |
 *
 * Values are decoded, to Float64Array where the file has float64, else to Float32Array. Of a safetensors or ONNX file, and of
 * the shards of a `model.json`, no more is read than is needed. The format of bytes, and of a file with another ending, is seen
 * by its first bytes. `.onnx` needs the package `protobufjs`, `.h5` needs `h5wasm`, `.keras` both `h5wasm` and `@zip.js/zip.js`.
 *
 * @param file a path, a `file:` URL, the bytes of a file, or a model in memory.
 * @param options how long it may take.
 * @returns the batch norms by name, in the order of the file; an empty map where the model has none.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`) where `file` is none of these, or an option of
 * another type. RangeError (`ERR_BATCHNORM_INVALID_VALUE`) for a timeout below 1.
 * @throws RangeError (`ERR_BATCHNORM_INVALID_FILE`) for a file that is damaged or contradicts itself;
 * (`ERR_BATCHNORM_UNSUPPORTED_FILE`) for another format, or something in it that is not read;
 * (`ERR_BATCHNORM_FILE_TOO_LARGE`) for what would take more memory than a model needs, (`ERR_BATCHNORM_FILE_TOO_SLOW`) for HDF5 that
 * took longer than `timeout`; (`ERR_BATCHNORM_OUT_OF_MEMORY`) where there is no room for what is read.
 * @throws Error (`ERR_BATCHNORM_PACKAGE_MISSING`) where a package has to be installed; errors of `node:fs`, with their own codes.
 * @example
 * import { FrozenBatchNorm } from 'batchnorm';
 * import { loadBatchNorms } from 'batchnorm/files';
 *
 * const layers = await loadBatchNorms('model.safetensors');
 * console.log([...layers.keys()]); // [ '0.1', '0.2', '2' ]
 * const frozen = [...layers.values()].map(({ state, eps, convention, axis }) =>
 *   FrozenBatchNorm.from(state, { eps, convention, axis }),
 * );
 * console.log(frozen[0].channels); // 3
 */
export async function loadBatchNorms(
  file: FileOrBytes | Model,
  options?: LoadOptions,
): Promise<Map<string, StoredBatchNorm>> {
  const { timeout = 60_000 } = readOptions(options, loadNames);
  checkInteger('timeout', timeout, 1, 2 ** 31 - 1);
  if (isArtifacts(file)) return readArtifacts(file);
  if (isLoaded(file)) return readLoaded(file as LoadedLayer);
  if (!isPath(file) && !isBytes(file))
    throw typeError('file', 'be a path, a file: URL, bytes or a model of TensorFlow.js', file);
  const source = openSource(file);
  try {
    return await read(source, timeout);
  } finally {
    source.close();
  }
}

async function read(source: Source, timeout: number): Promise<Map<string, StoredBatchNorm>> {
  switch (formatOf(source)) {
    case 'safetensors':
      return readBatchNorms(source);
    case 'onnx':
      return await readOnnx(source);
    case 'keras':
      return await readKeras(source, timeout);
    case 'h5':
      return await readH5(source, timeout);
    case 'json':
      return readModelJson(source);
  }
}

function formatOf(source: Source): Format {
  const { path = '', size } = source;
  const extension = byExtension.get(path.slice(path.lastIndexOf('.') + 1).toLowerCase());
  if (extension !== undefined) return extension;
  const bytes = source.read(0, Math.min(size, lengthBytes + 1));
  const text = String.fromCharCode(...bytes);
  if (text.startsWith('\x89HDF\r\n\x1a\n')) return 'h5';
  if (text.startsWith('PK\x03\x04')) return 'keras';
  if (bytes.length > lengthBytes && text[lengthBytes] === '{') {
    const length = new DataView(bytes.buffer, bytes.byteOffset, lengthBytes).getBigUint64(0, true);
    if (length <= size - lengthBytes) return 'safetensors';
  }
  if (/^\s*\{/.test(text)) return 'json';
  if (onnxTags.has(bytes[0])) return 'onnx';
  throw unsupportedFile(
    'file',
    `be ${formats}`,
    size === 0 ? 'no bytes' : `bytes that begin with ${hex(bytes)}`,
  );
}

function hex(bytes: Uint8Array): string {
  return [...bytes.subarray(0, 4)].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
}

function readBatchNorms(source: Source): Map<string, StoredBatchNorm> {
  const { tensors } = readHeader(source);
  const layers = new Map<string, StoredBatchNorm>();
  const add = (known: ReadonlyMap<string, keyof StateDict>, convention: 'keras' | undefined) => {
    for (const [name, parts] of findLayers(tensors.keys(), known)) {
      if (layers.has(name)) throw invalidFile('a layer', 'have the names of one framework', abridged(name));
      const parameters: Parameters = new Map();
      for (const [part, key] of parts) {
        const info = tensors.get(key);
        if (info !== undefined)
          parameters.set(part, { shape: info.shape, read: () => readTensor(source, key, info) });
      }
      const axis = convention === 'keras' ? -1 : 1;
      layers.set(name, { state: readState(name, parameters), convention, axis });
    }
  };
  add(pytorchNames, undefined);
  add(kerasNames, 'keras');
  return layers;
}

const loadNames = namesOf(['timeout']);
const readNames = namesOf(['names', 'mostBytes']);

/**
 * Reads a [safetensors](https://huggingface.co/docs/safetensors) file strictly: all of the header is checked before anything else
 * is read, and each byte behind it belongs to one tensor. F16 and BF16 become Float32Array, exactly; BOOL becomes Uint8Array.
 * Arrays are copies. Of a file, nothing is read but its header and the tensors that are asked for.
 *
 * @param file a path, a `file:` URL, or the bytes of a file.
 * @param options which tensors, and how large the file may be.
 * @returns the tensors by name, and the text that the file has beside them.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`) for arguments of another type.
 * @throws RangeError (`ERR_BATCHNORM_INVALID_FILE`) for a file that is damaged or contradicts itself;
 * (`ERR_BATCHNORM_UNSUPPORTED_FILE`) for a tensor of a dtype for which there is no array, such as F8_E4M3;
 * (`ERR_BATCHNORM_FILE_TOO_LARGE`) for one with more than `mostBytes`, or a header of more than 16 MiB;
 * (`ERR_BATCHNORM_INVALID_VALUE`) for a name that the file does not have; (`ERR_BATCHNORM_OUT_OF_MEMORY`) where there is no room for a tensor.
 * Errors of `node:fs` have their own codes.
 * @example
 * import { readSafetensors } from 'batchnorm/files';
 *
 * const { tensors } = readSafetensors('model.safetensors', { names: ['0.0.weight'] });
 * console.log(tensors.get('0.0.weight')?.shape); // [ 3, 2, 3, 3 ]
 */
export function readSafetensors(file: FileOrBytes, options?: ReadOptions): Checkpoint {
  const { names, mostBytes } = readOptions(options, readNames);
  if (mostBytes !== undefined) checkInteger('mostBytes', mostBytes, 0, Number.MAX_SAFE_INTEGER);
  if (names !== undefined && !Array.isArray(names)) throw typeError('names', 'be an array of strings', names);
  const source = openSource(file);
  try {
    if (mostBytes !== undefined && source.size > mostBytes)
      throw tooLarge('file', `have at most ${mostBytes} bytes`, `${source.size}`);
    const header = readHeader(source);
    const tensors = new Map<string, StoredTensor>();
    for (const name of names ?? header.tensors.keys()) {
      const info = header.tensors.get(name);
      if (info === undefined) throw invalidTensor('names', 'be tensors of the file', abridged(name));
      tensors.set(name, { data: readTensor(source, name, info), shape: info.shape });
    }
    return { tensors, metadata: header.metadata };
  } finally {
    source.close();
  }
}

/**
 * Writes a safetensors file, which is replaced as a whole: a reader finds the old one or the new one, and a failure leaves what was
 * there. The dtype of a tensor is that of its array. The same tensors in the same order give the same bytes.
 *
 * @param file a path or a `file:` URL.
 * @param checkpoint the tensors, and text to be kept beside them.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`) for something else than Maps of tensors and strings.
 * @throws RangeError (`ERR_BATCHNORM_INVALID_VALUE`) for data that do not fill their shape, or a tensor called `__metadata__`.
 * Errors of `node:fs` have their own codes.
 * @example
 * import { writeSafetensors } from 'batchnorm/files';
 *
 * const tensors = new Map([['bn.weight', { data: Float32Array.of(1, 2), shape: [2] }]]);
 * writeSafetensors('bn.safetensors', { tensors, metadata: new Map([['format', 'pt']]) });
 */
export function writeSafetensors(file: string | URL, checkpoint: Checkpoint): void {
  if (!isPath(file)) throw typeError('file', 'be a path or a file: URL', file);
  const path = pathOf(file, 'be a path or a file: URL');
  if (typeof checkpoint !== 'object' || checkpoint === null)
    throw typeError('checkpoint', 'be { tensors, metadata }', checkpoint);
  replaceFile(path, encode(checkpoint));
}
