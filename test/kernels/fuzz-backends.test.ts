// The native backend against WebAssembly, to the bit, and both against the textbook, for whatever is drawn.
import fc from 'fast-check';
import load from 'node-gyp-build';
import { describe, expect } from 'vitest';
import { type Backend, maskBytes, type Passes } from '../../lib/backend/backend.js';
import { createNativeBackend } from '../../lib/backend/native.js';
import { createWasmBackend } from '../../lib/backend/wasm.js';
import { wasmBytes } from '../../lib/backend/wasm-bytes.js';
import type { DType, FloatArray } from '../../lib/index.js';
import { holds } from '../support/fuzz.js';
import { Random } from '../support/random.js';
import * as reference from '../support/reference.js';
import {
  bytesPerValue,
  channelValues,
  expectClose,
  expectSame,
  fromChannels,
  generate,
  guarded,
  largest,
  rounding,
  sizeOf,
} from '../support/tensors.js';

/** Undefined where npm run build:wasm has not been run: then one simple manner of the native one takes its place. */
const wasm = wasmBytes === undefined ? undefined : createWasmBackend();
const simple = { isa: 'generic', threads: 1, cacheBytes: 2 ** 19, streamBytes: 2 ** 30 };
const { isas } = createNativeBackend();
const forced = process.env.BATCHNORM_ISA;

/** The native backend as it would be on another machine. */
function nativeOn({ isa, threads, cacheBytes, streamBytes }: Machine): Backend {
  const native = createNativeBackend({ isa: forced || isa });
  native.setThreads(threads);
  // Blocks and groups follow the cache: small ones make many of small tensors.
  const binding = load(process.cwd()) as { setMachine(...settings: number[]): void };
  binding.setMachine(threads, cacheBytes, streamBytes, streamBytes);
  return native;
}

interface Machine {
  isa: string;
  threads: number;
  cacheBytes: number;
  streamBytes: number;
}

const machine: fc.Arbitrary<Machine> = fc.record({
  isa: fc.constantFrom(...isas),
  threads: fc.integer({ min: 1, max: 5 }),
  cacheBytes: fc.constantFrom(2 ** 19, 1, 2 ** 10, 2 ** 14),
  streamBytes: fc.constantFrom(2 ** 30, 0, 2 ** 12),
});

// ---- Values ----

const limits = {
  float32: { smallest: 2 ** -149, normal: 2 ** -126, largest: (2 - 2 ** -23) * 2 ** 127 },
  float64: { smallest: 2 ** -1074, normal: 2 ** -1022, largest: Number.MAX_VALUE },
} as const;

/** A value of a channel, from a source of numbers. Textbooks know those of `tame`, in doubles. */
type Kind = (random: Random, dtype: DType) => () => number;

const tame: Record<string, Kind> = {
  normal: (random) => {
    const [mean, std] = [random.normal(0, 2), random.uniform(0.25, 3)];
    return () => random.normal(mean, std);
  },
  'a large mean': (random) => () => random.normal(1e4, 1e-2),
  'a mean of 1000': (random) => () => random.normal(1000, 1),
  constant: (random) => {
    const value = random.normal(0, 1000);
    return () => value;
  },
  'small integers': (random) => () => random.integer(-8, 8),
};

const wild: Record<string, Kind> = {
  'specials among others': (random, dtype) => {
    const { smallest, normal, largest } = limits[dtype];
    const specials = [0, 1, 3, smallest, normal - smallest, normal, 1e-30, 1e19, 1e30, largest, Infinity];
    const share = random.pick([0.01, 0.3, 1]);
    const known = random.shuffle([...specials, ...specials.map((value) => -value), Number.NaN]).slice(0, 4);
    return () => (random.uniform() < share ? random.pick(known) : random.normal());
  },
  'below normal': (random, dtype) => () => random.integer(-9, 9) * limits[dtype].smallest,
  'around the smallest normal': (random, dtype) => () => random.normal(0, 3) * limits[dtype].normal,
  'near the largest': (random, dtype) => () => random.uniform(-1, 1) * limits[dtype].largest,
  'all magnitudes': (random) => () => random.normal() * 2 ** random.integer(-60, 60),
  'an outlier': (random) => () => (random.uniform() < 0.02 ? 1e18 : random.normal()),
  'signed zeros': (random) => () => random.pick([0, -0]),
  'not a number': () => () => Number.NaN,
};

