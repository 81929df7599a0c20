import { decode, encode } from 'batchnorm';
import { describe, expect, test } from 'vitest';
import { errorOf } from '../support/error-of.js';

/** What the bits of a type mean, by its definition. */
const formats = {
  bfloat16: { mantissa: 7, bias: 127 },
  float16: { mantissa: 10, bias: 15 },
} as const;
type Half = keyof typeof formats;

function meaning(dtype: Half, bits: number): number {
  const { mantissa, bias } = formats[dtype];
  const exponent = (bits & 0x7fff) >> mantissa;
  const fraction = bits & (2 ** mantissa - 1);
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 0x7fff >> mantissa) return fraction === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * fraction * 2 ** (1 - bias - mantissa);
  return sign * (fraction + 2 ** mantissa) * 2 ** (exponent - bias - mantissa);
}

/** The value nearest to another, in doubles, which hold all of it exactly. */
function nearest(dtype: Half, value: number): number {
  const { mantissa, bias } = formats[dtype];
  if (!Number.isFinite(value) || value === 0) return value;
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(value))), 1 - bias);
  const step = 2 ** (exponent - mantissa);
  const steps = value / step;
  const below = Math.floor(steps);
  const up = steps - below > 0.5 || (steps - below === 0.5 && below % 2 !== 0);
  const rounded = (below + (up ? 1 : 0)) * step;
  return Math.abs(rounded) >= 2 ** (bias + 1)
    ? Math.sign(value) * Infinity
    : rounded === 0
      ? 0 * value
      : rounded;
}

const patterns = Uint16Array.from({ length: 65536 }, (_, bits) => bits);
const words = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

/** The value, and the floats beside it. */
function around(value: number): number[] {
  const float = Float32Array.of(value);
  const word = words(float)[0];
  return [word - 1, word, word + 1].map((bits) => new Float32Array(Uint32Array.of(bits).buffer)[0]);
}

describe.each(['bfloat16', 'float16'] as const)('%s', (dtype) => {
  test('every pattern is decoded to what it means, and encoded to itself again', () => {
    const values = decode(patterns, dtype);
    const again = encode(values, dtype);
    for (let bits = 0; bits < 65536; bits++) {
      const expected = meaning(dtype, bits);
      if (!Object.is(values[bits], expected)) expect(`${bits}: ${values[bits]}`).toBe(`${bits}: ${expected}`);
      // A NaN becomes a quiet one, and keeps the rest.
      const quiet = Number.isNaN(expected) ? 1 << (formats[dtype].mantissa - 1) : 0;
      if (again[bits] !== (bits | quiet)) expect(`${bits}: ${again[bits]}`).toBe(`${bits}: ${bits | quiet}`);
    }
  });

  test('every float32 at which a result changes, and both beside it, are encoded to the nearest', () => {
    const floats: number[] = [];
    for (let bits = 0; bits < 65536; bits++) {
      const value = meaning(dtype, bits);
      if (!Number.isFinite(value)) continue;
      const { bias } = formats[dtype];
      const after = meaning(dtype, bits + 1);
      const next = Number.isFinite(after) ? after : Math.sign(value) * 2 ** (bias + 1);
      floats.push(...around(value), ...around((value + next) / 2));
    }
    floats.push(Infinity, -Infinity, 3.4028234663852886e38, 1.401298464324817e-45, -1.401298464324817e-45);
    const values = Float32Array.from(floats);
    const decoded = decode(encode(values, dtype), dtype);
    for (let i = 0; i < values.length; i++) {
      if (Number.isNaN(values[i])) {
        expect(decoded[i]).toBeNaN();
        continue;
      }
      const expected = nearest(dtype, values[i]);
      if (!Object.is(decoded[i], expected))
        expect(`${values[i]}: ${decoded[i]}`).toBe(`${values[i]}: ${expected}`);
    }
    const { f16round } = Math as { f16round?: (value: number) => number };
    if (dtype === 'float16' && f16round !== undefined)
      expect(values.findIndex((value, i) => !Object.is(f16round(value), decoded[i]))).toBe(-1);
  });

  test('any number of values at any place, and nothing beside them, is converted', () => {
    for (let length = 0; length < 140; length++) {
      const values = Float32Array.from({ length: length + 3 }, (_, i) => (i * 7919) / 37 - 500);
      const bits = encode(values.subarray(3), dtype);
      expect(bits.length).toBe(length);
      expect([...decode(bits, dtype)]).toEqual([...values.subarray(3)].map((value) => nearest(dtype, value)));
    }
  });

  test('of millions of values each is converted', () => {
    const values = Float32Array.from({ length: 9_000_001 }, (_, i) => i % 65000);
    const decoded = decode(encode(values, dtype), dtype);
    expect(decoded.findIndex((value, i) => value !== nearest(dtype, i % 65000))).toBe(-1);
  });
});

