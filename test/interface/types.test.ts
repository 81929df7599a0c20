import { describe, expect, expectTypeOf, it } from 'vitest';
import {
  BatchNorm,
  backward,
  compose,
  FrozenBatchNorm,
  foldIntoConv,
  forwardInference,
  forwardTraining,
  Moments,
  tensor,
} from '../../lib/index.js';
import { expectError } from '../support/tensors.js';

const singles = tensor(Float32Array.of(1, 2, 3, 4), [2, 2]);
const doubles = tensor(Float64Array.of(1, 2, 3, 4), [2, 2]);
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
    const state = { running_mean: [0, 0], running_var: [1, 1] };
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

  it('a dtype that the data do not have', () => {
    // @ts-expect-error: floats are not bits
    expectError(() => forwardTraining(singles, { dtype: 'bfloat16' }), TypeError);
    // @ts-expect-error: nor are bits floats
    expectError(() => Moments.of(bits, { dtype: 'float32' }), TypeError);
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
