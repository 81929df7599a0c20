import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  type Conv,
  compose,
  type FixedBatchNorm,
  type FloatArray,
  type FoldableBatchNorm,
  type FoldableNorm,
  FrozenBatchNorm,
  foldBeforeLinear,
  foldIntoConv,
  foldIntoLinear,
  GroupNorm,
  InstanceNorm,
  LayerNorm,
  RMSNorm,
} from '../../lib/index.js';
import { expectListed } from '../support/messages.js';
import { Random, seedNote } from '../support/random.js';
import * as reference from '../support/reference.js';
import {
  atOffset,
  dtypes,
  expectClose,
  expectSame,
  expectUnmodified,
  extentsOf,
  type FloatDType,
  foreign,
  fromChannels,
  largest,
  randomActivations,
  randomNormals,
  randomParameters,
  randomShape,
  randomStatistics,
  rounding,
  shared,
  typed,
} from '../support/tensors.js';

// biome-ignore lint/suspicious/noExplicitAny: wrong types are what is tested
type Wrong = any;

const product = (sizes: readonly number[]) => sizes.reduce((total, size) => total * size, 1);

interface Geometry {
  stride: number;
  padding: number;
  dilation: number;
}

interface Doubles {
  data: Float64Array;
  shape: number[];
}

/** Every position in an array of that shape. */
function positions(shape: readonly number[]): number[][] {
  return shape.reduce<number[][]>(
    (heads, size) => heads.flatMap((head) => Array.from({ length: size }, (_, i) => [...head, i])),
    [[]],
  );
}

/** Where a position of the smaller side and a tap of the kernel meet the larger side; undefined in the padding. */
function meet(at: number[], tap: number[], larger: readonly number[], geometry: Geometry) {
  const { stride, padding, dilation } = geometry;
  const place = at.map((position, d) => position * stride - padding + tap[d] * dilation);
  return place.every((position, d) => position >= 0 && position < larger[d]) ? place : undefined;
}

const indexIn = (shape: readonly number[], at: readonly number[]) =>
  at.reduce((index, position, d) => index * shape[d] + position, 0);

/**
 * The textbook's convolution of x[sample][input][...], in doubles, one product after the other. The transposed one goes
 * from the smaller side to the larger.
 */
function convolve(x: Doubles, conv: Conv, geometry: Geometry): Doubles {
  const { weight, shape, bias, groups = 1, transposed = false } = conv;
  const [samples, inputs, ...from] = x.shape;
  const kernel = shape.slice(2);
  const outputs = transposed ? shape[1] * groups : shape[0];
  const { stride, padding, dilation } = geometry;
  const to = from.map((size, d) => {
    const reach = dilation * (kernel[d] - 1) + 1;
    return transposed
      ? (size - 1) * stride - 2 * padding + reach
      : Math.floor((size + 2 * padding - reach) / stride) + 1;
  });
  const [smaller, larger] = transposed ? [from, to] : [to, from];
  const y = new Float64Array(samples * outputs * product(to));
  for (let i = 0; i < y.length; i++) y[i] = bias?.[Math.floor(i / product(to)) % outputs] ?? 0;
  const links = positions(smaller).flatMap((at) =>
    positions(kernel).flatMap((tap, k) => {
      const place = meet(at, tap, larger, geometry);
      if (place === undefined) return [];
      const [small, large] = [indexIn(smaller, at), indexIn(larger, place)];
      return [transposed ? { k, source: small, target: large } : { k, source: large, target: small }];
    }),
  );
  const [inputsOfGroup, outputsOfGroup] = [inputs / groups, outputs / groups];
  for (let n = 0; n < samples; n++)
    for (let o = 0; o < outputs; o++)
      for (let i = 0; i < inputs; i++) {
        const group = Math.floor(o / outputsOfGroup);
        if (Math.floor(i / inputsOfGroup) !== group) continue;
        const row = transposed
          ? i * outputsOfGroup + (o % outputsOfGroup)
          : o * inputsOfGroup + (i % inputsOfGroup);
        for (const { k, source, target } of links)
          y[(n * outputs + o) * product(to) + target] +=
            weight[row * product(kernel) + k] * x.data[(n * inputs + i) * product(from) + source];
      }
  return { data: y, shape: [samples, outputs, ...to] };
}

const pointwise: Geometry = { stride: 1, padding: 0, dilation: 1 };

/** A batch norm in all its forms: the same arrays, either dtype of parameters, some without weight or bias. */
interface Drawn {
  fixed: FixedBatchNorm & { eps: number };
  layer: BatchNorm<FloatDType>;
  frozen: FrozenBatchNorm;
}

function drawBatchNorm(random: Random, channels: number, dtype: FloatDType, axis = 1): Drawn {
  const parameters = randomParameters(random, dtype, channels);
  const weight = random.pick([parameters.weight, undefined]);
  const bias = random.pick([parameters.bias, undefined]);
  const { mean, variance } = randomStatistics(random, channels);
  const eps = random.pick([1e-5, 1e-3]);
  const layer = new BatchNorm<FloatDType>(channels, {
    dtype,
    axis,
    eps,
    weight: weight !== undefined,
    bias: bias !== undefined,
  });
  layer.loadStateDict({
    ...(weight && { weight }),
    ...(bias && { bias }),
    running_mean: mean,
    running_var: variance,
  });
  return { fixed: { mean, variance, weight, bias, eps, axis }, layer, frozen: layer.freeze() };
}

