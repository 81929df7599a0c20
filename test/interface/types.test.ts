import { describe, expect, expectTypeOf, it } from 'vitest';
import { BatchNorm, compose, foldIntoConv, forwardTraining, tensor } from '../../lib/index.js';
import { expectError } from '../support/tensors.js';

const singles = tensor(Float32Array.of(1, 2, 3, 4), [2, 2]);
const doubles = tensor(Float64Array.of(1, 2, 3, 4), [2, 2]);

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
