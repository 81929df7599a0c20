// Layers are disposed of in the middle of their operations.
import assert from 'node:assert/strict';
import { assertSame, churn, frozenLayer, isNative, tensorOf } from './tools.mjs';

const x = tensorOf();
const expected = frozenLayer().run(x).data;
const disposed = { code: 'ERR_BATCHNORM_DISPOSED' };

for (let round = 0; round < (isNative ? 10 : 20); round++) {
  const frozen = frozenLayer();
  const results = [frozen.runAsync(x), frozen.runAsync(x), frozen.runAsync(x)];
  frozen[Symbol.dispose]();
  frozen[Symbol.dispose]();
  churn(2 ** 16);
  for (const { data } of await Promise.all(results))
    assertSame(data, expected, 'runAsync of a disposed layer');
  await assert.rejects(frozen.runAsync(x), disposed);
  assert.throws(() => frozen.run(x), disposed);
  frozen[Symbol.dispose]();
}

// What `using` compiles to.
async function use() {
  const frozen = frozenLayer();
  try {
    return frozen.runAsync(x);
  } finally {
    frozen[Symbol.dispose]();
  }
}
assertSame((await use()).data, expected, 'a result that outlives its layer');
console.log('right');
