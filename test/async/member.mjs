// A member of a WorkerGroup in a worker of its own: does what `workerData.job` says, and tells what came of it.
import { isDeepStrictEqual } from 'node:util';
import { parentPort, workerData } from 'node:worker_threads';
import { BatchNorm, setThreads } from 'batchnorm';
import { WorkerGroup } from 'batchnorm/workers';

const { handle, rank, job, x, dy, options } = workerData;
setThreads(1);

const jobs = {
  exchanges(group) {
    const all = new Float64Array(group.size * 3);
    group.allGather(Float64Array.of(rank, rank * 10, -0), all);
    const long = Float64Array.from({ length: 10_000 }, (_, i) => i + rank / 3);
    const gathered = new Float64Array(group.size * long.length);
    group.allGather(long, gathered);
    group.allReduce(long);
    const none = new Float64Array(0);
    group.allGather(none, none);
    return { all, gathered, sums: long };
  },
  async later(group) {
    const all = new Float64Array(group.size);
    const sums = Float64Array.of(rank, 1);
    const long = new Float64Array(5000).fill(rank);
    await Promise.all([
      group.allGatherAsync(Float64Array.of(rank + 1), all),
      group.allReduceAsync(sums),
      group.allReduceAsync(long),
    ]);
    return { all, sums, last: long[4999] };
  },
  /** Turns of the event loop while rank 1 is not there yet. */
  async turns(group) {
    if (rank === 1) await new Promise((resolve) => setTimeout(resolve, 300));
    const bn = new BatchNorm(1, { group });
    const x = { data: Float32Array.of(1, 2), shape: [2, 1] };
    let turns = 0;
    let isOver = false;
    const count = () => {
      if (isOver) return;
      turns++;
      setTimeout(count, 1);
    };
    count();
    await bn.forwardAsync(x);
    isOver = true;
    return turns;
  },
  busy(group) {
    const later = group.allReduceAsync(Float64Array.of(1));
    try {
      group.allReduce(Float64Array.of(1));
    } catch ({ code, message }) {
      return later.then(() => ({ code, message }));
    }
  },
  /** Rank 1 makes another exchange than the rest. */
  mismatch: (group) =>
    rank === 1
      ? group.allReduce(new Float64Array(2))
      : group.allGather(new Float64Array(2), new Float64Array(2 * group.size)),
  /** Ends at once, by an error of its own, or does not come. */
  ends(group) {
    if (rank === 1) process.exit();
    return group.allReduce(new Float64Array(1));
  },
  throws(group) {
    if (rank === 1) throw new Error('of its own');
    return group.allReduce(new Float64Array(1));
  },
  async waits(group) {
    if (rank === 1) await new Promise((resolve) => setTimeout(resolve, 60_000).unref());
    return group.allReduceAsync(new Float64Array(1));
  },
  /** Rank 1 never comes back from its fifth step, in which it is ended from outside. */
  async killed(group) {
    const bn = new BatchNorm(2, { group });
    const tensor = { data: Float32Array.of(1, 2, 3, 5), shape: [2, 2] };
    let before;
    for (let step = 0; ; step++) {
      before = structuredClone(bn.stateDict());
      if (step === 5 && rank === 1) {
        parentPort.postMessage('now');
        for (;;);
      }
      try {
        if (options.later) await bn.forwardAsync(tensor);
        else bn.forward(tensor);
      } catch (error) {
        const isUnchanged = isDeepStrictEqual(bn.stateDict(), before);
        return { step, code: error.code, message: error.message, isUnchanged };
      }
      bn.backward(tensor);
    }
  },
  /** Rank 1 is in evaluation. */
  evaluates(group) {
    const bn = new BatchNorm(1, { group });
    if (rank === 1) bn.eval();
    const y = bn.forward({ data: Float32Array.of(1, 3), shape: [2, 1] });
    return [...y.data].map(Math.round);
  },
  /** Layers exchange in the order in which they are called. */
  crossed(group) {
    const layers = [new BatchNorm(2, { group }), new BatchNorm(2, { group })];
    const tensor = { data: Float32Array.of(1, 2, 3, 5), shape: [2, 2] };
    return layers[rank].forward(tensor);
  },
  /** Two exchanges, of which the second fails because the group is broken. */
  again(group) {
    if (rank === 1) process.exit();
    const messages = [];
    for (let i = 0; i < 2; i++)
      try {
        group.allReduce(new Float64Array(1));
      } catch ({ message }) {
        messages.push(message);
      }
    return messages;
  },
  async trains(group) {
    const bn = new BatchNorm(options.channels, { ...options.layer, group });
    const results = [];
    for (let step = 0; step < 3; step++) {
      const later = options.later && step !== 1;
      const y = later ? await bn.forwardAsync(x) : bn.forward(x);
      const { dx, dWeight, dBias } = later ? await bn.backwardAsync(dy) : bn.backward(dy);
      results.push({
        y: y.data.slice(),
        dx: dx.data.slice(),
        dWeight: dWeight.slice(),
        dBias: dBias.slice(),
      });
    }
    return { results, state: bn.stateDict() };
  },
};

try {
  parentPort.postMessage({ result: await jobs[job](WorkerGroup.join(handle, rank)) });
} catch (error) {
  parentPort.postMessage({ error: { code: error.code, message: error.message } });
  if (job === 'throws' && rank === 1) throw error;
}