const formsOf = ({ fixed, layer, frozen }: Drawn): FoldableBatchNorm[] => [fixed, layer, frozen];

/** bn(x) as the textbook has it. */
function normalized(x: Doubles, bn: FixedBatchNorm, axis = 1): Doubles {
  const data = reference.forwardInference(x.data, extentsOf(x.shape, axis), { eps: 1e-5, ...bn });
  return { data, shape: x.shape };
}

const absolute = (values: ArrayLike<number>) => Float64Array.from(values, Math.abs);

/** What the folded layer adds up, without signs: its rounding is a share of this. */
function magnitude(x: Doubles, folded: Conv & { bias: FloatArray }, geometry: Geometry): Float64Array {
  const { weight, bias } = folded;
  const unsigned = { ...folded, weight: absolute(weight), bias: absolute(bias) };
  return convolve({ ...x, data: absolute(x.data) }, unsigned, geometry).data;
}

/** Half a unit in the last place, a little more for the doubles it came from. */
const roundedOnce = { float32: 2 ** -24 * 1.0001, float64: 1e-12 } as const;

function drawConv(random: Random, dtype: FloatDType, dimensions: number, transposed: boolean) {
  const groupSize = random.integer(1, 3);
  const groups = random.pick([1, 2, 4]);
  // As many groups as inputs: depthwise.
  const inputs = random.pick([groups, groups * groupSize]);
  const outputs = groups * random.integer(1, 3);
  const kernel = Array.from({ length: dimensions }, () => random.integer(1, 3));
  const shape = transposed ? [inputs, outputs / groups] : [outputs, inputs / groups];
  shape.push(...kernel);
  const conv: Conv = {
    weight: randomNormals(random, dtype, product(shape)),
    shape,
    bias: random.pick([randomNormals(random, random.pick(dtypes), outputs), null, undefined]),
    groups: groups === 1 ? random.pick([1, undefined]) : groups,
    transposed: transposed || random.pick([false, undefined]),
  };
  const geometry = {
    stride: random.integer(1, 2),
    padding: random.integer(0, 1),
    dilation: random.integer(1, 2),
  };
  const x = {
    shape: [2, inputs, ...kernel.map((size) => geometry.dilation * (size - 1) + random.integer(3, 4))],
    data: new Float64Array(),
  };
  x.data = Float64Array.from({ length: product(x.shape) }, () => Math.fround(random.normal()));
  return { conv, geometry, x, inputs, outputs };
}

