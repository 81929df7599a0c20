import type { Norm } from '../cases.js';

/** A field of a protobuf message: a varint, or bytes with their length. */
function field(number: number, value: number | string | Uint8Array): Buffer {
  if (typeof value === 'number') return Buffer.from([...varint(number << 3), ...varint(value)]);
  const bytes = Buffer.from(value as string);
  return Buffer.concat([Buffer.from([...varint((number << 3) | 2), ...varint(bytes.length)]), bytes]);
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...varint(value >>> 7)];
}

function float(number: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([Buffer.from(varint((number << 3) | 5)), bytes]);
}

function message(...fields: Uint8Array[]): Buffer {
  return Buffer.concat(fields);
}

function floatAttribute(name: string, value: number): Buffer {
  return message(field(1, name), float(2, value), field(20, 1));
}

function intAttribute(name: string, value: number): Buffer {
  return message(field(1, name), field(3, value), field(20, 2));
}

function tensorInfo(name: string, elementType: number, shape: readonly number[]): Buffer {
  const dimensions = message(...shape.map((size) => field(1, field(1, size))));
  const type = field(1, message(field(1, elementType), field(2, dimensions)));
  return message(field(1, name), field(2, type));
}

function constant(name: string, values: Float32Array): Buffer {
  const raw = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return message(field(1, values.length), field(2, 1), field(8, name), field(9, raw));
}

const elementTypes = { float32: 1, float64: 11 } as const;

/** The graph of one operator. */
export interface BatchNormModel {
  shape: readonly number[];
  channels: number;
  dtype: 'float32' | 'float64';
  eps: number;
  training: boolean;
  /** Values that lie in the model itself, as a trained network has them; of float32. Default: none, all are inputs. */
  constants?: Readonly<Record<string, Float32Array>>;
}

/** The graph of one operator of rows: inputs x, scale and, but for RMS norm, b, output y. */
export interface NormModel {
  norm: Norm;
  shape: readonly number[];
  channels: number;
  dtype: 'float32' | 'float64';
  eps: number;
}

/** What an operator is called, and an opset that has it. */
const operators = {
  group: { type: 'GroupNormalization', opset: 21 },
  instance: { type: 'InstanceNormalization', opset: 22 },
  layer: { type: 'LayerNormalization', opset: 17 },
  RMS: { type: 'RMSNormalization', opset: 23 },
} as const;

/** An ONNX model of GroupNormalization, InstanceNormalization, LayerNormalization or RMSNormalization. */
export function normModel({ norm: { name, groups }, shape, channels, dtype, eps }: NormModel): Buffer {
  const elementType = elementTypes[dtype];
  const { type, opset } = operators[name];
  const inputs = name === 'RMS' ? ['x', 'scale'] : ['x', 'scale', 'b'];
  const node = message(
    ...inputs.map((input) => field(1, input)),
    field(2, 'y'),
    field(4, type),
    field(5, floatAttribute('epsilon', eps)),
    ...(name === 'group' ? [field(5, intAttribute('num_groups', groups))] : []),
  );
  const graph = message(
    field(1, node),
    field(2, 'norm'),
    ...inputs.map((input) => field(11, tensorInfo(input, elementType, input === 'x' ? shape : [channels]))),
    field(12, tensorInfo('y', elementType, shape)),
  );
  return modelOf(graph, opset);
}

function modelOf(graph: Buffer, opset: number): Buffer {
  return message(field(1, 8), field(7, graph), field(8, message(field(1, ''), field(2, opset))));
}

/**
 * An ONNX model of one BatchNormalization of opset 15: inputs x, scale, b, mean and var, output y. In training also
 * running_mean and running_var, which are those of the batch: with momentum 0 nothing of the old ones is left.
 */
export function onnxModel({ shape, channels, dtype, eps, training, constants = {} }: BatchNormModel): Buffer {
  const elementType = elementTypes[dtype];
  const inputs = ['x', 'scale', 'b', 'mean', 'var'];
  const outputs = training ? ['y', 'running_mean', 'running_var'] : ['y'];
  const info = (name: string) =>
    tensorInfo(name, elementType, name === 'x' || name === 'y' ? shape : [channels]);
  const node = message(
    ...inputs.map((name) => field(1, name)),
    ...outputs.map((name) => field(2, name)),
    field(4, 'BatchNormalization'),
    field(5, floatAttribute('epsilon', eps)),
    field(5, floatAttribute('momentum', 0)),
    field(5, intAttribute('training_mode', training ? 1 : 0)),
  );
  const graph = message(
    field(1, node),
    field(2, 'batchnorm'),
    ...Object.entries(constants).map(([name, values]) => field(5, constant(name, values))),
    ...inputs.filter((name) => !(name in constants)).map((name) => field(11, info(name))),
    ...outputs.map((name) => field(12, info(name))),
  );
  return modelOf(graph, 15);
}
