// ONNX models (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), of which only graphs, the nodes that matter and their
// parameters are read. A BatchNormalization node has had the same inputs and epsilon in every opset.
import { realpathSync } from 'node:fs';
import { dirname, isAbsolute, join } from 'node:path';
import type { StateDict } from '../state.js';
import { abridged, abridgedName } from './abridged.js';
import {
  mostChannels,
  type Parameter,
  type Parameters,
  readState,
  type StoredBatchNorm,
  ValueBudget,
} from './entries.js';
import { invalidFile, tooLarge, unsupportedFile } from './failures.js';
import { mostDepth } from './json.js';
import { loadProtobuf } from './peers.js';
import { type Field, Messages, type Range, wires } from './protobuf.js';
import { isOutside, openSource, type Source } from './source.js';
import { type StoredValues, valuesIn } from './tensors.js';
import { readValues } from './values.js';

/** TensorProto.DataType by the names of values.ts. */
const dtypes = new Map<number, 'F32' | 'F64' | 'F16' | 'BF16'>([
  [1, 'F32'],
  [10, 'F16'],
  [11, 'F64'],
  [16, 'BF16'],
]);
const bytesOf = { F32: 4, F64: 8, F16: 2, BF16: 2 } as const;

const external = 1;
const mostRank = 64;

interface Attribute {
  single?: number;
  integer?: number;
  tensor?: Range;
  /** The attribute itself, for what is repeated in it. */
  whole: Range;
}

interface Node {
  name: string;
  operator: string;
  inputs: string[];
  output: string;
  attributes: Map<string, Attribute>;
}

/** A graph: where its names lead to. A name that it does not have is one of the graph around it. */
interface Scope {
  readonly outer?: Scope;
  readonly initializers: Map<string, Range>;
  /** Nodes whose result may be a parameter, by its name. */
  readonly makers: Map<string, Node>;
  readonly norms: Node[];
  /** With the names of the node and the attribute that they are in. */
  readonly graphs: { readonly range: Range; readonly owner: Node; readonly attribute: string }[];
  /** The names of the nodes and attributes around, each with a / behind it. */
  readonly path: string;
}

const wantedAttributes = new Set(['epsilon', 'spatial', 'value', 'value_float', 'value_floats']);
/** X, scale, B, mean, var. */
const parts: readonly (keyof StateDict)[] = ['weight', 'bias', 'running_mean', 'running_var'];

/** The batch norms of a model. */
export async function readOnnx(source: Source): Promise<Map<string, StoredBatchNorm>> {
  return new OnnxModel(source, new Messages(source, await loadProtobuf())).read();
}

class OnnxModel {
  readonly #source: Source;
  readonly #messages: Messages;
  readonly #layers = new Map<string, StoredBatchNorm>();
  /** By where they begin, so that nodes that share a parameter share its values, and it is gone through once. */
  readonly #parameters = new Map<number, Parameter>();
  readonly #budget = new ValueBudget();

  constructor(source: Source, messages: Messages) {
    this.#source = source;
    this.#messages = messages;
  }