describe(`foldIntoConv (${seedNote})`, () => {
  for (const dtype of dtypes)
    for (const transposed of [false, true])
      for (const dimensions of [0, 1, 2, 3]) {
        const kind = `${dtype}, ${dimensions}d${transposed ? ', transposed' : ''}`;
        it(`gives bn(conv(x)) in one convolution: ${kind}`, () => {
          const random = new Random(dimensions);
          for (let round = 0; round < 12; round++) {
            const { conv, geometry, x, outputs } = drawConv(random, dtype, dimensions, transposed);
            const bn = drawBatchNorm(random, outputs, random.pick(dtypes));
            const arrays = {
              weight: conv.weight,
              bias: conv.bias ?? undefined,
              'bn.weight': bn.fixed.weight ?? undefined,
              'bn.bias': bn.fixed.bias ?? undefined,
              mean: bn.fixed.mean,
              variance: bn.fixed.variance,
            };
            const folded = expectUnmodified(arrays, () => foldIntoConv(conv, bn.fixed));
            const expected = normalized(convolve(x, conv, geometry), bn.fixed);
            const actual = convolve(x, folded, geometry);
            const terms = magnitude(x, folded, geometry);
            expect(actual.shape).toEqual(expected.shape);
            expectClose(
              actual.data,
              expected.data,
              (i) => roundedOnce[dtype] * terms[i],
              `y, shape ${conv.shape}`,
            );

            expect([folded.shape, folded.groups, folded.transposed]).toEqual([
              conv.shape,
              conv.groups,
              conv.transposed,
            ]);
            expect(folded.weight.constructor).toBe(conv.weight.constructor);
            expect(folded.bias.constructor).toBe(conv.weight.constructor);
            expect(folded.weight.buffer).not.toBe(conv.weight.buffer);
            for (const form of formsOf(bn)) {
              const same = foldIntoConv(conv, form);
              expectSame(same.weight, folded.weight, 'weight');
              expectSame(same.bias, folded.bias, 'bias');
            }
          }
        });
      }

  it.each(dtypes)('gives what the convolution and the frozen layer give, %s', (dtype) => {
    const random = new Random();
    for (let round = 0; round < 10; round++) {
      const { conv, geometry, x, outputs } = drawConv(random, dtype, 2, round % 2 === 1);
      const { frozen } = drawBatchNorm(random, outputs, dtype);
      const before = convolve(x, conv, geometry);
      const expected = frozen.run({ data: typed(dtype, before.data), shape: before.shape }).data;
      const folded = foldIntoConv(conv, frozen);
      const terms = largest(magnitude(x, folded, geometry));
      expectClose(convolve(x, folded, geometry).data, expected, rounding[dtype] * terms, 'y');
    }
  });

  it('gives each output of a transposed convolution in groups its own factor', () => {
    const conv = {
      weight: Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8),
      shape: [4, 2, 1],
      groups: 2,
      transposed: true,
    };
    const bn = {
      mean: new Float32Array(4),
      variance: Float32Array.of(1, 1, 1, 1),
      weight: Float32Array.of(1, 10, 100, 1000),
      eps: 1e-30,
    };
    expect(foldIntoConv(conv, bn).weight).toEqual(Float32Array.of(1, 20, 3, 40, 500, 6000, 700, 8000));
  });

  it('rounds once, from doubles', () => {
    const random = new Random();
    const { conv, outputs } = drawConv(random, 'float32', 2, false);
    const { fixed } = drawBatchNorm(random, outputs, 'float64');
    const { mean, variance, weight, bias, eps } = fixed;
    const folded = foldIntoConv(conv, fixed);
    const scale = (o: number) => (weight?.[o] ?? 1) / Math.sqrt(variance[o] + eps);
    const inner = conv.weight.length / outputs;
    const weights = Float64Array.from(conv.weight, (value, i) => value * scale(Math.floor(i / inner)));
    const biases = Float64Array.from(
      mean,
      (m, o) => ((conv.bias?.[o] ?? 0) - m) * scale(o) + (bias?.[o] ?? 0),
    );
    const half = (values: Float64Array) => (i: number) => Math.abs(values[i]) * roundedOnce.float32;
    expectClose(folded.weight, weights, half(weights), 'weight');
    expectClose(folded.bias, biases, half(biases), 'bias');
  });

  it('gives a convolution that can be folded again', () => {
    const random = new Random();
    const { conv, geometry, x, outputs } = drawConv(random, 'float64', 2, true);
    const [first, second] = [0, 1].map(() => drawBatchNorm(random, outputs, 'float64').fixed);
    const folded = foldIntoConv(foldIntoConv(conv, first), second);
    const expected = normalized(normalized(convolve(x, conv, geometry), first), second).data;
    expectClose(convolve(x, folded, geometry).data, expected, 1e-12 * (1 + largest(expected)), 'y');
  });

  it('takes views, shared memory and arrays of another realm', () => {
    const random = new Random();
    const { conv, outputs } = drawConv(random, 'float32', 1, false);
    const { fixed } = drawBatchNorm(random, outputs, 'float32');
    const expected = foldIntoConv(conv, fixed);
    for (const copy of [(values: FloatArray) => atOffset(values, 8), shared, foreign]) {
      const folded = foldIntoConv(
        { ...conv, weight: copy(conv.weight), bias: conv.bias && copy(conv.bias) },
        { ...fixed, mean: copy(fixed.mean), variance: copy(fixed.variance) },
      );
      expect(folded).toEqual(expected);
    }
  });

  it('has eps 1e-5, weight 1 and bias 0 by default, for null too, and ignores what it does not know', () => {
    const conv = { weight: Float64Array.of(2, 3), shape: [2, 1, 1], stride: 2, name: 'conv1' };
    const bn = {
      mean: Float64Array.of(1, 2),
      variance: Float64Array.of(4, 9),
      weight: null,
      bias: null,
      id: 7,
    };
    const folded = foldIntoConv({ ...conv, bias: null }, bn);
    expectClose(folded.weight, [2 / Math.sqrt(4 + 1e-5), 3 / Math.sqrt(9 + 1e-5)], 1e-15, 'weight');
    expectClose(folded.bias, [-1 / Math.sqrt(4 + 1e-5), -2 / Math.sqrt(9 + 1e-5)], 1e-15, 'bias');
    expect(Object.keys(folded).sort()).toEqual(['bias', 'shape', 'weight']);
  });

  it('takes −0, NaN and infinities for data, each in its channel', () => {
    const conv = { weight: Float32Array.of(-0, Number.NaN, Infinity, 1), shape: [4, 1] };
    const bn = { mean: new Float32Array(4), variance: Float32Array.of(1, 1, 1, 3), eps: 1 };
    const { weight, bias } = foldIntoConv(conv, bn);
    expectSame(weight, [-0, Number.NaN, Infinity, 0.5], 'weight');
    expectSame(bias, [0, 0, 0, 0], 'bias');
  });

  it('uses the running statistics in training mode too, as they are now', () => {
    const bn = new BatchNorm(1);
    expect(bn.training).toBe(true);
    bn.forward({ data: Float32Array.of(1, 3), shape: [2, 1] });
    const conv = { weight: Float64Array.of(1), shape: [1, 1] };
    // 0.9 · 1 + 0.1 · 2 and 0.1 · 2.
    expectClose(foldIntoConv(conv, bn).weight, [1 / Math.sqrt(1.1 + 1e-5)], 1e-15, 'weight');
    expectClose(foldIntoConv(conv, bn).bias, [-0.2 / Math.sqrt(1.1 + 1e-5)], 1e-15, 'bias');
  });
});

function drawLinear(random: Random, dtype: FloatDType) {
  const [outputs, inputs, samples] = [random.integer(1, 40), random.integer(1, 40), random.integer(1, 5)];
  const linear = {
    weight: randomNormals(random, dtype, outputs * inputs),
    shape: [outputs, inputs],
    bias: random.pick([randomNormals(random, random.pick(dtypes), outputs), null, undefined]),
  };
  const data = Float64Array.from({ length: samples * inputs }, () => random.normal());
  return { linear, x: { data, shape: [samples, inputs] }, inputs, outputs };
}

