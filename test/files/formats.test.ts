// Files made by the libraries whose formats they are (test/fixtures/make.py and make.ts) are read as these libraries read them.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as tf from '@tensorflow/tfjs';
import { BatchNorm, FrozenBatchNorm } from 'batchnorm';
import { loadBatchNorms, type Model, type StoredBatchNorm } from 'batchnorm/files';
import { describe, expect, it } from 'vitest';
import { files as folder } from '../support/files.js';

interface Expected {
  eps?: number;
  axis?: number;
  [part: string]: number[] | number | undefined;
}

/** What a library says that a file has: by file, then by layer. */
function expectedOf(part: string): [file: string, layers: Record<string, Expected>][] {
  return Object.entries(JSON.parse(readFileSync(join(folder, `expected-${part}.json`), 'utf8')));
}

/** A layer as plain numbers, in the form of the fixtures. */
function plain({ state, eps, axis }: StoredBatchNorm): Expected {
  const values = Object.entries(state).map(([part, value]) => [
    part,
    typeof value === 'number' ? [value] : [...value],
  ]);
  return { ...Object.fromEntries(values), ...(eps !== undefined && { eps }), axis };
}

function check(found: Map<string, StoredBatchNorm>, layers: Record<string, Expected>, axis: number) {
  const expected = Object.entries(layers).map(([name, layer]) => [name, { axis, ...layer }]);
  expect(Object.fromEntries([...found].map(([name, layer]) => [name, plain(layer)]))).toEqual(
    Object.fromEntries(expected),
  );
}

describe.each([
  ['torch', undefined, 1],
  ['onnx', 'onnx', 1],
  ['keras', 'keras', -1],
  ['keras2', 'keras', -1],
  ['tfjs', 'keras', -1],
] as const)('files of %s', (part, convention, axis) => {
  it.each(expectedOf(part))('%s has the batch norms that the library reads', async (file, layers) => {
    const path = join(folder, file);
    const found = await loadBatchNorms(path);
    check(found, layers, axis);
    for (const { state, eps, convention: given, ...layer } of found.values()) {
      expect(given).toBe(convention);
      const frozen = FrozenBatchNorm.from(state, { eps, axis: layer.axis, convention: given });
      expect(frozen.channels).toBe(state.running_mean?.length);
    }
  });
});

it('a model has its batch norms wherever they stand', async () => {
  expect([...(await loadBatchNorms(join(folder, 'places.onnx'))).keys()]).toEqual([
    'before-conv',
    'behind-biased-conv',
    'behind-conv',
    'behind-shared-conv',
    'behind-relu',
    'behind-matmul',
    'behind-biased-matmul',
    'behind-gemm',
  ]);
});

it('a graph model of the converter has the fused batch norms that it left', async () => {
  const model = join(folder, 'graph-unfolded', 'model.json');
  const found = await loadBatchNorms(model);
  expect([...found.keys()].map((name) => name.split('/').at(-1))).toEqual(Array(4).fill('FusedBatchNormV3'));
  expect(await loadBatchNorms(join(folder, 'graph', 'model.json'))).toEqual(new Map());
});

