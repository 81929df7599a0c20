import { median } from '../results.js';
import type { Measurement } from './measurements.js';
import type { Reply } from './protocol.js';

/** What one way gave in one measurement, round by round. */
export interface Finding {
  measurement: string;
  way: string;
  rounds: NonNullable<Reply['figures']>[];
}

/** What a run found, and what serving.json holds. */
export interface Results {
  date: string;
  machine: string;
  command: string;
  measurements: Measurement[];
  findings: Finding[];
  /** What went wrong or was left out. */
  notes: string[];
}

/** A figure over the rounds. */
export interface Spread {
  min: number;
  median: number;
  max: number;
  rounds: number[];
}

/** A figure of a finding; undefined where there is none. */
export function figureOf(
  { findings }: Results,
  measurement: string,
  way: string,
  figure: string,
): Spread | undefined {
  const found = findings.find((it) => it.measurement === measurement && it.way === way);
  const rounds = found?.rounds.map((figures) => figures[figure]) ?? [];
  if (rounds.length === 0) return undefined;
  return { min: Math.min(...rounds), median: median(rounds), max: Math.max(...rounds), rounds };
}
