// What scripts/test-bundlers.ts bundles, runs and serves: which backend computes, and whether its bits are right.
import { BatchNorm, capabilities } from 'batchnorm';
import { golden, goldenDigest } from './golden.mjs';

export async function report() {
  const frozen = new BatchNorm(2, { eps: 1e-300 }).freeze();
  const { data } = await frozen.runAsync({ data: Float32Array.of(1, -2), shape: [1, 2] });
  const isRight = goldenDigest() === golden && data.join() === '1,-2';
  return `${capabilities().backend} ${isRight ? 'right' : 'wrong'}`;
}
