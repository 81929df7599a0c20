// A layer whose group sees parts of one batch, in one process: members take turns in the event loop.
import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  type BatchNormOptions,
  type DType,
  type FloatArray,
  type ProcessGroup,
} from '../../lib/index.js';
import { expectListed } from '../support/messages.js';
import { Random, seedNote } from '../support/random.js';
import {
  dtypes,
  expectClose,
  expectSame,
  extentsOf,
  largest,
  randomActivations,
  randomNormals,
  randomParameters,
} from '../support/tensors.js';

interface Tensor {
  data: FloatArray;
  shape: number[];
}

/** Members that meet in one process. */
function groupOf(size: number): ProcessGroup[] {
  let waiting: { mine: Float64Array; all: Float64Array; rank: number; resolve: () => void }[] = [];
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    allGather(mine: Float64Array, all: Float64Array) {
      if (size > 1) throw new Error('one thread alone cannot wait for others');
      all.set(mine);
    },
    allReduce() {},
    allGatherAsync: (mine: Float64Array, all: Float64Array) =>
      new Promise<void>((resolve) => {
        waiting.push({ mine: mine.slice(), all, rank, resolve });
        if (waiting.length < size) return;
        const met = waiting;
        waiting = [];
        for (const to of met) for (const from of met) to.all.set(from.mine, from.rank * from.mine.length);
        for (const { resolve: done } of met) done();
      }),
  }));
}

function samplesOf({ data, shape }: Tensor, from: number, to: number): Tensor {
  const size = data.length / shape[0];
  return { data: data.slice(from * size, to * size), shape: [to - from, ...shape.slice(1)] };
}

/** Samples [from, to) for each member; some have none. */
function boundsOf(random: Random, samples: number, size: number): [number, number][] {
  const cuts = [0, samples, ...Array.from({ length: size - 1 }, () => random.integer(0, samples))].sort(
    (a, b) => a - b,
  );
  return cuts.slice(1).map((to, i) => [cuts[i], to]);
}

const variants: BatchNormOptions<DType>[] = [
  {},
  { activation: 'relu' },
  { weight: false, decay: 'cumulative' },
  { bias: false, unbiasedRunningVar: false },
  { trackRunningStats: false },
];

