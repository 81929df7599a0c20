// Groups of workers over shared memory: what each member gets, and what it is told where another does not come.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { WorkerGroup, type WorkerGroupHandle } from '../../lib/workers/index.js';
import { cutBatch, type Trained } from '../support/batches.js';
import { expectListed } from '../support/messages.js';
import { Random, seedNote } from '../support/random.js';
import { expectSame } from '../support/tensors.js';

interface Told {
  result?: never;
  error?: { code?: string; message: string };
}

const program = new URL('member.mjs', import.meta.url);
const idle = new URL('idle.mjs', import.meta.url);

/** What the members of a group tell; undefined of one that ends without a word. */
function run(
  size: number,
  job: string,
  data: (rank: number) => object = () => ({}),
  timeout = 20_000,
): Promise<(Told | undefined)[]> {
  const { handle } = new WorkerGroup(size, { timeout });
  return Promise.all(
    Array.from({ length: size }, (_, rank) => {
      const worker = new Worker(program, { workerData: { handle, rank, job, ...data(rank) } });
      return new Promise<Told | undefined>((resolve) => {
        worker.on('message', (told) => {
          if (told === 'now') worker.terminate();
          else resolve(told);
        });
        // What it throws it has told.
        worker.on('error', () => {});
        worker.once('exit', () => resolve(undefined));
      });
    }),
  );
}

async function results<R>(...call: Parameters<typeof run>): Promise<R[]> {
  return (await run(...call)).map((told) => {
    if (told?.result === undefined) expect.fail(told?.error?.message ?? 'a member ended');
    return told.result;
  });
}

