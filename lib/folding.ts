// Norms folded into the layers beside them: arithmetic on a few weights, once, before serving.
import { type Activation, checkActivation } from './activation.js';
import { BatchNorm } from './batchnorm.js';
import { type Convention, conventions, defaultsOf } from './conventions.js';
import type { Arithmetic } from './dtype.js';
import {
  describe,
  describeShape,
  isArray,
  type Reason,
  rangeError,
  stateError,
  typeError,
} from './errors.js';
import { constructorKey, FrozenBatchNorm } from './frozen.js';
import type { RowNormConfig } from './norms/config.js';
import { FrozenNorm } from './norms/frozen.js';
import type { InstanceNorm } from './norms/group.js';
import { RowNorm } from './norms/row-norm.js';
import { isOfShape, type Kind, parametersOf } from './norms/rows.js';
import { namesOf, propertiesOf } from './properties.js';
import { isRank, newShape, rankError } from './shapes.js';
import {
  checkValues,
  conventionHint,
  type Entry,
  entryOf,
  namesUnder,
  valuesOf,
  wholeObject,
} from './state.js';
import { lengthOf } from './typed-array.js';
import type { DType, FloatArray } from './types.js';
import {
  channelsError,
  checkAxis,
  checkBoolean,
  checkDivisors,
  checkEps,
  checkInteger,
  checkObject,
  checkPerChannel,
  copyAs,
  dtypeOf,
  newArray,
  toDtype,
} from './validate.js';

/** A fully connected layer: y = weight · x + bias. Other properties are ignored. */
export interface Linear<T extends FloatArray = FloatArray> {
  /** Row-major, as many values as `shape` says. */
  readonly weight: T;
  /** [outputs, inputs]. */
  readonly shape: readonly number[];
  /** One value per output. Default, and for null: 0 for each. */
  readonly bias?: FloatArray | null;
  /** What the layer applies to its result. Default: nothing. */
  readonly activation?: Activation | null;
}

/**
 * A convolution with a kernel of any number of dimensions. Stride, padding and dilation have no part in folding; other
 * properties than these are ignored.
 */
export interface Conv<T extends FloatArray = FloatArray> extends Linear<T> {
  /** [outputs, inputs / groups, ...kernel]; with `transposed` [inputs, outputs / groups, ...kernel]. */
  readonly shape: readonly number[];
  /** A divisor of inputs and outputs, each group of which is convolved on its own. Default 1. */
  readonly groups?: number;
  /** A transposed convolution ("deconvolution"). Default false. */
  readonly transposed?: boolean;
}

/** A linear layer that does the work of a batch norm too. Its arrays are new and of one dtype. */
export interface FoldedLinear<T extends FloatArray = FloatArray> extends Linear<T> {
  readonly bias: T;
  /** To be applied to the layer's result; absent where there is none. */
  readonly activation?: Activation;
}

/** A convolution that does the work of a batch norm too. Its arrays are new and of one dtype. */
export interface FoldedConv<T extends FloatArray = FloatArray> extends Conv<T> {
  readonly bias: T;
  /** To be applied to the layer's result; absent where there is none. */
  readonly activation?: Activation;
}

/**
 * A batch norm with fixed statistics, one finite value per channel each. Other properties are ignored. A state is one too:
 * `{ ...state, eps }` with running_mean and running_var in the place of mean and variance, or with `convention` the names of
 * Keras or ONNX, in all the forms that {@link BatchNorm.loadStateDict} takes.
 */
export interface FixedBatchNorm {
  /** One value per channel; it decides how many there are. */
  readonly mean: FloatArray;
  /** None negative: biased or not, as the inference that it stands for has it. */
  readonly variance: FloatArray;
  /** Default, and for null: 1 for each. */
  readonly weight?: FloatArray | null;
  /** Default, and for null: 0 for each. */
  readonly bias?: FloatArray | null;
  /** Added to the variance under the root, from 0 on. Default: that of the convention, 1e-5. With 0 no variance may be 0. */
  readonly eps?: number;
  /** Whose eps to take, and whose names there may be. Default: PyTorch's. */
  readonly convention?: Convention;
  /** The channel axis; only {@link compose} has a use for it. Default there: that of the other batch norm. */
  readonly axis?: number;
  /** What follows the batch norm. Default: nothing. */
  readonly activation?: Activation | null;
}

