import { createRequire } from 'node:module';
import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  type BatchNormOptions,
  backward,
  capabilities,
  type FloatArray,
  FrozenBatchNorm,
  foldBeforeLinear,
  forwardInference,
  forwardTraining,
} from '../../lib/index.js';
import { expectListed } from '../support/messages.js';
import { Random, seedNote } from '../support/random.js';
import * as reference from '../support/reference.js';
import {
  atOffset,
  expectClose,
  expectError,
  expectSame,
  expectUnmodified,
  extentsOf,
  type FloatDType,
  foreign,
  guarded,
  kinds,
  largest,
  randomActivations,
  randomNormals,
  randomShape,
  rounding,
  shared,
  zeros,
} from '../support/tensors.js';

const shape = [4, 3, 5];
const channels = 3;
const length = 60;

function activations(random: Random): { data: Float32Array; shape: number[] } {
  return { data: randomActivations(random, 'float32', extentsOf(shape, 1)) as Float32Array, shape };
}

function gradients(random: Random): { data: Float32Array; shape: number[] } {
  return { data: randomNormals(random, 'float32', length) as Float32Array, shape };
}

function assertPresent<T>(value: T | null | undefined, what: string): asserts value is T {
  if (value === null || value === undefined) expect.fail(`${what} is missing`);
}

/** The four arrays of a layer that has them all. */
function arraysOf<D extends FloatDType>(bn: BatchNorm<D>) {
  const { weight, bias, runningMean, runningVar } = bn;
  assertPresent(weight, 'weight');
  assertPresent(bias, 'bias');
  assertPresent(runningMean, 'runningMean');
  assertPresent(runningVar, 'runningVar');
  return { weight, bias, runningMean, runningVar };
}

/** Gives every array of the layer values of its own. */
function randomize(random: Random, bn: BatchNorm<FloatDType>): void {
  const draw = (values: FloatArray | null, next: () => number) => {
    values?.forEach((_, i) => {
      values[i] = next();
    });
  };
  draw(bn.weight, () => random.normal(1, 0.5));
  draw(bn.bias, () => random.normal());
  draw(bn.runningMean, () => random.normal(0, 2));
  draw(bn.runningVar, () => random.uniform(0.1, 4));
}

/** Everything a call could change. */
function snapshot(bn: BatchNorm) {
  return {
    state: structuredClone(bn.stateDict()),
    rejectedUpdates: bn.rejectedUpdates,
    training: bn.training,
    grads: bn.parameters().map(({ grad }) => grad.slice()),
  };
}

describe(`modes of the layer (${seedNote})`, () => {
  it('starts in training with weight 1 and bias 0, in its dtype', () => {
    const bn = new BatchNorm(channels);
    expect(bn.training).toBe(true);
    expect(bn.channels).toBe(channels);
    expect(bn.weight).toEqual(Float32Array.of(1, 1, 1));
    expect(bn.bias).toEqual(Float32Array.of(0, 0, 0));
    const inDoubles = new BatchNorm(channels, { dtype: 'float64' });
    expect(inDoubles.weight).toEqual(Float64Array.of(1, 1, 1));
    expect(inDoubles.bias).toEqual(Float64Array.of(0, 0, 0));
  });

  it('train() and eval() set training and return the layer', () => {
    const bn = new BatchNorm(channels);
    expect(bn.eval()).toBe(bn);
    expect(bn.training).toBe(false);
    expect(bn.train()).toBe(bn);
    expect(bn.training).toBe(true);
  });

  it('forward and backward are the functions with the values of the layer', () => {
    for (const { dtype } of kinds) {
      const random = new Random();
      for (let i = 0; i < 10; i++) {
        const { shape: randomDims, axis } = randomShape(random);
        const extents = extentsOf(randomDims, axis);
        if (extents.outer * extents.inner < 2) continue;
        const bn = new BatchNorm<FloatDType>(extents.channels, { axis, dtype, eps: 1e-3 });
        randomize(random, bn);
        const { weight, bias, runningMean, runningVar } = arraysOf(bn);
        const x = { data: randomActivations(random, dtype, extents), shape: randomDims };
        const dy = { data: randomNormals(random, dtype, x.data.length), shape: randomDims };
        const options = { axis, eps: 1e-3, weight, bias };

        const inference = forwardInference(x, { ...options, mean: runningMean, variance: runningVar });
        const frozen = backward(dy, x, {
          ...options,
          mean: runningMean,
          variance: runningVar,
          training: false,
        });
        expectSame(bn.eval().forward(x).data, inference.data, 'y of eval');
        const inEval = bn.backward(dy);
        expectSame(inEval.dx?.data ?? [], frozen.dx.data, 'dx of eval');
        expectSame(inEval.dWeight ?? [], frozen.dWeight ?? [], 'dWeight of eval');
        expectSame(inEval.dBias ?? [], frozen.dBias ?? [], 'dBias of eval');

        const { y, mean, variance } = forwardTraining(x, options);
        const gradient = backward(dy, x, { ...options, mean, variance });
        expectSame(bn.train().forward(x).data, y.data, 'y of training');
        const inTraining = bn.backward(dy);
        expectSame(inTraining.dx?.data ?? [], gradient.dx.data, 'dx of training');
        expectSame(inTraining.dWeight ?? [], gradient.dWeight ?? [], 'dWeight of training');
        expectSame(inTraining.dBias ?? [], gradient.dBias ?? [], 'dBias of training');
      }
    }
  });

  it('refuses to train on one value per channel, and changes nothing', () => {
    const bn = new BatchNorm(channels);
    bn.forward(activations(new Random()));
    const before = snapshot(bn);
    const single = { data: Float32Array.of(1, 2, 3), shape: [1, 3, 1] };
    expectError(() => bn.forward(single), RangeError);
    expect(snapshot(bn)).toEqual(before);
    expect(bn.eval().forward(single).data).toHaveLength(3);
  });

  it('takes views at any offset, shared memory, arrays of another realm and dims', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    randomize(random, bn);
    const x = activations(random);
    const dy = gradients(random);
    const y = bn.forward(x).data.slice();
    const dx = bn.backward(dy).dx?.data.slice() ?? [];
    const copies = [
      (values: FloatArray) => atOffset(values, 4),
      (v: FloatArray) => atOffset(v, 28),
      shared,
      foreign,
    ];
    for (const copy of copies) {
      const view = { data: copy(x.data) as Float32Array, dims: shape };
      expectSame(bn.forward(view).data, y, 'y');
      expectSame(bn.backward({ data: copy(dy.data) as Float32Array, dims: shape }).dx?.data ?? [], dx, 'dx');
    }
  });

  it('out is filled, returned as data, and nothing beside it is written', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    const x = activations(random);
    const dy = gradients(random);
    const y = bn.forward(x).data.slice();
    const dx = bn.backward(dy).dx?.data.slice() ?? [];
    const yOut = guarded('float32', length, 12);
    const dxOut = guarded('float32', length, 20);
    const forwardOut = yOut.view as Float32Array;
    const backwardOut = dxOut.view as Float32Array;
    const result = bn.forward(x, { out: forwardOut });
    expect(result.data).toBe(forwardOut);
    expect(result.shape).toEqual(shape);
    const gradient = bn.backward(dy, { out: backwardOut });
    expect(gradient.dx?.data).toBe(backwardOut);
    expectSame(forwardOut, y, 'y');
    expectSame(backwardOut, dx, 'dx');
    yOut.expectIntact();
    dxOut.expectIntact();
  });

  it('leaves x, dy and the parameters as they were', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    randomize(random, bn);
    const x = activations(random);
    const dy = gradients(random);
    const { weight, bias } = arraysOf(bn);
    expectUnmodified({ x: x.data, dy: dy.data, weight, bias }, () => {
      bn.forward(x);
      bn.backward(dy);
    });
  });
});

