// What scripts/test-bundlers.ts bundles, runs and serves: which backend computes, and whether its bits are right.
import { createHash } from 'node:crypto';
import * as library from 'batchnorm';
import { WorkerGroup } from 'batchnorm/workers';
import { goldenDifference } from './golden.mjs';

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** The mean that each of two members finds, who take turns on one thread. */
async function meansOfGroup() {
  const { handle } = new WorkerGroup(2);
  const means = [1, 5].map(async (first, rank) => {
    const bn = new library.BatchNorm(1, { group: WorkerGroup.join(handle, rank) });
    await bn.forwardAsync({ data: Float32Array.of(first, first + 2), shape: [2, 1] });
    return bn.lastMoments.mean[0];
  });
  return (await Promise.all(means)).join();
}

export async function report() {
  const { BatchNorm, capabilities } = library;
  const frozen = new BatchNorm(2, { eps: 1e-300 }).freeze();
  const { data } = await frozen.runAsync({ data: Float32Array.of(1, -2), shape: [1, 2] });
  const difference = await goldenDifference(library, sha256);
  const means = await meansOfGroup();
  const wrong = difference
    ? `${difference.row}, ${difference.name}`
    : data.join() !== '1,-2'
      ? data.join()
      : means !== '4,4'
        ? means
        : '';
  return `${capabilities().backend} ${wrong || 'right'}`;
}
