// Ghost batch norm: groups of samples with statistics of their own.
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  type BatchNormOptions,
  backward,
  type FloatArray,
  forwardTraining,
  GradientSums,
  type Missing,
  Moments,
  type ProcessGroup,
} from '../../lib/index.js';
import { expectListed } from '../support/messages.js';
import * as counted from '../support/presence.js';
import { Random, seedNote } from '../support/random.js';
import * as reference from '../support/reference.js';
import { groups } from '../support/renorm.js';
import {
  beyondCaches,
  differenceOf,
  eachKind,
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
  readonly parameters: { readonly weight: FloatArray; readonly bias: FloatArray };
}

const eps = 1e-5;
const channels = 5;

function draw(random: Random, dtype: FloatDType, layout: Layout, samples: number, positions = 6): Case {
  const shape = layout.shape(samples, channels, positions);
  const data = randomActivations(random, dtype, extentsOf(shape, layout.axis));
  const normals = () => ({ data: randomNormals(random, dtype, data.length), shape });
  return {
    x: { data, shape },
    dy: normals(),
    residual: random.uniform() < 0.5 ? normals() : undefined,
    axis: layout.axis,
    relu: random.uniform() < 0.5,
    parameters: randomParameters(random, dtype, channels),
  };
}

function layerFor(drawn: Case, options: BatchNormOptions<FloatDType>): BatchNorm<FloatDType> {
  const { x, axis, relu, parameters } = drawn;
  const dtype = x.data instanceof Float64Array ? 'float64' : 'float32';
  const bn = new BatchNorm<FloatDType>(channels, {
    dtype,
    axis,
    eps,
    activation: relu ? 'relu' : undefined,
    ...options,
  });
  bn.weight?.set(parameters.weight);
  bn.bias?.set(parameters.bias);
  return bn;
}

function samplesOf({ data, shape }: Tensor, [from, to]: readonly [number, number]): Tensor {
  const size = data.length / shape[0];
  return { data: data.slice(from * size, to * size), shape: [to - from, ...shape.slice(1)] };
}

function partsOf({ x, axis }: Case, size: number): [number, number][] {
  const { outer, inner } = extentsOf(x.shape, axis);
  return groups(x.shape[0], size, (outer * inner) / x.shape[0]);
}

function dot(first: FloatArray, second: FloatArray): number {
  let sum = 0;
  for (let i = 0; i < first.length; i++) sum += first[i] * second[i];
  return sum;
}

const joined = (tensors: readonly (Tensor | undefined)[]) =>
  tensors.flatMap((tensor) => [...(tensor?.data ?? [])]);