/**
 * What can be folded. Of a {@link BatchNorm}, and of an {@link InstanceNorm} with running statistics, it is these that count, in
 * training mode too; a {@link FrozenBatchNorm} may have been disposed of.
 */
export type FoldableBatchNorm<D extends DType = DType> =
  | BatchNorm<D>
  | InstanceNorm<D>
  | FrozenBatchNorm<D>
  | FixedBatchNorm
  | Readonly<Record<string, unknown>>;

/**
 * A group, instance, layer or RMS norm, whose weight and bias alone can be folded, into the linear layer after it. A {@link FrozenNorm}
 * may have been disposed of.
 */
export type FoldableNorm<D extends DType = DType> = RowNorm<D, RowNormConfig<D>, object> | FrozenNorm<D>;

const settingNames = namesOf(['eps', 'axis', 'activation', 'convention']);
/** What its values may be called, by convention. */
const fixedNames = Object.fromEntries(
  conventions.map((convention) => {
    const { weight, bias, running_mean, running_var } = namesUnder(convention);
    return [
      convention,
      { mean: ['mean'].concat(running_mean), variance: ['variance'].concat(running_var), weight, bias },
    ];
  }),
);
const layerNames = namesOf(['weight', 'shape', 'bias', 'groups', 'transposed', 'activation']);

/** A batch norm that has been checked. */
interface ReadBatchNorm {
  name: string;
  channels: number;
  mean: FloatArray;
  variance: FloatArray;
  weight: FloatArray | undefined;
  bias: FloatArray | undefined;
  eps: number;
  axis: number | undefined;
  dtype: DType | undefined;
  activation: Activation | undefined;
}

/** What a norm does to each channel once it has normalized, checked. */
interface ReadAffine {
  name: string;
  channels: number;
  /** 1 for each where there are none. */
  scale: FloatArray | undefined;
  /** 0 for each where there are none. */
  shift: FloatArray | undefined;
  activation: Activation | undefined;
}

/** A layer that has been checked. */
interface ReadLayer<T extends FloatArray> {
  name: string;
  weight: T;
  dtype: Arithmetic;
  shape: number[];
  bias: FloatArray | undefined;
  groups: number;
  transposed: boolean;
  /** Of the two above those that were given: the folded layer has the same. */
  given: { groups?: number; transposed?: boolean };
  outputs: number;
  activation: Activation | undefined;
}

