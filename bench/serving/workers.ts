import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { typescriptWorker } from '../typescript-worker.js';
import { fill, neutralState, sizeOf } from './state.js';
import type { Task } from './worker.js';

/** Operations per second of several workers at once, on tensors in shared memory. */
export async function measureWorkers(count: number, shape: readonly number[], milliseconds: number) {
  const gate = new Int32Array(new SharedArrayBuffer(4));
  const workers = Array.from({ length: count }, () => {
    const shared = () => new Float32Array(new SharedArrayBuffer(4 * sizeOf(shape)));
    const workerData: Task = {
      state: neutralState(shape[1]),
      x: { data: fill(shared()), shape },
      out: shared(),
      gate,
      milliseconds,
    };
    return typescriptWorker(new URL('worker.ts', import.meta.url), { workerData });
  });
  const message = (worker: Worker) => once(worker, 'message').then(([value]) => value as number);
  await Promise.all(workers.map(message));
  const rates = Promise.all(workers.map(message));
  // All of them at once: one that began earlier would have the machine for itself.
  Atomics.store(gate, 0, 1);
  Atomics.notify(gate, 0);
  const ended = workers.map((worker) => once(worker, 'exit'));
  const perSecond = (await rates).reduce((sum, rate) => sum + rate);
  await Promise.all(ended);
  return { perSecond };
}
