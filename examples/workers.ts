/**
 * Spreads inference over worker threads. Tensors lie in SharedArrayBuffers, which nobody copies; every worker makes its
 * frozen layer anew from the same state, and takes the next tensor until none is left.
 */

import { once } from 'node:events';
import { isMainThread, parentPort, type Worker, workerData } from 'node:worker_threads';
import { BatchNorm, FrozenBatchNorm, type StateDict, setThreads } from 'batchnorm';
import { typescriptWorker } from '../bench/typescript-worker.js';
import { integer, optionsOrExit } from './options.js';

const USAGE = `Usage: npx tsx examples/workers.ts [workers, default 2]`;

const CHANNELS = 64;
const SHAPE = [8, CHANNELS, 28, 28];
const SIZE = SHAPE.reduce((size, dimension) => size * dimension);
const TENSORS = 64;
const ROUNDS = 50;

/** What every worker is given: a copy of the state, and the same memory. */
interface Task {
  readonly state: StateDict;
  readonly inputs: readonly Float32Array[];
  readonly outputs: readonly Float32Array[];
  /** The index of the first tensor that nobody has taken. */
  readonly next: Int32Array;
}

function work({ state, inputs, outputs, next }: Task): void {
  const frozen = FrozenBatchNorm.from(state, { activation: 'relu' });
  parentPort?.on('message', () => {
    let taken = 0;
    for (let i = Atomics.add(next, 0, 1); i < inputs.length; i = Atomics.add(next, 0, 1)) {
      frozen.run({ data: inputs[i], shape: SHAPE }, { out: outputs[i] });
      taken++;
    }
    // A message orders memory: who has received it sees the results.
    parentPort?.postMessage(taken);
  });
}

async function main(count: number): Promise<void> {
  // Each worker is a thread that computes; more of them would only be in each other's way.
  setThreads(1);
  const state = new BatchNorm(CHANNELS).stateDict();
  const inputs = sharedArrays();
  for (const [n, data] of inputs.entries()) for (let i = 0; i < SIZE; i++) data[i] = Math.sin(n + i);
  const outputs = sharedArrays();
  const next = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  const task: Task = { state, inputs, outputs, next };
  const workers = Array.from({ length: count }, () =>
    typescriptWorker(new URL(import.meta.url), { workerData: task }),
  );

  const times: number[] = [];
  let taken: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    const started = performance.now();
    taken = await round(workers, next);
    times.push(performance.now() - started);
  }
  times.sort((a, b) => a - b);
  const shape = SHAPE.join(', ');
  console.log(
    `${TENSORS} tensors of (${shape}): ${times[0].toFixed(1)} ms at best, median ${times[ROUNDS >> 1].toFixed(1)} ms`,
  );
  console.log(`Taken by each worker in the last round: ${taken.join(', ')}`);

  const frozen = FrozenBatchNorm.from(state, { activation: 'relu' });
  const same = inputs.every((data, n) =>
    Buffer.from(outputs[n].buffer).equals(Buffer.from(frozen.run({ data, shape: SHAPE }).data.buffer)),
  );
  console.log(same ? 'The same bits as on this thread.' : 'NOT the same as on this thread.');
  await Promise.all(workers.map((worker) => worker.terminate()));
}

function sharedArrays(): Float32Array[] {
  const bytes = SIZE * Float32Array.BYTES_PER_ELEMENT;
  return Array.from({ length: TENSORS }, () => new Float32Array(new SharedArrayBuffer(bytes)));
}

/** All tensors once; how many each worker took. */
async function round(workers: readonly Worker[], next: Int32Array): Promise<number[]> {
  Atomics.store(next, 0, 0);
  const answers = workers.map((worker) => once(worker, 'message'));
  for (const worker of workers) worker.postMessage('begin');
  return (await Promise.all(answers)).map(([taken]) => taken);
}

function readOptions(): number | 'help' {
  const [first = '2'] = process.argv.slice(2);
  return first === '--help' ? 'help' : integer('workers', first, 1, 64);
}

if (isMainThread) await main(optionsOrExit(USAGE, readOptions));
else work(workerData);
