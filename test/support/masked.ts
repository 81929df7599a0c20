// What other frameworks make of masked batches, channels last, with the biased running variance; scripts/masked.py writes it.
import { readFileSync } from 'node:fs';

export interface MaskedCase {
  readonly by: 'keras' | 'flax';
  readonly shape: number[];
  readonly decay: number;
  readonly eps: number;
  readonly x: number[];
  /** One for each position. */
  readonly mask: number[];
  readonly weight: number[];
  readonly bias: number[];
  readonly runningMean: number[];
  readonly runningVar: number[];
  readonly y: number[];
  readonly newRunningMean: number[];
  readonly newRunningVar: number[];
}

export const maskedCases: readonly MaskedCase[] = JSON.parse(
  readFileSync(new URL('./masked.json', import.meta.url), 'utf8'),
);

export const maskedTitle = 'of $by, $shape';
