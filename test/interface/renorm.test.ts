// Batch renormalization: training that follows the running statistics.
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  type BatchNormOptions,
  type FloatArray,
  GradientSums,
  type Missing,
  Moments,
  type ProcessGroup,
  type Renorm,
} from '../../lib/index.js';
import kerasNumbers from '../support/keras-renorm.json' with { type: 'json' };
import { expectListed } from '../support/messages.js';
import * as counted from '../support/presence.js';
import { Random, seedNote } from '../support/random.js';
import * as reference from '../support/reference.js';
import * as textbook from '../support/renorm.js';
import {
  differenceOf,
  eachSummedKind,
  expectClose,
  expectSame,
  extentsOf,
  type FloatDType,
  kinds,
  type Layout,
  largest,
  randomActivations,
  randomNormals,
  randomParameters,
  rounding,
  typed,
} from '../support/tensors.js';

interface Tensor {
  data: FloatArray;
  shape: readonly number[];
}

interface Case {
  readonly x: Tensor;
  readonly dy: Tensor;
  readonly residual: Tensor | undefined;
  readonly axis: number;
  readonly relu: boolean;
  readonly renorm: Renorm;
  readonly parameters: { readonly weight: FloatArray; readonly bias: FloatArray };
  readonly running: { readonly mean: Float64Array; readonly variance: Float64Array };
}

const eps = 1e-3;
const channels = 5;

function draw(random: Random, dtype: FloatDType, layout: Layout, samples = 24, positions = 6): Case {
  const shape = layout.shape(samples, channels, positions);
  const { axis } = layout;
  const data = randomActivations(random, dtype, extentsOf(shape, axis));
  return {
    x: { data, shape },
    dy: { data: randomNormals(random, dtype, data.length), shape },
    residual: random.uniform() < 0.5 ? { data: randomNormals(random, dtype, data.length), shape } : undefined,
    axis,
    relu: random.uniform() < 0.5,
    renorm: {
      rMax: random.pick([1, 1.1, 2, Infinity]),
      dMax: random.pick([0, 0.1, 1, Infinity]),
    },
    parameters: randomParameters(random, dtype, channels),
    running: {
      mean: Float64Array.from({ length: channels }, () => random.normal(0, 2)),
      variance: Float64Array.from({ length: channels }, () => random.uniform(0.1, 9)),
    },
  };
}

function layerFor(
  drawn: Case,
  dtype: FloatDType,
  options: BatchNormOptions<FloatDType> = {},
): BatchNorm<FloatDType> {
  const { axis, relu, renorm, parameters, running } = drawn;
  const activation = relu ? ('relu' as const) : undefined;
  const bn = new BatchNorm<FloatDType>(channels, { dtype, axis, eps, renorm, activation, ...options });
  bn.weight?.set(parameters.weight);
  bn.bias?.set(parameters.bias);
  bn.runningMean?.set(running.mean);
  bn.runningVar?.set(running.variance);
  return bn;
}

function passOf({ x, axis, parameters, relu, residual }: Case): textbook.Pass {
  return { x: x.data, extents: extentsOf(x.shape, axis), eps, ...parameters, relu, residual: residual?.data };
}

function correctionOf(drawn: Case): textbook.Correction {
  const { x, axis, renorm, running } = drawn;
  return textbook.correction(reference.moments(x.data, extentsOf(x.shape, axis)), running, eps, renorm);
}

/** Where a ReLU is at its edge, rounding decides: there neither gradient is wrong. */
function awayFromEdges(y: Float64Array, dy: FloatArray): void {
  for (let i = 0; i < y.length; i++) if (Math.abs(y[i]) < 1e-3) dy[i] = 0;
}

