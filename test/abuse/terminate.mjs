// Workers are terminated at random moments with operations in flight. node terminate.mjs <seed> [main]: with `main` this
// thread uses the library, too.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

const [seed, main] = process.argv.slice(2);
const busy = new URL('busy.mjs', import.meta.url);
const rounds = 25;
let state = Number(seed) >>> 0;
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
};

// Imported only where the main thread has business with it: the addon may belong to workers alone.
const own = main === 'main' ? await import('./tools.mjs') : undefined;
const x = own?.tensorOf();
const frozen = own?.frozenLayer();
const expected = frozen?.run(x).data;

for (let round = 0; round < rounds; round++) {
  const workers = [new Worker(busy), new Worker(busy)];
  const isAwaited = round % 5 !== 0;
  if (isAwaited) await Promise.all(workers.map((worker) => once(worker, 'message')));
  const results = own ? [frozen.runAsync(x), own.layer().forwardAsync(x), frozen.runAsync(x)] : [];
  await new Promise((resolve) => setTimeout(resolve, random() * (round % 2 ? 4 : 30)));
  const ends = await Promise.all(workers.map((worker) => worker.terminate()));
  // One that has not begun may end with 0.
  if (isAwaited) assert.deepEqual(ends, [1, 1]);
  const [first, , last] = await Promise.all(results);
  if (own) {
    own.assertSame(first.data, expected, 'an operation beside a worker that was terminated');
    own.assertSame(last.data, expected, 'an operation beside a worker that was terminated');
  }
}
console.log('right');