describe(`backward of the layer (${seedNote})`, () => {
  it('is for the last forward of the mode', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    randomize(random, bn);
    const dy = gradients(random);
    const x = activations(random);
    bn.train().forward(x);
    const training = bn.backward(dy).dx?.data ?? [];
    bn.eval().forward(x);
    const frozen = bn.backward(dy).dx?.data ?? [];
    expect(frozen).not.toEqual(training);
    bn.forward(x);
    bn.train().forward(x);
    bn.eval();
    expectSame(bn.backward(dy).dx?.data ?? [], frozen, 'dx of the evaluation');
    bn.train();
    expectSame(bn.backward(dy).dx?.data ?? [], training, 'dx of the training around it');
  });

  it('goes through each forward once, in two halves or with retain again', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    const dy = gradients(random);
    const spent = { code: 'ERR_BATCHNORM_NO_FORWARD', message: expect.stringContaining('retain: true') };
    bn.forward(activations(random));
    const first = bn.backward(dy, { retain: true });
    const input = bn.backward(dy, { only: 'input' });
    expectSame(input.dx?.data ?? [], first.dx?.data ?? [], 'dx');
    expect(() => bn.backward(dy, { only: 'input' })).toThrow(expect.objectContaining(spent));
    expect(() => bn.backward(dy)).toThrow(expect.objectContaining(spent));
    const parameters = bn.backward(dy, { only: 'parameters' });
    expectSame(parameters.dWeight ?? [], first.dWeight ?? [], 'dWeight');
    for (const only of [undefined, 'input', 'parameters'] as const)
      expect(() => bn.backward(dy, { only })).toThrow(expect.objectContaining(spent));
  });

  it.each([false, true])('goes through any forward by its tensor, in any order, reuse %s', (reuse) => {
    const random = new Random();
    const bn = new BatchNorm(channels, { reuse });
    randomize(random, bn);
    const xs = Array.from({ length: 5 }, () => activations(random));
    const dys = xs.map(() => gradients(random));
    const residual = activations(random);
    const expected = xs.map((x, i) => {
      const one = new BatchNorm(channels);
      for (const name of ['weight', 'bias'] as const) one[name]?.set(bn[name] as Float32Array);
      one.forward(x, { residual });
      return one.backward(dys[i]);
    });
    const ys = xs.map((x) => bn.forward(x, { residual }));
    for (const i of [3, 0, 4, 1, 2]) {
      const { dx, dWeight, dBias } = bn.backward(dys[i], { of: ys[i] });
      expectSame(dx?.data ?? [], expected[i].dx?.data ?? [], `dx of ${i}`);
      expectSame(dWeight ?? [], expected[i].dWeight ?? [], `dWeight of ${i}`);
      expectSame(dBias ?? [], expected[i].dBias ?? [], `dBias of ${i}`);
    }
    const none = expect.objectContaining({ code: 'ERR_BATCHNORM_NO_FORWARD' });
    for (const y of ys) expect(() => bn.backward(dys[0], { of: y })).toThrow(none);
    expect(() => bn.backward(dys[0])).toThrow(none);
    const foreign = new BatchNorm(channels).forward(xs[0]);
    expect(() => bn.backward(dys[0], { of: foreign })).toThrow(none);
    const y = bn.forward(xs[0]);
    expect(() => bn.backward(dys[0], { of: { ...y } })).toThrow(none);
    bn.clear();
    expect(() => bn.backward(dys[0], { of: y })).toThrow(none);
    expect(() => bn.backward(dys[0], { of: 1 as never })).toThrow(
      expect.objectContaining({ code: 'ERR_BATCHNORM_INVALID_TYPE' }),
    );
  });

  it('adds to the gradients with accumulate, and returns its own', () => {
    const random = new Random();
    for (const reuse of [false, true]) {
      const bn = new BatchNorm(channels, { reuse });
      const [weight, bias] = bn.parameters();
      const sums = { dWeight: new Float32Array(channels), dBias: new Float32Array(channels) };
      weight.grad.fill(3);
      expect(bn.zeroGrad()).toBe(bn);
      for (let i = 0; i < 3; i++) {
        const x = activations(random);
        const dy = gradients(random);
        bn.forward(x);
        const { dWeight = [], dBias = [] } = bn.backward(dy, { retain: true });
        const alone = { dWeight: Float32Array.from(dWeight), dBias: Float32Array.from(dBias) };
        weight.grad.set(sums.dWeight);
        bias.grad.set(sums.dBias);
        const added = bn.backward(dy, { accumulate: true });
        expectSame(added.dWeight ?? [], alone.dWeight, 'dWeight of its own');
        expectSame(added.dBias ?? [], alone.dBias, 'dBias of its own');
        for (const name of ['dWeight', 'dBias'] as const)
          sums[name] = sums[name].map((value, c) => value + alone[name][c]);
        expectSame(weight.grad, sums.dWeight, 'the gradient of weight');
        expectSame(bias.grad, sums.dBias, 'the gradient of bias');
      }
    }
  });

  it('finds an x that has been refilled', () => {
    const bn = new BatchNorm(1);
    const dy = { data: Float32Array.of(1, 0, 0, 0), shape: [4, 1] };
    for (const refill of [9, Number.NaN, -0]) {
      const x = { data: Float32Array.of(1, 2, 0, 4), shape: [4, 1] };
      bn.forward(x);
      x.data[2] = refill;
      expect(() => bn.backward(dy)).toThrow(
        expect.objectContaining({
          code: 'ERR_BATCHNORM_INPUT_OVERWRITTEN',
          message:
            'backward() must find the x of its forward() as it was, got other values in it; give forward() memory that stays until backward()',
        }),
      );
    }
    // Its own copy is what forwardAsync goes by.
    const nan = { data: Float32Array.of(Number.NaN, 2, -0, 4), shape: [4, 1] };
    bn.forward(nan);
    expect(bn.backward(dy).dx?.data).toHaveLength(4);
  });

  it('finds an x that a layer with reuse has written its next result over', () => {
    const tensor = (...values: number[]) => ({ data: Float32Array.from(values), shape: [4, 1] });
    const [a, b] = [new BatchNorm(1, { reuse: true }), new BatchNorm(1)];
    b.forward(a.forward(tensor(1, 2, 3, 9)));
    // The same values: no look at them can tell.
    a.forward(tensor(1, 2, 3, 9));
    expect(() => b.backward(tensor(1, 0, 0, 0))).toThrow(
      expect.objectContaining({
        code: 'ERR_BATCHNORM_INPUT_OVERWRITTEN',
        message:
          'backward() must find the x of its forward() as it was, got one that a layer with reuse: true has written its next result over',
      }),
    );
  });

  it('takes an x of reused memory that has moved, or whose layer has failed since, for what it is', () => {
    const random = new Random();
    const [reusing, plain] = [new BatchNorm(channels, { reuse: true }), new BatchNorm(channels)];
    const y = reusing.forward(activations(random));
    const copy = { data: y.data.slice(), shape: y.shape };
    const dy = gradients(random);
    plain.forward(copy);
    const expected = plain.backward(dy).dx?.data ?? [];
    plain.forward(y);
    // Its result goes elsewhere: y is its input.
    reusing.forward(y);
    expectSame(plain.backward(dy).dx?.data ?? [], expected, 'dx');
    const { bias } = arraysOf(reusing);
    const z = reusing.forward(copy);
    plain.forward(z);
    structuredClone(bias, { transfer: [bias.buffer as ArrayBuffer] });
    expect(() => reusing.forward(copy)).toThrow('bias must keep its length');
    expect(plain.backward(dy).dx?.data).toHaveLength(length);
  });

  it('with reuse and accumulate, returns arrays that stay', () => {
    const random = new Random();
    const bn = new BatchNorm(channels, { reuse: true });
    const step = () => {
      bn.forward(activations(random));
      const { dWeight } = bn.backward(gradients(random), { accumulate: true });
      assertPresent(dWeight, 'dWeight');
      return dWeight;
    };
    const first = step();
    const values = first.slice();
    expect(step()).not.toBe(first);
    expectSame(first, values, 'dWeight of the first');
    // It belongs to the caller, who may give it away or take it for an input.
    structuredClone(first, { transfer: [first.buffer as ArrayBuffer] });
    expect(step()).toHaveLength(channels);
    const one = new BatchNorm(1, { reuse: true });
    const column = (data: Float32Array) => ({ data, shape: [data.length, 1] });
    one.forward(column(Float32Array.of(1, 2)));
    const { dWeight } = one.backward(column(Float32Array.of(1, 3)), { accumulate: true });
    assertPresent(dWeight, 'dWeight');
    const kept = dWeight.slice();
    one.eval().forward(column(dWeight));
    one.backward(column(dWeight), { accumulate: true });
    expectSame(dWeight, kept, 'dWeight that is dy and x');
  });

  it('knows the shape of its forward, whatever becomes of the one it returned', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    const y = bn.forward(activations(random));
    (y.shape as number[]).length = 1;
    expect(bn.backward(gradients(random)).dx?.shape).toEqual(shape);
    const residual = { ...activations(random) };
    bn.forward(activations(random), { residual });
    const { dx, dResidual } = bn.backward(gradients(random));
    expect(dResidual?.shape).toEqual(shape);
    expect(dResidual?.shape).not.toBe(dx?.shape);
  });

  it('and forward go by the mode and the forward of the moment of their call', () => {
    const random = new Random();
    const [x, dy] = [activations(random), gradients(random)];
    const turning = <T extends { data: FloatArray }>(bn: BatchNorm, of: T, then: () => void): T =>
      Object.defineProperty({ ...of }, 'data', {
        get: () => {
          bn.train(!bn.training);
          then();
          return of.data;
        },
      });
    const [bn, twin] = [new BatchNorm(channels), new BatchNorm(channels)];
    expectSame(bn.forward(turning(bn, x, () => {})).data, twin.forward(x).data, 'y');
    expect(bn.training).toBe(false);
    expect(bn.batchesTracked).toBe(1);
    expect(() => bn.backward(dy)).toThrow(
      'backward() must follow a forward() in evaluation, got none since the layer was made or cleared',
    );
    bn.train();
    const expected = twin.backward(dy).dx?.data ?? [];
    const other = activations(random);
    const dx = bn.backward(turning(bn, dy, () => bn.forward(other))).dx?.data ?? [];
    expectSame(dx, expected, 'dx');
  });

  it('leaves the moments of the last training batch to be looked at', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    expect(bn.lastMoments).toBeUndefined();
    for (let i = 0; i < 4; i++) {
      const x = activations(random);
      bn.forward(x);
      if (i % 2) bn.backward(gradients(random));
      bn.eval().forward(activations(random));
      bn.forward(activations(random));
      bn.train();
      expect(bn.lastMoments?.toJSON()).toEqual(forwardTraining(x).moments.toJSON());
    }
    bn.lastMoments?.mean.fill(0);
    expect(bn.lastMoments?.mean[0]).not.toBe(0);
  });

  it.each(['train', 'eval'] as const)(
    'counts with the parameters and statistics of the forward, in %s',
    (mode) => {
      const random = new Random();
      const x = activations(random);
      const dy = gradients(random);
      const bn = new BatchNorm(channels);
      randomize(random, bn);
      bn[mode]().forward(x);
      const { dx, dWeight, dBias } = bn.backward(dy);
      const expected = {
        dx: dx?.data.slice() ?? [],
        dWeight: dWeight?.slice() ?? [],
        dBias: dBias?.slice() ?? [],
      };
      bn.forward(x, { updateStats: false });
      if (mode === 'eval') expect(bn.training).toBe(false);
      const { weight, bias, runningMean, runningVar } = arraysOf(bn);
      weight.fill(7);
      bias.fill(-3);
      runningMean.fill(100);
      runningVar.fill(50);
      const late = bn.backward(dy);
      expectSame(late.dx?.data ?? [], expected.dx, 'dx');
      expectSame(late.dWeight ?? [], expected.dWeight, 'dWeight');
      expectSame(late.dBias ?? [], expected.dBias, 'dBias');
    },
  );

  it('with trackRunningStats: false, eval has the training gradient', () => {
    const random = new Random();
    const bn = new BatchNorm(channels, { trackRunningStats: false });
    const x = activations(random);
    const dy = gradients(random);
    bn.forward(x);
    const training = bn.backward(dy).dx?.data.slice() ?? [];
    bn.eval().forward(x);
    expectSame(bn.backward(dy).dx?.data ?? [], training, 'dx');
    const expected = reference.backwardTraining(dy.data, x.data, extentsOf(shape, 1), { eps: 1e-5 });
    expectClose(training, expected.dx, rounding.float32 * largest(expected.dx), 'dx against the textbook');
  });

  it("only: 'input' is dx alone and only: 'parameters' the sums alone", () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    const dy = gradients(random);
    bn.forward(activations(random));
    const all = bn.backward(dy, { retain: true });
    const dx = all.dx?.data.slice() ?? [];
    const dWeight = all.dWeight?.slice() ?? [];
    const dBias = all.dBias?.slice() ?? [];
    expect(Object.keys(all).sort()).toEqual(['dBias', 'dWeight', 'dx']);

    const input = bn.backward(dy, { only: 'input' });
    expect(Object.keys(input)).toEqual(['dx']);
    expectSame(input.dx?.data ?? [], dx, 'dx');

    for (const { grad } of bn.parameters()) grad.fill(99);
    const parameters = bn.backward(dy, { only: 'parameters' });
    expect(Object.keys(parameters).sort()).toEqual(['dBias', 'dWeight']);
    expectSame(parameters.dWeight ?? [], dWeight, 'dWeight');
    expectSame(parameters.dBias ?? [], dBias, 'dBias');
    bn.parameters().forEach(({ grad }, i) => {
      expectSame(grad, [dWeight, dBias][i], 'grad');
    });
  });

  it('has no gradient for a parameter the layer does not have', () => {
    const random = new Random();
    const x = activations(random);
    const dy = gradients(random);
    const whole = new BatchNorm(channels);
    whole.forward(x);
    const { dx } = whole.backward(dy);
    for (const { options, keys } of [
      { options: { weight: false }, keys: ['dBias', 'dx'] },
      { options: { bias: false }, keys: ['dWeight', 'dx'] },
      { options: { weight: false, bias: false }, keys: ['dx'] },
    ]) {
      const bn = new BatchNorm(channels, options);
      bn.forward(x);
      const result = bn.backward(dy);
      expect(Object.keys(result).sort()).toEqual(keys);
      expectSame(result.dx?.data ?? [], dx?.data ?? [], 'dx');
    }
  });

  it('before any forward, or after clear(), is an error of state', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    const dy = gradients(random);
    expectError(() => bn.backward(dy), Error);
    bn.forward(activations(random));
    bn.backward(dy);
    bn.clear();
    const before = snapshot(bn);
    expectError(() => bn.backward(dy), Error);
    expect(snapshot(bn)).toEqual(before);
    bn.forward(activations(random));
    expect(bn.backward(dy).dx?.data).toHaveLength(length);
  });

  it.each(['train', 'eval'] as const)('after a forward in place is an error of state, in %s', (mode) => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    const x = activations(random);
    const dy = gradients(random);
    const expected = bn[mode]().forward(x, { updateStats: false }).data.slice();
    const y = bn.forward(x, { out: x.data, updateStats: false });
    expect(y.data).toBe(x.data);
    expectSame(x.data, expected, 'y in place');
    expectError(() => bn.backward(dy), Error);
    bn.forward(activations(random), { updateStats: false });
    expect(bn.backward(dy).dx?.data).toHaveLength(length);
  });

  it('in place of dy gives what it gives elsewhere', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    bn.forward(activations(random));
    const dy = gradients(random);
    const expected = bn.backward(dy, { retain: true }).dx?.data.slice() ?? [];
    const inPlace = bn.backward(dy, { out: dy.data });
    expect(inPlace.dx?.data).toBe(dy.data);
    expectSame(dy.data, expected, 'dx');
  });

  it('of an empty batch goes into an empty part of any array, with a mask too', () => {
    const bn = new BatchNorm(channels, { activation: 'relu' });
    const memory = new Float32Array(8);
    const empty = (at: number) => ({ data: memory.subarray(at, at), shape: [0, channels] });
    bn.forward(empty(1), { residual: empty(2) });
    const { dx, dResidual, dBias } = bn.backward(empty(3), { out: memory.subarray(4, 4) });
    expect([dx?.shape, dResidual?.shape]).toEqual([empty(0).shape, empty(0).shape]);
    expectSame(dBias ?? [], new Float32Array(channels), 'dBias');
  });

  it('of an empty batch is empty, with sums of zero', () => {
    const bn = new BatchNorm(channels);
    const empty = { data: new Float32Array(0), shape: [0, 3, 5] };
    bn.forward(empty);
    const { dx, dWeight, dBias } = bn.backward(empty);
    expect(dx?.data).toHaveLength(0);
    expectSame(dWeight ?? [], [0, 0, 0], 'dWeight');
    expectSame(dBias ?? [], [0, 0, 0], 'dBias');
  });
});