describe(`linear layers (${seedNote})`, () => {
  it.each(dtypes)('foldIntoLinear gives bn(linear(x)), %s', (dtype) => {
    const random = new Random();
    for (let round = 0; round < 50; round++) {
      const { linear, x, outputs } = drawLinear(random, dtype);
      const bn = drawBatchNorm(random, outputs, random.pick(dtypes));
      for (const form of formsOf(bn)) {
        const folded = expectUnmodified({ weight: linear.weight, bias: linear.bias ?? undefined }, () =>
          foldIntoLinear(linear, form),
        );
        const expected = normalized(convolve(x, linear, pointwise), bn.fixed).data;
        const terms = magnitude(x, folded, pointwise);
        const actual = convolve(x, folded, pointwise).data;
        expectClose(actual, expected, (i) => roundedOnce[dtype] * terms[i], 'y');
        expect(folded.weight.constructor).toBe(linear.weight.constructor);
        expect(folded.bias.constructor).toBe(linear.weight.constructor);
        expect(folded.shape).toEqual(linear.shape);
      }
    }
  });

  it.each(dtypes)('foldBeforeLinear gives linear(bn(x)), %s', (dtype) => {
    const random = new Random();
    for (let round = 0; round < 50; round++) {
      const { linear, x, inputs } = drawLinear(random, dtype);
      const bn = drawBatchNorm(random, inputs, random.pick(dtypes));
      const expected = convolve(normalized(x, bn.fixed), linear, pointwise).data;
      for (const form of formsOf(bn)) {
        const folded = expectUnmodified(
          {
            weight: linear.weight,
            bias: linear.bias ?? undefined,
            mean: bn.fixed.mean,
            variance: bn.fixed.variance,
          },
          () => foldBeforeLinear(form, linear),
        );
        const terms = magnitude(x, folded, pointwise);
        const actual = convolve(x, folded, pointwise).data;
        // The folded bias is itself a sum that may cancel.
        const bias = 1e-14 * linear.weight.length;
        expectClose(actual, expected, (i) => roundedOnce[dtype] * terms[i] + bias, 'y');
        expect(folded.weight.constructor).toBe(linear.weight.constructor);
        expect(folded.bias.constructor).toBe(linear.weight.constructor);
        expect(folded.shape).toEqual(linear.shape);
        expect(folded.weight.buffer).not.toBe(linear.weight.buffer);
      }
    }
  });

  it('a batch norm before and one after go into the same layer', () => {
    const random = new Random();
    const { linear, x, inputs, outputs } = drawLinear(random, 'float64');
    const before = drawBatchNorm(random, inputs, 'float64').fixed;
    const after = drawBatchNorm(random, outputs, 'float64').fixed;
    const folded = foldBeforeLinear(before, foldIntoLinear(linear, after));
    const expected = normalized(convolve(normalized(x, before), linear, pointwise), after).data;
    expectClose(convolve(x, folded, pointwise).data, expected, 1e-12 * (1 + largest(expected)), 'y');
  });
});

