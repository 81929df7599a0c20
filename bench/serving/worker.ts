// One of several: makes its frozen layer anew, waits for the others, and says how many operations per second it did.
import { parentPort, workerData } from 'node:worker_threads';
import { FrozenBatchNorm, type StateDict, type Tensor } from 'batchnorm';
import { perSecond, warmUp } from './rate.js';

/** What a worker is given; the memory of the arrays is shared. */
export interface Task {
  state: StateDict;
  x: Tensor<Float32Array>;
  out: Float32Array;
  /** 1 once all of them may begin. */
  gate: Int32Array;
  milliseconds: number;
}

const { state, x, out, gate, milliseconds }: Task = workerData;
const frozen = FrozenBatchNorm.from(state);
const run = () => frozen.run(x, { out });
warmUp(run);
parentPort?.postMessage(0);
Atomics.wait(gate, 0, 0);
parentPort?.postMessage(perSecond(run, milliseconds));