const kinds = { ...tame, ...wild };

function sourceOf(random: Random, dtype: DType, names: readonly string[]): (channel: number) => number {
  const sources = names.map((name) => kinds[name](random, dtype));
  return (channel) => sources[channel % sources.length]();
}

// ---- Cases ----

const dimension = fc.oneof(
  fc.integer({ min: 1, max: 4 }),
  fc.integer({ min: 1, max: 70 }),
  fc.constantFrom(
    15,
    16,
    17,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    129,
    255,
    256,
    257,
    511,
    512,
    513,
    2047,
    2049,
  ),
  fc.integer({ min: 1, max: 3000 }),
);

const extents = (most: number) =>
  fc
    .record({ outer: dimension, channels: dimension, inner: fc.oneof(fc.constant(1), dimension) })
    .filter((drawn) => sizeOf(drawn) <= most);

const drawnCase = fc.record({
  extents: fc.oneof({ weight: 40, arbitrary: extents(6000) }, { weight: 1, arbitrary: extents(200_000) }),
  dtype: fc.constantFrom<DType>('float32', 'float64'),
  eps: fc.constantFrom(1e-5, 1e-3, 1e-12, 1),
  kinds: fc.oneof(
    fc.array(fc.constantFrom(...Object.keys(tame)), { minLength: 1, maxLength: 3 }),
    fc.array(fc.constantFrom(...Object.keys(kinds)), { minLength: 1, maxLength: 3 }),
  ),
  gradientKinds: fc.constantFrom(
    ['normal'],
    ['normal'],
    ['normal', 'specials among others'],
    ['all magnitudes'],
  ),
  parameterKinds: fc.constantFrom(['normal'], ['normal'], ['specials among others'], ['constant']),
  stream: fc.nat(),
  weight: fc.boolean(),
  bias: fc.boolean(),
  relu: fc.boolean(),
  residual: fc.boolean(),
  mask: fc.boolean(),
  inPlace: fc.boolean(),
  gradients: fc.record({ input: fc.boolean(), parameters: fc.boolean() }),
  misalignment: fc.nat(20),
  decay: fc.constantFrom(0.9, 0, 1, 0.123),
  unbiased: fc.boolean(),
  machine,
});
type Case = typeof drawnCase extends fc.Arbitrary<infer Drawn> ? Drawn : never;

interface Inputs {
  x: FloatArray;
  dy: FloatArray;
  residual: FloatArray | undefined;
  weight: FloatArray | undefined;
  bias: FloatArray | undefined;
  mean: Float64Array;
  variance: Float64Array;
}

function inputsOf({ extents, dtype, stream, ...drawn }: Case): Inputs {
  const random = new Random(stream);
  const tensorOf = (names: readonly string[]) => fromChannels(dtype, extents, sourceOf(random, dtype, names));
  const perChannel = (names: readonly string[]) => {
    const value = sourceOf(random, dtype, names);
    return generate(dtype, extents.channels, value);
  };
  return {
    x: tensorOf(drawn.kinds),
    dy: tensorOf(drawn.gradientKinds),
    residual: drawn.residual ? tensorOf(drawn.gradientKinds) : undefined,
    weight: drawn.weight ? perChannel(drawn.parameterKinds) : undefined,
    bias: drawn.bias ? perChannel(drawn.parameterKinds) : undefined,
    mean: Float64Array.from(perChannel(drawn.parameterKinds)),
    variance: Float64Array.from(perChannel(drawn.parameterKinds), Math.abs),
  };
}

// ---- What a backend makes of them ----

interface Results {
  arrays: Record<string, FloatArray>;
  inPlace: boolean[];
  rejected: number;
}

