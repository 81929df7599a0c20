// What the asynchronous calls promise: the synchronous results to the bit, from any memory, in the order of the calls.
import { AsyncLocalStorage } from 'node:async_hooks';
import { describe, expect, it, vi } from 'vitest';
import {
  BatchNorm,
  type BatchNormOptions,
  type DType,
  type FloatArray,
  FrozenBatchNorm,
  type LayerGradients,
  setThreads,
  type TensorLike,
  threads,
} from '../../lib/index.js';
import { Random, seedNote } from '../support/random.js';
import {
  atOffset,
  bytesPerValue,
  eachKind,
  expectSame,
  extentsOf,
  foreign,
  guarded,
  type Kind,
  kinds,
  randomActivations,
  randomNormals,
  randomParameters,
  randomStatistics,
  shared,
  sizeOf,
  zeros,
} from '../support/tensors.js';

type Layer = BatchNorm<DType>;

/** Where the values of an argument lie. */
const memories = {
  ordinary: (values: FloatArray) => values.slice(),
  'a view': (values: FloatArray) => atOffset(values, 5 * values.BYTES_PER_ELEMENT),
  shared,
  'another realm': foreign,
} as const;

const channels = 5;

function shapeOf({ layout }: Kind): number[] {
  return layout.shape(6, channels, 37);
}

interface Values {
  shape: number[];
  x: FloatArray;
  residual: FloatArray;
  dy: FloatArray;
}

function valuesFor(random: Random, kind: Kind): Values {
  const shape = shapeOf(kind);
  const extents = extentsOf(shape, kind.layout.axis);
  const draw = () => randomActivations(random, kind.dtype, extents);
  return { shape, x: draw(), residual: draw(), dy: randomNormals(random, kind.dtype, sizeOf(extents)) };
}

function layerFor(seed: number, { dtype, layout }: Kind, options: BatchNormOptions = {}): Layer {
  const random = new Random(seed);
  const bn: Layer = new BatchNorm<DType>(channels, { dtype, axis: layout.axis, ...options });
  const { weight, bias } = randomParameters(random, dtype, channels);
  bn.weight?.set(weight);
  bn.bias?.set(bias);
  const { mean, variance } = randomStatistics(random, channels);
  bn.runningMean?.set(mean);
  bn.runningVar?.set(variance);
  return bn;
}

/** Everything that a call may change. */
function stateOf(bn: Layer) {
  return {
    ...structuredClone(bn.stateDict()),
    batchesTracked: bn.batchesTracked,
    rejectedUpdates: bn.rejectedUpdates,
    training: bn.training,
    grads: bn.parameters().map(({ grad }) => grad.slice()),
  };
}

function expectSameGradients(actual: LayerGradients<FloatArray>, expected: LayerGradients<FloatArray>): void {
  expect(Object.keys(actual).sort()).toEqual(Object.keys(expected).sort());
  for (const name of ['dx', 'dResidual'] as const) {
    const [mine, theirs] = [actual[name], expected[name]];
    if (mine === undefined || theirs === undefined) continue;
    expect(mine.shape).toEqual(theirs.shape);
    expectSame(mine.data, theirs.data, name);
  }
  for (const name of ['dWeight', 'dBias'] as const)
    expectSame(actual[name] ?? [], expected[name] ?? [], name);
}

/** What a promise rejects with; the call itself must not throw. */
async function rejectionOf(call: () => Promise<unknown>): Promise<Error & { code?: string }> {
  const promise = call();
  expect(promise).toBeInstanceOf(Promise);
  return promise.then(
    () => expect.fail('the call must reject'),
    (error) => error,
  );
}

