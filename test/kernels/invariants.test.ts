import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { BatchNorm, backward, capabilities, forwardTraining, setThreads, threads } from '../../lib/index.js';
import { describeGolden } from '../support/golden-difference.js';
import { dtypes, typed } from '../support/tensors.js';

const atStart = threads();
afterEach(() => setThreads(atStart));

describe('the same bits', () => {
  it('come from this backend and instruction set as from any other', async () => {
    expect(await describeGolden(), JSON.stringify(capabilities())).toBeUndefined();
  });

  it.each([1, 2, 3, 7])('come from %i threads', async (count) => {
    setThreads(count);
    expect(await describeGolden()).toBeUndefined();
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

  // Sums of wide rows begin where lines do; some of these have several blocks of columns, the last one smaller.
  it.each([
    [[256, 4608], 4608],
    [[256, 5120], 5120],
    [[256, 384, 2, 2], 384],
    [[200, 528], 528],
  ])('come wherever in a line %j begins, and a NaN of one channel stays there', (shape, channels) => {
    const length = shape.reduce((a, b) => a * b);
    const at = (offset: number, factor: number) => {
      const data = new Float32Array(new ArrayBuffer(length * 4 + 64), offset, length);
      for (let i = 0; i < length; i++) data[i] = ((i * factor) % 4096) / 64;
      return { data, shape };
    };
    const results = [1, 2].flatMap((count) =>
      [0, 16, 48].map((offset) => {
        setThreads(count);
        const [x, dy] = [at(offset, 2654435761), at(offset, 1103515245)];
        x.data[0] = Number.NaN;
        const { y, mean, variance } = forwardTraining(x);
        const { dx, dWeight, dBias } = backward(dy, x, { mean, variance, training: true });
        return [y.data, mean, variance, dx.data, dWeight, dBias] as const;
      }),
    );
    const [expected] = results;
    for (const result of results)
      result.forEach((array, i) => {
        const bytes = ({ buffer, byteOffset, byteLength }: typeof array) =>
          Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
        expect(bytes(array).equals(bytes(expected[i])), `array ${i}`).toBe(true);
      });
    expect([...expected[1]].filter(Number.isNaN)).toHaveLength(1);
    expect([...expected[4]].filter(Number.isNaN)).toHaveLength(1);
    expect(expected[4]).toHaveLength(channels);
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

describe('the floating-point environment', () => {
  /** Arithmetic that every setting but Node's own answers otherwise: denormals, and rounding to the nearest in both directions. */
  const arithmetic = () => {
    const one = Number(process.pid > 0);
    const results = [1e-310, Number.MIN_VALUE, 2 ** -53, 3 * 2 ** -54, -(2 ** -53), -3 * 2 ** -54];
    const values = results.flatMap((value) => [value * one, one + value, value - one]);
    // As bits: what takes denormals for zero also takes them for equal to it.
    return Buffer.from(Float64Array.of(...values, Math.fround(1e-40 * one)).buffer).toString('hex');
  };
  const untouched = arithmetic();
  const expectUntouched = (after: string) => expect(arithmetic(), after).toBe(untouched);

  it('has denormals and rounds to the nearest', () => {
    const [least, sum, down] = new Float64Array(Uint8Array.from(Buffer.from(untouched, 'hex')).buffer, 24);
    expect(Buffer.from(Float64Array.of(least).buffer).readBigUInt64LE()).toBe(1n);
    expect([sum, down]).toEqual([1, -1]);
  });

  it.each([1, 3])('is as it was after every pass, with %i threads', async (count) => {
    setThreads(count);
    for (const dtype of dtypes) {
      for (const shape of [
        [4, 16, 33],
        [300, 16],
      ]) {
        const size = shape.reduce((product, dimension) => product * dimension);
        // Denormals and infinities: what a library would rather not see.
        const values = Array.from({ length: size }, (_, i) => (i % 7 ? 1e-42 * i : 1e38 * 10 ** (i % 3)));
        const x = { data: typed(dtype, values), shape } as never;
        const bn = new BatchNorm(16, { dtype, activation: 'relu' });
        bn.forward(x);
        expectUntouched('forward');
        bn.backward(x);
        expectUntouched('backward');
        await bn.forwardAsync(x);
        await bn.backwardAsync(x);
        expectUntouched('asynchronous passes');
        bn.freeze().run(x);
        await bn.freeze().runAsync(x);
        expectUntouched('run');
      }
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