describe(`norms that find the statistics of each input (${seedNote})`, () => {
  /** Those that may stand before a linear layer of so many inputs, with and without weight and bias, made alike. */
  const makers: [string, (inputs: number, options: object) => FoldableNorm & { freeze(): unknown }][] = [
    ['LayerNorm', (inputs, options) => new LayerNorm<FloatDType>(inputs, options)],
    ['LayerNorm of two dimensions', (inputs, options) => new LayerNorm<FloatDType>([inputs, 1], options)],
    ['GroupNorm', (inputs, options) => new GroupNorm<FloatDType>(1, inputs, options)],
  ];
  const run = (norm: Wrong, x: Doubles, dtype: FloatDType, shape = x.shape) =>
    Float64Array.from(norm.forward({ data: typed(dtype, x.data), shape }).data as FloatArray);

  for (const dtype of dtypes)
    it.each(makers)(`foldBeforeLinear takes weight and bias of the %s, ${dtype}`, (name, make) => {
      const random = new Random();
      for (let round = 0; round < 30; round++) {
        const { linear, x, inputs } = drawLinear(random, dtype);
        const [hasWeight, hasBias] = [random.uniform() < 0.4, random.uniform() < 0.4];
        const norm = make(inputs, { dtype, weight: hasWeight, bias: hasBias }) as Wrong;
        const plain = make(inputs, { dtype, weight: false, bias: false });
        const { weight, bias } = randomParameters(random, dtype, inputs);
        norm.weight?.set(weight);
        norm.bias?.set(bias);
        const shape = name.includes('two') ? [...x.shape, 1] : x.shape;
        const right = convolve({ ...x, data: run(norm, x, dtype, shape) }, linear, pointwise).data;
        for (const form of [norm, norm.freeze()]) {
          const folded = expectUnmodified(
            { weight: linear.weight, bias: linear.bias ?? undefined, 'bn.weight': norm.weight ?? undefined },
            () => foldBeforeLinear(form as FoldableNorm, linear),
          );
          const of = { ...x, data: run(plain, x, dtype, shape) };
          const actual = convolve(of, folded, pointwise).data;
          const terms = largest(magnitude(of, folded, pointwise)) + 1;
          expectClose(actual, right, rounding[dtype] * 4 * terms, 'y');
          expect(folded.weight.constructor).toBe(linear.weight.constructor);
          expect(folded.weight.buffer).not.toBe(linear.weight.buffer);
        }
      }
    });

  it('foldBeforeLinear takes the weight of an RMS norm, rounded once, and makes a bias of zeros', () => {
    const random = new Random();
    const norm = new RMSNorm(5);
    norm.weight?.set(randomNormals(random, 'float32', 5));
    const linear = { weight: randomNormals(random, 'float32', 15), shape: [3, 5] };
    const folded = foldBeforeLinear(norm, linear);
    const expected = Float32Array.from(linear.weight, (value, i) => value * (norm.weight?.[i % 5] ?? 0));
    expectSame(folded.weight, expected, 'weight');
    expectSame(folded.bias, [0, 0, 0], 'bias');
  });

  it('foldBeforeLinear has float32 parameters of a norm of 16 bits', () => {
    const norm = new LayerNorm(2, { dtype: 'bfloat16' }).loadStateDict({ weight: [2, 3], bias: [0.1, 0] });
    const folded = foldBeforeLinear(norm, { weight: Float64Array.of(1, 1), shape: [1, 2] });
    expectSame(folded.weight, [2, 3], 'weight');
    expectSame(folded.bias, [Math.fround(0.1)], 'bias');
  });

  it.each(dtypes)(
    'an instance norm with running statistics folds as the batch norm that it freezes to, %s',
    (dtype) => {
      const random = new Random();
      const { conv, outputs } = drawConv(random, dtype, 2, false);
      const norm = new InstanceNorm<FloatDType>(outputs, {
        dtype,
        weight: true,
        bias: true,
        trackRunningStats: true,
      });
      const { weight, bias } = randomParameters(random, dtype, outputs);
      const { mean, variance } = randomStatistics(random, outputs);
      norm.loadStateDict({ weight, bias, running_mean: mean, running_var: variance, num_batches_tracked: 1 });
      const frozen = norm.freeze() as FrozenBatchNorm<FloatDType>;
      expect(foldIntoConv(conv, norm)).toEqual(foldIntoConv(conv, frozen));
      const after = { weight: randomNormals(random, dtype, outputs), shape: [1, outputs] };
      expect(foldBeforeLinear(norm, after)).toEqual(foldBeforeLinear(frozen, after));
      const x = { data: randomNormals(random, dtype, outputs * 4), shape: [2, outputs, 2] };
      expect(compose<FloatDType>(norm, frozen).run(x)).toEqual(compose(frozen, frozen).run(x));
    },
  );
});

describe(`compose (${seedNote})`, () => {
  it.each(dtypes)('gives second(first(x)) in one layer, %s', (dtype) => {
    const random = new Random();
    for (let round = 0; round < 60; round++) {
      const { shape, axis } = randomShape(random);
      const extents = extentsOf(shape, axis);
      const [first, second] = [0, 1].map(() => drawBatchNorm(random, extents.channels, dtype, axis));
      const x = randomActivations(random, dtype, extents);
      const doubles = { data: Float64Array.from(x), shape };
      const expected = normalized(normalized(doubles, first.fixed, axis), second.fixed, axis).data;
      const composed = compose(random.pick(formsOf(first)), random.pick(formsOf(second)));
      expect(composed).toBeInstanceOf(FrozenBatchNorm);
      expect([composed.channels, composed.axis]).toEqual([extents.channels, axis]);
      const y = composed.run({ data: x, shape });
      expect(y.shape).toEqual(shape);
      expectClose(y.data, expected, 2 * rounding[dtype] * largest(expected), 'y');
    }
  });

  it('keeps its digits where means are large', () => {
    const random = new Random();
    const channels = 7;
    const shape = [4, channels, 100];
    const extents = extentsOf(shape, 1);
    const large = () => ({
      mean: Float64Array.from({ length: channels }, () => random.normal(1e4, 1)),
      variance: new Float64Array(channels).fill(1e-4),
      eps: 1e-12,
    });
    const first = { ...large(), bias: Float64Array.from({ length: channels }, () => random.normal(1e4, 1)) };
    const second = { ...large(), mean: first.bias.map((bias) => bias + 0.5) };
    const x = fromChannels('float32', extents, (c) => random.normal(first.mean[c], 1e-2));
    const doubles = { data: Float64Array.from(x), shape };
    const expected = normalized(normalized(doubles, first), second).data;
    const y = compose(first, second).run({ data: x, shape }).data;
    expectClose(y, expected, rounding.float32 * largest(expected), 'y');
  });

  it('composes what was composed', () => {
    const random = new Random();
    const [a, b, c] = [0, 1, 2].map(() => drawBatchNorm(random, 3, 'float64'));
    const x = { data: Float64Array.from({ length: 12 }, () => random.normal()), shape: [4, 3] };
    const expected = normalized(normalized(normalized(x, a.fixed), b.fixed), c.fixed).data;
    for (const composed of [
      compose(compose(a.layer, b.layer), c.frozen),
      compose(a.frozen, compose(b.fixed, c.fixed)),
    ])
      expectClose(composed.run(x).data, expected, 1e-12 * (1 + largest(expected)), 'y');
  });

  it('has the axis and the dtype of those that have one', () => {
    const fixed = { mean: Float32Array.of(0, 1), variance: Float32Array.of(1, 1) };
    const layer = new BatchNorm(2, { axis: -1, dtype: 'float64' });
    for (const composed of [compose(fixed, layer), compose(layer, fixed), compose(layer, layer.freeze())])
      expect([composed.axis, composed.dtype]).toEqual([-1, 'float64']);
    const plain = compose(fixed, fixed);
    expect([plain.axis, plain.dtype]).toEqual([1, undefined]);
    expect(compose({ ...fixed, axis: 0 }, fixed).axis).toBe(0);
    expect(compose(fixed, { ...fixed, axis: 0 }).axis).toBe(0);
  });

  it('is a snapshot of both, changes neither, and can be folded after its disposal', () => {
    const random = new Random();
    const [first, second] = [0, 1].map(() => drawBatchNorm(random, 3, 'float32').layer);
    const x = { data: randomNormals(random, 'float32', 12), shape: [4, 3] };
    const arrays = {
      mean: first.runningMean ?? undefined,
      variance: first.runningVar ?? undefined,
      bias: second.bias ?? undefined,
    };
    const composed = expectUnmodified(arrays, () => compose(first, second));
    const y = composed.run(x).data.slice();
    for (const layer of [first, second])
      for (const values of [layer.weight, layer.bias, layer.runningMean, layer.runningVar]) values?.fill(9);
    expectSame(composed.run(x).data, y, 'y');
    // Only native memory is let go of.
    const expected = foldIntoConv({ weight: y, shape: [3, 4] }, composed);
    composed[Symbol.dispose]();
    expect(foldIntoConv({ weight: y, shape: [3, 4] }, composed)).toEqual(expected);
  });
});

