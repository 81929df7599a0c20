import { describe, expect, it } from 'vitest';
import { kinds } from '../support/data.js';
import { bounds, hunt, measures } from '../support/hunt.js';

describe('a short search', () => {
  // Always the same one, so that it fails for a change and not by chance: npm run hunt draws another each time.
  const seed = 14;

  it.each([
    ['float32', 1000],
    ['float64', 300],
  ] as const)('finds nothing in %s that is worse than promised', (dtype, most) => {
    const { of } = hunt(seed, dtype, Object.keys(kinds), (tensors) => tensors < most);
    for (const [kind, found] of of)
      for (const measure of measures) {
        const { error, subject } = found.get(measure) ?? { error: 0, subject: undefined };
        const where = `${measure} of ${kind}, npm run hunt -- --repeat '${JSON.stringify(subject)}'`;
        expect(error, where).toBeLessThanOrEqual(bounds[dtype][measure]);
      }
  });
});
