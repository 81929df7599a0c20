// What only the WebAssembly backend has: a memory of its own, from which arrays come and go.
import { describe, expect, it } from 'vitest';
import { createWasmBackend } from '../lib/backend/wasm.js';
import { wasmBytes } from '../lib/backend/wasm-bytes.js';
import { capabilities, forwardInference, forwardTraining } from '../lib/index.js';

describe.runIf(capabilities().backend === 'wasm')('the memory of WebAssembly', () => {
  const small = { data: Float64Array.of(1, 2, 3, 4), shape: [4, 1] };
  const statistics = { mean: Float64Array.of(0), variance: Float64Array.of(1), eps: 1e-300 };

  it('refuses what it cannot hold before anything is written, and goes on', () => {
    const before = forwardTraining(small);
    // Zeros that the system has not laid anywhere yet.
    const data = new Float64Array(2 ** 29);
    expect(() => forwardInference({ data, shape: [2 ** 29, 1] }, { ...statistics, out: data })).toThrow(
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
  });
});

describe.runIf(wasmBytes !== undefined)('a module', () => {
  it('has a memory of its own', () => {
    const [first, second] = [createWasmBackend(), createWasmBackend()];
    expect(first.float32).not.toBe(second.float32);
    expect(first.onTheWay).not.toBe(second.onTheWay);
  });
});
