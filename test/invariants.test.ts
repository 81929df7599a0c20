import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { capabilities, forwardTraining, setThreads, threads } from '../lib/index.js';
import { golden, goldenDigest } from './golden.js';

const atStart = threads();
afterEach(() => setThreads(atStart));

describe('the same bits', () => {
  it('come from this backend and instruction set as from any other', () => {
    expect(goldenDigest(), JSON.stringify(capabilities())).toBe(golden);
  });

  it.each([1, 2, 3, 7])('come from %i threads', (count) => {
    setThreads(count);
    expect(goldenDigest()).toBe(golden);
  });

  it.each([
    [16, 64, 3136],
    [20000, 48, 1],
    [4, 2, 300000],
  ])('come from any number of threads for a tensor that is cut for them: %i x %i x %i', (...shape) => {
    const length = shape[0] * shape[1] * shape[2];
    const data = Float32Array.from({ length }, (_, i) => ((i * 2654435761) % 4096) / 64);
    const results = [1, 2, 3, 7].map((count) => {
      setThreads(count);
      const { y, mean, variance } = forwardTraining({ data, shape });
      return [y.data, mean, variance].map(({ buffer }) => Buffer.from(buffer));
    });
    for (const result of results.slice(1))
      result.forEach((bytes, i) => {
        expect(bytes.equals(results[0][i])).toBe(true);
      });
  });

  it('come with a place for the result and without, large enough for pages of its own', () => {
    const x = { data: new Float32Array(9e6).map((_, i) => i % 97), shape: [4, 9, 250000] };
    const out = new Float32Array(9e6);
    expect(forwardTraining(x, { out }).y.data).toBe(out);
    expect(Buffer.from(forwardTraining(x).y.data.buffer).equals(Buffer.from(out.buffer))).toBe(true);
  });

  it('come to several workers that call at once', async () => {
    const shape = [8, 64, 784];
    const length = 8 * 64 * 784;
    const data = Float32Array.from({ length }, (_, i) => ((i * 2654435761) % 4096) / 64);
    const expected = Buffer.from(forwardTraining({ data, shape }).y.data.buffer);
    // Workers are plain Node: they load what was built.
    const program = `
      const { parentPort, workerData } = require('node:worker_threads');
      import('batchnorm').then(({ forwardTraining, setThreads }) => {
        setThreads(3);
        const results = Array.from({ length: 20 }, () => forwardTraining(workerData).y.data);
        parentPort.postMessage(results);
      });`;
    const runs = Array.from(
      { length: 4 },
      () =>
        new Promise<Float32Array[]>((resolve, reject) => {
          const worker = new Worker(program, { eval: true, workerData: { data, shape } });
          worker.once('message', resolve);
          worker.once('error', reject);
        }),
    );
    for (const results of await Promise.all(runs)) {
      expect(results).toHaveLength(20);
      for (const { buffer } of results) expect(Buffer.from(buffer).equals(expected)).toBe(true);
    }
  });
});

describe('threads', () => {
  it('are as many as were set, on the native backend', () => {
    setThreads(5);
    expect(threads()).toBe(capabilities().backend === 'native' ? 5 : 1);
    expect(capabilities().threads).toBe(threads());
  });

  it('are those of the process, also after a worker has loaded the library', async () => {
    setThreads(5);
    const expected = threads();
    const worker = new Worker("import('batchnorm')", { eval: true });
    await new Promise((resolve) => worker.once('exit', resolve));
    expect(threads()).toBe(expected);
  });
});
