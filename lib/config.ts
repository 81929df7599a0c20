// The options of a layer.
import { type Activation, checkActivation } from './activation.js';
import type { SingleValue } from './calls.js';
import { type Convention, type Decay, defaultsOf } from './conventions.js';
import { describe, rangeError, typeError } from './errors.js';
import { checkGroup } from './exchange.js';
import type { ProcessGroup } from './group.js';
import { checkMissing, type Missing } from './presence.js';
import { namesOf } from './properties.js';
import { checkRenorm, type Renorm } from './renorm.js';
import type { DType } from './types.js';
import {
  checkAxis,
  checkBoolean,
  checkEps,
  checkFraction,
  checkInteger,
  checkOneOf,
  readOptions,
} from './validate.js';

/** The options in full, as {@link BatchNorm.config} returns them. */
export interface BatchNormConfig<D extends DType = DType> {
  /** The channel axis; −1 is the last. Default 1. */
  axis: number;
  /**
   * Added to the variance under the root, from 0 on. Default 1e-5. With 0 a channel that does not vary is an error, for which
   * training finds all statistics before it writes: slower.
   */
  eps: number;
  /** Of x, y, weight, bias and their gradients. Statistics are always in double. Default 'float32'. */
  dtype: D;
  /**
   * Weight of the old running value, from 0 to 1: running = decay · running + (1 − decay) · batch; or 'cumulative', the
   * mean over all batches so far. Default 0.9.
   */
  decay: Decay;
  /** Store the variance divided by M − 1 rather than M, for M values per channel. Default true. */
  unbiasedRunningVar: boolean;
  /** Learn a factor per channel, at first 1. Default true. */
  weight: boolean;
  /** Learn a summand per channel, at first 0. Default true. */
  bias: boolean;
  /** Keep running statistics. Without them evaluation uses the statistics of the batch. Default true. */
  trackRunningStats: boolean;
  /** What follows the normalization, in the same pass over memory. Default: nothing. */
  activation: Activation | undefined;
  /** The layer owns its results: each is valid until the next call of the same method. Default false. */
  reuse: boolean;
  /**
   * A training batch with one value per channel is an error ('throw'), or normalized with the running statistics, which stay as they
   * are ('running', only with trackRunningStats). Default 'throw'.
   */
  singleValue: SingleValue;
  /**
   * Those whose layers see parts of one batch: in training statistics and dx are of the samples of all members, dWeight and dBias this
   * member's own. Every member makes its layers in the same order and calls them alike. Default: none.
   */
  group: ProcessGroup | undefined;
  /**
   * What a NaN in x means: 'propagate', 'throw', or a missing value: 'skip' and 'impute'; see {@link Missing}. Default 'propagate'.
   */
  missing: Missing;
  /**
   * Ghost batch norm: in training each group of so many samples (`shape[0]`, so that the channels are another axis) is normalized with
   * statistics of its own; the running ones are those of the whole batch. Default: the batch is one group.
   */
  virtualBatchSize: number | undefined;
  /**
   * Batch renormalization: training follows the running statistics as far as these bounds let it; only with trackRunningStats.
   * Default: none.
   */
  renorm: Renorm | undefined;
  /** Whose defaults were taken for eps, decay and unbiasedRunningVar, and whose names states may have too. Default: PyTorch's. */
  convention: Convention | undefined;
}

/** The options of a layer; all of them may be left out. */
export interface BatchNormOptions<D extends DType = DType> extends Partial<BatchNormConfig<D>> {
  /**
   * Only with `convention`, without `decay`, and in that framework's meaning: from 0 to 1, the weight of the new batch for
   * 'pytorch', of the old running value for 'keras' and 'onnx'. null is PyTorch's None: cumulative.
   */
  momentum?: number | null;
}

const optionNames = namesOf([
  'axis',
  'eps',
  'dtype',
  'decay',
  'unbiasedRunningVar',
  'weight',
  'bias',
  'trackRunningStats',
  'activation',
  'reuse',
  'singleValue',
  'missing',
  'virtualBatchSize',
  'renorm',
  'convention',
  'momentum',
  'group',
]);

/** A number from 0 to 1, or 'cumulative'. */
export function checkDecay(decay: unknown): Decay {
  return decay === 'cumulative'
    ? decay
    : checkFraction('decay', decay, "be a number from 0 to 1 or 'cumulative'");
}

/** Bounds of a layer that can have some; undefined for none. */
export function readRenorm(
  value: unknown,
  { virtualBatchSize, trackRunningStats }: Pick<BatchNormConfig, 'virtualBatchSize' | 'trackRunningStats'>,
): Renorm | undefined {
  const renorm = checkRenorm(value);
  if (renorm !== undefined && virtualBatchSize !== undefined)
    throw typeError('renorm', 'be left out beside virtualBatchSize', value);
  if (renorm !== undefined && trackRunningStats === false)
    throw typeError('renorm', 'be left out with trackRunningStats: false', value);
  return renorm;
}

/** What stands beside a virtualBatchSize. */
function checkVirtual(size: unknown, axis: unknown, missing: unknown, group: unknown): void {
  checkInteger('virtualBatchSize', size, 1, Number.MAX_SAFE_INTEGER);
  if (axis === 0)
    throw rangeError('axis', 'be another than that of the samples with virtualBatchSize', describe(axis));
  if (missing !== 'propagate' && missing !== 'throw')
    throw rangeError('missing', "be 'propagate' or 'throw' with virtualBatchSize", describe(missing));
  if (group !== undefined) throw typeError('virtualBatchSize', 'be left out in a layer with a group', size);
}

/** @throws TypeError for an unknown option or an option of the wrong type, RangeError for a wrong value. */
export function readConfig<D extends DType>(options: BatchNormOptions<D>): BatchNormConfig<D> {
  const read = readOptions(options, optionNames);
  const { convention, momentum, decay: givenDecay } = read;
  const defaults = defaultsOf(convention, momentum);
  const {
    axis = 1,
    eps = defaults.eps,
    dtype = 'float32' as D,
    unbiasedRunningVar = defaults.unbiasedRunningVar,
    weight = true,
    bias = true,
    trackRunningStats = true,
    activation,
    reuse = false,
    singleValue = 'throw',
    missing = 'propagate',
    virtualBatchSize,
    renorm,
    group,
  } = read;
  if (givenDecay !== undefined && momentum !== undefined)
    throw typeError('decay', 'be left out beside momentum', givenDecay);
  if (singleValue === 'running' && trackRunningStats === false)
    throw rangeError('singleValue', "be 'throw' with trackRunningStats: false", "'running'");
  if (virtualBatchSize !== undefined) checkVirtual(virtualBatchSize, axis, missing, group);
  const decay = givenDecay === undefined ? defaults.decay : givenDecay;
  return Object.freeze({
    axis: checkAxis(axis),
    eps: checkEps(eps),
    dtype: checkOneOf('dtype', dtype, ['float32', 'float64']) as D,
    decay: checkDecay(decay),
    unbiasedRunningVar: checkBoolean('unbiasedRunningVar', unbiasedRunningVar),
    weight: checkBoolean('weight', weight),
    bias: checkBoolean('bias', bias),
    trackRunningStats: checkBoolean('trackRunningStats', trackRunningStats),
    activation: checkActivation(activation),
    reuse: checkBoolean('reuse', reuse),
    singleValue: checkOneOf('singleValue', singleValue, ['throw', 'running']),
    missing: checkMissing(missing),
    virtualBatchSize,
    renorm: readRenorm(renorm, { virtualBatchSize, trackRunningStats }),
    group: group === undefined ? undefined : checkGroup(group),
    convention,
  });
}
