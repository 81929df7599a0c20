// Models of TensorFlow.js without their batch norms predict as with them, on each backend, and after saving and loading.
import { readFileSync } from 'node:fs';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { largestDifference } from '../../examples/difference.js';
import { fold, install, uninstall } from '../../lib/tfjs/index.js';
import { inFiles } from '../support/files.js';
import { expectListed } from '../support/messages.js';
import { Random, seedNote } from '../support/random.js';
import { tf } from '../support/tfjs.js';

const { layers } = tf;
const random = new Random(24);

afterEach(() => {
  uninstall();
  tf.disposeVariables();
});

/** Gives all weights values as training leaves them. */
function trained<M extends tf.LayersModel>(model: M): M {
  for (const weight of model.weights) {
    const { name, shape } = weight as unknown as { name: string; shape: number[] };
    const size = shape.reduce((product, dimension) => product * dimension, 1);
    const isVariance = /moving_variance/.test(name);
    const isGamma = /gamma/.test(name);
    const values = Float32Array.from({ length: size }, () =>
      isVariance ? random.uniform(0.2, 2) : isGamma ? random.uniform(-1.5, 1.5) : random.normal(0, 0.4),
    );
    weight.write(tf.tensor(values, shape));
  }
  return model;
}

function inputsOf(model: tf.LayersModel): tf.Tensor[] {
  return model.inputs.map(({ shape }) => {
    const whole = shape.map((dimension, i) => (i === 0 ? 2 : (dimension ?? 3)));
    const size = whole.reduce((product, dimension) => product * dimension, 1);
    return tf.tensor(
      Float32Array.from({ length: size }, () => random.normal(0.3, 1)),
      whole,
    );
  });
}

function predictionsOf(model: tf.LayersModel, inputs: tf.Tensor[]): Float32Array[] {
  return [model.predict(inputs.length === 1 ? inputs[0] : inputs)]
    .flat()
    .map((tensor) => tensor.dataSync<'float32'>());
}

function expectAlike(actual: Float32Array[], expected: Float32Array[]): void {
  expect(actual).toHaveLength(expected.length);
  for (const [i, values] of expected.entries()) {
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 1);
    expect(largestDifference(actual[i], values)).toBeLessThanOrEqual(1e-5 * largest);
  }
}

/** Saves a model and loads what was saved. */
async function reloaded(model: tf.LayersModel): Promise<tf.LayersModel> {
  let saved: tf.io.ModelArtifacts | undefined;
  await model.save(
    tf.io.withSaveHandler(async (artifacts) => {
      saved = artifacts;
      return { modelArtifactsInfo: { dateSaved: new Date(), modelTopologyType: 'JSON' } };
    }),
  );
  return tf.loadLayersModel(tf.io.fromMemory(saved as tf.io.ModelArtifacts));
}

const normCount = (model: tf.LayersModel): number =>
  model.layers.reduce((count, layer) => {
    const { layers: inner, layer: wrapped } = layer as unknown as {
      layers?: unknown;
      layer?: tf.LayersModel;
    };
    if (inner) return count + normCount(layer as unknown as tf.LayersModel);
    if (wrapped?.layers) return count + normCount(wrapped);
    return count + (layer.getClassName() === 'BatchNormalization' ? 1 : 0);
  }, 0);

type Symbolic = tf.SymbolicTensor;
const apply = (layer: tf.layers.Layer, x: Symbolic | Symbolic[]) => layer.apply(x) as Symbolic;
const bn = (args: Parameters<typeof layers.batchNormalization>[0] = {}) => layers.batchNormalization(args);
const relu = () => layers.activation({ activation: 'relu' });
const sequential = (...list: tf.layers.Layer[]) => tf.sequential({ layers: list });
const valid = { kernelSize: 3, padding: 'valid' } as const;
const same = { kernelSize: 3, padding: 'same' } as const;
const first = { dataFormat: 'channelsFirst' } as const;

interface Case {
  what: string;
  make: () => tf.LayersModel;
  change?: (model: tf.LayersModel) => void;
  folded: number;
  left?: (string | RegExp)[];
  /** Why TensorFlow.js by itself cannot compute what the model should. */
  stockFault?: string;
  backends?: string[];
  isSaved?: boolean;
}

