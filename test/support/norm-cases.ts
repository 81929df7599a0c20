// What the tests of group, instance, layer and RMS norm are tables of: the norms by their names, shapes, and data for them.
import {
  type DType,
  GroupNorm,
  groupNorm,
  groupNormBackward,
  InstanceNorm,
  instanceNorm,
  instanceNormBackward,
  LayerNorm,
  layerNorm,
  layerNormBackward,
  RMSNorm,
  rmsNorm,
  rmsNormBackward,
  type TensorArray,
} from '../../lib/index.js';
import { decodeAll, encodeAll, type Half, halves } from './half.js';
import { type Norm, type NormKind, type NormPass, placesOf, productOf } from './norm-reference.js';
import type { Random } from './random.js';
import { type FloatDType, typed } from './tensors.js';

// biome-ignore lint/suspicious/noExplicitAny: the functions and layers of four norms, whose arguments differ
type Any = any;

export interface Values {
  data: TensorArray;
  shape: readonly number[];
}

export interface NormResult {
  y: Values;
  mean?: Float64Array;
  variance?: Float64Array;
}

export interface NormGradients {
  dx: Values;
  dWeight?: TensorArray;
  dBias?: TensorArray;
  dResidual?: Values;
}

export const normKinds: readonly NormKind[] = ['group', 'instance', 'layer', 'rms'];
export const allDtypes: readonly DType[] = ['float32', 'float64', ...halves];

const functions: Record<NormKind, { forward: Any; backward: Any }> = {
  group: { forward: groupNorm, backward: groupNormBackward },
  instance: { forward: instanceNorm, backward: instanceNormBackward },
  layer: { forward: layerNorm, backward: layerNormBackward },
  rms: { forward: rmsNorm, backward: rmsNormBackward },
};

/** What of a norm its functions are told. */
export function optionsOf({ kind, shape, axis, groups, dimensions = 1 }: Norm): object {
  if (kind === 'group') return { axis, groups };
  if (kind === 'instance') return { axis };
  return { shape: shape.slice(shape.length - dimensions) };
}

/** RMS norm has no bias. */
function without<T extends { bias?: unknown }>(kind: NormKind, options: T): T {
  if (kind !== 'rms') return options;
  const { bias: _, ...rest } = options;
  return rest as T;
}

/** groupNorm, instanceNorm, layerNorm or rmsNorm. */
export function normalize(norm: Norm, x: Values, options: Any = {}): NormResult {
  return functions[norm.kind].forward(x, { ...optionsOf(norm), ...without(norm.kind, options) });
}

/** Their gradients. */
export function goBack(norm: Norm, dy: Values, x: Values, options: Any = {}): NormGradients {
  return functions[norm.kind].backward(dy, x, { ...optionsOf(norm), ...without(norm.kind, options) });
}

/** A layer with weight and bias where it can have them, unless the options say otherwise. */
export function layerOf(norm: Norm, options: Any = {}): Any {
  const { kind, shape, axis = 1, groups, dimensions = 1 } = norm;
  const given = without(kind, { weight: true, bias: true, ...options });
  const channels = shape.at(axis);
  const over = shape.slice(shape.length - dimensions);
  if (kind === 'group') return new (GroupNorm as Any)(groups, channels, { axis, ...given });
  if (kind === 'instance') return new (InstanceNorm as Any)(channels, { axis, ...given });
  return kind === 'layer' ? new (LayerNorm as Any)(over, given) : new (RMSNorm as Any)(over, given);
}

export function titleOf({ kind, shape, axis = 1, groups, dimensions = 1 }: Norm): string {
  const where = {
    group: `axis ${axis}, ${groups} groups`,
    instance: `axis ${axis}`,
    layer: `last ${dimensions}`,
    rms: `last ${dimensions}`,
  };
  return `${kind} norm of [${shape.join(', ')}], ${where[kind]}`;
}

const group = (groups: number, axis: number, ...shape: number[]): Norm => ({
  kind: 'group',
  shape,
  axis,
  groups,
});
const instance = (axis: number, ...shape: number[]): Norm => ({ kind: 'instance', shape, axis });
/** The same for both: what RMS norm leaves out is the mean. */
const overLast = (dimensions: number, ...shape: number[]): Norm[] => [
  { kind: 'layer', shape, dimensions },
  { kind: 'rms', shape, dimensions },
];

/** Small enough for derivatives by differences; each layout, with rows of one channel, of some, and of all. */
export const smallNorms: readonly Norm[] = [
  group(2, 1, 2, 4, 3),
  group(1, 1, 3, 2, 2),
  group(3, 1, 2, 3, 2, 2),
  group(2, 1, 3, 6),
  group(2, -1, 2, 3, 4),
  group(1, -1, 2, 2, 2, 3),
  group(2, 2, 2, 2, 4, 3),
  group(2, 0, 4, 3, 2),
  instance(1, 2, 3, 4),
  instance(-1, 2, 5, 3),
  instance(2, 2, 2, 3, 2),
  instance(0, 4, 5),
  ...overLast(1, 4, 5),
  ...overLast(1, 2, 3, 4),
  ...overLast(2, 3, 2, 4),
  ...overLast(2, 3, 4),
];