describe(`parameters of the layer (${seedNote})`, () => {
  it('are the live arrays, with gradients that are the arrays of the layer', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    const parameters = bn.parameters();
    expect(parameters.map(({ name }) => name)).toEqual(['weight', 'bias']);
    expect(parameters[0].value).toBe(bn.weight);
    expect(parameters[1].value).toBe(bn.bias);
    for (const { value, grad } of parameters) {
      expect(grad).toHaveLength(channels);
      expect(grad.constructor).toBe(value.constructor);
    }

    for (let batch = 0; batch < 3; batch++) {
      bn.forward(activations(random));
      const { dWeight, dBias } = bn.backward(gradients(random));
      expectSame(parameters[0].grad, dWeight ?? [], 'grad of weight');
      expectSame(parameters[1].grad, dBias ?? [], 'grad of bias');
      expect(largest(parameters[0].grad)).toBeGreaterThan(0);
      bn.parameters().forEach(({ value, grad }, i) => {
        expect(value).toBe(parameters[i].value);
        expect(grad).toBe(parameters[i].grad);
      });
    }
  });

  it('are those the layer has', () => {
    const names = (options: { weight?: boolean; bias?: boolean }) =>
      new BatchNorm(channels, options).parameters().map(({ name }) => name);
    expect(names({ weight: false })).toEqual(['bias']);
    expect(names({ bias: false })).toEqual(['weight']);
    expect(names({ weight: false, bias: false })).toEqual([]);
    expect(new BatchNorm(channels, { weight: false }).weight).toBeNull();
    expect(new BatchNorm(channels, { bias: false }).bias).toBeNull();
  });

  it('updated in place count in the next forward', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    const x = activations(random);
    const before = bn.forward(x).data.slice();
    for (const { value } of bn.parameters()) value.set([2, 0.5, -1]);
    const scale = [2, 0.5, -1];
    const expected = before.map((value, i) => {
      const c = Math.floor(i / 5) % channels;
      return value * scale[c] + scale[c];
    });
    expectClose(bn.forward(x).data, expected, 1e-6 * largest(expected), 'y');
  });
});