const fixed = (channels: number) => ({
  mean: new Float64Array(channels),
  variance: new Float64Array(channels).fill(1),
});
const fused = (channels: number) => ({ ...fixed(channels), activation: 'relu' as const });
const conv = () => ({ weight: new Float32Array(8 * 3 * 3 * 3), shape: [8, 3, 3, 3] });
const linear = () => ({ weight: new Float32Array(8 * 4), shape: [8, 4] });

describe('an activation', () => {
  it('of the batch norm becomes that of the folded layer, and there is none without', () => {
    expect(foldIntoConv(conv(), fused(8)).activation).toBe('relu');
    expect(foldIntoLinear(linear(), fused(8)).activation).toBe('relu');
    expect(foldIntoConv(conv(), fixed(8))).not.toHaveProperty('activation');
    expect(foldIntoLinear(linear(), { ...fixed(8), activation: null })).not.toHaveProperty('activation');
  });

  it('of the linear layer stays where a batch norm before it is folded', () => {
    expect(foldBeforeLinear(fixed(4), foldIntoLinear(linear(), fused(8))).activation).toBe('relu');
    expect(foldBeforeLinear(fixed(4), linear())).not.toHaveProperty('activation');
  });

  it('of a layer counts like that of plain arrays', () => {
    const layer = new BatchNorm(8, { activation: 'relu' });
    for (const bn of [layer, layer.freeze()]) {
      expect(foldIntoConv(conv(), bn).activation).toBe('relu');
      expect(() => compose(bn, fixed(8))).toThrow('first.activation must be absent');
    }
  });

  it('of the second batch norm is that of the composed one', () => {
    const x = { data: Float32Array.of(-2, -1, 1, 2), shape: [1, 4] };
    expect(compose(fixed(4), fused(4)).run(x).data.subarray(0, 2)).toEqual(Float32Array.of(0, 0));
  });
});

