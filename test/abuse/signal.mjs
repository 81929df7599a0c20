// Operations are cancelled.
import assert from 'node:assert/strict';
import { assertSame, churn, frozenLayer, isNative, layer, sharedOf, tensorOf, turn } from './tools.mjs';

const x = tensorOf();
const frozen = frozenLayer();
const expected = frozen.run(x).data;
const small = tensorOf([2, 16, 4]);
const expectedSmall = frozen.run(small).data;
const aborted = { name: 'AbortError' };
const blocker = sharedOf(tensorOf(isNative ? [64, 16, 128, 64] : small.shape));

/** Whether an operation was cancelled; if not, it must be right. */
function isCancelled(outcome, reason, expected) {
  if (outcome.status === 'rejected') assert.equal(outcome.reason, reason);
  else assertSame(outcome.value.data, expected, 'one that was not cancelled');
  return outcome.status === 'rejected';
}

/** Keeps the queue busy for much longer than it takes to fill it: in shared memory, nothing is copied. */
function block() {
  return Promise.all(Array.from({ length: 60 }, () => frozen.runAsync(blocker, { out: blocker.data })));
}

{
  const { signal } = new AbortController();
  const results = Array.from({ length: 1000 }, () => frozen.runAsync(small, { signal }));
  for (const { data } of await Promise.all(results))
    assertSame(data, expectedSmall, 'one of many with a signal');
}
// Other programs may hold this thread up until the queue is done, but not each time.
let cancelled = [];
for (let attempt = 0; attempt < 100 && cancelled.length === 0; attempt++) {
  const controller = new AbortController();
  const { signal } = controller;
  const first = frozen.runAsync(x);
  const blocked = block();
  const outcomes = Promise.allSettled(Array.from({ length: 1000 }, () => frozen.runAsync(small, { signal })));
  controller.abort(undefined);
  assert.equal(signal.reason.name, 'AbortError');
  cancelled = (await outcomes).filter((outcome) => isCancelled(outcome, signal.reason, expectedSmall));
  assertSame((await first).data, expected, 'one without the signal');
  await blocked;
}
assert.ok(cancelled.length > 0);
{
  // In between: each operation is either right or has the reason.
  const reason = new Error('enough');
  for (let round = 0; round < 20; round++) {
    const controller = new AbortController();
    const { signal } = controller;
    const results = Array.from({ length: 40 }, () => frozen.runAsync(x, { signal }));
    void results[isNative ? round : 1].then(() => controller.abort(reason));
    const beside = Array.from({ length: 10 }, () => frozen.runAsync(small));
    for (const outcome of await Promise.allSettled(results)) isCancelled(outcome, reason, expected);
    for (const { data } of await Promise.all(beside)) assertSame(data, expectedSmall, 'one beside');
  }
}
{
  const signal = AbortSignal.abort();
  const kept = { data: x.data.slice(), shape: x.shape };
  await assert.rejects(frozen.runAsync(kept, { signal, transfer: true }), aborted);
  await assert.rejects(layer().forwardAsync(kept, { signal, transfer: true }), aborted);
  assertSame(kept.data, x.data, 'memory that was not moved');
  await assert.rejects(
    frozen.runAsync(x, { signal: AbortSignal.abort('a word') }),
    (reason) => reason === 'a word',
  );
}
{
  const signal = AbortSignal.timeout(5);
  await assert.rejects(
    (async () => {
      for (;;) {
        await frozen.runAsync(x, { signal });
        await turn();
      }
    })(),
    { name: 'TimeoutError' },
  );
}
// What was moved is gone, and collected while other operations go on.
for (let round = 0; round < 20; round++) {
  const controller = new AbortController();
  const gone = { data: x.data.slice(), shape: x.shape };
  const first = frozen.runAsync(x);
  const outcome = Promise.allSettled([frozen.runAsync(gone, { signal: controller.signal, transfer: true })]);
  controller.abort();
  churn(x.data.byteLength);
  isCancelled((await outcome)[0], controller.signal.reason, expected);
  assert.equal(gone.data.length, 0);
  assertSame((await first).data, expected, 'one before a cancelled one');
}
{
  // A layer whose calls wait for each other.
  const controller = new AbortController();
  const { signal } = controller;
  const bn = layer();
  const reference = layer();
  reference.forward(x);
  const first = bn.forwardAsync(x);
  const waiting = [
    bn.forwardAsync(x, { signal }),
    bn.backwardAsync(x, { signal }),
    bn.forwardAsync(sharedOf(x), { signal }),
  ];
  const last = bn.backwardAsync(x);
  controller.abort();
  for (const result of waiting) await assert.rejects(result, aborted);
  await assert.rejects(last, { code: 'ERR_BATCHNORM_NO_FORWARD' });
  const { dx } = await bn.backwardAsync(x, { of: await first });
  assertSame(dx.data, reference.backward(x).dx.data, 'backwardAsync of the one that was not cancelled');
  assert.equal(bn.batchesTracked, 1);
}
{
  // A listener that begins the next operation while the others are being cancelled.
  const controller = new AbortController();
  const { signal } = controller;
  const next = [];
  const begin = () =>
    next.push(Promise.allSettled([frozen.runAsync(small, { signal }), frozen.runAsync(small)]));
  const blocked = block();
  signal.addEventListener('abort', begin);
  const results = Promise.allSettled(Array.from({ length: 10 }, () => frozen.runAsync(small, { signal })));
  controller.abort();
  for (const outcome of await results) isCancelled(outcome, signal.reason, expectedSmall);
  assert.equal(next.length, 1);
  for (const [refused, begun] of await Promise.all(next)) {
    assert.equal(refused.reason, signal.reason);
    assertSame(begun.value.data, expectedSmall, 'one begun by a listener');
  }
  await blocked;
}
console.log('right');
