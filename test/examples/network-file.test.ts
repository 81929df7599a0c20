// The network of the main job in a safetensors file.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readSafetensors, type StoredTensor, writeSafetensors } from 'batchnorm/files';
import { afterAll, describe, expect, it } from 'vitest';
import { loadNetwork, pathWithout, saveNetwork } from '../../examples/mnist/checkpoint.js';
import { activations, Network } from '../../examples/mnist/network.js';
import { uniform } from '../../examples/mnist/random.js';

const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('a network in a file', () => {
  const sizes = [6, 5, 4, 3];
  const path = join(folder, 'network.safetensors');
  const random = uniform(1);
  const network = new Network(8, sizes, true, random);
  const x = activations(8, 6);
  x.data.forEach((_, i) => {
    x.data[i] = random();
  });
  network.forward(x);
  saveNetwork(path, network, new Map([['format', 'pt']]));
  const stored = readSafetensors(path);

  /** The message of loading the stored network with one tensor changed. */
  function refusal(name: string, tensor: StoredTensor | undefined): string {
    const changed = join(folder, 'changed.safetensors');
    const tensors = new Map(stored.tensors);
    if (tensor === undefined) tensors.delete(name);
    else tensors.set(name, tensor);
    writeSafetensors(changed, { ...stored, tensors });
    try {
      loadNetwork(changed, sizes);
    } catch (error) {
      return (error as Error).message;
    }
    return 'loaded';
  }

  it("has PyTorch's names and shapes", () => {
    const shapes = [...stored.tensors].map(([name, { shape }]) => `${name} [${shape}]`);
    expect(shapes.sort()).toEqual([
      'layers.0.bias [5]',
      'layers.0.weight [5,6]',
      'layers.1.bias [5]',
      'layers.1.num_batches_tracked []',
      'layers.1.running_mean [5]',
      'layers.1.running_var [5]',
      'layers.1.weight [5]',
      'layers.3.bias [4]',
      'layers.3.weight [4,5]',
      'layers.4.bias [4]',
      'layers.4.num_batches_tracked []',
      'layers.4.running_mean [4]',
      'layers.4.running_var [4]',
      'layers.4.weight [4]',
      'layers.6.bias [3]',
      'layers.6.weight [3,4]',
    ]);
    expect(stored.metadata.get('format')).toBe('pt');
  });

  it('is loaded as it was', () => {
    const blocks = loadNetwork(path, sizes);
    const [linear, norm] = network.layers.map((layer) => layer.state());
    expect(blocks).toHaveLength(3);
    expect(blocks[0].linear.weight).toEqual(linear.get('weight')?.data);
    expect(blocks[0].norm?.running_mean).toEqual(norm.get('running_mean')?.data);
    expect(blocks[2].norm).toBeUndefined();
  });

  it('may be one without batch norm, whose hidden layers have a ReLU', () => {
    const other = pathWithout(path);
    expect(other).toBe(join(folder, 'network-without.safetensors'));
    const plain = new Network(8, sizes, false, random);
    saveNetwork(other, plain, new Map());
    const blocks = loadNetwork(other, sizes, false);
    expect(blocks.map(({ linear, norm }) => [linear.activation, norm])).toEqual([
      ['relu', undefined],
      ['relu', undefined],
      [undefined, undefined],
    ]);
    expect(blocks[1].linear.weight).toEqual(plain.layers[2].state().get('weight')?.data);
    expect(() => loadNetwork(path, sizes, false)).toThrow(
      /^file must have the tensors of the network 6-5-4-3 only, got layers\.1\./,
    );
    expect(() => loadNetwork(other, sizes)).toThrow(/layers\.1\./);
  });

  it('may have its statistics in float32, as PyTorch writes them', () => {
    expect(refusal('layers.1.running_mean', { data: new Float32Array(5), shape: [5] })).toBe('loaded');
  });

  it.each<[name: string, tensor: StoredTensor | undefined, message: string]>([
    [
      'layers.1.running_var',
      undefined,
      'state["layers.1.running_var"] must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got undefined',
    ],
    [
      'layers.2.weight',
      { data: new Float32Array(5), shape: [5] },
      'file must have the tensors of the network 6-5-4-3 only, got layers.2.weight',
    ],
    [
      '__proto__',
      { data: new Float32Array(1), shape: [1] },
      'file must have the tensors of the network 6-5-4-3 only, got __proto__',
    ],
    [
      'layers.0.weight',
      { data: new Float32Array(30), shape: [6, 5] },
      'layers.0.weight must have shape [5, 6] (the network 6-5-4-3), got [6, 5]',
    ],
    [
      'layers.0.bias',
      { data: new Float64Array(5), shape: [5] },
      'layers.0.bias must be a Float32Array, got a Float64Array',
    ],
    [
      'layers.1.running_mean',
      { data: new BigInt64Array(5), shape: [5] },
      'state["layers.1.running_mean"].data must be a Float32Array, a Float64Array or an array of numbers, got BigInt64Array',
    ],
    [
      'layers.4.bias',
      { data: Float32Array.of(0, 0, Number.NaN, 0), shape: [4] },
      'state["layers.4.bias"] must be finite, got NaN in channel 2',
    ],
    [
      'layers.4.bias',
      { data: new Float32Array(5), shape: [5] },
      'state["layers.4.bias"] must have 4 values (one per channel), got 5',
    ],
    [
      'layers.3.bias',
      { data: Float32Array.of(0, 0, Number.NaN, 0), shape: [4] },
      'layers.3.bias[2] must be finite, got NaN',
    ],
    ['layers.3.weight', undefined, 'layers.3.weight must be in the file (the network 6-5-4-3), got none'],
    [
      'layers.4.running_var',
      { data: Float64Array.of(1, -1, 1, 1), shape: [4] },
      'state["layers.4.running_var"] must not be negative, got -1 in channel 1',
    ],
    [
      'layers.4.num_batches_tracked',
      { data: BigInt64Array.of(-1n), shape: [] },
      'state["layers.4.num_batches_tracked"] must be an integer from 0 to 9007199254740991, got -1n',
    ],
  ])('is refused where %s is wrong', (name, tensor, message) => {
    expect(refusal(name, tensor)).toBe(message);
  });

  it('is refused where the file is larger than any such network', () => {
    const large = join(folder, 'large.safetensors');
    writeFileSync(large, new Uint8Array(1 << 20));
    expect(() => loadNetwork(large, sizes)).toThrow(/^file must have at most \d+ bytes, got 1048576$/);
  });
});
