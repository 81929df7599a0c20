// The life of a layer, its calls in any order, against a plain model of it in doubles.
import fc from 'fast-check';
import { afterEach, describe, expect } from 'vitest';
import {
  BatchNorm,
  type DType,
  type FloatArray,
  type FrozenBatchNorm,
  setThreads,
  type Tensor,
  threads,
} from '../../lib/index.js';
import { holds } from '../support/fuzz.js';
import { Random } from '../support/random.js';
import * as reference from '../support/reference.js';
import {
  channelAt,
  channelValues,
  expectClose,
  expectSame,
  extentsOf,
  largest,
  randomActivations,
  randomNormals,
  randomParameters,
  rounding,
  shared,
  sizeOf,
} from '../support/tensors.js';

// biome-ignore lint/suspicious/noExplicitAny: a layer of either dtype
type Layer = BatchNorm<any>;

const channels = 3;

const options = fc.record({
  axis: fc.constantFrom(0, 1, -1),
  eps: fc.constantFrom(1e-5, 1e-3),
  dtype: fc.constantFrom<DType>('float32', 'float64'),
  decay: fc.constantFrom<number | 'cumulative'>(0.9, 0, 1, 'cumulative'),
  unbiasedRunningVar: fc.boolean(),
  weight: fc.boolean(),
  bias: fc.boolean(),
  trackRunningStats: fc.integer({ min: 0, max: 4 }).map((value) => value > 0),
  activation: fc.constantFrom<'relu' | undefined>('relu', undefined),
  reuse: fc.boolean(),
});
type Options = typeof options extends fc.Arbitrary<infer Drawn> ? Drawn : never;

interface Statistics {
  mean: Float64Array;
  variance: Float64Array;
}

interface Parameters {
  weight: FloatArray | null;
  bias: FloatArray | null;
}

/** What the last forward left for a backward. */
interface Forward {
  x: FloatArray;
  shape: readonly number[];
  isOverwritten: boolean;
  weight: FloatArray | null;
  /** undefined where they are those of x. */
  statistics: Statistics | undefined;
  /** Where the gradient passes, as the y that was given has it. */
  passes: boolean[];
  residual: boolean;
}

/** A forward from its call on; without `forward` it is not done, or was refused. */
interface Call {
  forward?: Forward;
  leaves: { input: boolean; parameters: boolean };
}

/** What can be known of a layer without looking into it. */
class Model {
  training = true;
  tracked = 0;
  rejected = 0;
  /** Batches that each channel has missed since a state was loaded. */
  missed = new Float64Array(channels);
  running: Statistics = {
    mean: new Float64Array(channels),
    variance: new Float64Array(channels).fill(1),
  };
  parameters: Parameters;
  /** Of each mode, the forward that was called last, and the last that is done. */
  called: Record<string, Call | undefined> = {};
  done: Record<string, Call | undefined> = {};
  grads: Parameters;
  readonly share: number;

  constructor(readonly options: Options) {
    const of = (value: number) => Array.from({ length: channels }, () => value) as unknown as FloatArray;
    this.parameters = { weight: options.weight ? of(1) : null, bias: options.bias ? of(0) : null };
    this.grads = { weight: options.weight ? of(0) : null, bias: options.bias ? of(0) : null };
    this.share = 2 * rounding[options.dtype];
  }

  update({ mean, variance }: Statistics, count: number): void {
    const { decay, unbiasedRunningVar: unbiased } = this.options;
    this.tracked++;
    for (let c = 0; c < channels; c++) {
      const own = decay === 'cumulative' ? 1 - 1 / (this.tracked - this.missed[c]) : decay;
      const one = (values: Float64Array) => [values[c]];
      const updated = reference.updatedRunningStats(
        { mean: one(this.running.mean), variance: one(this.running.variance) },
        { mean: one(mean as Float64Array), variance: one(variance as Float64Array), count },
        { decay: own, unbiased },
      );
      if (!Number.isFinite(updated.mean[0]) || !Number.isFinite(updated.variance[0])) {
        this.rejected++;
        this.missed[c]++;
        continue;
      }
      this.running.mean[c] = updated.mean[0];
      this.running.variance[c] = updated.variance[0];
    }
  }
}

/** The layer, what was made of it, and what is on its way. */
interface Real {
  layer: Layer;
  states: {
    given: ReturnType<Layer['stateDict']>;
    running: Statistics;
    parameters: Parameters;
    tracked: number;
  }[];
  frozen: {
    layer: FrozenBatchNorm;
    isDisposed: boolean;
    relu: boolean;
    running: Statistics;
    parameters: Parameters;
  }[];
  pending: Promise<void>[];
}

