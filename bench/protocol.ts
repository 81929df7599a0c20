import type { Case, Pass } from './cases.js';
import type { Roofline } from './contender.js';

/** What a contender's process is asked: over IPC, or as a line of JSON where it is no Node.js process. */
export type Request =
  | { prepare: Case }
  | { measure: Pass | Roofline; milliseconds: number }
  /** x and y are files of raw values: arrays of this size are too much for JSON. */
  | { train: Case; x: string; y: string };

/** What it answers. */
export interface Reply {
  /** The answer to prepare and train: whether the library can do this case. */
  ready?: boolean;
  /** Nanoseconds per call, one number for each sample; absent for a pass that the library does not have. */
  samples?: number[];
  /** How this library has decided to do it, in words. */
  plan?: string;
  /** Biased, per channel or, of other norms, row; absent where the library does not tell. */
  variance?: number[];
  /** What the library threw. */
  error?: string;
}
