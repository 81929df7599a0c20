// What the programs of abuse.test.ts share. They run as users run the library: compiled, and without a TypeScript loader.
import assert from 'node:assert/strict';
import { BatchNorm, capabilities, FrozenBatchNorm } from 'batchnorm';

export const isNative = capabilities().backend === 'native';

export const channels = 16;

/** Long enough for the event loop to do something in the middle of an operation; WebAssembly computes in one turn anyway. */
export const large = isNative ? [8, channels, 64, 64] : [2, channels, 8, 8];

/** Reproducible values, whole numbers among them: no result depends on which. */
export function valuesOf(length, seed = 1, ArrayType = Float32Array) {
  const values = new ArrayType(length);
  let state = seed >>> 0;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = state / 2 ** 29 - 4;
  }
  return values;
}

/** Numbers from 0 to 1, reproducible. */
export function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

export function tensorOf(shape = large, seed = 1, ArrayType = Float32Array) {
  const length = shape.reduce((product, dimension) => product * dimension, 1);
  return { data: valuesOf(length, seed, ArrayType), shape };
}

/** The same values in shared memory, which may grow. */
export function sharedOf({ data, shape }) {
  const buffer = new SharedArrayBuffer(data.byteLength, { maxByteLength: 2 * data.byteLength });
  const copy = new data.constructor(buffer, 0, data.length);
  copy.set(data);
  return { data: copy, shape };
}

/** The same values in memory that can shrink. */
export function resizableOf({ data, shape }) {
  const buffer = new ArrayBuffer(data.byteLength, { maxByteLength: 2 * data.byteLength });
  const copy = new data.constructor(buffer, 0, data.length);
  copy.set(data);
  return { data: copy, shape };
}

export const state = {
  weight: valuesOf(channels, 3),
  bias: valuesOf(channels, 4),
  running_mean: valuesOf(channels, 5, Float64Array),
  running_var: valuesOf(channels, 6, Float64Array).map(Math.abs),
};

export function frozenLayer(options) {
  return FrozenBatchNorm.from(state, options);
}

export function layer(options) {
  const bn = new BatchNorm(channels, options);
  bn.weight.set(state.weight);
  bn.bias.set(state.bias);
  return bn;
}

export function assertSame(actual, expected, what) {
  const bytes = ({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength);
  assert.ok(bytes(actual).equals(bytes(expected)), `${what} must be the same to the bit`);
}

/** Detaches and collects a buffer, and lays something else where it was. */
export function steal(buffer) {
  structuredClone(buffer, { transfer: [buffer] });
  churn(buffer.byteLength || 2 ** 16);
}

/** Needs --expose-gc. */
export function churn(bytes) {
  globalThis.gc();
  for (let i = 0; i < 4; i++) new Uint8Array(bytes).fill(0xff);
  globalThis.gc();
}

export function turn() {
  return new Promise((resolve) => setImmediate(resolve));
}

export function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
