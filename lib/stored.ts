// Inference from any storage type to any other, which the channel axis may be moved by: what is read of its arguments, and
// the pass that it becomes.
import type { StoredPass } from './backend/backend.js';
import { backend } from './backend/index.js';
import { dtypes, type HalfDType, integerNamed, isHalf, isInteger, storageOf, storedNames } from './dtype.js';
import { describeShape, rangeError, typeError } from './errors.js';
import { checkApart, isInPlace } from './overlap.js';
import { newResult } from './result.js';
import { newShape } from './shapes.js';
import { bitsOf, halvesOf, lengthOf, partOf, typedArrayType, valuesOf } from './typed-array.js';
import type {
  AnyDType,
  DType,
  FloatArray,
  IntegerArray,
  ResultDType,
  TensorArray,
  ValueArray,
} from './types.js';
import {
  checkAxis,
  checkKept,
  checkLength,
  checkOneOf,
  checkSameShape,
  geometryOf,
  newArray,
  type ReadView,
  readView,
  toDtype,
} from './validate.js';

/** What such an inference is given beside x, as the caller has it. */
export interface GivenStored {
  readonly out: unknown;
  readonly residual: unknown;
  readonly outAxis: unknown;
  /** Of the result. */
  readonly dtype: unknown;
}

/** All of it, checked. */
export interface StoredCall {
  readonly input: ReadView;
  readonly dtype: ResultDType;
  /** Axis, axis in the result, offset, dimensions and strides: what the backend knows of how x lies. */
  readonly view: Float64Array;
  /** That of the result. */
  readonly shape: readonly number[];
  /** Where its channels are. */
  readonly channels: number;
  readonly inner: number;
  readonly outDtype: ResultDType;
  /** Where it is to be written. */
  readonly out: ValueArray | undefined;
  /** As the caller has it. */
  readonly givenOut: ValueArray | undefined;
  readonly residual: ValueArray | undefined;
  readonly residualDtype: ResultDType;
  /** Whether x lies as the result does, so that one can take the place of the other. */
  readonly liesAlike: boolean;
  /** A result in the class that the caller expects. */
  readonly delivered: (result: ValueArray) => ValueArray;
}

/** The dtype of an array by its class; of bits, if one is known. */
function dtypeOfOut(type: string | undefined, half: HalfDType | undefined): ResultDType | undefined {
  switch (type) {
    case 'Float32Array':
      return 'float32';
    case 'Float16Array':
      return 'float16';
    case 'Uint16Array':
      return half;
    default:
      return integerNamed(type);
  }
}

/** The first of 16 bits. */
function halfOf(...dtypes: readonly (AnyDType | undefined)[]): HalfDType | undefined {
  for (let i = 0; i < dtypes.length; i++) {
    const dtype = dtypes[i];
    if (dtype !== undefined && isHalf(dtype)) return dtype;
  }
  return undefined;
}

/** Whether a run needs more than the pass of its dtype, which writes what it reads. */
export function isStored(input: ReadView, axis: number, { out, outAxis, dtype }: GivenStored): boolean {
  return (
    isInteger(input.dtype) ||
    input.strides !== undefined ||
    (dtype !== undefined && dtype !== input.dtype) ||
    (outAxis !== undefined && outAxis !== axis && !isSameAxis(outAxis, axis, input.shape.length)) ||
    (out !== undefined && input.dtype !== 'float64' && isOfAnother(out, input.dtype))
  );
}

function isSameAxis(a: unknown, b: number, rank: number): boolean {
  return typeof a === 'number' && (a < 0 ? a + rank : a) === (b < 0 ? b + rank : b);
}

/** Whether an array is a result of another dtype. */
function isOfAnother(out: unknown, dtype: ResultDType): boolean {
  const found = dtypeOfOut(typedArrayType(out), halfOf(dtype) ?? 'bfloat16');
  return found !== undefined && found !== dtype;
}

/**
 * Reads what {@link isStored}, and checks all of it.
 *
 * @param layerDtype what Uint16Arrays hold where nothing nearer says so.
 */