describe('errors of folding', () => {
  const cases: [
    title: string,
    call: () => unknown,
    Class: ErrorConstructor,
    message: string,
    code?: string,
  ][] = [
    [
      'conv that is null',
      () => foldIntoConv(null as Wrong, fixed(8)),
      TypeError,
      'conv must be an object, got null',
    ],
    [
      'linear that is a number',
      () => foldIntoLinear(3 as Wrong, fixed(8)),
      TypeError,
      'linear must be an object, got 3',
    ],
    [
      'weight that is a plain array',
      () => foldIntoConv({ ...conv(), weight: [1] as Wrong }, fixed(8)),
      TypeError,
      'conv.weight must be a Float32Array or Float64Array, got an array',
    ],
    [
      'shape that is missing',
      () => foldIntoConv({ weight: new Float32Array(8) } as Wrong, fixed(8)),
      TypeError,
      'conv.shape must be an array of dimensions, got undefined',
    ],
    [
      'dimension of zero',
      () => foldIntoConv({ ...conv(), shape: [8, 0, 3, 3] }, fixed(8)),
      RangeError,
      'conv.shape[1] must be an integer from 1 on, got 0',
    ],
    [
      'dimension that is a hole',
      () => foldIntoConv({ ...conv(), shape: new Array(2) }, fixed(8)),
      TypeError,
      'conv.shape[0] must be an integer from 1 on, got undefined',
    ],
    [
      'shape of one dimension',
      () => foldIntoConv({ weight: new Float32Array(8), shape: [8] }, fixed(8)),
      RangeError,
      'conv.shape must have at least two dimensions (outputs and inputs), got [8]',
    ],
    [
      'weight of another length than its shape',
      () => foldIntoConv({ ...conv(), weight: new Float32Array(200) }, fixed(8)),
      RangeError,
      'conv.weight must have 216 values (8 x 3 x 3 x 3), got 200',
    ],
    [
      'shape whose product passes 2^53',
      () => foldIntoConv({ weight: new Float32Array(8), shape: [2 ** 30, 2 ** 30] }, fixed(8)),
      RangeError,
      'conv.weight must have 1152921504606847000 values (1073741824 x 1073741824), got 8',
    ],
    [
      'groups that are a fraction',
      () => foldIntoConv({ ...conv(), groups: 1.5 }, fixed(8)),
      RangeError,
      'conv.groups must be an integer from 1 on, got 1.5',
    ],
    [
      'groups that do not divide the outputs',
      () => foldIntoConv({ ...conv(), groups: 3 }, fixed(8)),
      RangeError,
      'conv.groups must divide 8 (outputs), got 3',
    ],
    [
      'groups that do not divide the inputs of a transposed convolution',
      () => foldIntoConv({ ...conv(), groups: 3, transposed: true }, fixed(9)),
      RangeError,
      'conv.groups must divide 8 (inputs), got 3',
    ],
    [
      'transposed that is a string',
      () => foldIntoConv({ ...conv(), transposed: 'yes' as Wrong }, fixed(8)),
      TypeError,
      'conv.transposed must be true or false, got "yes"',
    ],
    [
      'bias of another length',
      () => foldIntoConv({ ...conv(), bias: new Float32Array(3) }, fixed(8)),
      RangeError,
      'conv.bias must have 8 values (one per channel), got 3',
    ],
    [
      'bias of a transposed convolution in groups of another length',
      () => foldIntoConv({ ...conv(), groups: 2, transposed: true, bias: new Float32Array(8) }, fixed(6)),
      RangeError,
      'conv.bias must have 6 values (one per channel), got 8',
    ],
    [
      'batch norm with other channels than the outputs',
      () => foldIntoConv(conv(), fixed(3)),
      RangeError,
      'bn must have 8 channels (outputs of conv), got 3',
    ],
    [
      'batch norm with other channels than the outputs of a transposed convolution',
      () => foldIntoConv({ ...conv(), groups: 2, transposed: true }, fixed(8)),
      RangeError,
      'bn must have 6 channels (outputs of conv), got 8',
    ],
    [
      'batch norm with other channels than the inputs it is before',
      () => foldBeforeLinear(fixed(8), linear()),
      RangeError,
      'bn must have 4 channels (inputs of linear), got 8',
    ],
    [
      'convolution for a linear layer',
      () => foldIntoLinear(conv(), fixed(8)),
      RangeError,
      'linear must be a linear layer of shape [outputs, inputs], got a convolution of shape [8, 3, 3, 3]; use foldIntoConv()',
    ],
    ...[{ shape: [8, 2, 2] }, { groups: 2 }, { transposed: true }].map((more): (typeof cases)[number] => {
      const given = { ...linear(), ...more };
      return [
        `convolution after the batch norm (${Object.keys(more)})`,
        () => foldBeforeLinear(fixed(4), given),
        RangeError,
        `linear must be a linear layer of shape [outputs, inputs], got a convolution of shape [${given.shape.join(', ')}]; a batch norm before zero padding cannot be folded; give an unpadded kernel of one value as [outputs, inputs]`,
        'NOT_FOLDABLE',
      ];
    }),
    [
      'bn that is undefined',
      () => foldIntoConv(conv(), undefined as Wrong),
      TypeError,
      'bn must be an object, got undefined',
    ],
    [
      'bn without a mean',
      () => foldBeforeLinear({} as Wrong, linear()),
      TypeError,
      'bn.mean must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got undefined',
    ],
    [
      'variance of another length',
      () => foldIntoConv(conv(), { ...fixed(8), variance: new Float64Array(4) }),
      RangeError,
      'bn.variance must have 8 values (one per channel), got 4',
    ],
    [
      'negative variance',
      () => compose(fixed(2), { ...fixed(2), variance: Float64Array.of(1, -1) }),
      RangeError,
      'second.variance must not be negative, got -1 in channel 1',
    ],
    [
      'negative running variance',
      () => {
        const bn = new BatchNorm(8);
        bn.runningVar?.fill(-0.5, 2, 3);
        foldIntoConv(conv(), bn);
      },
      RangeError,
      'bn.runningVar must not be negative, got -0.5 in channel 2',
    ],
    [
      'weight of the batch norm of another length',
      () => compose({ ...fixed(2), weight: new Float32Array(3) }, fixed(2)),
      RangeError,
      'first.weight must have 2 values (one per channel), got 3',
    ],
    [
      'bias of the batch norm that is no array',
      () => foldIntoConv(conv(), { ...fixed(8), bias: 0 as Wrong }),
      TypeError,
      'bn.bias must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got 0',
    ],
    [
      'eps below zero',
      () => foldIntoConv(conv(), { ...fixed(8), eps: -1e-5 }),
      RangeError,
      'bn.eps must be a finite number from 0 on, got -0.00001',
    ],
    [
      'eps of zero and a variance of zero',
      () => foldIntoConv(conv(), { ...fixed(8), variance: Float64Array.of(1, 1, 1, 1, 1, 1, 0, 1), eps: 0 }),
      RangeError,
      'bn.variance must be positive with eps: 0, got 0 in channel 6; give a positive eps',
    ],
    [
      'axis that is a fraction',
      () => compose({ ...fixed(2), axis: 0.5 }, fixed(2)),
      RangeError,
      'first.axis must be an integer, got 0.5',
    ],
    [
      'layer without running statistics',
      () => foldIntoConv(conv(), new BatchNorm(8, { trackRunningStats: false })),
      Error,
      'bn must have running statistics, got trackRunningStats: false',
      'NO_RUNNING_STATS',
    ],
    ...(
      [
        ['GroupNorm', new GroupNorm(2, 8)],
        ['LayerNorm', new LayerNorm(8)],
        ['RMSNorm', new RMSNorm(8)],
        ['LayerNorm', new LayerNorm(8).freeze()],
        ['GroupNorm', new GroupNorm(2, 8).freeze()],
      ] as const
    ).flatMap(([name, norm]): (typeof cases)[number][] =>
      Object.entries({
        foldIntoConv: () => foldIntoConv(conv(), norm as Wrong),
        foldIntoLinear: () => foldIntoLinear(linear(), norm as Wrong),
        compose: () => compose(norm as Wrong, fixed(8)),
      }).map(([call, action]) => [
        `${norm.constructor.name} (${name}) to ${call}`,
        action,
        RangeError,
        `${call === 'compose' ? 'first' : 'bn'} must have constants for statistics, got the ${name}, which finds those of each input; keep it; foldBeforeLinear() takes its weight and bias`,
        'NOT_FOLDABLE',
      ]),
    ),
    [
      'instance norm without running statistics',
      () => foldIntoConv(conv(), new InstanceNorm(8)),
      RangeError,
      'bn must have constants for statistics, got the InstanceNorm, which finds those of each input; keep it, or train it with trackRunningStats',
      'NOT_FOLDABLE',
    ],
    [
      'layer norm of other places than the inputs that it is before',
      () => foldBeforeLinear(new LayerNorm([2, 3]), linear()),
      RangeError,
      'bn must have 4 channels (inputs of linear), got 6',
    ],
    [
      'layer norm with an activation before a linear layer',
      () => foldBeforeLinear(new LayerNorm(4, { activation: 'relu' }).freeze(), linear()),
      RangeError,
      'bn.activation must be absent (it stands between the norm and the layer), got "relu"',
      'NOT_FOLDABLE',
    ],
    [
      'layer norm whose weight is not finite',
      () => {
        const norm = new LayerNorm(4);
        norm.weight?.fill(Number.NaN, 2, 3);
        foldBeforeLinear(norm, linear());
      },
      RangeError,
      'bn.weight must be finite, got NaN in channel 2',
    ],
    [
      'a proxy of a layer norm',
      () => foldBeforeLinear(new Proxy(new LayerNorm(4), {}), linear()),
      TypeError,
      'bn must be a layer itself, got an object',
    ],
    [
      'activation that is not known',
      () => foldIntoConv(conv(), { ...fixed(8), activation: 'gelu' as Wrong }),
      RangeError,
      'bn.activation must be \'relu\', got "gelu"',
    ],
    [
      'activation before the batch norm',
      () => foldIntoConv(foldIntoConv(conv(), fused(8)), fixed(8)),
      RangeError,
      'conv.activation must be absent (it stands between the layer and the batch norm), got "relu"',
      'NOT_FOLDABLE',
    ],
    [
      'activation after the batch norm and before the layer',
      () => foldBeforeLinear(fused(4), linear()),
      RangeError,
      'bn.activation must be absent (it stands between the norm and the layer), got "relu"',
      'NOT_FOLDABLE',
    ],
    [
      'activation between two batch norms',
      () => compose(fused(2), fixed(2)),
      RangeError,
      'first.activation must be absent (it stands between the two batch norms), got "relu"',
      'NOT_FOLDABLE',
    ],
    [
      'two batch norms of different channels',
      () => compose(fixed(2), fixed(3)),
      RangeError,
      'second must have 2 channels (those of first), got 3',
    ],
    [
      'two batch norms of different axes',
      () => compose(new BatchNorm(2), new BatchNorm(2, { axis: -1 })),
      RangeError,
      'second.axis must be 1 (the axis of first), got -1',
    ],
    [
      'two batch norms of different dtypes',
      () => compose<FloatDType>(new BatchNorm(2).freeze(), new BatchNorm(2, { dtype: 'float64' }).freeze()),
      RangeError,
      'second.dtype must be \'float32\' (the dtype of first), got "float64"',
    ],
    [
      'a proxy of a layer',
      () => compose(fixed(2), new Proxy(new BatchNorm(2), {})),
      TypeError,
      'second must be a layer itself, got an object',
    ],
    [
      'a shape with the length of a lie',
      () => {
        const lie = new Proxy([2, 2], { get: (_, key) => (key === 'length' ? -1 : 2) });
        foldIntoLinear({ weight: new Float32Array(4), shape: lie }, fixed(2));
      },
      RangeError,
      'linear.shape must have from 1 to 64 dimensions, got -1',
    ],
  ];

  it.each(cases)('%s', (_, call, Class, message, code) => {
    let thrown: unknown;
    try {
      call();
    } catch (error) {
      thrown = error;
    }
    const error = thrown as Error & { code: string };
    const kind = code ?? (Class === TypeError ? 'INVALID_TYPE' : 'INVALID_VALUE');
    expectListed(message);
    expect([error.constructor, error.message, error.code]).toEqual([Class, message, `ERR_BATCHNORM_${kind}`]);
  });
});
