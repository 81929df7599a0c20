// What only the WebAssembly backend has: a memory of its own, from which arrays come and go.
import { describe, expect, it } from 'vitest';
import { createWasmBackend } from '../../lib/backend/wasm.js';
import { wasmBytes } from '../../lib/backend/wasm-bytes.js';
import { BatchNorm, backward, capabilities, forwardInference, forwardTraining } from '../../lib/index.js';

/** As the language has it since ES2024. */
const Growable = SharedArrayBuffer as unknown as new (
  bytes: number,
  options: { maxByteLength: number },
) => SharedArrayBuffer & { grow(bytes: number): void };

describe.runIf(capabilities().backend === 'wasm')('the memory of WebAssembly', () => {
  const small = { data: Float64Array.of(1, 2, 3, 4), shape: [4, 1] };
  const statistics = { mean: Float64Array.of(0), variance: Float64Array.of(1), eps: 1e-300 };

  it('refuses what it cannot hold before anything is written, and goes on', () => {
    const before = forwardTraining(small);
    // Zeros that the system has not laid anywhere yet.
    const data = new Float64Array(2 ** 29);
    expect(() => forwardTraining({ data, shape: [2 ** 29, 1] }, { out: data })).toThrow(
      expect.objectContaining({
        code: 'ERR_BATCHNORM_OUT_OF_MEMORY',
        message: expect.stringMatching(
          /^an operation must fit into the memory of WebAssembly, got \d+ bytes$/,
        ),
      }),
    );
    expect(forwardTraining(small)).toEqual(before);
  });

  it('grows for what is larger than it keeps, again and again', () => {
    const length = 3 * 2 ** 20;
    const data = new Float64Array(length).map((_, i) => i % 5);
    const x = { data, shape: [length, 1] };
    for (let i = 0; i < 5; i++)
      expect(forwardInference(x, statistics).data.every((value, at) => value === data[at])).toBe(true);
    // All of it at once, for a channel's sums must see all of it.
    const mean = data.reduce((sum, value) => sum + value) / length;
    for (let i = 0; i < 5; i++) expect(forwardTraining(x).mean[0]).toBeCloseTo(mean, 12);
  });

  it('has room for what was checked of shared memory that has grown since', async () => {
    const channels = 16;
    const shape = [64, channels];
    const tensor = () => {
      const buffer = new Growable(4 * 64 * channels, { maxByteLength: 2 ** 26 });
      const data = new Float32Array(buffer);
      for (let i = 0; i < data.length; i++) data[i] = Math.sin(i);
      return { buffer, data, shape };
    };
    const options = { activation: 'relu' } as const;
    const fixed = new BatchNorm(channels, options);
    const { data: y } = fixed.forward(tensor(), { residual: tensor() });
    const { dx } = fixed.backward(tensor());
    const { data: run } = fixed.freeze().run(tensor());
    for (const bytes of [2 ** 13, 2 ** 17, 2 ** 19, 2 ** 24, 2 ** 26]) {
      const bn = new BatchNorm(channels, options);
      const [x, residual] = [tensor(), tensor()];
      const forward = bn.forwardAsync(x, { residual });
      x.buffer.grow(bytes);
      residual.buffer.grow(bytes);
      expect((await forward).data).toEqual(y);
      const frozen = bn.freeze();
      bn.forward(tensor(), { residual: tensor() });
      const dy = tensor();
      const backward = bn.backwardAsync(dy);
      dy.buffer.grow(bytes);
      expect((await backward).dx).toEqual(dx);
      const still = tensor();
      const running = frozen.runAsync(still);
      still.buffer.grow(bytes);
      expect((await running).data).toEqual(run);
    }
  });
});

describe('a tensor that goes through WebAssembly in parts', () => {
  const random = (length: number, seed: number) =>
    Float32Array.from({ length }, (_, i) => Math.fround(Math.sin(i * seed) * 3 + 1));

  it.each([
    [3, 7, 5000],
    [1, 5, 40_001],
    [33, 12, 1030],
    [2, 3, 70_000],
  ])('has the bits of its channels one by one: %i x %i x %i', (outer, channels, inner) => {
    const size = outer * channels * inner;
    const shape = [outer, channels, inner];
    const x = { data: random(size, 0.7), shape };
    const dy = { data: random(size, 1.3), shape };
    const residual = { data: random(size, 0.9), shape };
    const weight = random(channels, 0.3);
    const bias = random(channels, 0.4);
    const activation = 'relu';
    const passes = (
      of: (tensor: { data: Float32Array; shape: number[] }) => { data: Float32Array; shape: number[] },
      parameter: <A extends Float32Array | Float64Array>(array: A) => A,
      statistics?: { mean: Float64Array; variance: Float64Array },
    ) => {
      const options = {
        weight: parameter(weight),
        bias: parameter(bias),
        activation,
        residual: of(residual),
      } as const;
      const training = forwardTraining(of(x), options);
      const { mean, variance } = statistics ?? training;
      const fixed = { ...options, mean: parameter(mean), variance: parameter(variance) };
      const inference = forwardInference(of(x), { ...fixed, mean: fixed.mean.map((value) => value + 0.5) });
      const inPlace = { data: of(x).data.slice(), shape: of(x).shape };
      forwardTraining(inPlace, { ...options, out: inPlace.data });
      const through = backward(of(dy), of(x), fixed);
      const without = backward(of(dy), of(x), { ...fixed, training: false, residual: undefined });
      return {
        mean,
        variance,
        tensors: [training.y, inference, inPlace, through.dx, through.dResidual, without.dx].map(
          (tensor) => tensor?.data as Float32Array,
        ),
        parameters: [through.dWeight, through.dBias, without.dWeight, without.dBias],
      };
    };
    const whole = passes(
      (tensor) => tensor,
      (array) => array,
    );
    for (let channel = 0; channel < channels; channel++) {
      const part = (data: Float32Array) => {
        const values = new Float32Array(outer * inner);
        for (let sample = 0; sample < outer; sample++) {
          const at = (sample * channels + channel) * inner;
          values.set(data.subarray(at, at + inner), sample * inner);
        }
        return values;
      };
      const alone = passes(
        ({ data }) => ({ data: part(data), shape: [outer, 1, inner] }),
        (array) => array.slice(channel, channel + 1) as typeof array,
        whole,
      );
      whole.tensors.forEach((data, i) => {
        expect(Buffer.compare(Buffer.from(part(data).buffer), Buffer.from(alone.tensors[i].buffer))).toBe(0);
      });
      expect(whole.parameters.map((array) => array[channel])).toEqual(
        alone.parameters.map(([value]) => value),
      );
    }
  });
});

describe.runIf(wasmBytes !== undefined)('a module', () => {
  it('has a memory of its own', () => {
    const [first, second] = [createWasmBackend(), createWasmBackend()];
    expect(first.float32).not.toBe(second.float32);
    expect(first.onTheWay).not.toBe(second.onTheWay);
  });
});