describe(`ghost batch norm (${seedNote})`, () => {
  eachSummedKind('each group is normalized as if it were alone', ({ dtype, layout }) => {
    for (let run = 0; run < 30; run++) {
      const random = new Random(run);
      const drawn = draw(random, dtype, layout, random.integer(2, 12), random.integer(1, 9));
      const [samples] = drawn.x.shape;
      const virtualBatchSize = random.integer(2, samples + 1);
      const parts = partsOf(drawn, virtualBatchSize);
      const { x, dy, residual, axis, relu, parameters } = drawn;
      const options = { axis, eps, ...parameters, activation: relu ? ('relu' as const) : undefined };
      const alone = parts.map((part) => {
        const own = { ...options, residual: residual && samplesOf(residual, part) };
        const { y, moments } = forwardTraining(samplesOf(x, part), own);
        return { y, ...backward(samplesOf(dy, part), samplesOf(x, part), { ...own, moments }) };
      });
      const bn = layerFor(drawn, { virtualBatchSize });
      const what = `run ${run}, ${samples} samples in groups of ${virtualBatchSize}`;
      const y = bn.forward(x, { residual });
      expectSame(y.data, joined(alone.map((part) => part.y)), `${what}: y`);
      const { dx, dResidual, dWeight, dBias } = bn.backward(dy);
      const share = rounding[dtype];
      const ownDx = joined(alone.map((part) => part.dx));
      expectClose(dx?.data ?? [], ownDx, share * largest(ownDx), `${what}: dx`);
      if (residual) expectSame(dResidual?.data ?? [], joined(alone.map((part) => part.dResidual)), what);
      for (const [name, of] of [
        ['dWeight', dWeight],
        ['dBias', dBias],
      ] as const) {
        const sums = Array.from({ length: channels }, (_, c) =>
          alone.reduce((sum, part) => sum + (part[name]?.[c] ?? 0), 0),
        );
        expectClose(of ?? [], sums, share * dy.data.length, `${what}: ${name}`);
        expectSame(bn.parameters()[name === 'dWeight' ? 0 : 1].grad, of ?? [], name);
      }

      // Statistics are those of plain training.
      const plain = layerFor(drawn, {});
      plain.forward(x);
      const [moments, whole] = [bn.lastMoments, plain.lastMoments];
      expectSame(moments?.count ?? [], whole?.count ?? [], `${what}: count`);
      expectSame(moments?.squares ?? [], whole?.squares ?? [], `${what}: squares`);
      const deviation = (c: number) => Math.sqrt(whole?.variance[c] ?? 0);
      expectClose(moments?.mean ?? [], whole?.mean ?? [], (c) => share * deviation(c), `${what}: mean`);
      expectClose(
        moments?.variance ?? [],
        whole?.variance ?? [],
        (c) => share * deviation(c) ** 2,
        `${what}: variance`,
      );
      expectClose(bn.runningMean ?? [], plain.runningMean ?? [], share * 4, `${what}: running mean`);
      expectClose(
        bn.runningVar ?? [],
        plain.runningVar ?? [],
        (c) => share * (1 + deviation(c) ** 2),
        `${what}: running variance`,
      );
      expect(bn.batchesTracked).toBe(1);

      // Evaluation knows of no groups.
      const reference = layerFor(drawn, {}).loadStateDict(bn.stateDict()).eval();
      bn.eval();
      expectSame(bn.forward(x, { residual }).data, reference.forward(x, { residual }).data, 'evaluation');
      expectSame(bn.backward(dy).dx?.data ?? [], reference.backward(dy).dx?.data ?? [], 'its dx');
    }
  });

  eachKind('large results are written past the caches, to the same bits', async ({ dtype, layout }) => {
    const shape = beyondCaches(dtype, layout);
    const { axis } = layout;
    const data = randomActivations(new Random(30), dtype, extentsOf(shape, axis));
    const bn = new BatchNorm<FloatDType>(shape.at(axis) as number, { dtype, axis, virtualBatchSize: 4 });
    const x = { data, shape };
    const y = bn.forward(x).data;
    const { dx } = bn.backward(x);
    const size = data.length / shape[0];
    for (let from = 0; from < shape[0]; from += 4) {
      const part = samplesOf(x, [from, Math.min(from + 4, shape[0])]);
      const alone = new BatchNorm<FloatDType>(bn.channels, { dtype, axis });
      expectSame(y.subarray(from * size).subarray(0, part.data.length), alone.forward(part).data, 'y');
      expectSame(
        dx?.data.subarray(from * size).subarray(0, part.data.length) ?? [],
        alone.backward(part).dx?.data ?? [],
        'dx',
      );
    }
    expectSame((await bn.forwardAsync(x)).data, y, 'y, later');
    expectSame((await bn.backwardAsync(x)).dx?.data ?? [], dx?.data ?? [], 'dx, later');
  });

  it('is the textbook’s in each group', () => {
    for (const { dtype, layout } of kinds) {
      const drawn = { ...draw(new Random(40), dtype, layout, 7, 5), relu: false, residual: undefined };
      const { x, dy, axis, parameters } = drawn;
      const bn = layerFor(drawn, { virtualBatchSize: 3 });
      const y = bn.forward(x);
      const { dx } = bn.backward(dy);
      const size = x.data.length / 7;
      for (const part of partsOf(drawn, 3)) {
        const own = samplesOf(x, part);
        const extents = extentsOf(own.shape, axis);
        const wanted = reference.forwardTraining(own.data, extents, { eps, ...parameters }).y;
        const at = part[0] * size;
        const share = 2 * rounding[dtype];
        expectClose(y.data.slice(at, at + own.data.length), wanted, share * largest(wanted), 'y');
        const gradient = samplesOf(dy, part).data;
        const through = reference.backwardTraining(gradient, own.data, extents, { eps, ...parameters });
        const most = Math.max(...through.magnitude.dx);
        expectClose(dx?.data.slice(at, at + own.data.length) ?? [], through.dx, share * most, 'dx');
      }
    }
  });

  it('gradients are those of finite differences', () => {
    for (const { layout } of kinds) {
      const drawn = { ...draw(new Random(50), 'float64', layout, 7, 2), relu: false };
      const { x, dy, residual } = drawn;
      const bn = layerFor(drawn, { virtualBatchSize: 3, eps: 0.1 });
      const loss = () => dot(bn.forward(x, { residual }).data, dy.data);
      loss();
      const { dx, dWeight, dBias } = bn.backward(dy);
      const difference = differenceOf(loss);
      for (let i = 0; i < x.data.length; i++)
        expect(dx?.data[i], `dx[${i}]`).toBeCloseTo(difference(x.data, i), 5);
      for (let c = 0; c < channels; c++) {
        expect(dWeight?.[c], `dWeight[${c}]`).toBeCloseTo(difference(bn.weight as FloatArray, c), 5);
        expect(dBias?.[c], `dBias[${c}]`).toBeCloseTo(difference(bn.bias as FloatArray, c), 5);
      }
    }
  });

  it('one group is plain training, to the bit', () => {
    for (const { dtype, layout } of kinds) {
      const drawn = draw(new Random(60), dtype, layout, 6);
      const { x, dy, residual } = drawn;
      const [bn, plain] = [layerFor(drawn, { virtualBatchSize: 100 }), layerFor(drawn, {})];
      expectSame(bn.forward(x, { residual }).data, plain.forward(x, { residual }).data, 'y');
      expectSame(bn.backward(dy).dx?.data ?? [], plain.backward(dy).dx?.data ?? [], 'dx');
      expect(bn.stateDict()).toEqual(plain.stateDict());
    }
  });

  eachSummedKind('at once and later, in halves, in place and again', async ({ dtype, layout }) => {
    for (let run = 0; run < 6; run++) {
      const drawn = draw(new Random(100 + run), dtype, layout, 11);
      const { x, dy, residual } = drawn;
      const options = { virtualBatchSize: 3, eps: run === 5 ? 0 : eps };
      const bn = layerFor(drawn, options);
      const out = x.data.slice();
      const y = bn.forward(x, { residual, out });
      expect(y.data).toBe(out);
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
      const twice = typed(
        dtype,
        (wanted.dWeight ?? []).map((value) => 2 * value),
      );
      expectSame(bn.parameters()[0].grad, twice, 'twice');
      expect(() => bn.backward(dy)).toThrow('backward() must go through each forward() once');

      const later = layerFor(drawn, options);
      expectSame((await later.forwardAsync(x, { residual })).data, y.data, 'y');
      check(await later.backwardAsync(dy, { retain: true }), all);
      check(await later.backwardAsync(dy, { only: 'input' }), inputs);
      check(await later.backwardAsync(dy, { only: 'parameters' }), ['dWeight', 'dBias']);
      expect(later.stateDict()).toEqual(bn.stateDict());
      expect(later.lastMoments?.toJSON()).toEqual(bn.lastMoments?.toJSON());

      // x and dy are given away.
      const given = layerFor(drawn, options);
      const [moved, gradient] = [x.data.slice(), dy.data.slice()];
      const both = await Promise.all([
        given.forwardAsync({ data: moved, shape: x.shape }, { residual, transfer: true }),
        given.backwardAsync({ data: gradient, shape: dy.shape }, { transfer: true }),
      ]);
      expect([moved.length, gradient.length]).toEqual([0, 0]);
      expectSame(both[0].data, y.data, 'y of what was given away');
      check(both[1], all);

      const reusing = layerFor(drawn, { ...options, reuse: true });
      for (let i = 0; i < 2; i++) {
        expectSame(reusing.forward(x, { residual }).data, y.data, 'y in memory of the layer');
        const data = dy.data.slice();
        check(reusing.backward({ data, shape: dy.shape }, { out: data }), all);
      }
      const data = x.data.slice();
      const own = residual && { data: residual.data.slice(), shape: residual.shape };
      expectSame(
        reusing.forward({ data, shape: x.shape }, { out: data, residual: own }).data,
        y.data,
        'y over x',
      );
      expect(() => reusing.backward(dy)).toThrow('got one that wrote its result over x');
    }
  });

  it('takes shared memory, and one memory that two objects show', async () => {
    const drawn = draw(new Random(200), 'float32', kinds[0].layout, 8);
    const { x, residual } = { ...drawn, residual: undefined };
    const options = { virtualBatchSize: 2 };
    const wanted = layerFor(drawn, options).forward(x, { residual }).data;
    const bytes = x.data.byteLength;
    // y lies a group behind x.
    const buffer = new SharedArrayBuffer(bytes * 2);
    const other = structuredClone(buffer);
    expect(other).not.toBe(buffer);
    const source = new Float32Array(buffer, 0, x.data.length);
    const out = new Float32Array(other, bytes / 4, x.data.length);
    for (const forward of ['forward', 'forwardAsync'] as const) {
      source.set(x.data);
      const bn = layerFor(drawn, options);
      const y = await bn[forward]({ data: source, shape: x.shape }, { out });
      expect(y.data).toBe(out);
      expectSame(out, wanted, forward);
      await expect(async () => bn.backward(drawn.dy)).rejects.toThrow('other values in it');
    }
    for (const call of ['backward', 'backwardAsync'] as const) {
      const bn = layerFor(drawn, options);
      bn.forward(x, { residual });
      const { dx } = bn.backward(drawn.dy, { retain: true });
      source.set(drawn.dy.data);
      await bn[call]({ data: source, shape: x.shape }, { out });
      expectSame(out, dx?.data ?? [], call);
    }
    source.set(x.data);
    const over = layerFor(drawn, options);
    expectSame(
      (await over.forwardAsync({ data: source, shape: x.shape }, { out: source })).data,
      wanted,
      'y over x',
    );
    await expect(over.backwardAsync(drawn.dy)).rejects.toThrow('got one that wrote its result over x');
    const clash = new Float32Array(buffer, bytes / 4, x.data.length);
    const overlap = `got views that share ${(bytes * 3) / 4} bytes`;
    const bn = layerFor(drawn, options);
    const given = { data: source, shape: x.shape };
    expect(() => bn.forward(given, { out: clash })).toThrow(
      `out must be x.data itself or not overlap it, ${overlap}`,
    );
    await expect(bn.forwardAsync(given, { out: clash })).rejects.toThrow(overlap);
    expect(() => bn.forward(x, { residual: given, out: clash })).toThrow(
      `out must not overlap residual.data, ${overlap}`,
    );
    bn.forward(given);
    expect(() => bn.backward(drawn.dy, { out: clash })).toThrow(`out must not overlap x.data, ${overlap}`);
    expect(() => bn.backward(given, { out: clash })).toThrow(
      `out must be dy.data itself or not overlap it, ${overlap}`,
    );
  });

  it('a signal cancels what has not begun, and nothing after that', async () => {
    const drawn = draw(new Random(300), 'float32', kinds[0].layout, 12);
    const bn = layerFor(drawn, { virtualBatchSize: 3 });
    const before = bn.stateDict();
    const controller = new AbortController();
    const first = bn.forwardAsync(drawn.x, { residual: drawn.residual });
    const second = bn.forwardAsync(drawn.x, { residual: drawn.residual, signal: controller.signal });
    controller.abort(new Error('enough'));
    await expect(second).rejects.toThrow('enough');
    await first;
    expect(bn.batchesTracked).toBe(1);
    expect(before.running_mean).toEqual(new Float64Array(channels));
  });
});