describe('bytes and models', () => {
  it.each([
    'torch-bfloat16.safetensors',
    'keras.safetensors',
    'opset15.onnx',
    'keras3.keras',
    'keras3.h5',
    'keras3.weights.h5',
  ])('the format of the bytes of %s is seen', async (file) => {
    const path = join(folder, file);
    const bytes = new Uint8Array(readFileSync(path));
    const found = await loadBatchNorms(path);
    expect(found.size).toBeGreaterThan(0);
    expect(await loadBatchNorms(bytes)).toEqual(found);
  });

  it('a file: URL and an ArrayBuffer are read as the file', async () => {
    const path = join(folder, 'torch-float32.safetensors');
    const found = await loadBatchNorms(path);
    expect(found.size).toBeGreaterThan(0);
    expect(await loadBatchNorms(pathToFileURL(path))).toEqual(found);
    expect(await loadBatchNorms(new Uint8Array(readFileSync(path)).buffer)).toEqual(found);
  });

  it('a model of TensorFlow.js and its artifacts are read as its file', async () => {
    const path = join(folder, 'tfjs/model.json');
    const found = await loadBatchNorms(path);
    const { modelTopology, weightsManifest } = JSON.parse(readFileSync(path, 'utf8'));
    const shards = weightsManifest[0].paths.map((name: string) => readFileSync(join(folder, 'tfjs', name)));
    const weightData = new Uint8Array(Buffer.concat(shards)).buffer;
    const artifacts = { modelTopology, weightSpecs: weightsManifest[0].weights, weightData };
    expect(await loadBatchNorms(artifacts)).toEqual(found);
    const model = await tf.loadLayersModel(tf.io.fromMemory(artifacts));
    expect(await loadBatchNorms(model as unknown as Model)).toEqual(found);
    // As Keras writes it.
    (model.layers as { axis?: number | number[] }[])
      .filter(({ axis }) => axis !== undefined)
      .forEach((layer) => {
        layer.axis = [layer.axis as number];
      });
    expect(await loadBatchNorms(model as unknown as Model)).toEqual(found);
    model.dispose();
  });

  it('a fused batch norm of a graph model is read', async () => {
    const node = (name: string, input: string[] = []) => ({ name, op: 'Const', input });
    const attr = { epsilon: { f: 0.25 }, data_format: { s: Buffer.from('NCHW').toString('base64') } };
    const names = ['s', 'o', 'm', 'v'];
    const norm = { name: 'bn', op: 'FusedBatchNormV3', input: ['x', ...names], attr };
    const weightSpecs = names.map((name) => ({ name, shape: [2], dtype: 'float32' }));
    const artifacts = {
      modelTopology: { node: [...names.map((name) => node(name)), norm] },
      weightSpecs,
      weightData: Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8).buffer,
    };
    expect(await loadBatchNorms(artifacts)).toEqual(
      new Map([
        [
          'bn',
          {
            state: {
              weight: Float32Array.of(1, 2),
              bias: Float32Array.of(3, 4),
              running_mean: Float32Array.of(5, 6),
              running_var: Float32Array.of(7, 8),
            },
            eps: 0.25,
            convention: 'keras',
            axis: 1,
          },
        ],
      ]),
    );
  });

  it('a fused batch norm that says no epsilon has the one that TensorFlow.js computes with', async () => {
    await tf.setBackend('cpu');
    const float = { type: 'DT_FLOAT' };
    const names = ['scale', 'offset', 'mean', 'variance'];
    const shape = { shape: { dim: [1, 1, 1, 1].map((size) => ({ size: `${size}` })) } };
    const artifacts = {
      modelTopology: {
        node: [
          { name: 'x', op: 'Placeholder', attr: { dtype: float, shape } },
          ...names.map((name) => ({ name, op: 'Const', attr: { dtype: float } })),
          { name: 'bn', op: 'FusedBatchNormV3', input: ['x', ...names], attr: { T: float } },
        ],
        versions: { producer: 1, minConsumer: 1 },
      },
      weightSpecs: names.map((name) => ({ name, shape: [1], dtype: 'float32' as const })),
      weightData: Float32Array.of(1, 0, 0, 0).buffer,
    };
    const model = await tf.loadGraphModel(tf.io.fromMemory(artifacts as tf.io.ModelArtifacts));
    const [y] = (model.predict(tf.ones([1, 1, 1, 1])) as tf.Tensor).dataSync();
    const { eps = 0 } = (await loadBatchNorms(artifacts)).get('bn') as StoredBatchNorm;
    expect(y).toBeCloseTo(1 / Math.sqrt(eps), 4);
    model.dispose();
  });

  it('what is read can be trained on', async () => {
    const found = await loadBatchNorms(join(folder, 'torch-float64.safetensors'));
    const { state, convention } = found.get('0.1') as StoredBatchNorm;
    const bn = new BatchNorm(3, { convention, dtype: 'float64' });
    bn.loadStateDict(state);
    expect(bn.batchesTracked).toBe(3);
    expect(bn.runningVar).toEqual(state.running_var);
  });
});
