// What the benchmark compares in its rows of storage is the same, and is compared with the right thing.
import * as library from 'batchnorm';
import { describe, expect, it } from 'vitest';
import { bytesOf, selectCases, sizeOf } from '../../bench/cases.js';
import type { Measurement } from '../../bench/results.js';
import { Lookup } from '../../bench/results.js';
import { bitsFor, normalizePixels, pictures, pixelsFor, storageCalls } from '../../bench/storage.js';
import { judge } from '../../bench/targets.js';
import { expectClose } from '../support/tensors.js';

const selection = { quick: false, sweep: false, only: 'storage', dtype: 'float32' as const };
const cases = selectCases(selection);

describe('rows of storage of the benchmark', () => {
  it('come with those of the same shape in float32, and with none in float64', () => {
    for (const { twin } of cases)
      if (twin !== undefined) expect(cases.map(({ name }) => name)).toContain(twin);
    expect(cases.filter(({ twin }) => twin !== undefined)).toHaveLength(12);
    const doubles = selectCases({ ...selection, dtype: 'float64' });
    expect(doubles.filter(({ storage }) => storage !== undefined)).toEqual([]);
    const [only] = selectCases({ ...selection, only: '(1, 256, 56, 56) bfloat16' }).slice(-1);
    expect([only.storage, bytesOf(only)]).toEqual(['bfloat16', 2 * sizeOf(only)]);
  });

  it('the loop over pixels gives what the library gives', () => {
    const shape = [2, 3, 5, 3];
    const data = pixelsFor(90);
    const planes = new Float32Array(90);
    normalizePixels(data, 2, 15, 3, planes);
    const y = library.FrozenBatchNorm.fromMeanStd({ ...pictures, axis: -1 }).run(
      { data, shape },
      { outAxis: 1 },
    );
    expectClose(y.data, planes, 1e-6, 'planes');
    expect(new Set(data).size).toBeGreaterThan(60);
  });

  it.each(['bfloat16', 'float16'] as const)('bits of %s are numbers of both signs', (dtype) => {
    const values = library.decode(bitsFor(dtype, 1000, 1), dtype);
    expect(values.every((value) => Math.abs(value) >= 2 ** -6 && Math.abs(value) < 1)).toBe(true);
    expect(values.some((value) => value < 0) && values.some((value) => value > 0)).toBe(true);
  });

  it('each has the calls of its passes', () => {
    for (const subject of cases.filter(({ storage }) => storage !== undefined)) {
      const small = { ...subject, shape: [2, 4, 4, 3], outer: subject.inner > 1 ? 2 : 32, channels: 3 };
      if (small.inner > 1) small.inner = 16;
      const calls = storageCalls(small, library) ?? {};
      expect(Object.keys(calls), subject.name).toEqual(
        subject.twin === undefined ? ['inference'] : ['inference', 'training', 'backward'],
      );
      for (const call of Object.values(calls)) call();
    }
  });

  it('are judged by the time of float32, of the worst shape', () => {
    const [wide] = cases.filter(({ name }) => name === '(32, 256, 56, 56) bfloat16');
    const twin = cases.find(({ name }) => name === wide.twin) as typeof wide;
    const other = cases.find(({ name }) => name === '(32, 256, 56, 56) float16') as typeof wide;
    const time = (name: string, milliseconds: number): Measurement => ({
      case: name,
      pass: 'inference',
      contender: 'native 1T',
      min: milliseconds,
      median: milliseconds,
      rounds: [milliseconds],
    });
    const verdict = (float16: number) =>
      judge(
        new Lookup({
          date: '',
          machine: '',
          command: '',
          threads: 1,
          contenders: [{ name: 'native 1T', threads: 1 }],
          cases: [twin, wide, other],
          measurements: [time(twin.name, 10), time(wide.name, 5), time(other.name, float16)],
          accuracy: [],
          notes: [],
        }),
      ).find(({ name }) => name === 'inference of 16 bits, from memory');
    expect(verdict(5.4)).toMatchObject({ reached: true, worst: '0.54', worstCase: other.name });
    expect(verdict(5.7)).toMatchObject({ reached: false, worst: '0.57', worstCase: other.name });
    expect(verdict(4)).toMatchObject({ reached: true, worst: '0.50', worstCase: wide.name });
  });
});
