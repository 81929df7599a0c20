// Tensors of other libraries, in and out without a copy.
import ndarray from 'ndarray';
import { Tensor as OrtTensor } from 'onnxruntime-common';
import { describe, expect, it } from 'vitest';
import { BatchNorm, backward, FrozenBatchNorm, forwardInference, forwardTraining } from '../../lib/index.js';
import { Random } from '../support/random.js';
import { expectError, expectSame, randomNormals } from '../support/tensors.js';

const shape = [2, 3, 4];
const values = () => randomNormals(new Random(), 'float32', 24) as Float32Array;
const statistics = { mean: new Float64Array(3), variance: new Float64Array(3).fill(1) };

/** What `@stdlib/ndarray/ctor` makes, whose properties are getters of its prototype; it would bring 1,900 packages. */
class StdlibNdarray {
  readonly #parts;
  constructor(data: Float32Array, shape: number[], strides: number[], offset: number) {
    this.#parts = { data, shape, strides, offset };
  }
  get data() {
    return this.#parts.data;
  }
  get shape() {
    return this.#parts.shape;
  }
  get strides() {
    return this.#parts.strides;
  }
  get offset() {
    return this.#parts.offset;
  }
  get order() {
    return 'row-major';
  }
}

describe('an ort.Tensor', () => {
  it('is read and written in place', () => {
    const x = new OrtTensor('float32', values(), shape);
    const data = x.data as Float32Array;
    const expected = forwardTraining({ data: data.slice(), shape }).y.data;
    const { y } = forwardTraining(x as { data: Float32Array; dims: readonly number[] }, { out: data });
    expect(y.data).toBe(data);
    expectSame(y.data, expected, 'y');
  });

  it('is made of a result without a copy', () => {
    const { data, shape: dims } = forwardInference({ data: values(), shape }, statistics);
    expect(new OrtTensor('float32', data, dims).data).toBe(data);
  });
});

describe.each([
  { name: 'ndarray', make: ndarray<Float32Array> },
  {
    name: 'stdlib',
    make: (data: Float32Array, dims: number[], strides: number[], offset = 0) =>
      new StdlibNdarray(data, dims, strides ?? [12, 4, 1], offset),
  },
])('an array of $name', ({ make }) => {
  it('is read where it is, by every pass', () => {
    const data = values();
    const x = make(data, shape, [12, 4, 1]);
    const plain = { data, shape };
    expectSame(forwardTraining(x).y.data, forwardTraining(plain).y.data, 'training');
    expectSame(forwardInference(x, statistics).data, forwardInference(plain, statistics).data, 'inference');
    expectSame(backward(x, x, statistics).dx.data, backward(plain, plain, statistics).dx.data, 'backward');
    const bn = new BatchNorm(3);
    expectSame(bn.forward(x).data, new BatchNorm(3).forward(plain).data, 'layer');
    const frozen = FrozenBatchNorm.from(bn.stateDict());
    expectSame(frozen.run(x).data, frozen.run(plain).data, 'frozen');
    expect(frozen.run(x, { out: data }).data).toBe(data);
  });

  it('may begin behind others of its buffer, and is written there in place', () => {
    const data = new Float32Array(40).fill(7);
    data.set(values(), 10);
    const x = make(data, shape, [12, 4, 1], 10);
    const expected = forwardTraining({ data: values(), shape }).y.data;
    expectSame(forwardTraining(x).y.data, expected, 'y');
    const out = data.subarray(10, 34);
    forwardTraining(x, { out });
    expectSame(out, expected, 'out');
    expectSame(data.subarray(0, 10), new Float32Array(10).fill(7), 'before');
    expectSame(data.subarray(34), new Float32Array(6).fill(7), 'behind');
  });

  it('goes off the event loop as well', async () => {
    const data = new Float32Array(40);
    data.set(values(), 10);
    const frozen = FrozenBatchNorm.from({ running_mean: statistics.mean, running_var: statistics.variance });
    const y = await frozen.runAsync(make(data, shape, [12, 4, 1], 10));
    expectSame(y.data, frozen.run({ data: values(), shape }).data, 'y');
  });

  it('may have any stride along a dimension of 1', () => {
    const x = make(values(), [2, 3, 1, 4], [12, 4, 99, 1]);
    expectSame(forwardTraining(x).y.data, forwardTraining({ data: values(), shape }).y.data, 'y');
  });

  it.each([
    ['transposed', [1, 2, 8]],
    ['every other value', [24, 8, 2]],
    ['reversed', [12, 4, -1]],
    ['of broadcasting', [12, 0, 1]],
  ])('is refused with strides that are %s', (_, strides) => {
    expectError(() => forwardTraining(make(new Float32Array(100), shape, strides)), RangeError);
    expect(() => forwardTraining(make(new Float32Array(100), shape, strides))).toThrow(
      /^x\.strides? must be those of rows one after the other for shape \[2, 3, 4\] \(copy/,
    );
  });

  it('is refused where its values end beyond the data', () => {
    expect(() => forwardTraining(make(values(), shape, [12, 4, 1], 1))).toThrow(
      'x.data must have 25 values (2 x 3 x 4 from offset 1 on), got 24',
    );
  });
});

it.each([-1, 0.5, Number.NaN])('refuses an offset of %d', (offset) => {
  expectError(() => forwardTraining(new StdlibNdarray(values(), shape, [12, 4, 1], offset)), RangeError);
});

it.each([[[12, 4]], [[12, 4, 1, 1]]])('takes one stride for each dimension, not %j', (strides) => {
  expect(() => forwardTraining(new StdlibNdarray(values(), shape, strides, 0))).toThrow(
    `x.strides must be an array, one for each dimension, got ${strides.length} of them`,
  );
});

it('takes nothing but an array for strides', () => {
  const x = { data: values(), shape, strides: '12,4,1' as unknown as number[] };
  expect(() => forwardTraining(x)).toThrow(
    'x.strides must be an array, one for each dimension, got "12,4,1"',
  );
});
