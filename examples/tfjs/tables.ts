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

const digits = new Intl.NumberFormat('en-US', { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });

/** The milliseconds of either side, and how many times faster ours is. */
export function timeCells(samples: Pair<readonly number[]>): string[] {
  const [stock, ours] = [summary(samples.stock), summary(samples.ours)];
  return [
    ...[stock.min, stock.median, ours.min, ours.median].map((time) => `${digits.format(time)} ms`),
    ...[stock.min / ours.min, stock.median / ours.median].map((ratio) => `${digits.format(ratio)} x`),
  ];
}
