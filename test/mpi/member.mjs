// A member of a group over MPI: node member.mjs <folder> <options of mpi() as JSON> <jobs>, one after the other. What came of each
// goes to a file of its own in the folder.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { deserialize, serialize } from 'node:v8';
import { BatchNorm, setThreads } from 'batchnorm';
import { mpi } from 'batchnorm/mpi';

const [folder, options, names] = process.argv.slice(2);
setThreads(1);
const group = mpi(JSON.parse(options));
const { rank, size } = group;

/** What a call throws. */
function thrown(call) {
  try {
    call();
  } catch ({ code, message }) {
    return { code, message };
  }
  return undefined;
}

/** Rank 0 and rank 1 do not train the same. */
const tensor = { data: Float32Array.of(1, 2, 3, 5), shape: [2, 2] };

const jobs = {
  exchanges() {
    const all = new Float64Array(size * 3);
    group.allGather(Float64Array.of(rank, rank * 10, -0), all);
    const none = new Float64Array(0);
    group.allGather(none, none);
    const few = Float64Array.of(rank / 3, 0.1);
    group.allReduce(few);
    const long = Float64Array.from({ length: 10_000 }, (_, i) => i + rank / 3);
    const gathered = new Float64Array(size * long.length);
    group.allGather(long, gathered);
    group.allReduce(long);
    return { rank, size, all, few, gathered, sums: long };
  },
  /** More than goes in one exchange of MPI. */
  rounds() {
    const values = Float64Array.from({ length: 1_500_000 }, (_, i) => i + rank / 3);
    group.allReduce(values);
    return [0, 511, 512, 1_048_576, 1_499_999].map((i) => [i, values[i]]);
  },
  async later() {
    const all = new Float64Array(size);
    const sums = Float64Array.of(rank, 1);
    const long = new Float64Array(5000).fill(rank);
    const exchanges = [
      group.allGatherAsync(Float64Array.of(rank + 1), all),
      group.allReduceAsync(sums),
      group.allReduceAsync(long),
    ];
    const busy = thrown(() => group.allReduce(Float64Array.of(1)));
    await Promise.all(exchanges);
    return { all, sums, last: long[4999], busy };
  },
  /** Turns of the event loop while the last member is not there yet. */
  async turns() {
    if (rank === size - 1) await new Promise((resolve) => setTimeout(resolve, 300));
    let turns = 0;
    const timer = setInterval(() => turns++, 5);
    await new BatchNorm(2, { group }).forwardAsync(tensor);
    clearInterval(timer);
    return turns;
  },
  async trains() {
    const { channels, layer, batches } = deserialize(readFileSync(join(folder, 'batches')));
    const { x, dy } = batches[rank];
    const bn = new BatchNorm(channels, { ...layer, group });
    const results = [];
    for (let step = 0; step < 3; step++) {
      const later = step !== 1;
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
  /** The last member calls its layers in another order. */
  crossed() {
    const layers = [new BatchNorm(2, { group }), new BatchNorm(2, { group })];
    return thrown(() => layers[rank === size - 1 ? 1 : 0].forward(tensor));
  },
  /** The last member makes another exchange, and all go on as if nothing were wrong. */
  mismatch() {
    const exchange = () =>
      rank === size - 1
        ? group.allReduce(new Float64Array(2))
        : group.allGather(new Float64Array(2), new Float64Array(2 * size));
    return [thrown(exchange), thrown(exchange)];
  },
  /** Rank 1 is in evaluation. */
  evaluates() {
    const bn = new BatchNorm(2, { group });
    if (rank === 1) bn.eval();
    const before = Buffer.from(serialize(bn.stateDict()));
    const error = thrown(() => bn.forward(tensor));
    return { error, isUnchanged: before.equals(serialize(bn.stateDict())) };
  },
  /** Rank 1 never comes back from its fifth step. */
  killed() {
    const bn = new BatchNorm(2, { group });
    for (let step = 0; step < 1e6; step++) {
      if (step === 5 && rank === 1) process.kill(process.pid, 'SIGKILL');
      bn.forward(tensor);
    }
  },
  /** Rank 1 has an error of its own. */
  throws() {
    if (rank === 1) throw new Error('of its own');
    group.allReduce(new Float64Array(1));
  },
  second: () => thrown(() => mpi()),
  /** Of memory that nobody touches. */
  long() {
    let values;
    try {
      values = new Float64Array(2 ** 31);
    } catch {
      return null;
    }
    return [thrown(() => group.allReduce(values)), thrown(() => group.allGather(values, values))];
  },
  async twice() {
    const values = Float64Array.of(1, 2);
    const told = [thrown(() => group.allReduce(values)), thrown(() => group.allReduce(values))];
    told.push(await group.allReduceAsync(values).catch(({ code, message }) => ({ code, message })));
    if (values.join() !== '1,2') throw new Error(`an exchange that fails must write nothing, got ${values}`);
    return told;
  },
  /** Heard of in a listener that comes behind the one that ends MPI. */
  end() {
    process.once('exit', () => {
      const told = [thrown(() => group.allReduce(new Float64Array(1))), thrown(() => mpi())];
      writeFileSync(join(folder, `ended.${rank}`), serialize(told));
    });
  },
};

for (const name of names.split(',')) {
  const result = await jobs[name]();
  writeFileSync(join(folder, `${name}.${rank}`), serialize(result));
}