describe(`batch renormalization (${seedNote})`, () => {
  eachSummedKind('forward and backward are the textbook’s', ({ dtype, layout }) => {
    for (let run = 0; run < 40; run++) {
      const random = new Random(run);
      const drawn = draw(random, dtype, layout);
      const { weight, bias } = random.pick([
        { weight: true, bias: true },
        { weight: true, bias: false },
        { weight: false, bias: true },
        { weight: false, bias: false },
      ]);
      const whole = passOf(drawn);
      const pass = {
        ...whole,
        weight: weight ? whole.weight : undefined,
        bias: bias ? whole.bias : undefined,
      };
      const of = correctionOf(drawn);
      const y = textbook.forward(pass, of);
      if (drawn.relu) awayFromEdges(textbook.forward({ ...pass, relu: false }, of), drawn.dy.data);
      const wanted = textbook.backward(pass, drawn.dy.data, of);
      const bn = layerFor(drawn, dtype, { weight, bias });
      const share = 2 * rounding[dtype];
      expectClose(
        bn.forward(drawn.x, { residual: drawn.residual }).data,
        y,
        share * Math.max(1, largest(y)),
        `${run} y`,
      );
      const gradients = bn.backward(drawn.dy);
      const { magnitude } = wanted;
      expectClose(gradients.dx?.data ?? [], wanted.dx, share * Math.max(...magnitude.dx), `run ${run} dx`);
      if (drawn.residual)
        expectClose(gradients.dResidual?.data ?? [], wanted.dResidual, 0, `run ${run} dResidual`);
      for (const name of ['dWeight', 'dBias'] as const) {
        expect(gradients[name] !== undefined).toBe(name === 'dWeight' ? weight : bias);
        if (gradients[name])
          expectClose(gradients[name], wanted[name], (c) => share * magnitude[name][c], `run ${run} ${name}`);
      }
      // As ever.
      const { mean, variance, count } = reference.moments(pass.x, pass.extents);
      const after = reference.updatedRunningStats(
        drawn.running,
        { mean, variance, count },
        { decay: 0.9, unbiased: true },
      );
      expectClose(bn.runningMean ?? [], after.mean, share * largest(after.mean), 'running mean');
      expectClose(bn.runningVar ?? [], after.variance, share * largest(after.variance), 'running variance');
      expect([bn.batchesTracked, bn.lastMoments?.count[0]]).toEqual([1, count]);
    }
  });

  it('dx is that of finite differences, where r and d are at their bounds', () => {
    for (let run = 0; run < 8; run++) {
      const random = new Random(100 + run);
      const drawn = { ...draw(random, 'float64', random.pick(kinds).layout, 4, 3), relu: false };
      const bounded: Case = {
        ...drawn,
        renorm: { rMax: 1.25, dMax: 0.5 },
        running: {
          mean: drawn.running.mean.fill(run % 2 ? 500 : -500),
          variance: drawn.running.variance.fill(run % 3 ? 1e4 : 1e-4),
        },
      };
      const bn = layerFor(bounded, 'float64', { eps: 0.01 });
      const { x, dy } = bounded;
      const loss = () => {
        const y = bn.forward(x, { updateStats: false }).data;
        let sum = 0;
        for (let i = 0; i < y.length; i++) sum += y[i] * dy.data[i];
        return sum;
      };
      bn.forward(x, { updateStats: false });
      const { dx, dWeight, dBias } = bn.backward(dy);
      const difference = differenceOf(loss);
      for (let i = 0; i < x.data.length; i++)
        expect(dx?.data[i], `run ${run} dx[${i}]`).toBeCloseTo(difference(x.data, i), 5);
      for (let c = 0; c < channels; c++) {
        expect(dWeight?.[c], `run ${run} dWeight[${c}]`).toBeCloseTo(
          difference(bn.weight as FloatArray, c),
          5,
        );
        expect(dBias?.[c], `run ${run} dBias[${c}]`).toBeCloseTo(difference(bn.bias as FloatArray, c), 5);
      }
    }
  });

  eachSummedKind('with rMax 1 and dMax 0 is batch norm', ({ dtype, layout }) => {
    const drawn = draw(new Random(200), dtype, layout);
    const bn = layerFor(drawn, dtype, { renorm: { rMax: 1, dMax: 0 } });
    const plain = layerFor(drawn, dtype, { renorm: undefined });
    const { residual } = drawn;
    const y = plain.forward(drawn.x, { residual });
    expectClose(bn.forward(drawn.x, { residual }).data, y.data, rounding[dtype] * largest(y.data), 'y');
    const [of, wanted] = [bn.backward(drawn.dy), plain.backward(drawn.dy)];
    const share = rounding[dtype] * largest(wanted.dx?.data ?? []);
    expectClose(of.dx?.data ?? [], wanted.dx?.data ?? [], share, 'dx');
    expectSame(of.dBias ?? [], wanted.dBias ?? [], 'dBias');
    expectSame(bn.runningVar ?? [], plain.runningVar ?? [], 'running variance');
  });

  eachSummedKind('without bounds gives what evaluation before the batch gives', ({ dtype, layout }) => {
    const drawn = { ...draw(new Random(300), dtype, layout), renorm: { rMax: Infinity, dMax: Infinity } };
    const bn = layerFor(drawn, dtype);
    const { residual } = drawn;
    const y = bn.eval().forward(drawn.x, { residual });
    const made = bn.train().forward(drawn.x, { residual });
    expectClose(made.data, y.data, rounding[dtype] * largest(y.data), 'y');
    expect(bn.batchesTracked).toBe(1);
  });

  eachSummedKind('at once and later, in halves, in place and again', async ({ dtype, layout }) => {
    for (let run = 0; run < 6; run++) {
      const drawn = draw(new Random(400 + run), dtype, layout);
      const { x, dy, residual } = drawn;
      const bn = layerFor(drawn, dtype);
      const y = bn.forward(x, { residual });
      const wanted = bn.backward(dy, { retain: true });
      const check = (of: typeof wanted, names: readonly string[]) => {
        expect(Object.keys(of).sort()).toEqual([...names].sort());
        for (const name of ['dx', 'dResidual'] as const)
          if (of[name]) expectSame(of[name].data, wanted[name]?.data ?? [], name);
        for (const name of ['dWeight', 'dBias'] as const)
          if (of[name]) expectSame(of[name], wanted[name] ?? [], name);
      };
      const [inputs, all] = [residual ? ['dx', 'dResidual'] : ['dx'], Object.keys(wanted)];
      check(bn.backward(dy, { only: 'input', of: y, out: dy.data.slice() }), inputs);
      bn.zeroGrad();
      for (let i = 0; i < 2; i++)
        bn.backward(dy, { only: 'parameters', accumulate: true, of: y, retain: i < 1 });
      expectSame(
        bn.parameters()[0].grad,
        typed(
          dtype,
          (wanted.dWeight ?? []).map((value) => 2 * value),
        ),
        'sum',
      );

      const later = layerFor(drawn, dtype);
      const made = await later.forwardAsync(x, { residual });
      expectSame(made.data, y.data, 'y');
      check(await later.backwardAsync(dy, { retain: true }), all);
      check(await later.backwardAsync(dy, { only: 'input' }), inputs);
      check(await later.backwardAsync(dy, { only: 'parameters' }), ['dWeight', 'dBias']);
      expect(later.stateDict()).toEqual(bn.stateDict());

      const reusing = layerFor(drawn, dtype, { reuse: true });
      const copy = { data: x.data.slice(), shape: x.shape };
      expectSame(reusing.forward(copy, { residual, out: copy.data }).data, y.data, 'in place');
      expect(() => reusing.backward(dy)).toThrow(Error);
      const again = layerFor(drawn, dtype, { reuse: true });
      expectSame(again.forward(x, { residual }).data, y.data, 'in memory of the layer');
      const gradient = dy.data.slice();
      check(again.backward({ data: gradient, shape: dy.shape }, { out: gradient }), all);
    }
  });

  it('counts what counts: weights and missing values', () => {
    for (let run = 0; run < 60; run++) {
      const random = new Random(500 + run);
      const { dtype, layout } = random.pick(kinds);
      const drawn = draw(random, dtype, layout);
      const missing = random.pick<Missing>(['propagate', 'skip', 'impute']);
      const extents = extentsOf(drawn.x.shape, drawn.axis);
      const positions = extents.outer * extents.inner;
      const weights = Float64Array.from({ length: positions }, () =>
        random.pick([0, 1, 1, random.uniform(0, 3)]),
      );
      const outside = random.pick(['normalize', 'zero'] as const);
      if (missing !== 'propagate')
        for (let i = 0; i < drawn.x.data.length; i++)
          if (random.uniform() < 0.2) drawn.x.data[i] = Number.NaN;
      const counting: counted.Pass = {
        x: drawn.x.data,
        extents,
        eps,
        residual: drawn.residual?.data,
        weights,
        missing: missing !== 'propagate',
        impute: missing === 'impute',
        zero: outside === 'zero',
      };
      const statistics = counted.statistics(counting);
      const { r, d } = textbook.correction(statistics, drawn.running, eps, drawn.renorm);
      const { weight, bias } = drawn.parameters;
      const hasBias = random.uniform() < 0.7;
      // A batch norm of other parameters.
      const pass = {
        ...counting,
        relu: drawn.relu,
        weight: r.map((value, c) => value * weight[c]),
        bias: d.map((value, c) => value * weight[c] + (hasBias ? bias[c] : 0)),
      };
      if (drawn.relu) awayFromEdges(counted.forward({ ...pass, relu: false }, statistics), drawn.dy.data);
      const y = counted.forward(pass, statistics);
      const bn = layerFor(drawn, dtype, { missing, bias: hasBias });
      const share = 2 * rounding[dtype];
      const size = Math.max(1, largest(y.filter((value) => !Number.isNaN(value))));
      const made = bn.forward(drawn.x, { weights, outside, residual: drawn.residual });
      expectClose(made.data, y, share * size, `run ${run} y`);
      const wanted = counted.backward(pass, drawn.dy.data, statistics);
      const gradients = bn.backward(drawn.dy, { weightsGrad: true });
      const most =
        8 *
        largest(drawn.dy.data) *
        Math.max(1, largest(pass.weight.map((w, c) => w / Math.sqrt(statistics.variance[c] + eps))));
      expectClose(gradients.dx?.data ?? [], wanted.dx, share * most, `run ${run} dx`);
      const terms = positions * most * (1 + largest(d) + largest(r));
      if (hasBias) expectClose(gradients.dBias ?? [], wanted.dBias, share * terms, `run ${run} dBias`);
      else expect(gradients.dBias).toBeUndefined();
      const dWeight = wanted.dWeight.map((value, c) => r[c] * value + d[c] * wanted.dBias[c]);
      expectClose(gradients.dWeight ?? [], dWeight, share * terms, `run ${run} dWeight`);
      const perWeight = dtype === 'float32' ? 1e-6 : 1e-12;
      expectClose(
        gradients.dWeights ?? [],
        wanted.dWeights,
        perWeight * most * channels,
        `run ${run} dWeights`,
      );
    }
  });

  it('nothing that counts, or one value, is evaluation', () => {
    const x = { data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] };
    const renorm = { rMax: 1, dMax: 0 };
    const bn = new BatchNorm(2, { renorm, singleValue: 'running' });
    const wanted = new BatchNorm(2).eval().forward(x).data;
    expectSame(bn.forward(x, { weights: new Uint8Array(2) }).data, wanted, 'nothing');
    expectSame(bn.forward(x, { weights: Uint8Array.of(1, 0) }).data, wanted, 'one');
    expect(() => new BatchNorm(2, { renorm }).forward({ data: new Float32Array(2), shape: [1, 2] })).toThrow(
      'training needs more than one value per channel, got shape [1, 2]; call eval() or use a larger batch',
    );
    expect(bn.batchesTracked).toBe(0);
    expect([...bn.forward({ data: new Float32Array(0), shape: [0, 2] }).data]).toEqual([]);
    expect([...(bn.backward({ data: new Float32Array(0), shape: [0, 2] }).dWeight ?? [])]).toEqual([0, 0]);
  });

  eachSummedKind(
    'parts are the whole, with the running statistics from before the first',
    ({ dtype, layout }) => {
      const drawn = { ...draw(new Random(600), dtype, layout), relu: false, residual: undefined };
      const { x, dy, axis } = drawn;
      const size = x.data.length / x.shape[0];
      const cut = Math.floor(x.shape[0] / 3);
      const parts = ({ data, shape }: Tensor): Tensor[] => [
        { data: data.slice(0, cut * size), shape: [cut, ...shape.slice(1)] },
        { data: data.slice(cut * size), shape: [shape[0] - cut, ...shape.slice(1)] },
      ];
      const one = layerFor(drawn, dtype);
      const y = one.forward(x);
      const wanted = one.backward(dy);
      const moments = Moments.merge(...parts(x).map((part) => Moments.of(part, { axis })));
      const dys = parts(dy);
      const sums = GradientSums.merge(
        ...parts(x).map((part, i) => GradientSums.of(dys[i], part, { axis, eps, moments })),
      );
      const bn = layerFor(drawn, dtype);
      const made = parts(x).map((part) => bn.forward(part, { moments }));
      const share = 4 * rounding[dtype];
      const join = (tensors: Tensor[]) => tensors.flatMap(({ data }) => [...data]);
      expectClose(join(made as Tensor[]), y.data, share * largest(y.data), 'y');
      bn.zeroGrad();
      const gradients = made.map((of, i) => bn.backward(dys[i], { of, sums, accumulate: true }));
      const dx = wanted.dx?.data ?? [];
      expectClose(join(gradients.map((of) => of.dx as Tensor)), dx, share * largest(dx), 'dx');
      const terms = share * dy.data.length * (1 + largest(wanted.dWeight ?? []));
      for (const [i, name] of (['dWeight', 'dBias'] as const).entries())
        expectClose(bn.parameters()[i].grad, wanted[name] ?? [], terms, name);
      expect(bn.batchesTracked).toBe(1);
      expectClose(
        bn.runningVar ?? [],
        one.runningVar ?? [],
        share * largest(one.runningVar ?? []),
        'variance',
      );
    },
  );

  it('a group is the whole', () => {
    const drawn = draw(new Random(700), 'float64', kinds[0].layout);
    const alone: ProcessGroup = {
      rank: 0,
      size: 1,
      allGather: (mine, all) => all.set(mine),
      allReduce() {},
    };
    const [one, member] = [layerFor(drawn, 'float64'), layerFor(drawn, 'float64', { group: alone })];
    const { x, dy, residual } = drawn;
    expectSame(member.forward(x, { residual }).data, one.forward(x, { residual }).data, 'y');
    const [of, wanted] = [member.backward(dy), one.backward(dy)];
    expectSame(of.dx?.data ?? [], wanted.dx?.data ?? [], 'dx');
    expectSame(of.dWeight ?? [], wanted.dWeight ?? [], 'dWeight');
    expectSame(of.dBias ?? [], wanted.dBias ?? [], 'dBias');
  });
});