const cases: Case[] = [
  {
    what: 'dense, conv1d, conv2d and conv3d before',
    make: () =>
      tf.model(
        (() => {
          const a = tf.input({ shape: [6] });
          const b = tf.input({ shape: [8, 3] });
          const c = tf.input({ shape: [8, 7, 3] });
          const d = tf.input({ shape: [5, 4, 5, 2] });
          return {
            inputs: [a, b, c, d],
            outputs: [
              apply(relu(), apply(bn(), apply(layers.dense({ units: 4 }), a))),
              apply(relu(), apply(bn(), apply(layers.conv1d({ filters: 4, ...same, useBias: false }), b))),
              apply(relu(), apply(bn(), apply(layers.conv2d({ filters: 5, ...same, strides: 2 }), c))),
              apply(relu(), apply(bn(), apply(layers.conv3d({ filters: 3, ...valid }), d))),
            ],
          };
        })(),
      ),
    folded: 4,
    stockFault: 'no batch norm of rank 5',
  },
  {
    what: 'depthwise, separable and transposed convolutions before',
    make: () =>
      sequential(
        layers.depthwiseConv2d({ ...same, depthMultiplier: 2, inputShape: [8, 8, 3] }),
        bn(),
        relu(),
        layers.separableConv2d({ filters: 5, ...same, useBias: false }),
        bn({ scale: false }),
        relu(),
        layers.conv2dTranspose({ filters: 4, ...same, strides: 2 }),
        bn({ center: false, epsilon: 0.1 }),
        relu(),
      ),
    folded: 3,
  },
  {
    what: 'a transposed convolution in three dimensions before',
    make: () =>
      sequential(layers.conv3dTranspose({ filters: 3, ...valid, inputShape: [3, 4, 3, 2] }), bn(), relu()),
    folded: 1,
    stockFault: 'no batch norm of rank 5',
    // In WebAssembly its results are of memory that nobody has written.
    backends: ['cpu'],
  },
  {
    what: 'separable convolutions with a multiplier, which TensorFlow.js does not save',
    make: () =>
      sequential(
        layers.separableConv2d({ filters: 5, ...same, depthMultiplier: 2, inputShape: [5, 5, 3] }),
        bn(),
        relu(),
        bn(),
        layers.separableConv2d({ filters: 3, kernelSize: 2, padding: 'valid', depthMultiplier: 2 }),
      ),
    folded: 2,
    isSaved: false,
  },
  {
    what: 'what stands behind them, without padding',
    make: () =>
      sequential(
        relu0([8, 8, 3]),
        bn(),
        layers.conv2d({ filters: 4, ...valid }),
        relu(),
        bn(),
        layers.depthwiseConv2d({ ...valid, depthMultiplier: 2, useBias: false }),
        relu(),
        bn(),
        layers.separableConv2d({ filters: 3, kernelSize: 2, padding: 'valid' }),
        relu(),
        bn(),
        layers.dropout({ rate: 0.5 }),
        layers.conv2d({ filters: 4, kernelSize: 1, padding: 'same', strides: 2 }),
        relu(),
        bn(),
        layers.flatten(),
        layers.dense({ units: 3, activation: 'softmax' }),
      ),
    folded: 5,
  },
  {
    what: 'a batch norm that is the first layer',
    make: () => sequential(bn({ inputShape: [6] }), layers.dense({ units: 3 })),
    folded: 1,
  },
  {
    what: 'zeros of padding, which only a batch norm without shift leaves alone',
    make: () =>
      sequential(
        relu0([6, 6, 3]),
        bn({ name: 'shifts' }),
        layers.conv2d({ filters: 4, ...same, name: 'padded' }),
        relu(),
        bn({ name: 'transposes' }),
        layers.conv2dTranspose({ filters: 4, ...valid, name: 'up' }),
        relu(),
      ),
    folded: 0,
    left: [
      /^shifts: Activation \(\w+\) stands before it; padded behind it pads with zeros, which it would shift$/,
      /^transposes: Activation \(\w+\) stands before it; up behind it is transposed, and sees fewer inputs at the edges$/,
    ],
  },
  {
    what: 'chains, of which one is left where nothing is linear',
    make: () =>
      sequential(
        layers.conv2d({ filters: 4, ...valid, inputShape: [6, 6, 3] }),
        bn(),
        bn(),
        layers.dropout({ rate: 0.3 }),
        bn(),
        relu(),
        bn({ name: 'stays', scale: false, center: false }),
        bn({ scale: false }),
        relu(),
      ),
    folded: 4,
    left: [/^stays: Activation \(\w+\) stands before it; Activation \(\w+\) stands behind it$/],
  },
  {
    what: 'activations between',
    make: () =>
      sequential(
        layers.dense({ units: 4, activation: 'relu', inputShape: [5], name: 'with' }),
        bn({ name: 'a' }),
        relu(),
        layers.dense({ units: 4 }),
        layers.activation({ activation: 'linear' }),
        bn(),
        relu(),
      ),
    folded: 1,
    left: [/^a: with before it has the activation relu; Activation/],
  },
  {
    what: 'channels first, and an axis of another kind',
    make: () =>
      tf.model(
        (() => {
          const x = tf.input({ shape: [3, 8, 7] });
          const y = apply(
            bn({ axis: 1 }),
            apply(layers.conv2dTranspose({ filters: 4, ...same, ...first }), x),
          );
          const z = apply(
            bn({ axis: 3, name: 'along' }),
            apply(layers.conv2dTranspose({ filters: 4, ...same, ...first, name: 'conv' }), x),
          );
          return { inputs: x, outputs: [y, z] };
        })(),
      ),
    folded: 1,
    stockFault: 'other axes than the last are taken for the last',
    left: ['along: its axis is 3, that of the channels of conv before it 1; it is an output of its model'],
  },
  {
    what: 'layers that are used twice',
    make: () =>
      tf.model(
        (() => {
          const a = tf.input({ shape: [4] });
          const b = tf.input({ shape: [4] });
          const dense = layers.dense({ units: 3, useBias: false });
          const norm = bn();
          const twice = [a, b].map((x) => apply(relu(), apply(norm, apply(dense, x))));
          // Used with a batch norm and without one.
          const other = layers.dense({ units: 3, name: 'other' });
          const c = apply(bn({ name: 'once' }), apply(other, a));
          // A batch norm behind two layers.
          const both = bn();
          const d = apply(both, apply(layers.dense({ units: 3 }), a));
          const e = apply(both, apply(layers.dense({ units: 3 }), b));
          return { inputs: [a, b], outputs: [apply(layers.add(), [...twice, c, apply(other, b), d, e])] };
        })(),
      ),
    folded: 2,
    left: [/^once: other before it is used elsewhere too; Add \(\w+\) stands behind it$/],
  },
  {
    what: 'results that are read elsewhere too',
    make: () =>
      tf.model(
        (() => {
          const x = tf.input({ shape: [4] });
          const dense = apply(layers.dense({ units: 3, name: 'shared' }), x);
          const y = apply(bn({ name: 'a' }), dense);
          // All that read this one are linear.
          const z = apply(bn(), apply(relu(), x));
          const heads = [2, 3].map((units) => apply(layers.dense({ units }), z));
          return { inputs: x, outputs: [dense, y, ...heads] };
        })(),
      ),
    folded: 1,
    left: ['a: shared before it is read elsewhere too; it is an output of its model'],
  },
  {
    what: 'models in models, used twice, and wrapped',
    make: () => {
      const inner = sequential(layers.dense({ units: 5, inputShape: [4] }), bn({ name: 'norm' }), relu());
      const x = tf.input({ shape: [4] });
      const y = tf.input({ shape: [4] });
      const deep = tf.model({
        inputs: x,
        outputs: apply(bn({ name: 'last' }), apply(inner as unknown as tf.layers.Layer, x)),
        name: 'deep',
      });
      const steps = tf.input({ shape: [3, 4] });
      const wrapped = layers.timeDistributed({
        layer: sequential(layers.dense({ units: 2, inputShape: [4] }), bn(), relu()),
      });
      const bare = layers.timeDistributed({ layer: bn({ name: 'bare' }), name: 'times' });
      return tf.model({
        inputs: [y, steps],
        outputs: [
          apply(deep as unknown as tf.layers.Layer, y),
          apply(relu(), apply(deep as unknown as tf.layers.Layer, apply(layers.dense({ units: 4 }), y))),
          apply(bare, apply(wrapped, steps)),
        ],
      });
    },
    folded: 2,
    left: [
      /^deep\/last: the model \w+ stands before it; it is an output of its model$/,
      'times/bare: it is wrapped in TimeDistributed',
    ],
  },
  {
    what: 'frozen layers, constraints and regularizers',
    make: () => {
      const model = sequential(
        layers.conv2d({
          filters: 4,
          ...valid,
          inputShape: [6, 6, 3],
          kernelConstraint: 'unitNorm',
          biasConstraint: 'nonNeg',
          kernelRegularizer: 'l1l2',
        }),
        bn({ trainable: false }),
        relu(),
        layers.depthwiseConv2d({ ...same, depthwiseRegularizer: 'l1l2' }),
        bn(),
        layers.flatten(),
        layers.dense({ units: 2, trainable: false, kernelConstraint: 'nonNeg' }),
      );
      model.layers[0].trainable = false;
      return model;
    },
    folded: 2,
  },
  {
    what: 'statistics that are not finite',
    make: () => sequential(layers.dense({ units: 2, inputShape: [2] }), bn({ name: 'nan' }), relu()),
    change: (model) => {
      const [gamma, beta, , variance] = model.getLayer('nan').getWeights();
      model.getLayer('nan').setWeights([gamma, beta, tf.tensor1d([Number.NaN, 0]), variance]);
    },
    folded: 0,
    left: [/^nan: bn\.mean must be finite, got NaN in channel 0; /],
  },
];