describe('runAsync', () => {
  const activations = [undefined, 'relu'] as const;

  eachKind(`is run to the bit from any memory to any (${seedNote})`, async (kind) => {
    const { shape, x, residual } = valuesFor(new Random(1), kind);
    for (const activation of activations) {
      const frozen = layerFor(2, kind).freeze({ activation });
      for (const addend of [undefined, ...Object.values(memories)]) {
        const options = addend && { residual: { data: addend(residual), shape } };
        const expected = frozen.run({ data: x.slice(), shape }, options).data;
        for (const [name, place] of Object.entries(memories)) {
          const data = place(x);
          const fresh = await frozen.runAsync({ data, shape }, options);
          expect(fresh.shape).toEqual(shape);
          expectSame(fresh.data, expected, `y of ${name}`);
          expectSame(data, x, `x in ${name}`);
          for (const [outName, outPlace] of Object.entries(memories)) {
            const out = outPlace(x);
            const y = await frozen.runAsync({ data, shape }, { ...options, out });
            expect(y.data).toBe(out);
            expectSame(out, expected, `out in ${outName} of ${name}`);
          }
          const inPlace = await frozen.runAsync({ data, shape }, { ...options, out: data });
          expect(inPlace.data).toBe(data);
          expectSame(data, expected, `in place in ${name}`);
        }
      }
    }
  });

  eachKind(`writes nothing but out (${seedNote})`, async (kind) => {
    const { shape, x } = valuesFor(new Random(3), kind);
    const frozen = layerFor(4, kind).freeze();
    const { view, expectIntact } = guarded(kind.dtype, x.length, 24);
    await frozen.runAsync({ data: x, shape }, { out: view });
    expectIntact();
    expectSame(view, frozen.run({ data: x, shape }).data, 'out');
  });

  eachKind(`transfers memory and gives it back (${seedNote})`, async (kind) => {
    const { shape, x, residual } = valuesFor(new Random(5), kind);
    const frozen = layerFor(6, kind).freeze({ activation: 'relu' });
    const { view } = guarded(kind.dtype, x.length, 16);
    view.set(x);
    const views = [new Uint8Array(view.buffer), view.subarray(3), new DataView(view.buffer)];
    const { buffer, byteOffset } = view;
    const { byteLength } = buffer;
    const before = views[0] as Uint8Array;
    const around = [before.slice(0, byteOffset), before.slice(byteOffset + view.byteLength)];
    const promise = frozen.runAsync(
      { data: view, shape },
      { transfer: true, residual: { data: residual, shape } },
    );
    expect(view.length).toBe(0);
    expect(buffer.byteLength).toBe(0);
    for (const other of views) expect(() => new Uint8Array(other.buffer)).toThrow(TypeError);
    const y = await promise;
    const expected = frozen.run({ data: x, shape }, { residual: { data: residual, shape } });
    expectSame(y.data, expected.data, 'y');
    expect(y.data.byteOffset).toBe(byteOffset);
    expect(y.data.buffer.byteLength).toBe(byteLength);
    const bytes = new Uint8Array(y.data.buffer);
    expect(bytes.slice(0, byteOffset)).toEqual(around[0]);
    expect(bytes.slice(byteOffset + y.data.byteLength)).toEqual(around[1]);
    const again = await frozen.runAsync(y, { transfer: true });
    expect(y.data.length).toBe(0);
    expectSame(again.data, frozen.run(expected).data, 'y of y');
  });

  it('transfers x that is its own residual', async () => {
    const frozen = FrozenBatchNorm.from({
      running_mean: Float64Array.of(1, 2),
      running_var: Float64Array.of(1, 1),
    });
    const x = { data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] };
    const expected = frozen.run(x, { residual: x }).data;
    expectSame((await frozen.runAsync(x, { residual: x, transfer: true })).data, expected, 'y');
  });

  it('needs no clock', async () => {
    vi.useFakeTimers();
    try {
      const frozen = new BatchNorm(1).eval().freeze();
      const y = await frozen.runAsync({ data: Float32Array.of(0, 0), shape: [2, 1] });
      expectSame(y.data, [0, 0], 'y');
    } finally {
      vi.useRealTimers();
    }
  });

  it('takes an empty tensor', async () => {
    const [kind] = kinds;
    const frozen = layerFor(1, kind).freeze();
    for (const transfer of [false, true]) {
      const y = await frozen.runAsync({ data: new Float32Array(0), shape: [0, channels, 3] }, { transfer });
      expect(y).toEqual({ data: new Float32Array(0), shape: [0, channels, 3] });
    }
  });

  eachKind(`gives the same bits with any number of threads (${seedNote})`, async (kind) => {
    const shape = kind.layout.shape(16, channels, 3001);
    const random = new Random(7);
    const x = randomActivations(random, kind.dtype, extentsOf(shape, kind.layout.axis));
    const frozen = layerFor(8, kind).freeze();
    const usual = threads();
    try {
      setThreads(1);
      const y = frozen.run({ data: x, shape }).data;
      const alone = layerFor(9, kind);
      const trained = alone.forward({ data: x, shape }).data;
      const gradients = alone.backward({ data: x, shape });
      for (const count of [1, 2, 3, 5]) {
        setThreads(count);
        const bn = layerFor(9, kind);
        const results = await Promise.all([
          frozen.runAsync({ data: x, shape }),
          bn.forwardAsync({ data: x, shape }),
          bn.backwardAsync({ data: x, shape }),
        ]);
        expectSame(results[0].data, y, `y with ${count} threads`);
        expectSame(results[1].data, trained, `y of training with ${count} threads`);
        expectSameGradients(results[2], gradients);
      }
    } finally {
      setThreads(usual);
    }
  });
});

