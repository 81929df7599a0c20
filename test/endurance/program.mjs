// One long run of one kind, which reports its memory. node --expose-gc program.mjs <kind> <repetitions>
// Each line of its output is a JSON object: { done, heap, arrayBuffers, external, rss } in bytes, after a collection.
import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import {
  BatchNorm,
  backward,
  FrozenBatchNorm,
  foldIntoLinear,
  forwardInference,
  forwardTraining,
  setThreads,
  tensor,
  updateRunningStats,
} from 'batchnorm';
import { WorkerGroup } from 'batchnorm/workers';

const samples = 10;
const channels = 8;
const shape = [4, channels, 3];
const size = 4 * channels * 3;
const valuesOf = (first) => Float32Array.from({ length: size }, (_, i) => ((first + i) * 7) % 11);
const x = { data: valuesOf(1), shape };
const dy = { data: valuesOf(2), shape };
const residual = { data: valuesOf(3), shape };
const shared = { data: new Float32Array(new SharedArrayBuffer(4 * size)), shape };
const out = new Float32Array(size);
const statistics = { mean: new Float64Array(channels), variance: new Float64Array(channels).fill(2) };
const linear = { weight: valuesOf(4), shape: [channels, size / channels] };

function layer(options) {
  return new BatchNorm(channels, options);
}

/** Passes of all kinds, one after the other. */
function passes() {
  const bn = layer({ activation: 'relu' });
  const reused = layer({ reuse: true });
  const frozen = layer().freeze();
  const running = { runningMean: new Float64Array(channels), runningVar: new Float64Array(channels) };
  const { signal } = new AbortController();
  return [
    () => bn.forward(x, { residual }),
    () => bn.backward(dy),
    () => bn.forward(x, { out }),
    () => reused.forward(x),
    () => reused.backward(dy),
    () => frozen.run(x),
    () => frozen.run(x, { out, residual }),
    () => forwardTraining(x, { activation: 'relu' }),
    () => forwardInference(x, statistics),
    () => backward(dy, x, statistics),
    () => updateRunningStats(running, { ...statistics, count: 12 }),
    () => bn.loadStateDict(bn.stateDict()),
    () => frozen.runAsync(x),
    () => frozen.runAsync(shared, { out: shared.data, signal }),
    () => frozen.runAsync({ data: x.data.slice(), shape }, { transfer: true }),
    () => bn.forwardAsync(shared, { residual }),
    () => bn.backwardAsync(dy),
  ];
}

/** Calls that fail, each in another place. */
function failures() {
  const bn = layer();
  bn.forward(x);
  const frozen = bn.freeze();
  const disposed = layer().freeze();
  disposed[Symbol.dispose]();
  const detached = new Float32Array(size);
  structuredClone(detached.buffer, { transfer: [detached.buffer] });
  const revoked = Proxy.revocable({}, {});
  revoked.revoke();
  const throwing = {
    get eps() {
      throw Object.assign(new Error('on purpose'), { code: 'ERR_BATCHNORM_ON_PURPOSE' });
    },
  };
  const aborted = AbortSignal.abort(
    Object.assign(new Error('on purpose'), { code: 'ERR_BATCHNORM_ON_PURPOSE' }),
  );
  return [
    () => bn.forward(3),
    () => bn.forward({ data: out, shape: [1] }),
    () => bn.forward(x, { unknown: 1 }),
    () => bn.forward(x, { out: x.data.subarray(1) }),
    () => bn.forward({ data: detached, shape }),
    () => bn.backward({ data: out, shape: [3, channels, 4] }),
    () => bn.loadStateDict({ ...bn.stateDict(), running_var: new Float64Array(channels).fill(-1) }),
    () => layer({ eps: -1 }),
    () => new BatchNorm(2 ** 31),
    () => layer().backward(dy),
    () => layer({ trackRunningStats: false }).freeze(),
    () => frozen.run(x, { residual: { data: out, shape: [1] } }),
    () => disposed.run(x),
    () => FrozenBatchNorm.from({}),
    () => forwardTraining(x, throwing),
    () => forwardTraining(x, revoked.proxy),
    () => forwardInference(x, { ...statistics, out: statistics.mean }),
    () => backward(dy, x, { ...statistics, training: 1 }),
    () => foldIntoLinear({ ...linear, shape: [size] }, bn),
    () => tensor(out, [Number.NaN]),
    () => setThreads(0),
    () => frozen.runAsync(x, { signal: aborted }),
    () => frozen.runAsync(shared, { transfer: true }),
    () => bn.forwardAsync(x, { out: new Float32Array(3) }),
    () => bn.backwardAsync({ data: valuesOf(1), shape: [1, 1, size] }, { transfer: true }),
  ];
}