/** The first layer of what stands behind it, which is not linear. */
function relu0(inputShape: number[]): tf.layers.Layer {
  return layers.activation({ activation: 'relu', inputShape } as never);
}

describe.each(['cpu', 'wasm'])(`fold on %s, ${seedNote}`, (backend) => {
  beforeAll(() => tf.setBackend(backend));

  const here = cases.filter(({ backends = [backend] }) => backends.includes(backend));

  it.each(here)('$what', async ({ make, change, folded, left = [], stockFault, isSaved = true }) => {
    if (stockFault !== undefined) install(tf);
    const model = trained(make());
    change?.(model);
    const inputs = inputsOf(model);
    const weights = model.getWeights().map((tensor) => tensor.dataSync().slice());
    const before = tf.memory().numTensors;
    const result = fold(model);
    expect(tf.memory().numTensors - before).toBe(result.model.weights.length);
    expect(result.folded).toBe(folded);
    const reasons = result.left.map(({ layer, reason }) => `${layer}: ${reason}`);
    expect(reasons).toEqual(
      left.map((reason) => (typeof reason === 'string' ? reason : expect.stringMatching(reason))),
    );
    expect(result.model.inputNames).toEqual(model.inputNames);
    expect(result.model.outputNames).toEqual(model.outputNames);
    // Those that the layers of others stand in place of are counted once where they are used twice.
    expect(normCount(result.model)).toBe(normCount(model) - folded);
    const expected = predictionsOf(model, inputs);
    expectAlike(predictionsOf(result.model, inputs), expected);
    if (isSaved) expectAlike(predictionsOf(await reloaded(result.model), inputs), expected);
    expect(model.getWeights().map((tensor) => tensor.dataSync())).toEqual(weights);
    result.model.dispose();
    expect(predictionsOf(model, inputs)).toEqual(expected);
  });
});