describe(`state of the layer (${seedNote})`, () => {
  const variants = [
    {},
    { weight: false },
    { bias: false },
    { weight: false, bias: false },
    { trackRunningStats: false },
    { dtype: 'float64' as const },
  ];

  function trained(random: Random, options = {}): BatchNorm {
    const bn = new BatchNorm(channels, options);
    randomize(random, bn);
    bn.forward(activations(random));
    bn.forward(activations(random));
    return bn;
  }

  it('has the names of PyTorch', () => {
    const bn = trained(new Random());
    const state = bn.stateDict();
    expect(Object.keys(state).sort()).toEqual([
      'bias',
      'num_batches_tracked',
      'running_mean',
      'running_var',
      'weight',
    ]);
    expect(state.num_batches_tracked).toBe(2);
    const { weight, bias, runningMean, runningVar } = arraysOf(bn);
    expect(state.weight).toEqual(weight);
    expect(state.bias).toEqual(bias);
    expect(state.running_mean).toEqual(runningMean);
    expect(state.running_var).toEqual(runningVar);
  });

  it.each(variants)('makes the same layer of a new one with %o', (options) => {
    const random = new Random();
    const bn = new BatchNorm<FloatDType>(channels, options);
    randomize(random, bn);
    const other = new BatchNorm<FloatDType>(channels, options);
    other.loadStateDict(bn.stateDict());
    expect(other.stateDict()).toEqual(bn.stateDict());
    const dtype = bn.config.dtype;
    const x = { data: randomActivations(random, dtype, extentsOf(shape, 1)), shape };
    expectSame(other.eval().forward(x).data, bn.eval().forward(x).data, 'y');
  });

  it('is copied both ways', () => {
    const random = new Random();
    const bn = trained(random);
    const state = bn.stateDict();
    const copy = structuredClone(state);
    randomize(random, bn);
    bn.forward(activations(random));
    expect(state).toEqual(copy);

    const { weight, bias, runningMean, runningVar } = arraysOf(bn);
    bn.loadStateDict(state);
    for (const values of [state.weight, state.bias, state.running_mean, state.running_var])
      values?.fill(0.125);
    expect(bn.stateDict()).toEqual(copy);
    const loaded = arraysOf(bn);
    expect(loaded.weight, 'the same array after a load').toBe(weight);
    expect(loaded.bias, 'the same array after a load').toBe(bias);
    expect(loaded.runningMean, 'the same array after a load').toBe(runningMean);
    expect(loaded.runningVar, 'the same array after a load').toBe(runningVar);
    expect(bn.batchesTracked).toBe(2);
  });

  it('may come in either dtype, in shared memory or from another realm', () => {
    const bn = trained(new Random());
    const state = bn.stateDict();
    const { weight, bias, runningMean, runningVar } = arraysOf(bn);
    for (const copy of [
      (v: FloatArray) => Float64Array.from(v),
      shared,
      foreign,
      (v: FloatArray) => atOffset(v, 8),
    ]) {
      const other = new BatchNorm(channels);
      other.loadStateDict({
        weight: copy(weight),
        bias: copy(bias),
        running_mean: copy(runningMean),
        running_var: copy(runningVar),
        num_batches_tracked: 2,
      });
      expect(other.stateDict()).toEqual(state);
    }
  });

  const spoiled: { title: string; spoil: (state: Record<string, unknown>) => void }[] = [
    {
      title: 'weight of another size',
      spoil: (state) => Object.assign(state, { weight: new Float32Array(4) }),
    },
    { title: 'bias of another size', spoil: (state) => Object.assign(state, { bias: new Float32Array(2) }) },
    {
      title: 'running_mean of another size',
      spoil: (state) => Object.assign(state, { running_mean: new Float64Array(4) }),
    },
    {
      title: 'running_var of another size',
      spoil: (state) => Object.assign(state, { running_var: new Float64Array(0) }),
    },
    {
      title: 'a negative running_var',
      spoil: (state) => Object.assign(state, { running_var: Float64Array.of(1, 1, -1) }),
    },
    {
      title: 'a batch count that is negative',
      spoil: (state) => Object.assign(state, { num_batches_tracked: -1 }),
    },
    {
      title: 'a batch count that is not whole',
      spoil: (state) => Object.assign(state, { num_batches_tracked: 1.5 }),
    },
    { title: 'integers for a weight', spoil: (state) => Object.assign(state, { weight: new Int32Array(3) }) },
    { title: 'strings for a bias', spoil: (state) => Object.assign(state, { bias: ['0', '0', '0'] }) },
    {
      title: 'a weight that is not finite',
      spoil: (state) => Object.assign(state, { weight: Float32Array.of(1, Infinity, 1) }),
    },
    {
      title: 'a running_mean that is not finite',
      spoil: (state) => Object.assign(state, { running_mean: Float64Array.of(1, 1, Number.NaN) }),
    },
    {
      title: 'a batch count beyond 2^53',
      spoil: (state) => Object.assign(state, { num_batches_tracked: 2n ** 53n }),
    },
    { title: 'an unknown key', spoil: (state) => Object.assign(state, { gamma: new Float32Array(3) }) },
    ...['weight', 'bias', 'running_mean', 'running_var'].map((key) => ({
      title: `no ${key}`,
      spoil: (state: Record<string, unknown>) => {
        delete state[key];
      },
    })),
  ];

  for (const { title, spoil } of spoiled) {
    it(`is refused with ${title}, and nothing changes`, () => {
      const random = new Random();
      const bn = trained(random);
      const before = snapshot(bn);
      const state = { ...trained(new Random(1)).stateDict() } as Record<string, unknown>;
      spoil(state);
      expectError(() => bn.loadStateDict(state as never));
      expect(snapshot(bn)).toEqual(before);
      bn.loadStateDict(trained(new Random(1)).stateDict());
      expect(snapshot(bn)).not.toEqual(before);
    });
  }

  it('may lack the batch count, which is then 0', () => {
    const bn = trained(new Random());
    const { num_batches_tracked: _, ...state } = bn.stateDict();
    bn.loadStateDict(state);
    expect(bn.batchesTracked).toBe(0);
  });

  it('of a layer with more or fewer arrays is refused', () => {
    const random = new Random();
    const whole = trained(random);
    const bare = new BatchNorm(channels, { weight: false });
    const untracked = new BatchNorm(channels, { trackRunningStats: false });
    for (const [target, source] of [
      [whole, bare],
      [bare, whole],
      [whole, untracked],
      [untracked, whole],
    ]) {
      const before = snapshot(target);
      const state = source.stateDict();
      expectError(() => target.loadStateDict(state));
      expect(snapshot(target)).toEqual(before);
    }
  });
});

