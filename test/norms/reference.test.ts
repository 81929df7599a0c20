// That the textbook which the tests of the norms go by is that of PyTorch, Keras and ONNX.
import { expect, it } from 'vitest';
import { type Norm, normBackward, normForward } from '../support/norm-reference.js';
import { defaultEps, type NormSample, normSamples } from '../support/norms.js';
import { expectClose, largest } from '../support/tensors.js';

const samples = normSamples.filter(({ x, eps }) => x.length > 0 && (eps ?? 1) >= 0);

function passOf(sample: NormSample) {
  const { kind, shape, axis, groups, over, x, weight, bias } = sample;
  const norm: Norm = { kind, shape, axis, groups, dimensions: over?.length };
  return { norm, x, weight, bias, eps: sample.eps ?? defaultEps(sample) };
}

it('there are samples of all three, of each norm that they have', () => {
  const kinds = new Set(samples.map(({ by, kind }) => `${by} ${kind}`));
  expect(kinds.size).toBe(12);
  expect(
    samples
      .filter(({ by }) => by !== 'onnx')
      .every(({ dx, weight, dWeight, bias, dBias }) => {
        return dx && !weight === !dWeight && !bias === !dBias;
      }),
  ).toBe(true);
});

it.each(samples)('the textbook agrees with $name of $by', (sample) => {
  const pass = passOf(sample);
  const tolerance = sample.dtype === 'float64' ? 1e-12 : 2e-6;
  const { y } = normForward(pass);
  expectClose(y, sample.y, tolerance * largest(sample.y), 'y');
  if (sample.dy === undefined) return;
  const gradients = normBackward(pass, sample.dy);
  for (const name of ['dx', 'dWeight', 'dBias'] as const) {
    const expected = sample[name];
    const size = largest(gradients.magnitude[name]);
    if (expected) expectClose(gradients[name], expected, tolerance * size, name);
  }
});