describe('what is frozen', () => {
  beforeAll(() => tf.setBackend('cpu'));

  interface Frozen {
    readonly forwardLayer: tf.layers.Layer;
    readonly gamma: { trainable: boolean };
    readonly kernel: { trainable: boolean };
  }
  const parts = (model: tf.LayersModel, name: string) => model.getLayer(name) as tf.layers.Layer & Frozen;

  /** Batch norms that stay and one that goes, around layers of all kinds. */
  const make = () =>
    trained(
      tf.sequential({
        layers: [
          layers.conv1d({ filters: 4, kernelSize: 1, inputShape: [6, 4], useBias: false, name: 'conv' }),
          layers.batchNormalization({ name: 'gone' }),
          layers.reLU(),
          layers.batchNormalization({ name: 'bn' }),
          layers.reLU(),
          layers.bidirectional({
            layer: layers.gru({ units: 4, returnSequences: true }) as never,
            mergeMode: 'sum',
            name: 'both',
          }),
          tf.sequential({
            name: 'inner',
            layers: [layers.dense({ units: 4, inputShape: [6, 4] }), layers.dense({ units: 4 })],
          }) as never,
        ],
      }),
    );

  it.each<[what: string, freeze: (model: tf.LayersModel) => void]>([
    [
      'a variable',
      (model) => {
        parts(model, 'bn').gamma.trainable = false;
      },
    ],
    [
      'one direction of two',
      (model) => {
        parts(model, 'both').forwardLayer.trainable = false;
      },
    ],
    [
      'both directions',
      (model) => {
        parts(model, 'both').trainable = false;
      },
    ],
    [
      'a layer into which one is folded',
      (model) => {
        parts(model, 'conv').trainable = false;
      },
    ],
    [
      'its kernel alone',
      (model) => {
        parts(model, 'conv').kernel.trainable = false;
      },
    ],
    [
      'a model within the model',
      (model) => {
        parts(model, 'inner').trainable = false;
      },
    ],
  ])('stays frozen, with its values: %s', (_what, freeze) => {
    const model = make();
    freeze(model);
    const inputs = inputsOf(model);
    const { model: folded, folded: count } = fold(model);
    expect(count).toBe(1);
    for (const name of ['conv', 'bn', 'both', 'inner']) {
      const trainedOf = (of: tf.LayersModel) =>
        parts(of, name)
          .trainableWeights.map(({ shape }) => shape)
          // The bias that comes in place of the batch norm.
          .filter((shape) => name !== 'conv' || shape.length > 1);
      expect(trainedOf(folded), name).toEqual(trainedOf(model));
      expect(parts(folded, name).trainable, name).toBe(parts(model, name).trainable);
    }
    expect(parts(folded, 'conv').trainableWeights).toHaveLength(
      2 * parts(model, 'conv').trainableWeights.length,
    );
    // At its first prediction a sequential model thaws what is frozen by itself.
    expectAlike(predictionsOf(folded, inputs), predictionsOf(model, inputs));
  });
});