describe('Keras 3', () => {
  // keras.layers.BatchNormalization 3.15.1 (renorm=True) on JAX in float32, where its two kinds of moving averages are equal.
  const { shape, eps, gamma, beta, mean, variance, ...keras } = kerasNumbers;
  const tensorOf = (values: readonly number[]) => ({ data: Float32Array.from(values), shape });

  function layerOf(renorm: Renorm): BatchNorm {
    const bn = new BatchNorm(3, { axis: -1, eps, convention: 'keras', decay: 0.9, renorm });
    bn.weight?.set(gamma);
    bn.bias?.set(beta);
    bn.runningMean?.set(mean);
    bn.runningVar?.set(variance);
    return bn;
  }

  it('has the same y and gradients', () => {
    const bn = layerOf(keras.bounds);
    expectClose(bn.forward(tensorOf(keras.x)).data, keras.y, 2e-6, 'y');
    const { dx, dWeight, dBias } = bn.backward(tensorOf(keras.dy));
    expectClose(dx?.data ?? [], keras.dx, 2e-6, 'dx');
    expectClose(dWeight ?? [], keras.dGamma, 4e-6, 'dWeight');
    expectClose(dBias ?? [], keras.dBeta, 4e-6, 'dBias');
    expectClose(bn.runningMean ?? [], keras.meanAfter, 1e-6, 'moving mean');
    const free = layerOf({ rMax: Infinity, dMax: Infinity });
    expectClose(free.forward(tensorOf(keras.x)).data, keras.unboundedY, 4e-6, 'y without bounds');
  });
});

