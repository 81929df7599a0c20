import { describe, expect, expectTypeOf, it } from 'vitest';
import {
  BatchNorm,
  backward,
  compose,
  FrozenBatchNorm,
  foldIntoConv,
  forwardInference,
  forwardTraining,
  GradientSums,
  groupNorm,
  groupNormBackward,
  instanceNorm,
  instanceNormBackward,
  layerNorm,
  layerNormBackward,
  Moments,
  rmsNorm,
  rmsNormBackward,
  type Tensor,
  tensor,
} from '../../lib/index.js';
import { expectError } from '../support/tensors.js';

const singles = tensor(Float32Array.of(1, 2, 3, 4), [2, 2]);
const doubles = tensor(Float64Array.of(1, 2, 3, 4), [2, 2]);
const bytes = { data: Uint8Array.of(1, 2, 3, 4), shape: [2, 2] };
const state = { running_mean: [0, 0], running_var: [1, 1] };
const bits = tensor(Uint16Array.of(0x3f80, 0x4000, 0x4040, 0x4080), [2, 2]);

// What the compiler refuses is refused at run time too; `npm run check` compiles this file.
describe('the compiler catches', () => {
  it('a Float64Array in a float32 layer', () => {
    const bn = new BatchNorm(2);
    // @ts-expect-error: a float32 layer takes Float32Array
    expectError(() => bn.forward(doubles), TypeError);
    bn.forward(singles);
    // @ts-expect-error: its gradient too
    expectError(() => bn.backward(doubles), TypeError);
    // @ts-expect-error: and its out
    expectError(() => bn.forward(singles, { out: new Float64Array(4) }), TypeError);
    // @ts-expect-error: and what was frozen from it
    expectError(() => bn.freeze().run(doubles), TypeError);
  });

  it('a Float32Array in a float64 layer', () => {
    const bn = new BatchNorm(2, { dtype: 'float64' });
    // @ts-expect-error: a float64 layer takes Float64Array
    expectError(() => bn.forward(singles), TypeError);
  });

  it('bits in a layer of floats', () => {
    const bn = new BatchNorm(2);
    // @ts-expect-error: a float32 layer takes Float32Array
    expectError(() => bn.forward(bits), TypeError);
    bn.forward(singles);
    // @ts-expect-error: its gradient too
    expectError(() => bn.backward(bits), TypeError);
    // @ts-expect-error: and what was frozen from it
    expectError(() => bn.freeze().run(bits), TypeError);
    // @ts-expect-error: and a float64 layer Float64Array
    expectError(() => new BatchNorm(2, { dtype: 'float64' }).forward(bits), TypeError);
    // @ts-expect-error: of bits somebody must say which they are
    expectError(() => FrozenBatchNorm.from(state).run(bits), TypeError);
  });

  it('floats in a layer of bits', () => {
    const bn = new BatchNorm(2, { dtype: 'bfloat16' });
    // @ts-expect-error: a bfloat16 layer takes Uint16Array
    expectError(() => bn.forward(singles), TypeError);
    bn.forward(bits);
    // @ts-expect-error: its gradient too
    expectError(() => bn.backward(singles), TypeError);
    // @ts-expect-error: and its out
    expectError(() => bn.forward(bits, { out: new Float32Array(4) }), TypeError);
    // @ts-expect-error: and what was frozen from it
    expectError(() => bn.freeze().run(singles), TypeError);
    // @ts-expect-error: a float16 layer too
    expectError(() => new BatchNorm(2, { dtype: 'float16' }).forward(singles), TypeError);
  });

  it('bits in a function that is not told which they are', async () => {
    const given = { mean: new Float32Array(2), variance: new Float32Array(2) };
    const moments = Moments.of(singles);
    // @ts-expect-error: of bits dtype must say which they are
    expectError(() => forwardTraining(bits), TypeError);
    // @ts-expect-error: whatever else is said
    expectError(() => forwardTraining(bits, { axis: 1 }), TypeError);
    // @ts-expect-error: in inference
    expectError(() => forwardInference(bits, given), TypeError);
    // @ts-expect-error: whatever is written
    expectError(() => forwardInference(bits, { ...given, out: new Float32Array(4) }), TypeError);
    // @ts-expect-error: and where x may be bits
    const either = <T extends Float32Array | Uint16Array>(x: Tensor<T>) => forwardInference(x, given);
    expectError(() => either(bits), TypeError);
    // @ts-expect-error: and on the way back
    expectError(() => backward(bits, bits, given), TypeError);
    // @ts-expect-error: of statistics
    expectError(() => Moments.of(bits), TypeError);
    // @ts-expect-error: of sums
    expectError(() => GradientSums.of(bits, bits, { moments }), TypeError);
    // @ts-expect-error: off the event loop
    await expect(Moments.ofAsync(bits)).rejects.toThrow(TypeError);
    // @ts-expect-error: likewise
    await expect(GradientSums.ofAsync(bits, bits, { moments })).rejects.toThrow(TypeError);
    const last = { groups: 1 };
    // @ts-expect-error: of the other norms
    expectError(() => groupNorm(bits, last), TypeError);
    // @ts-expect-error: on their way back
    expectError(() => groupNormBackward(bits, bits, last), TypeError);
    // @ts-expect-error: instance norm
    expectError(() => instanceNorm(bits), TypeError);
    // @ts-expect-error: on its way back
    expectError(() => instanceNormBackward(bits, bits), TypeError);
    // @ts-expect-error: layer norm
    expectError(() => layerNorm(bits), TypeError);
    // @ts-expect-error: on its way back
    expectError(() => layerNormBackward(bits, bits), TypeError);
    // @ts-expect-error: RMS norm
    expectError(() => rmsNorm(bits, { eps: 1 }), TypeError);
    // @ts-expect-error: on its way back
    expectError(() => rmsNormBackward(bits, bits), TypeError);
  });

  it('a dtype that the data do not have', () => {
    // @ts-expect-error: floats are not bits
    expectError(() => forwardTraining(singles, { dtype: 'bfloat16' }), TypeError);
    // @ts-expect-error: nor are bits floats
    expectError(() => Moments.of(bits, { dtype: 'float32' }), TypeError);
  });

  it('a result that dtype and out say differently, or that inference does not give', () => {
    const frozen = FrozenBatchNorm.from(state, { dtype: 'float32' });
    const double = FrozenBatchNorm.from(state, { dtype: 'float64' });
    // @ts-expect-error: dtype says another class
    expectError(() => frozen.run(singles, { dtype: 'int8', out: new Float32Array(4) }), TypeError);
    // @ts-expect-error: a Uint8Array is not of int8
    expectError(() => frozen.run(bytes, { dtype: 'int8', out: new Uint8Array(4) }), TypeError);
    // @ts-expect-error: of bits somebody must say which they are
    expectError(() => frozen.run(singles, { out: new Uint16Array(4) }), TypeError);
    // @ts-expect-error: of float32 no float64 comes
    expectError(() => frozen.run(singles, { out: new Float64Array(4) }), TypeError);
    // @ts-expect-error: not by its name either
    expectError(() => frozen.run(singles, { dtype: 'float64' }), RangeError);
    // @ts-expect-error: of float64 only float64 comes
    expectError(() => double.run(doubles, { out: new Float32Array(4) }), TypeError);
    // @ts-expect-error: whatever dtype says
    expectError(() => double.run(doubles, { dtype: 'float32' }), TypeError);
    const given = { mean: new Float32Array(2), variance: new Float32Array(2) };
    // @ts-expect-error: the function likewise
    expectError(() => forwardInference(singles, { ...given, out: new Float64Array(4) }), TypeError);
    // @ts-expect-error: of float64 only float64 comes
    expectError(() => forwardInference(doubles, { ...given, out: new Float32Array(4) }), TypeError);
    // @ts-expect-error: of bits somebody must say which they are
    expectError(() => forwardInference(singles, { ...given, out: new Uint16Array(4) }), TypeError);
    const options = { ...given, dtype: 'int8' as const, out: new Uint8Array(4) };
    // @ts-expect-error: dtype says another class
    expectError(() => forwardInference(bytes, options), TypeError);
  });

  it('a dtype of the function that is not that of x, where out does not say otherwise', () => {
    const given = { mean: new Float32Array(2), variance: new Float32Array(2) };
    // @ts-expect-error: floats are not bits
    expectError(() => forwardInference(singles, { ...given, dtype: 'bfloat16' }), TypeError);
    // @ts-expect-error: nor float64
    expectError(() => forwardInference(singles, { ...given, dtype: 'float64' }), TypeError);
    // @ts-expect-error: nor are bits floats
    expectError(() => forwardInference(bits, { ...given, dtype: 'float32' }), TypeError);
    // @ts-expect-error: integers neither
    expectError(() => forwardInference(bytes, { ...given, dtype: 'float64' }), RangeError);
    // @ts-expect-error: in backward as well
    expectError(() => backward(singles, singles, { ...given, dtype: 'bfloat16' }), TypeError);
  });

  it('a residual, or a gradient, of another dtype', () => {
    const frozen = FrozenBatchNorm.from(state, { dtype: 'float32' });
    // @ts-expect-error: it has the dtype of x
    expectError(() => frozen.run(singles, { residual: doubles }), TypeError);
    const given = { mean: new Float32Array(2), variance: new Float32Array(2) };
    // @ts-expect-error: in the function likewise
    expectError(() => forwardInference(singles, { ...given, residual: doubles }), TypeError);
    // @ts-expect-error: in training
    expectError(() => forwardTraining(singles, { residual: doubles }), TypeError);
    // @ts-expect-error: and on the way back
    expectError(() => backward(singles, singles, { ...given, residual: doubles }), TypeError);
    // @ts-expect-error: where out is none of them either
    expectError(() => backward(singles, singles, { ...given, out: new Float64Array(4) }), TypeError);
    // @ts-expect-error: dy is of the dtype of x
    expectError(() => backward(singles, doubles, given), TypeError);
  });

  it('a Float64Array in a layer composed of float32 ones', () => {
    const bn = new BatchNorm(2);
    // @ts-expect-error: it takes what the first takes
    expectError(() => compose(bn, bn.freeze()).run(doubles), TypeError);
  });

  it('a result of another dtype in a function', () => {
    // @ts-expect-error: out has the dtype of x
    expectError(() => forwardTraining(singles, { out: new Float64Array(4) }), TypeError);
  });
});