const copyOf = <T extends FloatArray | null>(values: T): T => (values?.slice() ?? null) as T;
const copyOfStatistics = ({ mean, variance }: Statistics) => ({
  mean: mean.slice(),
  variance: variance.slice(),
});
const copyOfParameters = ({ weight, bias }: Parameters) => ({ weight: copyOf(weight), bias: copyOf(bias) });

function settle({ pending }: Real): Promise<unknown> {
  return Promise.all(pending.splice(0));
}

// ---- Tensors ----

const batch = fc.record({
  stream: fc.nat(),
  samples: fc.integer({ min: 0, max: 9 }),
  positions: fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 2 }),
  isHostile: fc.integer({ min: 0, max: 4 }).map((value) => value === 0),
  isShared: fc.boolean(),
});
type Batch = typeof batch extends fc.Arbitrary<infer Drawn> ? Drawn : never;

function shapeOf(axis: number, { samples, positions }: Batch): number[] {
  if (axis === 0) return [channels, samples, ...positions];
  return axis === 1 ? [samples, channels, ...positions] : [samples, ...positions, channels];
}

function batchOf({ axis, dtype }: Options, drawn: Batch) {
  const { stream, isHostile, isShared } = drawn;
  const shape = shapeOf(axis, drawn);
  const extents = extentsOf(shape, axis);
  const random = new Random(stream);
  const values = randomActivations(random, dtype, extents);
  if (isHostile && values.length > 0)
    values[random.integer(0, values.length - 1)] = random.pick([Number.NaN, Infinity, -Infinity]);
  const residual = randomNormals(random, dtype, values.length);
  return { data: isShared ? shared(values) : values, shape, extents, residual };
}

function finite(values: ArrayLike<number>): number[] {
  return Array.from(values).filter(Number.isFinite);
}

/** In doubles the mean is known to half an ulp of itself, which is what x - mean then lacks. */
function lostOf(dtype: DType, mean: number): number {
  return dtype === 'float64' ? 2 ** -50 * Math.abs(mean) : 0;
}

/** y by the textbook, and how far the layer's may be from it. */
function expectForward(
  actual: FloatArray,
  x: FloatArray,
  extents: reference.Extents,
  { eps, dtype }: { eps: number; dtype: DType },
  { weight, bias }: Parameters,
  statistics: Statistics | undefined,
  residual: FloatArray | undefined,
  relu: boolean,
): { mean: Float64Array; variance: Float64Array; count: number } {
  const affine = { eps, weight, bias };
  const trained = reference.forwardTraining(x, extents, affine);
  const y = statistics ? reference.forwardInference(x, extents, { ...affine, ...statistics }) : trained.y;
  const channelOf = channelAt(extents);
  const tolerances = Array.from({ length: extents.channels }, (_, c) => {
    const terms = largest(finite(channelValues(y, extents, c))) + 2 * Math.abs(bias?.[c] ?? 0);
    const { mean, variance } = statistics ?? trained;
    const scale = Math.abs(weight?.[c] ?? 1) / Math.sqrt(variance[c] + eps);
    const lost = Number.isFinite(scale * mean[c]) ? scale * lostOf(dtype, mean[c]) : 0;
    return 2 * rounding[dtype] * (terms + largest(residual ?? [])) + 2 * lost;
  });
  const expected = y.map((value, i) => {
    const sum = value + (residual ? residual[i] : 0);
    return relu && sum <= 0 ? 0 : sum;
  });
  expectClose(actual, expected, (i) => tolerances[channelOf(i)], 'y');
  return trained;
}

// ---- Commands ----

type How = 'at once' | 'later' | 'later, in shared memory or moved';