describe('schedules of renorm', () => {
  const x = { data: Float32Array.of(1, 10, 3, 30, 8, 20), shape: [3, 2] };

  it('hold from the next call on, and config follows', async () => {
    const bn = new BatchNorm(2);
    expect([bn.renorm, bn.config.renorm]).toEqual([undefined, undefined]);
    const plain = bn.forward(x, { updateStats: false });
    const given = { rMax: 3, dMax: Infinity };
    bn.renorm = given;
    expect(bn.renorm).toEqual(given);
    expect(bn.config.renorm).toBe(bn.renorm);
    given.rMax = 1;
    expect(bn.renorm.rMax).toBe(3);
    expect(Object.isFrozen(bn.renorm)).toBe(true);
    const bounded = bn.forward(x, { updateStats: false });
    expect(bounded.data).not.toEqual(plain.data);
    bn.renorm = undefined;
    expectSame(bn.forward(x, { updateStats: false }).data, plain.data, 'without');
    // Of the moment of the call, and each backward that of its forward.
    bn.renorm = { rMax: 3, dMax: Infinity };
    const later = bn.forwardAsync(x, { updateStats: false });
    bn.renorm = undefined;
    expectSame((await later).data, bounded.data, 'later');
    expect(new BatchNorm(2, { ...bn.config, renorm: { rMax: 2, dMax: 1 } }).renorm).toEqual({
      rMax: 2,
      dMax: 1,
    });
  });

  it('are in JSON, infinities too, and where a layer is printed', () => {
    const bn = new BatchNorm(2, { renorm: { rMax: Infinity, dMax: 0.5 } });
    const json = JSON.parse(JSON.stringify(bn));
    expect(json.config.renorm).toEqual({ rMax: 'Infinity', dMax: 0.5 });
    expect('virtualBatchSize' in json.config).toBe(false);
    const again = BatchNorm.fromJSON(json);
    expect(again.renorm).toEqual({ rMax: Infinity, dMax: 0.5 });
    expectSame(again.forward(x).data, bn.forward(x).data, 'y');
    expect(inspect(bn)).toContain('renorm: { rMax: Infinity, dMax: 0.5 } })');
    bn.renorm = undefined;
    expect('renorm' in bn.toJSON().config).toBe(false);
    expect(() =>
      BatchNorm.fromJSON({ ...json, config: { ...json.config, renorm: { rMax: '2', dMax: 0 } } }),
    ).toThrow("json.config.renorm.rMax must be a number, 'NaN', 'Infinity', '-Infinity' or '-0', got \"2\"");
    expect(() => BatchNorm.fromJSON({ ...json, config: { ...json.config, renorm: { rMax: 2 } } })).toThrow(
      TypeError,
    );
  });
});

