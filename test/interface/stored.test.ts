import { decode, encode, FrozenBatchNorm, forwardInference, type ValueArray } from 'batchnorm';
import { describe, expect, test } from 'vitest';
import { expectListed } from '../support/messages.js';
import { Random, seedNote } from '../support/random.js';

type Name = 'float32' | 'bfloat16' | 'float16' | 'uint8' | 'int8' | 'int16';
const names: readonly Name[] = ['float32', 'bfloat16', 'float16', 'uint8', 'int8', 'int16'];
const classes = {
  float32: Float32Array,
  bfloat16: Uint16Array,
  float16: Uint16Array,
  uint8: Uint8Array,
  int8: Int8Array,
  int16: Int16Array,
};
const ranges = { uint8: [0, 255], int8: [-128, 127], int16: [-32768, 32767] } as const;

const isHalf = (name: Name) => name === 'bfloat16' || name === 'float16';
const widen = (name: Name, data: ValueArray): Float32Array =>
  isHalf(name) ? decode(data as Uint16Array, name as 'bfloat16') : Float32Array.from(data as Float32Array);

function toNearest(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return below + (rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? 1 : 0);
}

function narrow(name: Name, values: Float32Array): ValueArray {
  if (name === 'float32') return values;
  if (isHalf(name)) return encode(values, name as 'bfloat16');
  const [least, most] = ranges[name as 'int8'];
  return classes[name as 'int8'].from(values, (value) =>
    Number.isNaN(value) ? 0 : toNearest(Math.min(most, Math.max(least, value))),
  );
}

let generator = new Random();
const next = () => generator.uniform();
function anyValues(name: Name, length: number): ValueArray {
  const floats = Float32Array.from({ length }, (_, i) => (i % 41 === 40 ? NaN : 300 * (next() - 0.5)));
  if (name === 'float32' || isHalf(name)) return narrow(name, floats);
  return classes[name as 'int8'].from({ length }, () => Math.floor(65536 * next()));
}

interface View {
  shape: number[];
  strides: number[];
  offset: number;
  length: number;
}

/** Ways to lie in memory. */
const lyings: Record<string, (shape: number[]) => View> = {
  'without gaps': (shape) => viewOf(shape, shape),
  'as RGB of RGBA': (shape) => viewOf(shape, [...shape.slice(0, -1), (shape.at(-1) as number) + 1]),
  'as a window': (shape) => {
    const view = viewOf(
      shape,
      shape.map((extent) => extent + 2),
    );
    view.offset += view.strides.reduce((sum, stride) => sum + stride, 0);
    view.length += view.offset;
    return view;
  },
  mirrored: (shape) => {
    const view = viewOf(shape, shape);
    return { ...view, strides: view.strides.map((stride) => -stride), offset: view.length - 1 };
  },
  transposed: (shape) => {
    const view = viewOf([...shape].reverse(), [...shape].reverse());
    return { ...view, shape, strides: view.strides.reverse() };
  },
};

function viewOf(shape: number[], around: number[]): View {
  const strides = around.map((_, i) => around.slice(i + 1).reduce((product, extent) => product * extent, 1));
  const last = shape.reduce((sum, extent, i) => sum + (extent - 1) * strides[i], 0);
  return { shape, strides, offset: 0, length: last + 1 };
}

/** The values of x in the order of the result. */
function gathered(
  values: Float32Array,
  { shape, strides, offset }: View,
  from: number,
  to: number,
): Float32Array {
  const order = shape.map((_, i) => i).filter((i) => i !== from);
  order.splice(to, 0, from);
  const size = shape.reduce((product, extent) => product * extent, 1);
  return Float32Array.from({ length: size }, (_, index) => {
    let place = offset;
    for (let i = shape.length - 1, rest = index; i >= 0; i--) {
      place += (rest % shape[order[i]]) * strides[order[i]];
      rest = Math.floor(rest / shape[order[i]]);
    }
    return values[place];
  });
}

const moved = (shape: number[], from: number, to: number): number[] => {
  const rest = shape.filter((_, i) => i !== from);
  rest.splice(to, 0, shape[from]);
  return rest;
};

function statistics(channels: number) {
  return {
    running_mean: Float64Array.from({ length: channels }, () => 100 * (next() - 0.5)),
    running_var: Float64Array.from({ length: channels }, () => 1 + 20 * next()),
    weight: Float64Array.from({ length: channels }, () => 80 * (next() - 0.5)),
    bias: Float64Array.from({ length: channels }, () => 60 * (next() - 0.5)),
  };
}

