// What forward and backward of a layer are called with: read, and checked as far as can be before they begin.
import type { CoreConfig, ForwardOptions, LayerBackwardOptions } from './calls.js';
import {
  describeShape,
  isObject,
  oneValuePerChannelError,
  oneValuePerRowError,
  rangeError,
  stateError,
  typeError,
} from './errors.js';
import { type Division, divisionOf } from './ghost.js';
import { checkSums, type GradientSums } from './gradient-sums.js';
import { checkWhole, type Moments, momentsOf } from './moments.js';
import { type RowView, valuesOfRow } from './norms/rows.js';
import { checkApartFromOwn, type OwnArrays } from './overlap.js';
import { type Pending, pendingOf, type Result, resultOf } from './pending.js';
import { type ReadPresence, readPresence } from './presence.js';
import type { Names } from './properties.js';
import type { Renorm } from './renorm.js';
import type { RunningStatistics } from './running.js';
import type { Origin } from './statistics.js';
import type { ArrayOf, DType, TensorArray, TensorLike } from './types.js';
import {
  checkBoolean,
  checkDivisors,
  checkKept,
  checkLength,
  checkOneOf,
  checkOut,
  checkOutType,
  checkVariance,
  type Geometry,
  geometryOf,
  type ReadTensor,
  readOptions,
  readResidual,
  readShape,
} from './validate.js';

/** What a layer is. */
export interface LayerFacts<D extends DType> {
  readonly channels: number;
  readonly config: CoreConfig<D>;
  /** The statistics of evaluation; undefined where they are always those of the batch. */
  readonly running: RunningStatistics | undefined;
  /** All its arrays, which a result must not overlap. */
  readonly arrays: OwnArrays;
  /** Of a layer that normalizes rows: what they are. Batch norm has none. */
  readonly rows: RowView | undefined;
}

/** A forward whose arguments have been checked. */
export interface ForwardCall<T extends TensorArray> {
  readonly input: ReadTensor<T>;
  readonly geometry: Geometry;
  /** Whose statistics it is to normalize with; the members of a group may find that these are not there. */
  readonly origin: Origin;
  /** The mode. */
  readonly training: boolean;
  /** Whether they go into the running ones. */
  readonly updates: boolean;
  /** Those that were given instead of those of x. */
  readonly moments: Moments | undefined;
  /** A copy of them. */
  readonly whole: Moments | undefined;
  readonly residual: T | undefined;
  /** Where y is to be written. */
  readonly out: T | undefined;
  /** As the caller has it. */
  readonly givenOut: T | undefined;
  /** Which values count, where not all of them do alike. */
  readonly present: ReadPresence | undefined;
  /** In training, where groups of samples have statistics of their own. */
  readonly division: Division | undefined;
  /** In training, where it follows the running statistics. */
  readonly renorm: Renorm | undefined;
  /** Of an x that a layer with `reuse` has returned. */
  readonly source: Result | undefined;
}

/** What a layer is set to at the moment of a call. */
export interface Setting {
  readonly training: boolean;
  readonly renorm: Renorm | undefined;
}

/** A backward whose arguments have been checked as far as they can be without the forward. */
export interface BackwardCall<T extends TensorArray> {
  readonly gradient: ReadTensor<T>;
  /** Where dx is to be written. */
  readonly out: T | undefined;
  /** As the caller has it. */
  readonly givenOut: T | undefined;
  readonly wantsInput: boolean;
  readonly wantsParameters: boolean;
  /** Of `of`. */
  readonly pending: Pending<T> | undefined;
  readonly accumulate: boolean;
  readonly retain: boolean;
  readonly weightsGrad: boolean;
  /** Of all parts. */
  readonly sums: GradientSums | undefined;
}

/** The caller may have taken their memory away. */
export function checkRunning({ mean, variance }: RunningStatistics, channels: number): void {
  checkKept('runningMean', mean, channels);
  checkKept('runningVar', variance, channels);
}