/** A mask or weights, gaps, or both; some samples may lack all. */
function drawCounting(random: Random, { x, axis }: Case) {
  const { outer, inner } = extentsOf(x.shape, axis);
  const missing = random.pick<Missing>(['propagate', 'skip', 'impute']);
  const perSample = (outer * inner) / x.shape[0];
  const isPerSample = random.uniform() < 0.3;
  const count = isPerSample ? x.shape[0] : outer * inner;
  const one = random.pick([() => random.integer(0, 2), () => random.pick([0, 1, random.uniform(0, 3)])]);
  const given = Float64Array.from({ length: count }, one);
  const weights = missing !== 'propagate' && random.uniform() < 0.3 ? undefined : given;
  if (missing !== 'propagate')
    for (let i = 0; i < x.data.length; i++) if (random.uniform() < 0.2) x.data[i] = Number.NaN;
  const outside = random.pick(['normalize', 'zero'] as const);
  const options = { missing, singleValue: 'running' as const };
  const each = isPerSample ? 1 : perSample;
  const weightsOf = ([from, to]: readonly [number, number]) => weights?.slice(from * each, to * each);
  return { options, weights, outside, weightsOf };
}

describe(`weights and missing values in groups (${seedNote})`, () => {
  eachSummedKind('each group is normalized as if it were alone', async ({ dtype, layout }) => {
    for (let run = 0; run < 30; run++) {
      const random = new Random(1000 + run);
      const drawn = draw(random, dtype, layout, random.integer(2, 12), random.integer(1, 9));
      const { options, weights, outside, weightsOf } = drawCounting(random, drawn);
      const { x, dy, residual } = drawn;
      const virtualBatchSize = random.integer(1, x.shape[0] + 1);
      const what = `run ${run}, ${x.shape[0]} samples in groups of ${virtualBatchSize}`;
      const weightsGrad = weights !== undefined;
      const alone = partsOf(drawn, virtualBatchSize).map((part) => {
        const own = layerFor(drawn, options);
        own.runningMean?.fill(0.5);
        const given = { weights: weightsOf(part), outside, residual: residual && samplesOf(residual, part) };
        const y = own.forward(samplesOf(x, part), given);
        return { y, ...own.backward(samplesOf(dy, part), { weightsGrad }) };
      });
      const made = () => {
        const bn = layerFor(drawn, { ...options, virtualBatchSize });
        bn.runningMean?.fill(0.5);
        return bn;
      };
      const bn = made();
      const y = bn.forward(x, { weights, outside, residual });
      expectSame(y.data, joined(alone.map((part) => part.y)), `${what}: y`);
      const gradients = bn.backward(dy, { weightsGrad, retain: true });
      expectSame(gradients.dx?.data ?? [], joined(alone.map((part) => part.dx)), `${what}: dx`);
      if (residual)
        expectSame(gradients.dResidual?.data ?? [], joined(alone.map((part) => part.dResidual)), what);
      if (weights)
        expectSame(
          gradients.dWeights ?? [],
          alone.flatMap(({ dWeights }) => [...(dWeights ?? [])]),
          `${what}: dWeights`,
        );
      for (const name of ['dWeight', 'dBias'] as const) {
        const sums = Array.from({ length: channels }, (_, c) =>
          alone.reduce((sum, part) => sum + (part[name]?.[c] ?? 0), 0),
        );
        expectClose(gradients[name] ?? [], typed(dtype, sums), 0, `${what}: ${name}`);
      }

      // Each half, later, and given away: the same bits.
      const { dx } = bn.backward(dy, { only: 'input', retain: true });
      expectSame(dx?.data ?? [], gradients.dx?.data ?? [], `${what}: dx alone`);
      expectSame(bn.backward(dy, { only: 'parameters' }).dBias ?? [], gradients.dBias ?? [], 'dBias alone');
      for (const transfer of [false, true]) {
        const later = made();
        const input = { data: x.data.slice(), shape: x.shape };
        const given = { weights, outside, residual, transfer };
        expectSame((await later.forwardAsync(input, given)).data, y.data, `${what}: y, later`);
        const gradient = { data: dy.data.slice(), shape: dy.shape };
        const of = await later.backwardAsync(gradient, { weightsGrad, transfer });
        for (const name of ['dx', 'dResidual'] as const)
          if (of[name]) expectSame(of[name].data, gradients[name]?.data ?? [], `${what}: ${name}, later`);
        for (const name of ['dWeight', 'dBias', 'dWeights'] as const)
          if (of[name]) expectSame(of[name], gradients[name] ?? [], `${what}: ${name}, later`);
        expect(later.stateDict()).toEqual(bn.stateDict());
        expect(later.lastMoments?.toJSON()).toEqual(bn.lastMoments?.toJSON());
      }
    }
  });

  it('statistics are those of plain training', () => {
    for (let run = 0; run < 60; run++) {
      const random = new Random(2000 + run);
      const { dtype, layout } = random.pick(kinds);
      const drawn = draw(random, dtype, layout, random.integer(4, 12), random.integer(2, 9));
      const { options, weights, outside } = drawCounting(random, drawn);
      const { x } = drawn;
      const [bn, plain] = [
        layerFor(drawn, { ...options, virtualBatchSize: random.integer(2, x.shape[0]) }),
        layerFor(drawn, options),
      ];
      bn.forward(x, { weights, outside });
      plain.forward(x, { weights, outside });
      // Where each group has one value, nothing has statistics.
      if (bn.batchesTracked < plain.batchesTracked) continue;
      const whole = Moments.of(x, { axis: drawn.axis, weights, missing: options.missing });
      const deviation = (c: number) => Math.sqrt(whole.variance[c]);
      const last = bn.lastMoments;
      expect(last === undefined).toBe(plain.lastMoments === undefined);
      if (last === undefined) continue;
      const what = `run ${run}`;
      expectClose(last.count, whole.count, (c) => 1e-14 * whole.count[c], `${what}: count`);
      expectClose(last.squares, whole.squares, (c) => 1e-14 * whole.squares[c], `${what}: squares`);
      expectClose(last.mean, whole.mean, (c) => 1e-13 * (deviation(c) + Math.abs(whole.mean[c])), what);
      expectClose(last.variance, whole.variance, (c) => 1e-12 * deviation(c) ** 2, `${what}: variance`);
      expectClose(
        bn.runningMean ?? [],
        plain.runningMean ?? [],
        1e-12 * largest(plain.runningMean ?? []),
        what,
      );
      const most = largest(plain.runningVar ?? []);
      expectClose(bn.runningVar ?? [], plain.runningVar ?? [], 1e-11 * most, `${what}: running variance`);
    }
  });

  it('are the textbook’s, and gradients those of finite differences', () => {
    for (const { layout } of kinds.filter(({ dtype }) => dtype === 'float64'))
      for (const missing of ['propagate', 'skip', 'impute'] as const)
        for (const outside of ['normalize', 'zero'] as const) {
          const random = new Random(3000);
          const drawn = { ...draw(random, 'float64', layout, 7, 4), relu: false };
          const { x, dy, residual, axis, parameters } = drawn;
          const { outer, inner } = extentsOf(x.shape, axis);
          const weights = Float64Array.from({ length: outer * inner }, () =>
            random.uniform() < 0.2 ? 0 : random.uniform(0.2, 2),
          );
          // Outside, an imputed y is the bias without passing it a gradient: there are no gaps there.
          const isGap = (i: number) =>
            i % 4 === 0 && weights[Math.floor(i / (channels * inner)) * inner + (i % inner)] > 0;
          if (missing !== 'propagate')
            for (let i = 0; i < x.data.length; i++) if (isGap(i)) x.data[i] = Number.NaN;
          const bn = layerFor(drawn, { virtualBatchSize: 4, eps: 0.1, missing });
          const forward = () => bn.forward(x, { weights, outside, residual }).data;
          const y = forward();
          const gradients = bn.backward(dy, { weightsGrad: true });
          const [size, each] = [x.data.length / 7, (outer * inner) / 7];
          for (const [from, to] of partsOf(drawn, 4)) {
            const part = {
              x: x.data.slice(from * size, to * size),
              extents: extentsOf([to - from, ...x.shape.slice(1)], axis),
              eps: 0.1,
              ...parameters,
              residual: residual?.data.slice(from * size, to * size),
              weights: weights.slice(from * each, to * each),
              missing: missing !== 'propagate',
              impute: missing === 'impute',
              zero: outside === 'zero',
            };
            const statistics = counted.statistics(part);
            const cut = (array: FloatArray) => array.slice(from * size, to * size);
            expectClose(cut(y), counted.forward(part, statistics), 1e-12, 'y');
            const wanted = counted.backward(part, cut(dy.data), statistics);
            expectClose(cut(gradients.dx?.data ?? x.data), wanted.dx, 1e-12, 'dx');
            const dWeights = (gradients.dWeights ?? []).slice(from * each, to * each);
            expectClose(dWeights, wanted.dWeights, 1e-12, 'dWeights');
          }
          const loss = () =>
            dot(
              forward().map((value) => (Number.isNaN(value) ? 0 : value)),
              dy.data,
            );
          const difference = differenceOf(loss);
          for (let i = 0; i < x.data.length; i++)
            if (!Number.isNaN(x.data[i]))
              expect(gradients.dx?.data[i], `dx[${i}]`).toBeCloseTo(difference(x.data, i), 5);
          for (let i = 0; i < weights.length; i++)
            if (weights[i] > 0)
              expect(gradients.dWeights?.[i], `dWeights[${i}]`).toBeCloseTo(difference(weights, i), 5);
          for (let c = 0; c < channels; c++) {
            expect(gradients.dWeight?.[c], `dWeight[${c}]`).toBeCloseTo(
              difference(bn.weight as FloatArray, c),
              5,
            );
            expect(gradients.dBias?.[c], `dBias[${c}]`).toBeCloseTo(difference(bn.bias as FloatArray, c), 5);
          }
        }
  });

  it('a group of little is as such a batch', async () => {
    const x = { data: Float32Array.of(1, 3, 7, 9, 4, 6), shape: [6, 1] };
    const ones = { data: new Float32Array(6).fill(1), shape: [6, 1] };
    const made = (options: BatchNormOptions) => {
      const bn = new BatchNorm(1, { virtualBatchSize: 2, eps: 1e-12, ...options });
      bn.runningMean?.fill(2);
      return bn;
    };
    // Nothing counts in the middle: evaluation there, whose gradient is that of a constant.
    const bn = made({});
    const weights = Uint8Array.of(1, 1, 0, 0, 1, 1);
    expect([...bn.forward(x, { weights }).data]).toEqual([-1, 1, 5, 7, -1, 1]);
    expect([bn.lastMoments?.count[0], bn.lastMoments?.mean[0]]).toEqual([4, 3.5]);
    expect([...(bn.backward(ones).dx?.data ?? [])]).toEqual([0, 0, 1, 1, 0, 0]);
    const one = Uint8Array.of(1, 1, 0, 1, 1, 1);
    const message =
      'training needs more than one value per channel, got shape [6, 1]; call eval() or use a larger virtualBatchSize';
    const out = new Float32Array(6).fill(9);
    expect(() => bn.forward(x, { weights: one, out })).toThrow(message);
    const away = { data: x.data.slice(), shape: x.shape };
    await expect(bn.forwardAsync(away, { weights: one, transfer: true })).rejects.toThrow(message);
    expect([out[0], away.data.length, bn.batchesTracked]).toEqual([9, 6, 1]);
    const running = made({ singleValue: 'running' });
    expect([...running.forward(x, { weights: one }).data]).toEqual([-1, 1, 5, 7, -1, 1]);
    expect([running.lastMoments?.count[0], running.lastMoments?.mean[0]]).toEqual([5, 23 / 5]);
    // Nothing but such groups: evaluation.
    const few = made({ singleValue: 'running' });
    expect([...few.forward(x, { weights: Uint8Array.of(0, 1, 0, 1, 0, 0) }).data]).toEqual([
      -1, 1, 5, 7, 2, 4,
    ]);
    expect([few.batchesTracked, few.lastMoments, few.runningMean?.[0]]).toEqual([0, undefined, 2]);
    expect([...(few.backward(ones).dx?.data ?? [])]).toEqual([1, 1, 1, 1, 1, 1]);
    expect(() =>
      made({ eps: 0 }).forward(
        { ...x, data: Float32Array.of(1, 3, 7, 7, 4, 6) },
        { weights: new Uint8Array(6).fill(1), out },
      ),
    ).toThrow('x must vary in every channel with eps: 0');
    expect(out[0]).toBe(9);
  });

  eachKind('large results have the same bits', async ({ dtype, layout }) => {
    const shape = beyondCaches(dtype, layout);
    const { axis } = layout;
    const extents = extentsOf(shape, axis);
    const data = randomActivations(new Random(31), dtype, extents);
    for (let i = 0; i < data.length; i += 97) data[i] = Number.NaN;
    const x = { data, shape };
    const options = { dtype, axis, missing: 'impute' } as const;
    const bn = new BatchNorm<FloatDType>(shape.at(axis) as number, { ...options, virtualBatchSize: 4 });
    const y = bn.forward(x).data;
    const { dx } = bn.backward(x);
    const part = samplesOf(x, [0, Math.min(4, shape[0])]);
    const alone = new BatchNorm<FloatDType>(bn.channels, options);
    expectSame(y.subarray(0, part.data.length), alone.forward(part).data, 'y');
    expectSame(dx?.data.subarray(0, part.data.length) ?? [], alone.backward(part).dx?.data ?? [], 'dx');
    expectSame((await bn.forwardAsync(x)).data, y, 'y, later');
    expectSame((await bn.backwardAsync(x)).dx?.data ?? [], dx?.data ?? [], 'dx, later');
  });
});