  read(): Map<string, StoredBatchNorm> {
    let graph: Range | undefined;
    this.#messages.fields(this.#messages.all, (field) => {
      if (field.number === 7) graph = this.#messages.message(field);
    });
    if (graph === undefined) throw invalidFile('file', 'have a graph', 'none');
    this.#readGraph(graph, undefined, 0, '');
    return this.#layers;
  }

  #readGraph(range: Range, outer: Scope | undefined, depth: number, path: string): void {
    if (depth > mostDepth)
      throw tooLarge('graphs', `lie at most ${mostDepth} deep in each other`, 'deeper ones');
    const scope: Scope = { outer, initializers: new Map(), makers: new Map(), norms: [], graphs: [], path };
    this.#messages.fields(range, (field) => {
      if (field.number === 1) this.#readNode(this.#messages.message(field), scope);
      else if (field.number === 5) {
        const tensor = this.#messages.message(field);
        scope.initializers.set(this.#nameOf(tensor), tensor);
      }
    });
    for (const node of scope.norms) this.#readNorm(node, scope);
    for (const { range, owner, attribute } of scope.graphs)
      this.#readGraph(range, scope, depth + 1, `${path}${owner.name || owner.output}/${attribute}/`);
  }

  #nameOf(tensor: Range): string {
    let name = '';
    this.#messages.fields(tensor, (field) => {
      if (field.number === 8) name = this.#messages.text(field);
    });
    return name;
  }

  #readNode(range: Range, scope: Scope): void {
    const messages = this.#messages;
    const node: Node = { name: '', operator: '', inputs: [], output: '', attributes: new Map() };
    let domain = '';
    let outputs = 0;
    messages.fields(range, (field) => {
      if (field.number === 1) {
        // No node that matters has more, and others may have many.
        if (node.inputs.length < 5) node.inputs.push(messages.text(field));
      } else if (field.number === 2) {
        if (outputs++ === 0) node.output = messages.text(field);
      } else if (field.number === 3) node.name = messages.text(field);
      else if (field.number === 4) node.operator = messages.text(field);
      else if (field.number === 5) this.#readAttribute(messages.message(field), node, scope);
      else if (field.number === 7) domain = messages.text(field);
    });
    if (domain !== '' && domain !== 'ai.onnx') return;
    if (node.operator === 'BatchNormalization') scope.norms.push(node);
    else if (node.operator === 'Constant' || node.operator === 'Identity')
      scope.makers.set(node.output, node);
  }

  #readAttribute(range: Range, node: Node, scope: Scope): void {
    const attribute: Attribute = { whole: range };
    const graphs: Range[] = [];
    let name = '';
    this.#messages.fields(range, (field) => {
      if (field.number === 1) name = this.#messages.text(field);
      else if (field.number === 2) attribute.single = this.#messages.single(field);
      else if (field.number === 3) attribute.integer = this.#messages.integer(field);
      else if (field.number === 5) attribute.tensor = this.#messages.message(field);
      else if (field.number === 6 || field.number === 11) graphs.push(this.#messages.message(field));
    });
    for (const graph of graphs) scope.graphs.push({ range: graph, owner: node, attribute: name });
    if (wantedAttributes.has(name)) node.attributes.set(name, attribute);
  }

  #readNorm(node: Node, scope: Scope): void {
    // Names of nodes and results are those of a graph: in another there may be the same.
    const { path } = scope;
    const keys = [node.name, node.output, `${path}${node.name}`, `${path}${node.output}`];
    const key = keys.find((one) => one !== '' && one !== path && !this.#layers.has(one));
    if (key === undefined)
      throw invalidFile('a BatchNormalization', 'have a name of its own', abridgedName(node.output));
    const name = abridgedName(key);
    if (node.inputs.length !== 5)
      throw invalidFile(`${name}.input`, 'be X, scale, B, mean and var', `${node.inputs.length} names`);
    if (node.attributes.get('spatial')?.integer === 0)
      throw unsupportedFile(`${name}.spatial`, 'be 1 (statistics per channel)', '0');
    const eps = node.attributes.get('epsilon')?.single ?? 1e-5;
    if (!(eps >= 0 && eps < Infinity))
      throw invalidFile(`${name}.epsilon`, 'be at least 0 and finite', `${eps}`);
    const parameters: Parameters = new Map();
    for (const [i, part] of parts.entries())
      parameters.set(part, this.#parameter(`${name}.${part}`, node.inputs[i + 1], scope));
    this.#layers.set(key, { state: readState(key, parameters), eps, convention: 'onnx', axis: 1 });
  }

  /** What a name stands for: an initializer or a Constant, here or around, maybe handed on. */
  #parameter(what: string, first: string, around: Scope): Parameter {
    let scope: Scope | undefined = around;
    let name = first;
    for (let steps = 0; scope !== undefined; ) {
      const node = scope.makers.get(name);
      const initializer = scope.initializers.get(name);
      if (initializer !== undefined) return this.#tensor(what, initializer);
      if (node === undefined) scope = scope.outer;
      else if (node.operator === 'Constant') return this.#constant(what, node);
      else {
        if (++steps > mostDepth)
          throw invalidFile(what, 'lead to an initializer', `more than ${mostDepth} Identity nodes in a row`);
        name = node.inputs[0] ?? '';
      }
    }
    throw unsupportedFile(
      what,
      'be an initializer or a Constant',
      `${abridged(name)}, an input of the model or the result of another node`,
    );
  }

  #constant(what: string, { attributes }: Node): Parameter {
    const tensor = attributes.get('value')?.tensor;
    if (tensor !== undefined) return this.#tensor(what, tensor);
    const floats = attributes.get('value_floats');
    if (floats === undefined)
      throw unsupportedFile(what, 'be a Constant with value or value_floats', 'another attribute');
    const { whole } = floats;
    return this.#once(whole, () => {
      let bytes = 0;
      this.#messages.fields(whole, (field) => {
        if (field.number === 7) bytes += field.end - field.begin;
      });
      const count = bytes / bytesOf.F32;
      if (!Number.isInteger(count)) throw invalidFile(what, 'have whole float32 values', `${bytes} bytes`);
      return this.#kept(what, [count], 'F32', () => this.#listed(what, whole, 7, 'F32', count));
    });
  }

  #tensor(what: string, range: Range): Parameter {
    return this.#once(range, () => this.#parsed(what, range));
  }

  #once({ begin }: Range, parse: () => Parameter): Parameter {
    const parameter = this.#parameters.get(begin) ?? parse();
    this.#parameters.set(begin, parameter);
    return parameter;
  }

  #parsed(what: string, range: Range): Parameter {
    const messages = this.#messages;
    const shape: number[] = [];
    const stored = new Map<string, string>();
    let type = 0;
    let isExternal = false;
    let raw: Range | undefined;
    const tooMany = () => {
      throw invalidFile(`${what}.dims`, `be at most ${mostRank}`, 'more');
    };
    messages.fields(range, (field) => {
      if (field.number === 1)
        messages.integers(field, mostRank, tooMany, (dimension) => {
          if (!Number.isSafeInteger(dimension) || dimension < 0)
            throw invalidFile(`${what}.dims`, 'be non-negative integers', `${dimension}`);
          if (shape.length === mostRank) tooMany();
          shape.push(dimension);
        });
      else if (field.number === 2) type = messages.integer(field);
      else if (field.number === 9) raw = messages.message(field);
      else if (field.number === 13) this.#readEntry(messages.message(field), stored);
      else if (field.number === 14) isExternal = messages.integer(field) === external;
    });
    const dtype = dtypes.get(type);
    if (dtype === undefined)
      throw unsupportedFile(`${what}.data_type`, 'be FLOAT, DOUBLE, FLOAT16 or BFLOAT16', `${type}`);
    const count = valuesIn(shape);
    if (count === undefined || count > mostChannels)
      throw tooLarge(what, `have at most ${mostChannels} values`, `shape ${abridged(shape)}`);
    const bytes = count * bytesOf[dtype];
    return this.#kept(what, shape, dtype, () => {
      if (isExternal) return readValues(dtype, this.#readExternal(what, stored, bytes));
      if (raw === undefined) {
        const number = dtype === 'F32' ? 4 : dtype === 'F64' ? 10 : 5;
        return this.#listed(what, range, number, dtype, count);
      }
      if (raw.end - raw.begin !== bytes)
        throw invalidFile(
          `${what}.raw_data`,
          `have ${bytes} bytes (shape ${abridged(shape)})`,
          `${raw.end - raw.begin}`,
        );
      return readValues(dtype, messages.read(raw));
    });
  }

  #kept(
    what: string,
    shape: readonly number[],
    dtype: keyof typeof bytesOf,
    read: () => StoredValues,
  ): Parameter {
    let values: StoredValues | undefined;
    return {
      shape,
      read: () => {
        if (values === undefined) {
          this.#budget.take(what, shape, dtype === 'F64' ? bytesOf.F64 : bytesOf.F32);
          values = read();
        }
        return values;
      },
    };
  }

  /** Values that stand in a repeated field of a message, in a row or one by one. */
  #listed(what: string, range: Range, number: number, dtype: 'F32' | 'F64' | 'F16' | 'BF16', count: number) {
    const bytes = new Uint8Array(count * bytesOf[dtype]);
    const view = new DataView(bytes.buffer);
    let at = 0;
    const tooMany = () => {
      throw invalidFile(what, `have ${count} values`, 'more');
    };
    const checkRoom = (more: number) => {
      if (at + more > bytes.length) tooMany();
    };
    const wire = dtype === 'F64' ? wires.double : wires.single;
    const append = (field: Field) => {
      if (dtype === 'F16' || dtype === 'BF16')
        return this.#messages.integers(field, count, tooMany, (bits) => {
          checkRoom(2);
          view.setUint16(at, bits, true);
          at += 2;
        });
      if (field.wire !== wires.bytes && field.wire !== wire)
        throw invalidFile(what, 'be floating-point numbers', `wire type ${field.wire}`);
      checkRoom(field.end - field.begin);
      bytes.set(this.#messages.read(field), at);
      at += field.end - field.begin;
    };
    this.#messages.fields(range, (field) => {
      if (field.number === number) append(field);
    });
    if (at !== bytes.length) throw invalidFile(what, `have ${count} values`, `${at / bytesOf[dtype]}`);
    return readValues(dtype, bytes);
  }

  #readEntry(range: Range, entries: Map<string, string>): void {
    let key = '';
    let value = '';
    this.#messages.fields(range, (field) => {
      if (field.number === 1) key = this.#messages.text(field);
      else if (field.number === 2) value = this.#messages.text(field);
    });
    if (key === 'location' || key === 'offset' || key === 'length') entries.set(key, value);
  }

  #readExternal(what: string, stored: ReadonlyMap<string, string>, bytes: number): Uint8Array {
    const location = stored.get('location') ?? '';
    const file = openBeside(this.#source, what, location);
    try {
      const begin = Number(stored.get('offset') ?? 0);
      const length = Number(stored.get('length') ?? bytes);
      if (!Number.isSafeInteger(begin) || begin < 0 || begin + bytes > file.size)
        throw invalidFile(
          `${what}.external_data`,
          `lie in the ${file.size} bytes of ${abridged(location)}`,
          `offset ${begin}`,
        );
      if (length !== bytes) throw invalidFile(`${what}.external_data`, `have ${bytes} bytes`, `${length}`);
      return file.read(begin, begin + bytes);
    } finally {
      file.close();
    }
  }
}

/**
 * Opens a file that another names.
 *
 * @param location must lead to the folder of the other, or into it: a model says nothing of the rest of the disk.
 */
export function openBeside(source: Source, what: string, location: string): Source {
  if (source.path === undefined)
    throw unsupportedFile(
      what,
      'lie in the file itself where bytes are given; give the path instead',
      abridged(location),
    );
  const folder = dirname(source.path);
  if (
    location === '' ||
    location.includes('\0') ||
    isAbsolute(location) ||
    isOutside(folder, join(folder, location))
  )
    throw invalidFile(what, 'name a file in the folder of the model', abridged(location));
  let path: string;
  try {
    path = realpathSync(join(folder, location));
  } catch (error) {
    throw invalidFile(what, 'be beside the model', `no ${abridged(location)}`, error);
  }
  if (isOutside(realpathSync(folder), path))
    throw invalidFile(what, 'name a file in the folder of the model', abridged(location));
  return openSource(path);
}
