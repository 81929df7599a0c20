// What of a layer may be set after it was made, and how it is told what may not.
import { describe, expect, it } from 'vitest';
import { BatchNorm, type BatchNormOptions, forwardInference } from '../../lib/index.js';
import { expectListed } from '../support/messages.js';
import { Random, seedNote } from '../support/random.js';
import { expectClose, expectSame } from '../support/tensors.js';

const batch = (mean: number) => ({ data: Float32Array.of(mean - 1, mean + 1), shape: [2, 1] });
const statistics = (bn: BatchNorm) => [bn.runningMean?.[0], bn.runningVar?.[0], bn.batchesTracked];

/** The code and the message of what is thrown, which docs/errors.md lists. */
function thrown(run: () => unknown): { code: string; message: string } {
  try {
    run();
  } catch (error) {
    const { code, message } = error as Error & { code: string };
    expectListed(message);
    return { code, message };
  }
  throw new Error('it must throw, got no error');
}

describe('decay', () => {
  it('may be written at any time, and config follows', () => {
    const bn = new BatchNorm(1, { decay: 0.5 });
    bn.forward(batch(8));
    bn.decay = 0.75;
    expect([bn.decay, bn.config.decay]).toEqual([0.75, 0.75]);
    bn.forward(batch(0));
    expect(bn.runningMean?.[0]).toBe(3);
    expect(new BatchNorm(1, bn.config).decay).toBe(0.75);
    expect(Object.isFrozen(bn.config)).toBe(true);
  });

  it("becomes and leaves 'cumulative': what was seen counts as so many batches", () => {
    const bn = new BatchNorm(1, { decay: 0 });
    for (let i = 0; i < 3; i++) bn.forward(batch(6));
    bn.decay = 'cumulative';
    bn.forward(batch(2));
    expectClose([bn.runningMean?.[0] as number], [5], 1e-12, 'the mean of 6, 6, 6 and 2');
    bn.decay = 0.5;
    bn.forward(batch(9));
    expect(bn.runningMean?.[0]).toBe(7);
  });

  it.each([-0.1, 1.1, Number.NaN, '0.5', null])('is refused with %s, and stays', (value) => {
    const bn = new BatchNorm(1, { decay: 0.5 });
    const { message } = thrown(() => {
      bn.decay = value as number;
    });
    expect(message).toMatch(/^decay must be a number from 0 to 1 or 'cumulative', got /);
    expect(bn.decay).toBe(0.5);
  });
});

describe('momentum', () => {
  it.each([
    ['pytorch', 0.25, 0.75],
    ['pytorch', null, 'cumulative'],
    ['keras', 0.75, 0.75],
    ['onnx', 0.75, 0.75],
  ] as const)('of %s: %s is decay %s', (convention, momentum, decay) => {
    const bn = new BatchNorm(1, { convention });
    bn.momentum = momentum;
    expect([bn.momentum, bn.decay]).toEqual([momentum, decay]);
  });

  it('has no meaning without a convention', () => {
    const bn = new BatchNorm(1);
    expect(bn.momentum).toBeUndefined();
    for (const value of [0.1, null, undefined])
      expect(
        thrown(() => {
          bn.momentum = value as number;
        }).message,
      ).toMatch(/^momentum must come with convention: /);
    const keras = new BatchNorm(1, { convention: 'keras', decay: 'cumulative' });
    expect(keras.momentum).toBeUndefined();
  });
});

describe('resetRunningStats', () => {
  it("begins anew, with 'cumulative' too", () => {
    const bn = new BatchNorm(1, { decay: 'cumulative' });
    for (let i = 0; i < 99; i++) bn.forward(batch(50));
    bn.forward({ data: Float32Array.of(Number.NaN, 1), shape: [2, 1] });
    expect(bn.rejectedUpdates).toBe(1);
    expect(bn.resetRunningStats()).toBe(bn);
    expect(statistics(bn)).toEqual([0, 1, 0]);
    expect(bn.rejectedUpdates).toBe(0);
    bn.forward(batch(2));
    bn.forward(batch(4));
    expect(bn.runningMean?.[0]).toBe(3);
    expect(new BatchNorm(1, { trackRunningStats: false }).resetRunningStats().batchesTracked).toBe(0);
  });
});