/** Every pass. Results lie between canaries, inputs must stay as they are. */
function resultsOf(backend: Backend, drawn: Case, inputs: Inputs): Results {
  const { dtype, eps, relu, decay, unbiased, misalignment, gradients } = drawn;
  const { outer, channels, inner } = drawn.extents;
  const geometry = { outer, channels, inner };
  const passes = backend[dtype] as Passes<FloatArray>;
  const { weight, bias, residual } = inputs;
  const size = sizeOf(drawn.extents);
  const expectations: (() => void)[] = [];
  const place = (values: FloatArray | number): FloatArray => {
    const length = typeof values === 'number' ? values : values.length;
    const { view, expectIntact } = guarded(dtype, length, misalignment * bytesPerValue[dtype]);
    if (typeof values !== 'number') view.set(values);
    expectations.push(expectIntact);
    return view;
  };
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  // Where its bits lie is the backend's own affair: dx after it shows them.
  const mask = relu && residual ? new Uint8Array(maskBytes(size)) : undefined;

  const x = place(inputs.x);
  const forward = (
    pass: 'forwardTraining' | 'forwardInference',
    [ofMean, ofVariance]: [Float64Array, Float64Array],
  ): [FloatArray, boolean] => {
    const from = drawn.inPlace ? place(inputs.x) : x;
    const y = drawn.inPlace ? from : place(size);
    const used = pass === 'forwardTraining' ? mask : undefined;
    const forward = { geometry, eps, x: from, y, weight, bias, mean: ofMean, variance: ofVariance };
    return [y, passes[pass]({ ...forward, relu, residual, mask: used })];
  };
  const [y, firstInPlace] = forward('forwardTraining', [mean, variance]);
  const [inferred, secondInPlace] = forward('forwardInference', [inputs.mean, inputs.variance]);
  const memory = new ArrayBuffer(passes.frozenBytes(channels));
  passes.freeze(channels, eps, weight, bias, inputs.mean, inputs.variance, relu, memory);
  const run = place(size);
  passes.runFrozen(outer, inner, memory, x, run, residual);

  const arrays: Results['arrays'] = { y, mean, variance, inferred, run };
  for (const training of [true, false]) {
    const dy = place(inputs.dy);
    const dx = gradients.input ? (drawn.inPlace ? dy : place(size)) : undefined;
    const dWeight = gradients.parameters ? place(channels) : undefined;
    const dBias = gradients.parameters ? place(channels) : undefined;
    // Without dx nothing is computed again: as a layer has it.
    const isMasked = mask !== undefined && (drawn.mask || dx === undefined);
    const dResidual = residual && dx ? place(size) : undefined;
    const statistics = training ? [mean, variance] : [inputs.mean, inputs.variance];
    passes.backward({
      geometry,
      eps,
      training,
      dy,
      x,
      mean: statistics[0],
      variance: statistics[1],
      weight,
      bias,
      relu,
      residual: isMasked ? undefined : residual,
      mask: isMasked ? mask : undefined,
      dx,
      dWeight,
      dBias,
      dResidual,
    });
    const name = training ? 'training' : 'frozen';
    for (const [gradient, values] of Object.entries({ dx, dWeight, dBias, dResidual }))
      if (values) arrays[`${gradient} (${name})`] = values;
    if (dx !== dy) expectSame(dy, inputs.dy, 'dy, which must stay');
  }
  expectSame(x, inputs.x, 'x, which must stay');

  const runningMean = Float64Array.from(inputs.mean, (value) => (Number.isFinite(value) ? value : 0));
  const runningVar = Float64Array.from(inputs.variance, (value) => (Number.isFinite(value) ? value : 1));
  const rejected = backend.updateRunningStats(
    mean,
    variance,
    channels,
    outer * inner,
    decay,
    unbiased,
    runningMean,
    runningVar,
  );
  arrays.runningMean = runningMean;
  arrays.runningVar = runningVar;
  for (const expectIntact of expectations) expectIntact();
  return { arrays, inPlace: [firstInPlace, secondInPlace], rejected };
}

// ---- The textbook ----

function rectified(y: Float64Array, residual: FloatArray | undefined, relu: boolean): Float64Array {
  return y.map((value, i) => {
    const sum = value + (residual ? residual[i] : 0);
    return relu ? Math.max(0, sum) : sum;
  });
}

