// Memory runs out: to be run with a limit of the address space. What is made here is never touched.
import assert from 'node:assert/strict';
import { BatchNorm, FrozenBatchNorm, forwardTraining } from 'batchnorm';
import { WorkerGroup } from 'batchnorm/workers';
import { assertSame, frozenLayer, layer, tensorOf } from './tools.mjs';

const outOfMemory = { name: 'RangeError', code: 'ERR_BATCHNORM_OUT_OF_MEMORY' };
const frozen = frozenLayer();
const small = tensorOf([2, 16]);
const expected = frozen.run(small).data;

// Half of what is left: a second one does not fit.
const size = Number(process.argv[2]);
const data = new Float32Array(new SharedArrayBuffer(size));
const x = { data, shape: [data.length / 16, 16] };
for (let round = 0; round < 3; round++) {
  assert.throws(() => frozen.run(x), outOfMemory);
  await assert.rejects(frozen.runAsync(x), outOfMemory);
  await assert.rejects(layer().forwardAsync(x), outOfMemory);
  assert.throws(() => layer().forward(x), outOfMemory);
  assert.throws(() => forwardTraining({ data: new Float32Array(0), shape: [0, 2 ** 31 - 1] }), outOfMemory);
  assert.throws(() => new BatchNorm(2 ** 31 - 1), outOfMemory);
}
const member = WorkerGroup.join(new WorkerGroup(1).handle, 0);
const values = new Float64Array(data.buffer);
assert.throws(() => member.allReduce(values), outOfMemory);
assert.throws(() => member.allGather(values, values), outOfMemory);
await assert.rejects(member.allReduceAsync(values), outOfMemory);
const bn = layer();
await assert.rejects(bn.forwardAsync(x), outOfMemory);
assert.equal(bn.batchesTracked, 0);
const [first] = await Promise.all([frozen.runAsync(small), bn.forwardAsync(small)]);
assertSame(first.data, expected, 'runAsync after all of it');
assert.equal(bn.batchesTracked, 1);
assert.equal(FrozenBatchNorm.from(bn.stateDict()).channels, 16);
console.log('right');