function readBatchNorm(name: string, value: unknown): ReadBatchNorm {
  checkObject(name, value);
  let settings: { eps: unknown; axis: unknown; activation: unknown };
  let dtype: DType | undefined;
  let mean: Entry | undefined;
  let variance: Entry | undefined;
  let weight: Entry | undefined;
  let bias: Entry | undefined;
  if (BatchNorm.isLayer(value)) {
    const { runningMean, runningVar, config } = value;
    if (runningMean === null || runningVar === null)
      throw stateError(
        'NO_RUNNING_STATS',
        `${name} must have running statistics, got trackRunningStats: false`,
      );
    settings = config;
    dtype = config.dtype;
    mean = { name: `${name}.runningMean`, value: runningMean };
    variance = { name: `${name}.runningVar`, value: runningVar };
    weight = { name: `${name}.weight`, value: value.weight };
    bias = { name: `${name}.bias`, value: value.bias };
  } else if (FrozenBatchNorm.isLayer(value)) {
    settings = value.parts;
    dtype = value.dtype;
    mean = { name: `${name}.mean`, value: value.parts.mean };
    variance = { name: `${name}.variance`, value: value.parts.variance };
    weight = { name: `${name}.weight`, value: value.parts.weight };
    bias = { name: `${name}.bias`, value: value.parts.bias };
  } else if (RowNorm.isLayer(value)) {
    const { kind, core, running } = RowNorm.partsOf(value);
    if (running === undefined) throw rowsError(name, kind);
    const { config } = value;
    settings = { ...config, axis: isOfShape(kind) ? undefined : kind.axis };
    dtype = config.dtype;
    mean = { name: `${name}.runningMean`, value: running.mean };
    variance = { name: `${name}.runningVar`, value: running.variance };
    weight = { name: `${name}.weight`, value: core.weight };
    bias = { name: `${name}.bias`, value: core.bias };
  } else if (FrozenNorm.isNorm(value)) {
    throw rowsError(name, FrozenNorm.partsOf(value).kind);
  } else if (isPretended(value)) throw typeError(name, 'be a layer itself', value);
  else {
    const { eps, axis, activation, convention } = propertiesOf(value as FixedBatchNorm, settingNames);
    const defaults = defaultsOf(convention, undefined);
    settings = { eps: eps === undefined ? defaults.eps : eps, axis, activation };
    const names = fixedNames[convention ?? 'pytorch'];
    mean = entryOf(name, value, wholeObject, names.mean);
    variance = entryOf(name, value, wholeObject, names.variance);
    weight = entryOf(name, value, wholeObject, names.weight);
    bias = entryOf(name, value, wholeObject, names.bias);
  }
  const { eps, axis, activation } = settings;
  const values = {
    mean: valuesOf(
      mean ?? { name: `${name}.mean`, value: undefined },
      mean ? '' : conventionHint(value, wholeObject),
    ),
    variance: valuesOf(variance ?? { name: `${name}.variance`, value: undefined }),
    weight: optional(weight),
    bias: optional(bias),
  };
  const channels = lengthOf(values.mean);
  if (channels === 0) throw channelsError(mean?.name ?? name, channels);
  const check = (entry: Entry | undefined, given: FloatArray | undefined, isVariance = false) =>
    entry && given && checkValues(entry.name, given, channels, isVariance);
  check(mean, values.mean);
  check(variance, values.variance, true);
  check(weight, values.weight);
  check(bias, values.bias);
  const checkedEps = checkEps(eps, `${name}.eps`);
  checkDivisors(variance?.name ?? name, values.variance, checkedEps);
  return {
    name,
    channels,
    ...values,
    eps: checkedEps,
    axis: axis === undefined ? undefined : checkAxis(axis, `${name}.axis`),
    dtype,
    activation: checkActivation(activation ?? undefined, `${name}.activation`),
  };
}

/** A proxy of a layer, or what inherits from its prototype. */
function isPretended(value: object): boolean {
  return (
    value instanceof BatchNorm ||
    value instanceof FrozenBatchNorm ||
    value instanceof RowNorm ||
    value instanceof FrozenNorm
  );
}

function rowsError(name: string, { norm }: Kind): Error {
  const cure =
    norm === 'InstanceNorm'
      ? 'keep it, or train it with trackRunningStats'
      : 'keep it; foldBeforeLinear() takes its weight and bias';
  return rangeError(
    name,
    'have constants for statistics',
    `the ${norm}, which finds those of each input; ${cure}`,
    'NOT_FOLDABLE',
  );
}

/** What stands before a linear layer: of a batch norm all of it, of another norm weight and bias. */
function readBefore(name: string, value: unknown): ReadAffine {
  checkObject(name, value);
  const isLayer = RowNorm.isLayer(value);
  if (isLayer ? RowNorm.partsOf(value).running !== undefined : !FrozenNorm.isNorm(value)) {
    const bn = readBatchNorm(name, value);
    const scale = scaleOf(bn);
    return { ...bn, scale, shift: applied(bn, scale, undefined) };
  }
  let kind: Kind;
  let given: { weight: FloatArray | undefined; bias: FloatArray | undefined };
  let activation: Activation | undefined;
  if (isLayer) {
    const parts = RowNorm.partsOf(value);
    kind = parts.kind;
    given = parts.core;
    activation = value.config.activation;
  } else {
    const parts = FrozenNorm.partsOf(value as FrozenNorm);
    kind = parts.kind;
    given = parts;
    activation = parts.activation;
  }
  const channels = parametersOf(kind);
  const { weight, bias } = given;
  return {
    name,
    channels,
    scale: weight && checkValues(`${name}.weight`, weight, channels),
    shift: bias && checkValues(`${name}.bias`, bias, channels),
    activation,
  };
}