/** All bits but those of NaN. */
function expectSame(name: Name, actual: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  expect(actual.length).toBe(expected.length);
  const value = (of: ArrayLike<number>, i: number) =>
    isHalf(name) ? decode(Uint16Array.of(of[i]), name as 'bfloat16')[0] : of[i];
  for (let i = 0; i < expected.length; i++)
    if (
      !Object.is(actual[i], expected[i]) &&
      !(Number.isNaN(value(actual, i)) && Number.isNaN(value(expected, i)))
    )
      expect(`${what}, value ${i}: ${actual[i]}`).toBe(`${what}, value ${i}: ${expected[i]}`);
}

const shapes = [[7], [4, 3], [2, 5, 6, 3], [2, 3, 40], [1, 70, 30, 4], [3, 66, 2, 70], [2, 33, 47, 3]];

describe.each(names)('%s', (from) => {
  test.each(Object.keys(lyings))(
    `%s becomes what float32 makes of it, rounded once (${seedNote})`,
    async (lying) => {
      generator = new Random(names.indexOf(from) * 10 + Object.keys(lyings).indexOf(lying));
      for (const shape of shapes) {
        for (let axis = 0; axis < shape.length; axis++) {
          const outAxis = Math.floor(shape.length * next());
          const to = names[Math.floor(6 * next())];
          const view = lyings[lying](shape);
          const state = statistics(shape[axis]);
          const options = { axis, activation: next() < 0.3 ? ('relu' as const) : undefined };
          const data = anyValues(from, view.length);
          const adds = next() < 0.4;
          const size = shape.reduce((product, extent) => product * extent, 1);
          const y = moved(shape, axis, outAxis);
          // Bits of two kinds could be either.
          const same = isHalf(from) && isHalf(to) && from !== to ? 'float32' : to;
          const added = narrow(
            same,
            Float32Array.from({ length: size }, () => 9 * (next() - 0.5)),
          );
          const x = { ...view, data };
          const given = {
            outAxis,
            ...(adds && { residual: { data: added, shape: y } }),
            ...(to !== 'float32' || from !== 'float32' ? { dtype: to } : {}),
          };
          const plain = FrozenBatchNorm.from(state, { ...options, axis: outAxis, dtype: 'float32' });
          const wide = { data: gathered(widen(from, data), view, axis, outAxis), shape: y };
          const expected = narrow(
            to,
            plain.run(wide, adds ? { residual: { data: widen(same, added), shape: y } } : {}).data,
          );
          const what = `${shape} ${axis} to ${outAxis}, ${from} to ${to}, ${lying}`;
          const dtype = isHalf(from) ? (from as 'bfloat16') : undefined;
          const layer = FrozenBatchNorm.from(state, { ...options, ...(dtype && { dtype }) });
          const result = layer.run(x as never, given as never) as { data: ValueArray; shape: number[] };
          expect(result.shape).toEqual(y);
          expect(Object.prototype.toString.call(result.data)).toBe(`[object ${classes[to].name}]`);
          expectSame(to, result.data, expected, what);
          const out = new classes[to](size);
          expect((layer.run(x as never, { ...given, out } as never) as { data: unknown }).data).toBe(out);
          expectSame(to, out, expected, `${what}, out`);
          const later = (await layer.runAsync(x as never, given as never)) as {
            data: ValueArray;
            shape: number[];
          };
          expect(later.shape).toEqual(y);
          expectSame(to, later.data, expected, `${what}, async`);
          if (from === to || (!isHalf(from) && (!isHalf(to) || from !== 'float32'))) {
            const { running_mean: mean, running_var: variance, weight, bias } = state;
            const { dtype: _, ...rest } = given;
            const asked = isHalf(from) ? { dtype: from } : from === 'float32' ? {} : { dtype: to };
            const inferred = forwardInference(
              x as never,
              {
                ...rest,
                ...asked,
                ...options,
                mean,
                variance,
                weight,
                bias,
                ...(from === 'float32' && { out: new classes[to](size) }),
              } as never,
            ) as { data: ValueArray };
            expectSame(to, inferred.data, expected, `${what}, function`);
          }
        }
      }
    },
  );
});

const pixels = () => Uint8Array.from({ length: 2 * 6 * 7 * 3 }, (_, i) => (i * 89) % 256);
const shape = [2, 6, 7, 3];
const normalize = FrozenBatchNorm.fromMeanStd({
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
  scale: 1 / 255,
  axis: -1,
});

