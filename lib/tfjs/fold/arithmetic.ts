// Kernels as TensorFlow.js lays them out, and what a batch norm beside them makes of them.
import { describe, rangeError } from '../../errors.js';
import { type FixedBatchNorm, foldIntoConv } from '../../folding.js';
import { lengthOf } from '../../typed-array.js';
import type { DType, FloatArray } from '../../types.js';
import { copyAs, newArray } from '../../validate.js';

/** How the dimensions of a kernel, from the last on, follow each other. */
export type Layout =
  /** [..., inputs, outputs] */
  | 'plain'
  /** [..., inputs, multiplier], with inputs · multiplier outputs */
  | 'depthwise'
  /** A depthwise kernel and a plain one, of one position. */
  | 'separable'
  /** [..., outputs, inputs] */
  | 'transposed';

/** The values of a linear layer. */
export interface LinearValues {
  /** One, or two of a separable layer. */
  readonly kernels: readonly FloatArray[];
  /** Of each kernel. */
  readonly shapes: readonly (readonly number[])[];
  readonly bias: FloatArray | undefined;
}

export interface FoldedValues {
  readonly kernels: readonly FloatArray[];
  readonly bias: FloatArray;
}

/** What inference makes of a channel: x · scale + shift, in double. */
export interface Affine {
  readonly scale: FloatArray;
  readonly shift: FloatArray;
}

/** How many outputs a layer has. */
export function outputsOf(layout: Layout, shapes: readonly (readonly number[])[]): number {
  const shape = shapes[shapes.length - 1];
  const last = shape[shape.length - 1];
  const before = shape[shape.length - 2];
  if (layout === 'transposed') return before;
  return layout === 'depthwise' ? before * last : last;
}

/** How many inputs a layer has. */
export function inputsOf(layout: Layout, shapes: readonly (readonly number[])[]): number {
  const [shape] = shapes;
  return shape[shape.length - (layout === 'transposed' ? 1 : 2)];
}

/**
 * A batch norm behind a linear layer.
 *
 * @throws what {@link foldIntoConv} throws.
 */
export function foldedBehind(layout: Layout, layer: LinearValues, bn: FixedBatchNorm): FoldedValues {
  const { kernels, shapes, bias } = layer;
  const own = kernels.length - 1;
  const outputs = outputsOf(layout, shapes);
  const inner = layout === 'transposed' ? inputsOf(layout, shapes) : 1;
  // The kernel is a transposed convolution's whose inputs are all that stands before the outputs.
  const shape = [lengthOf(kernels[own]) / (outputs * inner), outputs, inner];
  const folded = foldIntoConv({ weight: kernels[own], shape, transposed: true, bias }, bn);
  return {
    kernels: kernels.map((kernel, i) => (i === own ? folded.weight : kernel)),
    bias: folded.bias,
  };
}

export function onesOf(dtype: DType, length: number): FloatArray {
  const ones = newArray<FloatArray>(dtype, length);
  for (let i = 0; i < length; i++) ones[i] = 1;
  return ones;
}

/** @throws what {@link foldIntoConv} throws. */
export function affineOf(bn: FixedBatchNorm): Affine {
  const channels = lengthOf(bn.mean);
  const ones = onesOf('float64', channels);
  const { weight, bias } = foldIntoConv({ weight: ones, shape: [channels, 1], groups: channels }, bn);
  return { scale: weight, shift: bias };
}

export function hasShift({ shift }: Affine): boolean {
  for (let i = 0, channels = lengthOf(shift); i < channels; i++) if (shift[i] !== 0) return true;
  return false;
}

/**
 * A batch norm before a linear layer whose every output sees all of its kernel: no padding, unless there is no shift.
 * Inputs may be several times as many as channels, where all of a picture was made one row.
 */
export function foldedBefore(layout: Layout, layer: LinearValues, affine: Affine): FoldedValues {
  const { kernels, shapes, bias } = layer;
  const inputs = inputsOf(layout, shapes);
  const channels = lengthOf(affine.scale);
  if (inputs % channels !== 0) throw rangeError('bn', `have ${inputs} channels (inputs)`, describe(channels));
  const [first, second] = kernels;
  const isByChannel = layout === 'depthwise' || layout === 'separable';
  const last = shapes[0][shapes[0].length - 1];
  const columns = isByChannel ? inputs * last : last;
  const scaled = copyAs<FloatArray>(dtype, first);
  // Of each column of the first kernel.
  const shifts = newArray<Float64Array>('float64', columns);
  for (let i = 0, size = lengthOf(first); i < size; i++) {
    const column = i % columns;
    const row = (i - column) / columns;
    const input = isByChannel ? Math.floor(column / last) : layout === 'transposed' ? column : row;
    scaled[i] = first[i] * affine.scale[input % channels];
    shifts[column] += first[i] * affine.shift[input % channels];
  }
  const outputs = outputsOf(layout, shapes);
  const sums = newArray<Float64Array>('float64', outputs);
  for (let output = 0; output < outputs; output++) {
    sums[output] = bias === undefined ? 0 : bias[output];
    if (layout === 'separable')
      for (let column = 0; column < columns; column++)
        sums[output] += second[column * outputs + output] * shifts[column];
    // No shift where it is transposed.
    else if (layout !== 'transposed') sums[output] += shifts[output];
  }
  return {
    kernels: kernels.map((kernel, i) => (i === 0 ? scaled : kernel)),
    bias: copyAs<FloatArray>(dtype, sums),
  };
}

/** Of all weights of TensorFlow.js. */
const dtype = 'float32';
