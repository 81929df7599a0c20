// Buffers shrink and grow in the middle of operations.
import assert from 'node:assert/strict';
import {
  assertSame,
  churn,
  frozenLayer,
  isNative,
  layer,
  resizableOf,
  sharedOf,
  tensorOf,
} from './tools.mjs';

const x = tensorOf();
const residual = tensorOf(undefined, 2);
const gradient = tensorOf(undefined, 7);
const frozen = frozenLayer();
const y = frozen.run(x, { residual }).data;
const bn = layer();
const trained = bn.forward(x).data;
const dx = bn.backward(gradient).dx.data;

for (let round = 0; round < (isNative ? 10 : 20); round++) {
  const [own, added] = [resizableOf(x), resizableOf(residual)];
  const run = frozen.runAsync(own, { residual: added });
  own.data.buffer.resize(4);
  added.data.buffer.resize(0);
  churn(2 ** 20);
  assertSame((await run).data, y, 'runAsync of memory that shrinks');

  const [ownForward, ownGradient] = [resizableOf(x), resizableOf(gradient)];
  const forward = bn.forwardAsync(ownForward);
  const backward = bn.backwardAsync(ownGradient);
  ownForward.data.buffer.resize(0);
  ownGradient.data.buffer.resize(0);
  assertSame((await forward).data, trained, 'forwardAsync of memory that shrinks');
  assertSame((await backward).dx.data, dx, 'backwardAsync of memory that shrinks');

  const out = resizableOf(x).data;
  const tooShort = frozen.runAsync(x, { residual, out });
  out.buffer.resize(16);
  await assert.rejects(tooShort, { code: 'ERR_BATCHNORM_BUFFER_CHANGED' });
  const tracking = new Float32Array(resizableOf(x).data.buffer);
  const tooLong = frozen.runAsync(x, { residual, out: tracking });
  tracking.buffer.resize(tracking.byteLength + 4);
  await assert.rejects(tooLong, { code: 'ERR_BATCHNORM_BUFFER_CHANGED' });
  assertSame(tracking.subarray(0, x.data.length), x.data, 'out that has grown');

  const [sharedX, sharedResidual, sharedOut] = [sharedOf(x), sharedOf(residual), sharedOf(x)];
  const results = [
    frozen.runAsync(sharedX, { residual: sharedResidual, out: sharedOut.data }),
    frozen.runAsync(
      { data: new Float32Array(sharedX.data.buffer), shape: x.shape },
      { residual: sharedResidual },
    ),
  ];
  for (const { data } of [sharedX, sharedResidual, sharedOut]) data.buffer.grow(2 * data.byteLength);
  for (const result of results) assertSame((await result).data, y, 'runAsync of memory that grows');
}
const refusal = (name) => ({
  code: 'ERR_BATCHNORM_NOT_TRANSFERABLE',
  message: `${name} must lie in an ArrayBuffer of its own with transfer: true, got a resizable ArrayBuffer`,
});
const tracking = { data: new Float32Array(resizableOf(x).data.buffer, 0), shape: x.shape };
for (const refused of [resizableOf(x), tracking]) {
  refused.data.buffer.resize(x.data.byteLength);
  await assert.rejects(frozen.runAsync(refused, { transfer: true }), refusal('x.data'));
  await assert.rejects(bn.forwardAsync(refused, { transfer: true }), refusal('x.data'));
  const of = bn.forward(x);
  await assert.rejects(bn.backwardAsync(refused, { transfer: true, of }), refusal('dy.data'));
  assertSame(refused.data, x.data, 'memory that was refused');
}
console.log('right');