describe('pictures', () => {
  test('bytes of every class are the same pixels', () => {
    const data = pixels();
    const expected = normalize.run({ data, shape }).data;
    expect(expected).toBeInstanceOf(Float32Array);
    for (const other of [Buffer.from(data), Uint8ClampedArray.from(data)])
      expect(normalize.run({ data: other, shape }).data).toEqual(expected);
    const clamped = new Uint8ClampedArray(data.length);
    const { data: result } = normalize.run({ data, shape }, { out: clamped });
    expect(result).toBe(clamped);
  });

  test.each([
    ['torchvision', [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]],
    ['timm, Inception', [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]],
    ['CLIP', [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]],
    ['one channel', [0.1307], [0.3081]],
    ['five channels', [1, 2, 3, 4, 5], [0.1, 10, 3, 1e-3, 7]],
  ])('fromMeanStd of %s is (x · scale − mean) / std', (_, mean, std) => {
    const channels = mean.length;
    const data = Uint8Array.from({ length: 256 * channels }, (_, i) => Math.floor(i / channels));
    const layer = FrozenBatchNorm.fromMeanStd({
      mean,
      std: Float32Array.from(std),
      scale: 1 / 255,
      axis: -1,
    });
    const again = FrozenBatchNorm.fromJSON(JSON.parse(JSON.stringify(layer)));
    for (const each of [layer, again]) {
      const y = each.run({ data, shape: [256, channels] }).data;
      for (let i = 0; i < y.length; i++) {
        const deviation = Float32Array.from(std)[i % channels];
        const expected = (data[i] / 255 - mean[i % channels]) / deviation;
        expect(Math.abs(y[i] - expected)).toBeLessThanOrEqual(
          2 ** -22 * Math.max(1 / deviation, Math.abs(expected)),
        );
      }
    }
    // Back again to the bytes.
    const back = FrozenBatchNorm.fromMeanStd({
      mean: mean.map((value, i) => -value / Float32Array.from(std)[i]),
      std: std.map((value) => 1 / (255 * Float32Array.of(value)[0])),
      axis: -1,
    });
    const bytes = back.run(layer.run({ data, shape: [256, channels] }), { dtype: 'uint8' }).data;
    expect(bytes).toEqual(data);
  });

  test('a result takes the place of x where values are as large and lie alike, and nowhere else', () => {
    const data = pixels();
    const expected = normalize.run({ data, shape }, { dtype: 'int8' }).data;
    const inPlace = pixels();
    normalize.run({ data: inPlace, shape }, { out: new Int8Array(inPlace.buffer) });
    expect(new Int8Array(inPlace.buffer)).toEqual(expected);
    const memory = new ArrayBuffer(4 * data.length);
    const x = { data: new Uint8Array(memory, 0, data.length), shape };
    expect(() => normalize.run(x, { out: new Float32Array(memory) })).toThrow('out must not overlap x.data');
    expect(() => normalize.run(x, { out: new Int8Array(memory, 0, data.length), outAxis: 1 })).toThrow(
      'out must not overlap x.data',
    );
    expect(() => normalize.run(x, { out: new Int8Array(memory, 1, data.length) })).toThrow(
      'out must be x.data itself or not overlap it',
    );
  });

  test('shared memory is read and written where it is, and what is transferred comes back where it can', async () => {
    const data = pixels();
    const shared = new Uint8Array(new SharedArrayBuffer(data.length));
    shared.set(data);
    const out = new Float32Array(new SharedArrayBuffer(4 * data.length));
    const { data: result } = await normalize.runAsync({ data: shared, shape }, { out, outAxis: 1 });
    expect(result).toBe(out);
    expect([...out]).toEqual([...normalize.run({ data, shape }, { outAxis: 1 }).data]);
    const away = pixels();
    const { buffer } = away;
    const int8 = await normalize.runAsync({ data: away, shape }, { dtype: 'int8', transfer: true });
    expect(buffer.byteLength).toBe(0);
    expect(int8.data).toEqual(normalize.run({ data, shape }, { dtype: 'int8' }).data);
    const other = pixels();
    const floats = await normalize.runAsync({ data: other, shape }, { outAxis: 1, transfer: true });
    expect(other.length).toBe(0);
    expect(floats.data).toEqual(normalize.run({ data, shape }, { outAxis: 1 }).data);
  });

  test('missing values of 16 bits are refused or as the mean, and integers have none', () => {
    const state = {
      running_mean: Float32Array.of(1, 2),
      running_var: Float32Array.of(1, 1),
      bias: Float32Array.of(5, 6),
    };
    const data = encode(Float32Array.of(1, NaN, 3, 4), 'bfloat16');
    const throws = FrozenBatchNorm.from(state, { axis: -1, dtype: 'bfloat16', missing: 'throw' });
    const out = new Float32Array(4);
    expect(() => throws.run({ data, shape: [2, 2] }, { out: out as never })).toThrow(
      "x must have no NaN with missing: 'throw'",
    );
    expect([...out]).toEqual([0, 0, 0, 0]);
    const imputes = FrozenBatchNorm.from(state, { axis: -1, eps: 0, dtype: 'bfloat16', missing: 'impute' });
    expect([...imputes.run({ data, shape: [2, 2] }, { dtype: 'float32' }).data]).toEqual([5, 6, 7, 8]);
    const bytes = { data: Uint8Array.of(1, 2, 3, 4), shape: [2, 2] };
    expect([...imputes.run(bytes).data]).toEqual([5, 6, 7, 8]);
  });

  test('nothing is read of an empty x', () => {
    const y = normalize.run({ data: new Uint8Array(0), shape: [0, 6, 7, 3] }, { outAxis: 1 });
    expect(y).toEqual({ data: new Float32Array(0), shape: [0, 3, 6, 7] });
    const strided = { data: new Uint8Array(0), shape: [0, 6, 7, 3], strides: [9, 9, 9, 9] };
    expect(normalize.run(strided, { outAxis: 1 }).data.length).toBe(0);
  });
});