function optional(entry: Entry | undefined): FloatArray | undefined {
  return entry === undefined || entry.value === undefined || entry.value === null
    ? undefined
    : valuesOf(entry);
}

function readLayer<T extends FloatArray>(name: string, value: unknown): ReadLayer<T> {
  checkObject(name, value);
  const {
    weight,
    shape,
    bias,
    groups: givenGroups,
    transposed: givenTransposed,
    activation,
  } = propertiesOf(value, layerNames) as Conv<T>;
  const dtype = dtypeOf(`${name}.weight`, weight);
  if (!isArray(shape)) throw typeError(`${name}.shape`, 'be an array of dimensions', shape);
  const { length } = shape;
  if (!isRank(length)) throw rankError(`${name}.shape`, length);
  const dims = newShape(length);
  let size = 1;
  for (let i = 0; i < length; i++) {
    dims[i] = checkInteger(`${name}.shape[${i}]`, shape[i], 1, Number.MAX_SAFE_INTEGER);
    size *= dims[i];
  }
  if (length < 2)
    throw rangeError(
      `${name}.shape`,
      'have at least two dimensions (outputs and inputs)',
      describeShape(dims),
    );
  if (lengthOf(weight) !== size)
    throw rangeError(`${name}.weight`, `have ${size} values (${dims.join(' x ')})`, String(lengthOf(weight)));
  const transposed =
    givenTransposed === undefined ? false : checkBoolean(`${name}.transposed`, givenTransposed);
  const groups =
    givenGroups === undefined ? 1 : checkInteger(`${name}.groups`, givenGroups, 1, Number.MAX_SAFE_INTEGER);
  if (dims[0] % groups !== 0)
    throw rangeError(
      `${name}.groups`,
      `divide ${dims[0]} (${transposed ? 'inputs' : 'outputs'})`,
      String(groups),
    );
  const outputs = transposed ? dims[1] * groups : dims[0];
  return {
    name,
    weight,
    dtype,
    shape: dims,
    bias: bias === undefined || bias === null ? undefined : checkPerChannel(`${name}.bias`, bias, outputs),
    groups,
    transposed,
    given: {
      ...(givenGroups !== undefined && { groups }),
      ...(givenTransposed !== undefined && { transposed }),
    },
    outputs,
    activation: checkActivation(activation ?? undefined, `${name}.activation`),
  };
}

function checkChannels(
  { name, channels }: { name: string; channels: number },
  wanted: number,
  of: string,
): void {
  if (channels !== wanted) throw rangeError(name, `have ${wanted} channels (${of})`, String(channels));
}

function checkNoActivation(name: string, activation: unknown, between: string): void {
  if (activation !== undefined)
    throw rangeError(
      `${name}.activation`,
      `be absent (it stands between ${between})`,
      describe(activation),
      'NOT_FOLDABLE',
    );
}

/** weight / √(variance + eps), per channel. */
function scaleOf({ channels, weight, variance, eps }: ReadBatchNorm): Float64Array {
  return perChannel(
    channels,
    (channel) => (weight ? weight[channel] : 1) / Math.sqrt(variance[channel] + eps),
  );
}

function perChannel(channels: number, value: (channel: number) => number): Float64Array {
  const values = newArray<Float64Array>('float64', channels);
  for (let channel = 0; channel < channels; channel++) values[channel] = value(channel);
  return values;
}

/** What the batch norm makes of `values`, or of zeros, in double. */
function applied(bn: ReadBatchNorm, scale: Float64Array, values: FloatArray | undefined): Float64Array {
  const { channels, mean, bias } = bn;
  return perChannel(
    channels,
    (channel) =>
      ((values ? values[channel] : 0) - mean[channel]) * scale[channel] + (bias ? bias[channel] : 0),
  );
}