describe('forwardAsync and backwardAsync', () => {
  const variants: { options: BatchNormOptions; residual: boolean }[] = [
    { options: {}, residual: false },
    { options: {}, residual: true },
    { options: { activation: 'relu' }, residual: false },
    { options: { activation: 'relu' }, residual: true },
    { options: { activation: 'relu', reuse: true, decay: 'cumulative' }, residual: true },
    { options: { weight: false, unbiasedRunningVar: false }, residual: false },
    { options: { bias: false, trackRunningStats: false }, residual: false },
  ];

  eachKind(`are forward and backward to the bit from any memory to any (${seedNote})`, async (kind) => {
    const { shape, x, residual, dy } = valuesFor(new Random(11), kind);
    for (const { options, residual: hasResidual } of variants) {
      for (const training of [true, false]) {
        for (const [name, place] of Object.entries(memories)) {
          const [bn, twin] = [layerFor(12, kind, options), layerFor(12, kind, options)];
          for (const layer of [bn, twin]) layer.train(training);
          const given = () =>
            [
              { data: place(x), shape },
              hasResidual ? { residual: { data: place(residual), shape } } : {},
            ] as const;
          const expected = twin.forward(...given());
          const y = await bn.forwardAsync(...given());
          expect(y.shape).toEqual(shape);
          expectSame(y.data, expected.data, `y of ${name}`);
          expect(stateOf(bn)).toEqual(stateOf(twin));
          const [input, parameters] = ['input', 'parameters'] as const;
          for (const only of [undefined, input, parameters]) {
            const again = { only, retain: true };
            const gradients = await bn.backwardAsync({ data: place(dy), shape }, again);
            expectSameGradients(gradients, twin.backward({ data: place(dy), shape }, again));
            expect(stateOf(bn)).toEqual(stateOf(twin));
          }
          for (const outPlace of Object.values(memories)) {
            const outs = [outPlace(x), outPlace(x)];
            const second = await bn.forwardAsync(given()[0], { ...given()[1], out: outs[0] });
            expect(second.data).toBe(outs[0]);
            expectSame(outs[0], twin.forward(...given()).data, 'out');
            const gradients = await bn.backwardAsync(
              { data: place(dy), shape },
              { out: outs[1], retain: true },
            );
            expect(gradients.dx?.data).toBe(outs[1]);
            expectSameGradients(gradients, twin.backward({ data: dy, shape }, { retain: true }));
          }
          const own = place(dy);
          const inPlace = await bn.backwardAsync({ data: own, shape }, { out: own });
          expect(inPlace.dx?.data).toBe(own);
          expectSameGradients(inPlace, twin.backward({ data: dy, shape }));
        }
      }
    }
  });

  eachKind(`transfer memory (${seedNote})`, async (kind) => {
    const { shape, x, dy } = valuesFor(new Random(13), kind);
    const [bn, twin] = [layerFor(14, kind), layerFor(14, kind)];
    const offset = 3 * bytesPerValue[kind.dtype];
    const [givenX, givenDy] = [atOffset(x, offset), atOffset(dy, offset)];
    const y = bn.forwardAsync({ data: givenX, shape }, { transfer: true });
    expect(givenX.length).toBe(0);
    const gradients = bn.backwardAsync({ data: givenDy, shape }, { transfer: true, retain: true });
    expectSame((await y).data, twin.forward({ data: x, shape }).data, 'y');
    const { dx } = await gradients;
    expect(givenDy.length).toBe(0);
    expect(dx?.data.byteOffset).toBe(offset);
    expect(dx?.data.buffer.byteLength).toBe(offset + dy.byteLength);
    expectSameGradients(await gradients, twin.backward({ data: dy, shape }, { retain: true }));
    expectSameGradients(await bn.backwardAsync({ data: dy, shape }), twin.backward({ data: dy, shape }));
  });

  eachKind(`transfer dy out of the buffer in which x lies (${seedNote})`, async (kind) => {
    const { shape, x, dy } = valuesFor(new Random(15), kind);
    const [bn, twin] = [layerFor(16, kind), layerFor(16, kind)];
    const arena = zeros(kind.dtype, 2 * x.length);
    const [first, second] = [arena.subarray(0, x.length), arena.subarray(x.length)];
    first.set(x);
    second.set(dy);
    bn.forward({ data: first, shape });
    twin.forward({ data: x, shape });
    const gradients = await bn.backwardAsync({ data: second, shape }, { transfer: true });
    expectSameGradients(gradients, twin.backward({ data: dy, shape }));
  });

  eachKind(`go back through a synchronous forward, and the other way round (${seedNote})`, async (kind) => {
    const { shape, x, residual, dy } = valuesFor(new Random(17), kind);
    for (const reuse of [false, true]) {
      const options: BatchNormOptions = { activation: 'relu', reuse };
      const [bn, twin] = [layerFor(18, kind, options), layerFor(18, kind, options)];
      const added = { residual: { data: residual, shape } };
      const other = { data: residual.map((value) => -value) as FloatArray, shape };
      const gradient = { data: dy, shape };

      bn.forward({ data: x, shape }, added);
      twin.forward({ data: x, shape }, added);
      const through = twin.backward(gradient);
      const expected = { ...through, dx: through.dx && { ...through.dx, data: through.dx.data.slice() } };
      const grads = stateOf(twin).grads;
      const pending = bn.backwardAsync(gradient);
      // The next forward comes while the gradients of the last are on their way.
      bn.forward(other, added);
      const { dWeight: _dWeight, dBias: _dBias, ...tensors } = await pending;
      expectSame(tensors.dx?.data ?? [], expected.dx?.data ?? [], 'dx');
      expect(stateOf(bn).grads).toEqual(grads);

      twin.forward(other, added);
      const waiting = bn.forwardAsync({ data: x, shape }, added);
      // Until it is done, the layer is as it was.
      expectSameGradients(bn.backward(gradient), twin.backward(gradient));
      await waiting;
      twin.forward({ data: x, shape }, added);
      expectSameGradients(bn.backward(gradient), twin.backward(gradient));
    }
  });

  eachKind(`take effect in the order of the calls, whatever fails in between (${seedNote})`, async (kind) => {
    const random = new Random(19);
    for (const decay of [0.9, 'cumulative'] as const) {
      const options: BatchNormOptions = { decay, activation: 'relu' };
      const [bn, twin] = [layerFor(20, kind, options), layerFor(20, kind, options)];
      const controller = new AbortController();
      const reason = new Error('enough');
      const checks: (() => Promise<void>)[] = [];
      // Modes whose last forward is refused: no backward goes through another.
      const refused = new Set<boolean>();
      const expectCode = (promise: Promise<unknown>, code: string) =>
        checks.push(() => expect(promise).rejects.toMatchObject({ code }));
      const forward = (data: FloatArray, shape: number[]) => {
        const actual = bn.forwardAsync({ data: random.pick(Object.values(memories))(data), shape });
        const expected = twin.forward({ data, shape });
        refused.delete(twin.training);
        checks.push(async () => expectSame((await actual).data, expected.data, 'y'));
      };
      forward(valuesFor(random, kind).x, shapeOf(kind));
      for (let call = 0; call < 60; call++) {
        const { shape, x, residual, dy } = valuesFor(random, kind);
        switch (random.integer(0, 8)) {
          case 0:
            for (const layer of [bn, twin]) layer.train(!layer.training);
            break;
          case 1: {
            const weight = randomNormals(random, kind.dtype, channels);
            for (const layer of [bn, twin]) layer.weight?.set(weight);
            break;
          }
          case 2:
            expectCode(bn.forwardAsync({ data: x.subarray(1), shape }), 'ERR_BATCHNORM_INVALID_VALUE');
            expectCode(bn.backwardAsync({ data: dy, shape: [...shape, 1] }), 'ERR_BATCHNORM_NO_FORWARD');
            refused.add(twin.training);
            break;
          case 3: {
            const out = zeros(kind.dtype, x.length);
            expectCode(bn.forwardAsync({ data: x, shape }, { out }), 'ERR_BATCHNORM_BUFFER_CHANGED');
            structuredClone(out.buffer, { transfer: [out.buffer as ArrayBuffer] });
            refused.add(twin.training);
            break;
          }
          case 4: {
            const { signal } = controller;
            refused.add(twin.training);
            const cancelled = [
              bn.forwardAsync({ data: x, shape }, { signal }),
              bn.backwardAsync({ data: dy, shape }, { signal }),
            ];
            for (const promise of cancelled) checks.push(() => expect(promise).rejects.toBe(reason));
            break;
          }
          case 5:
          case 6: {
            const actual = bn.backwardAsync({ data: random.pick(Object.values(memories))(dy), shape });
            if (refused.has(twin.training)) {
              expectCode(actual, 'ERR_BATCHNORM_NO_FORWARD');
              break;
            }
            let expected: ReturnType<typeof twin.backward> | undefined;
            try {
              expected = twin.backward({ data: dy, shape });
            } catch (error) {
              expectCode(actual, (error as { code: string }).code);
            }
            if (expected !== undefined) {
              const known = expected;
              checks.push(async () => expectSameGradients(await actual, known));
            }
            break;
          }
          default:
            forward(random.pick([x, residual]), shape);
        }
      }
      controller.abort(reason);
      await Promise.all(checks.map((check) => check()));
      expect(stateOf(bn)).toEqual(stateOf(twin));
    }
  });

  eachKind(`read x, parameters and mode at the moment of the call (${seedNote})`, async (kind) => {
    const { shape, x, residual, dy } = valuesFor(new Random(21), kind);
    const [bn, twin] = [layerFor(22, kind), layerFor(22, kind)];
    const given = { x: x.slice(), residual: residual.slice(), dy: dy.slice() };
    const y = bn.forwardAsync({ data: given.x, shape }, { residual: { data: given.residual, shape } });
    const gradients = bn.backwardAsync({ data: given.dy, shape });
    for (const array of Object.values(given)) array.fill(Number.NaN);
    bn.weight?.fill(Number.NaN);
    bn.bias?.fill(Number.NaN);
    bn.eval();
    const expected = twin.forward({ data: x, shape }, { residual: { data: residual, shape } }).data;
    expectSame((await y).data, expected, 'y');
    expectSameGradients(await gradients, twin.backward({ data: dy, shape }));
    expect(bn.batchesTracked).toBe(1);
  });

  eachKind(`change nothing where they fail (${seedNote})`, async (kind) => {
    const { shape, x, dy } = valuesFor(new Random(23), kind);
    const bn = layerFor(24, kind);
    await bn.forwardAsync({ data: x, shape });
    await bn.backwardAsync({ data: dy, shape }, { retain: true });
    const before = stateOf(bn);
    const detached = () => {
      const out = zeros(kind.dtype, x.length);
      return {
        out,
        detach: () => structuredClone(out.buffer, { transfer: [out.buffer as ArrayBuffer] }),
      };
    };
    const [first, second] = [detached(), detached()];
    const other = x.map((value) => value * 2 + 1) as FloatArray;
    const results = Promise.allSettled([
      bn.forwardAsync({ data: other, shape }, { out: first.out }),
      bn.backwardAsync({ data: x, shape }, { out: second.out }),
    ]);
    first.detach();
    second.detach();
    const [forward, backward] = await results;
    const changed = { code: 'ERR_BATCHNORM_BUFFER_CHANGED' };
    expect(forward).toMatchObject({ status: 'rejected', reason: changed });
    expect(backward).toMatchObject({ status: 'rejected', reason: changed });
    expect(stateOf(bn)).toEqual(before);
    // A backward called after the forward that failed goes through no other; one at once goes by what is done.
    await expect(bn.backwardAsync({ data: dy, shape })).rejects.toMatchObject({
      code: 'ERR_BATCHNORM_NO_FORWARD',
      cause: changed,
    });
    const twin = layerFor(24, kind);
    twin.forward({ data: x, shape });
    expectSameGradients(bn.backward({ data: dy, shape }), twin.backward({ data: dy, shape }));
  });

  it('leave lastMoments to the last one that was called', async () => {
    const [kind] = kinds;
    const { shape, x } = valuesFor(new Random(), kind);
    const [bn, twin] = [layerFor(1, kind), layerFor(1, kind)];
    const later = bn.forwardAsync({ data: x.map((value) => value * 2), shape });
    bn.forward({ data: x, shape });
    twin.forward({ data: x, shape });
    expect(bn.lastMoments).toEqual(twin.lastMoments);
    await later;
    expect(bn.lastMoments).toEqual(twin.lastMoments);
    expect(bn.batchesTracked).toBe(2);
  });

  it.each([
    { title: 'a half', options: { only: 'input' }, meanwhile: { only: 'parameters' } },
    { title: 'one that is retained', options: { retain: true }, meanwhile: {} },
  ] as const)(
    'that fail give back what they had, not what another has gone through meanwhile: $title',
    async ({ options, meanwhile }) => {
      const [kind] = kinds;
      const { shape, x, dy } = valuesFor(new Random(), kind);
      const bn = layerFor(1, kind).zeroGrad();
      const y = bn.forward({ data: x, shape });
      const out = x.slice();
      const gradients = bn.backwardAsync({ data: dy, shape }, { ...options, of: y, out });
      bn.backward({ data: dy, shape }, { ...meanwhile, of: y, accumulate: true });
      structuredClone(out, { transfer: [out.buffer] });
      await expect(gradients).rejects.toThrow('out must keep its length');
      expect(() => bn.backward({ data: dy, shape }, { ...meanwhile, of: y, accumulate: true })).toThrow(
        expect.objectContaining({ code: 'ERR_BATCHNORM_NO_FORWARD' }),
      );
      const isInputLeft = 'only' in meanwhile;
      if (isInputLeft)
        expect(bn.backward({ data: dy, shape }, { only: 'input', of: y }).dx?.shape).toEqual(shape);
    },
  );

  it('refuse memory that has gone before their turn', async () => {
    const bn = new BatchNorm(1);
    const shape = [4, 1];
    const dy = new Float32Array(4);
    const pending = [
      bn.forwardAsync({ data: Float32Array.of(1, 2, 3, 4), shape }),
      bn.backwardAsync({ data: dy, shape }, { transfer: true }),
    ];
    structuredClone(dy.buffer, { transfer: [dy.buffer] });
    const [forward, backward] = await Promise.allSettled(pending);
    expect(forward.status).toBe('fulfilled');
    expect(backward).toMatchObject({
      status: 'rejected',
      reason: {
        code: 'ERR_BATCHNORM_BUFFER_CHANGED',
        message: 'dy.data must keep its length, got a buffer that was detached or resized',
      },
    });
  });

  it('refuse to move memory that they need, and keep it', async () => {
    const bn = new BatchNorm(1);
    const x = { data: Float32Array.of(1, 2, 3, 4), shape: [4, 1] };
    const out = new Float32Array(x.data.buffer);
    const overlap = { code: 'ERR_BATCHNORM_OVERLAP' };
    await expect(bn.forwardAsync(x, { transfer: true, out })).rejects.toMatchObject(overlap);
    const own = { data: bn.weight as Float32Array, shape: [1, 1] };
    await expect(bn.eval().forwardAsync(own, { transfer: true })).rejects.toMatchObject(overlap);
    expect([...x.data, ...own.data]).toEqual([1, 2, 3, 4, 1]);
  });

  it('refuse to move the memory of the layer with an empty tensor in it', async () => {
    const bn = new BatchNorm(3);
    bn.forward({ data: new Float32Array(0), shape: [0, 3] });
    for (const [name, kept] of [
      ['weight', bn.weight],
      ['the gradient of bias', bn.parameters()[1].grad],
    ] as const) {
      const empty = { data: new Float32Array((kept as Float32Array).buffer, 12, 0), shape: [0, 3] };
      for (const call of [
        bn.forwardAsync(empty, { transfer: true }),
        bn.backwardAsync(empty, { transfer: true }),
      ])
        await expect(call).rejects.toMatchObject({
          code: 'ERR_BATCHNORM_OVERLAP',
          message: expect.stringContaining(
            ` must lie elsewhere than ${name} with transfer: true, got the same buffer`,
          ),
        });
      expect(kept?.length).toBe(3);
    }
  });

  it.each(['weight', 'runningMean'] as const)(
    'refuse a layer without its %s, and change nothing',
    async (name) => {
      const changed = { code: 'ERR_BATCHNORM_BUFFER_CHANGED' };
      const x = () => ({ data: Float32Array.of(1, 2, 3, 4), shape: [4, 1] });
      const detach = (bn: BatchNorm) => {
        const buffer = bn[name]?.buffer as ArrayBuffer;
        structuredClone(buffer, { transfer: [buffer] });
      };
      const before = new BatchNorm(1);
      before.forward(x());
      detach(before);
      const moved = x();
      await expect(before.forwardAsync(moved, { transfer: true })).rejects.toMatchObject(changed);
      await expect(before.backwardAsync(moved, { transfer: true })).rejects.toMatchObject({
        code: 'ERR_BATCHNORM_NO_FORWARD',
        cause: changed,
      });
      expect([...moved.data]).toEqual([1, 2, 3, 4]);
      expect(() => before.stateDict()).toThrow(expect.objectContaining(changed));
      expect(() => before.freeze()).toThrow(expect.objectContaining(changed));

      const meanwhile = new BatchNorm(1);
      const out = new Float32Array(4);
      const pending = meanwhile.forwardAsync(x(), { out });
      detach(meanwhile);
      await expect(pending).rejects.toMatchObject(changed);
      expect([...out]).toEqual([0, 0, 0, 0]);
      expect(() => meanwhile.backward(x())).toThrow(
        expect.objectContaining({ code: 'ERR_BATCHNORM_NO_FORWARD' }),
      );

      const waiting = new BatchNorm(1).eval();
      const calls = [waiting.forwardAsync(x()), waiting.forwardAsync(x())];
      detach(waiting);
      for (const call of calls) await expect(call).rejects.toMatchObject(changed);
    },
  );

  it('take signals that are not of this realm', async () => {
    const signal = { aborted: true, reason: 'enough', addEventListener() {}, removeEventListener() {} };
    const frozen = new BatchNorm(1).freeze();
    const x = { data: new Float32Array(4), shape: [4, 1] };
    await expect(frozen.runAsync(x, { signal: signal as unknown as AbortSignal })).rejects.toBe('enough');
  });

  it('leave a batch that is not finite out of the running statistics', async () => {
    const [kind] = kinds;
    const [bn, twin] = [layerFor(25, kind), layerFor(25, kind)];
    const x = { data: new Float32Array(4 * channels).fill(1), shape: [4, channels] };
    x.data[0] = Number.POSITIVE_INFINITY;
    expectSame((await bn.forwardAsync(x)).data, twin.forward(x).data, 'y');
    expect(stateOf(bn)).toEqual(stateOf(twin));
    expect(bn.rejectedUpdates).toBe(1);
  });
});

