import { describe, expect, it } from 'vitest';
import { noiseNote as benchNoiseNote } from '../../bench/report/noise.js';
import type { Measurement } from '../../bench/results.js';
import { noiseNote } from '../../examples/mnist/noise.js';
import type { Outcome } from '../../examples/mnist/report.js';
import type { Comparison } from '../../examples/mnist/timing.js';

describe('the word of the main job about noise', () => {
  const outcome = (cpuSeconds: number): Outcome => ({
    name: 'without',
    accuracy: 1,
    finalLoss: 0,
    seconds: 40,
    cpuSeconds,
  });
  const comparison = (median: number): Comparison => ({
    work: 'inference',
    library: { min: 10, median: 11 },
    plainJs: { min: 100, median },
    difference: 0,
  });

  it('is silent where the CPU was free', () => {
    expect(noiseNote([outcome(39)], [comparison(140)])).toBeUndefined();
  });

  it('names the trainings and the times that were disturbed', () => {
    expect(noiseNote([outcome(40), outcome(22)], [comparison(110)])).toMatch(
      /^Noisy.*: the training without had a CPU for 22\.0 of its 40\.0 s\. /,
    );
    expect(noiseNote([outcome(40)], [comparison(170)])).toMatch(
      /^Noisy.*: times of inference have medians up to 70 % above their minima\. /,
    );
  });
});

describe('the word of the benchmark about noise', () => {
  const measurement = (rounds: number[]): Measurement => ({
    case: '(1, 256)',
    pass: 'inference',
    contender: 'plain JS',
    min: Math.min(...rounds),
    median: 1,
    rounds,
  });

  it('is silent where few rounds lie above the others', () => {
    const quiet = Array.from({ length: 19 }, () => measurement([10, 12, 90]));
    expect(benchNoiseNote([...quiet, measurement([10, 13, 14])])).toBeUndefined();
    expect(benchNoiseNote([])).toBeUndefined();
  });

  it('counts those that do, and names the worst', () => {
    const noisy = [measurement([10, 13, 14]), measurement([10, 10, 10]), measurement([20, 70, 90])];
    expect(benchNoiseNote(noisy)).toMatch(
      /^Noisy: in 2 of 3 measurements .* \(plain JS, \(1, 256\), inference: 3\.5 times as long\)\./,
    );
  });
});