describe('memory that changes meanwhile', () => {
  const plain = FrozenBatchNorm.fromMeanStd({ mean: [0, 0], std: [1, 1] });
  const changed = expect.objectContaining({ code: 'ERR_BATCHNORM_BUFFER_CHANGED' });

  test('x with strides, which a getter takes away', async () => {
    for (const call of ['run', 'runAsync'] as const) {
      const data = new Uint8Array(64);
      const residual = {
        shape: [2, 2, 2, 2],
        get data() {
          if (data.length > 0) structuredClone(data.buffer, { transfer: [data.buffer] });
          return new Float32Array(16);
        },
      };
      const x = { data, shape: [2, 2, 2, 2], strides: [16, 8, 4, 1] };
      await expect(async () => await plain[call](x, { residual })).rejects.toEqual(changed);
    }
  });

  test('out that grows', async () => {
    const buffer: ArrayBuffer = Reflect.construct(ArrayBuffer, [4, { maxByteLength: 16 }]);
    const out = new Uint8Array(buffer);
    const later = plain.runAsync({ data: Uint8Array.of(1, 2, 3, 4), shape: [2, 2] }, { out });
    (buffer as ArrayBuffer & { resize(bytes: number): void }).resize(8);
    await expect(later).rejects.toEqual(changed);
    expect([...out]).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
  });

  test('values that are repeated beyond any memory are refused before they are looked at', () => {
    const layer = FrozenBatchNorm.from(
      { running_mean: [0, 0, 0], running_var: [1, 1, 1] },
      { axis: -1, missing: 'throw' },
    );
    const x = { data: new Float32Array(3), shape: [2 ** 15, 2 ** 12, 2 ** 6, 3], strides: [0, 0, 0, 1] };
    expect(() => layer.run(x, { outAxis: 0 })).toThrow('a result must fit into memory');
  });
});

test('forwardInference takes the dtype of integers that it writes', () => {
  const x = { data: Float32Array.of(1.5, -300), shape: [2, 1] };
  const given = { mean: Float32Array.of(0), variance: Float32Array.of(1), eps: 0, out: new Int8Array(2) };
  expect([...forwardInference(x, { ...given, dtype: 'int8' }).data]).toEqual([2, -128]);
});