type Attributes = Record<string, object>;
interface GraphNode {
  name: string;
  op: string;
  input?: string[];
  attr?: Attributes;
}

/** A graph model of nodes and constants, whose last node is its result. */
function graphOf(
  inputShape: number[],
  nodes: GraphNode[],
  shapes: Record<string, number[]>,
): tf.io.ModelArtifacts {
  const float = { type: 'DT_FLOAT' };
  const weightSpecs = Object.entries(shapes).map(([name, shape]) => ({
    name,
    shape,
    dtype: 'float32' as const,
  }));
  const values = weightSpecs.flatMap(({ name, shape }) =>
    Array.from({ length: shape.reduce((product, dimension) => product * dimension, 1) }, () =>
      name === 'dim' ? 2 : /variance/.test(name) ? random.uniform(0.2, 2) : random.normal(0, 0.5),
    ),
  );
  const sizes = inputShape.map((size) => ({ size: `${size}` }));
  return {
    modelTopology: {
      node: [
        { name: 'x', op: 'Placeholder', attr: { dtype: float, shape: { shape: { dim: sizes } } } },
        ...weightSpecs.map(({ name }) => ({ name, op: 'Const', attr: { dtype: float } })),
        ...nodes.map((node) => ({ ...node, attr: { T: float, ...node.attr } })),
      ],
      versions: { producer: 1, minConsumer: 1 },
    },
    weightSpecs,
    weightData: Float32Array.from(values).buffer,
    format: 'graph-model',
  } as tf.io.ModelArtifacts;
}

const base64 = (text: string) => Buffer.from(text).toString('base64');
const strided: Attributes = {
  strides: { list: { i: ['1', '1', '1', '1'] } },
  dilations: { list: { i: ['1', '1', '1', '1'] } },
  padding: { s: base64('SAME') },
  data_format: { s: base64('NHWC') },
};
const norm = (name: string, x: string, epsilon?: number): GraphNode => ({
  name,
  op: 'FusedBatchNormV3',
  input: [x, ...['gamma', 'beta', 'mean', 'variance'].map((part) => `${name}/${part}`)],
  attr: { is_training: { b: false }, ...(epsilon !== undefined && { epsilon: { f: epsilon } }) },
});
const normShapes = (name: string, channels: number) =>
  Object.fromEntries(['gamma', 'beta', 'mean', 'variance'].map((part) => [`${name}/${part}`, [channels]]));
const squeezed = (...axes: string[]): Attributes => ({ squeeze_dims: { list: { i: axes } } });
const fusedWithBias: Attributes = { fused_ops: { list: { s: [base64('BiasAdd')] } }, num_args: { i: '1' } };

interface GraphCase {
  what: string;
  artifacts: () => tf.io.ModelArtifacts;
  shape: number[];
  folded: number;
  left?: string[];
  /** What is there afterwards. */
  ops: string[];
}