/** A call that gives a result or a code: at once when all before is done, or later, while others follow. */
async function perform<R>(
  real: Real,
  how: How,
  call: () => R | Promise<R>,
  /** When its turn has come: the code of its error, or undefined. */
  refusal: () => string | undefined,
  check: (result: R) => void,
): Promise<void> {
  if (how === 'at once') await settle(real);
  // What a call at once gives may be overwritten by the next: it is looked at before anything else runs.
  let outcome: { result: R } | { error: unknown } | undefined;
  const judge = () => {
    const code = refusal();
    if (outcome !== undefined && 'result' in outcome) {
      expect(code, 'the code of the error that must come').toBeUndefined();
      check(outcome.result);
    } else {
      const { error } = outcome as { error: Error & { code?: string } };
      expect(error.code, String(error?.stack)).toBe(code);
    }
  };
  if (how === 'at once') {
    try {
      outcome = { result: call() as R };
    } catch (error) {
      outcome = { error };
    }
    judge();
    return;
  }
  const done = (call() as Promise<R>).then(
    (result) => {
      outcome = { result };
      judge();
    },
    (error: unknown) => {
      outcome = { error };
      judge();
    },
  );
  // Heard of when it is waited for.
  done.catch(() => {});
  real.pending.push(done);
}

type Command = fc.AsyncCommand<Model, Real>;

abstract class Always implements Command {
  check(): boolean {
    return true;
  }
  abstract run(model: Model, real: Real): Promise<void>;
  abstract toString(): string;
}

class ForwardCommand extends Always {
  constructor(
    readonly drawn: Batch,
    readonly how: How,
    readonly out: 'none' | 'elsewhere' | 'in place',
    readonly residual: boolean,
    readonly updateStats: boolean,
  ) {
    super();
  }

  async run(model: Model, real: Real): Promise<void> {
    const { options, training } = model;
    const { data, shape, extents, residual } = batchOf(options, this.drawn);
    const x = data.slice();
    const parameters = copyOfParameters(model.parameters);
    const isShared = data.buffer instanceof SharedArrayBuffer;
    const transfer = this.how === 'later, in shared memory or moved' && !isShared;
    const out = transfer || this.out === 'none' ? undefined : this.out === 'in place' ? data : x.slice();
    const count = extents.outer * extents.inner;
    const batchStats = training || !options.trackRunningStats;
    const called: Call = { leaves: { input: true, parameters: true } };
    if (this.how !== 'at once') model.called[`${training}`] = called;
    const given = {
      out,
      updateStats: this.updateStats,
      residual: this.residual ? { data: residual, shape } : undefined,
    };
    await perform<Tensor>(
      real,
      this.how,
      () =>
        this.how === 'at once'
          ? real.layer.forward({ data, shape }, given)
          : real.layer.forwardAsync({ data, shape }, { ...given, transfer }),
      () => (batchStats && count === 1 ? 'ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL' : undefined),
      (result) => {
        expect(result.shape).toEqual(shape);
        if (out) expect(result.data).toBe(out);
        const y = result.data.slice();
        const relu = options.activation === 'relu';
        const statistics = batchStats ? undefined : copyOfStatistics(model.running);
        const used = this.residual ? residual : undefined;
        const batch = expectForward(y, x, extents, options, parameters, statistics, used, relu);
        model.called[`${training}`] = this.how === 'at once' ? called : model.called[`${training}`];
        model.done[`${training}`] = called;
        called.forward = {
          x,
          shape,
          isOverwritten: out === data && x.length > 0 && (this.how === 'at once' || isShared),
          weight: parameters.weight,
          statistics,
          passes: Array.from(y, (value) => !relu || !(value <= 0)),
          residual: this.residual,
        };
        if (training && this.updateStats && options.trackRunningStats && count > 0) {
          model.update(batch, count);
          expectRunning(model, real, batch);
        }
      },
    );
  }

  toString(): string {
    return `forward(${JSON.stringify({ ...this })})`;
  }
}

/** The running statistics; from here on the model goes by those of the layer, so that rounding does not add up. */
function expectRunning(
  { running, share, tracked, rejected }: Model,
  { layer }: Real,
  batch: Statistics,
): void {
  const spread = (c: number) =>
    Math.abs(running.mean[c]) +
    (Number.isFinite(batch.variance[c]) ? Math.abs(batch.mean[c]) + Math.sqrt(batch.variance[c]) : 0);
  expectClose(layer.runningMean as Float64Array, running.mean, (c) => share * spread(c), 'runningMean');
  expectClose(
    layer.runningVar as Float64Array,
    running.variance,
    (c) => 2 * share * running.variance[c],
    'runningVar',
  );
  running.mean.set(layer.runningMean as Float64Array);
  running.variance.set(layer.runningVar as Float64Array);
  expect(layer.batchesTracked).toBe(tracked);
  expect(layer.rejectedUpdates).toBe(rejected);
}