describe('a WorkerGroup', () => {
  it.each([1, 2, 3])('of %i gathers and adds up, also what takes several rounds', async (size) => {
    type Exchanged = Record<'all' | 'gathered' | 'sums', Float64Array>;
    const members = await results<Exchanged>(size, 'exchanges');
    for (const { all, gathered, sums } of members) {
      expectSame(
        all,
        Float64Array.from(
          { length: size * 3 },
          (_, i) => [Math.floor(i / 3), Math.floor(i / 3) * 10, -0][i % 3],
        ),
        'all',
      );
      for (let rank = 0; rank < size; rank++)
        for (const i of [0, 4095, 4096, 9999]) expect(gathered[rank * 10_000 + i]).toBe(i + rank / 3);
      expectSame(sums, members[0].sums, 'the same bits for every member');
      const total = (i: number) =>
        Array.from({ length: size }, (_, rank) => i + rank / 3).reduce((sum, value) => sum + value);
      expect(sums[9999]).toBe(total(9999));
    }
  });

  it('does so off the event loop, in the order of the calls', async () => {
    const members = await results<{ all: Float64Array; sums: Float64Array; last: number }>(3, 'later');
    for (const { all, sums, last } of members)
      expect([[...all], [...sums], last]).toEqual([[1, 2, 3], [3, 3], 3]);
  });

  it('lets no exchange overtake another', async () => {
    for (const told of await results<{ code: string; message: string }>(1, 'busy')) {
      expect(told.code).toBe('ERR_BATCHNORM_GROUP_BUSY');
      expect(told.message).toBe(
        'allReduce() must wait for the asynchronous exchanges of its member, got one on its way',
      );
      expectListed(told.message);
    }
  });

  it('tells every member which two make different exchanges', async () => {
    for (const told of await run(3, 'mismatch')) {
      expect(told?.error?.code).toBe('ERR_BATCHNORM_GROUP_BROKEN');
      const message = told?.error?.message ?? '';
      expect(message).toBe(
        'all members must make the same exchange, got allGather() of 2 values from rank 0 and allReduce() of 2 values from rank 1; the group is broken; make a new WorkerGroup',
      );
      expectListed(message);
    }
  });

  it.each(['ends', 'throws', 'waits'])('tells the others of a member that %s', async (job) => {
    const told = await run(3, job, undefined, 1500);
    for (const rank of [0, 2]) {
      expect(told[rank]?.error?.code).toBe('ERR_BATCHNORM_GROUP_BROKEN');
      const message = told[rank]?.error?.message ?? '';
      expect(message).toBe(
        'rank 1 must come to the exchange within 1500 ms, got nothing of it; the group is broken; make a new WorkerGroup',
      );
      expectListed(message);
    }
  });

  it.each([false, true])('tells the others of a member that is killed, later: %s', async (later) => {
    const told = await run(3, 'killed', () => ({ options: { later } }), 1500);
    expect(told[1]).toBeUndefined();
    for (const rank of [0, 2])
      expect(told[rank]?.result).toEqual({
        step: 5,
        code: 'ERR_BATCHNORM_GROUP_BROKEN',
        message:
          'rank 1 must come to the exchange within 1500 ms, got nothing of it; the group is broken; make a new WorkerGroup',
        isUnchanged: true,
      });
  });

  it('tells of a member in evaluation, which exchanges nothing', async () => {
    const told = await run(3, 'evaluates', undefined, 1500);
    expect(told[1]?.result).toEqual([1, 3]);
    for (const rank of [0, 2])
      expect(told[rank]?.error?.message).toBe(
        'rank 1 must come to the exchange within 1500 ms, got nothing of it; the group is broken; make a new WorkerGroup',
      );
  });

  it('tells every member of layers that exchange in another order', async () => {
    for (const told of await run(2, 'crossed'))
      expect(told?.error).toEqual({
        code: 'ERR_BATCHNORM_GROUP_BROKEN',
        message:
          'all members must make the same exchange, got forward of layer 0 with 2 channels as exchange 0 from rank 0 and forward of layer 1 with 2 channels as exchange 0 from rank 1; the group is broken',
      });
  });

  it('leaves the event loop to others while members are on their way', async () => {
    const turns = await results<number>(2, 'turns');
    expect(turns[0]).toBeGreaterThan(10);
  });

  it('sleeps while it waits', () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [fileURLToPath(idle)], {
      encoding: 'utf8',
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    // Of 1.5 seconds of waiting: who does not sleep takes all of it.
    const { blocking, later } = JSON.parse(stdout) as Record<'blocking' | 'later', number>;
    expect(blocking).toBeLessThan(750);
    expect(later).toBeLessThan(750);
  });

  it('says that it is broken from then on', async () => {
    const [messages] = await run(2, 'again', undefined, 1500);
    expect(messages?.result).toHaveLength(2);
    expect(new Set(messages?.result as unknown as string[])).toEqual(
      new Set([
        'rank 1 must come to the exchange within 1500 ms, got nothing of it; the group is broken; make a new WorkerGroup',
      ]),
    );
  });

  it('refuses what is none, and ranks that it does not have', () => {
    const range = (call: () => unknown, message: string) => {
      expect(call).toThrow(message);
      expectListed(message);
    };
    range(() => new WorkerGroup(0), 'size must be an integer from 1 to 1024, got 0');
    range(
      () => new WorkerGroup(2, { timeout: 0 }),
      'timeout must be a number of milliseconds from 1 to 2147483647, got 0',
    );
    for (const size of [-1, 1.5, 1025, Number.NaN])
      range(() => new WorkerGroup(size), `size must be an integer from 1 to 1024, got ${size}`);
    range(() => new WorkerGroup('2' as never), 'size must be an integer from 1 to 1024, got "2"');
    for (const timeout of [-1, 0.5, Infinity, Number.NaN])
      range(
        () => new WorkerGroup(2, { timeout }),
        `timeout must be a number of milliseconds from 1 to 2147483647, got ${timeout}`,
      );
    expect(() => new WorkerGroup(2, { time: 1 } as never)).toThrow(
      'options must only have timeout, got "time"',
    );
    const { handle } = new WorkerGroup(2);
    for (const rank of [-1, 0.5, Number.NaN])
      range(() => WorkerGroup.join(handle, rank), `rank must be an integer from 0 to 1, got ${rank}`);
    // Of a smaller group, and of none.
    range(() => WorkerGroup.join(new WorkerGroup(1).handle, 1), 'rank must be an integer from 0 to 0, got 1');
    for (const wrong of [undefined, null, 3, new SharedArrayBuffer(0), { memory: new ArrayBuffer(4096) }])
      expect(() => WorkerGroup.join(wrong as never, 0)).toThrow(
        'handle must be the handle of a WorkerGroup, got',
      );
    range(() => WorkerGroup.join(handle, 2), 'rank must be an integer from 0 to 1, got 2');
    range(
      () => WorkerGroup.join({ memory: new SharedArrayBuffer(64) }, 0),
      'handle must be the handle of a WorkerGroup, got an object',
    );
    range(
      () => WorkerGroup.join({} as WorkerGroupHandle, 0),
      'handle must be the handle of a WorkerGroup, got an object',
    );
    WorkerGroup.join(handle, 0);
    range(() => WorkerGroup.join(handle, 0), 'rank must be of one member only, got 0, which has joined');
  });

  it('checks what is exchanged before it is', () => {
    const group = WorkerGroup.join(new WorkerGroup(1).handle, 0);
    const call = (mine: unknown, all: unknown) => () =>
      group.allGather(mine as Float64Array, all as Float64Array);
    expect(call(new Float32Array(1), new Float64Array(1))).toThrow(
      'mine must be a Float64Array, got Float32Array',
    );
    expect(call(new Float64Array(2), new Float64Array(3))).toThrow(
      'all must have 2 values (1 times 2), got 3',
    );
  });
});

describe(`layers of workers (${seedNote})`, () => {
  it.each([
    { later: false, size: 2, channels: 5 },
    { later: true, size: 3, channels: 700 },
  ])('train as one: $size members, $channels channels, later: $later', async ({ later, size, channels }) => {
    const cuts = size === 2 ? [0, 4, 9] : [0, 0, 2, 9];
    const { parts, expectAsOne } = cutBatch(new Random(), { dtype: 'float64', channels, cuts });
    const options = { channels, layer: { dtype: 'float64' }, later };
    expectAsOne(await results<Trained>(size, 'trains', (rank) => ({ ...parts[rank], options })));
  });
});
