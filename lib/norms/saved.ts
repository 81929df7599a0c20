// Group, instance, layer and RMS norm as JSON.
import { describe, isObject, rangeError } from '../errors.js';
import { checkGiven, defined, fieldsOf, jsonVersion, type StateJSON } from '../json.js';
import { propertyOf } from '../properties.js';
import { countsToJSON, readLearned, stateToJSON } from '../saved.js';
import type { DType } from '../types.js';
import type { GroupNormConfig, InstanceNormConfig, RowNormConfig } from './config.js';
import { RowNorm } from './row-norm.js';
import { type Kind, kindFromJSON, kindToJSON } from './rows.js';

/** The options of a norm in full, those that are undefined left out. */
export type ConfigJSON<C extends RowNormConfig> = Omit<C, 'activation' | 'convention'> &
  Partial<Pick<C, 'activation' | 'convention'>>;

/** What all norms of rows have in JSON. */
export interface NormJSON<C extends RowNormConfig> {
  /** Of this format. */
  version: 1;
  /** The options in full, those that are undefined left out. */
  config: ConfigJSON<C>;
  /** What the layer's `stateDict()` has. */
  state: StateJSON;
  /** The mode. */
  training: boolean;
  /** As of {@link InstanceNorm.rejectedUpdates}. */
  rejectedUpdates: number;
}

/** What {@link GroupNorm.toJSON} gives, and {@link GroupNorm.fromJSON} takes. */
export interface GroupNormJSON<D extends DType = DType> extends NormJSON<GroupNormConfig<D>> {
  /** The class. */
  type: 'GroupNorm';
  /** As of {@link GroupNorm.groups}. */
  groups: number;
  /** As of {@link GroupNorm.channels}. */
  channels: number;
}

/** What {@link InstanceNorm.toJSON} gives, and {@link InstanceNorm.fromJSON} takes. */
export interface InstanceNormJSON<D extends DType = DType> extends NormJSON<InstanceNormConfig<D>> {
  /** The class. */
  type: 'InstanceNorm';
  /** As of {@link InstanceNorm.channels}. */
  channels: number;
  /** With decay 'cumulative': how many batches the statistics of each channel are the mean of. */
  acceptedBatches?: number[];
}

/** What {@link LayerNorm.toJSON} gives, and {@link LayerNorm.fromJSON} takes. */
export interface LayerNormJSON<D extends DType = DType> extends NormJSON<RowNormConfig<D>> {
  /** The class. */
  type: 'LayerNorm';
  /** As of {@link LayerNorm.shape}. */
  shape: number[];
}

/** What {@link RMSNorm.toJSON} gives, and {@link RMSNorm.fromJSON} takes. */
export interface RMSNormJSON<D extends DType = DType> extends NormJSON<RowNormConfig<D>> {
  /** The class. */
  type: 'RMSNorm';
  /** As of {@link RMSNorm.shape}. */
  shape: number[];
}

const jsonNames = ['type', 'version', 'config', 'state', 'training', 'rejectedUpdates', 'acceptedBatches'];
const fieldNames = {
  GroupNorm: ['groups', 'channels'].concat(jsonNames),
  InstanceNorm: ['channels'].concat(jsonNames),
  LayerNorm: ['shape'].concat(jsonNames),
  RMSNorm: ['shape'].concat(jsonNames),
};
const rowConfigNames = ['eps', 'dtype', 'weight', 'bias', 'activation', 'reuse', 'convention'];
const configNames = {
  GroupNorm: ['axis'].concat(rowConfigNames),
  InstanceNorm: ['axis', 'trackRunningStats', 'decay', 'unbiasedRunningVar'].concat(rowConfigNames),
  LayerNorm: rowConfigNames,
  RMSNorm: rowConfigNames,
};

export function jsonOfNorm<D extends DType>(layer: RowNorm<D, RowNormConfig<D>, object>): object {
  const parts = RowNorm.partsOf<D>(layer);
  const { norm, axis: _, ...over } = kindToJSON(parts.kind);
  return {
    type: norm,
    version: jsonVersion,
    ...over,
    config: defined({ ...layer.config }),
    state: stateToJSON(parts),
    training: parts.core.training,
    ...countsToJSON(parts.running),
  };
}

/** @param make makes the layer of what was read. */
export function readNormJSON<D extends DType, L extends RowNorm<D, RowNormConfig<D>, object>>(
  norm: Kind['norm'],
  json: unknown,
  make: (kind: Kind, config: InstanceNormConfig<D>) => L | undefined,
): L {
  // Before what of another class has other names.
  const type = isObject(json) ? propertyOf(json, 'type') : norm;
  if (type !== norm) throw rangeError('json.type', `be '${norm}'`, describe(type));
  const fields = fieldsOf('json', json, fieldNames[norm]);
  const given = fieldsOf('json.config', fields.config, configNames[norm]);
  const kind = kindFromJSON(norm, fields, norm, given.axis);
  const layer = make(kind, { ...given } as unknown as InstanceNormConfig<D>) as L;
  checkGiven(layer.config, given);
  const parts = RowNorm.partsOf<D>(layer);
  readLearned(fields, parts.channels, parts.config)(parts);
  return layer;
}
