// The options of the calls of layers.
import { areCallsUntouched, type Names, namesOf } from './properties.js';

/** What the calls of a layer may be given besides their tensor. */
export interface CallNames {
  readonly forward: Names;
  readonly forwardAsync: Names;
  readonly backward: Names;
  readonly backwardAsync: Names;
}

/** @param forward of forward, `backward` of backward. */
export function callNamesOf(forward: readonly string[], backward: readonly string[]): CallNames {
  const later = ['signal', 'transfer'];
  return {
    forward: namesOf(forward, areCallsUntouched),
    forwardAsync: namesOf(forward.concat(later), areCallsUntouched),
    backward: namesOf(backward, areCallsUntouched),
    backwardAsync: namesOf(backward.concat(later), areCallsUntouched),
  };
}

/** Of batch norm. */
export const callNames = callNamesOf(
  ['out', 'updateStats', 'residual', 'moments', 'weights', 'outside'],
  ['out', 'only', 'of', 'accumulate', 'retain', 'sums', 'weightsGrad'],
);
