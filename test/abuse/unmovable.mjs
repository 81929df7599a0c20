// Memory that cannot be moved is refused, and stays what and whose it is.
import assert from 'node:assert/strict';
import { markAsUntransferable } from 'node:worker_threads';
import { assertSame, channels, churn, frozenLayer, layer, valuesOf } from './tools.mjs';

const shape = [2, channels];
const length = 2 * channels;
const values = valuesOf(length);

function pooled() {
  // As much again, for the alignment.
  const bytes = Buffer.allocUnsafe(8 * length);
  assert.notEqual(bytes.buffer.byteLength, bytes.length);
  return new Float32Array(bytes.buffer, Math.ceil(bytes.byteOffset / 4) * 4, length);
}

const marked = new Float32Array(length);
markAsUntransferable(marked.buffer);
const pages = { initial: 1, maximum: 2 };
const memories = {
  'a pooled Buffer': pooled(),
  'WebAssembly memory': new Float32Array(new WebAssembly.Memory(pages).buffer, 64, length),
  'shared WebAssembly memory': new Float32Array(
    new WebAssembly.Memory({ ...pages, shared: true }).buffer,
    64,
    length,
  ),
  'a SharedArrayBuffer': new Float32Array(new SharedArrayBuffer(4 * length)),
  'a resizable ArrayBuffer': new Float32Array(new ArrayBuffer(4 * length, { maxByteLength: 8 * length })),
  'memory marked as untransferable': marked,
};
const frozen = frozenLayer();
const expected = frozen.run({ data: values, shape }).data;

for (const [name, data] of Object.entries(memories)) {
  data.set(values);
  const bn = layer();
  const of = bn.forward({ data: values, shape });
  const calls = {
    'x.data': [
      () => frozen.runAsync({ data, shape }, { transfer: true }),
      () => bn.forwardAsync({ data, shape }, { transfer: true }),
    ],
    'dy.data': [() => bn.backwardAsync({ data, shape }, { transfer: true, of })],
  };
  for (const [argument, attempts] of Object.entries(calls))
    for (const attempt of attempts)
      await assert.rejects(attempt, (error) => {
        assert.equal(error.code, 'ERR_BATCHNORM_NOT_TRANSFERABLE', name);
        assert.equal(error.constructor, RangeError);
        assert.match(
          error.message,
          new RegExp(`^${argument} must lie in an ArrayBuffer of its own with transfer: true, got `),
        );
        return true;
      });
  churn(2 ** 16);
  assertSame(data, values, name);
  assert.equal(bn.batchesTracked, 1);
  assertSame((await frozen.runAsync({ data, shape })).data, expected, `runAsync of ${name}`);
  assert.equal((await frozen.runAsync({ data, shape }, { out: data })).data, data);
  assertSame(data, expected, `runAsync in ${name}`);
}
console.log('right');