describe(`configuration of the layer (${seedNote})`, () => {
  it('has every default in it', () => {
    expect(new BatchNorm(channels).config).toMatchObject({
      axis: 1,
      eps: 1e-5,
      dtype: 'float32',
      decay: 0.9,
      unbiasedRunningVar: true,
      weight: true,
      bias: true,
      trackRunningStats: true,
      reuse: false,
    });
  });

  const options = [
    {},
    { axis: -1, eps: 1e-3, dtype: 'float64', decay: 0.5, unbiasedRunningVar: false },
    { decay: 'cumulative', weight: false },
    { bias: false, trackRunningStats: false, reuse: true },
    { convention: 'pytorch', momentum: 0.3 },
    { convention: 'keras', dtype: 'float64' },
    { convention: 'keras', momentum: 0.3, eps: 0.5 },
    { convention: 'onnx', momentum: 0.3, unbiasedRunningVar: true },
  ] as const;

  it.each(options)('makes the same layer again from %o', (given) => {
    const bn = new BatchNorm<FloatDType>(channels, given);
    const again = new BatchNorm<FloatDType>(bn.channels, bn.config);
    expect(again.config).toEqual(bn.config);
    expect(again.channels).toBe(channels);
    expect(JSON.parse(JSON.stringify(bn.config)), 'the config as JSON').toMatchObject(
      JSON.parse(JSON.stringify(again.config)),
    );
    const { dtype, axis } = bn.config;
    const random = new Random();
    for (let batch = 0; batch < 3; batch++) {
      const dims = axis === -1 ? [4, 5, channels] : shape;
      const x = { data: randomActivations(random, dtype, extentsOf(dims, axis)), shape: dims };
      expectSame(again.forward(x).data, bn.forward(x).data, 'y');
    }
    expect(again.stateDict()).toEqual(bn.stateDict());
  });

  it('cannot be used to change the layer', () => {
    const bn = new BatchNorm(channels);
    try {
      Object.assign(bn.config, { eps: 100 });
    } catch {
      // A frozen object is as good as a copy.
    }
    expect(bn.config.eps).toBe(1e-5);
  });
});

