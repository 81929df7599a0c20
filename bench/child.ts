// One library in a process of its own: makes a case ready, then measures what it is asked to.
import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { sizeOf } from './cases.js';
import { arrayFor, buffersFor, type Contender, type Prepared } from './contender.js';
import type { Reply, Request } from './protocol.js';
import { sampleCall } from './sample.js';

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

let prepared: Prepared | undefined;

async function dispose(): Promise<void> {
  await prepared?.dispose?.();
  prepared = undefined;
}

async function answer(request: Request): Promise<Reply> {
  const contender = await starting;
  if ('measure' in request) {
    const call = prepared?.calls[request.measure];
    const plan = prepared?.planOf?.(request.measure);
    return { samples: call && (await sampleCall(call, request.milliseconds)), plan };
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
  const variance = trained?.variance && Array.from(trained.variance);
  await dispose();
  return { ready: trained !== undefined, variance };
}

process.on('message', async (request: Request) => {
  process.send?.(await answer(request).catch((error: unknown): Reply => ({ error: String(error) })));
});
