// One library in a process of its own: makes a case ready, then measures what it is asked to.
import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { sizeOf } from './cases.js';
import { arrayFor, buffersFor, type Call, type Contender, type Prepared } from './contender.js';
import type { Reply, Request } from './protocol.js';

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1' },
    /** Of a build of this package. */
    root: { type: 'string', default: '.' },
  },
});
const threads = Number(values.threads);
// Imported on demand: most of them are not installed everywhere.
const contenders: Record<string, () => Promise<Contender>> = {
  native: async () => (await import('./contenders/native.js')).native(threads, values.root),
  'plain-js': async () => (await import('./contenders/plain-js.js')).plainJs,
  onnxruntime: async () => (await import('./contenders/onnxruntime.js')).onnxruntime(threads),
  onednn: async () => (await import('./contenders/onednn.js')).oneDnn(false),
  'onednn-blocked': async () => (await import('./contenders/onednn.js')).oneDnn(true),
  'tfjs-cpu': async () => (await import('./contenders/tfjs.js')).tfjs('cpu'),
  'tfjs-wasm': async () => (await import('./contenders/tfjs.js')).tfjs('wasm'),
};
const starting = contenders[positionals[0]]();

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

async function measure(call: Call, milliseconds: number): Promise<number[]> {
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

let prepared: Prepared | undefined;

async function dispose(): Promise<void> {
  await prepared?.dispose?.();
  prepared = undefined;
}

async function answer(request: Request): Promise<Reply> {
  const contender = await starting;
  if ('measure' in request) {
    const call = prepared?.calls[request.measure];
    return { samples: call && (await measure(call, request.milliseconds)) };
  }
  await dispose();
  if ('prepare' in request) {
    prepared = await contender(request.prepare, buffersFor(request.prepare));
    return { ready: prepared !== undefined };
  }
  const x = arrayFor(request.train, sizeOf(request.train));
  new Uint8Array(x.buffer).set(readFileSync(request.x));
  prepared = await contender(request.train, buffersFor(request.train, x));
  const trained = await prepared?.train?.();
  if (trained) writeFileSync(request.y, trained.y);
  const variance = trained && Array.from(trained.variance);
  await dispose();
  return { ready: variance !== undefined, variance };
}

process.on('message', async (request: Request) => {
  process.send?.(await answer(request).catch((error: unknown): Reply => ({ error: String(error) })));
});
