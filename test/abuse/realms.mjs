// Arrays, objects and callbacks of other realms.
import assert from 'node:assert/strict';
import vm from 'node:vm';
import { assertSame, churn, frozenLayer, layer, sharedOf, tensorOf } from './tools.mjs';

const shape = [4, 16, 8, 8];
const x = tensorOf(shape);
const frozen = frozenLayer();
const expected = frozen.run(x).data;

for (let round = 0; round < 20; round++) {
  const realm = vm.createContext({ frozen, bn: layer(), values: Array.from(x.data), shared: sharedOf(x) });
  const y = await vm.runInContext(
    `(async () => {
      const data = Float32Array.from(values);
      const x = { data, shape: [4, 16, 8, 8] };
      const out = new Float32Array(data.length);
      const results = [
        frozen.runAsync(x),
        frozen.runAsync(x, { out }),
        frozen.runAsync(shared, { out }),
        frozen.runAsync({ data: data.slice(), shape: x.shape }, { transfer: true }),
        frozen.runAsync(x, { residual: { data: new Float32Array(data.length), shape: x.shape } }),
      ];
      const trained = Promise.all([bn.forwardAsync(x), bn.backwardAsync(x)]);
      data.fill(NaN);
      await trained;
      return Promise.all(results);
    })()`,
    realm,
  );
  for (const { data } of y) assertSame(data, expected, 'runAsync of another realm');
  // A realm that is garbage while its operations are on their way.
  vm.runInNewContext(
    'for (let i = 0; i < 10; i++) frozen.runAsync({ data: new Float32Array(4096), shape });',
    {
      frozen,
      shape,
    },
  );
  churn(2 ** 16);
}
assert.equal((await frozen.runAsync(x)).data.constructor, Float32Array);
console.log('right');
