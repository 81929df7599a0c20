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
  type LayerBackwardOptions,
  type LayerGradients,
  type Parameter,
  type SingleValue,
} from './batchnorm.js';
export type { BatchNormConfig, BatchNormOptions } from './config.js';
export type { Convention, Decay } from './conventions.js';
export {
  type Conv,
  compose,
  type FixedBatchNorm,
  type FoldableBatchNorm,
  type FoldedConv,
  type FoldedLinear,
  foldBeforeLinear,
  foldIntoConv,
  foldIntoLinear,
  type Linear,
} from './folding.js';
export { FrozenBatchNorm, type FrozenOptions, type RunAsyncOptions, type RunOptions } from './frozen.js';
export {
  type BackwardOptions,
  type BatchStats,
  backward,
  type ForwardInferenceOptions,
  forwardInference,
  forwardTraining,
  type Gradients,
  type PassOptions,
  type RunningStats,
  type RunningStatsOptions,
  type TrainingResult,
  updateRunningStats,
} from './functional.js';
export type { BatchNormJSON, FrozenBatchNormJSON, FrozenConfigJSON, NumberJSON, StateJSON } from './json.js';
export { type Capabilities, capabilities, setThreads, threads } from './runtime.js';
export type { AnyState, StateDict, StateOptions } from './state.js';
export { tensor } from './tensor.js';
export type { ArrayOf, DType, FloatArray, Tensor, TensorLike } from './types.js';