export function readStored(
  input: ReadView,
  given: GivenStored,
  axis: number,
  channels: number | undefined,
  layerDtype: DType | undefined,
): StoredCall {
  const { dtype } = input;
  if (dtype === 'float64') throw float64Error(input, given);
  const geometry = geometryOf(input, axis, channels);
  const rank = input.shape.length;
  const from = axis < 0 ? axis + rank : axis;
  const to = given.outAxis === undefined ? from : outAxisOf(given.outAxis, input);
  const view = viewOfInput(input, from, to);
  const shape = movedShape(input.shape, from, to);
  const wanted = given.dtype === undefined ? undefined : checkOneOf('dtype', given.dtype, storedNames);
  const outDtype = resultDtype(dtype, given.out, wanted, layerDtype);
  const residual =
    given.residual === undefined ? undefined : readAdded(given.residual, shape, dtype, outDtype);
  // A view of strides has been checked where they were read.
  if (input.strides === undefined) checkLength(input);
  if (residual !== undefined) checkLength(residual);
  const out = given.out === undefined ? undefined : checkResult(given.out, outDtype, shape, input.size);
  const liesAlike =
    from === to && input.strides === undefined && dtypes[dtype].bytes === dtypes[outDtype].bytes;
  if (out !== undefined) {
    if (liesAlike) isInPlace(out, 'x.data', input.data);
    else checkApart('out', out, { 'x.data': input.data });
    if (residual !== undefined) checkApart('out', out, { 'residual.data': residual.data });
  }
  const isHalves = input.isHalves && outDtype === 'float16';
  const givenOut = given.out as ValueArray | undefined;
  let inner = 1;
  for (let i = to + 1; i < rank; i++) inner *= shape[i];
  return {
    input,
    dtype,
    view,
    shape,
    channels: geometry.channels,
    inner,
    outDtype,
    out,
    givenOut,
    residual: residual?.data,
    residualDtype: residual === undefined ? 'float32' : (residual.dtype as ResultDType),
    liesAlike,
    delivered: (result) => givenOut ?? (isHalves ? halvesOf(result as TensorArray) : result),
  };
}

/** float64 is computed in itself, and written as it lies. */
function float64Error({ name, strides, shape }: ReadView, { outAxis, dtype }: GivenStored): Error {
  if (strides !== undefined)
    return rangeError(
      `${name}.strides`,
      `be those of rows one after the other for shape ${describeShape(shape)} of float64 (copy the values into such an array)`,
      `[${strides.join(', ')}]`,
    );
  if (dtype !== undefined) return typeError('dtype', "be 'float64', as x is", dtype);
  return typeError('outAxis', 'be the channel axis where x is of float64', outAxis);
}

function outAxisOf(outAxis: unknown, { name, shape }: ReadView): number {
  const rank = shape.length;
  const axis = checkAxis(outAxis, 'outAxis');
  const index = axis < 0 ? axis + rank : axis;
  if (index < 0 || index >= rank)
    throw rangeError(
      'outAxis',
      `be an integer from ${-rank} to ${rank - 1} (${name} has ${rank} ${rank === 1 ? 'dimension' : 'dimensions'})`,
      String(axis),
    );
  return index;
}

function viewOfInput({ shape, strides, offset }: ReadView, from: number, to: number): Float64Array {
  const rank = shape.length;
  const view = newArray<Float64Array>('float64', 3 + 2 * rank);
  view[0] = from;
  view[1] = to;
  view[2] = offset;
  let next = 1;
  for (let i = rank - 1; i >= 0; i--) {
    view[3 + i] = shape[i];
    view[3 + rank + i] = strides === undefined ? next : strides[i];
    next *= shape[i];
  }
  return view;
}

/** The shape when the axis has been taken from one place and put to the other. */
function movedShape(shape: readonly number[], from: number, to: number): readonly number[] {
  if (from === to) return shape;
  const moved = newShape(shape.length);
  for (let i = 0, other = 0; i < shape.length; i++) {
    if (i === to) {
      moved[i] = shape[from];
      continue;
    }
    if (other === from) other++;
    moved[i] = shape[other++];
  }
  return moved;
}

/** What the result is: what its array is, what `dtype` says, or what x is; float32 of integers. */
function resultDtype(
  dtype: ResultDType,
  out: unknown,
  wanted: ResultDType | undefined,
  layerDtype: DType | undefined,
): ResultDType {
  if (out === undefined) return wanted ?? (isInteger(dtype) ? 'float32' : dtype);
  const type = typedArrayType(out);
  const found = dtypeOfOut(type, halfOf(wanted, layerDtype, dtype));
  if (found === undefined && type === 'Uint16Array')
    throw typeError('dtype', "be 'bfloat16' or 'float16' where out is a Uint16Array", wanted);
  if (found === undefined || (wanted !== undefined && found !== wanted)) throw outError(out, wanted);
  return found;
}

