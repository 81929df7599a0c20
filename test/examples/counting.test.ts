// The loops that the benchmark sets beside weights, masks and missing values compute the same.
import { describe, it } from 'vitest';
import { selectCases } from '../../bench/cases.js';
import { weightsFor } from '../../bench/contender.js';
import {
  backwardImputed,
  backwardWeighted,
  forwardImputed,
  forwardWeighted,
} from '../../bench/plain-js-counting.js';
import * as textbook from '../support/presence.js';
import { Random } from '../support/random.js';
import { expectClose } from '../support/tensors.js';

const eps = 1e-5;
const selection = { quick: false, sweep: false, only: '', dtype: 'float64' as const };
const kinds = selectCases({ ...selection, dtype: 'float32', only: 'counting' });

describe('plain loops of the benchmark', () => {
  it.each(kinds)('are the textbook’s: $name', ({ counts, layout }) => {
    const random = new Random(1);
    const [samples, channels, space] = [6, 5, 7];
    const isFirst = layout === 'channels-first';
    const shape = isFirst
      ? { outer: samples, channels, inner: space }
      : { outer: samples * space, channels, inner: 1 };
    const size = samples * channels * space;
    const normals = (length: number) => Float64Array.from({ length }, () => random.normal(0, 1));
    const [x, dy, weight, bias] = [normals(size), normals(size), normals(channels), normals(channels)];
    if (counts === 'missing') for (let i = 0; i < size; i += 11) x[i] = Number.NaN;
    const weights = weightsFor({ ...shape, counts, shape: [samples] });
    const affine = { weight, bias, eps };
    const pass = {
      x,
      extents: shape,
      ...affine,
      weights: weights ?? new Float64Array(samples * space).fill(1),
      missing: counts === 'missing',
      impute: counts === 'missing',
      zero: false,
    };
    const statistics = textbook.statistics(pass);
    const wanted = textbook.backward(pass, dy, statistics);
    const zeros = () => new Float64Array(channels);
    const moments = { mean: zeros(), variance: zeros() };
    const [y, found] = [new Float64Array(size), zeros()];
    const gradients = { dx: new Float64Array(size), dWeight: zeros(), dBias: zeros() };
    if (weights) {
      forwardWeighted(x, weights, shape, affine, moments, y);
      backwardWeighted(dy, x, weights, shape, moments, affine, gradients);
    } else {
      forwardImputed(x, shape, affine, moments, found, y);
      backwardImputed(dy, x, shape, moments, found, affine, gradients);
      expectClose(found, statistics.count, 0, 'count');
    }
    expectClose(moments.mean, statistics.mean, 1e-12, 'mean');
    expectClose(moments.variance, statistics.variance, 1e-12, 'variance');
    expectClose(y, textbook.forward(pass, statistics), 1e-11, 'y');
    expectClose(gradients.dx, wanted.dx, 1e-11, 'dx');
    expectClose(gradients.dWeight, wanted.dWeight, 1e-11, 'dWeight');
    expectClose(gradients.dBias, wanted.dBias, 1e-11, 'dBias');
  });
});
