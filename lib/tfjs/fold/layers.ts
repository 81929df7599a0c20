// Layers models: a graph is read from the configuration of each container, batch norms are taken out of it, and a model is made of
// what is left, as from a file.
import type * as tfc from '@tensorflow/tfjs-core';
import type { FixedBatchNorm } from '../../folding.js';
import { lengthOf } from '../../typed-array.js';
import type { FloatArray } from '../../types.js';
import {
  type Affine,
  affineOf,
  foldedBefore,
  foldedBehind,
  hasShift,
  type Layout,
  onesOf,
} from './arithmetic.js';
import { attempt, Obstacle } from './obstacle.js';

/** What is used of `LayerVariable`. */
interface Variable {
  /** In the order in which variables are made. */
  readonly id: number;
  trainable: boolean;
  readonly shape: readonly number[];
  readonly val: tfc.Variable;
  read(): tfc.Tensor;
}

/** What is used of `Layer` and `Container`; parameters are those of linear layers and batch norms. */
export interface Layer {
  readonly name: string;
  getClassName(): string;
  getConfig(): Config;
  trainable: boolean;
  readonly weights: readonly Variable[];
  readonly trainableWeights: readonly Variable[];
  /** Of a container. */
  readonly layers?: readonly Layer[];
  /** Of a wrapper. */
  readonly layer?: Layer;
  readonly inputSpec?: readonly { readonly ndim?: number }[] | null;
  readonly axis?: number | readonly number[];
  readonly epsilon?: number;
  readonly depthMultiplier?: number;
  readonly [variable: string]: unknown;
}

export interface Model extends Layer {
  getUserDefinedMetadata?(): object | undefined;
  setUserDefinedMetadata?(metadata: object): void;
}

type Config = Record<string, unknown>;

type LayerConfig = { className: string; config: Config; name?: string; inboundNodes?: NodeConfig[] };
type NodeConfig = [layer: string, node: number, tensor: number, kwargs?: Config][];

/** A batch norm that stays. */
export interface Left {
  /** Its name, behind those of the models that it is in. */
  readonly layer: string;
  /** Why. */
  readonly reason: string;
}

/** A result of a layer. */
interface Ref {
  readonly entry: Entry;
  readonly node: number;
  readonly tensor: number;
  readonly kwargs: Config | undefined;
}

/** A layer of a container. */
interface Entry {
  readonly name: string;
  className: string;
  config: Config;
  /** Undefined where it is none of the model's: what stands in the place of a batch norm. */
  layer: Layer | undefined;
  /** The number of its first node: TensorFlow.js counts the making of a container as one. */
  readonly firstNode: number;
  /** The inputs of each call. */
  nodes: Ref[][];
  /** Parameters that folding has changed, by the names of variables. */
  values: Map<string, FloatArray> | undefined;
  readonly inner: Scope | undefined;
}

/** A container. */
interface Scope {
  readonly isSequential: boolean;
  readonly trainable: boolean;
  readonly config: Config;
  entries: Entry[];
  readonly outputs: readonly Ref[];
}

interface Linear {
  readonly layout: Layout;
  /** The names of its kernels' variables. */
  readonly kernels: readonly string[];
}

const plain: Linear = { layout: 'plain', kernels: ['kernel'] };
const transposed: Linear = { layout: 'transposed', kernels: ['kernel'] };

const linears = new Map<string, Linear>([
  ['Dense', plain],
  ['Conv1D', plain],
  ['Conv2D', plain],
  ['Conv3D', plain],
  ['Conv2DTranspose', transposed],
  ['Conv3DTranspose', transposed],
  ['DepthwiseConv2D', { layout: 'depthwise', kernels: ['depthwiseKernel'] }],
  ['SeparableConv2D', { layout: 'separable', kernels: ['depthwiseKernel', 'pointwiseKernel'] }],
]);

/** What inference passes through as it is. */
const passing = new Set(['Dropout', 'SpatialDropout1D', 'GaussianNoise', 'GaussianDropout', 'AlphaDropout']);

const normClass = 'BatchNormalization';

const isNorm = ({ className }: Entry) => className === normClass;
const isPassing = ({ className, config }: Entry) =>
  passing.has(className) || (className === 'Activation' && config.activation === 'linear');

/** What {@link foldLayers} finds. */
export interface FoldedLayers {
  readonly model: Model;
  readonly folded: number;
  readonly left: Left[];
}

