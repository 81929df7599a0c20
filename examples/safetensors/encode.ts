import { type Checkpoint, dtypeOf, LENGTH_BYTES, METADATA, type StoredTensor, valuesIn } from './tensors.js';

/**
 * Writes a safetensors file. The data begin at a multiple of 8 bytes and wider dtypes come first, so that a reader
 * may map every tensor where it lies. The same tensors in the same order give the same bytes.
 *
 * @throws {Error} for data that do not fill their shape, or a tensor under the name of the metadata.
 */
export function encode({ tensors, metadata }: Checkpoint): Uint8Array {
  const entries: [name: string, info: unknown][] = [];
  if (metadata.size > 0) entries.push([METADATA, Object.fromEntries(metadata)]);
  const ordered = [...tensors].sort(([, a], [, b]) => b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT);
  let end = 0;
  for (const [name, tensor] of ordered) {
    checkTensor(name, tensor);
    const begin = end;
    end += tensor.data.byteLength;
    entries.push([name, { dtype: dtypeOf(tensor), shape: tensor.shape, data_offsets: [begin, end] }]);
  }
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const header = Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(LENGTH_BYTES + header + end).fill(0x20, LENGTH_BYTES, LENGTH_BYTES + header);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(header), true);
  bytes.set(text, LENGTH_BYTES);
  const body = new DataView(bytes.buffer, LENGTH_BYTES + header);
  let at = 0;
  for (const [, tensor] of ordered) at = writeValues(body, at, tensor);
  return bytes;
}

function checkTensor(name: string, { data, shape }: StoredTensor): void {
  if (name === METADATA) throw new Error(`a tensor must have another name than the metadata, got ${name}`);
  if (valuesIn(shape) !== data.length) {
    throw new Error(`${name} must have the values of its shape [${shape.join(', ')}], got ${data.length}`);
  }
}

function writeValues(body: DataView, begin: number, { data }: StoredTensor): number {
  if (data instanceof Float32Array) {
    for (let i = 0; i < data.length; i++) body.setFloat32(begin + 4 * i, data[i], true);
  } else if (data instanceof Float64Array) {
    for (let i = 0; i < data.length; i++) body.setFloat64(begin + 8 * i, data[i], true);
  } else {
    for (let i = 0; i < data.length; i++) body.setBigInt64(begin + 8 * i, data[i], true);
  }
  return begin + data.byteLength;
}