/** Calls in turn, of which all must fail or none; a hundred of those that compute later are on their way at once. */
async function cycle(calls, repetitions, mustFail, sample) {
  let waiting = [];
  const judge = (error) => {
    if (mustFail ? /^ERR_BATCHNORM_/.test(error?.code) : error === undefined) return;
    throw error ?? new Error('every call must fail, got one that did not');
  };
  for (let done = 0; done < repetitions; done++) {
    if (done % Math.ceil(repetitions / samples) === 0) await sample(done);
    try {
      const result = calls[done % calls.length]();
      if (result instanceof Promise)
        waiting.push(
          result.then(
            () => undefined,
            (error) => error,
          ),
        );
      else judge();
    } catch (error) {
      judge(error);
    }
    if (waiting.length < 100 && done < repetitions - 1) continue;
    for (const error of await Promise.all(waiting)) judge(error);
    waiting = [];
  }
  await sample(repetitions);
}

const kinds = {
  passes: (repetitions, sample) => cycle(passes(), repetitions, false, sample),
  failures: (repetitions, sample) => cycle(failures(), repetitions, true, sample),
  /** Layers that have computed, and are dropped; some are disposed of, some have an operation on its way. */
  async layers(repetitions, sample) {
    // Wide, so that one that is not given back shows.
    const wide = 64;
    const input = { data: new Float32Array(2 * wide).map((_, i) => i), shape: [2, wide] };
    for (let done = 0; done < repetitions; done++) {
      if (done % Math.ceil(repetitions / samples) === 0) await sample(done);
      const bn = new BatchNorm(wide, { activation: done % 2 ? 'relu' : undefined, reuse: done % 5 === 0 });
      bn.forward(input);
      bn.backward(input);
      const frozen = bn.freeze();
      frozen.run(input);
      if (done % 10 === 0) frozen.runAsync(input);
      if (done % 10 === 5) bn.forwardAsync(input);
      if (done % 3 === 0) frozen[Symbol.dispose]();
      if (done % 100 === 0) await setImmediate();
    }
    await sample(repetitions);
  },
  /** Two members on one thread, which wait for each other in turns of the event loop. */
  async groups(repetitions, sample) {
    const { handle } = new WorkerGroup(2);
    const members = [0, 1].map((rank) => layer({ group: WorkerGroup.join(handle, rank) }));
    for (let done = 0; done < repetitions; done++) {
      if (done % Math.ceil(repetitions / samples) === 0) await sample(done);
      await Promise.all(members.map((bn) => bn.forwardAsync(x)));
      await Promise.all(members.map((bn) => bn.backwardAsync(dy)));
    }
    await sample(repetitions);
  },
};

const [kind, repetitions] = process.argv.slice(2);

async function sample(done) {
  // Twice, and with turns in between: what finalizers free is free after them.
  for (let i = 0; i < 2; i++) {
    await setImmediate();
    globalThis.gc();
    await setImmediate();
  }
  const { heapUsed, arrayBuffers, external, rss } = process.memoryUsage();
  console.log(JSON.stringify({ done, heap: heapUsed, arrayBuffers, external, rss }));
}

assert.ok(kind in kinds, `the kind must be one of ${Object.keys(kinds)}, got ${kind}`);
await kinds[kind](Number(repetitions), sample);