describe('what does not fit', () => {
  const data = pixels();
  const x = { data, shape };
  const size = data.length;
  test.each<[string, () => unknown]>([
    [
      'outAxis must be an integer from -4 to 3 (x has 4 dimensions), got 4',
      () => normalize.run(x, { outAxis: 4 }),
    ],
    ['outAxis must be an integer, got 0.5', () => normalize.run(x, { outAxis: 0.5 })],
    ['outAxis must be an integer, got "1"', () => normalize.run(x, { outAxis: '1' as never })],
    [
      'out must be a Float32Array, Uint16Array, Uint8Array, Int8Array or Int16Array, got Float64Array',
      () => normalize.run(x, { out: new Float64Array(size) as never }),
    ],
    [
      "dtype must be 'bfloat16' or 'float16' where out is a Uint16Array, got undefined",
      () => normalize.run(x, { out: new Uint16Array(size) as never }),
    ],
    [
      'out must be an Int8Array, as dtype says, got Float32Array',
      () => normalize.run(x, { out: new Float32Array(size) as never, dtype: 'int8' }),
    ],
    [
      "dtype must be 'float32' or 'bfloat16' or 'float16' or 'uint8' or 'int8' or 'int16', got \"float64\"",
      () => normalize.run(x, { dtype: 'float64' as never }),
    ],
    [
      `out must have ${size} values (2 x 3 x 6 x 7), got 3`,
      () => normalize.run(x, { out: new Float32Array(3), outAxis: 1 }),
    ],
    ['x.strides[3] must be an integer, got 0.5', () => normalize.run({ ...x, strides: [126, 21, 3, 0.5] })],
    [
      'x.stride[3] must be an integer, got 0.5',
      () => normalize.run({ ...x, stride: [126, 21, 3, 0.5] } as typeof x),
    ],
    [
      'x.stride must be an array, one for each dimension, got 1 of them',
      () => normalize.run({ ...x, stride: [1] } as typeof x),
    ],
    [
      'x.offset must be at least 2 (2 x 6 x 7 x 3 with strides [126, 21, 3, -1] from offset 0 on), got 0',
      () => normalize.run({ ...x, strides: [126, 21, 3, -1] }),
    ],
    [
      `x.data must have ${size + 1} values (2 x 6 x 7 x 3 with strides [126, 21, 3, 1] from offset 1 on), got ${size}`,
      () => normalize.run({ ...x, strides: [126, 21, 3, 1], offset: 1 }),
    ],
    [
      'residual.shape must be [2, 3, 6, 7] (the shape of the result), got [2, 6, 7, 3]',
      () => normalize.run(x, { outAxis: 1, residual: { data: new Float32Array(size), shape } }),
    ],
    [
      'residual.data must be of uint8, as x is, of int8, as the result is, or a Float32Array, got Int16Array',
      () => normalize.run(x, { dtype: 'int8', residual: { data: new Int16Array(size) as never, shape } }),
    ],
    [
      'residual.data must be a Float32Array, as decode() makes one, where x is of bfloat16 and the result of float16, got Uint16Array',
      () =>
        FrozenBatchNorm.fromMeanStd({ mean: [0], std: [1], dtype: 'bfloat16', axis: -1 }).run(
          { data: new Uint16Array(1), shape: [1, 1] },
          { dtype: 'float16', residual: { data: new Uint16Array(1), shape: [1, 1] } },
        ),
    ],
    [
      'scale must leave mean / scale and scale / std finite, got 1 in channel 0',
      () => FrozenBatchNorm.fromMeanStd({ mean: [1], std: [1e-40] }),
    ],
    [
      'out must be left out with transfer: true',
      () => normalize.runAsync(x, { out: new Float32Array(size), transfer: true }),
    ],
    [
      'std must be positive, got 0 in channel 1',
      () => FrozenBatchNorm.fromMeanStd({ mean: [1, 2], std: [1, 0] }),
    ],
    [
      'std must have 2 values (one per channel), got 1',
      () => FrozenBatchNorm.fromMeanStd({ mean: [1, 2], std: [1] }),
    ],
    ['std[0] must be a finite number, got NaN', () => FrozenBatchNorm.fromMeanStd({ mean: [1], std: [NaN] })],
    [
      'scale must be a finite number other than 0, got 0',
      () => FrozenBatchNorm.fromMeanStd({ mean: [1], std: [1], scale: 0 }),
    ],
    [
      'scale must be a finite number other than 0, got Infinity',
      () => FrozenBatchNorm.fromMeanStd({ mean: [1], std: [1], scale: Infinity }),
    ],
    [
      'mean must have at least one value (one per channel), got 0',
      () => FrozenBatchNorm.fromMeanStd({ mean: [], std: [] }),
    ],
    [
      'x.data must be a Float32Array or Float64Array, got Uint16Array; ',
      () => normalize.run({ data: new Uint16Array(size) as never, shape }),
    ],
  ])('%s', async (message, call) => {
    const error = await Promise.resolve()
      .then(call)
      .then(
        () => undefined,
        (caught: Error) => caught,
      );
    expect(error?.message).toContain(message);
    expectListed(error?.message ?? '');
  });
});
