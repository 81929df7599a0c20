// Buffers are written to in the middle of operations.
import assert from 'node:assert/strict';
import { Worker } from 'node:worker_threads';
import { assertSame, frozenLayer, isNative, layer, sharedOf, tensorOf } from './tools.mjs';

const x = tensorOf();
const residual = tensorOf(undefined, 2);
const gradient = tensorOf(undefined, 7);
const frozen = frozenLayer();
const bn = layer();
const copyOf = ({ data, shape }) => ({ data: data.slice(), shape });
const expected = {
  run: frozen.run(x, { residual }).data,
  forward: bn.forward(x).data,
  dx: bn.backward(gradient).dx.data,
};
const { weight, bias } = bn;
const parameters = [weight.slice(), bias.slice()];

for (let round = 0; round < 10; round++) {
  const [a, b, c, d] = [copyOf(x), copyOf(residual), copyOf(x), copyOf(gradient)];
  const results = {
    run: frozen.runAsync(a, { residual: b }),
    forward: bn.forwardAsync(c),
    dx: bn.backwardAsync(d),
  };
  for (const { data } of [a, b, c, d]) data.fill(Number.NaN);
  for (const array of [weight, bias]) array.fill(Number.NaN);
  assertSame((await results.run).data, expected.run, 'runAsync of memory that changes');
  assertSame((await results.forward).data, expected.forward, 'forwardAsync of memory that changes');
  assertSame((await results.dx).dx.data, expected.dx, 'backwardAsync of memory that changes');
  weight.set(parameters[0]);
  bias.set(parameters[1]);
}

const isOverwritten = ({ code }) => assert.equal(code, 'ERR_BATCHNORM_INPUT_OVERWRITTEN');

// Another thread writes all the while; what comes out is its business.
const scribbler = `
  const { workerData } = require('node:worker_threads');
  for (let value = 0; ; value++) for (const array of workerData) array.fill(value % 3 ? value : NaN);`;
const [a, b, out] = [sharedOf(x), sharedOf(residual), sharedOf(x)];
const worker = new Worker(scribbler, { eval: true, workerData: [a.data, b.data, out.data] });
for (let round = 0; round < (isNative ? 40 : 10); round++) {
  const y = await frozen.runAsync(a, { residual: b, out: out.data });
  assert.equal(y.data, out.data);
  await Promise.all([
    bn.forwardAsync(a, { out: out.data }),
    // The scribbler may refill x before this looks at it.
    bn.backwardAsync(b, { retain: true }).catch(isOverwritten),
    bn.backwardAsync(b, { out: b.data }).catch(isOverwritten),
  ]);
  frozen.run(a, { out: a.data });
}
await worker.terminate();
console.log('right');
