// The file format of the examples, and the network that is stored in it.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { loadNetwork, saveNetwork } from '../../examples/mnist/checkpoint.js';
import { activations, Network } from '../../examples/mnist/network.js';
import { uniform } from '../../examples/mnist/random.js';
import { decode, MOST_HEADER_BYTES } from '../../examples/safetensors/decode.js';
import { encode } from '../../examples/safetensors/encode.js';
import { readSafetensors, writeSafetensors } from '../../examples/safetensors/file.js';
import type { Checkpoint, StoredTensor } from '../../examples/safetensors/tensors.js';

const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
afterAll(() => rmSync(folder, { recursive: true }));

const checkpoint: Checkpoint = {
  tensors: new Map<string, StoredTensor>([
    ['weight', { data: Float32Array.of(1, -2, 0.5, Number.NaN, -0, Infinity), shape: [2, 3] }],
    ['mean', { data: Float64Array.of(Math.PI), shape: [1] }],
    ['count', { data: BigInt64Array.of(-(2n ** 63n)), shape: [] }],
    ['nothing', { data: new Float32Array(0), shape: [0, 4] }],
  ]),
  metadata: new Map([['writer', 'ünï "code"']]),
};

/** A file of this header, as it stands, and that many bytes of data. */
function file(header: unknown, dataBytes = 0): Uint8Array {
  const text = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

const info = (shape: unknown, offsets: unknown, dtype: unknown = 'F32') => ({
  dtype,
  shape,
  data_offsets: offsets,
});

describe('a safetensors file', () => {
  it('gives back what was written', () => {
    const { tensors, metadata } = decode(encode(checkpoint));
    expect(Object.fromEntries(tensors)).toEqual(Object.fromEntries(checkpoint.tensors));
    expect(metadata).toEqual(checkpoint.metadata);
  });

  it('is the same for the same tensors, and has its data at multiples of their size', () => {
    const bytes = encode(checkpoint);
    expect(bytes).toEqual(encode(checkpoint));
    const headerBytes = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    expect(headerBytes % 8).toBe(0);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headerBytes)));
    expect(header.mean).toEqual({ dtype: 'F64', shape: [1], data_offsets: [0, 8] });
    expect(header.count).toEqual({ dtype: 'I64', shape: [], data_offsets: [8, 16] });
    expect(header.weight).toEqual({ dtype: 'F32', shape: [2, 3], data_offsets: [16, 40] });
  });

  it('may have its data at any alignment, its tensors in any order, and spaces behind the header', () => {
    const bytes = file(`${JSON.stringify({ b: info([1], [4, 8]), a: info([1], [0, 4]) })}   `, 8);
    new DataView(bytes.buffer, bytes.length - 8).setFloat32(4, 7, true);
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    expect(decode(shifted.subarray(1)).tensors.get('b')?.data).toEqual(Float32Array.of(7));
  });

  it('may name a tensor like a property of every object', () => {
    const { tensors } = decode(file('{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4));
    expect([...tensors.keys()]).toEqual(['__proto__']);
    expect(decode(encode({ tensors, metadata: new Map() })).tensors).toEqual(tensors);
    expect(Object.prototype).not.toHaveProperty('dtype');
  });

  it('is refused at every length but its own', () => {
    const bytes = encode(checkpoint);
    for (let length = 0; length < bytes.length; length++) {
      expect(() => decode(bytes.subarray(0, length)), `${length} bytes`).toThrow(/ must .*, got /);
    }
    const longer = new Uint8Array(bytes.length + 3);
    longer.set(bytes);
    expect(() => decode(longer)).toThrow('file must end with its last tensor, got 3 more bytes');
  });

  const long = file({});
  new DataView(long.buffer).setBigUint64(0, BigInt(MOST_HEADER_BYTES + 1), true);
  const huge = file({});
  huge.fill(0xff, 0, 8);
  const invalidUtf8 = file('{"a":"?"}');
  invalidUtf8[14] = 0xff;

  it.each<[what: string, bytes: Uint8Array, message: string]>([
    ['no bytes', new Uint8Array(0), "file must have at least 8 bytes (the header's length), got 0"],
    [
      'a long header',
      long,
      `header must have at most ${MOST_HEADER_BYTES} bytes, got ${MOST_HEADER_BYTES + 1}`,
    ],
    ['a huge length', huge, `header must have at most ${MOST_HEADER_BYTES} bytes, got 18446744073709551615`],
    ['an empty header', file(''), 'header must begin with "{", got no byte'],
    ['a header after a space', file(' {}'), 'header must begin with "{", got 32'],
    ['a header after a byte order mark', file('\ufeff{}'), 'header must begin with "{", got 239'],
    ['a header that is an array', file('[]'), 'header must begin with "{", got 91'],
    ['a header that is no UTF-8', invalidUtf8, 'header must be UTF-8, got other bytes'],
    ['a header that is no JSON', file('{"a":}'), 'header must be JSON, got '],
    ['a name twice', file('{"a":1,"b":2,"a":1}'), 'header must have each key once, got "a" twice'],
    [
      'a name twice, once escaped',
      file('{"a":1,"\\u0061":1}'),
      'header must have each key once, got "a" twice',
    ],
    [
      'a key of a tensor twice',
      file('{"a":{"dtype":1,"dtype":2}}'),
      'must have each key once, got "dtype" twice',
    ],
    ['metadata of another type', file({ __metadata__: [] }), '__metadata__ must be an object, got []'],
    ['metadata with a number', file({ __metadata__: { a: 1 } }), '__metadata__["a"] must be a string, got 1'],
    ['a tensor that is null', file({ a: null }), 'a must be an object, got null'],
    [
      'a tensor without a shape',
      file({ a: { dtype: 'F32', data_offsets: [0, 0] } }),
      'got "data_offsets, dtype"',
    ],
    [
      'a tensor with more',
      file({ a: { ...info([0], [0, 0]), x: 1 } }),
      'a must have data_offsets, dtype, shape and',
    ],
    [
      'a tensor of inherited keys',
      file('{"a":{"__proto__":{"dtype":"F32"}}}'),
      'and nothing else, got "__proto__"',
    ],
    [
      'another dtype',
      file({ a: info([1], [0, 2], 'BF16') }, 2),
      'a.dtype must be F32, F64 or I64, got "BF16"',
    ],
    [
      'a dtype of another type',
      file({ a: info([1], [0, 4], 4) }, 4),
      'a.dtype must be F32, F64 or I64, got 4',
    ],
    [
      'a negative dimension',
      file({ a: info([-1], [0, 4]) }, 4),
      'must be an array of non-negative integers, got [-1]',
    ],
    [
      'half a dimension',
      file({ a: info([0.5], [0, 2]) }, 2),
      'a.shape must be an array of non-negative integers',
    ],
    [
      'a shape that is text',
      file({ a: info('1', [0, 4]) }, 4),
      'a.shape must be an array of non-negative integers',
    ],
    [
      'a shape beyond counting',
      file({ a: info([2 ** 40, 2 ** 40], [0, 4]) }, 4),
      'must have at most 2^53 - 1 values',
    ],
    [
      'one offset',
      file({ a: info([1], [4]) }, 4),
      'a.data_offsets must be [begin, end] with begin <= end, got [4]',
    ],
    [
      'offsets the wrong way',
      file({ a: info([1], [4, 0]) }, 4),
      'must be [begin, end] with begin <= end, got [4,0]',
    ],
    [
      'a negative offset',
      file({ a: info([1], [-4, 0]) }, 4),
      'must be [begin, end] with begin <= end, got [-4,0]',
    ],
    [
      'offsets beyond the file',
      file({ a: info([2], [0, 8]) }, 4),
      'must lie in the 4 bytes of data, got [0,8]',
    ],
    [
      'a shape beyond its bytes',
      file({ a: info([2, 3], [0, 4]) }, 4),
      'span 24 bytes (F32 of shape [2, 3]), got 4',
    ],
    [
      'a gap',
      file({ a: info([1], [0, 4]), b: info([1], [8, 12]) }, 12),
      'b.data_offsets must begin at 4, where the',
    ],
    [
      'an overlap',
      file({ a: info([2], [0, 8]), b: info([1], [4, 8]) }, 8),
      'b.data_offsets must begin at 8, where',
    ],
    [
      'an alias',
      file({ a: info([1], [0, 4]), b: info([1], [0, 4]) }, 4),
      'b.data_offsets must begin at 4, where',
    ],
    ['a first tensor not at 0', file({ a: info([1], [4, 8]) }, 8), 'a.data_offsets must begin at 0, where'],
    ['data without a tensor', file({}, 4), 'file must end with its last tensor, got 4 more bytes'],
  ])('with %s is refused', (_what, bytes, message) => {
    expect(() => decode(bytes)).toThrow(message);
  });

  it('is read in linear time, however its header is made', () => {
    for (const text of [
      `{"a":"${'\\"'.repeat(250_000)}"}`,
      `{"${'a'.repeat(900_000)}":1}`,
      `{"a":${' '.repeat(900_000)}1}`,
    ]) {
      expect(() => decode(file(text))).toThrow(/^.{1,90} must be an object, got .{1,90}$/);
    }
  });

  it('is not written where the data do not fill the shape', () => {
    const tensors = new Map([['a', { data: new Float32Array(3), shape: [2, 2] }]]);
    expect(() => encode({ tensors, metadata: new Map() })).toThrow(
      'a must have the values of its shape [2, 2], got 3',
    );
    const reserved = new Map([['__metadata__', { data: new Float32Array(1), shape: [1] }]]);
    expect(() => encode({ tensors: reserved, metadata: new Map() })).toThrow('must have another name');
  });
});

