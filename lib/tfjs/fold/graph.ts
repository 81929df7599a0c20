// Graph models: nodes and constants, as the converter writes them. It folds batch norms itself where it can; what is left stands
// behind something that it did not see through, or was not known to be one.
import type * as tfc from '@tensorflow/tfjs-core';
import { wordedTypeError } from '../../errors.js';
import type { FixedBatchNorm } from '../../folding.js';
import { lengthOf } from '../../typed-array.js';
import type { FloatArray } from '../../types.js';
import { newArray } from '../../validate.js';
import { type FoldedValues, foldedBehind, type Layout, onesOf, outputsOf } from './arithmetic.js';
import type { Left } from './layers.js';
import { attempt, Obstacle } from './obstacle.js';
import { joined, type WeightSpec } from './weight-data.js';

interface Node {
  readonly name: string;
  readonly op: string;
  readonly input?: readonly string[];
  readonly attr?: Readonly<Record<string, Attribute>>;
}

/** An attribute, of which one property is there. */
interface Attribute {
  readonly s?: string;
  readonly b?: boolean;
  readonly f?: number;
  readonly i?: string;
  readonly type?: unknown;
  readonly tensor?: object;
  readonly list?: { readonly s?: readonly string[]; readonly i?: readonly string[] };
}

interface Artifacts {
  readonly modelTopology: { readonly node: readonly Node[] };
  readonly weightSpecs: readonly WeightSpec[];
  readonly weightData?: ArrayBuffer | readonly ArrayBuffer[];
}

/** What is used of a GraphModel. */
export interface GraphModel {
  readonly artifacts: Artifacts;
  readonly weights: Readonly<Record<string, readonly tfc.Tensor[]>>;
  readonly outputNodes: readonly string[];
}

export interface FoldedGraph {
  readonly model: GraphModel;
  readonly folded: number;
  readonly left: Left[];
}

/** Linear nodes, how their kernels lie, and what they are with a bias. */
const linears = new Map<string, { layout: Layout; fused: string }>([
  ['Conv2D', { layout: 'plain', fused: '_FusedConv2D' }],
  ['_FusedConv2D', { layout: 'plain', fused: '_FusedConv2D' }],
  ['DepthwiseConv2dNative', { layout: 'depthwise', fused: 'FusedDepthwiseConv2dNative' }],
  ['FusedDepthwiseConv2dNative', { layout: 'depthwise', fused: 'FusedDepthwiseConv2dNative' }],
  ['MatMul', { layout: 'plain', fused: '_FusedMatMul' }],
  ['_FusedMatMul', { layout: 'plain', fused: '_FusedMatMul' }],
]);

const fusedNorm = /^_?FusedBatchNorm(?:V[23])?$/;
const isSum = ({ op }: Node) => op === 'AddV2' || op === 'Add' || op === 'BiasAdd';

/** Strings of a graph are in base64. */
const biasAdd = 'Qmlhc0FkZA==';
const channelsLast = 'TkhXQw==';

/** What TensorFlow.js computes with where a node says nothing, though the default of TensorFlow's operation is 1e-4. */
const defaultEps = 1e-3;

/** The nodes that become one, and what that one computes. */
interface Match {
  readonly name: string;
  readonly linear: Node;
  /** Between the two, and to stay there: takes a dimension away that is 1. */
  readonly squeeze: Node | undefined;
  /** Between the two, or part of the batch norm. */
  readonly gone: readonly Node[];
  readonly shape: readonly number[];
  readonly folded: FoldedValues;
}