/** All of it is checked, last of all the lengths: no code of the caller's runs after them. */
export function readForward<D extends DType>(
  { channels, config, running, arrays, rows }: LayerFacts<D>,
  x: TensorLike<ArrayOf<D>>,
  options: ForwardOptions<ArrayOf<D>> | undefined,
  names: Names,
  { training, renorm }: Setting,
): ForwardCall<ArrayOf<D>> {
  const { axis, dtype, singleValue, eps, group, missing, virtualBatchSize } = config;
  const {
    out: givenOut,
    updateStats = true,
    residual: givenResidual,
    moments: givenMoments,
    weights,
    outside,
  } = readOptions(options, names);
  checkBoolean('updateStats', updateStats);
  if (givenMoments !== undefined && group !== undefined)
    throw typeError('moments', 'be left out in a layer with a group', givenMoments);
  if (givenMoments !== undefined && !training)
    throw typeError('moments', 'be left out in evaluation', givenMoments);
  if (givenMoments !== undefined && virtualBatchSize !== undefined)
    throw typeError('moments', 'be left out in a layer with virtualBatchSize', givenMoments);
  const input = readShape<ArrayOf<D>>('x', x, dtype);
  const geometry = rows ? rows.geometryOf(input) : geometryOf(input, axis, channels);
  const present = readPresence({ weights, outside, missing }, input, geometry, axis);
  const count = present?.positions ?? geometry.outer * geometry.inner;
  // In a group all members together tell.
  const hasOne =
    (rows ? rows.needsMany && valuesOfRow(geometry) === 1 : count === 1) &&
    !present?.presence?.missing &&
    givenMoments === undefined &&
    !(training && group !== undefined);
  const division =
    training && virtualBatchSize !== undefined
      ? divisionFor(input, geometry, axis, virtualBatchSize)
      : undefined;
  // Of weights and missing values the statistics tell.
  const isEachOne = division?.samples === 1 && division.perSample === 1 && !present?.presence;
  const isSingle = (hasOne || isEachOne) && singleValue === 'running';
  const isOfBatch = (training && !isSingle) || running === undefined;
  if (isOfBatch && isEachOne) throw oneValuePerChannelError(input.shape, true, 'virtualBatchSize');
  if (isOfBatch && hasOne)
    throw rows
      ? oneValuePerRowError(input.shape, running !== undefined)
      : oneValuePerChannelError(input.shape, training);
  const origin: Origin = !isOfBatch
    ? 'running'
    : givenMoments !== undefined
      ? 'moments'
      : training && group !== undefined
        ? 'group'
        : 'x';
  const residual = givenResidual === undefined ? undefined : readResidual(givenResidual, input);
  // No code of the caller's runs after this.
  const moments =
    givenMoments === undefined
      ? undefined
      : checkWhole(givenMoments, channels, eps, present?.presence !== undefined);
  if (running !== undefined) {
    checkRunning(running, channels);
    // With renorm before x is taken, and before a group exchanges anything.
    if (!isOfBatch || (training && renorm !== undefined && (count > 0 || origin !== 'x'))) {
      checkVariance('runningVar', running.variance, channels);
      checkDivisors('runningVar', running.variance, eps);
    }
  }
  checkLength(input);
  if (residual !== undefined) checkLength(residual);
  const out = givenOut === undefined ? undefined : checkOut(givenOut, input);
  if (out !== undefined) checkApartFromOwn('out', out, arrays);
  return {
    input,
    geometry,
    origin,
    training,
    updates: updateStats,
    moments,
    whole: moments && momentsOf(moments),
    residual: residual?.data,
    out,
    givenOut,
    present,
    division: isOfBatch ? division : undefined,
    renorm: training && isOfBatch ? renorm : undefined,
    source: resultOf(x),
  };
}

/** Samples are what the first axis counts. */
function divisionFor(
  { shape }: Pick<ReadTensor, 'shape'>,
  geometry: Geometry,
  axis: number,
  size: number,
): Division | undefined {
  if (axis + shape.length === 0)
    throw rangeError(
      'axis',
      'be another than that of the samples with virtualBatchSize',
      `${axis} (x has shape ${describeShape(shape)})`,
    );
  return divisionOf(shape, geometry, size);
}

/** All of it is checked but what hangs on the forward, and the length of dy. */
export function readBackward<D extends DType>(
  owner: object,
  { channels, config: { dtype, group, virtualBatchSize } }: LayerFacts<D>,
  dy: TensorLike<ArrayOf<D>>,
  options: LayerBackwardOptions<ArrayOf<D>> | undefined,
  names: Names,
): BackwardCall<ArrayOf<D>> {
  const {
    out: givenOut,
    only,
    of,
    accumulate = false,
    retain = false,
    sums,
    weightsGrad = false,
  } = readOptions(options, names);
  if (only !== undefined) checkOneOf('only', only, ['input', 'parameters']);
  if (only === 'parameters' && givenOut !== undefined)
    throw typeError('out', "be left out with only: 'parameters'", givenOut);
  checkBoolean('accumulate', accumulate);
  checkBoolean('retain', retain);
  if (checkBoolean('weightsGrad', weightsGrad) && only === 'parameters')
    throw typeError('weightsGrad', "be left out with only: 'parameters'", weightsGrad);
  if (accumulate && only === 'input')
    throw typeError('accumulate', "be left out with only: 'input', which has no gradient to add", accumulate);
  if (of !== undefined && !isObject(of)) throw typeError('of', 'be a tensor that forward() returned', of);
  const gradient = readShape<ArrayOf<D>>('dy', dy, dtype);
  const pending = of === undefined ? undefined : pendingOf<ArrayOf<D>>(of);
  if (of !== undefined && pending?.owner !== owner)
    throw stateError(
      'NO_FORWARD',
      'of must be the tensor that forward() of this layer returned, got another; a copy of it is another too',
    );
  if (sums !== undefined && group !== undefined)
    throw typeError('sums', 'be left out in a layer with a group', sums);
  if (sums !== undefined && virtualBatchSize !== undefined)
    throw typeError('sums', 'be left out in a layer with virtualBatchSize', sums);
  if (sums !== undefined) checkSums('sums', sums, channels);
  return {
    gradient,
    out: givenOut === undefined ? undefined : checkOutType(givenOut, gradient),
    givenOut,
    wantsInput: only !== 'parameters',
    wantsParameters: only !== 'input',
    pending,
    accumulate,
    retain,
    sums,
    weightsGrad,
  };
}