describe('on the disk', () => {
  it('a file is replaced as a whole, and nothing is left beside it', () => {
    const path = join(folder, 'replaced.safetensors');
    writeFileSync(path, 'old');
    writeSafetensors(path, checkpoint);
    expect(readFileSync(path)).toEqual(Buffer.from(encode(checkpoint)));
    expect(readdirSync(folder).filter((name) => name.startsWith('replaced'))).toEqual([
      'replaced.safetensors',
    ]);
  });

  it('a failure leaves what was there', () => {
    const path = join(folder, 'taken.safetensors');
    mkdirSync(path);
    expect(() => writeSafetensors(path, checkpoint)).toThrow('EISDIR');
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
    rmSync(path, { recursive: true });
  });

  it('a file that is too large is not read, and a folder is no file', () => {
    const path = join(folder, 'replaced.safetensors');
    const size = encode(checkpoint).length;
    expect(readSafetensors(path, size).tensors.size).toBe(4);
    expect(() => readSafetensors(path, size - 1)).toThrow(
      `file must have at most ${size - 1} bytes, got ${size}`,
    );
    expect(() => readSafetensors(folder, size)).toThrow('file must be a regular file');
  });
});

describe('a network in a file', () => {
  const sizes = [6, 5, 4, 3];
  const path = join(folder, 'network.safetensors');
  const random = uniform(1);
  const network = new Network(8, sizes, true, random);
  const x = activations(8, 6);
  x.data.forEach((_, i) => {
    x.data[i] = random();
  });
  network.forward(x);
  saveNetwork(path, network, new Map([['format', 'pt']]));
  const stored = readSafetensors(path, 1 << 20);

  /** The message of loading the stored network with one tensor changed. */
  function refusal(name: string, tensor: StoredTensor | undefined): string {
    const changed = join(folder, 'changed.safetensors');
    const tensors = new Map(stored.tensors);
    if (tensor === undefined) tensors.delete(name);
    else tensors.set(name, tensor);
    writeSafetensors(changed, { ...stored, tensors });
    try {
      loadNetwork(changed, sizes);
    } catch (error) {
      return (error as Error).message;
    }
    return 'loaded';
  }

  it("has PyTorch's names and shapes", () => {
    const shapes = [...stored.tensors].map(([name, { shape }]) => `${name} [${shape}]`);
    expect(shapes.sort()).toEqual([
      'layers.0.bias [5]',
      'layers.0.weight [5,6]',
      'layers.1.bias [5]',
      'layers.1.num_batches_tracked []',
      'layers.1.running_mean [5]',
      'layers.1.running_var [5]',
      'layers.1.weight [5]',
      'layers.3.bias [4]',
      'layers.3.weight [4,5]',
      'layers.4.bias [4]',
      'layers.4.num_batches_tracked []',
      'layers.4.running_mean [4]',
      'layers.4.running_var [4]',
      'layers.4.weight [4]',
      'layers.6.bias [3]',
      'layers.6.weight [3,4]',
    ]);
    expect(stored.metadata.get('format')).toBe('pt');
  });

  it('is loaded as it was', () => {
    const blocks = loadNetwork(path, sizes);
    const [linear, norm] = network.layers.map((layer) => layer.state());
    expect(blocks).toHaveLength(3);
    expect(blocks[0].linear.weight).toEqual(linear.get('weight')?.data);
    expect(blocks[0].norm?.running_mean).toEqual(norm.get('running_mean')?.data);
    expect(blocks[2].norm).toBeUndefined();
  });

  it('may have its statistics in float32, as PyTorch writes them', () => {
    expect(refusal('layers.1.running_mean', { data: new Float32Array(5), shape: [5] })).toBe('loaded');
  });

  it.each<[name: string, tensor: StoredTensor | undefined, message: string]>([
    [
      'layers.1.running_var',
      undefined,
      'state["layers.1.running_var"] must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got undefined',
    ],
    [
      'layers.2.weight',
      { data: new Float32Array(5), shape: [5] },
      'file must have the tensors of the network 6-5-4-3 only, got layers.2.weight',
    ],
    [
      '__proto__',
      { data: new Float32Array(1), shape: [1] },
      'file must have the tensors of the network 6-5-4-3 only, got __proto__',
    ],
    [
      'layers.0.weight',
      { data: new Float32Array(30), shape: [6, 5] },
      'layers.0.weight must have shape [5, 6] (the network 6-5-4-3), got [6, 5]',
    ],
    [
      'layers.0.bias',
      { data: new Float64Array(5), shape: [5] },
      'layers.0.bias must have dtype F32, got F64',
    ],
    [
      'layers.1.running_mean',
      { data: new BigInt64Array(5), shape: [5] },
      'state["layers.1.running_mean"].data must be a Float32Array, a Float64Array or an array of numbers, got BigInt64Array',
    ],
    [
      'layers.4.bias',
      { data: Float32Array.of(0, 0, Number.NaN, 0), shape: [4] },
      'state["layers.4.bias"] must be finite, got NaN in channel 2',
    ],
    [
      'layers.4.bias',
      { data: new Float32Array(5), shape: [5] },
      'state["layers.4.bias"] must have 4 values (one per channel), got 5',
    ],
    [
      'layers.3.bias',
      { data: Float32Array.of(0, 0, Number.NaN, 0), shape: [4] },
      'layers.3.bias[2] must be finite, got NaN',
    ],
    ['layers.3.weight', undefined, 'layers.3.weight must be in the file (the network 6-5-4-3), got none'],
    [
      'layers.4.running_var',
      { data: Float64Array.of(1, -1, 1, 1), shape: [4] },
      'state["layers.4.running_var"] must not be negative, got -1 in channel 1',
    ],
    [
      'layers.4.num_batches_tracked',
      { data: BigInt64Array.of(-1n), shape: [] },
      'state["layers.4.num_batches_tracked"] must be an integer from 0 to 9007199254740991, got -1n',
    ],
  ])('is refused where %s is wrong', (name, tensor, message) => {
    expect(refusal(name, tensor)).toBe(message);
  });

  it('is refused where the file is larger than any such network', () => {
    const large = join(folder, 'large.safetensors');
    writeFileSync(large, new Uint8Array(1 << 20));
    expect(() => loadNetwork(large, sizes)).toThrow(/^file must have at most \d+ bytes, got 1048576$/);
  });
});
