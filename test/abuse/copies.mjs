// The library several times in one process. node copies.mjs <folder>…: each holds a copy of the package.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { pathToFileURL } from 'node:url';
import { isMainThread, Worker } from 'node:worker_threads';
import * as library from 'batchnorm';
import { assertSame, sharedOf, state, tensorOf } from './tools.mjs';

const folders = process.argv.slice(2);
const urls = folders.map((folder) => `${pathToFileURL(folder)}/dist/index.js`);
urls.push(`${import.meta.resolve('batchnorm')}?2`);
const libraries = [library, ...(await Promise.all(urls.map((url) => import(url))))];
assert.equal(new Set(libraries.map(({ BatchNorm }) => BatchNorm)).size, 1 + folders.length);

const layers = libraries.map(({ FrozenBatchNorm }) => FrozenBatchNorm.from(state));
const x = tensorOf();
const small = tensorOf([2, 16]);
const expected = layers[0].run(x).data;
const expectedSmall = layers[0].run(small).data;

for (let round = 0; round < 20; round++) {
  const { signal } = new AbortController();
  const results = [];
  for (let i = 0; i < 10; i++)
    for (const layer of layers) results.push(layer.runAsync(x, { signal }), layer.runAsync(sharedOf(small)));
  (await Promise.all(results)).forEach(({ data }, i) => {
    assertSame(data, i % 2 ? expectedSmall : expected, 'runAsync beside copies of the library');
  });
}
// A signal must reach what it was given to, and nothing that came after it.
for (let round = 0; round < 20; round++) {
  const controller = new AbortController();
  await Promise.all(layers.map((layer) => layer.runAsync(small, { signal: controller.signal })));
  const results = layers.map((layer) => layer.runAsync(x));
  controller.abort();
  for (const { data } of await Promise.all(results)) assertSame(data, expected, 'one without the signal');
}
if (isMainThread) {
  const [code] = await once(new Worker(new URL(import.meta.url), { argv: folders }), 'exit');
  assert.equal(code, 0);
}
console.log('right');
