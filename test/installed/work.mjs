// What scripts/test-install.ts runs beside an installed package: node work.mjs <backend that must serve> <version of it>
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import * as workerThreads from 'node:worker_threads';
import * as library from 'batchnorm';
import { describeGolden } from './golden-difference.js';

const [backend, version] = process.argv.slice(2);
const { BatchNorm, capabilities } = library;
assert.equal(capabilities().backend, backend);
assert.equal(capabilities().version, version);

const required = createRequire(import.meta.url)('batchnorm');
assert.equal(required.BatchNorm, BatchNorm, 'require and import must give one library');

const bn = new BatchNorm(16, { activation: 'relu' });
const tensor = () => ({
  data: Float32Array.from({ length: 8 * 16 * 32 * 32 }, (_, i) => Math.sin(i)),
  shape: [8, 16, 32, 32],
});
const x = tensor();
const y = bn.forward(x);
const { dx, dWeight } = bn.backward({ data: y.data, shape: y.shape });
assert.ok(dx.data.every(Number.isFinite) && dWeight.every(Number.isFinite));
assert.deepEqual(BatchNorm.fromJSON(JSON.parse(JSON.stringify(bn))).stateDict(), bn.stateDict());
if ('markAsUncloneable' in workerThreads)
  assert.throws(() => structuredClone(bn), { name: 'DataCloneError' });

const frozen = bn.freeze();
const expected = frozen.run(x).data;
assert.deepEqual((await frozen.runAsync(x)).data, expected);
assert.deepEqual((await frozen.runAsync(x, { transfer: true })).data, expected);
await assert.rejects(frozen.runAsync(tensor(), { signal: AbortSignal.abort() }), { name: 'AbortError' });
assert.equal(await describeGolden(), undefined);

const { isa, isas } = capabilities();
console.log(`right ${process.version} ${process.platform}-${process.arch} ${isa} of ${isas.join(', ')}`);