/** And those that meet paths of their own: tails of vectors, short planes, long rows, many rows, many channels. */
export const allNorms: readonly Norm[] = [
  ...smallNorms,
  group(4, 1, 2, 16, 70),
  group(3, 1, 2, 12, 1100),
  group(32, 1, 3, 64, 7, 7),
  group(5, 1, 40, 35),
  group(16, 1, 2, 16, 33),
  group(1, 1, 2, 5, 4100),
  group(32, -1, 4, 50, 64),
  group(3, -1, 3, 17, 9),
  group(7, -1, 1, 900, 21),
  group(1, -1, 2, 300, 40),
  group(100, -1, 2, 6, 100),
  group(2, 2, 3, 7, 6, 5),
  instance(1, 3, 5, 20),
  instance(1, 2, 17, 1000),
  instance(1, 2, 3, 20_001),
  instance(1, 5, 70, 2, 2),
  instance(-1, 3, 20, 5),
  instance(-1, 2, 7, 6, 16),
  instance(-1, 2, 1000, 17),
  instance(-1, 1, 9, 130),
  instance(2, 3, 4, 6, 5),
  ...overLast(1, 33, 7),
  ...overLast(1, 9, 64),
  ...overLast(1, 70, 16),
  ...overLast(1, 5, 768),
  ...overLast(1, 3, 1003),
  ...overLast(1, 2, 5000),
  ...overLast(1, 1, 20_001),
  ...overLast(1, 300, 17),
  ...overLast(1, 40, 2),
  ...overLast(2, 3, 31, 33),
  ...overLast(3, 2, 3, 8, 8),
  ...overLast(1, 257),
];

/** Every value of an array as a number. */
export function numbersOf(dtype: DType, data: TensorArray): ArrayLike<number> {
  return dtype === 'bfloat16' || dtype === 'float16' ? decodeAll(dtype, data) : data;
}

/** Numbers in the array of a dtype. */
export function arrayOf(dtype: DType, numbers: ArrayLike<number>): TensorArray {
  if (dtype === 'bfloat16' || dtype === 'float16')
    return encodeAll(dtype as Half, Float32Array.from(numbers));
  return typed(dtype, numbers);
}

/** Of parameters and their gradients. */
export function parameterDtype(dtype: DType): FloatDType {
  return dtype === 'float64' ? dtype : 'float32';
}

export interface Drawn {
  readonly x: Values;
  readonly dy: Values;
  readonly residual: Values;
  readonly weight: TensorArray;
  readonly bias: TensorArray;
}

/** Normally distributed, with another mean and spread in every row. */
export function drawFor(random: Random, norm: Norm, dtype: DType): Drawn {
  const { shape } = norm;
  const { row, rows, parameters } = placesOf(norm);
  const means = Array.from({ length: rows }, () => random.normal(0, 2));
  const stds = Array.from({ length: rows }, () => random.uniform(0.25, 3));
  const values = (draw: (index: number) => number) => ({
    data: arrayOf(
      dtype,
      Float64Array.from({ length: productOf(shape) }, (_, i) => draw(i)),
    ),
    shape,
  });
  const perParameter = (mean: number, std: number) =>
    typed(
      parameterDtype(dtype),
      Float64Array.from({ length: parameters }, () => random.normal(mean, std)),
    );
  return {
    x: values((i) => random.normal(means[row[i]], stds[row[i]])),
    dy: values(() => random.normal()),
    residual: values(() => random.normal()),
    weight: perParameter(1, 0.5),
    bias: perParameter(0, 1),
  };
}

/** What stands beside the norm in the same pass. */
export const fusions = [
  { fused: 'alone', activation: undefined, hasResidual: false },
  { fused: 'with ReLU', activation: 'relu', hasResidual: false },
  { fused: 'with a residual', activation: undefined, hasResidual: true },
  { fused: 'with a residual and ReLU', activation: 'relu', hasResidual: true },
] as const;

export type Fusion = (typeof fusions)[number];

/** The options of a fused pass, its parameters among them. */
export function fusedOptions({ activation, hasResidual }: Fusion, drawn: Drawn, dtype: DType): Any {
  const { weight, bias, residual } = drawn;
  return { dtype, weight, bias, activation, ...(hasResidual ? { residual } : {}) };
}

/** The same pass for the textbook. */
export function passOf(norm: Norm, dtype: DType, x: Values, eps: number, options: Any = {}): NormPass {
  const { weight, bias, activation, residual } = without(norm.kind, options);
  return {
    norm,
    eps,
    x: numbersOf(dtype, x.data),
    weight,
    bias,
    residual: residual && numbersOf(dtype, residual.data),
    relu: activation === 'relu',
  };
}
