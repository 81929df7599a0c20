import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Memory, memoryOf } from '../../lib/tfjs/memory.js';
import { expectError } from '../support/tensors.js';
import { tf, valuesOf } from '../support/tfjs.js';

/** What the two backends keep to themselves. */
interface Insides {
  data: Map<object, { values: Float32Array }>;
  wasm: { HEAPU8: Uint8Array };
  numDataIds(): number;
}

const insides = () => tf.backend() as unknown as Insides;
const memory = () => memoryOf(tf.backend()) as Memory;
const toTensor = (info: tf.TensorInfo) => tf.engine().makeTensorFromTensorInfo(info);

describe.each(['cpu', 'wasm'])('values of tensors on %s', (backend) => {
  beforeEach(async () => {
    await tf.setBackend(backend);
    tf.engine().startScope();
  });
  afterEach(() => tf.engine().endScope());

  it('are read and written where they are', () => {
    const x = tf.tensor1d([1, 2, 3]);
    const [info] = memory().compute([x], [[3]], ([values], [result]) => {
      expect([...values]).toEqual([1, 2, 3]);
      if (backend === 'cpu') expect(values).toBe(insides().data.get(x.dataId)?.values);
      else expect(values.buffer).toBe(insides().wasm.HEAPU8.buffer);
      result.set([4, 5, 6]);
      if (backend === 'wasm') expect(result.buffer).toBe(insides().wasm.HEAPU8.buffer);
    });
    const y = toTensor(info);
    expect([...valuesOf(y)]).toEqual([4, 5, 6]);
    expect([...valuesOf(x)]).toEqual([1, 2, 3]);
  });

  it('are absent where a tensor or a shape is', () => {
    const infos = memory().compute([undefined, tf.scalar(1)], [undefined, [1]], (inputs, [none, one]) => {
      expect(inputs[0]).toBeUndefined();
      expect(none).toBeUndefined();
      one.set(inputs[1]);
    });
    expect(infos[0]).toBeUndefined();
    expect([...valuesOf(toTensor(infos[1]))]).toEqual([1]);
  });

  it('leave nothing behind after an error', () => {
    const x = tf.tensor1d([1, 2, 3]);
    const before = insides().numDataIds();
    const fail = () => {
      throw new Error('here');
    };
    expect(() => memory().compute([x], [[3], [5]], fail)).toThrow('here');
    expectError(() => memory().compute([tf.tensor1d([1], 'int32')], [[3]], fail), TypeError);
    expect(insides().numDataIds() - before).toBe(1);
  });
});

it('values whose buffer was taken away are an error on cpu', async () => {
  await tf.setBackend('cpu');
  const data = Float32Array.of(1, 2, 3);
  const x = tf.tensor1d(data);
  structuredClone(data.buffer, { transfer: [data.buffer] });
  expectError(() => memory().compute([x], [[3]], () => {}), Error);
  x.dispose();
});

describe('the heap of wasm', () => {
  it('may grow while memory for results is made', async () => {
    await tf.setBackend('wasm');
    const x = tf.tensor1d([1, 2, 3]);
    const before = insides().wasm.HEAPU8.buffer;
    const size = before.byteLength / 4;
    const [info] = memory().compute([x], [[size]], ([values], [result]) => {
      expect(insides().wasm.HEAPU8.buffer).not.toBe(before);
      expect([...values]).toEqual([1, 2, 3]);
      expect(result).toHaveLength(size);
    });
    tf.dispose([toTensor(info), x]);
  });

  it('that is full is an error, not memory at 0', async () => {
    await tf.setBackend('wasm');
    const before = insides().numDataIds();
    for (const shapes of [[[2 ** 30 - 1024]], [[2 ** 30]], [[2 ** 29], [2 ** 29]]])
      expect(() => memory().compute([], shapes, () => {})).toThrow(
        /^a result must fit into the heap of wasm, got \d+ values/,
      );
    expect(insides().numDataIds()).toBe(before);
  });
});
