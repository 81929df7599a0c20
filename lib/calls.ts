// What the calls of a layer take and give.
import type { Activation } from './activation.js';
import type { GradientSums } from './gradient-sums.js';
import type { ProcessGroup } from './group.js';
import type { Moments } from './moments.js';
import type { Missing, Outside, Weights } from './presence.js';
import type { Renorm } from './renorm.js';
import type { DType, FloatArray, Tensor, TensorLike } from './types.js';

/** What {@link BatchNorm.forward} may be given besides x. */
export interface ForwardOptions<T extends FloatArray> {
  /** Where y goes: as long as x and of its dtype; x.data itself (backward is then impossible), or elsewhere. */
  out?: T;
  /** false: leave the running statistics alone in training. Default true. */
  updateStats?: boolean;
  /**
   * In training: the statistics to normalize with instead of those of x, which is a part of all that they describe. They go
   * into the running statistics once, however many parts are given them. Default: those of x.
   */
  moments?: Moments;
  /**
   * How much values count in the statistics: one weight ≥ 0 per sample (`shape[0]` of them, where the channels are another axis) or per
   * position (the product of the shape without the channel axis), 0 and 1 for a mask. Copied. A NaN where the weight is 0 harms
   * nothing. In evaluation they change no statistics. Default: all are 1.
   */
  weights?: Weights;
  /** What y is where the weight is 0: normalized like the rest, or 0, and then no gradient passes. Default 'normalize'. */
  outside?: Outside;
  /** Added before the activation: in the dtype and shape of x. It may not overlap `out`. Default: nothing. */
  residual?: TensorLike<T>;
}

/** What {@link BatchNorm.forwardAsync} and {@link BatchNorm.backwardAsync} take besides. */
export interface AsyncOptions {
  /** Cancels the operation while it waits: the promise rejects with the signal's reason. Later it has no effect. */
  signal?: AbortSignal;
  /**
   * true: the buffer of the data is moved in and all the caller's views of it are detached, as by postMessage. It must be an
   * ArrayBuffer of its own, not resizable. What a signal then cancels is gone. Default false.
   */
  transfer?: boolean;
}

/** What {@link BatchNorm.backward} may be given besides dy. */
export interface LayerBackwardOptions<T extends FloatArray> {
  /** The tensor that the forward returned which is to be gone back through. Default: the last one of the present mode. */
  of?: Tensor<T>;
  /** true: add to the gradients of {@link BatchNorm.parameters} instead of rewriting them. Default false. */
  accumulate?: boolean;
  /**
   * Behind a forward with `moments`: the sums of all parts, which dx follows from. dWeight and dBias are those of this part alone:
   * with `accumulate` those of all parts come together.
   */
  sums?: GradientSums;
  /**
   * true: also `dWeights`, the gradient of the weights that the forward was given, which through the statistics every y depends on.
   * Default false.
   */
  weightsGrad?: boolean;
  /** true: leave the forward to be gone back through again, as PyTorch's retain_graph. Default false. */
  retain?: boolean;
  /** Where dx goes: as long as dy and of its dtype; dy.data itself, or memory that overlaps neither dy nor x. */
  out?: T;
  /** Compute one part only. Default: both. */
  only?: 'input' | 'parameters';
}

/** What {@link BatchNorm.backward} returns. A gradient that does not exist, or was not asked for, is absent. */
export interface LayerGradients<T extends FloatArray> {
  /** In the dtype and shape of x. */
  dx?: Tensor<T>;
  /** One value per channel. */
  dWeight?: T;
  /** One value per channel. */
  dBias?: T;
  /** Of the last forward's residual: dy as the activation lets it through, never in the memory of dy. */
  dResidual?: Tensor<T>;
  /** With `weightsGrad`: as long as the weights, in float32 where they are, else in float64. */
  dWeights?: FloatArray;
}

/** What an optimizer loops over. */
export interface Parameter<T extends FloatArray> {
  /** As the layer and its state call it. */
  name: 'weight' | 'bias';
  /** The layer's own array: write to it to learn. */
  value: T;
  /** The layer's own array, rewritten by each backward, or added to with `accumulate`. */
  grad: T;
}

/** Of a layer's options, what its passes need. */
export interface CoreConfig<D extends DType> {
  readonly axis: number;
  readonly eps: number;
  readonly dtype: D;
  readonly weight: boolean;
  readonly bias: boolean;
  readonly activation: Activation | undefined;
  readonly reuse: boolean;
  readonly singleValue: SingleValue;
  readonly group: ProcessGroup | undefined;
  readonly missing: Missing;
  readonly virtualBatchSize: number | undefined;
  readonly renorm: Renorm | undefined;
}

/** What a training batch with one value per channel is: an error, or normalized with the running statistics. */
export type SingleValue = 'throw' | 'running';