describe(`results of the layer (${seedNote})`, () => {
  it('are the own arrays of the user by default', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    const y = bn.forward(activations(random)).data;
    const { dx: tensor, dWeight, dBias } = bn.backward(gradients(random));
    assertPresent(tensor, 'dx');
    const dx = tensor.data;
    expectUnmodified({ y, dx, dWeight, dBias }, () => {
      for (let batch = 0; batch < 3; batch++) {
        const laterY = bn.forward(activations(random)).data;
        const laterDx = bn.backward(gradients(random)).dx?.data;
        expect(laterY.buffer).not.toBe(y.buffer);
        expect(laterDx?.buffer).not.toBe(dx.buffer);
      }
      bn.eval().forward(activations(random));
    });
  });

  it('with reuse: true are the same buffers again, with what reuse: false gives', () => {
    const random = new Random();
    const bn = new BatchNorm(channels, { reuse: true });
    const plain = new BatchNorm(channels);
    const yBuffers = new Set<ArrayBufferLike>();
    const dxBuffers = new Set<ArrayBufferLike>();
    for (let batch = 0; batch < 4; batch++) {
      const x = activations(random);
      const dy = gradients(random);
      const y = bn.forward(x).data;
      expectSame(y, plain.forward(x).data, 'y');
      const dx = bn.backward(dy).dx?.data;
      assertPresent(dx, 'dx');
      expectSame(dx, plain.backward(dy).dx?.data ?? [], 'dx');
      expect(dx.buffer).not.toBe(y.buffer);
      yBuffers.add(y.buffer);
      dxBuffers.add(dx.buffer);
    }
    expect(yBuffers.size).toBe(1);
    expect(dxBuffers.size).toBe(1);
  });

  it('with reuse: true, y survives its backward', () => {
    const random = new Random();
    const bn = new BatchNorm(channels, { reuse: true });
    const y = bn.forward(activations(random)).data;
    expectUnmodified({ y }, () => bn.backward(gradients(random)));
  });

  it('with reuse: true fit batches of changing size', () => {
    const random = new Random();
    const bn = new BatchNorm(channels, { reuse: true });
    const plain = new BatchNorm(channels);
    for (const samples of [4, 2, 9, 0, 4]) {
      const dims = [samples, channels, 5];
      const x = {
        data: randomActivations(random, 'float32', extentsOf(dims, 1)) as Float32Array,
        shape: dims,
      };
      const y = bn.forward(x);
      expect(y.shape).toEqual(dims);
      expectSame(y.data, plain.forward(x).data, 'y');
      const dy = { data: randomNormals(random, 'float32', x.data.length) as Float32Array, shape: dims };
      expectSame(bn.backward(dy).dx?.data ?? [], plain.backward(dy).dx?.data ?? [], 'dx');
    }
  });

  it('with reuse: true go to out where it is given', () => {
    const random = new Random();
    const bn = new BatchNorm(channels, { reuse: true });
    const own = bn.forward(activations(random)).data;
    const out = new Float32Array(length);
    expectUnmodified({ own }, () => {
      expect(bn.forward(activations(random), { out }).data).toBe(out);
    });
    expect(largest(out)).toBeGreaterThan(0);
  });

  it('with reuse: true may be the next input of the same layer', () => {
    const random = new Random();
    const reusing = new BatchNorm(channels, { reuse: true });
    const plain = new BatchNorm(channels);
    for (const samples of [4, 3]) {
      const x = activations(random);
      const dy = randomNormals(random, 'float32', samples * 15) as Float32Array;
      const run = (bn: BatchNorm) => {
        arraysOf(bn).weight.fill(2);
        const { data } = bn.forward(x);
        // Normalizing twice the same would change nothing.
        arraysOf(bn).weight.fill(5);
        // The last samples of the result: all of it, or memory that overlaps where the next result would start.
        const input = { data: data.subarray(length - samples * 15), shape: [samples, 3, 5] };
        return bn.forward(input).data.slice();
      };
      expectSame(run(reusing), run(plain), 'y of y');
      const gradient = { data: dy, shape: [samples, 3, 5] };
      const expected = plain.backward(gradient).dx?.data ?? [];
      let dx: Float32Array | undefined;
      try {
        dx = reusing.backward(gradient).dx?.data;
      } catch (error) {
        // As good as the gradient, where y was written over x: nothing is silently wrong.
        expect((error as { code?: unknown }).code).toMatch(/^ERR_BATCHNORM_/);
      }
      if (dx) expectSame(dx, expected, 'dx');
    }
  });
});

