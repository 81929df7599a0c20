// What a layer has learned and seen: as a dictionary, which training of the same architecture takes, and as JSON, which is all of it.
import { type BatchNormConfig, type BatchNormOptions, readConfig } from './config.js';
import type { StateName } from './conventions.js';
import type { LayerCore } from './core.js';
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
import type { ArrayOf, DType, FloatArray } from './types.js';
import { checkBoolean, checkInteger, copyOf } from './validate.js';

/** What a layer consists of. */
export interface Parts<D extends DType> {
  readonly channels: number;
  readonly config: BatchNormConfig<D>;
  readonly core: LayerCore<D>;
  readonly running: RunningStatistics | undefined;
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
export function stateOf<D extends DType>({ core, running }: Parts<D>): StateDict {
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
  { channels, config, core, running }: Parts<D>,
  state: AnyState,
  options: StateOptions | undefined,
): void {
  const { weight, bias, trackRunningStats, convention, dtype } = config;
  const { prefix, strict = true } = readStateOptions(options);
  const read = readState(state, {
    channels,
    convention,
    dtype,
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

/** See {@link BatchNorm.toJSON}. */
export function jsonOf<D extends DType>({ channels, config, core, running }: Parts<D>): BatchNormJSON<D> {
  const { weight, bias, training } = core;
  core.checkOwn();
  return {
    type: 'BatchNorm',
    version: jsonVersion,
    channels,
    config: defined({ ...config, group: undefined, renorm: renormToJSON(config.renorm) }),
    state: {
      ...(weight && { weight: toNumbers(weight) }),
      ...(bias && { bias: toNumbers(bias) }),
      ...(running && {
        running_mean: toNumbers(running.mean),
        running_var: toNumbers(running.variance),
        num_batches_tracked: running.batchesTracked,
      }),
    },
    training,
    rejectedUpdates: running?.rejectedUpdates ?? 0,
    ...(running?.accepted && { acceptedBatches: toNumbers(running.accepted) as number[] }),
  };
}

/** A layer as JSON has it. */
export interface Read<D extends DType> {
  readonly channels: number;
  readonly config: BatchNormConfig<D>;
  /** Puts what it has learned and seen into a layer of that many channels and that config. */
  restore(parts: Parts<D>): void;
}

/** See {@link BatchNorm.fromJSON}. */
export function readJSON<D extends DType>(json: BatchNormJSON<D>, group: ProcessGroup | undefined): Read<D> {
  const fields = fieldsOf('json', json, jsonNames);
  const channels = readHead('BatchNorm', fields);
  const given = fieldsOf('json.config', fields.config, configNames);
  const renorm = renormFromJSON('json.config.renorm', given.renorm);
  const config = readConfig({ ...(given as BatchNormOptions<D>), renorm, group });
  checkGiven({ ...config, group: undefined }, given);
  const training = checkBoolean('json.training', fields.training);
  const rejectedUpdates = checkInteger('json.rejectedUpdates', fields.rejectedUpdates, 0, most);
  const { dtype, trackRunningStats } = config;
  const state = fieldsOf('json.state', fields.state, stateNames);
  const values = <T extends FloatArray>(name: StateName, isThere: boolean, type: DType) =>
    partFrom<T>(`json.state.${name}`, state[name], isThere, channels, type);
  const weight = values<ArrayOf<D>>('weight', config.weight, dtype);
  const bias = values<ArrayOf<D>>('bias', config.bias, dtype);
  const mean = values<Float64Array>('running_mean', trackRunningStats, 'float64');
  const variance = values<Float64Array>('running_var', trackRunningStats, 'float64');
  const batches = state.num_batches_tracked;
  const counted = 'json.state.num_batches_tracked';
  if (trackRunningStats) checkInteger(counted, batches, 0, most);
  else checkAbsent(counted, batches);
  return {
    channels,
    config,
    restore({ core, running }) {
      if (core.weight && weight) copyInto(core.weight, weight);
      if (core.bias && bias) copyInto(core.bias, bias);
      core.training = training;
      running?.load(mean, variance, batches as number | undefined);
      if (running) running.rejectedUpdates = rejectedUpdates;
      if (running?.accepted)
        copyInto(running.accepted, fromCounts('json.acceptedBatches', fields.acceptedBatches, channels));
      else checkAbsent('json.acceptedBatches', fields.acceptedBatches);
    },
  };
}
