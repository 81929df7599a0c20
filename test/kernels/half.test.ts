// bfloat16 and float16: whatever is computed of bits is what float32 makes of the values that they have, rounded once.
import { describe, expect, it } from 'vitest';
import { backend } from '../../lib/backend/index.js';
import {
  type ArrayOf,
  BatchNorm,
  type BatchNormOptions,
  backward,
  type DType,
  decode,
  encode,
  FrozenBatchNorm,
  forwardInference,
  forwardTraining,
  GradientSums,
  Moments,
  type TensorArray,
} from '../../lib/index.js';
import {
  bitsOf,
  decodeAll,
  encodeAll,
  expectRounded,
  type Half,
  halves,
  meaningOf,
  rounded,
} from '../support/half.js';
import { Random, seedNote } from '../support/random.js';
import { expectSame, type Layout, summedLayouts } from '../support/tensors.js';

const channels = 5;

/** Results by their names: tensors, and arrays with a value per channel. */
type Results = Record<string, TensorArray | undefined>;

/** What a test is about, in one of the two types: bits, or the values that they have. */
interface World<D extends DType> {
  readonly dtype: D;
  /** The same values at each call, in memory of their own; `hasGaps` puts a NaN here and there. */
  readonly tensor: (name: string, hasGaps?: boolean) => { data: ArrayOf<D>; shape: number[] };
  /** Zeros of the same type and as many. */
  readonly room: () => ArrayOf<D>;
}

interface Case {
  readonly layout: Layout;
  readonly shape: number[];
}

const cases: readonly Case[] = summedLayouts.flatMap((layout) =>
  [
    [4, 9],
    [3, 700],
  ].map(([samples, positions]) => ({ layout, shape: layout.shape(samples, channels, positions) })),
);

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** The world of bits and that of their values. */
function worldsOf(half: Half, { shape }: Case, seed: number): [World<Half>, World<'float32'>] {
  const size = sizeOf(shape);
  const valuesOf = (name: string, hasGaps: boolean) => {
    const random = new Random(seed + name.length);
    const values = Float64Array.from({ length: size }, () => random.normal(1, 2));
    for (let i = 0; hasGaps && i < size; i++) if (random.integer(0, 9) === 0) values[i] = Number.NaN;
    return encodeAll(half, values);
  };
  return [
    {
      dtype: half,
      tensor: (name, hasGaps = false) => ({ data: valuesOf(name, hasGaps), shape }),
      room: () => new Uint16Array(size),
    },
    {
      dtype: 'float32',
      tensor: (name, hasGaps = false) => ({ data: decodeAll(half, valuesOf(name, hasGaps)), shape }),
      room: () => new Float32Array(size),
    },
  ];
}

/** Runs a test in both worlds, and expects their results to be the same but for one rounding of tensors. */
async function expectAlike(
  half: Half,
  one: Case,
  run: (world: World<'float32'>) => Results | Promise<Results>,
): Promise<void> {
  const [bits, values] = worldsOf(half, one, 7);
  const [actual, expected] = [await run(bits as never), await run(values)];
  expect(Object.keys(actual)).toEqual(Object.keys(expected));
  const size = sizeOf(one.shape);
  for (const [name, reference] of Object.entries(expected)) {
    const result = actual[name];
    if (reference === undefined || result === undefined) expect(result, name).toBe(reference);
    else if (reference.length === size && reference instanceof Float32Array)
      expectRounded(half, result, reference, name);
    else {
      expect(result.constructor, `what ${name} is`).toBe(reference.constructor);
      expectSame(result, reference, name);
    }
  }
}

function layerOf<D extends DType>(
  { dtype }: World<D>,
  { layout }: Case,
  options: BatchNormOptions<D> = {},
): BatchNorm<D> {
  const bn = new BatchNorm<D>(channels, { dtype, axis: layout.axis, ...options });
  const random = new Random(3);
  for (const array of [bn.weight, bn.bias, bn.runningMean])
    for (let c = 0; array && c < channels; c++) array[c] = random.normal(0.5);
  return bn;
}

/** A weight for each position, of which some are 0. */
function weightsFor({ shape }: Case): Float32Array {
  const random = new Random(5);
  return Float32Array.from({ length: sizeOf(shape) / channels }, () => random.integer(0, 3) / 2);
}