describe('the types say', () => {
  it('that a function which is generic in its floats may leave the dtype out', () => {
    const normalized = <T extends Float32Array | Float64Array>(x: Tensor<T>) => forwardTraining(x).y;
    expectTypeOf(normalized(doubles).data).toExtend<Float64Array>();
    expect(normalized(singles).data).toBeInstanceOf(Float32Array);
    const of = <T extends Float32Array | Float64Array>(x: Tensor<T>) => Moments.of(x);
    expect(of(singles).mean).toEqual(Float64Array.of(2, 3));
    const given = { mean: Float32Array.of(2, 3), variance: Float32Array.of(1, 1), eps: 0 };
    const inferred = <T extends Float32Array | Float64Array>(x: Tensor<T>, out: T): Tensor<T>[] => [
      forwardInference(x, given),
      forwardInference(x, { ...given, residual: x, out }),
    ];
    const [plain, added] = inferred(doubles, new Float64Array(4));
    expectTypeOf(plain.data).toExtend<Float64Array>();
    expect(plain.data).toEqual(Float64Array.of(-1, -1, 1, 1));
    expect(added.data).toEqual(Float64Array.of(0, 1, 4, 5));
    const read = <T extends Float32Array | Uint8Array>(x: Tensor<T>) => forwardInference(x, given).data;
    expect(read(bytes)).toEqual(Float32Array.of(-1, -1, 1, 1));
    const returned = <T extends Float32Array | Float64Array>(x: Tensor<T>): Tensor<T>[] => [
      backward(x, x, given).dx,
      groupNorm(x, { groups: 1 }).y,
      groupNormBackward(x, x, { groups: 1 }).dx,
      instanceNorm(tensor(x.data, [1, 2, 2])).y,
      instanceNormBackward(tensor(x.data, [1, 2, 2]), tensor(x.data, [1, 2, 2])).dx,
      layerNorm(x).y,
      layerNormBackward(x, x).dx,
      rmsNorm(x).y,
      rmsNormBackward(x, x).dx,
    ];
    expect(returned(doubles).every(({ data }) => data instanceof Float64Array)).toBe(true);
    const sums = <T extends Float32Array | Float64Array>(x: Tensor<T>) =>
      GradientSums.of(x, x, { moments: Moments.of(x) });
    expect(sums(singles)).toBeInstanceOf(GradientSums);
  });

  it('that results have the dtype of the layer or of the input', () => {
    const bn = new BatchNorm(2);
    expectTypeOf(bn.forward(singles).data).toExtend<Float32Array>();
    expectTypeOf(forwardTraining(doubles).y.data).toExtend<Float64Array>();
    expect(bn.forward(singles).data).toBeInstanceOf(Float32Array);
    expect(forwardTraining(doubles).y.data).toBeInstanceOf(Float64Array);
  });

  it('that parameters beside bits are floats', () => {
    const bn = new BatchNorm(2, { dtype: 'bfloat16' });
    expectTypeOf(bn.forward(bits).data).toExtend<Uint16Array>();
    const { dx, dWeight } = bn.backward(bits);
    expectTypeOf(dx?.data).toExtend<Uint16Array | undefined>();
    expectTypeOf(dWeight).toExtend<Float32Array | undefined>();
    expectTypeOf(bn.weight).toExtend<Float32Array | null>();
    expectTypeOf(bn.parameters()[0].grad).toExtend<Float32Array>();
    const { y, mean, variance } = forwardTraining(bits, { dtype: 'float16' });
    expectTypeOf(y.data).toExtend<Uint16Array>();
    const gradients = backward(bits, bits, { dtype: 'float16', mean, variance });
    expectTypeOf(gradients.dWeight).toExtend<Float32Array>();
    expect([bn.weight, dWeight, gradients.dBias].every((array) => array instanceof Float32Array)).toBe(true);
    expect(forwardInference(bits, { dtype: 'bfloat16', mean, variance }).data).toBeInstanceOf(Uint16Array);
  });

  it('what inference writes: what out is, else what dtype says, else what x is', () => {
    const frozen = FrozenBatchNorm.from(state, { dtype: 'float32' });
    const half = FrozenBatchNorm.from(state, { dtype: 'bfloat16' });
    const given = { mean: new Float32Array(2), variance: new Float32Array(2) };
    const [shared, other] = [16, 16].map((size) => new Float32Array(new SharedArrayBuffer(size)));
    expectTypeOf(frozen.run(singles).data).toEqualTypeOf<Float32Array<ArrayBuffer>>();
    expectTypeOf(frozen.run(bytes).data).toEqualTypeOf<Float32Array>();
    expectTypeOf(frozen.run(bytes, { dtype: 'int8' }).data).toEqualTypeOf<Int8Array>();
    expectTypeOf(frozen.run(singles, { out: new Uint8ClampedArray(4) }).data).toExtend<Uint8ClampedArray>();
    expectTypeOf(
      frozen.run(singles, { dtype: 'float16', out: new Uint16Array(4) }).data,
    ).toExtend<Uint16Array>();
    expectTypeOf(half.run(bits, { out: new Float32Array(4) }).data).toExtend<Float32Array>();
    expectTypeOf(half.run(bytes, { out: new Uint16Array(4) }).data).toExtend<Uint16Array>();
    expectTypeOf(frozen.runAsync(bytes, { dtype: 'uint8' })).resolves.toExtend<{ data: Uint8Array }>();
    expectTypeOf(
      forwardInference(bits, { ...given, dtype: 'bfloat16', out: new Float32Array(4) }).data,
    ).toExtend<Float32Array>();
    expectTypeOf(forwardInference(bytes, { ...given, dtype: 'int8' }).data).toEqualTypeOf<Int8Array>();
    expectTypeOf(
      forwardInference(singles, { ...given, dtype: 'bfloat16', out: new Uint16Array(4) }).data,
    ).toExtend<Uint16Array>();
    // Of whichever memory.
    const residual = { data: other, shape: [2, 2] };
    expect(frozen.run(singles, { residual, out: shared }).data).toBe(shared);
  });

  it('that a folded layer has the dtype of the layer', () => {
    const conv = { weight: new Float64Array(2), shape: [2, 1] };
    const { weight, bias } = foldIntoConv(conv, new BatchNorm(2));
    expectTypeOf(weight).toExtend<Float64Array>();
    expectTypeOf(bias).toExtend<Float64Array>();
    expect(bias).toBeInstanceOf(Float64Array);
  });

  it('that statistics are doubles and parameters have the dtype of the layer', () => {
    const bn = new BatchNorm(2);
    expectTypeOf(bn.runningMean).toExtend<Float64Array | null>();
    expectTypeOf(bn.weight).toExtend<Float32Array | null>();
    expectTypeOf(new BatchNorm(2, { dtype: 'float64' }).weight).toExtend<Float64Array | null>();
    const { mean, variance } = forwardTraining(singles);
    expectTypeOf(mean).toExtend<Float64Array>();
    expect(mean).toBeInstanceOf(Float64Array);
    expect(variance).toBeInstanceOf(Float64Array);
  });
});
