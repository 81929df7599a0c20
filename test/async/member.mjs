// A member of a WorkerGroup in a worker of its own: does what `workerData.job` says, and tells what came of it.
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