/** What a group of one has. */
function gather(mine: Float64Array, all: Float64Array): void {
  all.set(mine);
}

function shared<T extends TensorArray>(array: T): T {
  const Class = array.constructor as new (memory: ArrayBufferLike) => T & { set(from: T): void };
  const view = new Class(new SharedArrayBuffer(array.byteLength));
  view.set(array);
  return view;
}

for (const half of halves) {
  describe(`bits give what float32 gives of their values, rounded once: ${half} (${seedNote})`, () => {
    for (const one of cases) {
      const { layout, shape } = one;
      const title = `${layout.name} [${shape.join(', ')}]`;
      for (const activation of [undefined, 'relu'] as const)
        for (const hasResidual of [false, true]) {
          const name = [title, activation, hasResidual && 'residual'].filter(Boolean).join(', ');
          it(`${name}: a layer`, () =>
            expectAlike(half, one, (world) => {
              const residual = () => (hasResidual ? world.tensor('residual') : undefined);
              const bn = layerOf(world, one, { activation });
              const y = bn.forward(world.tensor('x'), { residual: residual() });
              const trained = bn.backward(world.tensor('dy'));
              const { mean, variance } = bn.lastMoments as Moments;
              bn.eval();
              const evaluated = bn.forward(world.tensor('x'), { residual: residual() });
              const through = bn.backward(world.tensor('dy'), { accumulate: true });
              const frozen = bn.freeze();
              const run = frozen.run(world.tensor('x'), { residual: residual() });
              const out = world.room();
              expect(frozen.run(world.tensor('x'), { residual: residual(), out }).data).toBe(out);
              return {
                y: y.data,
                dx: trained.dx?.data,
                dWeight: trained.dWeight,
                dBias: trained.dBias,
                dResidual: trained.dResidual?.data,
                mean,
                variance,
                runningMean: bn.runningMean ?? undefined,
                runningVar: bn.runningVar ?? undefined,
                evaluated: evaluated.data,
                'dx of evaluation': through.dx?.data,
                'dWeight of evaluation': through.dWeight,
                'dResidual of evaluation': through.dResidual?.data,
                'gradients together': bn.parameters()[0].grad,
                frozen: run.data,
                out,
              };
            }));

          it(`${name}: off the event loop`, () =>
            expectAlike(half, one, async (world) => {
              const residual = () => (hasResidual ? world.tensor('residual') : undefined);
              const bn = layerOf(world, one, { activation });
              const [y, gradients] = await Promise.all([
                bn.forwardAsync(world.tensor('x'), { residual: residual() }),
                bn.backwardAsync(world.tensor('dy')),
              ]);
              const { data } = world.tensor('x');
              const given = await bn.forwardAsync({ data, shape }, { residual: residual(), transfer: true });
              expect(data.length).toBe(0);
              const common = { data: shared(world.tensor('x').data), shape };
              const out = shared(world.room());
              const there = await bn.forwardAsync(common, { out });
              expect(there.data).toBe(out);
              const back = await bn.backwardAsync(world.tensor('dy'), { transfer: true, of: given });
              const frozen = bn.freeze();
              const run = await frozen.runAsync(world.tensor('x'), { residual: residual() });
              const moved = await frozen.runAsync(world.tensor('x'), { transfer: true });
              return {
                y: y.data,
                dx: gradients.dx?.data,
                dWeight: gradients.dWeight,
                dResidual: gradients.dResidual?.data,
                given: given.data,
                there: out,
                back: back.dx?.data,
                run: run.data,
                moved: moved.data,
              };
            }));

          it(`${name}: the functions`, () =>
            expectAlike(half, one, (world) => {
              const { dtype, tensor } = world;
              const { weight, bias } = layerOf(world, one);
              const residual = hasResidual ? tensor('residual') : undefined;
              const options = {
                dtype,
                axis: layout.axis,
                weight,
                bias,
                activation,
                residual,
              };
              const { y, mean, variance, moments } = forwardTraining(tensor('x'), options);
              const inferred = forwardInference(tensor('x'), { ...options, mean, variance });
              const trained = backward(tensor('dy'), tensor('x'), { ...options, mean, variance });
              const fixed = backward(tensor('dy'), tensor('x'), {
                ...options,
                mean,
                variance,
                training: false,
              });
              const sums = GradientSums.of(tensor('dy'), tensor('x'), { ...options, moments });
              return {
                y: y.data,
                mean,
                variance,
                inferred: inferred.data,
                dx: trained.dx.data,
                dWeight: trained.dWeight,
                dBias: trained.dBias,
                dResidual: trained.dResidual?.data,
                'dx of constants': fixed.dx.data,
                sumDy: sums.sumDy,
                sumDyXmu: sums.sumDyXmu,
              };
            }));
        }

      for (const [what, settings] of [
        ['weights', { missing: 'propagate', outside: 'normalize' }],
        ['a mask with zeros outside', { missing: 'propagate', outside: 'zero' }],
        ['missing values that are left out', { missing: 'skip', outside: 'normalize' }],
        ['missing values that are made up', { missing: 'impute', outside: 'zero' }],
      ] as const)
        it(`${title}: ${what}`, () =>
          expectAlike(half, one, async (world) => {
            const { missing, outside } = settings;
            const hasGaps = missing !== 'propagate';
            const x = () => world.tensor('x', hasGaps);
            const weights = weightsFor(one);
            const residual = world.tensor('residual');
            const bn = layerOf(world, one, { missing, activation: 'relu' });
            const y = bn.forward(x(), { weights, outside, residual });
            const gradients = bn.backward(world.tensor('dy'), { weightsGrad: true });
            const later = await bn.forwardAsync(x(), { weights, outside, residual });
            const gradientsLater = await bn.backwardAsync(world.tensor('dy'), { weightsGrad: true });
            const run = missing === 'impute' ? bn.freeze().run(x()).data : undefined;
            const options = { dtype: world.dtype, axis: layout.axis, weights, outside, missing };
            const trained = forwardTraining(x(), options);
            const through = backward(world.tensor('dy'), x(), { ...options, moments: trained.moments });
            const { count, mean } = await Moments.ofAsync(x(), {
              dtype: world.dtype,
              axis: layout.axis,
              weights,
              missing,
            });
            const { moments } = trained;
            const sums = await GradientSums.ofAsync(world.tensor('dy'), x(), { ...options, moments });
            return {
              y: y.data,
              dx: gradients.dx?.data,
              dWeight: gradients.dWeight,
              dResidual: gradients.dResidual?.data,
              dWeights: gradients.dWeights,
              later: later.data,
              'dx later': gradientsLater.dx?.data,
              run,
              trained: trained.y.data,
              'dx of the function': through.dx.data,
              'dWeight of the function': through.dWeight,
              count,
              mean,
              sumDy: sums.sumDy,
            };
          }));

      for (const [what, settings] of [
        ['groups of samples', { virtualBatchSize: 2, activation: 'relu' }],
        ['batch renormalization', { renorm: { rMax: 1.5, dMax: 0.5 }, bias: false }],
      ] as const)
        it(`${title}: ${what}`, () =>
          expectAlike(half, one, async (world) => {
            const bn = layerOf(world, one, settings);
            const residual = world.tensor('residual');
            const y = bn.forward(world.tensor('x'), { residual });
            const { dx, dWeight, dResidual } = bn.backward(world.tensor('dy'));
            const later = await bn.forwardAsync(world.tensor('x'), { residual });
            const gradients = await bn.backwardAsync(world.tensor('dy'));
            return {
              y: y.data,
              dx: dx?.data,
              dWeight,
              dResidual: dResidual?.data,
              later: later.data,
              'dx later': gradients.dx?.data,
              'dWeight later': gradients.dWeight,
              runningVar: bn.runningVar ?? undefined,
            };
          }));

      it(`${title}: parts of a batch, groups, in place and in memory that is used again`, () =>
        expectAlike(half, one, async (world) => {
          const { axis } = layout;
          const { dtype } = world;
          const moments = Moments.merge(
            Moments.of(world.tensor('x'), { dtype, axis }),
            await Moments.ofAsync(world.tensor('other'), { dtype, axis }),
          );
          const bn = layerOf(world, one, { reuse: true });
          const y = bn.forward(world.tensor('x'), { moments });
          const first = y.data.slice();
          const sums = GradientSums.of(world.tensor('dy'), world.tensor('x'), { dtype, axis, moments });
          const { dx } = bn.backward(world.tensor('dy'), { of: y, sums });
          const again = bn.forward(world.tensor('other'));
          expect(again.data.buffer).toBe(y.data.buffer);
          const x = world.tensor('x');
          expect(bn.forward(x, { out: x.data }).data).toBe(x.data);
          const group = { rank: 0, size: 1, allGather: gather, allReduce() {} };
          const member = layerOf(world, one, { group });
          const ofGroup = member.forward(world.tensor('x'));
          const throughGroup = member.backward(world.tensor('dy'));
          const { data } = world.tensor('dy');
          bn.forward(world.tensor('other'));
          expect(bn.backward({ data, shape }, { out: data, only: 'input' }).dx?.data).toBe(data);
          return {
            first,
            dx: dx?.data,
            mean: moments.mean,
            again: again.data.slice(),
            x: x.data,
            'y of a group': ofGroup.data,
            'dx of a group': throughGroup.dx?.data,
            'dWeight of a group': throughGroup.dWeight,
            data,
          };
        }));
    }

    it('a NaN or an infinity stays in its channel', () => {
      const bn = new BatchNorm<Half>(2, { dtype: half });
      const x = { data: encodeAll(half, [Number.NaN, 1, 2, 3, Infinity, 4, 5, 6]), shape: [4, 2] };
      const y = decodeAll(half, bn.forward(x).data);
      for (let i = 0; i < 8; i += 2) expect(y[i]).toBeNaN();
      const other = { data: Float32Array.of(1, 3, 4, 6), shape: [4, 1] };
      expectSame(
        [y[1], y[3], y[5], y[7]],
        Float32Array.from(new BatchNorm(1).forward(other).data, (value) => rounded(half, value)),
        'y of the other channel',
      );
      expect(bn.rejectedUpdates).toBe(1);
    });

    it('says where a value is missing', () => {
      const bn = new BatchNorm<Half>(2, { dtype: half, missing: 'throw' });
      const x = { data: encodeAll(half, [0, 1, 2, Number.NaN, 4, 5]), shape: [3, 2] };
      expect(() => bn.forward(x)).toThrow(
        "x must have no NaN with missing: 'throw', got one at 3, in channel 1",
      );
    });

    it('knows an x that has been refilled', () => {
      const bn = new BatchNorm<Half>(1, { dtype: half });
      const x = { data: encodeAll(half, [1, 2, 3]), shape: [3, 1] };
      bn.forward(x);
      x.data[2] ^= 1;
      expect(() => bn.backward({ ...x, data: x.data.slice() })).toThrow('as it was, got other values in it');
    });

    it('one value per channel', () => {
      const bn = new BatchNorm<Half>(3, { dtype: half, singleValue: 'running' });
      const x = { data: encodeAll(half, [1, -2, 3]), shape: [1, 3] };
      expectRounded(
        half,
        bn.forward(x).data,
        new BatchNorm(3).eval().forward({ ...x, data: Float32Array.of(1, -2, 3) }).data,
        'y',
      );
      expect(() => new BatchNorm<Half>(3, { dtype: half }).forward(x)).toThrow(
        'more than one value per channel',
      );
    });

    it('nothing at all', async () => {
      const bn = new BatchNorm<Half>(3, { dtype: half });
      const x = { data: new Uint16Array(0), shape: [0, 3] };
      expect(bn.forward(x).data).toEqual(x.data);
      expect(bn.backward(x).dx?.data).toEqual(x.data);
      expect((await bn.forwardAsync(x)).data).toEqual(x.data);
      expect(bn.freeze().run(x).data).toEqual(x.data);
      expect(bn.batchesTracked).toBe(0);
    });

    it('frozen from a state', () => {
      const state = { running_mean: [1, 2], running_var: [4, 9], weight: [1, 2], bias: [0, 1] };
      const frozen = FrozenBatchNorm.from(state, { dtype: half });
      const x = { data: encodeAll(half, [1, -2, 3, 4]), shape: [2, 2] };
      const y = FrozenBatchNorm.from(state).run({ data: decodeAll(half, x.data), shape: x.shape });
      expectRounded(half, frozen.run(x).data, y.data, 'y');
    });

    it('all bits are widened to the values that they have', () => {
      const bits = Uint16Array.from({ length: 0x1_0000 }, (_, i) => i);
      const values = new Float32Array(bits.length);
      backend.convert.widen(half, bits, values);
      expectSame(
        values,
        Float32Array.from(bits, (one) => meaningOf(half, one)),
        'values',
      );
      const again = new Uint16Array(bits.length);
      backend.convert.narrow(half, values, again);
      for (let i = 0; i < bits.length; i++)
        if (Number.isNaN(values[i])) expect(meaningOf(half, again[i])).toBeNaN();
        else expect(again[i]).toBe(i);
    });

    it('float32 is rounded to nearest even, on both sides of each border', () => {
      const values: number[] = [3.4e38, -3.4e38, 65519.99, 65520, 65504, -65520, 1e-45, -1e-45, -0, 0];
      const next = new Float32Array(1);
      const word = new Int32Array(next.buffer);
      for (let i = 0; i < 0x7fff; i++) {
        const [a, b] = [meaningOf(half, i), meaningOf(half, i + 1)];
        if (!Number.isFinite(a) || !Number.isFinite(b)) continue;
        next[0] = (a + b) / 2;
        for (const step of [-1, 1, 1]) {
          values.push(next[0], -next[0]);
          word[0] += step;
        }
        values.push(next[0]);
      }
      const given = Float32Array.from(values);
      const bits = new Uint16Array(given.length);
      backend.convert.narrow(half, given, bits);
      expectSame(
        bits,
        Uint16Array.from(given, (value) => bitsOf(half, value)),
        'bits',
      );
    });
  });
}

