// What group, instance, layer and RMS norm have that batch norm has not: rows of x with statistics of their own.
import type {
  BackwardPass,
  ForwardPass,
  MomentsPass,
  Passes,
  RowBackwardPass,
  RowForwardPass,
  RowGeometry,
  Slot,
} from '../backend/backend.js';
import { type CallNames, callNamesOf } from '../call-names.js';
import { describe, describeShape, isArray, rangeError, typeError } from '../errors.js';
import { checkAbsent, jsonVersion } from '../json.js';
import { isRank, newShape, rankError, shapeOf } from '../shapes.js';
import { lengthOf } from '../typed-array.js';
import type { DType, TensorArray } from '../types.js';
import {
  checkAxis,
  checkInteger,
  checkOneOf,
  type Geometry,
  geometryOf,
  maxChannels,
  newArray,
  type ReadTensor,
} from '../validate.js';

const { freeze } = Object;

/** What the rows of a layer are, and what its calls may be given. */
export interface RowView extends CallNames {
  geometryOf(input: Pick<ReadTensor, 'name' | 'shape' | 'size'>): RowGeometry;
  /** Whether the mean is subtracted: not in RMS norm. */
  readonly centred: boolean;
  /** Whether a row of one value is an error. */
  readonly needsMany: boolean;
}

/** Which norm it is, and over what. */
export type Kind =
  | { readonly norm: 'GroupNorm'; readonly groups: number; readonly channels: number; readonly axis: number }
  | { readonly norm: 'InstanceNorm'; readonly channels: number; readonly axis: number }
  | { readonly norm: 'LayerNorm' | 'RMSNorm'; readonly shape: readonly number[] };

/** Of the calls. */
const backwardNames = ['out', 'only', 'of', 'accumulate', 'retain'];
const instanceCallNames = callNamesOf(['out', 'updateStats', 'residual'], backwardNames);
const rowCallNames = callNamesOf(['out', 'residual'], backwardNames);

export function numberOfRows(geometry: Geometry): number {
  const { samples, groups } = geometry as RowGeometry;
  return samples * groups;
}

export function valuesOfRow(geometry: Geometry): number {
  const { places, groups, channels, inner } = geometry as RowGeometry;
  return places * (channels / groups) * inner;
}

/**
 * Rows of groups of channels: what a sample has of a group, a sample being what the first axis counts.
 *
 * @param channels how many x must have.
 */
export function groupGeometry(
  input: Pick<ReadTensor, 'name' | 'shape' | 'size'>,
  axis: number,
  groups: number,
  channels?: number,
): RowGeometry {
  const geometry = geometryOf(input, axis, channels);
  const { shape } = input;
  // Where the channels come first there is one sample.
  const isFirst = axis === 0 || axis + shape.length === 0;
  const samples = isFirst ? 1 : shape[0];
  let places = 1;
  const end = axis < 0 ? axis + shape.length : axis;
  for (let i = 1; i < end; i++) places *= shape[i];
  return { ...geometry, samples, places, groups };
}

/** Rows of the last dimensions, which must be these. */
export function layerGeometry(
  { name, shape }: Pick<ReadTensor, 'name' | 'shape'>,
  wanted: readonly number[],
): RowGeometry {
  const first = shape.length - wanted.length;
  let matches = first >= 0;
  for (let i = 0; i < wanted.length; i++) matches &&= shape[first + i] === wanted[i];
  if (!matches)
    throw rangeError(
      `${name}.shape`,
      `end with ${describeShape(wanted)} (what is normalized)`,
      describeShape(shape),
    );
  let samples = 1;
  for (let i = 0; i < first; i++) samples *= shape[i];
  return { outer: samples, channels: productOf(wanted), inner: 1, samples, places: 1, groups: 1 };
}

/** Of no values there are no statistics, however many rows they would be. */
function emptied(geometry: RowGeometry, size: number): RowGeometry {
  return size === 0 ? { ...geometry, outer: 0, samples: 0 } : geometry;
}

/** How many values weight and bias have. */
export function parametersOf(kind: Kind): number {
  return isOfShape(kind) ? productOf(kind.shape) : kind.channels;
}

/** Told by the name: nothing that stands on Object.prototype makes a norm another. */
export function isOfShape(kind: Kind): kind is Extract<Kind, { shape: unknown }> {
  return kind.norm === 'LayerNorm' || kind.norm === 'RMSNorm';
}

export function rowsOf(kind: Kind): RowView {
  if (isOfShape(kind))
    return {
      ...rowCallNames,
      centred: kind.norm === 'LayerNorm',
      needsMany: false,
      geometryOf: (input) => emptied(layerGeometry(input, kind.shape), input.size),
    };
  const { channels, axis } = kind;
  const isInstance = kind.norm === 'InstanceNorm';
  const groups = isInstance ? channels : kind.groups;
  return {
    ...(isInstance ? instanceCallNames : rowCallNames),
    centred: true,
    // Of one value nothing is left, which in an image of one pixel is a mistake.
    needsMany: isInstance,
    geometryOf: (input) => emptied(groupGeometry(input, axis, groups, channels), input.size),
  };
}

/** As JSON has it. */
export interface KindJSON {
  norm: Kind['norm'];
  groups?: number;
  channels?: number;
  axis?: number;
  shape?: number[];
}

export function kindToJSON(kind: Kind): KindJSON {
  return isOfShape(kind) ? { norm: kind.norm, shape: shapeOf(kind.shape) } : { ...kind };
}

const normNames = ['GroupNorm', 'InstanceNorm', 'LayerNorm', 'RMSNorm'] as const;

