import { describe, expect, it } from 'vitest';
import {
  crossover,
  fitted,
  gathered,
  measure,
  mergeCost,
  twoPhase,
} from '../../examples/distributed/model.js';
import { BATCH, cutsOf, train } from '../../examples/distributed/train.js';
import { WorkerGroup } from '../../lib/workers/index.js';

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

  it('finds the costs that measurements are made of', () => {
    const [latency, perByte, size] = [7, 0.002, 5];
    const samples = [8, 504, 4096, 32_768].map((values) => {
      const median = latency * 3 + perByte * 8 * values * (size - 1);
      return { values, min: median, median };
    });
    const cost = fitted(samples, size);
    expect(cost.latency).toBeCloseTo(latency, 9);
    expect(cost.perByte).toBeCloseTo(perByte, 12);
    expect(measure(WorkerGroup.join(new WorkerGroup(1).handle, 0)).map(({ values }) => values)).toContain(
      504,
    );
    expect(mergeCost()).toBeGreaterThan(0);
  });

  it('says from where on two phases are quicker', () => {
    const cost = { latency: 20, perByte: 1 / 3000 };
    const from = crossover(cost, 0.02, 64) as number;
    expect(from).toBeGreaterThan(2);
    const isQuicker = (size: number) => twoPhase(cost, 0.02, 64, size) < gathered(cost, 0.02, 64, size);
    expect([isQuicker(from - 1), isQuicker(from)]).toEqual([false, true]);
    expect(crossover(cost, 0.02, 1024)).toBeLessThan(from);
    expect(crossover({ latency: 1e9, perByte: 0 }, 0, 64)).toBeUndefined();
  });
});
