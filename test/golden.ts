// One digest over the results of every pass, for data and shapes that are the same everywhere.
import { createHash } from 'node:crypto';
import { BatchNorm, backward, type FloatArray, forwardInference, forwardTraining } from '../lib/index.js';

/**
 * Of goldenDigest(), on every instruction set, thread count and backend. It moves only when the arithmetic is changed
 * on purpose; the commit that moves it says why.
 */
export const golden = 'c60ed6a0a623b1a190dd450c216b74d80ef82c208f57ccd3a994c105b458527e';

/** Shapes [outer, channels, inner] that meet every path: both layouts, folds, runs, pieces, tails. */
const shapes: [number, number, number][] = [
  [1, 1, 2],
  [2, 3, 1],
  [5, 16, 1],
  [33, 17, 1],
  [700, 3, 1],
  [600, 100, 1],
  [520, 130, 1],
  [3, 5, 7],
  [4, 33, 49],
  [3, 2, 1000],
  [2, 3, 4100],
  [2, 2, 20001],
  [400, 2, 64],
];

/** Integers of a linear congruential generator, scaled by powers of two: no rounding, no library function. */
function values(length: number, seed: number, scale: number, offset: number): Float64Array {
  let state = seed;
  return Float64Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32 - 0.5) * scale + offset;
  });
}

export function goldenDigest(): string {
  const hash = createHash('sha256');
  const add = (...arrays: FloatArray[]) => {
    for (const { buffer, byteOffset, byteLength } of arrays)
      hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  };
  for (const [outer, channels, inner] of shapes) {
    for (const ArrayType of [Float32Array, Float64Array]) {
      const shape = [outer, channels, inner];
      const length = outer * channels * inner;
      const x = { data: ArrayType.from(values(length, 1, 4, 100)), shape };
      const dy = { data: ArrayType.from(values(length, 2, 2, 0)), shape };
      const weight = ArrayType.from(values(channels, 3, 1, 1));
      const bias = ArrayType.from(values(channels, 4, 1, 0));
      const forward = forwardTraining(x, { weight, bias });
      const { mean, variance } = forward;
      const back = backward(dy, x, { weight, mean, variance });
      const frozenBack = backward(dy, x, { weight, mean, variance, training: false });
      const inference = forwardInference(x, { weight, bias, mean, variance });
      add(forward.y.data, mean, variance, back.dx.data, back.dWeight, back.dBias);
      add(frozenBack.dx.data, frozenBack.dWeight, frozenBack.dBias, inference.data);
      const bn = new BatchNorm(channels, { dtype: ArrayType === Float32Array ? 'float32' : 'float64' });
      bn.forward(x as never);
      bn.forward(dy as never);
      add(bn.runningMean as Float64Array, bn.runningVar as Float64Array);
      add(bn.freeze().run(x as never).data);
    }
  }
  return hash.digest('hex');
}
