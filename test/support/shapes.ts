import { it } from 'vitest';
import { Random } from './random.js';
import {
  allExtents,
  channelCounts,
  dtypes,
  type FloatDType,
  nearPowersOfTwo,
  type Parameters,
  randomShape,
} from './tensors.js';

/** Tests of `expectTextbook` for every shape that has a path of its own, and for absent parameters. */
export function eachShape<Case extends { parameters: Partial<Parameters> }>(
  randomCase: (random: Random, dtype: FloatDType, shape: number[], axis: number) => Case,
  expectTextbook: (subject: Case) => void,
): void {
  for (const dtype of dtypes) {
    it.each(channelCounts)(`${dtype} with %i channels is right at every outer and inner size`, (channels) => {
      const random = new Random(channels);
      for (const { outer, inner } of allExtents) {
        expectTextbook(randomCase(random, dtype, [outer, channels, inner], 1));
      }
    });

    it(`${dtype} is right at sizes around powers of two, in both layouts`, () => {
      const random = new Random();
      for (const size of nearPowersOfTwo(1, 14)) {
        expectTextbook(randomCase(random, dtype, [2, 3, size], 1));
        expectTextbook(randomCase(random, dtype, [1, 1, size], 1));
      }
      for (const size of nearPowersOfTwo(1, 12)) {
        expectTextbook(randomCase(random, dtype, [size, 3], -1));
        expectTextbook(randomCase(random, dtype, [size, 17], -1));
      }
      for (const size of nearPowersOfTwo(1, 9)) {
        expectTextbook(randomCase(random, dtype, [5, size], -1));
        expectTextbook(randomCase(random, dtype, [2, size, 3], 1));
      }
    });

    it(`${dtype} is right for any rank from 1 to 5 with the channels on any axis`, () => {
      const random = new Random();
      for (let i = 0; i < 80; i++) {
        const { shape, axis } = randomShape(random);
        expectTextbook(randomCase(random, dtype, shape, axis));
      }
    });

    it(`${dtype} is right with the weight, the bias or both left out`, () => {
      const random = new Random();
      for (const shape of [
        [3, 17, 49],
        [40, 100, 1],
      ]) {
        const whole = randomCase(random, dtype, shape, 1);
        const { weight, bias } = whole.parameters;
        for (const parameters of [{ weight }, { bias }, {}]) expectTextbook({ ...whole, parameters });
      }
    });
  }
}
