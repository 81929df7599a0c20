// What scripts/test-install.ts runs beside an installed package: node work.mjs <backend that must serve> <version of it>
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import * as workerThreads from 'node:worker_threads';
import * as library from 'batchnorm';
import { loadBatchNorms } from 'batchnorm/files';
import { mpi } from 'batchnorm/mpi';
import { WorkerGroup } from 'batchnorm/workers';
import { describeGolden } from './golden-difference.js';

const [backend, version] = process.argv.slice(2);
const { BatchNorm, capabilities } = library;
assert.equal(capabilities().backend, backend);
assert.equal(capabilities().version, version);

const required = createRequire(import.meta.url)('batchnorm');
assert.equal(required.BatchNorm, BatchNorm, 'require and import must give one library');
// Which need not be one, for a group is what its memory says.
const { WorkerGroup: RequiredGroup } = createRequire(import.meta.url)('batchnorm/workers');
assert.equal(RequiredGroup.join(new WorkerGroup(3).handle, 2).size, 3);

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

// A file of a batch norm.
const entry = (begin) => ({ dtype: 'F32', shape: [1], data_offsets: [begin, begin + 4] });
const header = JSON.stringify({ 'bn.running_mean': entry(0), 'bn.running_var': entry(4) });
const file = Buffer.alloc(8 + header.length + 8);
file.writeBigUInt64LE(BigInt(header.length));
file.write(header, 8);
file.writeFloatLE(3, 8 + header.length);
assert.equal((await loadBatchNorms(file)).get('bn').state.running_mean[0], 3);

// One batch over two workers.
const { handle } = new WorkerGroup(2);
const member = `
  const { parentPort, workerData: { handle, rank } } = require('node:worker_threads');
  Promise.all([import('batchnorm'), import('batchnorm/workers')]).then(([{ BatchNorm }, { WorkerGroup }]) => {
    const bn = new BatchNorm(1, { group: WorkerGroup.join(handle, rank) });
    bn.forward({ data: Float32Array.of(4 * rank + 1, 4 * rank + 3), shape: [2, 1] });
    parentPort.postMessage(bn.lastMoments.mean[0]);
  });`;
const means = [0, 1].map((rank) => {
  const worker = new workerThreads.Worker(member, { eval: true, workerData: { handle, rank } });
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
});
assert.deepEqual(await Promise.all(means), [4, 4]);

// Whether there is an MPI here or none, nobody has this one.
const { mpi: requiredMpi } = createRequire(import.meta.url)('batchnorm/mpi');
for (const start of [mpi, requiredMpi])
  assert.throws(() => start({ library: 'no-such-mpi.so' }), { code: 'ERR_BATCHNORM_MPI_UNAVAILABLE' });

const { isa, isas } = capabilities();
console.log(`right ${process.version} ${process.platform}-${process.arch} ${isa} of ${isas.join(', ')}`);
