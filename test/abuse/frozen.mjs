// Frozen layers are made and used in a loop that never lets the event loop turn, which is when finalizers of native code run.
import assert from 'node:assert/strict';
import { BatchNorm } from 'batchnorm';
import { assertSame, channels, frozenLayer, isNative, tensorOf } from './tools.mjs';

const layers = isNative ? 100_000 : 10_000;
const mebibyte = 2 ** 20;
const { rss } = process.memoryUsage;

for (const size of [16, 512]) {
  const bn = new BatchNorm(size);
  const x = tensorOf([1, size]);
  const out = new Float32Array(size);
  bn.freeze().run(x, { out });
  const before = rss();
  for (let i = 0; i < layers; i++) bn.freeze().run(x, { out });
  const grown = (rss() - before) / mebibyte;
  assert.ok(
    grown < 64,
    `${layers} frozen layers of ${size} channels must keep less than 64 MiB, got ${grown}`,
  );
}

if (isNative) {
  const size = 100_000;
  const frozen = new BatchNorm(size).freeze();
  const x = tensorOf([1, size]);
  frozen.run(x, { out: x.data });
  const held = process.memoryUsage().arrayBuffers;
  frozen[Symbol.dispose]();
  const left = process.memoryUsage().arrayBuffers;
  assert.ok(held - left >= 3 * 4 * size, `disposal must free the coefficients, got ${held} and then ${left}`);
}

// An operation that has begun reads them to its end.
const x = tensorOf();
const expected = frozenLayer().run(x).data;
for (let round = 0; round < 20; round++) {
  const frozen = frozenLayer();
  const results = [frozen.runAsync(x), frozen.runAsync(x)];
  frozen[Symbol.dispose]();
  for (const { data } of await Promise.all(results)) assertSame(data, expected, 'a run that was disposed of');
}
assert.equal(frozenLayer().channels, channels);
console.log('right');
