// What the benchmark compares in its rows of group, instance, layer and RMS norm is the same.
import * as library from 'batchnorm';
import { describe, expect, it } from 'vitest';
import { type Case, type Norm, rowOf, rowsOf, selectCases } from '../../bench/cases.js';
import { buffersFor, eps } from '../../bench/contender.js';
import { plainJs } from '../../bench/contenders/plain-js.js';
import { normContender } from '../../bench/norms.js';
import { backwardGroups, backwardRows, forwardGroups, forwardRows } from '../../bench/plain-js-norms.js';
import { Lookup, type Measurement, type Results, readResults, writeResults } from '../../bench/results.js';
import { judge } from '../../bench/targets.js';
import { expectClose } from '../support/tensors.js';

const selection = { quick: false, sweep: false, only: 'norms', dtype: 'float32' as const };
const cases = selectCases(selection);
const normed = cases.filter((it): it is Case & { norm: Norm } => it.norm !== undefined);

/** One of each norm and layout. */
const kinds = normed.filter(({ name }) => !/^(layer|RMS)/.test(name) || name.endsWith('(4096, 768)'));

/** The same norm and layout of 3 samples, 6 channels and 5 positions, in float64. */
function small(subject: Case & { norm: Norm }): Case & { norm: Norm } {
  const { norm, layout, inner } = subject;
  const dtype = 'float64' as const;
  if (norm.name === 'layer' || norm.name === 'RMS')
    return { ...subject, dtype, shape: [15, 6], outer: 15, channels: 6 };
  const groups = norm.name === 'instance' ? 6 : 3;
  const shape = layout === 'channels-first' ? [3, 6, 5] : [3, 5, 6];
  const extents = inner > 1 ? { outer: 3, inner: 5 } : { outer: 15, inner: 1 };
  return { ...subject, ...extents, dtype, shape, channels: 6, norm: { ...norm, groups } };
}

describe('rows of norms of the benchmark', () => {
  it('are four norms, each beside batch norm of the same shape, and none in float64', () => {
    expect(new Set(normed.map(({ norm }) => norm.name))).toEqual(
      new Set(['group', 'instance', 'layer', 'RMS']),
    );
    expect(normed).toHaveLength(14);
    for (const subject of normed) {
      const twin = cases.find(({ name }) => name === subject.twin) as Case;
      expect([twin.shape, twin.norm], subject.name).toEqual([subject.shape, undefined]);
    }
    expect(selectCases({ ...selection, dtype: 'float64' })).toEqual([]);
    const quick = selectCases({ ...selection, quick: true }).map(({ norm }) => norm?.name);
    expect(quick.filter((name) => name !== undefined)).toEqual(['group', 'group', 'layer', 'RMS']);
  });

  it.each(kinds.map(small))('the loops are the library’s: $name', (it) => {
    const { norm, shape, outer, channels, inner, layout } = it;
    const { x, dy, y, dx, weight, bias } = buffersFor(it);
    const rows = rowsOf(it);
    const zeros = (length: number) => new Float64Array(length);
    const moments = { mean: zeros(rows), variance: zeros(rows) };
    const gradients = { dx, dWeight: zeros(channels), dBias: zeros(channels) };
    const affine = { weight, bias, eps };
    const isOfRows = norm.name === 'layer' || norm.name === 'RMS';
    if (isOfRows) {
      forwardRows(x, it, norm.name === 'layer', affine, moments, y);
      backwardRows(dy, x, it, norm.name === 'layer', moments, affine, gradients);
    } else {
      const groups = { outer, channels, inner, samples: shape[0], groups: norm.groups };
      forwardGroups(x, groups, affine, moments, y);
      backwardGroups(dy, x, groups, moments, affine, gradients);
    }
    const input = { data: x as Float64Array, shape };
    const gradient = { data: dy as Float64Array, shape };
    const axis = layout === 'channels-first' ? 1 : -1;
    const { groups } = norm;
    const [wanted, backward] = {
      group: () => [
        library.groupNorm(input, { ...affine, groups, axis }),
        library.groupNormBackward(gradient, input, { ...affine, groups, axis }),
      ],
      instance: () => [
        library.instanceNorm(input, { ...affine, axis }),
        library.instanceNormBackward(gradient, input, { ...affine, axis }),
      ],
      layer: () => [library.layerNorm(input, affine), library.layerNormBackward(gradient, input, affine)],
      RMS: () => [
        library.rmsNorm(input, { weight, eps }),
        library.rmsNormBackward(gradient, input, { weight, eps }),
      ],
    }[norm.name]() as [library.RowResult<Float64Array>, library.RowFunctionGradients<Float64Array>];
    expectClose(moments.mean, wanted.mean, 1e-12, 'mean');
    expectClose(moments.variance, wanted.variance, 1e-12, 'variance');
    expectClose(y, wanted.y.data, 1e-11, 'y');
    expectClose(dx, backward.dx.data, 1e-11, 'dx');
    expectClose(gradients.dWeight, backward.dWeight, 1e-11, 'dWeight');
    if (norm.name !== 'RMS') expectClose(gradients.dBias, backward.dBias, 1e-11, 'dBias');
  });

  it.each(kinds.map(small))('the passes of the library and of the loops give the same: $name', async (it) => {
    const x = buffersFor(it).x;
    const [own, plain] = [0, 1].map(() => buffersFor(it, x));
    const { calls, train } = normContender(it, it.norm, own, library);
    const loops = await plainJs(it, plain);
    for (const pass of ['inference', 'training', 'backward'] as const) {
      own.y.fill(7);
      plain.y.fill(7);
      calls[pass]?.();
      loops?.calls[pass]?.();
      expectClose(own.y, plain.y, 1e-11, `y of ${pass}`);
    }
    expectClose(own.dx, plain.dx, 1e-11, 'dx');
    if (it.norm.name !== 'group' && it.norm.name !== 'layer') return;
    const [trained, looped] = [await train?.(), await loops?.train?.()];
    expectClose(trained?.variance ?? [], looped?.variance ?? [], 1e-12, 'variance');
    expect(trained?.variance).toHaveLength(rowsOf(it));
  });

  it('a place belongs to the row that it is normalized with', () => {
    for (const it of kinds.map(small)) {
      const x = buffersFor(it).x.map((_, place) => rowOf(it)(place));
      const input = { data: x, shape: it.shape };
      const axis = it.layout === 'channels-first' ? 1 : -1;
      const { variance } =
        it.norm.name === 'layer' || it.norm.name === 'RMS'
          ? library.layerNorm(input)
          : library.groupNorm(input, { groups: it.norm.groups, axis });
      // Of rows that do not vary, for each has its own number everywhere.
      expect([variance.length, variance.every((value) => value === 0)], it.name).toEqual([rowsOf(it), true]);
      expect(new Set(x).size).toBe(rowsOf(it));
    }
  });
});

