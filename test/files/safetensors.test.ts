// safetensors, read strictly and written.
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Checkpoint, readSafetensors, type StoredTensor, writeSafetensors } from 'batchnorm/files';
import { afterAll, describe, expect, it } from 'vitest';
import { failureOf } from '../support/files.js';

/** The most that a header may have. */
const mostHeaderBytes = 1 << 24;

const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** The bytes that are written. */
function encode(checkpoint: Checkpoint): Uint8Array {
  const path = join(folder, 'encoded.safetensors');
  writeSafetensors(path, checkpoint);
  return new Uint8Array(readFileSync(path));
}

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
    const { tensors, metadata } = readSafetensors(encode(checkpoint));
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
    expect(readSafetensors(shifted.subarray(1)).tensors.get('b')?.data).toEqual(Float32Array.of(7));
  });

  it('may name a tensor like a property of every object', () => {
    const { tensors } = readSafetensors(
      file('{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
    );
    expect([...tensors.keys()]).toEqual(['__proto__']);
    expect(readSafetensors(encode({ tensors, metadata: new Map() })).tensors).toEqual(tensors);
    expect(Object.prototype).not.toHaveProperty('dtype');
  });

  it('is refused at every length but its own', () => {
    const bytes = encode(checkpoint);
    for (let length = 0; length < bytes.length; length++) {
      expect(() => readSafetensors(bytes.subarray(0, length)), `${length} bytes`).toThrow(/ must .*, got /);
    }
    const longer = new Uint8Array(bytes.length + 3);
    longer.set(bytes);
    expect(() => readSafetensors(longer)).toThrow('file must end with its last tensor, got 3 more bytes');
  });

  const long = file({});
  new DataView(long.buffer).setBigUint64(0, BigInt(mostHeaderBytes + 1), true);
  const huge = file({});
  huge.fill(0xff, 0, 8);
  const invalidUtf8 = file('{"a":"?"}');
  invalidUtf8[14] = 0xff;

  it.each<[what: string, bytes: Uint8Array, message: string]>([
    ['no bytes', new Uint8Array(0), "file must have at least 8 bytes (the header's length), got 0"],
    ['a long header', long, `header must have at most ${mostHeaderBytes} bytes, got ${mostHeaderBytes + 1}`],
    ['a huge length', huge, `header must have at most ${mostHeaderBytes} bytes, got 18446744073709551615`],
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
      file({ a: info([1], [0, 2], 'Q4') }, 2),
      'a.dtype must be one of the format (F32, F64, F16, BF16, I64 …), got "Q4"',
    ],
    [
      'a dtype of another type',
      file({ a: info([1], [0, 4], 4) }, 4),
      'a.dtype must be one of the format (F32, F64, F16, BF16, I64 …), got 4',
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
      'span 24 bytes (F32 of shape [2,3]), got 4',
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
  ])('with %s is refused', async (_what, bytes, message) => {
    const failure = await failureOf(() => readSafetensors(bytes));
    expect(failure?.message).toContain(message);
    const tooLarge = message.startsWith('header must have at most');
    expect(failure?.code).toBe(tooLarge ? 'ERR_BATCHNORM_FILE_TOO_LARGE' : 'ERR_BATCHNORM_INVALID_FILE');
  });

  it('is read in linear time, however its header is made', () => {
    for (const text of [
      `{"a":"${'\\"'.repeat(250_000)}"}`,
      `{"${'a'.repeat(900_000)}":1}`,
      `{"a":${' '.repeat(900_000)}1}`,
    ]) {
      expect(() => readSafetensors(file(text))).toThrow(/^.{1,90} must be an object, got .{1,90}$/);
    }
  });

  it('has halves and bfloat16 decoded, and every other array as it is', () => {
    const halves = Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x0001, 0x8000, 0x7c00, 0x7e00);
    const bytes = file({ a: info([7], [0, 14], 'F16'), b: info([7], [14, 28], 'BF16') }, 28);
    const body = new DataView(bytes.buffer, bytes.length - 28);
    for (const [i, bits] of halves.entries()) {
      body.setUint16(2 * i, bits, true);
      body.setUint16(14 + 2 * i, bits, true);
    }
    const { tensors } = readSafetensors(bytes);
    expect(tensors.get('a')?.data).toEqual(Float32Array.of(1, -2, 65504, 2 ** -24, -0, Infinity, Number.NaN));
    const upper = new Float32Array(Uint32Array.from(halves, (bits) => bits * 65536).buffer);
    expect(tensors.get('b')?.data).toEqual(upper);
    const others = [
      Uint8Array.of(255),
      Int8Array.of(-1),
      Uint16Array.of(65535),
      Int16Array.of(-2),
      Uint32Array.of(2 ** 32 - 1),
      Int32Array.of(-3),
      BigUint64Array.of(2n ** 64n - 1n),
    ];
    for (const data of others) {
      const written = new Map<string, StoredTensor>([['x', { data, shape: [1] }]]);
      expect(readSafetensors(encode({ tensors: written, metadata: new Map() })).tensors).toEqual(written);
    }
  });

  it('of which nothing is read but what is wanted', async () => {
    const bytes = file({ a: info([2], [0, 1], 'F4'), b: info([1], [1, 5]) }, 5);
    expect([...readSafetensors(bytes, { names: ['b'] }).tensors.keys()]).toEqual(['b']);
    expect((await failureOf(() => readSafetensors(bytes)))?.code).toBe('ERR_BATCHNORM_UNSUPPORTED_FILE');
    expect(await failureOf(() => readSafetensors(bytes, { names: ['c'] }))).toEqual({
      code: 'ERR_BATCHNORM_INVALID_VALUE',
      message: 'names must be tensors of the file, got "c"',
    });
  });

  it.each<[what: string, call: () => unknown, code: string]>([
    ['a number', () => readSafetensors(3 as never), 'INVALID_TYPE'],
    ['an option of another name', () => readSafetensors('x', { most: 1 } as never), 'UNKNOWN_OPTION'],
    ['names that are no array', () => readSafetensors('x', { names: 'a' as never }), 'INVALID_TYPE'],
    ['a limit below 0', () => readSafetensors('x', { mostBytes: -1 }), 'INVALID_VALUE'],
    ['no checkpoint', () => writeSafetensors('x', undefined as never), 'INVALID_TYPE'],
    ['tensors that are no Map', () => encode({ tensors: {} as never, metadata: new Map() }), 'INVALID_TYPE'],
    ['a path that is none', () => writeSafetensors(3 as never, checkpoint), 'INVALID_TYPE'],
    [
      'values in an array',
      () => encode({ tensors: new Map([['a', { data: [1] as never, shape: [1] }]]), metadata: new Map() }),
      'INVALID_TYPE',
    ],
    [
      'text that is a number',
      () => encode({ tensors: new Map(), metadata: new Map([['a', 1 as never]]) }),
      'INVALID_TYPE',
    ],
  ])('and %s is refused', async (_what, call, code) => {
    const failure = await failureOf(call);
    expect(failure?.code).toBe(`ERR_BATCHNORM_${code}`);
    expect(failure?.message).toMatch(/ must .*, got /);
  });

  it('is not written where the data do not fill the shape', () => {
    const tensors = new Map([['a', { data: new Float32Array(3), shape: [2, 2] }]]);
    expect(() => encode({ tensors, metadata: new Map() })).toThrow(
      'a must have the values of its shape [2,2], got 3',
    );
    const reserved = new Map([['__metadata__', { data: new Float32Array(1), shape: [1] }]]);
    expect(() => encode({ tensors: reserved, metadata: new Map() })).toThrow('must have another name');
  });
});