function outError(out: unknown, wanted: ResultDType | undefined): Error {
  const rule =
    wanted === undefined
      ? 'be a Float32Array, Uint16Array, Uint8Array, Int8Array or Int16Array'
      : `be ${dtypes[wanted].arrayName.startsWith('I') ? 'an' : 'a'} ${dtypes[wanted].arrayName}, as dtype says`;
  return typeError('out', rule, out);
}

/**
 * A residual of x's dtype, of the result's, or of float32, in the shape of the result. Bits do not say which of two they would be.
 */
function readAdded(
  value: unknown,
  shape: readonly number[],
  dtype: ResultDType,
  outDtype: ResultDType,
): ReadView {
  const residual = readView('residual', value, undefined, halfOf(dtype, outDtype));
  if (isHalf(residual.dtype) && !residual.isHalves && isHalf(dtype) && isHalf(outDtype) && dtype !== outDtype)
    throw typeError(
      'residual.data',
      `be a Float32Array, as decode() makes one, where x is of ${dtype} and the result of ${outDtype}`,
      residual.data,
    );
  if (residual.strides !== undefined)
    throw rangeError(
      'residual.strides',
      'be those of rows one after the other',
      `[${residual.strides.join(', ')}]`,
    );
  if (residual.dtype !== dtype && residual.dtype !== outDtype && residual.dtype !== 'float32')
    throw typeError(
      'residual.data',
      `be of ${dtype}, as x is, of ${outDtype}, as the result is, or a Float32Array`,
      residual.data,
    );
  checkSameShape(residual, 'the result', shape);
  return residual;
}

function checkResult(out: unknown, dtype: ResultDType, shape: readonly number[], size: number): ValueArray {
  const array = out as ValueArray;
  const length = lengthOf(array);
  if (length !== size) throw rangeError('out', `have ${size} values (${shape.join(' x ')})`, String(length));
  if (isInteger(dtype)) return valuesOf(array as IntegerArray, dtype);
  return typedArrayType(out) === 'Float16Array' ? bitsOf(array) : array;
}

/** @throws RangeError where a NaN is in x. */
export function checkNoneMissingStored(call: StoredCall): void {
  const { input, view, dtype, inner, channels } = call;
  if (isInteger(dtype)) return;
  // Of few values that are repeated a result can be larger than any memory, which is found out before all are looked at.
  if (call.out === undefined && input.size > lengthOf(input.data)) newResult(call.outDtype, input.size);
  const place = backend.findMissingStored(view, storageOf(dtype), input.data);
  if (place === input.size) return;
  const channel = ((place - (place % inner)) / inner) % channels;
  throw rangeError(
    'x',
    "have no NaN with missing: 'throw'",
    `one at ${place} of the result, in channel ${channel}`,
    'MISSING_VALUE',
  );
}

/** The pass, from and to these arrays. */
export function storedPass(
  call: StoredCall,
  memory: ArrayBuffer,
  { data: x, view }: Span,
  y: ValueArray,
  residual: ValueArray | undefined,
  bias: Float32Array | undefined,
): StoredPass {
  return {
    view,
    memory,
    xStorage: storageOf(call.dtype),
    x,
    yStorage: storageOf(call.outDtype),
    y,
    bias,
    residualStorage: storageOf(call.residualDtype),
    residual,
  };
}

/** What missing values become, one value per channel. */
export function imputedBias(bias: FloatArray | undefined, channels: number): Float32Array {
  return bias === undefined
    ? newArray<Float32Array>('float32', channels)
    : toDtype<Float32Array>(bias, 'float32');
}

/** Memory in which x lies, and how it does. */
export interface Span {
  readonly data: ValueArray;
  readonly view: Float64Array;
}

/** That of x as it was given. */
export function wholeOf({ input: { data }, view }: StoredCall): Span {
  return { data, view };
}

/** No more than is read of it. */
export function spanOf(call: StoredCall): Span {
  const { input, view } = call;
  if (input.strides === undefined) return { data: input.data, view };
  checkKept(`${input.name}.data`, input.data, input.length);
  const rank = input.shape.length;
  let least = input.offset;
  let most = input.offset;
  for (let i = 0; i < rank; i++) {
    const reach = (input.shape[i] - 1) * input.strides[i];
    if (reach < 0) least += reach;
    else most += reach;
  }
  const moved = newArray<Float64Array>('float64', lengthOf(view));
  for (let i = 0; i < lengthOf(view); i++) moved[i] = view[i];
  moved[2] = input.offset - least;
  return { data: partOf(input.data, call.dtype, least, most - least + 1), view: moved };
}
