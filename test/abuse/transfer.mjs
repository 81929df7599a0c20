// Buffers are taken away in the middle of operations.
import assert from 'node:assert/strict';
import { MessageChannel } from 'node:worker_threads';
import { assertSame, churn, frozenLayer, isNative, layer, steal, tensorOf } from './tools.mjs';

const x = tensorOf();
const residual = tensorOf(undefined, 2);
const gradient = tensorOf(undefined, 7);
const copyOf = ({ data, shape }) => ({ data: data.slice(), shape });
const rounds = isNative ? 10 : 20;

function post({ buffer }) {
  const { port1, port2 } = new MessageChannel();
  port1.postMessage(buffer, [buffer]);
  port1.close();
  port2.close();
  churn(2 ** 20);
}

const frozen = frozenLayer({ activation: 'relu' });
const trained = () => layer({ activation: 'relu' });
const expected = {
  run: frozen.run(x, { residual }).data,
  forward: trained().forward(x, { residual }).data,
};
const forBackward = trained();
forBackward.forward(x, { residual });
expected.dx = forBackward.backward(gradient).dx.data;

for (let round = 0; round < rounds; round++) {
  const take = round % 2 === 0 ? (array) => steal(array.buffer) : post;
  {
    const [own, added] = [copyOf(x), copyOf(residual)];
    const y = frozen.runAsync(own, { residual: added });
    take(own.data);
    take(added.data);
    assert.equal(own.data.length, 0);
    assertSame((await y).data, expected.run, 'runAsync without its x and residual');
  }
  {
    const out = new Float32Array(x.data.length);
    const y = frozen.runAsync(x, { residual, out });
    take(out);
    await assert.rejects(y, { code: 'ERR_BATCHNORM_BUFFER_CHANGED' });
  }
  {
    const [own, added, bn] = [copyOf(x), copyOf(residual), trained()];
    const y = bn.forwardAsync(own, { residual: added });
    const dy = copyOf(gradient);
    const gradients = bn.backwardAsync(dy);
    take(own.data);
    take(added.data);
    take(dy.data);
    assertSame((await y).data, expected.forward, 'forwardAsync without its x and residual');
    assertSame((await gradients).dx.data, expected.dx, 'backwardAsync without its dy');
  }
  {
    const bn = trained();
    const out = new Float32Array(x.data.length);
    const y = bn.forwardAsync(x, { residual, out });
    take(out);
    await assert.rejects(y, { code: 'ERR_BATCHNORM_BUFFER_CHANGED' });
    assert.equal(bn.batchesTracked, 0);
    await bn.forwardAsync(x, { residual });
    const outOfBackward = new Float32Array(x.data.length);
    const gradients = bn.backwardAsync(gradient, { out: outOfBackward });
    take(outOfBackward);
    await assert.rejects(gradients, { code: 'ERR_BATCHNORM_BUFFER_CHANGED' });
    assert.ok(bn.parameters().every(({ grad }) => grad.every((value) => value === 0)));
  }
  {
    const bn = trained();
    const own = copyOf(x);
    bn.forward(own, { residual });
    const gradients = bn.backwardAsync(gradient, { retain: true });
    take(own.data);
    assertSame(
      (await gradients).dx.data,
      expected.dx,
      'backwardAsync without the x of a synchronous forward',
    );
    await assert.rejects(bn.backwardAsync(gradient), { code: 'ERR_BATCHNORM_INVALID_VALUE' });
  }
}
console.log('right');
