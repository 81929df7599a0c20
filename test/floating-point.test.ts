import { describe, expect, it } from 'vitest';
import { BatchNorm } from '../lib/index.js';
import { dtypes, typed } from './tensors.js';

/** Read from memory, so that no compiler has done the arithmetic before. */
const operands = Float64Array.of(5e-324, 1e-310, 2 ** -1022, 1, -1, 3, 2 ** -53, 1e-40);

/** What another treatment of subnormal numbers or another direction of rounding would change. */
function arithmetic(): number[] {
  const [least, subnormal, normal, one, minusOne, three, halfUlp, small] = operands;
  return [
    least * one,
    subnormal + subnormal,
    normal / three,
    one / three,
    minusOne / three,
    one + halfUlp,
    minusOne - halfUlp,
    Math.fround(small),
  ];
}

const expected = [
  5e-324, 2e-310, 7.41691286169067e-309, 0.3333333333333333, -0.3333333333333333, 1, -1, 9.99994610111476e-41,
];

describe("JavaScript's arithmetic", () => {
  it('is that of IEEE 754 to begin with', () => {
    expect(arithmetic()).toEqual(expected);
  });

  it.each(dtypes)('is as it was after each call, also with subnormal %s', async (dtype) => {
    const shape = [64, 33, 65];
    const values = Float64Array.from({ length: 64 * 33 * 65 }, (_, i) => ((i % 7) - 3) * 1e-42);
    const x = { data: typed(dtype, values), shape };
    const bn = new BatchNorm(33, { dtype, activation: 'relu' });
    const calls: [name: string, call: () => unknown][] = [
      ['forward', () => bn.forward(x)],
      ['backward', () => bn.backward(x)],
      ['forwardAsync', () => bn.forwardAsync(x)],
      ['backwardAsync', () => bn.backwardAsync(x)],
      ['run', () => bn.freeze().run(x)],
      ['runAsync', () => bn.freeze().runAsync(x)],
    ];
    for (const [name, call] of calls) {
      const result = call();
      expect(arithmetic(), name).toEqual(expected);
      await result;
      expect(arithmetic(), `${name}, when it is done`).toEqual(expected);
    }
  });
});