/** A graph model without the batch norms that can be folded. */
export function foldGraph(model: GraphModel): FoldedGraph {
  const { artifacts } = model;
  if (artifacts.weightData === undefined)
    throw wordedTypeError(
      'model',
      'have its weights in memory',
      'streamed ones; load it without streamWeights',
    );
  const graph = new Graph(model);
  let folded = 0;
  // What one fold does may let another be done.
  for (let isDone = false; !isDone; ) {
    isDone = true;
    for (const node of graph.nodes()) {
      const match = graph.isThere(node) && attempt(() => matchOf(graph, node));
      if (!match || match instanceof Obstacle) continue;
      graph.replace(match);
      folded++;
      isDone = false;
    }
  }
  const left: Left[] = [];
  for (const node of graph.nodes()) {
    const obstacle = fusedNorm.test(node.op) && attempt(() => matchOf(graph, node));
    if (obstacle instanceof Obstacle) left.push({ layer: node.name, reason: obstacle.reason });
  }
  const { constructor: Class } = model as unknown as {
    constructor: new (handler: object) => GraphModel & { load(): unknown };
  };
  const made = new Class({ load: () => graph.artifacts() });
  made.load();
  return { model: made, folded, left };
}

/** @returns undefined where a node is no batch norm. */
function matchOf(graph: Graph, node: Node): Match | undefined {
  if (fusedNorm.test(node.op)) return normOf(graph, node);
  return isSum(node) || node.op === 'Mul' ? affineOf(graph, node) : undefined;
}

function normOf(graph: Graph, node: Node): Match {
  const [x, ...names] = node.input ?? [];
  const [weight, bias, mean, variance] = names.map((name) => graph.values(name));
  if (!weight || !bias || !mean || !variance) throw new Obstacle('its parameters are no constants');
  const format = node.attr?.data_format?.s;
  if (format !== undefined && format !== channelsLast) throw new Obstacle('its channels do not come last');
  if (graph.readersOf(node.name).some(({ output }) => output > 0))
    throw new Obstacle('its statistics are read too');
  const { epsilon } = node.attr ?? {};
  return linearBefore(graph, node, x, [], { weight, bias, mean, variance, eps: epsilon?.f ?? defaultEps });
}

/** What a batch norm is after its statistics have been worked in: a product with constants, a sum with constants, or both. */
function affineOf(graph: Graph, node: Node): Match | undefined {
  if (graph.readersOf(node.name).length === 1 && node.op === 'Mul') {
    // It is looked at from the sum behind it.
    const [{ reader }] = graph.readersOf(node.name);
    if (reader !== undefined && isSum(reader)) return undefined;
  }
  const gone: Node[] = [];
  let product: Node | undefined = node;
  let bias: FloatArray | undefined;
  let most = 0;
  if (isSum(node)) {
    const sum = graph.withConstant(node);
    product = sum && graph.only(sum.x);
    if (sum === undefined || product?.op !== 'Mul') return undefined;
    bias = sum.values;
    most = sum.rank;
    gone.push(product);
  }
  const parts = graph.withConstant(product);
  if (parts === undefined) return undefined;
  const { x, values: weight, rank } = parts;
  const channels = lengthOf(weight);
  if (bias !== undefined && lengthOf(bias) !== channels) return undefined;
  const mean = newArray<Float64Array>('float64', channels);
  const bn = { weight, bias, mean, variance: onesOf('float64', channels), eps: 0 };
  return linearBefore(graph, node, x, gone, bn, Math.max(most, rank));
}

