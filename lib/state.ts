import { rangeError, typeError } from './errors.js';
import type { FloatArray } from './tensor.js';
import { checkInteger, checkObject, checkPerChannel, checkVariance } from './validate.js';

/**
 * The parameters and statistics of a layer under PyTorch's names. What a layer does not have is absent.
 */
export interface StateDict {
  /** One value per channel, like all arrays here. */
  weight?: FloatArray;
  bias?: FloatArray;
  running_mean?: FloatArray;
  running_var?: FloatArray;
  /** Batches that the running statistics have seen. May be absent beside them: then 0. */
  num_batches_tracked?: number;
}

/** Which parts of a state a reader needs (true), ignores nothing of (false: must be absent), or takes as it comes. */
interface Parts {
  weight: boolean | 'optional';
  bias: boolean | 'optional';
  stats: boolean;
}

/**
 * Reads a state and checks all of it before anything is changed.
 *
 * @throws TypeError, RangeError naming the entry that is missing, unknown, or of another type or size.
 */
export function readState(state: unknown, channels: number, parts: Parts): StateDict {
  checkObject('state', state);
  const { weight, bias, running_mean, running_var, num_batches_tracked, ...unknown } = state as StateDict;
  const expected = {
    weight: parts.weight,
    bias: parts.bias,
    running_mean: parts.stats,
    running_var: parts.stats,
    num_batches_tracked: parts.stats && 'optional',
  };
  for (const key in unknown)
    throw typeError('state', `only have ${Object.keys(expected).join(', ')}`, key, 'UNKNOWN_OPTION');
  const found = { weight, bias, running_mean, running_var, num_batches_tracked };
  for (const [key, rule] of Object.entries(expected)) {
    const value = found[key as keyof StateDict];
    if (rule === true && value === undefined)
      throw typeError(`state.${key}`, `have ${channels} values (one per channel)`, value);
    if (rule === false && value !== undefined)
      throw rangeError(`state.${key}`, 'be absent (the layer has none)', 'a value');
  }
  if (weight !== undefined) checkPerChannel('state.weight', weight, channels);
  if (bias !== undefined) checkPerChannel('state.bias', bias, channels);
  if (running_mean !== undefined) checkPerChannel('state.running_mean', running_mean, channels);
  if (running_var !== undefined) checkVariance('state.running_var', running_var, channels);
  if (num_batches_tracked !== undefined)
    checkInteger('state.num_batches_tracked', num_batches_tracked, 0, Number.MAX_SAFE_INTEGER);
  return found;
}