class BackwardCommand extends Always {
  constructor(
    readonly drawn: Batch,
    readonly how: How,
    readonly out: 'none' | 'elsewhere' | 'in place',
    readonly only: 'input' | 'parameters' | undefined,
    /** Whether dy has the shape of the last forward. */
    readonly fits: boolean,
    readonly retain: boolean,
    readonly accumulate: boolean,
  ) {
    super();
  }

  async run(model: Model, real: Real): Promise<void> {
    const { options } = model;
    // What it will go back through is known when that is done.
    if (this.fits || this.how === 'at once') await settle(real);
    const mode = `${model.training}`;
    const call = this.how === 'at once' ? model.done[mode] : model.called[mode];
    const shape = (this.fits && call?.forward?.shape) || shapeOf(options.axis, this.drawn);
    const extents = extentsOf(shape, options.axis);
    const dy = randomNormals(new Random(this.drawn.stream), options.dtype, sizeOf(extents));
    const data = this.drawn.isShared ? shared(dy) : dy.slice();
    const transfer = this.how === 'later, in shared memory or moved' && !this.drawn.isShared;
    const out =
      transfer || this.only === 'parameters' || this.out === 'none'
        ? undefined
        : this.out === 'in place'
          ? data
          : dy.slice();
    const accumulate = this.accumulate && this.only !== 'input';
    const given = { out, only: this.only, retain: this.retain, accumulate };
    const { layer } = real;
    await perform(
      real,
      this.how,
      () =>
        this.how === 'at once'
          ? layer.backward({ data, shape }, given)
          : layer.backwardAsync({ data, shape }, { ...given, transfer }),
      () => {
        if (call?.forward === undefined) return 'ERR_BATCHNORM_NO_FORWARD';
        const { leaves, forward } = call;
        if (this.only !== 'parameters' && !leaves.input) return 'ERR_BATCHNORM_NO_FORWARD';
        if (this.only !== 'input' && !leaves.parameters) return 'ERR_BATCHNORM_NO_FORWARD';
        if (forward.isOverwritten) return 'ERR_BATCHNORM_INPUT_OVERWRITTEN';
        const isSame = forward.shape.join() === shape.join();
        return isSame ? undefined : 'ERR_BATCHNORM_INVALID_VALUE';
      },
      ({ dx, dWeight, dBias, dResidual }) => {
        const { forward: last, leaves } = call as Call & { forward: Forward };
        const wantsInput = this.only !== 'parameters';
        const wantsParameters = this.only !== 'input';
        if (!this.retain && wantsInput) leaves.input = false;
        if (!this.retain && wantsParameters) leaves.parameters = false;
        expect(dx !== undefined).toBe(wantsInput);
        expect(dResidual !== undefined).toBe(wantsInput && last.residual);
        expect(dWeight !== undefined).toBe(wantsParameters && options.weight);
        expect(dBias !== undefined).toBe(wantsParameters && options.bias);
        if (out) expect(dx?.data).toBe(out);
        const gated = dy.map((value, i) => (last.passes[i] ? value : 0)) as FloatArray;
        const { eps } = options;
        const expected = last.statistics
          ? reference.backwardFrozen(gated, last.x, extents, { eps, weight: last.weight, ...last.statistics })
          : reference.backwardTraining(gated, last.x, extents, { eps, weight: last.weight });
        const { magnitude } = expected;
        const channelOf = channelAt(extents);
        const { mean, variance } = last.statistics ?? reference.moments(last.x, extents);
        const slacks = Array.from({ length: channels }, (_, c) => {
          const lost = lostOf(options.dtype, mean[c]) / Math.sqrt(variance[c] + eps);
          return model.share + (Number.isFinite(lost) ? 4 * lost : 0);
        });
        const tolerance = (i: number) => slacks[channelOf(i)] * magnitude.dx[channelOf(i)];
        if (dx) expectClose(dx.data, expected.dx, tolerance, 'dx');
        if (dResidual) expectSame(dResidual.data, gated, 'dResidual');
        // Sums of infinities are the textbook's weak point.
        const isSound = Array.from(
          { length: channels },
          (_, c) => finite(channelValues(last.x, extents, c)).length === extents.outer * extents.inner,
        );
        for (const [name, actual] of Object.entries({ dWeight, dBias })) {
          if (actual === undefined) continue;
          const key = name as 'dWeight' | 'dBias';
          const known = (values: ArrayLike<number>) => Array.from(values).filter((_, c) => isSound[c]);
          const allowed = known(magnitude[key].map((size, c) => slacks[c] * size));
          expectClose(known(actual), known(expected[key]), (i) => allowed[i], name);
          const parameter = layer
            .parameters()
            .find((one) => one.name === (name === 'dWeight' ? 'weight' : 'bias'));
          const kept = name === 'dWeight' ? 'weight' : 'bias';
          const before = model.grads[kept] as FloatArray;
          const sums = actual.map((value, c) => (accumulate ? before[c] : 0) + value) as FloatArray;
          const grad = parameter?.grad as FloatArray;
          expectSame(grad, accumulate ? sums : actual, `the gradient of ${kept}`);
          model.grads[kept] = grad.slice() as FloatArray;
        }
      },
    );
  }

