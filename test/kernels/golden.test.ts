// That a difference from the golden results would be found and told; test/kernels/invariants.test.ts looks for one.
import { describe, expect, it } from 'vitest';
import * as library from '../../lib/index.js';
import { type GoldenDifference, goldenDifference, goldenRows } from '../support/golden.js';
import golden from '../support/golden.json' with { type: 'json' };
import { describeDifference, sha256 } from '../support/golden-difference.js';

describe('a difference', () => {
  it('is told by the first array, shape and index', async () => {
    const off: typeof library.backward = (dy, x, options) => {
      const gradients = library.backward(dy, x, options);
      if (gradients.dx.shape.join() === '4,33,49' && options.residual) gradients.dx.data[77] *= -1;
      return gradients;
    };
    const difference = await goldenDifference({ ...library, backward: off }, sha256);
    const { row, name, array } = difference as GoldenDifference;
    expect([row, name, array.length]).toEqual(['float32 [4, 33, 49]', 'residual backward dx', 4 * 33 * 49]);
    expect(describeDifference({ row, name, array })).toMatch(
      /^float32 \[4, 33, 49\], residual backward dx, index 77 of 6468: -?[\d.e-]+ on \w+, -?[\d.e-]+ on \w+$/,
    );
    array[77] *= -1;
    expect(describeDifference({ row, name, array })).toContain('the arithmetic itself has changed');
  });

  it('is looked for in every array', () => {
    for (const { name, arrays } of goldenRows(library))
      expect(Object.keys(arrays).length, name).toBe(golden[name as keyof typeof golden].split(' ').length);
  });
});