/** A layers model without the batch norms that can be folded. */
export function foldLayers(model: Model): FoldedLayers {
  const scope = readScope(model, model.getConfig(), model.getClassName());
  const result = { folded: 0, left: [] as Left[] };
  foldScope(scope, '', result);
  const { constructor: Class } = model as unknown as {
    constructor: { fromConfig(Class: object, config: Config): Model };
  };
  const made = Class.fromConfig(Class, configOf(scope));
  fill(made, scope);
  const metadata = model.getUserDefinedMetadata?.();
  if (metadata) made.setUserDefinedMetadata?.(metadata);
  return { model: made, ...result };
}

// Reading and writing configurations.

function readScope(container: Layer, config: Config, className: string): Scope {
  const isSequential = className === 'Sequential';
  const { trainable } = container;
  const layerConfigs = config.layers as LayerConfig[];
  const layers = container.layers as readonly Layer[];
  const entries = layerConfigs.map((layerConfig, i) => readEntry(layerConfig, layers[i]));
  if (isSequential) {
    const all = entries.map((entry): Ref => ({ entry, node: entry.firstNode, tensor: 0, kwargs: undefined }));
    for (const [i, entry] of entries.entries()) entry.nodes = [i === 0 ? [] : [all[i - 1]]];
    return { isSequential, trainable, config, entries, outputs: all.slice(-1) };
  }
  const byName = new Map(entries.map((entry) => [entry.name, entry]));
  const refOf = ([name, node, tensor, kwargs]: NodeConfig[number]): Ref => ({
    entry: byName.get(name) as Entry,
    node,
    tensor,
    kwargs,
  });
  for (const [i, entry] of entries.entries())
    entry.nodes = (layerConfigs[i].inboundNodes as NodeConfig[]).map((node) => node.map(refOf));
  return {
    isSequential,
    trainable,
    config,
    entries,
    outputs: (config.outputLayers as NodeConfig).map(refOf),
  };
}

function readEntry({ className, config }: LayerConfig, layer: Layer): Entry {
  const entry = { name: layer.name, className, config, layer, nodes: [], values: undefined };
  if (layer.layers !== undefined)
    return { ...entry, firstNode: 1, inner: readScope(layer, config, className) };
  const wrapped = config.layer as LayerConfig | undefined;
  const inner =
    layer.layer?.layers !== undefined && wrapped !== undefined
      ? readScope(layer.layer, wrapped.config, wrapped.className)
      : undefined;
  // TensorFlow.js writes the one's regularizer in the place of its constraint too, and forgets the other's multiplier.
  if (className === 'DepthwiseConv2D')
    Object.assign(config, { depthwiseConstraint: null, depthwiseRegularizer: null });
  if (className === 'SeparableConv2D') config.depthMultiplier = layer.depthMultiplier;
  return { ...entry, firstNode: 0, inner };
}

function configOf({ isSequential, config, entries }: Scope): Config {
  config.layers = entries.map((entry): LayerConfig => {
    const { name, className, nodes, inner } = entry;
    if (inner !== undefined) configOf(inner);
    const layerConfig = { className, config: entry.config };
    if (isSequential) return layerConfig;
    const inboundNodes = nodes.map((node) =>
      node.map((ref): NodeConfig[number] => [ref.entry.name, ref.node, ref.tensor, ref.kwargs ?? {}]),
    );
    return { ...layerConfig, name, inboundNodes };
  });
  return config;
}

/** Gives the layers of a model that was made the parameters of those that it was made of, frozen where they are. */
function fill(made: Layer, { isSequential, trainable, entries }: Scope): void {
  freezeAs(made, trainable);
  const layers = made.layers as readonly Layer[];
  const byName = new Map(layers.map((layer) => [layer.name, layer]));
  for (const [i, entry] of entries.entries()) {
    const { name, layer, values, inner } = entry;
    const copy = (isSequential ? layers[i] : byName.get(name)) as Layer;
    if (inner !== undefined) fill(copy.layers === undefined ? (copy.layer as Layer) : copy, inner);
    else if (layer !== undefined) {
      freezeAs(copy, layer.trainable);
      if (values === undefined) copyVariables(copy, layer);
      else setVariables(copy, layer, values);
    }
  }
}

/** With `install`, setting it on a layer overrules the models around it. */
function freezeAs(layer: Layer, trainable: boolean): void {
  if (layer.trainable !== trainable) layer.trainable = trainable;
}

