import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { head, readMnist } from '../../examples/mnist/data.js';
import { run, type Stage } from '../../examples/mnist/network.js';
import { uniform } from '../../examples/mnist/random.js';
import { BATCH, batches } from '../../examples/mnist/train.js';
import { type NormName, NormNetwork } from '../../examples/norms/network.js';
import { type Outcome, trainWithNorm } from '../../examples/norms/recipe.js';
import { patience } from '../support/patience.js';

const digits = head(readMnist('train'), 1000);
const test = head(readMnist('t10k'), 500);
const norms: NormName[] = ['none', 'batch', 'group', 'layer', 'rms', 'instance'];

describe('the network with a norm', () => {
  const [{ x }] = batches(digits);

  it.each(norms)('freezes to what it computes, but for the statistics of batch norm: %s', (norm) => {
    const network = new NormNetwork(BATCH, norm, uniform(1));
    const y = network.forward(x).data.slice();
    const frozen = run(network.freeze() as Stage[], x).data;
    if (norm === 'batch') expect(frozen).not.toEqual(y);
    else expect(frozen).toEqual(y);
  });

  it.each(norms.slice(1, 5))('has the gradients of its loss: %s', (norm) => {
    const network = new NormNetwork(BATCH, norm, uniform(1));
    const dy = { data: new Float32Array(BATCH * 10), shape: [BATCH, 10] as const };
    // The loss is the sum of the first logits.
    for (let n = 0; n < BATCH; n++) dy.data[10 * n] = 1;
    const loss = () => network.forward(x).data.reduce((sum, value, i) => sum + (i % 10 === 0 ? value : 0), 0);
    loss();
    network.backward(dy);
    const weight = network.parameters().find(({ name, value }) => name === 'weight' && value.length === 128);
    if (weight === undefined) throw new Error('the first norm must have a weight of 128 values');
    const place = weight.grad.reduce((best, g, i, all) => (Math.abs(g) > Math.abs(all[best]) ? i : best), 0);
    const gradient = weight.grad[place];
    weight.value[place] += 0.01;
    const above = loss();
    weight.value[place] -= 0.02;
    expect((above - loss()) / 0.02 / gradient).toBeCloseTo(1, 1);
  });
});

describe('training by the size of the batch', () => {
  const outcomes = new Map<string, Outcome>();

  beforeAll(() => {
    // It tells of its progress.
    const log = vi.spyOn(console, 'log').mockImplementation(() => {});
    const run = { digits, test, epochs: 1, seed: 1 };
    for (const norm of ['batch', 'group', 'layer', 'rms'] as const)
      outcomes.set(norm, trainWithNorm('', norm, 2, run));
    outcomes.set('batch of 32', trainWithNorm('', 'batch', 32, run));
    outcomes.set('again', trainWithNorm('', 'layer', 2, run));
    log.mockRestore();
  }, patience);

  it('harms batch norm where batches have two images, and no norm of each sample', () => {
    const accuracy = (name: string) => outcomes.get(name)?.accuracy ?? Number.NaN;
    for (const name of ['group', 'layer', 'rms', 'batch of 32'])
      expect(accuracy(name), name).toBeGreaterThan(accuracy('batch') + 0.1);
  });

  it('becomes the same in every run', () => {
    expect(outcomes.get('again')?.accuracy).toBe(outcomes.get('layer')?.accuracy);
  });
});

describe('npm run norms', () => {
  const out = mkdtempSync(join(tmpdir(), 'norms-'));
  afterAll(() => rmSync(out, { recursive: true }));
  const run = (...args: string[]) =>
    spawnSync(process.execPath, ['--import', 'tsx', 'examples/norms/main.ts', ...args], { encoding: 'utf8' });

  it('writes a page and a plot, and says what is on them', { timeout: patience }, () => {
    const { stdout, stderr, status } = run('--quick', '--images', '256', '--out', out);
    expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
    const page = readFileSync(join(out, 'norms.html'), 'utf8');
    for (const text of ['Test accuracy', 'Time of a pass over the training images', 'RMS norm']) {
      expect(stdout).toContain(text);
      expect(page).toContain(text);
    }
    expect(page.match(/<svg/g)?.length).toBe(2);
    expect(page).not.toContain('NaN');
    expect(readFileSync(join(out, 'norms.svg'), 'utf8')).toContain(
      'Test images it gets wrong (in %, log scale)',
    );
  });

  it('says what it does not know', () => {
    for (const [args, message] of [
      [['--images', '100'], '--images must be an integer from 128 to 60000, got 100'],
      [['--norms'], "Unknown option '--norms'"],
    ] as const) {
      const { stderr, status } = run(...args);
      expect(status).toBe(2);
      expect(stderr).toContain(message);
    }
    expect(run('--help').stdout).toMatch(/^Usage: npm run norms/);
  });
});