describe('groups in which there is little', () => {
  const column = (...values: number[]) => ({ data: Float32Array.from(values), shape: [values.length, 1] });

  it('a last one of one value per channel joins the one before', () => {
    const bn = new BatchNorm(1, { virtualBatchSize: 2, eps: 1e-12 });
    const root = Math.sqrt(1.5);
    expectClose(bn.forward(column(1, 3, 4, 5, 6)).data, [-1, 1, -root, 0, root], 1e-6, 'y');
    expect(bn.lastMoments?.count[0]).toBe(5);
    // Two of one value each are one group.
    expect([...new BatchNorm(1, { virtualBatchSize: 1, eps: 1e-12 }).forward(column(1, 3)).data]).toEqual([
      -1, 1,
    ]);
    // A sample of more than one value is a group of its own.
    const wide = { data: Float32Array.of(1, 3, 10, 30, 5, 5), shape: [3, 1, 2] };
    expect([...new BatchNorm(1, { virtualBatchSize: 1, eps: 1e-12 }).forward(wide).data]).toEqual([
      -1, 1, -1, 1, 0, 0,
    ]);
  });

  it('groups of one value per channel are an error, or take the running statistics', async () => {
    const x = column(1, 2, 3);
    const message =
      'training needs more than one value per channel, got shape [3, 1]; call eval() or use a larger virtualBatchSize';
    const strict = new BatchNorm(1, { virtualBatchSize: 1 });
    expect(() => strict.forward(x)).toThrow(message);
    await expect(strict.forwardAsync(x)).rejects.toThrow(message);
    expectListed(message);
    expect(() => strict.forward(column(1))).toThrow('got shape [1, 1]; call eval() or use a larger batch');
    expect(strict.batchesTracked).toBe(0);
    const bn = new BatchNorm(1, { virtualBatchSize: 1, singleValue: 'running', eps: 1e-12 });
    expect([...bn.forward(x).data]).toEqual([1, 2, 3]);
    expect([...(bn.backward(x).dx?.data ?? [])]).toEqual([1, 2, 3]);
    expect([bn.batchesTracked, bn.lastMoments]).toEqual([0, undefined]);
  });

  it('weights of all ones change nothing in groups of one value', async () => {
    for (const samples of [2, 3, 4]) {
      const x = column(...[1, 2, 5, 9].slice(0, samples));
      const dy = column(...[3, -1, 2, 4].slice(0, samples));
      const made = () => {
        const bn = new BatchNorm(1, { virtualBatchSize: 1, singleValue: 'running', eps: 1e-12 });
        bn.runningMean?.fill(0.5);
        return bn;
      };
      const [plain, weighted, later] = [made(), made(), made()];
      const weights = new Uint8Array(samples).fill(1);
      const y = plain.forward(x).data;
      const { dx } = plain.backward(dy);
      expectSame(weighted.forward(x, { weights }).data, y, `${samples} samples: y`);
      expectSame(weighted.backward(dy).dx?.data ?? [], dx?.data ?? [], `${samples} samples: dx`);
      expectSame((await later.forwardAsync(x, { weights })).data, y, `${samples} samples: y, later`);
      for (const bn of [weighted, later]) {
        expect(bn.stateDict()).toEqual(plain.stateDict());
        expect(bn.lastMoments?.toJSON()).toEqual(plain.lastMoments?.toJSON());
      }
      const strict = () => new BatchNorm(1, { virtualBatchSize: 1 });
      if (samples > 2)
        expect(() => strict().forward(x, { weights })).toThrow(
          `got shape [${samples}, 1]; call eval() or use a larger virtualBatchSize`,
        );
    }
  });

  it('an empty batch changes nothing', () => {
    for (const shape of [
      [0, 2, 3],
      [4, 2, 0],
    ]) {
      const bn = new BatchNorm(2, { virtualBatchSize: 1 });
      const empty = { data: new Float32Array(0), shape };
      expect(bn.forward(empty).data.length).toBe(0);
      expect([...(bn.backward(empty).dWeight ?? [])]).toEqual([0, 0]);
      expect(bn.batchesTracked).toBe(0);
    }
  });

  it('with eps 0 a channel that does not vary in a group is an error, before anything is written', async () => {
    const x = column(1, 2, 3, 3);
    const out = new Float32Array(4).fill(9);
    const bn = new BatchNorm(1, { virtualBatchSize: 2, eps: 0 });
    const message =
      'x must vary in every channel with eps: 0, got a variance of 0 in channel 0; give a positive eps';
    expect(() => bn.forward(x, { out })).toThrow(message);
    await expect(bn.forwardAsync(x, { out })).rejects.toThrow(message);
    expect([...out]).toEqual([9, 9, 9, 9]);
    expect([bn.batchesTracked, bn.lastMoments]).toEqual([0, undefined]);
    expect([...new BatchNorm(1, { eps: 0 }).forward(x).data]).not.toContain(9);
  });

  it('a group that is not finite shows it alone, and leaves the running statistics alone', () => {
    const bn = new BatchNorm(1, { virtualBatchSize: 2, eps: 1e-12 });
    expect([...bn.forward(column(1, 3, Number.NaN, 1)).data]).toEqual([-1, 1, Number.NaN, Number.NaN]);
    expect([bn.rejectedUpdates, bn.runningMean?.[0]]).toEqual([1, 0]);
    const strict = new BatchNorm(1, { virtualBatchSize: 2, missing: 'throw' });
    expect(() => strict.forward(column(1, 3, Number.NaN, 1))).toThrow('got one at 2, in channel 0');
  });
});