/** As of a runtime that has it; the compiler here does not know it. */
const Float16 = (globalThis as unknown as { Float16Array?: Float32ArrayConstructor }).Float16Array;

// The last block of columns is narrow, and cut into pieces of rows that a stretch of sums must not straddle.
describe.each(halves)('%s', (dtype) => {
  it.each([[[64, 352, 3]], [[64, 4144]], [[64, 4176]]])('has the sums of float32 for %j', (shape) => {
    const random = new Random();
    const size = sizeOf(shape);
    const draw = () =>
      encode(
        Float32Array.from({ length: size }, () => random.normal() + 3),
        dtype,
      );
    const [x, dy] = [draw(), draw()];
    const wide = (bits: Uint16Array) => ({ data: decode(bits, dtype), shape });
    const own = forwardTraining({ data: x, shape }, { dtype });
    const { mean, variance } = forwardTraining(wide(x));
    expectSame(own.mean, mean, `mean ${seedNote}`);
    expectSame(own.variance, variance, `variance ${seedNote}`);
    const given = { mean, variance, training: true } as const;
    const gradients = backward({ data: dy, shape }, { data: x, shape }, { ...given, dtype });
    const expected = backward(wide(dy), wide(x), given);
    expectSame(gradients.dWeight, expected.dWeight, `dWeight ${seedNote}`);
    expectSame(gradients.dBias, expected.dBias, `dBias ${seedNote}`);
  });
});