function readLinear<T extends FloatArray>(value: unknown, reason: Reason, hint: string): ReadLayer<T> {
  const layer = readLayer<T>('linear', value);
  const { shape, groups, transposed } = layer;
  if (shape.length > 2 || groups > 1 || transposed)
    throw rangeError(
      'linear',
      'be a linear layer of shape [outputs, inputs]',
      `a convolution of shape ${describeShape(shape)}; ${hint}`,
      reason,
    );
  return layer;
}

function foldInto<T extends FloatArray>(layer: ReadLayer<T>, bnValue: unknown): FoldedConv<T> {
  const bn = readBatchNorm('bn', bnValue);
  const { name, dtype, shape, groups, transposed, given, outputs, bias } = layer;
  checkNoActivation(name, layer.activation, 'the layer and the batch norm');
  checkChannels(bn, outputs, `outputs of ${name}`);
  const scale = scaleOf(bn);
  // weight[rows][columns][rest]: a row belongs to one group, a column of it to one output.
  const rows = transposed ? shape[0] : 1;
  const columns = transposed ? shape[1] : outputs;
  const weight = copyAs<T>(dtype, layer.weight);
  const length = lengthOf(weight) / (rows * columns);
  let i = 0;
  for (let row = 0; row < rows; row++) {
    const firstOutput = Math.floor((row * groups) / rows) * columns;
    for (let column = 0; column < columns; column++) {
      const factor = scale[firstOutput + column];
      for (const end = i + length; i < end; i++) weight[i] *= factor;
    }
  }
  return {
    weight,
    shape,
    bias: toDtype<T>(applied(bn, scale, bias), dtype),
    ...given,
    ...(bn.activation && { activation: bn.activation }),
  };
}

/**
 * Folds a batch norm into the convolution before it: one convolution equal to bn(conv(x)) in inference.
 *
 * The fastest batch norm in inference is the one that was folded away. It cannot be in training, where its statistics
 * are those of the batch; where an activation stands between the two; or where something else uses the convolution's
 * own result. Padding does no harm here. An activation of the batch norm is not folded: the result has it as
 * `activation`, to be applied after the convolution.
 *
 * With s = weight / √(variance + eps) of the batch norm, weight'[o, …] = weight[o, …] · s[o] and
 * bias' = (bias − mean) · s + bias of the batch norm (Jacob et al., "Quantization and Training of Neural Networks for
 * Efficient Integer-Arithmetic-Only Inference", 2018, section 3.2), in double, rounded once. With `transposed`,
 * weight[i, o', …] belongs to the output o = ⌊i / (inputs / groups)⌋ · outputs / groups + o'.
 *
 * @param conv is not changed. Its bias may be of either dtype.
 * @param bn with as many channels as `conv` has outputs; a BatchNorm by its running statistics, whatever its mode.
 * @returns a convolution with shape, groups and transposed of `conv`, new arrays of the dtype of its weight, and always
 *   a bias. `{ ...conv, ...foldIntoConv(conv, bn) }` keeps all else that `conv` has.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for
 *   what does not fit, with `ERR_BATCHNORM_NOT_FOLDABLE` for an activation between and for a norm that finds the statistics of each
 *   input (group, layer and RMS norm, instance norm without running statistics), of which nothing can be folded here; Error
 *   (`ERR_BATCHNORM_NO_RUNNING_STATS`) for a BatchNorm without running statistics.
 * @example
 * import { BatchNorm, foldIntoConv } from 'batchnorm';
 *
 * const conv = { weight: new Float32Array(16 * 3 * 3 * 3).fill(0.1), shape: [16, 3, 3, 3] };
 * const { weight, shape, bias } = foldIntoConv(conv, new BatchNorm(16));
 * console.log(weight.length, shape, bias.length); // 432 [ 16, 3, 3, 3 ] 16
 */
export function foldIntoConv<T extends FloatArray>(conv: Conv<T>, bn: FoldableBatchNorm): FoldedConv<T> {
  return foldInto(readLayer<T>('conv', conv), bn);
}