/** Whether a variable is trained, in which layers within the layer have a say, too. */
function isTrained(layer: Layer, variable: Variable): boolean {
  // What the layer itself forbids is allowed again with it.
  return layer.trainable ? layer.trainableWeights.includes(variable) : variable.trainable;
}

function copyVariables(copy: Layer, layer: Layer): void {
  // Where one is among the weights depends on what is frozen.
  const [from, to] = [layer, copy].map(({ weights }) => [...weights].sort((a, b) => a.id - b.id));
  for (const [i, variable] of from.entries()) {
    // As they are: write() would apply constraints to them once more.
    to[i].val.assign(variable.read());
    to[i].trainable = isTrained(layer, variable);
  }
}

function setVariables(copy: Layer, layer: Layer, values: ReadonlyMap<string, FloatArray>): void {
  // What the layer did not have is frozen where its first is: that of linear layers is the kernel.
  const [first] = [...values.keys()]
    .map((name) => layer[name] as Variable | null | undefined)
    .filter(Boolean);
  for (const [name, data] of values) {
    const variable = copy[name] as Variable;
    const tensor = tensorLike(variable.val, data);
    variable.val.assign(tensor);
    tensor.dispose();
    const like = (layer[name] as Variable | null | undefined) ?? first;
    if (variable.trainable && like) variable.trainable = isTrained(layer, like);
  }
}

/** A tensor, made without the module of TensorFlow.js, of the shape of another. */
function tensorLike(like: tfc.Tensor, data: FloatArray): tfc.Tensor {
  const { constructor: Class, shape, dtype } = like.bufferSync();
  const Buffer = Class as new (shape: number[], dtype: string, values: unknown) => tfc.TensorBuffer<tfc.Rank>;
  return new Buffer(shape, dtype, data).toTensor();
}

// Folding.

function foldScope(scope: Scope, prefix: string, result: { folded: number; left: Left[] }): void {
  const pathOf = ({ name }: Entry) => (prefix === '' ? name : `${prefix}/${name}`);
  for (const entry of scope.entries) {
    if (entry.inner !== undefined) foldScope(entry.inner, pathOf(entry), result);
    else if (entry.layer?.layer?.getClassName() === normClass)
      result.left.push({
        layer: `${pathOf(entry)}/${entry.layer.layer.name}`,
        reason: `it is wrapped in ${entry.className}`,
      });
  }
  // What one fold does may let another be done.
  for (let isDone = false; !isDone; ) {
    const before = result.folded;
    for (const fold of [foldIntoSources, foldIntoConsumers])
      for (const entry of scope.entries.filter(isNorm))
        if (!(attempt(() => fold(scope, entry)) instanceof Obstacle)) result.folded++;
    isDone = result.folded === before;
  }
  for (const entry of scope.entries.filter(isNorm)) {
    const obstacles = [foldIntoSources, foldIntoConsumers].map(
      (fold) => attempt(() => fold(scope, entry)) as Obstacle,
    );
    const reasons = obstacles.map(({ reason }) => reason);
    result.left.push({ layer: pathOf(entry), reason: [...new Set(reasons)].join('; ') });
  }
}

/** Into what stands before it: linear layers, or another batch norm. */
function foldIntoSources(scope: Scope, bn: Entry): void {
  checkCalls(bn);
  const readers = readersOf(scope);
  const sources = bn.nodes.map(([input]) => sourceOf(input, readers));
  const targets = new Set(sources.map(({ entry }) => entry));
  const edits = [...targets].map((target) => {
    if (
      target.nodes.some(
        (_, i) => !sources.some((ref) => ref.entry === target && ref.node === target.firstNode + i),
      )
    )
      throw new Obstacle(`${target.name} before it is used elsewhere too`);
    return behind(target, bn);
  });
  for (const edit of edits) edit();
  remove(scope, bn);
}

/** What a batch norm, or what passes its input on, reads. */
function sourceOf(input: Ref | undefined, readers: Readers): Ref {
  if (input === undefined) throw new Obstacle('it is the first layer of its model');
  const { entry } = input;
  if (readers.of(input) > 1) throw new Obstacle(`${entry.name} before it is read elsewhere too`);
  if (!isPassing(entry) || entry.layer === undefined) return input;
  return sourceOf(entry.nodes[input.node - entry.firstNode][0], readers);
}