const graphs: GraphCase[] = [
  {
    what: 'fused batch norms, with a bias between, and two in a row',
    shape: [2, 5, 5, 3],
    artifacts: () =>
      graphOf(
        [-1, 5, 5, 3],
        [
          { name: 'conv', op: 'Conv2D', input: ['x', 'kernel'], attr: strided },
          norm('bn1', 'conv', 0.01),
          { name: 'relu', op: 'Relu', input: ['bn1'] },
          {
            name: 'depthwise',
            op: 'DepthwiseConv2dNative',
            input: ['relu', 'depthwise/kernel'],
            attr: strided,
          },
          { name: 'bias', op: 'BiasAdd', input: ['depthwise', 'bias/values'] },
          norm('bn2', 'bias:0'),
          norm('bn3', 'bn2'),
        ],
        {
          kernel: [3, 3, 3, 4],
          'depthwise/kernel': [3, 3, 4, 2],
          'bias/values': [8],
          ...normShapes('bn1', 4),
          ...normShapes('bn2', 8),
          ...normShapes('bn3', 8),
        },
      ),
    folded: 3,
    ops: ['FusedDepthwiseConv2dNative', 'Placeholder', 'Relu', '_FusedConv2D'],
  },
  {
    what: 'products and sums with constants',
    shape: [2, 6],
    artifacts: () =>
      graphOf(
        [-1, 6],
        [
          { name: 'dense', op: 'MatMul', input: ['x', 'kernel'] },
          { name: 'mul', op: 'Mul', input: ['dense', 'scale'] },
          { name: 'add', op: 'AddV2', input: ['shift', 'mul'] },
          { name: 'relu', op: 'Relu', input: ['add'] },
          { name: 'dense2', op: '_FusedMatMul', input: ['relu', 'kernel2', 'bias'], attr: fusedWithBias },
          { name: 'mul2', op: 'Mul', input: ['scale2', 'dense2'] },
        ],
        { kernel: [6, 4], scale: [4], shift: [1, 4], kernel2: [4, 3], bias: [3], scale2: [3] },
      ),
    folded: 2,
    ops: ['Placeholder', 'Relu', '_FusedMatMul', '_FusedMatMul'],
  },
  {
    what: 'one that can be folded beside one behind a bias of one value',
    shape: [2, 4],
    artifacts: () =>
      graphOf(
        [-1, 4],
        [
          { name: 'dense', op: 'MatMul', input: ['x', 'kernel'] },
          { name: 'mul', op: 'Mul', input: ['dense', 'scale'] },
          { name: 'relu', op: 'Relu', input: ['mul'] },
          { name: 'dense2', op: 'MatMul', input: ['relu', 'kernel2'] },
          { name: 'bias', op: 'AddV2', input: ['dense2', 'one'] },
          { name: 'mul2', op: 'Mul', input: ['bias', 'scale'] },
        ],
        { kernel: [4, 4], scale: [4], kernel2: [4, 4], one: [1] },
      ),
    folded: 1,
    ops: ['AddV2', 'MatMul', 'Mul', 'Placeholder', 'Relu', '_FusedMatMul'],
  },
  {
    what: 'a sum that adds a dimension',
    shape: [2, 4],
    artifacts: () =>
      graphOf(
        [-1, 4],
        [
          { name: 'dense', op: 'MatMul', input: ['x', 'kernel'] },
          { name: 'sum', op: 'AddV2', input: ['dense', 'shift'] },
          { name: 'mul', op: 'Mul', input: ['sum', 'scale'] },
        ],
        { kernel: [4, 3], shift: [1, 1, 3], scale: [3] },
      ),
    folded: 0,
    ops: ['AddV2', 'MatMul', 'Mul', 'Placeholder'],
  },
  {
    what: 'one without epsilon, which TensorFlow.js takes to be 1e-3',
    shape: [2, 5, 5, 3],
    artifacts: () => {
      const graph = graphOf(
        [-1, 5, 5, 3],
        [{ name: 'conv', op: 'Conv2D', input: ['x', 'kernel'], attr: strided }, norm('bn', 'conv')],
        { ...normShapes('bn', 4), kernel: [3, 3, 3, 4] },
      );
      // The variance, beside which TensorFlow's own 1e-4 would be another result.
      new Float32Array(graph.weightData as ArrayBuffer).fill(1e-3, 12, 16);
      return graph;
    },
    folded: 1,
    ops: ['Placeholder', '_FusedConv2D'],
  },
  {
    what: 'behind a convolution over one dimension, whose bias comes before or behind what takes the other away',
    shape: [2, 5, 1, 3],
    artifacts: () =>
      graphOf(
        [-1, 5, 1, 3],
        [
          { name: 'conv', op: 'Conv2D', input: ['x', 'kernel'], attr: strided },
          { name: 'squeezed', op: 'Squeeze', input: ['conv'], attr: squeezed('-2') },
          { name: 'bias', op: 'BiasAdd', input: ['squeezed', 'one'] },
          { name: 'mul', op: 'Mul', input: ['bias', 'scale'] },
          { name: 'relu', op: 'Relu', input: ['mul'] },
          { name: 'wide', op: 'ExpandDims', input: ['relu', 'dim'] },
          { name: 'conv2', op: 'Conv2D', input: ['wide', 'kernel2'], attr: strided },
          { name: 'bias2', op: 'AddV2', input: ['conv2', 'one'] },
          { name: 'squeezed2', op: 'Squeeze', input: ['bias2'], attr: squeezed('2') },
          { name: 'mul2', op: 'Mul', input: ['squeezed2', 'scale'] },
          { name: 'add2', op: 'AddV2', input: ['mul2', 'shift'] },
        ],
        {
          kernel: [3, 1, 3, 4],
          one: [4],
          scale: [4],
          dim: [],
          kernel2: [3, 1, 4, 4],
          shift: [1, 1, 4],
        },
      ),
    folded: 2,
    ops: ['ExpandDims', 'Placeholder', 'Relu', 'Squeeze', 'Squeeze', '_FusedConv2D', '_FusedConv2D'],
  },
  {
    what: 'what takes the channels away stands between',
    shape: [2, 5, 4, 3],
    artifacts: () =>
      graphOf(
        [-1, 5, 4, 3],
        [
          { name: 'conv', op: 'Conv2D', input: ['x', 'kernel'], attr: strided },
          { name: 'squeezed', op: 'Squeeze', input: ['conv'], attr: squeezed('-1') },
          { name: 'mul', op: 'Mul', input: ['squeezed', 'one'] },
          { name: 'relu', op: 'Relu', input: ['mul'] },
          { name: 'wide', op: 'ExpandDims', input: ['relu', 'dim'] },
          { name: 'conv2', op: 'Conv2D', input: ['wide', 'kernel2'], attr: strided },
          { name: 'squeezed2', op: 'Squeeze', input: ['conv2'] },
          { name: 'mul2', op: 'Mul', input: ['squeezed2', 'one'] },
        ],
        { kernel: [3, 3, 3, 1], one: [1], dim: [], kernel2: [1, 1, 4, 1] },
      ),
    folded: 0,
    ops: ['Conv2D', 'Conv2D', 'ExpandDims', 'Mul', 'Mul', 'Placeholder', 'Relu', 'Squeeze', 'Squeeze'],
  },
  {
    what: 'a negative variance, beside one that can be folded',
    shape: [2, 5, 5, 3],
    artifacts: () => {
      const graph = graphOf(
        [-1, 5, 5, 3],
        [
          { name: 'conv', op: 'Conv2D', input: ['x', 'kernel'], attr: strided },
          norm('sound', 'conv'),
          { name: 'relu', op: 'Relu', input: ['sound'] },
          { name: 'conv2', op: 'Conv2D', input: ['relu', 'kernel2'], attr: strided },
          norm('negative', 'conv2', 10),
        ],
        {
          ...normShapes('negative', 4),
          kernel: [3, 3, 3, 4],
          kernel2: [1, 1, 4, 4],
          ...normShapes('sound', 4),
        },
      );
      // gamma, beta and mean have 12 values before it.
      new Float32Array(graph.weightData as ArrayBuffer)[12] = -1;
      return graph;
    },
    folded: 1,
    left: ['negative: bn.variance must not be negative, got -1 in channel 0'],
    ops: ['Conv2D', 'FusedBatchNormV3', 'Placeholder', 'Relu', '_FusedConv2D'],
  },
  {
    what: 'what cannot be folded',
    shape: [2, 5, 5, 3],
    artifacts: () =>
      graphOf(
        [-1, 5, 5, 3],
        [
          norm('first', 'x'),
          { name: 'conv', op: 'Conv2D', input: ['first', 'kernel'], attr: strided },
          norm('read', 'conv'),
          { name: 'sum', op: 'AddV2', input: ['conv', 'read'] },
          {
            name: 'active',
            op: '_FusedConv2D',
            input: ['sum', 'kernel2', 'bias'],
            attr: {
              ...strided,
              fused_ops: { list: { s: ['BiasAdd', 'Relu'].map(base64) } },
              num_args: { i: '1' },
            },
          },
          norm('behind', 'active'),
        ],
        {
          kernel: [3, 3, 3, 4],
          kernel2: [1, 1, 4, 4],
          bias: [4],
          ...normShapes('first', 3),
          ...normShapes('read', 4),
          ...normShapes('behind', 4),
        },
      ),
    folded: 0,
    left: [
      'first: Placeholder (x) stands before it',
      'read: what stands before it (conv) is read elsewhere too',
      'behind: active before it has an activation',
    ],
    ops: [
      'AddV2',
      'Conv2D',
      'FusedBatchNormV3',
      'FusedBatchNormV3',
      'FusedBatchNormV3',
      'Placeholder',
      '_FusedConv2D',
    ],
  },
];