/**
 * Folds a batch norm into the linear layer before it: one linear layer equal to bn(linear(x)) in inference. What
 * {@link foldIntoConv} says holds here.
 *
 * @param linear is not changed. Its bias may be of either dtype.
 * @param bn with as many channels as `linear` has outputs; a BatchNorm by its running statistics, whatever its mode.
 * @returns a linear layer of the same shape, new arrays of the dtype of its weight, and always a bias.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for
 *   what does not fit, with `ERR_BATCHNORM_NOT_FOLDABLE` for an activation between and for a norm that finds the statistics of each
 *   input (group, layer and RMS norm, instance norm without running statistics), of which nothing can be folded here; Error
 *   (`ERR_BATCHNORM_NO_RUNNING_STATS`) for a BatchNorm without running statistics.
 * @example
 * import { foldIntoLinear } from 'batchnorm';
 *
 * const linear = { weight: Float32Array.of(1, 2, 3, 4), shape: [2, 2] };
 * const bn = { mean: Float64Array.of(1, 1), variance: Float64Array.of(4, 4), eps: 1e-12 };
 * const { weight, bias } = foldIntoLinear(linear, bn);
 * console.log(weight, bias); // Float32Array(4) [ 0.5, 1, 1.5, 2 ] Float32Array(2) [ -0.5, -0.5 ]
 */
export function foldIntoLinear<T extends FloatArray>(
  linear: Linear<T>,
  bn: FoldableBatchNorm,
): FoldedLinear<T> {
  return foldInto(readLinear<T>(linear, 'INVALID_VALUE', 'use foldIntoConv()'), bn);
}

/**
 * Folds a batch norm into the linear layer after it: one linear layer equal to linear(bn(x)) in inference. Of a norm that finds the
 * statistics of each input, as layer and RMS norm do, it folds weight and bias: the linear layer then wants the same norm without
 * them before it, `new LayerNorm(shape, { eps, weight: false, bias: false })`, which is faster in training and inference alike.
 *
 * A batch norm cannot be folded in training, where it has an activation, or where something else uses its result. Nor
 * into a convolution that pads with zeros: they are zeros of the batch norm's result, for which x would have to be
 * padded with mean − bias / s, another value in each channel. Give an unpadded convolution with a kernel of one value as
 * a linear layer; before any other keep the batch norm. After a flattening each channel is several inputs: give plain
 * arrays that have its values as often.
 *
 * With s = weight / √(variance + eps) and t = bias − mean · s of the batch norm, weight'[o, i] = weight[o, i] · s[i] and
 * bias'[o] = bias[o] + Σᵢ weight[o, i] · t[i], in double, rounded once. Where means are large beside the deviations, the
 * new layer subtracts two large numbers: in float32 that costs digits which the batch norm itself would have kept. Of the other norms
 * s is the weight and t the bias, which costs none.
 *
 * @param bn with as many channels as `linear` has inputs; a BatchNorm by its running statistics, whatever its mode. Of a layer or RMS
 *   norm, as many places of a row.
 * @param linear is not changed. Its bias may be of either dtype; its activation is that of the result.
 * @returns a linear layer of the same shape, new arrays of the dtype of its weight, and always a bias.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for
 *   what does not fit, with `ERR_BATCHNORM_NOT_FOLDABLE` for an activation between or a convolution; Error
 *   (`ERR_BATCHNORM_NO_RUNNING_STATS`) for a BatchNorm without running statistics.
 * @example
 * import { foldBeforeLinear } from 'batchnorm';
 *
 * const linear = { weight: Float32Array.of(1, 2, 3, 4), shape: [2, 2] };
 * const bn = { mean: Float64Array.of(1, 1), variance: Float64Array.of(4, 4), eps: 1e-12 };
 * const { weight, bias } = foldBeforeLinear(bn, linear);
 * console.log(weight, bias); // Float32Array(4) [ 0.5, 1, 1.5, 2 ] Float32Array(2) [ -1.5, -3.5 ]
 * @example
 * import { foldBeforeLinear, LayerNorm } from 'batchnorm';
 *
 * const norm = new LayerNorm(2).loadStateDict({ weight: [2, 10], bias: [1, 0] });
 * const { weight, bias } = foldBeforeLinear(norm, { weight: Float32Array.of(1, 2), shape: [1, 2] });
 * console.log(weight, bias); // Float32Array(2) [ 2, 20 ] Float32Array(1) [ 1 ]
 */
