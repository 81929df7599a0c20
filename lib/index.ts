/**
 * Batch normalization: as a layer, frozen for inference, and as functions; folded into the layers beside it.
 *
 * @module batchnorm
 */
export type { Activation } from './activation.js';
export {
  type AsyncOptions,
  BatchNorm,
  type ForwardOptions,
  type FromJSONOptions,
  type LayerBackwardOptions,
  type LayerGradients,
  type Parameter,
  type SingleValue,
} from './batchnorm.js';
export type { BatchNormConfig, BatchNormOptions } from './config.js';
export type { Convention, Decay } from './conventions.js';
export { type ConversionOptions, type Converted, decode, encode } from './convert.js';
export type { HalfDType } from './dtype.js';
export {
  type Conv,
  compose,
  type FixedBatchNorm,
  type FoldableBatchNorm,
  type FoldableNorm,
  type FoldedConv,
  type FoldedLinear,
  foldBeforeLinear,
  foldIntoConv,
  foldIntoLinear,
  type Linear,
} from './folding.js';
export { FrozenBatchNorm } from './frozen.js';
export type {
  DefaultRunResultOf,
  FrozenOptions,
  MeanStdOptions,
  RunAsyncOptions,
  RunOptions,
  RunResultOf,
} from './frozen-options.js';
export {
  type BackwardOptions,
  type BatchStats,
  backward,
  type DefaultInferenceResultOf,
  type ForwardInferenceOptions,
  type ForwardTrainingOptions,
  forwardInference,
  forwardTraining,
  type Gradients,
  type InferenceDTypeOf,
  type InferenceResultOf,
  type ResultNamed,
  type RunningStats,
  type RunningStatsOptions,
  type TrainingResult,
  updateRunningStats,
} from './functional.js';
export {
  GradientSums,
  type GradientSumsJSON,
  type GradientSumsOptions,
  type GradientSumsParts,
} from './gradient-sums.js';
export type { ProcessGroup } from './group.js';
export type {
  BatchNormJSON,
  FrozenBatchNormJSON,
  FrozenConfigJSON,
  NumberJSON,
  RenormJSON,
  StateJSON,
} from './json.js';
export { Moments, type MomentsJSON, type MomentsOptions, type MomentsParts } from './moments.js';
export { type Monitor, type MonitorJSON, type MonitorOptions, monitor, type Named } from './monitor/index.js';
export type { LayerRecord, LayerState } from './monitor/record.js';
export type {
  GroupNormConfig,
  GroupNormOptions,
  InstanceNormConfig,
  InstanceNormOptions,
  LayerNormOptions,
  RMSNormOptions,
  RowNormConfig,
} from './norms/config.js';
export { FrozenNorm, type FrozenNormJSON, type FrozenNormRunOptions } from './norms/frozen.js';
export {
  type GroupNormFunctionOptions,
  groupNorm,
  groupNormBackward,
  type InstanceNormFunctionOptions,
  instanceNorm,
  instanceNormBackward,
  type LayerNormFunctionOptions,
  layerNorm,
  layerNormBackward,
  type RMSNormFunctionOptions,
  type RowFunctionGradients,
  type RowOptions,
  type RowResult,
  type RowStatistics,
  rmsNorm,
  rmsNormBackward,
} from './norms/functional.js';
export { GroupNorm, type InstanceForwardOptions, InstanceNorm } from './norms/group.js';
export { LayerNorm, RMSNorm } from './norms/layer.js';
export type { RowBackwardOptions, RowForwardOptions, RowGradients, RowNorm } from './norms/row-norm.js';
export type {
  ConfigJSON,
  GroupNormJSON,
  InstanceNormJSON,
  LayerNormJSON,
  NormJSON,
  RMSNormJSON,
} from './norms/saved.js';
export type { PassOptions } from './pass.js';
export {
  type Missing,
  maskOf,
  type Outside,
  type PresenceOptions,
  type Weights,
} from './presence.js';
export type { Renorm } from './renorm.js';
export { type Capabilities, capabilities, setThreads, threads } from './runtime.js';
export type { AnyState, StateDict, StateOptions } from './state.js';
export { tensor } from './tensor.js';
export type {
  AnyDType,
  ArrayOf,
  ClassOf,
  DType,
  DTypeOf,
  FloatArray,
  HalfArray,
  IntegerArray,
  IntegerDType,
  NamedResultOf,
  ParametersOf,
  Place,
  ResidualOf,
  ResultArrayOf,
  ResultDType,
  ResultDTypeOf,
  ResultOf,
  Said,
  Saying,
  Tensor,
  TensorArray,
  TensorLike,
  UnnamedResultOf,
  ValueArray,
  WrittenOf,
} from './types.js';