describe('what is no renorm', () => {
  it('is refused by name, and changes nothing', () => {
    const bn = new BatchNorm(2, { renorm: { rMax: 2, dMax: 1 } });
    const config = bn.config;
    const refused = (value: unknown, type: typeof TypeError | typeof RangeError, message: string) => {
      for (const call of [
        () => new BatchNorm(2, { renorm: value as Renorm }),
        () => {
          bn.renorm = value as Renorm;
        },
      ]) {
        expect(call).toThrow(type);
        expect(call).toThrow(message);
      }
      expectListed(message);
      expect(bn.config).toBe(config);
    };
    refused(3, TypeError, 'renorm must be an object { rMax, dMax }, got 3');
    refused(null, TypeError, 'renorm must be an object { rMax, dMax }, got null');
    refused([1, 0], TypeError, 'renorm must be an object, got an array');
    refused({ rMax: 2 }, TypeError, 'renorm.dMax must be a number from 0 on, got undefined');
    refused({ dMax: 2 }, TypeError, 'renorm.rMax must be a number from 1 on, got undefined');
    refused({ rMax: '2', dMax: 0 }, TypeError, 'renorm.rMax must be a number from 1 on, got "2"');
    refused({ rMax: 0.5, dMax: 0 }, RangeError, 'renorm.rMax must be a number from 1 on, got 0.5');
    refused({ rMax: Number.NaN, dMax: 0 }, RangeError, 'renorm.rMax must be a number from 1 on, got NaN');
    refused({ rMax: 1, dMax: -1 }, RangeError, 'renorm.dMax must be a number from 0 on, got -1');
    refused(
      { rmax: 1, dMax: 1 },
      TypeError,
      'renorm must only have rMax, dMax, got "rmax"; did you mean rMax?',
    );
    const without = new BatchNorm(2, { trackRunningStats: false });
    for (const call of [
      () => new BatchNorm(2, { trackRunningStats: false, renorm: { rMax: 1, dMax: 0 } }),
      () => {
        without.renorm = { rMax: 1, dMax: 0 };
      },
    ])
      expect(call).toThrow('renorm must be left out with trackRunningStats: false, got an object');
    expectListed('renorm must be left out with trackRunningStats: false, got an object');
  });

  it('running statistics that cannot be divided by are an error, before anything is written', async () => {
    const x = { data: Float32Array.of(1, 10, 3, 30), shape: [2, 2] };
    const out = new Float32Array(4).fill(9);
    const bn = new BatchNorm(2, { eps: 0, renorm: { rMax: 2, dMax: 1 } });
    bn.runningVar?.set([1, 0]);
    const message = 'runningVar must be positive with eps: 0, got 0 in channel 1; give a positive eps';
    expect(() => bn.forward(x, { out })).toThrow(message);
    await expect(bn.forwardAsync(x, { out })).rejects.toThrow(message);
    bn.runningVar?.set([1, -1]);
    expect(() => bn.forward(x, { out })).toThrow('runningVar must not be negative, got -1 in channel 1');
    await expect(bn.forwardAsync(x, { transfer: true })).rejects.toThrow('runningVar must not be negative');
    expect(x.data.length).toBe(4);
    expect([...out]).toEqual([9, 9, 9, 9]);
    expect([bn.batchesTracked, bn.lastMoments]).toEqual([0, undefined]);
    bn.runningVar?.set([1, 1]);
    expect(() => bn.forward({ data: Float32Array.of(1, 1, 1, 2), shape: [2, 2] })).toThrow(
      'x must vary in every channel with eps: 0, got a variance of 0 in channel 0; give a positive eps',
    );
  });

  it('a batch that is not finite leaves the running statistics alone', () => {
    const bn = new BatchNorm(2, { renorm: { rMax: 2, dMax: 1 } });
    const y = bn.forward({ data: Float32Array.of(1, Infinity, 3, 30), shape: [2, 2] });
    expect([...y.data].map(Number.isNaN)).toEqual([false, true, false, true]);
    expect([bn.rejectedUpdates, bn.runningVar?.[1]]).toEqual([1, 1]);
  });
});