// biome-ignore lint/suspicious/noExplicitAny: wrong types are what is tested
type Wrong = any;

describe('what is wrong', () => {
  const shape = [2, 3, 4];
  const x = () => ({ data: Float32Array.from({ length: 24 }, (_, i) => i), shape });
  const arena = new Float32Array(60);
  const overlapping = { data: arena.subarray(0, 24), shape };
  const shifted = arena.subarray(12, 36);
  const detached = new Float32Array(24);
  structuredClone(detached.buffer, { transfer: [detached.buffer] });

  /** An input and options, wrong for forward, backward and run alike. */
  const mistakes: [title: string, input: Wrong, options?: Wrong][] = [
    ['no tensor', null],
    ['an array', { data: [1, 2], shape }],
    ['another dtype', { data: new Float64Array(24), shape }],
    ['no shape', { data: new Float32Array(24) }],
    ['a wrong length', { data: new Float32Array(23), shape }],
    ['a detached buffer', { data: detached, shape }],
    ['other channels', { data: new Float32Array(16), shape: [2, 2, 4] }],
    ['no axis', { data: new Float32Array(3), shape: [3] }],
    ['options that are none', x(), 7],
    ['an unknown option', x(), { output: 1 }],
    ['out of another dtype', x(), { out: new Float64Array(24) }],
    ['out that is too short', x(), { out: new Float32Array(23) }],
    ['out that is no array', x(), { out: {} }],
    ['out that is detached', x(), { out: detached }],
    ['out that overlaps', overlapping, { out: shifted }],
  ];
  const residualMistakes: [title: string, input: Wrong, options?: Wrong][] = [
    ['a residual of another shape', x(), { residual: { data: new Float32Array(24), shape: [24] } }],
    ['a residual of another length', x(), { residual: { data: new Float32Array(20), shape } }],
    ['a residual in the place of out', x(), { residual: overlapping, out: overlapping.data }],
    ['a residual that overlaps out', x(), { residual: overlapping, out: shifted }],
  ];
  const forwardMistakes: [title: string, input: Wrong, options?: Wrong][] = [
    ...mistakes,
    ...residualMistakes,
    ['updateStats that is no boolean', x(), { updateStats: 1 }],
    ['one value per channel', { data: new Float32Array(3), shape: [1, 3] }],
  ];
  const backwardMistakes: [title: string, input: Wrong, options?: Wrong][] = [
    ...mistakes,
    ['a part that does not exist', x(), { only: 'weight' }],
    ['out for no result', x(), { only: 'parameters', out: new Float32Array(24) }],
    ['another shape than that of x', { data: new Float32Array(24), shape: [4, 3, 2] }],
  ];

  /** Both fail with the same class and code. */
  async function expectAlike(call: () => unknown, later: () => Promise<unknown>): Promise<void> {
    let expected: (Error & { code?: string }) | undefined;
    try {
      call();
    } catch (error) {
      expected = error as Error;
    }
    expect(expected?.code).toMatch(/^ERR_BATCHNORM_/);
    const actual = await rejectionOf(later);
    expect({ Class: actual.constructor, code: actual.code }).toEqual({
      Class: expected?.constructor,
      code: expected?.code,
    });
    // Except for what the asynchronous calls know beyond the others, the words are the same.
    if (expected?.code !== 'ERR_BATCHNORM_UNKNOWN_OPTION') expect(actual.message).toBe(expected?.message);
  }

  it.each([...mistakes, ...residualMistakes])(
    'runAsync rejects as run throws: %s',
    async (_, input, options) => {
      const frozen = new BatchNorm(3).freeze();
      await expectAlike(
        () => frozen.run(input, options),
        () => frozen.runAsync(input, options),
      );
    },
  );

  it.each(forwardMistakes)('forwardAsync rejects as forward throws: %s', async (_, input, options) => {
    const bn = new BatchNorm(3);
    const before = stateOf(bn);
    await expectAlike(
      () => bn.forward(input, options),
      () => bn.forwardAsync(input, options),
    );
    expect(stateOf(bn)).toEqual(before);
    expect(await rejectionOf(() => bn.backwardAsync(x()))).toMatchObject({
      code: 'ERR_BATCHNORM_NO_FORWARD',
    });
  });

  it.each(backwardMistakes)('backwardAsync rejects as backward throws: %s', async (_, input, options) => {
    const bn = new BatchNorm(3);
    bn.forward(x());
    const before = stateOf(bn);
    await expectAlike(
      () => bn.backward(input, options),
      () => bn.backwardAsync(input, options),
    );
    expect(stateOf(bn)).toEqual(before);
  });

  it('backwardAsync may not write over the x that the next one needs', async () => {
    for (const place of [memories.ordinary, shared]) {
      const bn = new BatchNorm(3);
      const given = { data: place(x().data) as Float32Array, shape };
      bn.forward(given);
      await expectAlike(
        () => bn.backward(x(), { out: given.data }),
        () => bn.backwardAsync(x(), { out: given.data }),
      );
      expectSame(given.data, x().data, 'x');
    }
  });

  it('a result over the layer itself is refused', async () => {
    const bn = new BatchNorm(3);
    const tiny = { data: new Float32Array(3), shape: [3, 1] };
    const wide = new BatchNorm(1);
    await expectAlike(
      () => wide.forward(tiny, { out: new Float32Array(wide.weight?.buffer as ArrayBuffer, 0, 1) }),
      () => wide.forwardAsync(tiny, { out: new Float32Array(wide.weight?.buffer as ArrayBuffer, 0, 1) }),
    );
    const row = { data: new Float32Array(3), shape: [1, 3] };
    bn.eval();
    await expectAlike(
      () => bn.forward(row, { out: bn.weight as Float32Array }),
      () => bn.forwardAsync(row, { out: bn.weight as Float32Array }),
    );
  });

  it('a disposed layer rejects', async () => {
    const frozen = new BatchNorm(3).freeze();
    frozen[Symbol.dispose]();
    const disposed = { code: 'ERR_BATCHNORM_DISPOSED', message: expect.stringContaining('runAsync()') };
    expect(await rejectionOf(() => frozen.runAsync(x()))).toMatchObject(disposed);
  });

  it('a layer that is disposed of while its arguments are read rejects', async () => {
    for (const call of ['run', 'runAsync'] as const) {
      const frozen = new BatchNorm(3).freeze();
      const options = {
        get out(): undefined {
          frozen[Symbol.dispose]();
          return undefined;
        },
      };
      const error = await rejectionOf(async () => frozen[call](x(), options));
      expect(error).toMatchObject({ code: 'ERR_BATCHNORM_DISPOSED' });
    }
  });

  /** The three asynchronous calls. */
  function calls(): [
    name: string,
    call: (options: Wrong, input?: TensorLike<Float32Array>) => Promise<unknown>,
  ][] {
    const bn = new BatchNorm(3);
    const frozen = bn.freeze();
    const of = bn.forward(x());
    return [
      ['runAsync', (options, input = x()) => frozen.runAsync(input, options)],
      ['forwardAsync', (options, input = x()) => bn.forwardAsync(input, options)],
      [
        'backwardAsync',
        (options, input = x()) => bn.backwardAsync(input, { ...(options as object), of, retain: true }),
      ],
    ];
  }

  it.each(calls())('%s refuses what is no signal and no boolean', async (_, call) => {
    for (const signal of [null, 1, {}, new AbortController()])
      expect(await rejectionOf(() => call({ signal }))).toMatchObject({
        code: 'ERR_BATCHNORM_INVALID_TYPE',
        message: expect.stringMatching(/^signal must be an AbortSignal, got /),
      });
    for (const transfer of [1, 'yes', {}])
      expect(await rejectionOf(() => call({ transfer }))).toMatchObject({
        code: 'ERR_BATCHNORM_INVALID_TYPE',
        message: expect.stringMatching(/^transfer must be true or false, got /),
      });
  });

  it.each(calls())('%s moves nothing where it is refused', async (name, call) => {
    const refused: [options: Wrong, code: string | undefined][] = [
      [{ transfer: true, out: new Float32Array(23) }, undefined],
      [{ transfer: true, unknown: 1 }, 'ERR_BATCHNORM_UNKNOWN_OPTION'],
      [{ transfer: true, signal: AbortSignal.abort(Object.assign(new Error(), { code: 'MINE' })) }, 'MINE'],
    ];
    if (name !== 'forwardAsync')
      refused.push([{ transfer: true, out: new Float32Array(24) }, 'ERR_BATCHNORM_INVALID_TYPE']);
    for (const [options, code] of refused) {
      const input = x();
      const error = await rejectionOf(() => call(options, input));
      if (code !== undefined) expect(error.code).toBe(code);
      expectSame(input.data, x().data, 'x');
    }
    // Refused as the last thing before memory is moved.
    const own = new Error('on purpose');
    const throwOwn = () => {
      throw own;
    };
    const signal = { aborted: false, addEventListener: throwOwn, removeEventListener() {} };
    const input = x();
    expect(await rejectionOf(() => call({ transfer: true, signal }, input))).toBe(own);
    expectSame(input.data, x().data, 'x');
    const elsewhere = { data: new Float32Array(24), shape: [4, 3, 2] };
    if (name === 'backwardAsync') {
      await rejectionOf(() => call({ transfer: true }, elsewhere));
      expect(elsewhere.data.length).toBe(24);
    }
  });

  it.each(calls())('%s rejects with what a signal of the caller throws', async (_, call) => {
    const own = new Error('on purpose');
    const throwOwn = () => {
      throw own;
    };
    const fake = (part: object) =>
      Object.defineProperties(
        { aborted: false, reason: own, addEventListener() {}, removeEventListener() {} },
        Object.getOwnPropertyDescriptors(part),
      );
    const callBack = (_: string, listener: () => void) => listener();
    const reason = { get: throwOwn };
    const signals = [
      fake({ addEventListener: throwOwn }),
      fake({ removeEventListener: throwOwn }),
      fake({ addEventListener: callBack }),
      Object.defineProperty(fake({ addEventListener: callBack }), 'reason', reason),
      Object.defineProperty(fake({ aborted: true }), 'reason', reason),
    ];
    for (const signal of signals) expect(await rejectionOf(() => call({ signal }))).toBe(own);
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    expect(await rejectionOf(() => call({ signal: proxy }))).toMatchObject({
      message: 'signal must be an AbortSignal, got a revoked proxy',
    });
    await call({});
  });

  it('a signal whose methods throw leaves no call behind it unsettled', async () => {
    const own = new Error('on purpose');
    const signal = {
      aborted: false,
      addEventListener() {},
      removeEventListener() {
        throw own;
      },
    } as Wrong;
    const bn = new BatchNorm(3);
    const results = await Promise.allSettled([
      bn.forwardAsync(x()),
      bn.forwardAsync(x(), { signal }),
      bn.forwardAsync(x()),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(bn.batchesTracked).toBe(2);
  });

  it.each(calls())('%s rejects with the reason of its signal, and not once it is done', async (_, call) => {
    const reason = { any: 'value' };
    expect(await rejectionOf(() => call({ signal: AbortSignal.abort(reason) }))).toBe(reason);
    expect(await rejectionOf(() => call({ signal: AbortSignal.abort() }))).toMatchObject({
      name: 'AbortError',
    });
    const controller = new AbortController();
    const result = await call({ signal: controller.signal });
    controller.abort(reason);
    expect(result).toBeTypeOf('object');
    expect(await rejectionOf(() => call({ signal: controller.signal }))).toBe(reason);
  });
});

describe('the context of a call', () => {
  const store = new AsyncLocalStorage<number>();
  const input = (size = 24) => ({ data: new Float32Array(size).map((_, i) => i), shape: [size / 12, 3, 4] });

  it('is that of what follows it, for each of many requests at once', async () => {
    const frozen = new BatchNorm(3).freeze();
    const shared = new BatchNorm(3);
    const request = async (id: number) => {
      const own = new BatchNorm(3);
      const { signal } = new AbortController();
      await frozen.runAsync(input(), id % 2 ? { signal } : undefined);
      expect(store.getStore()).toBe(id);
      await own.forwardAsync(input());
      expect(store.getStore()).toBe(id);
      await own.backwardAsync(input(), { transfer: id % 3 === 0 });
      expect(store.getStore()).toBe(id);
      // Calls that wait for those of other requests.
      const before = shared.forwardAsync(input(12 * (2 + (id % 9))), { signal });
      const seen = before.then(() => store.getStore());
      await before;
      expect(store.getStore()).toBe(id);
      return seen;
    };
    const ids = Array.from({ length: 100 }, (_, id) => id);
    expect(await Promise.all(ids.map((id) => store.run(id, request, id)))).toEqual(ids);
    expect(shared.batchesTracked).toBe(ids.length);
    expect(store.getStore()).toBeUndefined();
  });

  it('is that of what follows a rejection', async () => {
    const controller = new AbortController();
    const layer = new BatchNorm(3);
    const rejected = store.run(1, async () => {
      const results = [
        layer.forwardAsync(input()),
        layer.forwardAsync(input(), { signal: controller.signal }),
      ];
      const [, outcome] = await Promise.allSettled(results);
      return [outcome.status, store.getStore()];
    });
    store.run(2, () => controller.abort());
    expect(await rejected).toEqual(['rejected', 1]);
  });
});
