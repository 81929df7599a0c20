import { describe, expect, it } from 'vitest';
import {
  crossover,
  fitted,
  gathered,
  measure,
  mergeCost,
  overMemory,
  overMpi,
  twoPhase,
} from '../../examples/distributed/model.js';
import { BATCH, cutsOf, gatherTrained, train } from '../../examples/distributed/train.js';
import { BatchNorm } from '../../lib/index.js';
import { Member } from '../../lib/member.js';
import { MpiTransport } from '../../lib/mpi/transport.js';
import { WorkerGroup } from '../../lib/workers/index.js';
import { capacity } from '../../lib/workers/memory.js';
import { AlikeMpi } from '../support/alike.js';

describe('npm run distributed', () => {
  it('gives each member another part of a batch', () => {
    for (const size of [1, 2, 3, 16]) {
      const cuts = cutsOf(size);
      expect([cuts.length, cuts[0], cuts[size]]).toEqual([size + 1, 0, BATCH]);
      const parts = cuts.slice(1).map((cut, i) => cut - cuts[i]);
      expect(parts).toEqual([...parts].sort((a, b) => a - b));
      if (size > 1) expect(parts[size - 1]).toBeGreaterThan(parts[0]);
    }
  });

  it('trains a group of one as no group, and notes its exchanges', () => {
    const task = { images: 2 * BATCH, seed: 3 };
    const alone = train(task);
    const one = train(task, WorkerGroup.join(new WorkerGroup(1).handle, 0));
    expect(one.losses).toEqual(alone.losses);
    expect(alone.losses[0]).toBeGreaterThan(Math.log(10) / 2);
    expect([...alone.exchanges]).toEqual([0, 0]);
    for (const milliseconds of one.exchanges) expect(milliseconds).toBeGreaterThan(0);
  });

  it('has what all members have seen', () => {
    const group = {
      rank: 0,
      size: 2,
      allGather(mine: Float64Array, all: Float64Array) {
        all.set(mine);
        all.set(
          mine.map((value) => value + 0.5),
          mine.length,
        );
      },
      allReduce: () => expect.fail('nothing is to be added up'),
    };
    const trained = (share: number) => ({
      losses: Float64Array.of(3 + share, 2 + share),
      steps: Float64Array.of(9 + share, 8 + share),
      exchanges: Float64Array.of(1 + share, 5 + share),
    });
    expect(gatherTrained(group, trained(0))).toEqual([trained(0), trained(0.5)]);
  });

  it.each([
    ['memory', overMemory],
    ['MPI', overMpi],
  ])('finds the costs that measurements are made of, over %s', (_, engine) => {
    const [latency, perByte, size] = [7, 0.002, 5];
    const samples = [8, 504, 4096, 32_768, 1_000_000].map((values) => {
      const sent = engine(values, size);
      const median = latency * 3 * sent.rounds + perByte * 8 * sent.values * (size - 1);
      return { values, min: median, median };
    });
    const cost = fitted(engine, samples, size);
    expect(cost.latency).toBeCloseTo(latency, 9);
    expect(cost.perByte).toBeCloseTo(perByte, 12);
  });

  it('finds no latency below 0', () => {
    // A frame for next to nothing.
    const samples = [
      { values: 8, min: 1, median: 1 },
      { values: 4096, min: 57, median: 57 },
    ];
    const cost = fitted(overMpi, samples, 2);
    expect(cost.latency).toBe(0);
    expect(cost.perByte).toBeGreaterThan(0);
    expect(cost.perByte).toBeLessThan(0.002);
  });

  it('measures exchanges and merging', () => {
    expect(measure(WorkerGroup.join(new WorkerGroup(1).handle, 0)).map(({ values }) => values)).toContain(
      504,
    );
    expect(mergeCost()).toBeGreaterThan(0);
  });

  /** A group over an MPI that notes what is sent. */
  function noting(size: number) {
    const mpi = new AlikeMpi(size);
    return { group: new Member(0, size, new MpiTransport(mpi, size, 1000)), sent: mpi.sent };
  }

  const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);

  it.each([2, 8, 1024])('counts what is sent over MPI between %i members', (size) => {
    for (const values of [0, 1, 512, 513, 4608, 4609, 9000]) {
      const { group, sent } = noting(size);
      group.allGather(new Float64Array(values), new Float64Array(size * values));
      expect(overMpi(values, size)).toEqual({ rounds: sent.length, values: total(sent) });
    }
    for (const channels of [1, 251, 252, 507, 508, 3000]) {
      const { group, sent } = noting(size);
      new BatchNorm(channels, { group }).forward({
        data: new Float32Array(2 * channels),
        shape: [2, channels],
      });
      const hops = Math.log2(size);
      const costs = (latency: number, perByte: number, merge: number) =>
        gathered({ engine: overMpi, latency, perByte }, merge, channels, size);
      expect(costs(1, 0, 0)).toBe(hops * sent.length);
      expect(costs(0, 1, 0)).toBe(8 * total(sent) * (size - 1));
      expect(costs(0, 0, 1)).toBe(channels * size);
    }
  });

  it('counts the rounds through the memory of workers', () => {
    expect(overMemory(capacity, 2)).toEqual({ rounds: 1, values: capacity });
    expect(overMemory(capacity + 1, 2)).toEqual({ rounds: 2, values: capacity + 1 });
  });

  it('says from where on two phases are quicker', () => {
    const cost = { engine: overMpi, latency: 20, perByte: 1 / 3000 };
    const from = crossover(cost, 0.02, 64) as number;
    expect(from).toBeGreaterThan(2);
    const isQuicker = (size: number) => twoPhase(cost, 0.02, 64, size) < gathered(cost, 0.02, 64, size);
    expect([isQuicker(from - 1), isQuicker(from)]).toEqual([false, true]);
    expect(crossover(cost, 0.02, 1024)).toBeLessThan(from);
    expect(crossover({ engine: overMpi, latency: 1e9, perByte: 0 }, 0, 64)).toBeUndefined();
  });
});