function behind(target: Entry, bn: Entry): () => void {
  const axis = axisOf(bn);
  if (isNorm(target)) {
    checkCalls(target);
    if (axisOf(target) !== axis) throw new Obstacle(`${target.name} before it has another axis`);
    const { weight, bias, mean } = fixedOf(target);
    const channels = lengthOf(mean);
    const kernels = [weight ?? onesOf('float32', channels)];
    const values = { kernels, shapes: [[channels, 1]], bias: bias ?? undefined };
    const folded = foldedBehind('depthwise', values, fixedOf(bn));
    return () => {
      target.values = new Map([
        ['gamma', folded.kernels[0]],
        ['beta', folded.bias],
        ['movingMean', valuesOf(target, 'movingMean') as FloatArray],
        ['movingVariance', valuesOf(target, 'movingVariance') as FloatArray],
      ]);
      Object.assign(target.config, {
        scale: true,
        center: true,
        gammaConstraint: null,
        betaConstraint: null,
      });
    };
  }
  const linear = linears.get(target.className);
  if (linear === undefined) throw new Obstacle(`${described(target)} stands before it`);
  const { activation } = target.config;
  if (activation != null && activation !== 'linear')
    throw new Obstacle(`${target.name} before it has the activation ${activation}`);
  checkAxis(axis, rankOf(bn), target, 'before');
  const folded = foldedBehind(linear.layout, linearValues(target, linear), fixedOf(bn));
  return () => setLinear(target, linear, folded);
}

/** Into all that reads it. */
function foldIntoConsumers(scope: Scope, bn: Entry): void {
  checkCalls(bn);
  const readers = readersOf(scope);
  const reached = new Map<Entry, Set<number>>();
  const follow = (entry: Entry, node: number, isFlat: boolean) => {
    const { isOutput, list } = readers.find(entry, node);
    if (isOutput)
      throw new Obstacle(
        entry === bn ? 'it is an output of its model' : `${entry.name} behind it is an output`,
      );
    if (list.length === 0) throw new Obstacle('nothing stands behind it');
    for (const { entry: reader, node: readerNode } of list) {
      const isFlatten = reader.className === 'Flatten' && reader.config.dataFormat !== 'channelsFirst';
      if (isPassing(reader) || (isFlatten && axisOf(bn) === rankOf(bn) - 1))
        follow(reader, readerNode, isFlat || isFlatten);
      else {
        if (!linears.has(reader.className)) throw new Obstacle(`${described(reader)} stands behind it`);
        if (!isFlat) checkAxis(axisOf(bn), rankOf(bn), reader, 'behind');
        reached.set(reader, (reached.get(reader) ?? new Set()).add(readerNode));
      }
    }
  };
  for (const i of bn.nodes.keys()) follow(bn, bn.firstNode + i, false);
  const affine = affineOf(fixedOf(bn));
  const edits = [...reached].map(([target, nodes]) => {
    if (nodes.size < target.nodes.length)
      throw new Obstacle(`${target.name} behind it is used elsewhere too`);
    return before(target, affine);
  });
  for (const edit of edits) edit();
  remove(scope, bn);
}

function before(target: Entry, affine: Affine): () => void {
  const linear = linears.get(target.className) as Linear;
  const { layout } = linear;
  if (hasShift(affine)) {
    const { padding, kernelSize } = target.config as { padding?: string; kernelSize?: number | number[] };
    const isPadded =
      padding !== undefined && padding !== 'valid' && [kernelSize].flat().some((size) => size !== 1);
    if (isPadded) throw new Obstacle(`${target.name} behind it pads with zeros, which it would shift`);
    if (layout === 'transposed')
      throw new Obstacle(`${target.name} behind it is transposed, and sees fewer inputs at the edges`);
  }
  const values = linearValues(target, linear);
  const folded = foldedBefore(layout, values, affine);
  return () => setLinear(target, linear, folded);
}

