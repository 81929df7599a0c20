// Nobody keeps anything: layers, tensors and promises are garbage as soon as they are made.
import assert from 'node:assert/strict';
import {
  assertSame,
  churn,
  frozenLayer,
  isNative,
  layer,
  sharedOf,
  sleep,
  tensorOf,
  turn,
} from './tools.mjs';

const shape = isNative ? [4, 16, 32, 32] : [2, 16, 4, 4];
const x = tensorOf(shape);
const expected = frozenLayer().run(x).data;
let finished = 0;

function begin(round) {
  const frozen = frozenLayer();
  const bn = layer();
  const own = { data: x.data.slice(), shape };
  const done = () => {
    finished++;
  };
  // The promises are dropped with their reactions, which is all that can be seen of them.
  if (round % 2) frozen.runAsync(sharedOf(x), { transfer: false }).then(done);
  else frozen.runAsync(own, { transfer: true }).then(done);
  bn.forwardAsync(sharedOf(x));
  bn.backwardAsync(sharedOf(x)).then(done);
  frozen.runAsync(x, { out: new Float32Array(x.data.length) });
  frozen.runAsync(x, { signal: new AbortController().signal });
}

const rounds = 200;
for (let round = 0; round < rounds; round++) {
  begin(round);
  if (round % 10 === 0) churn(x.data.byteLength);
  if (round % 3 === 0) await turn();
}
while (finished < 2 * rounds) await sleep(1);
churn(x.data.byteLength);
assert.equal(finished, 2 * rounds);
assertSame((await frozenLayer().runAsync(x)).data, expected, 'runAsync after all of it');
console.log('right');