  toString(): string {
    return `backward(${JSON.stringify({ ...this })})`;
  }
}

class Mode extends Always {
  constructor(readonly training: boolean) {
    super();
  }
  async run(model: Model, { layer }: Real): Promise<void> {
    expect(layer.train(this.training)).toBe(layer);
    model.training = this.training;
    expect(layer.training).toBe(this.training);
  }
  toString(): string {
    return `train(${this.training})`;
  }
}

/** As an optimizer does: into the live arrays. */
class Learn extends Always {
  constructor(readonly stream: number) {
    super();
  }
  async run(model: Model, { layer }: Real): Promise<void> {
    const { weight, bias } = randomParameters(new Random(this.stream), model.options.dtype, channels);
    if (layer.weight) model.parameters.weight = weight;
    if (layer.bias) model.parameters.bias = bias;
    layer.weight?.set(weight);
    layer.bias?.set(bias);
  }
  toString(): string {
    return `learn(${this.stream})`;
  }
}

class Clear extends Always {
  async run(model: Model, real: Real): Promise<void> {
    await settle(real);
    real.layer.clear();
    model.called = {};
    model.done = {};
  }
  toString(): string {
    return 'clear()';
  }
}

class Save extends Always {
  async run(model: Model, real: Real): Promise<void> {
    await settle(real);
    const { running, parameters, tracked } = model;
    real.states.push({
      given: real.layer.stateDict(),
      running: copyOfStatistics(running),
      parameters: {
        weight: copyOf(real.layer.weight),
        bias: copyOf(real.layer.bias),
      },
      tracked,
    });
    expect(Array.from(real.layer.weight ?? [])).toEqual(Array.from(parameters.weight ?? []));
    expect(Array.from(real.layer.bias ?? [])).toEqual(Array.from(parameters.bias ?? []));
  }
  toString(): string {
    return 'stateDict()';
  }
}

class Load implements Command {
  constructor(
    readonly index: number,
    readonly isWrong: boolean,
  ) {}
  check(): boolean {
    return true;
  }
  async run(model: Model, real: Real): Promise<void> {
    await settle(real);
    const { layer, states } = real;
    if (states.length === 0) return;
    const { given, running, parameters, tracked } = states[this.index % states.length];
    if (this.isWrong) {
      const before = layer.stateDict();
      expect(() => layer.loadStateDict({ ...given, num_batches_tracked: -1 })).toThrow(/must/);
      expect(layer.stateDict()).toEqual(before);
      return;
    }
    layer.loadStateDict(given);
    if (model.options.trackRunningStats) {
      model.running = copyOfStatistics(running);
      model.tracked = tracked;
    }
    model.parameters = copyOfParameters(parameters);
    model.missed.fill(0);
    expect(layer.stateDict()).toEqual(given);
  }
  toString(): string {
    return `loadStateDict(${this.index}, ${this.isWrong})`;
  }
}

class Freeze extends Always {
  constructor(readonly relu: boolean) {
    super();
  }
  async run(model: Model, real: Real): Promise<void> {
    await settle(real);
    const { layer } = real;
    const freeze = () => layer.freeze(this.relu ? { activation: 'relu' } : undefined);
    if (!model.options.trackRunningStats) {
      expect(freeze).toThrow(/trackRunningStats: false/);
      return;
    }
    real.frozen.push({
      layer: freeze(),
      isDisposed: false,
      relu: this.relu || model.options.activation === 'relu',
      running: copyOfStatistics(model.running),
      parameters: { weight: copyOf(layer.weight), bias: copyOf(layer.bias) },
    });
  }
  toString(): string {
    return `freeze(${this.relu})`;
  }
}

