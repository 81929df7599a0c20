// What PyTorch 2.15, Keras 3 and ONNX make of their own samples, and what PyTorch refuses: scripts/norms.py.
import { describe, expect, it } from 'vitest';
import { GroupNorm, InstanceNorm, LayerNorm, RMSNorm } from '../../lib/index.js';
import { arrayOf, goBack, layerOf, normalize, type Values } from '../support/norm-cases.js';
import { type Norm, normBackward, productOf } from '../support/norm-reference.js';
import {
  defaultEps,
  type NormSample,
  normSamples,
  type RefusedSample,
  refusedSamples,
} from '../support/norms.js';
import { expectClose, largest, typed } from '../support/tensors.js';

/** What we refuse of what they compute: an eps below 0, which makes a NaN of what varies little. */
const refusedHere = ['layer_norm 1', 'rms_norm 1', ...[4, 5, 6, 7].map((index) => `group_norm ${index}`)];
/** Which give an empty y here as there. */
const empty = ['layer_norm 4', 'rms_norm 4', ...[12, 13, 14, 15].map((index) => `group_norm ${index}`)];
/** Whose momentum is no weight, so that they have no layer here. */
const momentumOutside = [2, 4, 5].map((index) => `instance_norm ${index}`);

const isPytorch = ({ by }: NormSample, names: readonly string[], name: string) =>
  by === 'pytorch' && names.includes(name);
const taken = normSamples.filter((sample) => !isPytorch(sample, refusedHere, sample.name));

function normOf({ kind, shape, axis, groups, over }: NormSample | RefusedSample): Norm {
  return { kind, shape, axis, groups, dimensions: over?.length };
}

function tensorOf({ dtype, shape }: NormSample, values: Float64Array): Values {
  return { data: typed(dtype, values), shape };
}

/** Double to its digits; what is float32 on one side or both to those. */
function toleranceOf({ dtype }: NormSample): number {
  return dtype === 'float64' ? 1e-12 : 2e-6;
}

function expectSample(sample: NormSample, y: Values, gradients: ReturnType<typeof goBack> | undefined): void {
  const { kind, x, weight, bias, dy } = sample;
  const tolerance = toleranceOf(sample);
  expect(y.shape).toEqual(sample.shape);
  expectClose(y.data as Float64Array, sample.y, tolerance * largest(sample.y), 'y');
  if (dy === undefined || gradients === undefined || x.length === 0) return;
  const eps = sample.eps ?? defaultEps(sample);
  const { magnitude } = normBackward({ norm: normOf(sample), x, weight, bias, eps }, dy);
  for (const name of ['dx', 'dWeight', 'dBias'] as const) {
    const expected = sample[name];
    if (expected === undefined) continue;
    const gradient = gradients[name];
    const actual = name === 'dx' ? gradients.dx.data : (gradient as Float64Array);
    expectClose(actual as Float64Array, expected, tolerance * largest(magnitude[name]), name);
  }
  if (kind === 'rms') expect(gradients.dBias).toBeUndefined();
}

it('all of them are gone through, but for those that are named', () => {
  const refused = normSamples.filter(({ by, eps }) => by === 'pytorch' && (eps ?? 0) < 0);
  expect(refused.map(({ name }) => name).sort()).toEqual([...refusedHere].sort());
  const withoutValues = normSamples.filter(({ x }) => x.length === 0);
  expect(withoutValues.map(({ name }) => name).sort()).toEqual([...empty].sort());
  const outside = normSamples.filter(({ momentum = 0 }) => momentum < 0 || momentum > 1);
  expect(outside.map(({ name }) => name).sort()).toEqual([...momentumOutside].sort());
  expect(taken.length + refusedHere.length).toBe(normSamples.length);
});

describe('the functions agree with', () => {
  it.each(taken)('$by, $name', (sample) => {
    const { dtype, weight, bias, dy } = sample;
    const x = tensorOf(sample, sample.x);
    // Where PyTorch and ONNX say nothing, our default must be theirs.
    const eps =
      sample.eps ?? (sample.by === 'keras' || sample.by === 'onnx' ? defaultEps(sample) : undefined);
    const options = {
      eps,
      weight: weight && typed(dtype, weight),
      bias: bias && typed(dtype, bias),
    };
    const { y } = normalize(normOf(sample), x, options);
    expectSample(sample, y, dy && goBack(normOf(sample), tensorOf(sample, dy), x, options));
  });

  it.each(normSamples.filter((sample) => isPytorch(sample, refusedHere, sample.name)))(
    '$by, but for its eps of $eps, which is refused: $name',
    (sample) => {
      expect(() => normalize(normOf(sample), tensorOf(sample, sample.x), { eps: sample.eps })).toThrow(
        expect.objectContaining({
          code: 'ERR_BATCHNORM_INVALID_VALUE',
          message: expect.stringMatching(/^eps must/),
        }),
      );
    },
  );
});