export function foldBeforeLinear<T extends FloatArray>(
  bn: FoldableBatchNorm | FoldableNorm,
  linear: Linear<T>,
): FoldedLinear<T> {
  const read = readBefore('bn', bn);
  const {
    weight: given,
    dtype,
    shape,
    bias: givenBias,
    activation,
  } = readLinear<T>(
    linear,
    'NOT_FOLDABLE',
    'a batch norm before zero padding cannot be folded; give an unpadded kernel of one value as [outputs, inputs]',
  );
  const outputs = shape[0];
  const inputs = shape[1];
  checkNoActivation('bn', read.activation, 'the norm and the layer');
  checkChannels(read, inputs, 'inputs of linear');
  const { scale, shift } = read;
  const weight = copyAs<T>(dtype, given);
  const bias = newArray<T>(dtype, outputs);
  for (let output = 0; output < outputs; output++) {
    let sum = givenBias ? givenBias[output] : 0;
    for (let input = 0; input < inputs; input++) {
      const i = output * inputs + input;
      if (shift) sum += weight[i] * shift[input];
      if (scale) weight[i] *= scale[input];
    }
    bias[output] = sum;
  }
  return { weight, shape, bias, ...(activation && { activation }) };
}

/**
 * One frozen batch norm equal to second(first(x)) in inference.
 *
 * It has mean, variance and eps of `first`, and, with s = weight / √(variance + eps) of `second`, the weight
 * weight · s and the bias (bias − mean of second) · s + bias of second: x − mean loses no digits where the mean is
 * large. Both are held in double until they meet data. Not possible in training, or where something else uses what
 * `first` gives.
 *
 * @param first without an activation, which would stand between the two.
 * @param second of the same channels, and of the same axis and dtype where both have one; its activation is that of
 *   the result.
 * @returns a frozen layer with the axis (default 1) and the dtype (default: either) of those that have one.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for
 *   what does not fit, with `ERR_BATCHNORM_NOT_FOLDABLE` for an activation between and for a norm that finds the statistics of each
 *   input (group, layer and RMS norm, instance norm without running statistics), of which nothing can be folded here; Error
 *   (`ERR_BATCHNORM_NO_RUNNING_STATS`) for a BatchNorm without running statistics.
 * @example
 * import { BatchNorm, compose } from 'batchnorm';
 *
 * const whitening = { mean: Float64Array.of(124, 116, 104), variance: Float64Array.of(3411, 3260, 3291) };
 * const y = compose(whitening, new BatchNorm(3)).run({ data: new Float32Array(3 * 4), shape: [1, 3, 2, 2] });
 * console.log(y.shape); // [ 1, 3, 2, 2 ]
 */
export function compose<D extends DType = DType>(
  first: FoldableBatchNorm<D>,
  second: FoldableBatchNorm<D>,
): FrozenBatchNorm<D> {
  const before = readBatchNorm('first', first);
  const after = readBatchNorm('second', second);
  const { channels, eps, mean, variance, weight, bias } = before;
  const { axis = before.axis ?? 1, dtype = before.dtype, activation } = after;
  checkNoActivation('first', before.activation, 'the two batch norms');
  checkChannels(after, channels, 'those of first');
  if (before.axis !== undefined && axis !== before.axis)
    throw rangeError('second.axis', `be ${before.axis} (the axis of first)`, String(axis));
  if (before.dtype !== undefined && dtype !== before.dtype)
    throw rangeError('second.dtype', `be '${before.dtype}' (the dtype of first)`, describe(dtype));
  const scale = scaleOf(after);
  return new FrozenBatchNorm<D>(constructorKey, {
    channels,
    axis,
    eps,
    dtype: dtype as D | undefined,
    weight: weight ? perChannel(channels, (channel) => weight[channel] * scale[channel]) : scale,
    bias: applied(after, scale, bias),
    mean,
    variance,
    activation,
    missing: 'propagate',
  });
}