describe('what cannot be replaced', () => {
  it.each([
    ['weight', 'be written into, not replaced: bn.weight.set(values)'],
    ['bias', 'be written into, not replaced: bn.bias.set(values)'],
    ['runningMean', 'be written into, not replaced: bn.runningMean.set(values)'],
    ['runningVar', 'be written into, not replaced: bn.runningVar.set(values)'],
    ['training', 'be set by train() or eval()'],
    ['batchesTracked', 'be set by loadStateDict() or resetRunningStats()'],
    ['rejectedUpdates', 'be set by resetRunningStats()'],
    ['lastMoments', 'be set by forward()'],
    ['channels', 'be given to the constructor'],
    ['config', 'be given to the constructor; decay and renorm can be set by themselves'],
  ])('%s says what to do', (name, cure) => {
    const bn = new BatchNorm(1) as unknown as Record<string, unknown>;
    const before = bn[name];
    const { code, message } = thrown(() => {
      bn[name] = Float32Array.of(1);
    });
    expect(code).toBe('ERR_BATCHNORM_INVALID_TYPE');
    expect(message).toBe(`${name} must ${cure}, got Float32Array`);
    expect(bn[name]).toEqual(before);
  });
});

describe(`singleValue (${seedNote})`, () => {
  it("'running' normalizes a training batch of one value with what is running, and changes nothing", () => {
    const random = new Random();
    const options: BatchNormOptions = { singleValue: 'running', activation: 'relu' };
    const bn = new BatchNorm(4, options);
    const twin = new BatchNorm(4, options);
    const values = () => Float32Array.from({ length: 4 }, () => random.uniform(-3, 3));
    for (const layer of [bn, twin]) layer.weight?.set([1, -2, 3, 0.5]);
    const data = Float32Array.from({ length: 12 }, () => random.uniform(-3, 3));
    for (const layer of [bn, twin]) layer.forward({ data, shape: [3, 4] });
    const { lastMoments } = bn;
    const x = { data: values(), shape: [1, 4] };
    const dy = { data: values(), shape: [1, 4] };
    const y = bn.forward(x);
    expectSame(y.data, twin.eval().forward(x).data, 'y');
    const { runningMean: mean, runningVar: variance, weight, bias } = bn;
    if (!mean || !variance) throw new Error('a layer with running statistics');
    const own = forwardInference(x, { mean, variance, weight, bias, activation: 'relu' });
    expectSame(y.data, own.data, 'y');
    const [actual, expected] = [bn.backward(dy), twin.backward(dy)];
    expectSame(actual.dx?.data ?? [], expected.dx?.data ?? [], 'dx');
    expectSame(actual.dWeight ?? [], expected.dWeight ?? [], 'dWeight');
    expect([bn.batchesTracked, bn.rejectedUpdates, bn.training]).toEqual([1, 0, true]);
    expect(bn.lastMoments).toEqual(lastMoments);
  });

  it("'throw' is the default, and 'running' needs running statistics", () => {
    expect(new BatchNorm(1).config.singleValue).toBe('throw');
    const { code } = thrown(() => new BatchNorm(1).forward({ data: Float32Array.of(1), shape: [1, 1] }));
    expect(code).toBe('ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL');
    const refused = thrown(() => new BatchNorm(1, { singleValue: 'running', trackRunningStats: false }));
    expect(refused.message).toBe("singleValue must be 'throw' with trackRunningStats: false, got 'running'");
    thrown(() => new BatchNorm(1, { singleValue: 'mean' as never }));
  });
});

describe('the options of backward', () => {
  it.each([
    [{ of: 1 }, 'of must be a tensor that forward() returned, got 1'],
    [{ accumulate: 1 }, 'accumulate must be true or false, got 1'],
    [{ retain: 'yes' }, 'retain must be true or false, got "yes"'],
    [
      { accumulate: true, only: 'input' },
      "accumulate must be left out with only: 'input', which has no gradient to add, got true",
    ],
  ])('%j is refused', (options, message) => {
    const bn = new BatchNorm(1);
    const x = batch(1);
    bn.forward(x);
    expect(thrown(() => bn.backward(x, options as never)).message).toBe(message);
    expect(bn.backward(x).dx?.data).toHaveLength(2);
  });
});
