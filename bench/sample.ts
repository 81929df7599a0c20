import type { Call } from './contender.js';

/** Samples shorter than this would measure the clock. */
const sampleNanoseconds = 20_000;

function time(call: Call, repetitions: number): number {
  const start = process.hrtime.bigint();
  for (let i = 0; i < repetitions; i++) call();
  return Number(process.hrtime.bigint() - start) / repetitions;
}

async function timeAsync(call: Call, repetitions: number): Promise<number> {
  const start = process.hrtime.bigint();
  for (let i = 0; i < repetitions; i++) await call();
  return Number(process.hrtime.bigint() - start) / repetitions;
}

/** Nanoseconds per call, one number for each sample; one that gives a promise is awaited. */
export async function sampleCall(call: Call, milliseconds: number): Promise<number[]> {
  const start = process.hrtime.bigint();
  const result = call();
  // Awaiting costs more than a short call takes.
  const sample = result instanceof Promise ? timeAsync : time;
  await result;
  let fastest = Number(process.hrtime.bigint() - start);
  // For a call this slow one sample a round has to do, and the first is as good as the second.
  if (fastest > milliseconds * 2e7) return [fastest];
  // Long enough for the compiler to have settled where calls are short.
  const warmUp = start + BigInt(milliseconds * 1e5);
  while (process.hrtime.bigint() < warmUp) fastest = Math.min(fastest, await sample(call, 1));
  const repetitions = Math.max(1, Math.ceil(sampleNanoseconds / fastest));
  const samples: number[] = [];
  const end = process.hrtime.bigint() + BigInt(milliseconds * 1e6);
  do samples.push(await sample(call, repetitions));
  while (process.hrtime.bigint() < end);
  return samples;
}
