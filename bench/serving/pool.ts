import { lookup } from 'node:dns/promises';
import { stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { setTimeout } from 'node:timers/promises';
import type { Call } from '../contender.js';
import { percentiles } from './percentiles.js';

/** Milliseconds that a file and a name take, which libuv's pool looks up, with these calls begun right before them. */
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
    await Promise.all([...queued, record(files, stat(tmpdir())), record(names, lookup('localhost'))]);
    // Not one after another without a pause: the pool's threads sleep between two requests.
    await setTimeout(1);
  }
  return { ...percentiles('stat', files), ...percentiles('lookup', names) };
}
