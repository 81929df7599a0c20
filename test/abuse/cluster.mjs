// Processes that begin with operations in flight.
import assert from 'node:assert/strict';
import { execFileSync, fork } from 'node:child_process';
import cluster from 'node:cluster';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { assertSame, frozenLayer, sharedOf, tensorOf } from './tools.mjs';

const x = tensorOf();
const frozen = frozenLayer();
const expected = frozen.run(x).data;
const begin = () => Array.from({ length: 40 }, (_, i) => frozen.runAsync(i % 2 ? x : sharedOf(x)));
const check = async (results) => {
  for (const { data } of await Promise.all(results)) assertSame(data, expected, 'one in flight');
};

if (!cluster.isPrimary || process.send) {
  const results = begin();
  process.send('begun');
  await check(results);
  process.disconnect();
} else {
  const results = begin();
  cluster.setupPrimary({ serialization: 'advanced' });
  const children = [
    cluster.fork().process,
    cluster.fork().process,
    fork(fileURLToPath(import.meta.url)),
    fork(fileURLToPath(import.meta.url)),
  ];
  assert.equal(execFileSync(process.execPath, ['--print', '1'], { encoding: 'utf8' }), '1\n');
  results.push(...begin());
  const killed = fork(fileURLToPath(import.meta.url));
  killed.once('message', () => killed.kill());
  const ends = await Promise.all(children.map((child) => once(child, 'exit')));
  assert.deepEqual(ends, Array(4).fill([0, null]));
  await check(results);
  if (killed.exitCode === null && killed.signalCode === null) await once(killed, 'exit');
  console.log('right');
}
