import { checkOneOf } from './validate.js';

/**
 * What follows the normalization, in the same pass over memory. 'relu' is max(v, 0), with NaN for NaN and +0 for −0; its
 * gradient passes where the result is above zero (or NaN) and is 0 elsewhere.
 */
export type Activation = 'relu';

/** An option that may be absent. */
export function checkActivation(activation: unknown, name = 'activation'): Activation | undefined {
  return activation === undefined ? undefined : checkOneOf(name, activation, ['relu']);
}