describe('virtualBatchSize', () => {
  it('is in config, JSON and where a layer is printed', () => {
    const bn = new BatchNorm(2, { virtualBatchSize: 8 });
    expect(bn.config.virtualBatchSize).toBe(8);
    const json = JSON.parse(JSON.stringify(bn));
    expect(json.config.virtualBatchSize).toBe(8);
    expect(BatchNorm.fromJSON(json).config).toEqual(bn.config);
    expect(inspect(bn)).toContain('virtualBatchSize: 8');
    expect(new BatchNorm(2, bn.config).config).toEqual(bn.config);
  });

  it('is refused by name where it has no meaning', async () => {
    const refused = (call: () => unknown, type: typeof TypeError | typeof RangeError, message: string) => {
      expect(call).toThrow(type);
      expect(call).toThrow(message);
      expectListed(message);
    };
    const made = (options: object) => () => new BatchNorm(3, options as BatchNormOptions);
    for (const [value, type, actual] of [
      [0, RangeError, '0'],
      [2.5, RangeError, '2.5'],
      [-1, RangeError, '-1'],
      [Infinity, RangeError, 'Infinity'],
      ['4', TypeError, '"4"'],
      [null, TypeError, 'null'],
    ] as const)
      refused(
        made({ virtualBatchSize: value }),
        type,
        `virtualBatchSize must be an integer from 1 on, got ${actual}`,
      );
    const group: ProcessGroup = { rank: 0, size: 1, allGather() {}, allReduce() {} };
    const size = { virtualBatchSize: 4 };
    refused(
      made({ ...size, group }),
      TypeError,
      'virtualBatchSize must be left out in a layer with a group, got 4',
    );
    refused(
      made({ ...size, renorm: { rMax: 1, dMax: 0 } }),
      TypeError,
      'renorm must be left out beside virtualBatchSize, got an object',
    );
    refused(
      made({ ...size, axis: 0 }),
      RangeError,
      'axis must be another than that of the samples with virtualBatchSize, got 0',
    );
    const bn = new BatchNorm(3, { ...size, axis: -1 });
    const x = { data: new Float32Array(24), shape: [8, 3] };
    const moments = Moments.of(x);
    refused(
      () => new BatchNorm(8, { ...size, axis: -2 }).forward(x),
      RangeError,
      'axis must be another than that of the samples with virtualBatchSize, got -2 (x has shape [8, 3])',
    );
    refused(
      () => bn.forward({ data: new Float32Array(3), shape: [3] }),
      RangeError,
      'axis must be another than that of the samples with virtualBatchSize, got -1 (x has shape [3])',
    );
    refused(
      () => {
        bn.renorm = { rMax: 1, dMax: 0 };
      },
      TypeError,
      'renorm must be left out beside virtualBatchSize, got an object',
    );
    refused(
      () => bn.forward(x, { moments }),
      TypeError,
      'moments must be left out in a layer with virtualBatchSize, got an object',
    );
    bn.forward(x);
    refused(
      () => bn.backward(x, { sums: GradientSums.of(x, x, { moments }) }),
      TypeError,
      'sums must be left out in a layer with virtualBatchSize, got an object',
    );
    expect(bn.batchesTracked).toBe(1);
  });
});
