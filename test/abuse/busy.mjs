// A worker that never stops.
import { parentPort } from 'node:worker_threads';
import { frozenLayer, layer, sharedOf, tensorOf } from './tools.mjs';

const small = tensorOf([2, 16, 8]);
const x = tensorOf();
const shared = sharedOf(x);
const frozen = frozenLayer();
const bn = layer();

for (let round = 0; ; round++) {
  const results = [
    frozen.runAsync(small),
    frozen.runAsync(x),
    frozen.runAsync(shared, { out: shared.data }),
    bn.forwardAsync(x),
    bn.backwardAsync(x),
    ...Array.from({ length: 20 }, () => frozen.runAsync(small, { signal: new AbortController().signal })),
  ];
  if (round === 0) parentPort.postMessage('busy');
  frozen.run(x);
  await Promise.race(results);
}
