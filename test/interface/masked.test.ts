// Masked batches, as Keras 3 and Flax have them.
import { expect, it } from 'vitest';
import { BatchNorm, forwardTraining, updateRunningStats } from '../../lib/index.js';
import { type MaskedCase, maskedCases, maskedTitle } from '../support/masked.js';
import { dtypes, expectClose, largest, typed } from '../support/tensors.js';

const cases = maskedCases.flatMap((given) => dtypes.map((dtype) => ({ ...given, dtype })));
const present = ({ mask }: MaskedCase) => mask.filter((weight) => weight > 0).length;

/** Keras adds 1e-7 to the number that it divides by; Flax agrees to the digits that are written down. */
const tolerance = ({ by, dtype }: (typeof cases)[number]) =>
  by === 'flax' && dtype === 'float64' ? 1e-9 : 1e-6;

function expectSame(
  given: (typeof cases)[number],
  y: ArrayLike<number>,
  mean: ArrayLike<number>,
  variance: ArrayLike<number>,
): void {
  const entries = { y, newRunningMean: mean, newRunningVar: variance };
  for (const [name, values] of Object.entries(entries)) {
    const right = given[name as keyof typeof entries];
    expectClose(values, right, tolerance(given) * largest(right), name);
  }
}

it('there are cases of both, each with something masked', () => {
  for (const by of ['keras', 'flax']) expect(maskedCases.filter((given) => given.by === by).length).toBe(5);
  for (const given of maskedCases) {
    expect(present(given)).toBeGreaterThan(0);
    expect(present(given)).toBeLessThan(given.mask.length);
  }
});

it.each(cases.filter((given) => present(given) > 1))(
  `a layer trains as that ${maskedTitle}, in $dtype`,
  (given) => {
    const { shape, decay, eps, dtype } = given;
    const channels = given.weight.length;
    const bn = new BatchNorm(channels, { axis: -1, decay, eps, dtype, unbiasedRunningVar: false });
    bn.loadStateDict({
      weight: given.weight,
      bias: given.bias,
      running_mean: given.runningMean,
      running_var: given.runningVar,
    });
    const y = bn.forward({ data: typed(dtype, given.x), shape } as never, {
      weights: Uint8Array.from(given.mask),
    });
    expectSame(given, y.data, bn.runningMean ?? [], bn.runningVar ?? []);
  },
);

it.each(cases)(`functions do what that does ${maskedTitle}, in $dtype`, (given) => {
  const { shape, decay, eps, dtype } = given;
  const batch = forwardTraining(
    { data: typed(dtype, given.x), shape },
    {
      axis: -1,
      eps,
      weight: Float64Array.from(given.weight),
      bias: Float64Array.from(given.bias),
      weights: Uint8Array.from(given.mask),
    },
  );
  const running = {
    runningMean: Float64Array.from(given.runningMean),
    runningVar: Float64Array.from(given.runningVar),
  };
  updateRunningStats(running, batch, { decay, unbiasedRunningVar: false });
  expectSame(given, batch.y.data, running.runningMean, running.runningVar);
});