describe(`a group (${seedNote})`, () => {
  for (const dtype of dtypes)
    for (const size of [1, 2, 3, 7])
      it(`of ${size} has the gradient of one process, ${dtype}`, async () => {
        const random = new Random();
        for (const options of variants)
          for (const channels of [3, 600])
            for (const hasResidual of [false, true]) {
              const shape = [12, channels, 4];
              const draw = () => ({ data: randomActivations(random, dtype, extentsOf(shape, 1)), shape });
              const [x, residual] = [draw(), draw()];
              const dy = { data: randomNormals(random, dtype, x.data.length), shape };
              const bounds = boundsOf(random, 12, size);
              const one = new BatchNorm<DType>(channels, { dtype, ...options });
              const groups = groupOf(size);
              const members = groups.map(
                (group) => new BatchNorm<DType>(channels, { dtype, ...options, group }),
              );
              const { weight, bias } = randomParameters(random, dtype, channels);
              for (const bn of [one, ...members]) {
                bn.weight?.set(weight);
                bn.bias?.set(bias);
              }
              const given = hasResidual ? { residual } : {};
              const y = one.forward(x, given);
              const expected = one.backward(dy);
              const each = <R>(call: (bn: BatchNorm<DType>, of: (tensor: Tensor) => Tensor) => Promise<R>) =>
                Promise.all(members.map((bn, i) => call(bn, (tensor) => samplesOf(tensor, ...bounds[i]))));
              const ys = await each((bn, of) =>
                bn.forwardAsync(of(x), hasResidual ? { residual: of(residual) } : {}),
              );
              const gradients = await each((bn, of) => bn.backwardAsync(of(dy)));

              const joined = (tensors: readonly ({ data: FloatArray } | undefined)[]) =>
                tensors.flatMap((tensor) => [...(tensor?.data ?? [])]);
              const share = dtype === 'float64' ? 1e-12 : 1e-6;
              expectClose(joined(ys), y.data, share * largest(y.data), 'y');
              const dx = expected.dx?.data ?? [];
              expectClose(joined(gradients.map((each) => each.dx)), dx, share * largest(dx), 'dx');
              expectSame(
                joined(gradients.map((each) => each.dResidual)),
                expected.dResidual?.data ?? [],
                'dResidual',
              );
              for (const name of ['dWeight', 'dBias'] as const) {
                const wanted = expected[name] ?? [];
                const sums = Array.from(wanted, (_, c) =>
                  gradients.reduce((sum, each) => sum + (each[name]?.[c] ?? 0), 0),
                );
                expectClose(sums, wanted, share * 48 * largest(dy.data), name);
              }
              for (const bn of members) {
                expect(bn.stateDict(), 'every member has the same bits').toEqual(members[0].stateDict());
                expect(bn.lastMoments?.toJSON()).toEqual(members[0].lastMoments?.toJSON());
              }
              expectClose(members[0].runningMean ?? [], one.runningMean ?? [], share, 'runningMean');
              expectClose(members[0].runningVar ?? [], one.runningVar ?? [], share * 4, 'runningVar');
              expect(members[0].batchesTracked).toBe(one.batchesTracked);
              if (size > 1) continue;
              expectSame(ys[0].data, y.data, 'y of one member');
              expectSame(gradients[0].dx?.data ?? [], dx, 'dx of one member');
              expectSame(gradients[0].dWeight ?? [], expected.dWeight ?? [], 'dWeight of one member');
              expect(members[0].stateDict()).toEqual(one.stateDict());
              const [sync] = [new BatchNorm<DType>(channels, { dtype, ...options, group: groupOf(1)[0] })];
              sync.weight?.set(weight);
              sync.bias?.set(bias);
              expectSame(sync.forward(x, given).data, y.data, 'y at once');
              const now = sync.backward(dy);
              expectSame(now.dx?.data ?? [], dx, 'dx at once');
              expectSame(now.dBias ?? [], expected.dBias ?? [], 'dBias at once');
            }
      });

  it('judges over all members whether there is one value per channel', async () => {
    const groups = groupOf(2);
    const members = groups.map((group) => new BatchNorm(2, { group }));
    const row = (...values: number[]) => ({ data: Float32Array.from(values), shape: [values.length / 2, 2] });
    const [y] = await Promise.all([members[0].forwardAsync(row(1, 2)), members[1].forwardAsync(row(3, 6))]);
    expectClose(y.data, [-1, -1], 1e-4, 'y');
    const message =
      'training needs more than one value per channel, got shape [1, 2]; call eval() or use a larger batch';
    const before = structuredClone(members[0].stateDict());
    const results = await Promise.allSettled([
      members[0].forwardAsync(row(1, 2)),
      members[1].forwardAsync(row()),
    ]);
    expect(results.map((result) => (result as PromiseRejectedResult).reason?.code)).toEqual(
      new Array(2).fill('ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL'),
    );
    expect((results[0] as PromiseRejectedResult).reason.message).toBe(message);
    expect(members[0].stateDict()).toEqual(before);
    // Nobody has anything.
    const nothing = await Promise.all(members.map((bn) => bn.forwardAsync(row())));
    expect(nothing.map(({ shape }) => shape)).toEqual([
      [0, 2],
      [0, 2],
    ]);
    expect(members[0].stateDict()).toEqual(before);
    // In evaluation each is alone.
    expect(members[0].eval().forward(row(1, 2)).shape).toEqual([1, 2]);
  });

  it('finds out that its members are not at the same place', async () => {
    const groups = groupOf(2);
    const [a, b] = groups.map((group) => [new BatchNorm(2, { group }), new BatchNorm(3, { group })] as const);
    const pair = { data: new Float32Array(4).fill(1), shape: [2, 2] };
    const triple = { data: new Float32Array(6).fill(1), shape: [2, 3] };
    const results = await Promise.allSettled([a[0].forwardAsync(pair), b[1].forwardAsync(triple)]);
    for (const result of results) {
      const { code, message } = (result as PromiseRejectedResult).reason;
      expect(code).toBe('ERR_BATCHNORM_GROUP_BROKEN');
      expect(message).toBe(
        'all members must make the same exchange, got forward of layer 0 with 2 channels as exchange 0 from rank 0 and forward of layer 1 with 3 channels as exchange 0 from rank 1; the group is broken',
      );
      expectListed(message);
    }
    // From then on it says so.
    await expect(a[1].forwardAsync(triple)).rejects.toThrow('the group is broken');
    expect(a[0].batchesTracked).toBe(0);
  });

  it('is refused where it is none', () => {
    const [group] = groupOf(1);
    for (const [wrong, message] of [
      [3, 'group must be a ProcessGroup, got 3'],
      [{ ...group, size: 0 }, 'group.size must be an integer from 1 on, got 0'],
      [{ ...group, rank: 1 }, 'group.rank must be an integer from 0 to 0, got 1'],
      [{ ...group, allGather: undefined }, 'group.allGather must be a function, got undefined'],
    ] as const) {
      expect(() => new BatchNorm(1, { group: wrong as never })).toThrow(message);
      expectListed(message);
    }
    const later = new BatchNorm(1, { group: { ...group, allGather: async () => {} } as never });
    const x = { data: Float32Array.of(1, 2), shape: [2, 1] };
    expect(() => later.forward(x)).toThrow('group.allGather must return when all have come, got');
    expect(later.batchesTracked).toBe(0);
  });

  it('is not in JSON, and may be given anew', () => {
    const [group] = groupOf(1);
    const bn = new BatchNorm(2, { group });
    const json = JSON.parse(JSON.stringify(bn));
    expect(json.config.group).toBeUndefined();
    expect(BatchNorm.fromJSON(json).config.group).toBeUndefined();
    expect(BatchNorm.fromJSON(json, { group }).config.group).toBe(group);
  });
});