describe('a layer agrees with', () => {
  it.each(taken.filter((sample) => !isPytorch(sample, momentumOutside, sample.name)))(
    '$by, $name',
    (sample) => {
      const { by, kind, dtype, weight, bias, dy, runningMean, runningVar, momentum = 0.1 } = sample;
      const layer = layerOf(normOf(sample), {
        dtype,
        // The conventions of group and instance norm say what eps is.
        ...(kind === 'group' || kind === 'instance' ? { convention: by, eps: sample.eps } : {}),
        ...(kind === 'layer' || kind === 'rms' ? { eps: sample.eps ?? defaultEps(sample) } : {}),
        weight: weight !== undefined,
        bias: bias !== undefined,
        ...(runningMean ? { trackRunningStats: true, decay: 1 - momentum } : {}),
      });
      const state: Record<string, Float64Array | number | undefined> = {
        weight,
        bias,
        running_mean: runningMean,
        running_var: runningVar,
        ...(runningMean ? { num_batches_tracked: 0 } : {}),
      };
      for (const key of Object.keys(state)) if (state[key] === undefined) delete state[key];
      layer.loadStateDict(state);
      const y = layer.forward(tensorOf(sample, sample.x));
      expectSample(sample, y, dy && layer.backward(tensorOf(sample, dy)));
      if (runningMean) {
        const { newRunningMean = [], newRunningVar = [] } = sample;
        expectClose(layer.runningMean, newRunningMean, 1e-12 * largest(newRunningMean), 'runningMean');
        expectClose(layer.runningVar, newRunningVar, 1e-12 * largest(newRunningVar), 'runningVar');
        expect(layer.batchesTracked).toBe(1);
      }
    },
  );
});

describe('what PyTorch refuses is refused:', () => {
  /** An empty x gives an empty y here. */
  const allowed = ['group_norm, refused 3'];

  it.each(refusedSamples.filter(({ name }) => !allowed.includes(name)))('$name: $refusal', (sample) => {
    const { shape, over, weight, bias, eps } = sample;
    const x = { data: new Float32Array(productOf(shape)), shape };
    const parameter = (of: number[] | undefined) => of && new Float32Array(productOf(of));
    expect(() =>
      normalize(normOf(sample), x, {
        eps,
        weight: parameter(weight),
        bias: parameter(bias),
        ...(over && { shape: over }),
      }),
    ).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_BATCHNORM_INVALID_(VALUE|TYPE)$/) }),
    );
  });

  it.each(refusedSamples.filter(({ name }) => allowed.includes(name)))(
    'but for $name: $refusal',
    (sample) => {
      expect(productOf(sample.shape)).toBe(0);
      const { y } = normalize(normOf(sample), { data: new Float32Array(0), shape: sample.shape });
      expect(y.data).toHaveLength(0);
    },
  );
});

describe('defaults are those of', () => {
  it.each([
    ['pytorch', 1e-5],
    ['keras', 1e-3],
    ['onnx', 1e-5],
  ] as const)('%s where a convention says so: eps %d', (convention, eps) => {
    expect(new GroupNorm(2, 4, { convention }).config.eps).toBe(eps);
    expect(new InstanceNorm(4, { convention }).config.eps).toBe(eps);
  });

  it('PyTorch where none does', () => {
    const group = new GroupNorm(2, 4);
    expect(group.config.eps).toBe(1e-5);
    expect([group.weight, group.bias]).toEqual([new Float32Array(4).fill(1), new Float32Array(4)]);
    const instance = new InstanceNorm(4);
    expect(instance.config.eps).toBe(1e-5);
    for (const absent of [instance.weight, instance.bias, instance.runningMean, instance.runningVar])
      expect(absent ?? undefined).toBeUndefined();
    const layer = new LayerNorm([2, 3]);
    expect(layer.config.eps).toBe(1e-5);
    expect([layer.weight, layer.bias]).toEqual([new Float32Array(6).fill(1), new Float32Array(6)]);
    expect(new RMSNorm(3).weight).toEqual(new Float32Array(3).fill(1));
  });

  it.each([
    ['float32', 2 ** -23],
    ['float64', 2 ** -52],
    ['bfloat16', 2 ** -7],
    ['float16', 2 ** -10],
  ] as const)('torch.finfo for the eps of RMS norm: %s', (dtype, eps) => {
    const norm: Norm = { kind: 'rms', shape: [1, 3], dimensions: 1 };
    // Values near the root of eps, so that it shows.
    const data = arrayOf(
      dtype,
      [3, 5, 7].map((value) => value * Math.sqrt(eps)),
    );
    const x = { data, shape: [1, 3] };
    const said = normalize(norm, x, { dtype, eps }).y.data;
    expect(normalize(norm, x, { dtype }).y.data).toEqual(said);
    expect(normalize(norm, x, { dtype, eps: 2 * eps }).y.data).not.toEqual(said);
    expect(new RMSNorm(3, { dtype }).forward(x as never).data).toEqual(said);
  });
});
