// A layer whose group sees parts of one batch, in one process: members take turns in the event loop.
import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  type BatchNormOptions,
  type FloatArray,
  GradientSums,
  Moments,
  type ProcessGroup,
} from '../../lib/index.js';
import { expectListed } from '../support/messages.js';
import { Random, seedNote } from '../support/random.js';
import {
  dtypes,
  expectClose,
  expectSame,
  extentsOf,
  type FloatDType,
  largest,
  randomActivations,
  randomNormals,
  randomParameters,
} from '../support/tensors.js';

interface Tensor {
  data: FloatArray;
  shape: number[];
}

/** Members that meet in one process. `exchanges` counts what rank 0 takes part in. */
function groupOf(size: number, counted = { exchanges: 0 }): ProcessGroup[] {
  let waiting: { mine: Float64Array; all: Float64Array; rank: number; resolve: () => void }[] = [];
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    allGather(mine: Float64Array, all: Float64Array) {
      counted.exchanges++;
      if (size > 1) throw new Error('one thread alone cannot wait for others');
      all.set(mine);
    },
    allReduce() {},
    allGatherAsync: (mine: Float64Array, all: Float64Array) =>
      new Promise<void>((resolve) => {
        if (rank === 0) counted.exchanges++;
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

const variants: BatchNormOptions<FloatDType>[] = [
  {},
  { activation: 'relu' },
  { weight: false, decay: 'cumulative' },
  { bias: false, unbiasedRunningVar: false },
  { trackRunningStats: false },
];

describe(`a group (${seedNote})`, () => {
  it.each(dtypes.flatMap((dtype) => [1, 2, 3, 7].map((size) => ({ dtype, size }))))(
    'of $size has the gradient of one process, $dtype',
    async ({ dtype, size }) => {
      const random = new Random();
      for (const options of variants)
        for (const channels of [3, 600])
          for (const hasResidual of [false, true]) {
            const shape = [12, channels, 4];
            const draw = () => ({ data: randomActivations(random, dtype, extentsOf(shape, 1)), shape });
            const [x, residual] = [draw(), draw()];
            const dy = { data: randomNormals(random, dtype, x.data.length), shape };
            const bounds = boundsOf(random, 12, size);
            const one = new BatchNorm<FloatDType>(channels, { dtype, ...options });
            const groups = groupOf(size);
            const members = groups.map(
              (group) => new BatchNorm<FloatDType>(channels, { dtype, ...options, group }),
            );
            const { weight, bias } = randomParameters(random, dtype, channels);
            for (const bn of [one, ...members]) {
              bn.weight?.set(weight);
              bn.bias?.set(bias);
            }
            const given = hasResidual ? { residual } : {};
            const y = one.forward(x, given);
            const expected = one.backward(dy);
            const each = <R>(
              call: (bn: BatchNorm<FloatDType>, of: (tensor: Tensor) => Tensor) => Promise<R>,
            ) => Promise.all(members.map((bn, i) => call(bn, (tensor) => samplesOf(tensor, ...bounds[i]))));
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
            const [sync] = [new BatchNorm<FloatDType>(channels, { dtype, ...options, group: groupOf(1)[0] })];
            sync.weight?.set(weight);
            sync.bias?.set(bias);
            expectSame(sync.forward(x, given).data, y.data, 'y at once');
            const now = sync.backward(dy);
            expectSame(now.dx?.data ?? [], dx, 'dx at once');
            expectSame(now.dBias ?? [], expected.dBias ?? [], 'dBias at once');
          }
    },
  );

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

  it("normalizes with the running statistics where all members together have one value, with singleValue: 'running'", async () => {
    const groups = groupOf(2);
    const members = groups.map((group) => new BatchNorm(2, { group, singleValue: 'running', eps: 0 }));
    const row = (...values: number[]) => ({ data: Float32Array.from(values), shape: [values.length / 2, 2] });
    const before = structuredClone(members[0].stateDict());
    const [y, none] = await Promise.all([members[0].forwardAsync(row(5, 7)), members[1].forwardAsync(row())]);
    expect([...y.data]).toEqual([5, 7]);
    expect(none.shape).toEqual([0, 2]);
    // As of evaluation: nothing is exchanged.
    const { dx } = members[0].backward(row(1, 2));
    expect([...(dx?.data ?? [])]).toEqual([1, 2]);
    expect(members[0].stateDict()).toEqual(before);
    expect(members[0].lastMoments).toBeUndefined();
    // Which must be fit for it.
    for (const bn of members) bn.runningVar?.fill(0);
    const refused = await Promise.allSettled([
      members[0].forwardAsync(row(5, 7)),
      members[1].forwardAsync(row()),
    ]);
    for (const one of refused) {
      const { code, message } = (one as PromiseRejectedResult).reason;
      expect(code).toBe('ERR_BATCHNORM_INVALID_VALUE');
      expectListed(message);
    }
  });

  it('with eps 0 refuses a channel that does not vary in any part, and takes one that varies between them', async () => {
    const groups = groupOf(2);
    const members = groups.map((group) => new BatchNorm(1, { group, eps: 0, dtype: 'float64' }));
    const both = (a: number[], b: number[]) =>
      Promise.allSettled(
        [a, b].map((values, i) =>
          members[i].forwardAsync({ data: Float64Array.from(values), shape: [values.length, 1] }),
        ),
      );
    const [a, b] = await both([1, 1], [3, 3]);
    expect([a, b].map((one) => (one.status === 'fulfilled' ? [...one.value.data] : one.reason))).toEqual([
      [-1, -1],
      [1, 1],
    ]);
    const before = structuredClone(members.map((bn) => bn.stateDict()));
    for (const refused of await both([2], [2, 2]))
      expect((refused as PromiseRejectedResult).reason.code).toBe('ERR_BATCHNORM_INVALID_VALUE');
    expect(members.map((bn) => bn.stateDict())).toEqual(before);
  });

  it('exchanges once on the way forward, once on the way back, and in evaluation not at all', async () => {
    const counted = { exchanges: 0 };
    const members = groupOf(2, counted).map((group) => new BatchNorm(3, { group }));
    const x = { data: Float32Array.of(1, 2, 3, 4, 5, 7), shape: [2, 3] };
    const count = async (call: (bn: BatchNorm) => Promise<unknown>) => {
      counted.exchanges = 0;
      await Promise.all(members.map(call));
      return counted.exchanges;
    };
    expect(await count((bn) => bn.forwardAsync(x))).toBe(1);
    expect(await count((bn) => bn.backwardAsync(x, { only: 'parameters' }))).toBe(0);
    expect(await count((bn) => bn.backwardAsync(x, { only: 'input', retain: true }))).toBe(1);
    expect(await count((bn) => bn.backwardAsync(x, { only: 'input' }))).toBe(1);
    for (const bn of members) bn.eval();
    expect(await count((bn) => bn.forwardAsync(x))).toBe(0);
    expect(await count((bn) => bn.backwardAsync(x))).toBe(0);
    expect(counted.exchanges).toBe(0);
    members[0].forward(x, { residual: x });
    members[0].backward(x);
    expect(counted.exchanges).toBe(0);
    // What does not fit into a frame follows in a second exchange.
    for (const [channels, forwards, backwards] of [
      [251, 1, 1],
      [252, 2, 1],
      [253, 2, 2],
    ]) {
      const layers = groupOf(2, counted).map((group) => new BatchNorm(channels, { group }));
      const wide = { data: new Float32Array(2 * channels).map((_, i) => i), shape: [2, channels] };
      counted.exchanges = 0;
      await Promise.all(layers.map((bn) => bn.forwardAsync(wide)));
      expect(counted.exchanges, `forward of ${channels}`).toBe(forwards);
      counted.exchanges = 0;
      await Promise.all(layers.map((bn) => bn.backwardAsync(wide)));
      expect(counted.exchanges, `backward of ${channels}`).toBe(backwards);
    }
  });

  it("adds up this member's own gradients with accumulate, which are those of the whole over all members", async () => {
    const members = groupOf(2).map((group) => new BatchNorm(1, { group, dtype: 'float64' }));
    const one = new BatchNorm(1, { dtype: 'float64' });
    const column = (...values: number[]) => ({ data: Float64Array.from(values), shape: [values.length, 1] });
    const parts = [column(1, 2, 3), column(6)];
    const dys = [column(1, 0, 2), column(5)];
    for (let step = 0; step < 2; step++) {
      await Promise.all(members.map((bn, i) => bn.forwardAsync(parts[i])));
      await Promise.all(members.map((bn, i) => bn.backwardAsync(dys[i], { accumulate: true })));
      one.forward(column(1, 2, 3, 6));
      one.backward(column(1, 0, 2, 5), { accumulate: true });
    }
    const gradient = (bn: BatchNorm<'float64'>, i: number) => bn.parameters()[i].grad[0];
    expect(members.map((bn) => gradient(bn, 1))).toEqual([6, 10]);
    for (const i of [0, 1])
      expectClose([gradient(members[0], i) + gradient(members[1], i)], [gradient(one, i)], 1e-12, `${i}`);
  });

  it('does not hold up the event loop while others are on their way', async () => {
    const [group, other] = groupOf(2);
    const [bn, late] = [new BatchNorm(1, { group }), new BatchNorm(1, { group: other })];
    const x = { data: Float32Array.of(1, 2), shape: [2, 1] };
    for (const call of [
      (layer: BatchNorm) => layer.forwardAsync(x),
      (layer: BatchNorm) => layer.backwardAsync(x),
    ]) {
      const done = call(bn);
      let isDone = false;
      done.then(() => (isDone = true));
      for (let turns = 0; turns < 50; turns++) await new Promise(setImmediate);
      expect(isDone).toBe(false);
      await Promise.all([done, call(late)]);
    }
  });

  it.each([
    {
      what: 'in another order',
      told: [
        'forward of layer 0 with 2 channels as exchange 0',
        'forward of layer 1 with 2 channels as exchange 0',
      ],
      calls: [(layers: BatchNorm[]) => layers[0], (layers: BatchNorm[]) => layers[1]],
    },
    {
      what: 'with other channels',
      told: [
        'forward of layer 0 with 2 channels as exchange 0',
        'forward of layer 2 with 3 channels as exchange 0',
      ],
      calls: [(layers: BatchNorm[]) => layers[0], (layers: BatchNorm[]) => layers[2]],
    },
  ])('finds out that its members exchange $what', async ({ told, calls }) => {
    const members = groupOf(2).map((group) =>
      [2, 2, 3].map((channels) => new BatchNorm(channels, { group })),
    );
    const tensor = (bn: BatchNorm) => ({
      data: new Float32Array(2 * bn.channels).map((_, i) => i),
      shape: [2, bn.channels],
    });
    const before = structuredClone(members.map((layers) => layers.map((bn) => bn.stateDict())));
    const called = members.map((layers, i) => calls[i](layers));
    const results = await Promise.allSettled(called.map((bn) => bn.forwardAsync(tensor(bn))));
    for (const result of results) {
      const { code, message } = (result as PromiseRejectedResult).reason;
      expect(code).toBe('ERR_BATCHNORM_GROUP_BROKEN');
      expect(message).toBe(
        `all members must make the same exchange, got ${told[0]} from rank 0 and ${told[1]} from rank 1; the group is broken`,
      );
      expectListed(message);
    }
    // From then on it says so, in every layer of it.
    for (const layers of members)
      for (const bn of layers) {
        await expect(bn.forwardAsync(tensor(bn))).rejects.toMatchObject({
          code: 'ERR_BATCHNORM_GROUP_BROKEN',
          message: expect.stringContaining(`got ${told[0]} from rank 0 and ${told[1]} from rank 1`),
        });
        expect(() => bn.forward(tensor(bn))).toThrow('the group is broken');
        expect(() => bn.backward(tensor(bn))).toThrow('backward() must follow a forward()');
      }
    expect(members.map((layers) => layers.map((bn) => bn.stateDict()))).toEqual(before);
    for (const layers of members) for (const bn of layers) expect(bn.lastMoments).toBeUndefined();
  });

  it('finds out that one goes forward where another goes back, and leaves the gradients alone', async () => {
    const [a, b] = groupOf(2).map((group) => new BatchNorm(2, { group }));
    const x = { data: Float32Array.of(1, 2, 3, 5), shape: [2, 2] };
    await Promise.all([a.forwardAsync(x), b.forwardAsync(x)]);
    const before = structuredClone([a.stateDict(), b.stateDict(), a.parameters(), b.parameters()]);
    const results = await Promise.allSettled([a.forwardAsync(x), b.backwardAsync(x)]);
    for (const result of results)
      expect((result as PromiseRejectedResult).reason.message).toBe(
        'all members must make the same exchange, got forward of layer 0 with 2 channels as exchange 1 from rank 0 and backward of layer 0 with 2 channels as exchange 1 from rank 1; the group is broken',
      );
    expect([a.stateDict(), b.stateDict(), a.parameters(), b.parameters()]).toEqual(before);
  });

  it('takes nothing from a group that gives something else than was brought', () => {
    const x = { data: Float32Array.of(1, 2), shape: [2, 1] };
    for (const [allGather, message] of [
      [
        () => {},
        'group.allGather must give what each member brings, got something else from rank 0 where this one brought forward of layer 0 with 1 channels as exchange 0 from rank 0; the group is broken',
      ],
      [
        (mine: Float64Array, all: Float64Array) => {
          all.set(mine);
          all[8] = Number.NaN;
        },
        'the count of rank 0 must be an integer from 0 on, got NaN; the group is broken',
      ],
      [
        (mine: Float64Array, all: Float64Array) => {
          all.set(mine);
          all[8] = -1;
        },
        'the count of rank 0 must be an integer from 0 on, got -1; the group is broken',
      ],
    ] as const) {
      const bn = new BatchNorm(1, { group: { rank: 0, size: 1, allGather, allReduce() {} } });
      expect(() => bn.forward(x)).toThrow(message);
      expectListed(message);
      expect(bn.batchesTracked).toBe(0);
      expect(bn.lastMoments).toBeUndefined();
    }
  });

  it('whose code clears the layer and goes forward again leaves a backward on its way what it is of', () => {
    const x = { data: Float32Array.of(1, 5, 2, 9), shape: [2, 2] };
    const dy = { data: Float32Array.of(1, 2, 3, 5), shape: [2, 2] };
    const gradientsWith = (meanwhile: (bn: BatchNorm) => void) => {
      let isBackward = false;
      const bn: BatchNorm = new BatchNorm(2, {
        group: {
          rank: 0,
          size: 1,
          allGather(mine: Float64Array, all: Float64Array) {
            all.set(mine);
            if (!isBackward) return;
            isBackward = false;
            meanwhile(bn);
          },
          allReduce() {},
        },
      });
      bn.forward(x);
      isBackward = true;
      const { dx, dWeight, dBias } = bn.backward(dy);
      return [dx?.data, dWeight, dBias];
    };
    const expected = gradientsWith(() => {});
    const others = [100, 7, -3].map((scale) => ({ ...x, data: x.data.map((value) => value * scale) }));
    expect(
      gradientsWith((bn) => {
        bn.clear();
        for (const other of others) bn.forward(other);
      }),
    ).toEqual(expected);
  });

  it('whose exchange throws leaves the layer as it was, and may be asked again', () => {
    let isThere = false;
    const group = {
      ...groupOf(1)[0],
      allGather(mine: Float64Array, all: Float64Array) {
        if (!isThere) throw new Error('not yet');
        all.set(mine);
      },
    };
    const bn = new BatchNorm(1, { group });
    const x = { data: Float32Array.of(1, 3), shape: [2, 1] };
    const before = structuredClone(bn.stateDict());
    expect(() => bn.forward(x)).toThrow('not yet');
    expect(bn.stateDict()).toEqual(before);
    isThere = true;
    bn.forward(x);
    isThere = false;
    expect(() => bn.backward(x)).toThrow('not yet');
    expect([...bn.parameters()[1].grad]).toEqual([0]);
    isThere = true;
    expect([...(bn.backward(x).dBias ?? [])]).toEqual([4]);
  });

  it('may do with memory what it wants: the layer finds it out', () => {
    const take = (array: FloatArray) =>
      structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
    let victim: FloatArray | undefined;
    const group = {
      ...groupOf(1)[0],
      allGather(mine: Float64Array, all: Float64Array) {
        all.set(mine);
        if (victim) take(victim);
        victim = undefined;
      },
    };
    const x = () => ({ data: Float32Array.of(1, 3), shape: [2, 1] });
    const changed = expect.objectContaining({ code: 'ERR_BATCHNORM_BUFFER_CHANGED' });
    const thrownBy = (call: () => unknown) => {
      try {
        return call();
      } catch (error) {
        return error;
      }
    };
    for (const of of ['x', 'weight', 'runningMean', 'out', 'residual'] as const) {
      const bn = new BatchNorm(1, { group });
      const tensor = x();
      const [out, residual] = [new Float32Array(2), x()];
      victim = {
        x: tensor.data,
        weight: bn.weight,
        runningMean: bn.runningMean,
        out,
        residual: residual.data,
      }[of] as FloatArray;
      expect(
        thrownBy(() => bn.forward(tensor, { out, residual })),
        of,
      ).toEqual(changed);
      expect(bn.batchesTracked).toBe(0);
    }
    for (const of of ['dy', 'grad'] as const) {
      const bn = new BatchNorm(1, { group });
      bn.forward(x());
      const dy = x();
      const out = new Float32Array(2);
      victim = of === 'dy' ? dy.data : bn.parameters()[0].grad;
      expect(
        thrownBy(() => bn.backward(dy, { out })),
        of,
      ).toEqual(changed);
      expect([...out]).toEqual([0, 0]);
    }
  });

  it('leaves moments and sums to itself', () => {
    const bn = new BatchNorm(1, { group: groupOf(1)[0] });
    const x = { data: Float32Array.of(1, 3), shape: [2, 1] };
    const moments = Moments.of(x);
    const messages = [
      'moments must be left out in a layer with a group, got a Moments',
      'sums must be left out in a layer with a group, got a GradientSums',
    ];
    const sums = GradientSums.of(x, x, { moments });
    for (const [call, message] of [
      [() => bn.forward(x, { moments }), messages[0]],
      [() => bn.backward(x, { sums }), messages[1]],
    ] as const) {
      expect(call).toThrow(message.split(', got')[0]);
      expectListed(message);
    }
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
    const refusal =
      'group.allGather must return when all have come, got a Promise; give it as allGatherAsync, and call forwardAsync() and backwardAsync()';
    expect(() => later.forward(x)).toThrow(refusal.split(', got')[0]);
    expectListed(refusal);
    // Of one that fails nobody hears but the caller of forward().
    const failing = { ...group, allGather: async () => Promise.reject(new Error('late')) } as never;
    expect(() => new BatchNorm(1, { group: failing }).forward(x)).toThrow('must return when all have come');
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

describe(`weights and missing values in a group (${seedNote})`, () => {
  it.each(dtypes.flatMap((dtype) => [1, 2, 3].map((size) => ({ dtype, size }))))(
    'of $size have the gradient of one process, $dtype',
    async ({ dtype, size }) => {
      for (let run = 0; run < 6; run++) {
        const random = new Random(700 + run);
        const channels = random.pick([3, 600]);
        const shape = [12, channels, 4];
        const missing = random.pick(['propagate', 'skip', 'impute'] as const);
        const x = { data: randomActivations(random, dtype, extentsOf(shape, 1)), shape };
        if (missing !== 'propagate')
          for (let i = 0; i < x.data.length; i++) if (random.uniform() < 0.2) x.data[i] = Number.NaN;
        const dy = { data: randomNormals(random, dtype, x.data.length), shape };
        const weights = Float64Array.from({ length: 12 * 4 }, () => Math.max(0, random.uniform(-1, 2)));
        const outside = random.pick(['normalize', 'zero'] as const);
        const bounds = boundsOf(random, 12, size);
        const renorm = random.pick([undefined, { rMax: 1.2, dMax: 0.3 }]);
        const one = new BatchNorm<FloatDType>(channels, { dtype, missing, renorm });
        const y = one.forward(x, { weights, outside });
        const expected = one.backward(dy, { weightsGrad: true });
        const members = groupOf(size).map(
          (group) => new BatchNorm<FloatDType>(channels, { dtype, missing, renorm, group }),
        );
        const ys = await Promise.all(
          members.map((bn, i) => {
            const [from, to] = bounds[i];
            const given = { weights: weights.slice(from * 4, to * 4), outside };
            return bn.forwardAsync(samplesOf(x, from, to), given);
          }),
        );
        const gradients = await Promise.all(
          members.map((bn, i) => bn.backwardAsync(samplesOf(dy, ...bounds[i]), { weightsGrad: true })),
        );
        const finite = (values: ArrayLike<number>) => Array.from(values, (v) => (Number.isNaN(v) ? 0 : v));
        const share = dtype === 'float64' ? 1e-12 : 1e-6;
        const joined = ys.flatMap(({ data }) => [...data]);
        expectClose(finite(joined), finite(y.data), share * largest(finite(y.data)), `run ${run} y`);
        const dx = expected.dx?.data ?? [];
        expectClose(
          gradients.flatMap((each) => [...(each.dx?.data ?? [])]),
          dx,
          share * largest(dx),
          `run ${run} dx`,
        );
        const dWeights = expected.dWeights ?? [];
        expectClose(
          gradients.flatMap((each) => [...(each.dWeights ?? [])]),
          dWeights,
          share * channels * (1 + largest(dWeights)),
          `run ${run} dWeights`,
        );
        for (const bn of members) expect(bn.stateDict()).toEqual(members[0].stateDict());
        expectClose(members[0].runningVar ?? [], one.runningVar ?? [], share * 4, `run ${run} runningVar`);
      }
    },
  );

  it('count together what has weight, however little', async () => {
    for (const [own, hasMany] of [
      [[[1], [1e-17]], true],
      [[[1e-200], [1e-200]], true],
      [[[1e-17, 1], []], true],
      [[[0], [1e-17]], false],
    ] as const) {
      const members = groupOf(2).map((group) => new BatchNorm(1, { group, missing: 'skip' }));
      const made = await Promise.allSettled(
        members.map((bn, rank) => {
          const weights = Float64Array.from(own[rank]);
          const data = Float32Array.from(weights, (_, i) => 1 + i + rank);
          return bn.forwardAsync({ data, shape: [weights.length, 1] }, { weights });
        }),
      );
      for (const { status } of made) expect(status).toBe(hasMany ? 'fulfilled' : 'rejected');
      for (const bn of members) expect(bn.batchesTracked).toBe(hasMany ? 1 : 0);
    }
  });

  it('must be brought by all members', async () => {
    const members = groupOf(2).map((group) => new BatchNorm(1, { group }));
    const x = { data: Float32Array.of(1, 2), shape: [2, 1] };
    const made = await Promise.allSettled([
      members[0].forwardAsync(x),
      members[1].forwardAsync(x, { weights: Uint8Array.of(1, 1) }),
    ]);
    for (const one of made) {
      const message = String((one as PromiseRejectedResult).reason.message);
      expect(message).toBe(
        'all members must make the same exchange, got forward of layer 0 with 1 channels as exchange 0 from rank 0 and forward with weights of layer 0 with 1 channels as exchange 0 from rank 1; the group is broken',
      );
      expectListed(message);
    }
  });
});
