import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setImmediate, setTimeout } from 'node:timers/promises';
import type { Call } from '../contender.js';
import { percentiles } from './percentiles.js';

/** Milliseconds between two looks at the event loop. */
const resolution = 1;

/**
 * How late the event loop is, in milliseconds, while requests are computed without a pause: as perf_hooks measures it,
 * whose figures contain the millisecond between two looks, and the lateness of a timer of our own.
 */
export async function measureLoop(calls: readonly Call[], milliseconds: number) {
  // What is slow once (pages touched first, compilation) is none of the steady state.
  for (const call of calls) await call();
  const histogram = monitorEventLoopDelay({ resolution });
  const lateness: number[] = [];
  let operations = 0;
  let last = performance.now();
  const started = last;
  const timer = setInterval(() => {
    const now = performance.now();
    // Timers count whole milliseconds: one may come a little early.
    lateness.push(Math.max(0, now - last - resolution));
    last = now;
  }, resolution);
  histogram.enable();
  const work = async (call: Call) => {
    while (performance.now() < started + milliseconds) {
      await call();
      operations++;
      // A request comes from the event loop, whatever kept it busy before.
      await setImmediate();
    }
  };
  await Promise.all(calls.length > 0 ? calls.map(work) : [setTimeout(milliseconds)]);
  const seconds = (performance.now() - started) / 1000;
  histogram.disable();
  clearInterval(timer);
  return {
    'loop p50': histogram.percentile(50) / 1e6,
    'loop p99': histogram.percentile(99) / 1e6,
    'loop max': histogram.max / 1e6,
    ...percentiles('timer', lateness),
    perSecond: operations / seconds,
  };
}
