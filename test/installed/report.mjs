// What scripts/test-bundlers.ts bundles, runs and serves: which backend computes, and whether its bits are right.
import { createHash } from 'node:crypto';
import * as library from 'batchnorm';
import { goldenDifference } from './golden.mjs';

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

export async function report() {
  const { BatchNorm, capabilities } = library;
  const frozen = new BatchNorm(2, { eps: 1e-300 }).freeze();
  const { data } = await frozen.runAsync({ data: Float32Array.of(1, -2), shape: [1, 2] });
  const difference = await goldenDifference(library, sha256);
  const wrong = difference
    ? `${difference.row}, ${difference.name}`
    : data.join() === '1,-2'
      ? ''
      : data.join();
  return `${capabilities().backend} ${wrong || 'right'}`;
}
