// A batch in the parts of several members, and what their training must be: that of one process on the whole.
import { expect } from 'vitest';
import { BatchNorm, type FloatArray } from '../../lib/index.js';
import type { Random } from './random.js';
import {
  expectClose,
  type FloatDType,
  largest,
  randomActivations,
  randomNormals,
  rounding,
} from './tensors.js';

const inner = 3;

export interface Part {
  x: { data: FloatArray; shape: number[] };
  dy: { data: FloatArray; shape: number[] };
}

/** What one member finds in one step. */
export type Step = Record<'y' | 'dx' | 'dWeight' | 'dBias', FloatArray>;

/** What a member tells of its training. */
export interface Trained {
  results: Step[];
  state: Record<string, FloatArray>;
}

/**
 * A batch and its gradient, of which member i has the samples from cuts[i] to cuts[i + 1].
 *
 * @returns the parts, and the check of what all members have made of them.
 */
export function cutBatch(
  random: Random,
  { dtype, channels, cuts }: { dtype: FloatDType; channels: number; cuts: readonly number[] },
): { parts: Part[]; expectAsOne: (members: readonly Trained[]) => void } {
  const samples = cuts[cuts.length - 1];
  const shape = [samples, channels, inner];
  const x = { data: randomActivations(random, dtype, { outer: samples, channels, inner }), shape };
  const dy = { data: randomNormals(random, dtype, x.data.length), shape };
  const part = ({ data }: { data: FloatArray }, i: number) => ({
    data: data.slice(cuts[i] * channels * inner, cuts[i + 1] * channels * inner),
    shape: [cuts[i + 1] - cuts[i], channels, inner],
  });
  const parts = cuts.slice(1).map((_, i) => ({ x: part(x, i), dy: part(dy, i) }));
  const tolerance = rounding[dtype];

  function expectAsOne(members: readonly Trained[]): void {
    const one = new BatchNorm(channels, { dtype });
    for (let step = 0; step < 3; step++) {
      const y = one.forward(x as { data: Float32Array; shape: number[] });
      const { dx, dWeight } = one.backward(dy as { data: Float32Array; shape: number[] });
      const joined = (name: keyof Step) => members.flatMap(({ results }) => [...results[step][name]]);
      expectClose(joined('y'), y.data, tolerance * largest(y.data), 'y');
      expectClose(joined('dx'), dx?.data ?? [], tolerance * largest(dx?.data ?? []), 'dx');
      const sum = Array.from({ length: channels }, (_, c) =>
        members.reduce((all, { results }) => all + results[step].dWeight[c], 0),
      );
      // Terms that cancel are larger than their sum.
      expectClose(sum, dWeight ?? [], 10 * tolerance * largest(dWeight ?? []), 'dWeight');
    }
    for (const { state } of members) expect(state).toEqual(members[0].state);
    const { running_mean } = one.stateDict();
    expectClose(members[0].state.running_mean, running_mean as FloatArray, tolerance, 'runningMean');
  }

  return { parts, expectAsOne };
}