/** Takes a batch norm out: who has read it reads its input. */
function remove(scope: Scope, bn: Entry): void {
  const isFirst = scope.isSequential && scope.entries[0] === bn;
  if (isFirst || scope.outputs.some(({ entry }) => entry === bn)) {
    // The inputs and outputs of a model have the names of layers.
    const { name, trainable, dtype, batchInputShape } = bn.config;
    bn.className = 'Activation';
    bn.config = {
      name,
      trainable,
      dtype,
      ...(batchInputShape !== undefined && { batchInputShape }),
      activation: 'linear',
    };
    bn.layer = undefined;
    bn.values = undefined;
    return;
  }
  for (const { nodes } of scope.entries)
    for (const node of nodes)
      for (const [i, ref] of node.entries())
        if (ref.entry === bn) node[i] = { ...bn.nodes[ref.node - bn.firstNode][0], kwargs: ref.kwargs };
  scope.entries = scope.entries.filter((entry) => entry !== bn);
}

// What is known of entries.

interface Reader {
  readonly entry: Entry;
  readonly node: number;
}

interface Readers {
  find(entry: Entry, node: number): { readonly isOutput: boolean; readonly list: readonly Reader[] };
  /** How many times a result is read, by the model's outputs too. */
  of(ref: Ref): number;
}

function readersOf({ entries, outputs }: Scope): Readers {
  const lists = new Map<Entry, Map<number, Reader[]>>();
  for (const entry of entries)
    for (const [i, node] of entry.nodes.entries())
      for (const ref of node) {
        const byNode = lists.get(ref.entry) ?? new Map<number, Reader[]>();
        lists.set(ref.entry, byNode);
        byNode.set(ref.node, [...(byNode.get(ref.node) ?? []), { entry, node: entry.firstNode + i }]);
      }
  const find = (entry: Entry, node: number) => ({
    isOutput: outputs.some((ref) => ref.entry === entry && ref.node === node),
    list: lists.get(entry)?.get(node) ?? [],
  });
  return {
    find,
    of: ({ entry, node }) => {
      const { isOutput, list } = find(entry, node);
      return list.length + (isOutput ? 1 : 0);
    },
  };
}

function checkCalls({ name, nodes }: Entry): void {
  if (nodes.some((node) => node.some(({ kwargs }) => kwargs?.training)))
    throw new Obstacle(`${name} is called with training: true`);
}

function described({ name, className, inner }: Entry): string {
  if (className === 'InputLayer') return 'the input of its model';
  return inner === undefined ? `${className} (${name})` : `the model ${name}`;
}

function rankOf({ layer }: Entry): number {
  return layer?.inputSpec?.[0]?.ndim as number;
}

/** Counted from the first. */
function axisOf(bn: Entry): number {
  const axis = Number(bn.layer?.axis);
  return axis < 0 ? axis + rankOf(bn) : axis;
}

function checkAxis(axis: number, rank: number, { name, config }: Entry, where: string): void {
  const channels = config.dataFormat === 'channelsFirst' ? 1 : rank - 1;
  if (axis !== channels)
    throw new Obstacle(`its axis is ${axis}, that of the channels of ${name} ${where} it ${channels}`);
}

function valuesOf({ layer, values }: Entry, variable: string): FloatArray | undefined {
  const changed = values?.get(variable);
  if (changed !== undefined) return changed;
  return (layer?.[variable] as Variable | null | undefined)?.read().dataSync() as FloatArray | undefined;
}

function fixedOf(bn: Entry): FixedBatchNorm {
  return {
    mean: valuesOf(bn, 'movingMean') as FloatArray,
    variance: valuesOf(bn, 'movingVariance') as FloatArray,
    weight: valuesOf(bn, 'gamma'),
    bias: valuesOf(bn, 'beta'),
    eps: bn.layer?.epsilon,
  };
}

function linearValues(entry: Entry, { kernels }: Linear) {
  return {
    kernels: kernels.map((name) => valuesOf(entry, name) as FloatArray),
    shapes: shapesOf(entry, kernels),
    bias: valuesOf(entry, 'bias'),
  };
}

function shapesOf({ layer }: Entry, kernels: readonly string[]): (readonly number[])[] {
  return kernels.map((name) => ((layer as Layer)[name] as Variable).shape);
}

function setLinear(
  entry: Entry,
  { kernels }: Linear,
  folded: { readonly kernels: readonly FloatArray[]; readonly bias: FloatArray },
): void {
  entry.values = new Map(kernels.map((name, i) => [name, folded.kernels[i]]));
  entry.values.set('bias', folded.bias);
  entry.config.useBias = true;
  // Made for other values; TensorFlow.js would apply constraints as it loads these.
  for (const key of Object.keys(entry.config))
    if (/(?:Constraint|Regularizer)$/.test(key)) entry.config[key] = null;
}
