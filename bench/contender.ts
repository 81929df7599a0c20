import type { Case, Pass } from './cases.js';

/** The arrays of a case, touched and filled with reproducible values. */
export interface Buffers {
  x: Float32Array;
  dy: Float32Array;
  y: Float32Array;
  dx: Float32Array;
  weight: Float32Array;
  bias: Float32Array;
  mean: Float64Array;
  variance: Float64Array;
}

/** A library made ready for a case: one function per pass that it has, each a complete call as a user makes it. */
export type Contender = (subject: Case, buffers: Buffers) => Partial<Record<Pass | Roofline, () => void>>;

/** What the machine does at best: x read once and y written once; or x and dy read once and dx written once. */
export const rooflines = ['copy', 'sum'] as const;
export type Roofline = (typeof rooflines)[number];

/** The limit that a pass is measured against. */
export function rooflineOf(pass: Pass): Roofline {
  return pass === 'backward' ? 'sum' : 'copy';
}

/** Uniform in [−0.5, 0.5): a linear congruential generator is random enough for a clock. */
function fill(values: Float32Array, seed: number): Float32Array {
  let state = seed;
  for (let i = 0; i < values.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = state / 2 ** 32 - 0.5;
  }
  return values;
}

export function buffersFor({ outer, channels, inner }: Case): Buffers {
  const size = outer * channels * inner;
  return {
    x: fill(new Float32Array(size), 1),
    dy: fill(new Float32Array(size), 2),
    y: new Float32Array(size).fill(1),
    dx: new Float32Array(size).fill(1),
    weight: fill(new Float32Array(channels), 3),
    bias: fill(new Float32Array(channels), 4),
    mean: new Float64Array(channels),
    variance: new Float64Array(channels).fill(1 / 12),
  };
}