/**
 * What {@link kindToJSON} gave, checked, with the class and version that stand beside it.
 *
 * @param norm where the class says which it is.
 */
export function kindFromJSON(
  type: string,
  fields: Record<string, unknown>,
  norm?: Kind['norm'],
  axis: unknown = fields.axis,
): Kind {
  if (fields.type !== type) throw rangeError('json.type', `be '${type}'`, describe(fields.type));
  if (fields.version !== jsonVersion)
    throw rangeError('json.version', `be ${jsonVersion}`, describe(fields.version));
  const known = norm ?? checkOneOf('json.norm', fields.norm, normNames);
  const isGroup = known === 'GroupNorm';
  const hasShape = known === 'LayerNorm' || known === 'RMSNorm';
  if (!isGroup) checkAbsent('json.groups', fields.groups);
  if (hasShape) {
    checkAbsent('json.channels', fields.channels);
    if (norm === undefined) checkAbsent('json.axis', axis);
    return { norm: known, shape: readNormalizedShape(fields.shape, 'json.shape') };
  }
  checkAbsent('json.shape', fields.shape);
  const channels = checkInteger('json.channels', fields.channels, 1, maxChannels);
  const of = { channels, axis: checkAxis(axis, norm === undefined ? 'json.axis' : 'json.config.axis') };
  if (known === 'InstanceNorm') return { norm: known, ...of };
  return { norm: known, groups: checkGroups(fields.groups, channels, 'json.groups'), ...of };
}

/** @throws RangeError where they do not divide the channels. */
export function checkGroups(groups: unknown, channels: number, name = 'groups'): number {
  const checked = checkInteger(name, groups, 1, maxChannels);
  if (channels % checked !== 0) throw rangeError(name, `divide the ${channels} channels`, String(checked));
  return checked;
}

/** The dimensions that are normalized: one number, or several. A copy. */
export function readNormalizedShape(shape: unknown, name = 'shape'): readonly number[] {
  if (!isArray(shape)) {
    if (typeof shape !== 'number')
      throw typeError(name, 'be a number or an array of the last dimensions', shape);
    return freeze([checkInteger(name, shape, 1, maxChannels)]);
  }
  const { length } = shape;
  if (!isRank(length)) throw rankError(name, length);
  const copy = newShape(length);
  for (let i = 0; i < length; i++) copy[i] = checkInteger(`${name}[${i}]`, shape[i], 1, maxChannels);
  const size = productOf(copy);
  if (!(size <= maxChannels)) throw rangeError(name, `have at most ${maxChannels} values`, String(size));
  return freeze(copy);
}

/** What stands first where a norm is printed. */
export function toldKind(kind: Kind): string {
  if (isOfShape(kind)) return describeShape(kind.shape);
  return kind.norm === 'GroupNorm' ? `${kind.groups}, ${kind.channels}` : String(kind.channels);
}

export function productOf(shape: readonly number[]): number {
  let product = 1;
  for (let i = 0; i < shape.length; i++) product *= shape[i];
  return product;
}

/**
 * The passes of batch norm's layer core as passes over rows. Where statistics are constants, as in evaluation of an instance norm
 * that has running ones, they are batch norm's: of channels.
 */
export function rowPasses<T extends TensorArray>(
  passes: Passes<T>,
  { centred }: RowView,
  dtype: DType,
): Passes<T> {
  // Each property by its name: a spread takes as long as a small norm.
  const forward = (pass: ForwardPass<T>): RowForwardPass<T> => ({
    geometry: pass.geometry as RowGeometry,
    centred,
    eps: pass.eps,
    x: pass.x,
    y: pass.y,
    weight: pass.weight,
    bias: pass.bias,
    mean: pass.mean,
    variance: pass.variance,
    relu: pass.relu,
    residual: pass.residual,
    mask: pass.mask,
  });
  const statistics = ({ geometry, x, mean, variance }: MomentsPass<T>) => ({
    geometry: geometry as RowGeometry,
    centred,
    eps: 1,
    x,
    y: undefined,
    weight: undefined,
    bias: undefined,
    mean,
    variance,
    relu: false,
    residual: undefined,
    mask: undefined,
  });
  const backward = (pass: BackwardPass<T>): RowBackwardPass<T> => ({
    geometry: pass.geometry as RowGeometry,
    centred,
    eps: pass.eps,
    dy: pass.dy,
    x: pass.x,
    mean: pass.mean,
    variance: pass.variance,
    weight: pass.weight,
    bias: pass.bias,
    relu: pass.relu,
    residual: pass.residual,
    mask: pass.mask,
    // Where what a mask lets through is kept, asked for or not: sums are made of it.
    dResidual: pass.dResidual ?? (pass.relu && pass.mask ? newArray<T>(dtype, lengthOf(pass.x)) : undefined),
    dx: pass.dx,
    dWeight: pass.dWeight,
    dBias: pass.dBias,
  });
  return {
    ...passes,
    forwardTraining: (pass) => passes.forwardRows(forward(pass)),
    forwardTrainingLater: (pass, slot: Slot) => passes.forwardRowsLater(forward(pass), slot),
    moments: (pass) => {
      passes.forwardRows(statistics(pass));
    },
    momentsLater: (pass, slot: Slot) => {
      passes.forwardRowsLater(statistics(pass), slot);
    },
    backward: (pass) => (pass.training ? passes.backwardRows(backward(pass)) : passes.backward(pass)),
    backwardLater: (pass, slot: Slot) =>
      pass.training ? passes.backwardRowsLater(backward(pass), slot) : passes.backwardLater(pass, slot),
  };
}