/** @param rank of the constants, which may be no more than that of what they are added to. */
function linearBefore(
  graph: Graph,
  node: Node,
  x: string,
  between: readonly Node[],
  bn: FixedBatchNorm,
  rank = 1,
): Match {
  const gone = [...between];
  let most = rank;
  let bias: string | undefined;
  const addedBy = (node: Node): Node => {
    const added = bias === undefined && isSum(node) ? graph.withConstant(node) : undefined;
    if (added === undefined) return node;
    gone.push(node);
    bias = added.name;
    most = Math.max(most, added.rank);
    return onlyBefore(graph, added.x);
  };
  let linear = addedBy(onlyBefore(graph, x));
  let squeeze: Node | undefined;
  // Convolutions over one dimension are made of those over two.
  if (linear.op === 'Squeeze') {
    squeeze = linear;
    linear = addedBy(onlyBefore(graph, linear.input?.[0] ?? ''));
  }
  const known = linears.get(linear.op);
  if (known === undefined) throw new Obstacle(`${linear.op} (${linear.name}) stands before it`);
  const { attr = {}, input = [] } = linear;
  const format = attr.data_format?.s;
  if (format !== undefined && format !== channelsLast)
    throw new Obstacle(`the channels of ${linear.name} before it do not come last`);
  if (attr.transpose_b?.b === true) throw new Obstacle(`${linear.name} before it has its kernel transposed`);
  const fusedOps = attr.fused_ops?.list?.s ?? [];
  if (fusedOps.length > 1 || (fusedOps.length === 1 && (fusedOps[0] !== biasAdd || bias !== undefined)))
    throw new Obstacle(`${linear.name} before it has an activation`);
  if (fusedOps.length === 1) bias = input[2];
  const [, kernel] = input;
  const shape = graph.shape(kernel);
  const values = graph.values(kernel);
  const biasValues = bias === undefined ? undefined : graph.values(bias);
  if (values === undefined || shape === undefined || (bias !== undefined && biasValues === undefined))
    throw new Obstacle(`the kernel of ${linear.name} before it is no constant`);
  const outputs = outputsOf(known.layout, [shape]);
  const taken = squeeze === undefined ? 0 : takenBy(squeeze, shape.length);
  if (lengthOf(bn.mean) !== outputs || most > shape.length - taken)
    throw new Obstacle(`its values are not one for each channel of ${linear.name} before it`);
  if (biasValues !== undefined && lengthOf(biasValues) !== outputs)
    throw new Obstacle(`the bias before it is not one for each channel of ${linear.name}`);
  const layer = { kernels: [values], shapes: [shape], bias: biasValues };
  return { name: node.name, linear, squeeze, gone, shape, folded: foldedBehind(known.layout, layer, bn) };
}

function onlyBefore(graph: Graph, x: string): Node {
  const node = graph.only(x);
  if (node === undefined) throw new Obstacle(`what stands before it (${x}) is read elsewhere too`);
  return node;
}

/** How many dimensions a node takes away, the channels not among them. */
function takenBy({ name, attr }: Node, rank: number): number {
  const axes = ((attr?.axis ?? attr?.squeeze_dims)?.list?.i ?? []).map(Number);
  if (axes.length === 0 || axes.some((axis) => axis === -1 || axis === rank - 1))
    throw new Obstacle(`${name} before it may take the channels away`);
  return axes.length;
}

/** The nodes and constants of a model, which are changed. */
class Graph {
  readonly #artifacts: Artifacts;
  readonly #outputs: ReadonlySet<string>;
  readonly #nodes: Map<string, Node>;
  readonly #constants = new Map<string, { values: FloatArray; shape: readonly number[] }>();
  readonly #added = new Set<string>();
  #readers: Map<string, { reader: Node | undefined; output: number }[]> | undefined;

  constructor({ artifacts, weights, outputNodes }: GraphModel) {
    this.#artifacts = artifacts;
    this.#outputs = new Set(outputNodes.map((name) => nodeName(name)));
    this.#nodes = new Map(artifacts.modelTopology.node.map((node) => [node.name, node]));
    for (const { name, dtype } of artifacts.weightSpecs) {
      const tensor = weights[name]?.[0];
      if (tensor !== undefined && dtype === 'float32')
        this.#constants.set(name, { values: tensor.dataSync() as FloatArray, shape: tensor.shape });
    }
  }

