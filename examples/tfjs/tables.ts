import { summary } from '../times.js';
import { NAMES, type Pair } from './tensorflow.js';

/** Over {@link timeCells}. */
export const TIME_COLUMNS: readonly string[] = [
  `${NAMES.stock} min`,
  'median',
  `${NAMES.ours} min`,
  'median',
  'ratio of min',
  'of median',
];

/** Over {@link foldedCells}. */
export const FOLDED_COLUMNS: readonly string[] = ['folded min', 'median', 'ratio of min', 'of median'];

const digits = new Intl.NumberFormat('en-US', { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });

/** The milliseconds of either side, and how many times faster ours is. */
export function timeCells({ stock, ours }: Pair<readonly number[]>): string[] {
  const { min, median } = summary(stock);
  return [...[min, median].map(timeOf), ...foldedCells(stock, ours)];
}

/** The milliseconds of a model without batch norms, and how many times faster than with those of TensorFlow.js it is. */
export function foldedCells(stock: readonly number[], folded: readonly number[]): string[] {
  const [before, after] = [summary(stock), summary(folded)];
  return [
    ...[after.min, after.median].map(timeOf),
    ...[before.min / after.min, before.median / after.median].map((ratio) => `${digits.format(ratio)} x`),
  ];
}

function timeOf(milliseconds: number): string {
  return `${digits.format(milliseconds)} ms`;
}
