import type { Call } from '../contender.js';
import { median } from '../results.js';
import { sampleCall } from '../sample.js';

/** Nanoseconds per request, with one request in each call under way at a time. */
export async function measureRequests(calls: readonly Call[], milliseconds: number) {
  const [first] = calls;
  const result = first();
  await result;
  const together = result instanceof Promise ? () => all(calls) : () => each(calls);
  const call = calls.length === 1 ? first : together;
  const samples = await sampleCall(call, milliseconds);
  return { min: Math.min(...samples) / calls.length, median: median(samples) / calls.length };
}

function all(calls: readonly Call[]): Promise<unknown> {
  return Promise.all(calls.map((call) => call()));
}

function each(calls: readonly Call[]): void {
  for (const call of calls) call();
}