describe.runIf(Float16)('a Float16Array', () => {
  type Wrong = never;
  const shape = [4, 2];
  const values = [1, -2, 3, 0.5, -4, 8, 2, 1];
  const halvesOf = () => {
    const Class = Float16 as Float32ArrayConstructor;
    return Class.from(values);
  };
  const bits = () => encodeAll('float16', values);
  const x = () => ({ data: halvesOf() as Wrong, shape });
  const xOfBits = () => ({ data: bits(), shape });
  const expectHalves = (data: unknown, expected: Uint16Array | undefined, what: string) => {
    expect(data, what).toBeInstanceOf(Float16);
    const { buffer, byteOffset, length } = data as Float32Array;
    expect(new Uint16Array(buffer, byteOffset, length), what).toEqual(expected);
  };

  it('is taken for its bits, and results are of its class', async () => {
    for (const reuse of [false, true]) {
      const bn = new BatchNorm(2, { dtype: 'float16', activation: 'relu', reuse });
      const reference = new BatchNorm(2, { dtype: 'float16', activation: 'relu' });
      const y = reference.forward(xOfBits(), { residual: xOfBits() });
      const { dx, dResidual } = reference.backward(xOfBits());
      expectHalves(bn.forward(x(), { residual: x() }).data, y.data as Uint16Array, 'y');
      const gradients = bn.backward(x());
      expectHalves(gradients.dx?.data, dx?.data as Uint16Array, 'dx');
      expectHalves(gradients.dResidual?.data, dResidual?.data as Uint16Array, 'dResidual');
      expect(gradients.dWeight).toBeInstanceOf(Float32Array);
      const later = await bn.forwardAsync(x(), { residual: x() });
      expectHalves(later.data, y.data as Uint16Array, 'y later');
      const gradientsLater = await bn.backwardAsync(x(), { of: later });
      expectHalves(gradientsLater.dx?.data, dx?.data as Uint16Array, 'dx later');
      expectHalves(gradientsLater.dResidual?.data, dResidual?.data as Uint16Array, 'dResidual later');
      const frozen = bn.freeze();
      expectHalves(frozen.run(x()).data, frozen.run(xOfBits()).data as Uint16Array, 'run');
      const given = x();
      const moved = await frozen.runAsync(given, { transfer: true });
      expectHalves(moved.data, frozen.run(xOfBits()).data as Uint16Array, 'moved');
      expect((given.data as Float32Array).length).toBe(0);
    }
  });

  it('says itself which dtype it has', () => {
    const { y, moments, mean, variance } = forwardTraining(x());
    const reference = forwardTraining(xOfBits(), { dtype: 'float16' });
    expectHalves(y.data, reference.y.data, 'y');
    expectSame(moments.mean, reference.mean, 'mean');
    expectSame(Moments.of(x()).variance, reference.variance, 'variance');
    const { dx, dWeight } = backward(x(), x(), { mean, variance });
    const gradients = backward(xOfBits(), xOfBits(), { dtype: 'float16', mean, variance });
    expectHalves(dx.data, gradients.dx.data, 'dx');
    expect(dWeight).toEqual(gradients.dWeight);
    expectHalves(forwardInference(x(), { mean, variance } as Wrong).data, reference.y.data, 'y of inference');
  });

  it('may be where a result goes, in place and elsewhere', async () => {
    const bn = new BatchNorm(2, { dtype: 'float16' });
    const y = bn.forward(xOfBits()).data as Uint16Array;
    const dx = bn.backward(xOfBits()).dx?.data as Uint16Array;
    const [out, place, room] = [halvesOf(), x(), halvesOf()] as Wrong[];
    expect(bn.forward(x(), { out }).data).toBe(out);
    expectHalves(out, y, 'out');
    expect(bn.backward(x(), { out: room }).dx?.data).toBe(room);
    expectHalves(room, dx, 'dx');
    expect(bn.forward(place, { out: (place as { data: Wrong }).data }).data).toBe(
      (place as { data: Wrong }).data,
    );
    expectHalves((place as { data: Wrong }).data, y, 'in place');
    const [outLater, dxLater] = [halvesOf(), halvesOf()] as Wrong[];
    expect((await bn.forwardAsync(x(), { out: outLater })).data).toBe(outLater);
    expectHalves(outLater, y, 'out later');
    expect((await bn.backwardAsync(x(), { out: dxLater })).dx?.data).toBe(dxLater);
    expectHalves(dxLater, dx, 'dx later');
    const run = halvesOf() as Wrong;
    expect(bn.freeze().run(x(), { out: run }).data).toBe(run);
    expect((await bn.freeze().runAsync(x(), { out: run })).data).toBe(run);
  });

  it('is refused where something else is expected', () => {
    expect(() => new BatchNorm(2).forward(x())).toThrow(
      "x.data must be a Float32Array, got Float16Array; it needs dtype: 'float16'",
    );
    expect(() => new BatchNorm(2, { dtype: 'bfloat16' }).forward(x())).toThrow(
      "x.data must be a Uint16Array, got Float16Array; it needs dtype: 'float16'",
    );
    const bn = new BatchNorm(2, { dtype: 'bfloat16' });
    expect(() => bn.forward(xOfBits(), { out: halvesOf() as Wrong })).toThrow(
      'out must be a Uint16Array, got Float16Array',
    );
    bn.forward(xOfBits());
    expect(() => bn.backward(xOfBits(), { out: halvesOf() as Wrong })).toThrow(
      'out must be a Uint16Array, got Float16Array',
    );
  });
});