describe('targets of norms', () => {
  const subject = normed.find(({ name }) => name === 'layer (4096, 768)') as Case;
  const twin = cases.find(({ name }) => name === subject.twin) as Case;
  const time = (of: Case, contender: string, milliseconds: number): Measurement => ({
    case: of.name,
    pass: 'inference',
    contender,
    min: milliseconds,
    median: milliseconds,
    rounds: [milliseconds],
  });
  const resultsOf = (measurements: Measurement[]): Results => ({
    date: '',
    machine: '',
    command: '',
    threads: 1,
    contenders: ['native 1T', 'PyTorch'].map((name) => ({ name, threads: 1 })),
    cases: [twin, subject],
    measurements,
    accuracy: [],
    notes: [],
  });
  const verdict = (target: string, measurements: Measurement[]) =>
    judge(new Lookup(resultsOf(measurements))).find(
      (it) => it.name === 'layer norm, inference' && it.target === target,
    );

  it('are judged by batch norm of the same shape', () => {
    const target = '≥ 0.85 × batch norm';
    const at = (milliseconds: number) =>
      verdict(target, [time(twin, 'native 1T', 8.5), time(subject, 'native 1T', milliseconds)]);
    expect(at(10)).toMatchObject({ reached: true, worst: '0.85', worstCase: subject.name });
    expect(at(10.2)).toMatchObject({ reached: false, worst: '0.83' });
    expect(verdict(target, [time(subject, 'native 1T', 1)])).toMatchObject({ reached: undefined });
  });

  it('are judged by another library, whatever it is called with one number of threads', () => {
    const target = '≥ 1.20 × PyTorch';
    const at = (milliseconds: number) =>
      verdict(target, [time(subject, 'PyTorch', 12), time(subject, 'native 1T', milliseconds)]);
    expect(at(10)).toMatchObject({ reached: true, worst: '1.20' });
    expect(at(10.2)).toMatchObject({ reached: false, worst: '1.18' });
  });

  it('survive a file: what is no number as well', () => {
    const results = resultsOf([time(subject, 'PyTorch', Number.NaN), time(subject, 'native 1T', Infinity)]);
    expect(readResults(writeResults(results))).toEqual(results);
  });
});
