// 100,000 small operations, thousands in flight: what they took is given back, and nothing keeps the process alive.
import assert from 'node:assert/strict';
import { assertSame, churn, frozenLayer, layer, sharedOf, tensorOf, turn } from './tools.mjs';

const x = tensorOf([2, 16, 4]);
const shared = sharedOf(x);
const frozen = frozenLayer();
const expected = frozen.run(x).data;
const inFlight = 4000;

async function flood(operations) {
  const controller = new AbortController();
  for (let begun = 0; begun < operations; begun += inFlight) {
    const results = Array.from({ length: Math.min(inFlight, operations - begun) }, (_, i) =>
      frozen.runAsync(i % 2 ? x : shared, i % 5 ? undefined : { signal: controller.signal }),
    );
    for (const { data } of await Promise.all(results)) assertSame(data, expected, 'one of many');
  }
}

async function used() {
  for (let i = 0; i < 3; i++) {
    churn(2 ** 16);
    // Some of what is garbage is given back in a turn of the event loop.
    await turn();
    await turn();
  }
  const { heapUsed, external, rss } = process.memoryUsage();
  return { heapUsed, external, rss };
}

await flood(20_000);
const before = await used();
await flood(100_000);
const after = await used();
const grown = (key) => (after[key] - before[key]) / 2 ** 20;
assert.ok(grown('heapUsed') < 4, `the heap must not grow, got ${grown('heapUsed')} MiB`);
assert.ok(grown('external') < 4, `external memory must not grow, got ${grown('external')} MiB`);
assert.ok(grown('rss') < 64, `the process must not grow, got ${grown('rss')} MiB`);

// Thousands of one layer, which follow each other.
const bn = layer();
await Promise.all(Array.from({ length: 3000 }, () => bn.forwardAsync(shared)));
assert.equal(bn.batchesTracked, 3000);
console.log('right');
