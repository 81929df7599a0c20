import { lookup } from 'node:dns/promises';
import { stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { setImmediate, setTimeout } from 'node:timers/promises';
import type { Call } from '../contender.js';
import { percentiles } from './percentiles.js';

/** Milliseconds until a file and a name are looked up, by libuv's pool, in the turn of the event loop after these calls. */
export async function measurePool(calls: readonly Call[], milliseconds: number) {
  for (const call of calls) await call();
  const files: number[] = [];
  const names: number[] = [];
  const end = performance.now() + milliseconds;
  while (performance.now() < end) {
    const begun = performance.now();
    const record = async (times: number[], answer: Promise<unknown>) => {
      await answer;
      times.push(performance.now() - begun);
    };
    const queued = calls.map((call) => call());
    // In the same turn they would sometimes be faster than the loop comes to work that it was only handed.
    await setImmediate();
    await Promise.all([...queued, record(files, stat(tmpdir())), record(names, lookup('localhost'))]);
    // Not one after another without a pause: the pool's threads sleep between two requests.
    await setTimeout(1);
  }
  return { ...percentiles('stat', files), ...percentiles('lookup', names) };
}