describe('on the disk', () => {
  it.skipIf(process.platform === 'win32')(
    'a tensor for which there is no memory is told as such',
    async () => {
      const bytes = 2 ** 42;
      const path = join(folder, 'sparse.safetensors');
      const header = { large: { dtype: 'U8', shape: [bytes], data_offsets: [0, bytes] } };
      const begin = file(header);
      writeFileSync(path, begin);
      // Sparse: it takes no room on the disk.
      truncateSync(path, begin.length + bytes);
      expect(await failureOf(() => readSafetensors(path))).toEqual({
        code: 'ERR_BATCHNORM_OUT_OF_MEMORY',
        message: `a result must fit into memory, got ${bytes} bytes`,
      });
      expect(readSafetensors(path, { names: [] }).tensors.size).toBe(0);
      rmSync(path);
    },
  );

  it('a file is replaced as a whole, and nothing is left beside it', () => {
    const path = join(folder, 'replaced.safetensors');
    writeFileSync(path, 'old');
    writeSafetensors(path, checkpoint);
    expect(readFileSync(path)).toEqual(Buffer.from(encode(checkpoint)));
    expect(readdirSync(folder).filter((name) => name.startsWith('replaced'))).toEqual([
      'replaced.safetensors',
    ]);
  });

  it('another writer of the same process is not in the way', () => {
    const path = join(folder, 'shared.safetensors');
    mkdirSync(`${path}.${process.pid}.tmp`);
    writeSafetensors(path, checkpoint);
    expect(readSafetensors(path).tensors.size).toBe(checkpoint.tensors.size);
    rmSync(`${path}.${process.pid}.tmp`, { recursive: true });
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
    expect(readSafetensors(path, { mostBytes: size }).tensors.size).toBe(4);
    expect(() => readSafetensors(path, { mostBytes: size - 1 })).toThrow(
      `file must have at most ${size - 1} bytes, got ${size}`,
    );
    expect(() => readSafetensors(folder)).toThrow('file must be a regular file');
  });
});
