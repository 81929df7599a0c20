// One way to compute requests in a process of its own: does what it is asked to, one thing after another.
import { parseArgs } from 'node:util';
import type { Call } from '../contender.js';
import { measureLoop } from './loop.js';
import { measurePool } from './pool.js';
import type { Library, Reply, Request } from './protocol.js';
import { perSecond, warmUp } from './rate.js';
import { measureRequests } from './requests.js';

type Prepare = (shape: readonly number[], inFlight: number) => Promise<Call[]> | Call[];

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { threads: { type: 'string', default: '1' }, workers: { type: 'string', default: '1' } },
});
const library = positionals[0] as Library;
const threads = Number(values.threads);
const starting = start();

// Imported on demand: onnxruntime is not installed everywhere, and beside it this library has no business.
async function start(): Promise<Prepare> {
  switch (library) {
    case 'idle':
      return () => [];
    case 'onnxruntime':
      return (await import('./onnxruntime.js')).onnxruntime(threads);
    case 'workers':
      (await import('batchnorm')).setThreads(threads);
      return () => [];
    default:
      return (await import('./batchnorm.js')).batchnorm(library, threads);
  }
}

async function answer({ measure, shape, inFlight, milliseconds }: Request): Promise<Reply> {
  const calls = await (await starting)(shape, inFlight);
  switch (measure) {
    case 'loop':
      return { figures: await measureLoop(calls, milliseconds) };
    case 'pool':
      return { figures: await measurePool(calls, milliseconds) };
    case 'requests':
      return { figures: await measureRequests(calls, milliseconds) };
    case 'rate': {
      if (library !== 'workers') {
        warmUp(calls[0]);
        return { figures: { perSecond: perSecond(calls[0], milliseconds) } };
      }
      const { measureWorkers } = await import('./workers.js');
      return { figures: await measureWorkers(Number(values.workers), shape, milliseconds) };
    }
  }
}

process.on('message', async (request: Request) => {
  process.send?.(await answer(request).catch((error: unknown): Reply => ({ error: String(error) })));
});
