// What a layer has learned and seen: as a dictionary, which training of the same architecture takes, and as JSON, which is all of it.
import { type BatchNormConfig, type BatchNormOptions, readConfig } from './config.js';
import type { StateName } from './conventions.js';
import type { LayerCore } from './core.js';
import { type Arithmetic, arithmeticOf } from './dtype.js';
import type { ProcessGroup } from './group.js';
import {
  type BatchNormJSON,
  checkAbsent,
  checkGiven,
  defined,
  fieldsOf,
  fromCounts,
  jsonVersion,
  partFrom,
  readHead,
  renormFromJSON,
  renormToJSON,
  type StateJSON,
  toNumbers,
} from './json.js';
import type { RunningStatistics } from './running.js';
import {
  type AnyState,
  readState,
  readStateOptions,
  type StateDict,
  type StateOptions,
  stateNames,
} from './state.js';
import { copyInto } from './typed-array.js';
import type { ArrayOf, DType, FloatArray, ParametersOf } from './types.js';
import { checkBoolean, checkInteger, copyOf } from './validate.js';

/** What a layer has learned and seen. */
export interface Learned<D extends DType> {
  readonly channels: number;
  readonly config: Pick<BatchNormConfig<D>, 'weight' | 'bias' | 'trackRunningStats' | 'convention' | 'dtype'>;
  readonly core: LayerCore<D>;
  readonly running: RunningStatistics | undefined;
}

/** What a batch norm consists of. */
export interface Parts<D extends DType> extends Learned<D> {
  readonly config: BatchNormConfig<D>;
}

const most = Number.MAX_SAFE_INTEGER;
const jsonNames = [
  'type',
  'version',
  'channels',
  'config',
  'state',
  'training',
  'rejectedUpdates',
  'acceptedBatches',
];
/** Who computes along is not the layer's. */
const configNames = Object.keys(readConfig({})).filter((name) => name !== 'group');

/** See {@link BatchNorm.stateDict}. */
export function stateOf<D extends DType>({ core, running }: Learned<D>): StateDict {
  const { weight, bias } = core;
  core.checkOwn();
  return {
    ...(weight && { weight: copyOf(weight) }),
    ...(bias && { bias: copyOf(bias) }),
    ...(running && {
      running_mean: copyOf(running.mean),
      running_var: copyOf(running.variance),
      num_batches_tracked: running.batchesTracked,
    }),
  };
}

/** See {@link BatchNorm.loadStateDict}. */
export function loadState<D extends DType>(
  { channels, config, core, running }: Learned<D>,
  state: AnyState,
  options: StateOptions | undefined,
): void {
  const { weight, bias, trackRunningStats, convention } = config;
  const { prefix, strict = true } = readStateOptions(options);
  const read = readState(state, {
    channels,
    convention,
    dtype: arithmeticOf(config.dtype),
    prefix,
    strict,
    weight,
    bias,
    stats: trackRunningStats,
    needsStats: false,
  });
  core.checkOwn();
  if (core.weight && read.weight) copyInto(core.weight, read.weight);
  if (core.bias && read.bias) copyInto(core.bias, read.bias);
  const batches = read.num_batches_tracked ?? (strict ? 0 : undefined);
  running?.load(read.running_mean, read.running_var, batches);
}

/** The arrays of a layer for JSON. */
export function stateToJSON<D extends DType>({ core, running }: Learned<D>): StateJSON {
  const { weight, bias } = core;
  core.checkOwn();
  return {
    ...(weight && { weight: toNumbers(weight) }),
    ...(bias && { bias: toNumbers(bias) }),
    ...(running && {
      running_mean: toNumbers(running.mean),
      running_var: toNumbers(running.variance),
      num_batches_tracked: running.batchesTracked,
    }),
  };
}

/** What else the running statistics have. */
export function countsToJSON(running: RunningStatistics | undefined): {
  rejectedUpdates: number;
  acceptedBatches?: number[];
} {
  return {
    rejectedUpdates: running?.rejectedUpdates ?? 0,
    ...(running?.accepted && { acceptedBatches: toNumbers(running.accepted) as number[] }),
  };
}

/** See {@link BatchNorm.toJSON}. */
export function jsonOf<D extends DType>(parts: Parts<D>): BatchNormJSON<D> {
  const { channels, config, core, running } = parts;
  return {
    type: 'BatchNorm',
    version: jsonVersion,
    channels,
    config: defined({ ...config, group: undefined, renorm: renormToJSON(config.renorm) }),
    state: stateToJSON(parts),
    training: core.training,
    ...countsToJSON(running),
  };
}

/** A layer as JSON has it. */
export interface Read<D extends DType> {
  readonly channels: number;
  readonly config: BatchNormConfig<D>;
  /** Puts what it has learned and seen into a layer of that many channels and that config. */
  restore(to: Learned<D>): void;
}

/** See {@link BatchNorm.fromJSON}. */
export function readJSON<D extends DType>(json: BatchNormJSON<D>, group: ProcessGroup | undefined): Read<D> {
  const fields = fieldsOf('json', json, jsonNames);
  const channels = readHead('BatchNorm', fields);
  const given = fieldsOf('json.config', fields.config, configNames);
  const renorm = renormFromJSON('json.config.renorm', given.renorm);
  const config = readConfig({ ...(given as BatchNormOptions<D>), renorm, group });
  checkGiven({ ...config, group: undefined }, given);
  return { channels, config, restore: readLearned(fields, channels, config) };
}

/**
 * Reads what a layer has learned and seen, all of it checked.
 *
 * @returns what puts it into the layer.
 */
export function readLearned<D extends DType>(
  fields: Record<string, unknown>,
  channels: number,
  { weight: hasWeight, bias: hasBias, trackRunningStats, dtype: wanted }: Learned<D>['config'],
): (to: Learned<D>) => void {
  const training = checkBoolean('json.training', fields.training);
  const rejectedUpdates = checkInteger('json.rejectedUpdates', fields.rejectedUpdates, 0, most);
  const dtype = arithmeticOf(wanted);
  const state = fieldsOf('json.state', fields.state, stateNames);
  const values = <T extends FloatArray>(name: StateName, isThere: boolean, type: Arithmetic) =>
    partFrom<T>(`json.state.${name}`, state[name], isThere, channels, type);
  const weight = values<ParametersOf<ArrayOf<D>>>('weight', hasWeight, dtype);
  const bias = values<ParametersOf<ArrayOf<D>>>('bias', hasBias, dtype);
  const mean = values<Float64Array>('running_mean', trackRunningStats, 'float64');
  const variance = values<Float64Array>('running_var', trackRunningStats, 'float64');
  const batches = state.num_batches_tracked;
  const counted = 'json.state.num_batches_tracked';
  if (trackRunningStats) checkInteger(counted, batches, 0, most);
  else checkAbsent(counted, batches);
  return ({ core, running }) => {
    if (core.weight && weight) copyInto(core.weight, weight);
    if (core.bias && bias) copyInto(core.bias, bias);
    core.training = training;
    running?.load(mean, variance, batches as number | undefined);
    if (running) running.rejectedUpdates = rejectedUpdates;
    if (running?.accepted)
      copyInto(running.accepted, fromCounts('json.acceptedBatches', fields.acceptedBatches, channels));
    else checkAbsent('json.acceptedBatches', fields.acceptedBatches);
  };
}