/** Channels whose values a textbook knows: what the others hold must not have touched them. */
function expectTextbook(drawn: Case, inputs: Inputs, { arrays }: Results): void {
  const { extents, eps, dtype, relu } = drawn;
  const share = 2 * rounding[dtype];
  const isTame = drawn.gradientKinds.join() === 'normal' && drawn.parameterKinds.join() === 'normal';
  if (!isTame) return;
  for (let channel = 0; channel < extents.channels; channel++) {
    const kind = drawn.kinds[channel % drawn.kinds.length];
    if (!(kind in tame)) continue;
    const where = `of channel ${channel} (${kind})`;
    const alone = { ...extents, channels: 1 };
    const valuesOf = (values: ArrayLike<number>) => channelValues(values, extents, channel);
    const [x, dy] = [valuesOf(inputs.x), valuesOf(inputs.dy)];
    const residual = inputs.residual && (valuesOf(inputs.residual) as FloatArray);
    const affine = {
      weight: inputs.weight && [inputs.weight[channel]],
      bias: inputs.bias && [inputs.bias[channel]],
    };
    const expected = reference.forwardTraining(x, alone, { eps, ...affine });
    const [mean, variance] = [expected.mean[0], expected.variance[0]];
    // In doubles the mean is known to half an ulp of itself, which is what x - mean then lacks.
    const lost = dtype === 'float64' ? 2 ** -50 * Math.abs(mean) : 0;
    const scale = Math.abs(affine.weight?.[0] ?? 1) / Math.sqrt(variance + eps);
    const terms = largest(expected.y) + 2 * Math.abs(affine.bias?.[0] ?? 0) + largest(residual ?? []);
    const y = rectified(expected.y, residual, relu);
    expectClose(
      [arrays.mean[channel]],
      [mean],
      share * (Math.abs(mean) + Math.sqrt(variance)),
      `mean ${where}`,
    );
    expectClose(
      [arrays.variance[channel]],
      [variance],
      2 * share * variance + 2 * lost * (Math.sqrt(variance) + lost),
      `variance ${where}`,
    );
    expectClose(valuesOf(arrays.y), y, share * terms + 2 * lost * scale, `y ${where}`);
    // The gate is that of the result that was given: one that is 0 but for rounding may be either.
    const given = valuesOf(arrays.y);
    const gradient = relu ? dy.map((value, i) => (given[i] > 0 ? value : 0)) : dy;
    const gradients = reference.backwardTraining(gradient, x, alone, { eps, weight: affine.weight });
    const { magnitude } = gradients;
    const slack = share + (lost / Math.sqrt(variance + eps)) * 4;
    const expectGradient = (name: 'dWeight' | 'dBias') => {
      const actual = arrays[`${name} (training)`];
      if (actual)
        expectClose([actual[channel]], gradients[name], slack * magnitude[name][0], `${name} ${where}`);
    };
    expectGradient('dWeight');
    expectGradient('dBias');
    const dx = arrays['dx (training)'];
    if (dx) expectClose(valuesOf(dx), gradients.dx, slack * magnitude.dx[0], `dx ${where}`);
    const dResidual = arrays['dResidual (training)'];
    if (dResidual) expectSame(valuesOf(dResidual), gradient, `dResidual ${where}`);
  }
}

describe('native, WebAssembly and the textbook', () => {
  holds('agree: to the bit, and to rounding', 150, () =>
    fc.property(drawnCase, (drawn) => {
      const inputs = inputsOf(drawn);
      const expected = resultsOf(wasm ?? nativeOn(simple), drawn, inputs);
      const actual = resultsOf(nativeOn(drawn.machine), drawn, inputs);
      expect(Object.keys(actual.arrays)).toEqual(Object.keys(expected.arrays));
      for (const [name, values] of Object.entries(expected.arrays))
        expectSame(actual.arrays[name], values, `${name} on the native backend`);
      expect(actual.rejected).toBe(expected.rejected);
      expect(actual.inPlace).toEqual(expected.inPlace);
      expectSame(expected.arrays.run, expected.arrays.inferred, 'what a frozen layer gives');
      expectTextbook(drawn, inputs, expected);
    }),
  );
});
