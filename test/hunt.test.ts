import { describe, expect, it } from 'vitest';
import { kinds } from './data.js';
import { bounds, hunt, measures } from './hunt.js';
import { dtypes } from './tensors.js';

describe('a short search', () => {
  // Always the same one, so that it fails for a change and not by chance: npm run hunt draws another each time.
  const seed = 14;

  it.each(dtypes)('finds nothing in %s that is worse than promised', (dtype) => {
    const { of } = hunt(seed, dtype, Object.keys(kinds), (tensors) => tensors < 2000);
    for (const [kind, found] of of)
      for (const measure of measures) {
        const { error, subject } = found.get(measure) ?? { error: 0, subject: undefined };
        const where = `${measure} of ${kind}, npm run hunt -- --repeat '${JSON.stringify(subject)}'`;
        expect(error, where).toBeLessThanOrEqual(bounds[dtype][measure]);
      }
  });
});