  nodes(): Node[] {
    return [...this.#nodes.values()];
  }

  isThere({ name }: Node): boolean {
    return this.#nodes.has(name);
  }

  values(input: string): FloatArray | undefined {
    return this.#constants.get(nodeName(input))?.values;
  }

  shape(input: string): readonly number[] | undefined {
    return this.#constants.get(nodeName(input))?.shape;
  }

  /** Who reads a node: undefined for who calls the model. */
  readersOf(name: string): { reader: Node | undefined; output: number }[] {
    if (this.#readers === undefined) {
      const readers = new Map<string, { reader: Node | undefined; output: number }[]>();
      const add = (input: string, reader: Node | undefined) => {
        const key = nodeName(input);
        readers.set(key, [...(readers.get(key) ?? []), { reader, output: Number(input.split(':')[1] ?? 0) }]);
      };
      for (const node of this.#nodes.values()) for (const input of node.input ?? []) add(input, node);
      for (const output of this.#outputs) add(output, undefined);
      this.#readers = readers;
    }
    return this.#readers.get(name) ?? [];
  }

  /** A node whose result is read once. */
  only(input: string): Node | undefined {
    const name = nodeName(input);
    return this.readersOf(name).length === 1 ? this.#nodes.get(name) : undefined;
  }

  /** What a node adds to, or multiplies with, the values of channels that come last. */
  withConstant({
    input = [],
  }: Node): { x: string; name: string; values: FloatArray; rank: number } | undefined {
    for (const [i, name] of input.slice(0, 2).entries()) {
      const constant = this.#constants.get(nodeName(name));
      const x = input[1 - i];
      if (constant === undefined || x === undefined || input.length !== 2) continue;
      const { shape, values } = constant;
      if (shape.length > 0 && shape.slice(0, -1).every((dimension) => dimension === 1))
        return { x, name, values, rank: shape.length };
    }
    return undefined;
  }

  replace({ name, linear, squeeze, gone, shape, folded }: Match): void {
    const { fused } = linears.get(linear.op) as { fused: string };
    const names = [
      this.#add(`${name}/kernel`, folded.kernels[0], shape),
      this.#add(`${name}/bias`, folded.bias, [lengthOf(folded.bias)]),
    ];
    for (const node of [linear, ...gone]) this.#nodes.delete(node.name);
    const attr = { ...linear.attr, fused_ops: { list: { s: [biasAdd] } }, num_args: { i: '1' } };
    const place = squeeze === undefined ? name : linear.name;
    this.#nodes.set(place, {
      name: place,
      op: fused,
      input: [(linear.input as string[])[0], ...names],
      attr,
    });
    if (squeeze !== undefined) {
      this.#nodes.delete(squeeze.name);
      this.#nodes.set(name, { ...squeeze, name, input: [place] });
    }
    this.#readers = undefined;
  }

  #add(wanted: string, values: FloatArray, shape: readonly number[]): string {
    let name = wanted;
    while (this.#nodes.has(name)) name += '_';
    const dim = shape.map((size) => ({ size: String(size) }));
    const tensor = { dtype: 'DT_FLOAT', tensorShape: { dim } };
    this.#nodes.set(name, { name, op: 'Const', attr: { dtype: { type: 'DT_FLOAT' }, value: { tensor } } });
    this.#constants.set(name, { values, shape });
    this.#added.add(name);
    return name;
  }

  /** The model as it is now, without the constants that nobody reads. */
  artifacts(): object {
    this.#readers = undefined;
    const isRead = ({ name }: { name: string }) => this.readersOf(name).length > 0;
    const given = this.#artifacts.modelTopology.node;
    const wasRead = new Set(given.flatMap(({ input = [] }) => input.map(nodeName)));
    const isKept = (node: { name: string }) => !wasRead.has(node.name) || isRead(node);
    const node = this.nodes().filter(
      (one) => one.op !== 'Const' || (this.#added.has(one.name) ? isRead(one) : isKept(one)),
    );
    const added = [...this.#added].filter((name) => isRead({ name }));
    const kept = new Set(this.#artifacts.weightSpecs.filter(isKept).map(({ name }) => name));
    const { weightSpecs, weightData } = joined(
      this.#artifacts.weightSpecs,
      this.#artifacts.weightData as ArrayBuffer | readonly ArrayBuffer[],
      kept,
      added.map((name) => ({
        name,
        ...(this.#constants.get(name) as { values: FloatArray; shape: number[] }),
      })),
    );
    return {
      ...this.#artifacts,
      modelTopology: { ...this.#artifacts.modelTopology, node },
      weightSpecs,
      weightData,
    };
  }
}

/** The node that an input names: of '^a' and 'a:1' it is a. */
function nodeName(input: string): string {
  return input.replace(/^\^/, '').split(':')[0];
}