describe('out', () => {
  const values = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i) * 2 ** (i % 40));

  for (const dtype of ['bfloat16', 'float16'] as const) {
    test(`is written and returned, whatever memory it lies in: ${dtype}`, () => {
      const bits = new Uint16Array(new SharedArrayBuffer(2100), 6, 1000);
      expect(encode(values, dtype, { out: bits })).toBe(bits);
      expect([...bits]).toEqual([...encode(values, dtype)]);
      const around = new Float32Array(1002).fill(7);
      const floats = around.subarray(1, 1001);
      expect(decode(bits, dtype, { out: floats })).toBe(floats);
      expect(floats).toEqual(decode(bits, dtype));
      expect([around[0], around[1001]]).toEqual([7, 7]);
    });
  }

  test('is refused before anything is written', () => {
    const bits = encode(values, 'bfloat16');
    const buffer = new ArrayBuffer(4000);
    const error = (call: () => unknown) => errorOf(call);
    expect(error(() => encode(values, 'bfloat16', { out: new Int16Array(1000) as never }))).toMatchObject({
      code: 'ERR_BATCHNORM_INVALID_TYPE',
      message: 'out must be a Uint16Array, got Int16Array',
    });
    expect(error(() => decode(bits, 'bfloat16', { out: new Float64Array(1000) as never }))).toMatchObject({
      code: 'ERR_BATCHNORM_INVALID_TYPE',
      message: 'out must be a Float32Array, got Float64Array',
    });
    expect(error(() => encode(values, 'float16', { out: new Uint16Array(999) }))).toMatchObject({
      code: 'ERR_BATCHNORM_INVALID_VALUE',
      message: 'out must have 1000 values, got 999',
    });
    const inPlace = new Uint16Array(buffer, 2000, 1000).fill(0x3f80);
    expect(error(() => decode(inPlace, 'bfloat16', { out: new Float32Array(buffer) }))).toMatchObject({
      code: 'ERR_BATCHNORM_OVERLAP',
    });
    expect(inPlace.every((value) => value === 0x3f80)).toBe(true);
    expect(error(() => encode(values, 'bfloat16', { output: bits } as never))).toMatchObject({
      code: 'ERR_BATCHNORM_UNKNOWN_OPTION',
    });
    const without = encode(values, 'bfloat16', { out: undefined });
    expect(without).toEqual(bits);
  });
});

test('what is no array of the right class, and what no type of 16 bits is called, is refused', () => {
  expect(() => encode([1] as never, 'bfloat16')).toThrow('values must be a Float32Array, got an array');
  expect(() => encode(new Float64Array(1) as never, 'bfloat16')).toThrow(
    'values must be a Float32Array, got Float64Array',
  );
  expect(() => decode(new Int16Array(1) as never, 'float16')).toThrow(
    'values must be a Uint16Array, got Int16Array',
  );
  expect(() => decode(new Uint16Array(1), 'float32' as never)).toThrow(
    `dtype must be 'bfloat16' or 'float16', got "float32"`,
  );
  expect(() => encode(new Float32Array(1), undefined as never)).toThrow(
    "dtype must be 'bfloat16' or 'float16', got undefined",
  );
});