describe(`eps: 0 (${seedNote})`, () => {
  /** What no variance is so small as to notice. */
  const least = 1e-300;
  const kindsOfLayers: BatchNormOptions<FloatDType>[] = [
    {},
    { dtype: 'float64', weight: false },
    { activation: 'relu', trackRunningStats: false },
    { reuse: true, axis: -1 },
  ];

  it.each(kindsOfLayers)('is nothing that is added, with %j', async (options) => {
    const random = new Random();
    const layers = [0, least].map((eps) => new BatchNorm<FloatDType>(channels, { ...options, eps }));
    const dims = options.axis === -1 ? [4, 5, channels] : shape;
    const dtype = options.dtype ?? 'float32';
    const draw = () => randomNormals(random, dtype, length);
    const [data, residual, dy] = [draw(), draw(), draw()];
    for (const name of ['training', 'evaluation']) {
      const [ours, expected] = layers.map((layer) => {
        const y = layer.forward({ data, shape: dims }, { residual: { data: residual, shape: dims } });
        return { y: y.data.slice(), ...layer.backward({ data: dy, shape: dims }) };
      });
      expect(ours, name).toEqual(expected);
      const results = layers.map(async (layer) => ({
        y: await layer.forwardAsync({ data, shape: dims }),
        moved: await layer.forwardAsync({ data: data.slice(), shape: dims }, { transfer: true }),
        dx: await layer.backwardAsync({ data: dy, shape: dims }),
      }));
      const [later, expectedLater] = await Promise.all(results);
      expect(later).toEqual(expectedLater);
      expect(layers[0].stateDict()).toEqual(layers[1].stateDict());
      for (const layer of layers) layer.eval();
    }
  });

  it('is refused where a channel does not vary, before anything changes', async () => {
    const random = new Random();
    const bn = new BatchNorm(channels, { eps: 0 });
    const { runningVar, runningMean } = arraysOf(bn);
    bn.forward(activations(random));
    const constant = activations(random);
    for (let n = 0; n < 4; n++) constant.data.fill(7, (n * channels + 1) * 5, (n * channels + 2) * 5);
    const refuse = (call: () => unknown, message: string) => {
      expectError(call, RangeError);
      expect(call).toThrow(message);
      expectListed(message);
    };
    const before = snapshot(bn);
    const moments = bn.lastMoments;
    const out = new Float32Array(length).fill(3);
    const message =
      'x must vary in every channel with eps: 0, got a variance of 0 in channel 1; give a positive eps';
    refuse(() => bn.forward(constant, { out }), message);
    await expect(bn.forwardAsync(constant, { out })).rejects.toThrow(message);
    refuse(() => forwardTraining(constant, { eps: 0, out }), message);
    expect(out.every((value) => value === 3)).toBe(true);
    expect(snapshot(bn)).toEqual(before);
    expect(bn.lastMoments).toEqual(moments);
    runningVar[2] = 0;
    const stateMessage = (name: string) =>
      `${name} must be positive with eps: 0, got 0 in channel 2; give a positive eps`;
    refuse(() => bn.freeze(), stateMessage('runningVar'));
    refuse(() => bn.eval().forward(constant, { out }), stateMessage('runningVar'));
    refuse(
      () => foldBeforeLinear(bn, { weight: new Float32Array(channels), shape: [1, channels] }),
      stateMessage('bn.runningVar'),
    );
    const state = bn.stateDict();
    refuse(() => FrozenBatchNorm.from(state, { eps: 0 }), stateMessage('state.running_var'));
    const json = FrozenBatchNorm.from(state).toJSON();
    const wrong = { ...json, config: { ...json.config, eps: 0 } };
    refuse(() => FrozenBatchNorm.fromJSON(wrong), stateMessage('json.state.running_var'));
    const statistics = { mean: runningMean, variance: runningVar, eps: 0, out };
    refuse(() => forwardInference(constant, statistics), stateMessage('variance'));
    refuse(() => backward(constant, constant, statistics), stateMessage('variance'));
    expect(out.every((value) => value === 3)).toBe(true);
  });

  it('or nearly 0 never makes a NaN of a constant', () => {
    for (const eps of [1e-78, 1e-100, 1e-320]) {
      const bn = new BatchNorm(channels, { eps });
      const { weight, bias, runningVar } = arraysOf(bn);
      weight.fill(-3);
      bias.set([1, 2, 3]);
      const x = { data: new Float32Array(length).fill(0.1), shape };
      const y = bn.forward(x);
      const { dx } = bn.backward({ data: new Float32Array(length).fill(0.5), shape });
      expect([...y.data.slice(0, 15)]).toEqual([1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]);
      expect(dx?.data.every((value) => value === 0)).toBe(true);
      runningVar.fill(0);
      const frozen = bn.freeze();
      arraysOf(bn).runningMean.fill(Math.fround(0.1));
      expect([...bn.freeze().run(x).data.slice(4, 6)]).toEqual([1, 2]);
      expect(frozen.run(x).data.every(Number.isFinite)).toBe(true);
    }
  });
});

