// The end of a thread with operations in flight. node exit.mjs main|worker <how>
import assert from 'node:assert/strict';
import { isMainThread, Worker } from 'node:worker_threads';
import { assertSame, frozenLayer, layer, sharedOf, tensorOf } from './tools.mjs';

const [where, how] = process.argv.slice(2);
const x = tensorOf();
const frozen = frozenLayer();
const expected = frozen.run(x).data;

const ends = {
  exit: () => process.exit(7),
  exception: () => {
    throw new Error('on purpose');
  },
  later: () =>
    setImmediate(() => {
      throw new Error('on purpose');
    }),
  rejection: () => {
    Promise.reject(new Error('on purpose'));
  },
  // Of the promises of the library itself.
  unhandled: () => {
    frozen.runAsync(x, { transfer: 1 });
  },
  // In a reaction to a result: on the stack of the addon's own call into JavaScript.
  reaction: () => {
    frozen.runAsync(x).then(() => process.nextTick(() => process.exit(7)));
  },
  natural: () => {},
};

if (where === 'worker' && isMainThread) {
  const worker = new Worker(new URL(import.meta.url), { argv: [where, how] });
  let message = 'none';
  worker.on('error', (error) => {
    message = error.message;
  });
  const mine = [frozen.runAsync(x), frozen.runAsync(sharedOf(x))];
  // events.once would reject with the worker's error.
  const code = await new Promise((resolve) => worker.on('exit', resolve));
  mine.push(frozen.runAsync(x));
  for (const { data } of await Promise.all(mine))
    assertSame(data, expected, 'an operation of the main thread');
  console.log(`worker: ${code}, ${message}`);
} else {
  const shared = sharedOf(x);
  const bn = layer();
  let settled = 0;
  const results = [];
  for (let i = 0; i < 10; i++)
    results.push(
      frozen.runAsync(x),
      frozen.runAsync(shared),
      frozen.runAsync({ data: x.data.slice(), shape: x.shape }, { transfer: true }),
      bn.forwardAsync(x),
      bn.backwardAsync(shared),
    );
  for (const result of results)
    result.then(() => {
      settled++;
      if (how === 'natural' && settled === results.length) console.log(`settled: ${settled}`);
    });
  results[0].then(({ data }) => assertSame(data, expected, 'the first'));
  assert.equal(settled, 0);
  ends[how]();
}
