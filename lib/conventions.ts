import { typeError } from './errors.js';
import { checkFraction, checkOneOf } from './validate.js';

/** The frameworks whose defaults and meaning of `momentum` a layer can take over. */
export type Convention = 'pytorch' | 'keras' | 'onnx';

/** Weight of the old running value, or the mean over all batches so far. */
export type Decay = number | 'cumulative';

/** What a convention decides where the options are silent. */
export interface ConventionDefaults {
  eps: number;
  decay: Decay;
  unbiasedRunningVar: boolean;
}

/** The entries of a state, under PyTorch's names. */
export type StateName = 'weight' | 'bias' | 'running_mean' | 'running_var' | 'num_batches_tracked';

/** What else a framework calls them. */
export type StateNames = Readonly<Record<StateName, readonly string[]>>;

interface Framework extends ConventionDefaults {
  decayOf(momentum: unknown): Decay;
  /** The other way; null is PyTorch's None. */
  momentumOf(decay: Decay): number | null | undefined;
  names: StateNames;
}

/** momentum is the weight of the old running value. */
const weightOfOld = (momentum: unknown) => checkFraction('momentum', momentum);

const asItIs = (decay: Decay) => (decay === 'cumulative' ? undefined : decay);

const frameworks: Record<Convention, Framework> = {
  // torch.nn.BatchNorm: momentum is the weight of the new batch, None the cumulative mean.
  pytorch: {
    eps: 1e-5,
    decay: 0.9,
    unbiasedRunningVar: true,
    decayOf: (momentum) =>
      momentum === null
        ? 'cumulative'
        : 1 - checkFraction('momentum', momentum, 'be a number from 0 to 1 or null (cumulative)'),
    momentumOf: (decay) => (decay === 'cumulative' ? null : 1 - decay),
    names: { weight: [], bias: [], running_mean: [], running_var: [], num_batches_tracked: [] },
  },
  // keras.layers.BatchNormalization
  keras: {
    eps: 1e-3,
    decay: 0.99,
    unbiasedRunningVar: false,
    decayOf: weightOfOld,
    momentumOf: asItIs,
    // As variables of TensorFlow end.
    names: {
      weight: ['gamma', 'gamma:0'],
      bias: ['beta', 'beta:0'],
      running_mean: ['moving_mean', 'moving_mean:0'],
      running_var: ['moving_variance', 'moving_variance:0'],
      num_batches_tracked: [],
    },
  },
  // ONNX operator BatchNormalization from opset 14 on.
  onnx: {
    eps: 1e-5,
    decay: 0.9,
    unbiasedRunningVar: false,
    decayOf: weightOfOld,
    momentumOf: asItIs,
    names: {
      weight: ['scale'],
      bias: ['B'],
      running_mean: ['input_mean'],
      running_var: ['input_var'],
      num_batches_tracked: [],
    },
  },
};

export const conventions = Object.keys(frameworks) as Convention[];

/** What a convention calls the entries of a state, beside PyTorch's names. */
export function stateNamesOf(convention: Convention): StateNames {
  return frameworks[convention].names;
}

/** The decay that a momentum of a convention means; without one it is refused. */
export function decayOf(convention: Convention | undefined, momentum: unknown): Decay {
  return convention === undefined
    ? defaultsOf(undefined, momentum === undefined ? null : momentum).decay
    : frameworks[convention].decayOf(momentum);
}

/** A decay in the meaning of a convention; undefined where that has no number for it. */
export function momentumOf(convention: Convention, decay: Decay): number | null | undefined {
  return frameworks[convention].momentumOf(decay);
}

/**
 * The defaults of a convention (PyTorch's where it is undefined), with `momentum` translated to a decay.
 *
 * @throws TypeError for a momentum without a convention: PyTorch and Keras give the word opposite meanings.
 */
export function defaultsOf(convention: unknown, momentum: unknown): ConventionDefaults {
  if (convention === undefined && momentum !== undefined)
    throw typeError(
      'momentum',
      "come with convention: 'pytorch', 'keras' or 'onnx', which give the word opposite meanings, or be written as decay, the weight of the old running value",
      momentum,
    );
  const name = convention === undefined ? 'pytorch' : checkOneOf('convention', convention, conventions);
  const { eps, decay, unbiasedRunningVar, decayOf } = frameworks[name];
  return { eps, decay: momentum === undefined ? decay : decayOf(momentum), unbiasedRunningVar };
}
