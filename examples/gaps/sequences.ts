import { BatchNorm, maskOf } from 'batchnorm';
import type { Digits } from '../mnist/data.js';

/** Sequences of different lengths: the columns of digits, from the first with ink to the last. */
export interface Sequences {
  readonly features: number;
  /** Of each sequence, step after step. */
  readonly values: readonly Float32Array[];
}

export function columnsOf(digits: Digits): Sequences {
  const side = Math.sqrt(digits.pixels);
  const values = Array.from({ length: digits.count }, (_, n) => {
    const image = digits.images.subarray(n * digits.pixels, (n + 1) * digits.pixels);
    const columns = Array.from({ length: side }, (_, column) =>
      Array.from({ length: side }, (_, row) => image[row * side + column] / 255),
    );
    const hasInk = (column: number[]) => column.some((value) => value > 0);
    return Float32Array.from(
      columns.slice(columns.findIndex(hasInk), columns.findLastIndex(hasInk) + 1).flat(),
    );
  });
  return { features: side, values };
}

/** What a batch norm makes of the steps that are there. */
export interface Normalized {
  readonly y: Float32Array;
  /** Over all features. */
  readonly mean: number;
  readonly deviation: number;
}

/** Pads sequences with zeros to a number of steps and normalizes them, with a mask or as if padding were data. */
export function normalize({ features, values }: Sequences, steps: number, isMasked: boolean): Normalized {
  const data = new Float32Array(values.length * steps * features);
  for (const [n, sequence] of values.entries()) data.set(sequence, n * steps * features);
  const lengths = values.map((sequence) => sequence.length / features);
  const norm = new BatchNorm(features, { axis: -1 });
  const x = { data, shape: [values.length, steps, features] };
  const { data: all } = norm.forward(x, isMasked ? { weights: maskOf(lengths, steps) } : undefined);
  const y = Float32Array.from(
    values.flatMap(({ length }, n) => [...all.subarray(n * steps * features, n * steps * features + length)]),
  );
  const mean = y.reduce((sum, value) => sum + value, 0) / y.length;
  const variance = y.reduce((sum, value) => sum + (value - mean) ** 2, 0) / y.length;
  return { y, mean, deviation: Math.sqrt(variance) };
}

/** How far twice the padding moves what is there, at most. */
export function changeByPadding(sequences: Sequences, steps: number, isMasked: boolean): number {
  const { y } = normalize(sequences, steps, isMasked);
  const padded = normalize(sequences, 2 * steps, isMasked).y;
  return y.reduce((most, value, i) => Math.max(most, Math.abs(value - padded[i])), 0);
}
