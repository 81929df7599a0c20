import { beforeAll, describe, expect, it, vi } from 'vitest';
import { head, readMnist } from '../../examples/mnist/data.js';
import { HIGH_LEARNING_RATE, LEARNING_RATE, trainNetwork } from '../../examples/mnist/recipe.js';
import { accuracy } from '../../examples/mnist/train.js';
import { patience } from '../support/patience.js';

describe('the digit network', () => {
  const digits = head(readMnist('train'), 6000);
  const test = head(readMnist('t10k'), 2000);

  function train(batchNorm: boolean, learningRate: number) {
    // It tells of its progress.
    const log = vi.spyOn(console, 'log').mockImplementation(() => {});
    const { network, history } = trainNetwork('', { batchNorm, learningRate, digits, epochs: 2, seed: 1 });
    log.mockRestore();
    const values = network.parameters().map(({ value }) => value);
    return { values, history, accuracy: accuracy(network.freeze(), test) };
  }

  let [normalized, again, without, slower]: ReturnType<typeof train>[] = [];

  beforeAll(() => {
    normalized = train(true, HIGH_LEARNING_RATE);
    again = train(true, HIGH_LEARNING_RATE);
    without = train(false, HIGH_LEARNING_RATE);
    slower = train(false, LEARNING_RATE);
  }, patience);

  it('learns with batch norm at a rate at which it does not learn without', () => {
    expect(normalized.accuracy).toBeGreaterThan(0.85);
    expect(without.accuracy).toBeLessThan(0.6);
  });

  it('learns without batch norm at a lower rate', () => {
    expect(slower.accuracy).toBeGreaterThan(0.85);
  });

  it('becomes the same to the bit in every run', () => {
    expect(again).toEqual(normalized);
  });

  it('is right on a share of each batch that its losses allow', () => {
    const { losses, accuracies, stepsPerEpoch } = normalized.history;
    expect([losses.length, accuracies.length]).toEqual([2 * stepsPerEpoch, 2 * stepsPerEpoch]);
    const mean = (values: Float64Array) => values.reduce((sum, value) => sum + value) / values.length;
    // Of ten digits a network that has learnt nothing gets one right.
    expect(accuracies[0]).toBeLessThan(0.3);
    expect(mean(accuracies.subarray(-stepsPerEpoch))).toBeGreaterThan(0.85);
    // The label of a wrong answer has at most half of the probability, and costs log 2 at least.
    for (const [i, share] of accuracies.entries())
      expect(losses[i]).toBeGreaterThan((1 - share) * Math.LN2 * 0.999);
  });
});
