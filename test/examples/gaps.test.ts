import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { fill, inTurn, knockOut, momentsOf } from '../../examples/gaps/gaps.js';
import { SHARE, trainWithGaps } from '../../examples/gaps/recipe.js';
import { changeByPadding, columnsOf, normalize } from '../../examples/gaps/sequences.js';
import { head, readMnist } from '../../examples/mnist/data.js';
import { patience } from '../support/patience.js';

const digits = head(readMnist('train'), 2000);
const test = head(readMnist('t10k'), 1000);

describe('gaps', () => {
  const indices = Uint32Array.of(5, 9);

  function pixelsWithout(share: number, seed = 1): Float32Array {
    const pixels = new Float32Array(2 * 784).fill(1);
    knockOut(share, seed)(pixels, indices);
    return pixels;
  }

  const missing = (pixels: Float32Array) =>
    pixels.reduce((count, value) => count + Number(Number.isNaN(value)), 0);

  it('are as many as asked for, the same each time, others in each image', () => {
    const pixels = pixelsWithout(0.3);
    expect(missing(pixels) / pixels.length).toBeCloseTo(0.3, 1);
    expect(pixelsWithout(0.3)).toEqual(pixels);
    expect(pixels.subarray(784)).not.toEqual(pixels.subarray(0, 784));
    expect(pixelsWithout(0.3, 2)).not.toEqual(pixels);
    expect(missing(pixelsWithout(0))).toBe(0);
  });

  it('of a smaller share are among those of a larger one', () => {
    const more = pixelsWithout(0.6);
    pixelsWithout(0.3).forEach((value, i) => {
      if (Number.isNaN(value)) expect(more[i]).toBeNaN();
    });
  });

  it('are filled with the value of their pixel', () => {
    const pixels = Float32Array.of(Number.NaN, 2, 3, Number.NaN);
    fill(Float64Array.of(7, 8))(pixels, indices);
    expect([...pixels]).toEqual([7, 2, 3, 8]);
  });

  it('do not move the mean of what is there', () => {
    const few = head(digits, 1000);
    const whole = momentsOf(few);
    const sums = [knockOut(0.5, 1), inTurn(knockOut(0.5, 1), fill(new Float64Array(784)))].map((prepare) =>
      momentsOf(few, prepare).mean.reduce((sum, value) => sum + value),
    );
    const right = whole.mean.reduce((sum, value) => sum + value);
    expect(sums[0] / right).toBeCloseTo(1, 1);
    expect(sums[1] / right).toBeCloseTo(0.5, 1);
    expect(() => momentsOf(head(digits, 99))).toThrow('digits.count must be 100 at least, got 99');
  });
});

describe('a network that learns from images with gaps', () => {
  type Outcome = ReturnType<typeof trainWithGaps>;
  let [impute, again, mean, zero]: Outcome[] = [];

  beforeAll(() => {
    // It tells of its progress.
    const log = vi.spyOn(console, 'log').mockImplementation(() => {});
    const run = { digits, test, epochs: 2, seed: 1, shares: [SHARE, 0.75] };
    impute = trainWithGaps('', 'impute', run);
    again = trainWithGaps('', 'impute', run);
    mean = trainWithGaps('', 'mean', run);
    zero = trainWithGaps('', 'zero', run);
    log.mockRestore();
  }, patience);

  it('learns, whatever becomes of the gaps', () => {
    for (const { accuracies } of [impute, mean, zero]) expect(accuracies[0]).toBeGreaterThan(0.7);
  });

  it('bears more gaps than it was trained with where they are imputed, or filled with means', () => {
    expect(impute.accuracies[1]).toBeGreaterThan(zero.accuracies[1] + 0.05);
    expect(mean.accuracies[1]).toBeGreaterThan(zero.accuracies[1] + 0.05);
  });

  it('has the statistics of whole images where gaps are imputed, and not where they are filled', () => {
    expect(impute.mean).toBeCloseTo(1, 1);
    expect(impute.variance).toBeCloseTo(1, 1);
    expect(mean.variance).toBeLessThan(0.75);
    expect(zero.mean).toBeLessThan(0.75);
  });

  it('becomes the same to the bit in every run', () => {
    expect(again).toEqual(impute);
  });
});

describe('padded sequences', () => {
  const sequences = columnsOf(head(test, 100));
  const steps = 28;

  it('are the columns with ink', () => {
    for (const values of sequences.values) {
      const has = (from: number) => values.subarray(from, from + 28).some((value) => value > 0);
      expect([has(0), has(values.length - 28)]).toEqual([true, true]);
    }
  });

  it('are normalized by what is there with a mask, however far they are padded', () => {
    expect(Math.abs(normalize(sequences, steps, true).mean)).toBeLessThan(1e-4);
    expect(changeByPadding(sequences, steps, true)).toBeLessThan(1e-6);
    expect(Math.abs(normalize(sequences, steps, false).mean)).toBeGreaterThan(0.1);
    expect(changeByPadding(sequences, steps, false)).toBeGreaterThan(0.1);
  });
});

describe('npm run gaps', () => {
  const out = mkdtempSync(join(tmpdir(), 'gaps-'));
  afterAll(() => rmSync(out, { recursive: true }));
  const run = (...args: string[]) =>
    spawnSync(process.execPath, ['--import', 'tsx', 'examples/gaps/main.ts', ...args], { encoding: 'utf8' });

  it('writes a page and a plot, and says what is on them', { timeout: patience }, () => {
    const { stdout, stderr, status } = run('--quick', '--epochs', '1', '--out', out);
    expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
    const page = readFileSync(join(out, 'gaps.html'), 'utf8');
    for (const heading of ['Test accuracy', 'Statistics of the input', 'Padded sequences']) {
      expect(stdout).toContain(heading);
      expect(page).toContain(heading);
    }
    expect(page.match(/<svg/g)?.length).toBe(2);
    expect(page).not.toContain('NaN');
    expect(readFileSync(join(out, 'gaps.svg'), 'utf8')).toContain('Test accuracy (in %)');
  });

  it('says what it does not know', () => {
    for (const [args, message] of [
      [['--epochs', 'x'], '--epochs must be an integer from 1 to 1000, got x'],
      [['--shares'], "Unknown option '--shares'"],
    ] as const) {
      const { stderr, status } = run(...args);
      expect(status).toBe(2);
      expect(stderr).toContain(message);
    }
    expect(run('--help').stdout).toMatch(/^Usage: npm run gaps/);
  });
});
