// Exchanges over an MPI without processes: what happens where memory runs out in the middle of one.
import { describe, expect, it, vi } from 'vitest';
import { Member } from '../../lib/member.js';
import { MpiTransport } from '../../lib/mpi/transport.js';
import { AlikeMpi } from '../support/alike.js';
import { expectListed } from '../support/messages.js';

/** How many arrays there is memory for. */
const memory = vi.hoisted(() => ({ arrays: Infinity }));

vi.mock('../../lib/typed-array.js', async (importOriginal) => {
  const original = await importOriginal<typeof import('../../lib/typed-array.js')>();
  return {
    ...original,
    zeros(...args: Parameters<typeof original.zeros>) {
      if (memory.arrays-- <= 0) throw new RangeError('Array buffer allocation failed');
      return original.zeros(...args);
    },
  };
});

/** The code of what a call throws or rejects with; what else is thrown is an error of the test. */
async function codeOf(call: () => unknown): Promise<string | undefined> {
  try {
    await call();
    return undefined;
  } catch (error) {
    const { code, message } = error as Error & { code: string };
    if (code === 'ERR_BATCHNORM_GROUP_BROKEN') expectListed(message);
    return code;
  }
}

describe('an exchange over MPI for which memory runs out', () => {
  const size = 4;
  const values = new Float64Array(3_000_000);
  const short = new Float64Array(2000);
  const all = new Float64Array(size * short.length);
  type Exchange = (group: Member) => unknown;
  it.each<[string, Exchange]>([
    ['allReduce', (group) => group.allReduce(values)],
    ['allReduceAsync', (group) => group.allReduceAsync(values)],
    ['allGather', (group) => group.allGather(short, all)],
    ['allGatherAsync', (group) => group.allGatherAsync(short, all)],
  ])('breaks the group once it has begun: %s', async (_, exchange) => {
    const codes = new Set<string>();
    for (let arrays = 0; ; arrays++) {
      const mpi = new AlikeMpi(size);
      const group = new Member(0, size, new MpiTransport(mpi, size, 1000));
      memory.arrays = arrays;
      const code = await codeOf(() => exchange(group));
      memory.arrays = Infinity;
      if (code === undefined) break;
      codes.add(code);
      const begun = mpi.sent.length;
      // Whoever has heard of nothing is told of nothing, and the exchange can be made again.
      expect(code).toBe(begun === 0 ? 'ERR_BATCHNORM_OUT_OF_MEMORY' : 'ERR_BATCHNORM_GROUP_BROKEN');
      expect(await codeOf(() => exchange(group))).toBe(begun === 0 ? undefined : code);
      if (begun > 0) expect(mpi.sent.length).toBe(begun);
    }
    expect([...codes]).toEqual(['ERR_BATCHNORM_OUT_OF_MEMORY', 'ERR_BATCHNORM_GROUP_BROKEN']);
  });
});

describe('an array that has lost its memory', () => {
  const detached = () => {
    const array = new Float64Array(4);
    structuredClone(array, { transfer: [array.buffer] });
    return array;
  };
  const outOfBounds = () => {
    const Resizable = ArrayBuffer as unknown as new (
      bytes: number,
      options: { maxByteLength: number },
    ) => ArrayBuffer & { resize(bytes: number): void };
    const buffer = new Resizable(32, { maxByteLength: 32 });
    const array = new Float64Array(buffer, 8);
    buffer.resize(0);
    return array;
  };

  it.each([
    ['detached', detached],
    ['out of bounds', outOfBounds],
  ])('is no array of no values: %s', async (_, lose) => {
    const mpi = new AlikeMpi(2);
    const group = new Member(0, 2, new MpiTransport(mpi, 2, 1000));
    const lost = lose();
    const none = new Float64Array(0);
    const calls: [string, () => unknown][] = [
      ['values', () => group.allReduce(lost)],
      ['values', () => group.allReduceAsync(lost)],
      ['mine', () => group.allGather(lost, none)],
      ['all', () => group.allGather(none, lost)],
      ['mine', () => group.allGatherAsync(lost, none)],
      ['all', () => group.allGatherAsync(none, lost)],
    ];
    for (const [name, call] of calls) {
      const message = `${name} must keep its length, got a buffer that was detached or resized`;
      await expect(async () => call()).rejects.toMatchObject({
        code: 'ERR_BATCHNORM_BUFFER_CHANGED',
        message,
      });
      expectListed(message);
    }
    expect(mpi.sent).toEqual([]);
    group.allGather(none, none);
    expect(mpi.sent).toHaveLength(1);
  });
});
