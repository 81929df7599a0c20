import { rangeError, typeError } from './errors.js';
import { namesOf, propertiesOf } from './properties.js';
import type { FloatArray } from './types.js';
import { channelsOf, checkInteger, checkObject, checkPerChannel, checkVariance } from './validate.js';

/**
 * The parameters and statistics of a layer under PyTorch's names. What a layer does not have is absent.
 */
export interface StateDict {
  /** γ of the paper: one value per channel, like all arrays here. */
  weight?: FloatArray;
  /** β of the paper. */
  bias?: FloatArray;
  /** Of the batches so far. */
  running_mean?: FloatArray;
  /** Of the batches so far, none negative. */
  running_var?: FloatArray;
  /** Batches that the running statistics have seen. May be absent beside them: then 0. */
  num_batches_tracked?: number;
}

const { hasOwn } = Object;
const stateNames = namesOf(['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']);

/** Whether a part must be there (true), must not (false), or may ('optional'). */
interface Parts {
  weight: boolean | 'optional';
  bias: boolean | 'optional';
  stats: boolean;
}

/** A state that has been checked, with the number of its channels. */
export interface ReadState extends StateDict {
  channels: number;
}

/**
 * Reads a state and checks all of it before anything is changed.
 *
 * @param channels what each array must have; undefined for as many as running_mean has.
 * @throws TypeError, RangeError naming the entry that is missing, unknown, or of another type or size.
 */
export function readState(state: unknown, channels: number | undefined, parts: Parts): ReadState {
  checkObject('state', state);
  for (const key in state)
    if (stateNames.known[key] === undefined && hasOwn(state, key))
      throw typeError('state', `only have ${stateNames.list.join(', ')}`, key, 'UNKNOWN_OPTION');
  const { weight, bias, running_mean, running_var, num_batches_tracked } = propertiesOf<StateDict>(
    state,
    stateNames,
  );
  const known = { weight, bias, running_mean, running_var, num_batches_tracked };
  const wanted = (name: keyof StateDict, rule: boolean | 'optional') => {
    if (rule === false && known[name] !== undefined)
      throw rangeError(`state.${name}`, 'be absent (the layer has none)', 'a value');
    return rule === true || (rule === 'optional' && known[name] !== undefined);
  };
  const count = channels ?? channelsOf('state.running_mean', running_mean);
  if (wanted('weight', parts.weight)) checkPerChannel('state.weight', weight, count);
  if (wanted('bias', parts.bias)) checkPerChannel('state.bias', bias, count);
  if (wanted('running_mean', parts.stats)) checkPerChannel('state.running_mean', running_mean, count);
  if (wanted('running_var', parts.stats)) checkVariance('state.running_var', running_var, count);
  if (wanted('num_batches_tracked', parts.stats && 'optional'))
    checkInteger('state.num_batches_tracked', num_batches_tracked, 0, Number.MAX_SAFE_INTEGER);
  return { ...known, channels: count };
}