describe.each(['cpu', 'wasm'])(`fold of graph models on %s, ${seedNote}`, (backend) => {
  beforeAll(() => tf.setBackend(backend));

  it.each(graphs)('$what', async ({ artifacts, shape, folded, left = [], ops }) => {
    const model = await tf.loadGraphModel(tf.io.fromMemory(artifacts()));
    const result = fold(model);
    expect(result.folded).toBe(folded);
    expect(result.left.map(({ layer, reason }) => `${layer}: ${reason}`)).toEqual(left);
    const x = tf.randomNormal(shape, 0, 1, 'float32', 7);
    const valuesOf = (of: tf.GraphModel) => [(of.predict(x) as tf.Tensor).dataSync<'float32'>()];
    const expected = valuesOf(model);
    expectAlike(valuesOf(result.model), expected);
    let saved: tf.io.ModelArtifacts | undefined;
    await result.model.save(
      tf.io.withSaveHandler(async (given) => {
        saved = given;
        return { modelArtifactsInfo: { dateSaved: new Date(), modelTopologyType: 'JSON' } };
      }),
    );
    const { node } = (saved as tf.io.ModelArtifacts).modelTopology as { node: GraphNode[] };
    expect(
      node
        .map(({ op }) => op)
        .filter((op) => op !== 'Const')
        .sort(),
    ).toEqual(ops);
    // No constant is left that nobody reads.
    const read = new Set(node.flatMap(({ input = [] }) => input));
    expect(saved?.weightSpecs?.filter(({ name }) => !read.has(name))).toEqual([]);
    const loaded = await tf.loadGraphModel(tf.io.fromMemory(saved as tf.io.ModelArtifacts));
    expectAlike(valuesOf(loaded), expected);
    for (const each of [loaded, result.model]) each.dispose();
    expect(valuesOf(model)).toEqual(expected);
    model.dispose();
  });

  // The converter leaves what stands behind dense layers and convolutions over one dimension.
  it.each([
    ['graph', 3],
    ['graph-unfolded', 7],
  ])('%s of the converter predicts what Keras says', async (folder, norms) => {
    const model = await tf.loadGraphModel(tf.io.fromMemory(convertedTo(folder)));
    const { model: foldedModel, folded, left } = fold(model);
    expect([folded, left]).toEqual([norms, []]);
    const { node } = (foldedModel as unknown as { artifacts: { modelTopology: { node: GraphNode[] } } })
      .artifacts.modelTopology;
    expect(node.filter(({ op }) => /FusedBatchNorm|AddV2|^BiasAdd/.test(op))).toEqual([]);
    const x = Float32Array.from({ length: 2 * 8 * 8 * 3 }, (_, i) => Math.sin(i));
    const values = (foldedModel.predict(tf.tensor(x, [2, 8, 8, 3])) as tf.Tensor).dataSync<'float32'>();
    const expected = JSON.parse(readFileSync(inFiles('expected-graph.json'), 'utf8')).graph;
    expectAlike([values], [Float32Array.from(expected)]);
    for (const each of [foldedModel, model]) each.dispose();
  });
});

function convertedTo(folder: string): tf.io.ModelArtifacts {
  const { modelTopology, weightsManifest, signature } = JSON.parse(
    readFileSync(inFiles(`${folder}/model.json`), 'utf8'),
  );
  const [{ weights, paths }] = weightsManifest;
  const weightData = new Uint8Array(readFileSync(inFiles(`${folder}/${paths[0]}`))).buffer;
  return { modelTopology, weightSpecs: weights, weightData, signature };
}

it.each<[value: unknown, message: string]>([
  [undefined, 'model must be a layers model or graph model of TensorFlow.js 4, got undefined'],
  [{ layers: [] }, 'model must be a layers model or graph model of TensorFlow.js 4, got an object'],
  [
    { executeAsync() {}, artifacts: { modelTopology: { node: [] } } },
    'model must have its weights in memory, got streamed ones; load it without streamWeights',
  ],
  [tf.sequential(), 'model must be built (its first layer needs an inputShape), got an object'],
])('%o is refused', (value, message) => {
  expectListed(message);
  expect(() => fold(value as never)).toThrow(
    expect.objectContaining({ message, code: 'ERR_BATCHNORM_INVALID_TYPE' }),
  );
});