describe(`frozen layers (${seedNote})`, () => {
  it('give what the layer gives in eval', () => {
    for (const { dtype, layout } of kinds) {
      const random = new Random();
      const dims = layout.shape(3, 17, 21);
      const extents = extentsOf(dims, layout.axis);
      for (const options of [{}, { weight: false }, { bias: false }, { weight: false, bias: false }]) {
        const bn = new BatchNorm<FloatDType>(17, { axis: layout.axis, dtype, eps: 1e-3, ...options });
        randomize(random, bn);
        const frozen = bn.freeze();
        const x = { data: randomActivations(random, dtype, extents), shape: dims };
        const y = frozen.run(x);
        expect(y.shape).toEqual(dims);
        expectSame(y.data, bn.eval().forward(x).data, 'y');
        frozen[Symbol.dispose]();
      }
    }
  });

  it('are snapshots: training the layer further does not change them', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    randomize(random, bn);
    const frozen = bn.freeze();
    const x = activations(random);
    const before = frozen.run(x).data.slice();
    randomize(random, bn);
    bn.forward(activations(random));
    bn.loadStateDict(new BatchNorm(channels).stateDict());
    expectSame(frozen.run(x).data, before, 'y');
    expect(bn.training, 'freezing leaves the mode').toBe(true);
  });

  it('come from a state without a layer, which they copy', () => {
    for (const { dtype, layout } of kinds) {
      const random = new Random();
      const dims = layout.shape(3, 17, 21);
      const bn = new BatchNorm<FloatDType>(17, { axis: layout.axis, dtype, eps: 1e-3 });
      randomize(random, bn);
      const state = bn.stateDict();
      const frozen = FrozenBatchNorm.from(state, { axis: layout.axis, eps: 1e-3, dtype });
      const x = { data: randomActivations(random, dtype, extentsOf(dims, layout.axis)), shape: dims };
      const expected = bn.eval().forward(x).data;
      for (const values of [state.weight, state.bias, state.running_mean, state.running_var]) values?.fill(9);
      expectSame(frozen.run(x).data, expected, 'y');
    }
  });

  it('have axis 1 and eps 1e-5 by default', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    randomize(random, bn);
    const x = activations(random);
    const frozen = FrozenBatchNorm.from(bn.stateDict());
    expectSame(frozen.run(x).data, bn.eval().forward(x).data, 'y');
  });

  it('fill out and return it, also in place, and write nothing beside it', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    randomize(random, bn);
    const frozen = bn.freeze();
    const x = activations(random);
    const expected = frozen.run(x).data.slice();
    for (let offset = 0; offset < 64; offset += 4) {
      const out = guarded('float32', length, offset);
      const view = out.view as Float32Array;
      expectUnmodified({ x: x.data }, () => {
        expect(frozen.run(x, { out: view }).data).toBe(view);
      });
      expectSame(view, expected, 'y');
      out.expectIntact();
    }
    expect(frozen.run(x, { out: x.data }).data).toBe(x.data);
    expectSame(x.data, expected, 'y in place');
  });

  it('take views, shared memory, arrays of another realm, dims, any batch size and empty batches', () => {
    const random = new Random();
    const bn = new BatchNorm(channels);
    randomize(random, bn);
    const frozen = bn.freeze();
    const x = activations(random);
    const expected = frozen.run(x).data.slice();
    for (const copy of [(values: FloatArray) => atOffset(values, 20), shared, foreign]) {
      expectSame(frozen.run({ data: copy(x.data) as Float32Array, dims: shape }).data, expected, 'y');
    }
    const first = { data: x.data.slice(0, 15), shape: [1, 3, 5] };
    expectSame(frozen.run(first).data, expected.subarray(0, 15), 'y of one sample');
    const single = { data: x.data.slice(0, 3), shape: [1, 3] };
    expect(frozen.run(single).data).toHaveLength(3);
    const empty = frozen.run({ data: zeros('float32', 0) as Float32Array, shape: [0, 3, 5] });
    expect(empty.data).toHaveLength(0);
    expect(empty.shape).toEqual([0, 3, 5]);
  });

  it('give results that are the own arrays of the user', () => {
    const random = new Random();
    const frozen = new BatchNorm(channels, { reuse: true }).freeze();
    const y = frozen.run(activations(random)).data;
    expectUnmodified({ y }, () => frozen.run(activations(random)));
  });

  it('need running statistics', () => {
    expectError(() => new BatchNorm(channels, { trackRunningStats: false }).freeze(), Error);
  });

  it('can be disposed of twice, and run no more', () => {
    const random = new Random();
    const frozen = new BatchNorm(channels).freeze();
    const x = activations(random);
    const y = frozen.run(x).data;
    expectUnmodified({ y }, () => {
      frozen[Symbol.dispose]();
      frozen[Symbol.dispose]();
      expectError(() => frozen.run(x), Error);
    });
  });
});

describe.runIf(capabilities().backend === 'native')(
  'what the binary is told is the memory of a frozen layer',
  () => {
    it.each([
      ['float32', Float32Array],
      ['float64', Float64Array],
    ] as const)('is refused where what lies at its beginning is not of one, %s', (dtype, Type) => {
      const passes = createRequire(import.meta.url)('../../binary.cjs')[dtype];
      const memory = new ArrayBuffer(passes.frozenBytes(3));
      const statistics = [new Float64Array(3), new Float64Array(3).fill(1)];
      passes.freeze(3, 1e-5, undefined, undefined, ...statistics, false, memory);
      const run = () => passes.runFrozen(1, 1, memory, new Type(3), new Type(3));
      run();
      const words = new BigUint64Array(memory);
      const first = words.findIndex((word) => word !== 0n);
      // The number of channels, how many rows lie side by side, and the bytes of an array.
      for (const place of [0, 1, 3])
        for (const change of [-1n, 1n]) {
          words[first + place] += change;
          expect(run, `${place}, ${change}`).toThrow(
            expect.objectContaining({
              code: 'ERR_BATCHNORM_NATIVE',
              message: expect.stringContaining('channels'),
            }),
          );
          words[first + place] -= change;
        }
      run();
    });
  },
);