class Run extends Always {
  constructor(
    readonly index: number,
    readonly drawn: Batch,
    readonly how: How,
    readonly residual: boolean,
    readonly inPlace: boolean,
  ) {
    super();
  }
  async run({ options }: Model, real: Real): Promise<void> {
    if (real.frozen.length === 0) return;
    const frozen = real.frozen[this.index % real.frozen.length];
    const { data, shape, extents, residual } = batchOf(options, this.drawn);
    const x = data.slice();
    const isShared = data.buffer instanceof SharedArrayBuffer;
    const transfer = this.how === 'later, in shared memory or moved' && !isShared;
    const given = {
      out: this.inPlace && !transfer ? data : undefined,
      residual: this.residual ? { data: residual, shape } : undefined,
    };
    const code = frozen.isDisposed ? 'ERR_BATCHNORM_DISPOSED' : undefined;
    await perform<Tensor>(
      real,
      this.how,
      () =>
        this.how === 'at once'
          ? frozen.layer.run({ data, shape }, given)
          : frozen.layer.runAsync({ data, shape }, { ...given, transfer }),
      () => code,
      (result) => {
        expect(result.shape).toEqual(shape);
        const { parameters, running, relu } = frozen;
        const used = this.residual ? residual : undefined;
        expectForward(result.data, x, extents, options, parameters, running, used, relu);
      },
    );
  }
  toString(): string {
    return `run(${JSON.stringify({ ...this })})`;
  }
}

class Dispose extends Always {
  constructor(readonly index: number) {
    super();
  }
  async run(_: Model, { frozen }: Real): Promise<void> {
    if (frozen.length === 0) return;
    const one = frozen[this.index % frozen.length];
    one.layer[Symbol.dispose]();
    one.isDisposed = true;
  }
  toString(): string {
    return `dispose(${this.index})`;
  }
}

class Settle extends Always {
  async run(_: Model, real: Real): Promise<void> {
    await settle(real);
  }
  toString(): string {
    return 'settle';
  }
}

class Threads extends Always {
  constructor(readonly count: number) {
    super();
  }
  async run(): Promise<void> {
    setThreads(this.count);
  }
  toString(): string {
    return `setThreads(${this.count})`;
  }
}

const how = fc.constantFrom<How>('at once', 'later', 'later, in shared memory or moved');
const place = fc.constantFrom<'none' | 'elsewhere' | 'in place'>('none', 'none', 'elsewhere', 'in place');
const part = fc.constantFrom<'input' | 'parameters' | undefined>(undefined, undefined, 'input', 'parameters');
const mostly = fc.integer({ min: 0, max: 5 }).map((value) => value > 0);

const forward = fc
  .tuple(batch, how, place, fc.boolean(), mostly)
  .map((drawn) => new ForwardCommand(...drawn));
const rarely = fc.integer({ min: 0, max: 3 }).map((value) => value === 0);
const backward = fc
  .tuple(batch, how, place, part, mostly, rarely, rarely)
  .map((drawn) => new BackwardCommand(...drawn));
/** Each as often as it stands here: most of a life is training. */
const commands = [
  ...Array.from({ length: 8 }, () => forward),
  ...Array.from({ length: 3 }, () => backward),
  mostly.map((training) => new Mode(training)),
  fc.nat().map((stream) => new Learn(stream)),
  fc.constant(new Clear()),
  fc.constant(new Save()),
  fc
    .tuple(
      fc.nat(7),
      mostly.map((value) => !value),
    )
    .map((drawn) => new Load(...drawn)),
  fc.boolean().map((relu) => new Freeze(relu)),
  fc.tuple(fc.nat(7), batch, how, fc.boolean(), fc.boolean()).map((drawn) => new Run(...drawn)),
  fc.nat(7).map((index) => new Dispose(index)),
  fc.constant(new Settle()),
  fc.integer({ min: 1, max: 4 }).map((count) => new Threads(count)),
];

const atStart = threads();
afterEach(() => setThreads(atStart));

describe('the life of a layer', () => {
  holds('is that of a model in doubles, in any order of calls', 250, () =>
    fc.asyncProperty(
      options,
      fc.commands(commands, { size: 'max', maxCommands: 40 }),
      async (drawn, calls) => {
        const model = new Model(drawn);
        const real: Real = { layer: new BatchNorm(channels, drawn), states: [], frozen: [], pending: [] };
        try {
          await fc.asyncModelRun(() => ({ model, real }), calls);
        } finally {
          await settle(real);
        }
      },
    ),
  );
});
