/**
 * Trains the digit network by one process, by workers over shared memory, and by processes over each MPI that is installed, all
 * on the same batches in parts of different sizes; the losses must be the same. Then what exchanges cost, measured here, and on paper
 * with more members. `mpirun -n 4 node --import tsx examples/distributed/main.ts` is a job of its own: the same, over that MPI alone.
 */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { deserialize, serialize } from 'node:v8';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { type ProcessGroup, setThreads } from 'batchnorm';
import { mpi } from 'batchnorm/mpi';
import { WorkerGroup } from 'batchnorm/workers';
import Table from 'cli-table3';
import { typescriptWorker } from '../../bench/typescript-worker.js';
import { integer, optionsOrExit } from '../options.js';
import { summary } from '../times.js';
import {
  type Cost,
  crossover,
  type Engine,
  fitted,
  gathered,
  measure,
  mergeCost,
  overMemory,
  overMpi,
  type Sample,
  twoPhase,
} from './model.js';
import { cutsOf, gatherTrained, type Task, type Trained, train } from './train.js';

const USAGE = `Usage: npm run distributed -- [options]

  --quick        6,400 training images instead of 60,000
  --members <n>  workers, and processes of each MPI (default: CPUs, from 2 to 4)
  --seed <n>     seed of the weights and of the order of the images (default 1)
  --help         this text`;

/** Losses of the same batches differ by the order of sums. */
const TOLERANCE = 1e-6;

/** As a member tells it. */
interface Outcome extends Trained {
  readonly samples: readonly Sample[];
}

interface Run {
  readonly name: string;
  readonly engine: Engine;
  readonly size: number;
  readonly members: readonly Outcome[];
}

interface Options extends Task {
  readonly members: number;
  /** Where a member of a job over MPI writes what it has to tell. */
  readonly out: string | undefined;
}

function readOptions(): Options | 'help' {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      members: { type: 'string', default: String(Math.max(2, Math.min(4, availableParallelism()))) },
      seed: { type: 'string', default: '1' },
      out: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  return {
    images: values.quick ? 6400 : 60_000,
    members: integer('--members', values.members, 2, 64),
    seed: integer('--seed', values.seed, 0, 2 ** 32 - 1),
    out: values.out,
  };
}

function takePart(group: ProcessGroup, task: Task): Outcome {
  // As many members as CPUs: one thread each.
  setThreads(1);
  const trained = train(task, group);
  return { ...trained, samples: measure(group) };
}

async function byWorkers(size: number, task: Task): Promise<Run> {
  const { handle } = new WorkerGroup(size);
  const members = Array.from({ length: size }, (_, rank) => {
    const worker = typescriptWorker(new URL(import.meta.url), { workerData: { handle, rank, task } });
    return new Promise<Outcome>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
  });
  return { name: 'workers, shared memory', engine: overMemory, size, members: await Promise.all(members) };
}

/** The launchers that Debian has beside each other, or the one that there is. */
const LAUNCHERS = [
  { name: 'Open MPI', command: 'mpirun.openmpi', args: ['--oversubscribe'] },
  { name: 'MPICH', command: 'mpirun.mpich', args: [] },
  { name: 'mpirun', command: 'mpirun', args: [] },
] as const;

const isThere = (command: string) => spawnSync(command, ['--version']).status === 0;

function byMpi({ name, command, args }: (typeof LAUNCHERS)[number], { members, images, seed }: Options): Run {
  const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
  const program = ['--import', 'tsx', fileURLToPath(import.meta.url)];
  const options = ['--out', folder, '--seed', String(seed), ...(images < 60_000 ? ['--quick'] : [])];
  const { status, stdout, stderr } = spawnSync(
    command,
    [...args, '-n', String(members), process.execPath, ...program, ...options],
    { encoding: 'utf8', env: { ...process.env, ...asRoot } },
  );
  if (status !== 0) throw new Error(`${command} must end with 0, got ${status}\n${stdout}${stderr}`);
  const told = Array.from(
    { length: members },
    (_, rank) => deserialize(readFileSync(join(folder, String(rank)))) as Outcome,
  );
  rmSync(folder, { recursive: true });
  return { name, engine: overMpi, size: members, members: told };
}

/** Open MPI asks twice before it runs anything for root. */
const asRoot =
  process.getuid?.() === 0 ? { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' } : {};

const newTable = (...head: string[]) =>
  new Table({
    head,
    colAligns: head.map((_, i) => (i === 0 ? 'left' : 'right')),
    style: { head: [], border: [] },
  });

const three = (value: number) => value.toPrecision(3);

/** The largest difference of a loss from that of one process, as a share of it. */
function differenceOf(one: Trained, members: readonly Trained[]): number {
  return Math.max(
    ...members.flatMap(({ losses }) =>
      Array.from(losses, (loss, step) => Math.abs(loss - one.losses[step]) / one.losses[step]),
    ),
  );
}

/** Prints what was trained; whether all have the losses of one process. */
function reportTraining(one: Trained, runs: readonly Run[]): boolean {
  const table = newTable(
    'engine',
    'samples of each',
    'ms a step',
    'exchanges',
    'loss: first',
    'last',
    'differs by',
  );
  const row = (name: string, samples: string, { losses, steps, exchanges }: Trained, difference?: number) => {
    const share = (100 * exchanges.reduce((a, b) => a + b)) / steps.reduce((a, b) => a + b);
    const last = losses.subarray(-20).reduce((a, b) => a + b) / Math.min(20, losses.length);
    table.push([
      ...[
        name,
        samples,
        summary(steps).median.toFixed(2),
        difference === undefined ? '–' : `${share.toFixed(0)} %`,
      ],
      ...[
        losses[0].toFixed(6),
        last.toFixed(6),
        difference === undefined ? '–' : difference.toExponential(1),
      ],
    ]);
  };
  row('one process', '128', one);
  let isRight = true;
  for (const { name, size, members } of runs) {
    const difference = differenceOf(one, members);
    if (!(difference <= TOLERANCE)) isRight = false;
    const cuts = cutsOf(size);
    // The last one has most to compute, and waits least.
    row(
      name,
      cuts
        .slice(1)
        .map((cut, i) => cut - cuts[i])
        .join(' '),
      members[size - 1],
      difference,
    );
  }
  console.log(`\n${table.toString()}`);
  console.log(
    isRight
      ? `All losses are those of one process, to ${TOLERANCE}.`
      : `A loss differs from that of one process by more than ${TOLERANCE}.`,
  );
  return isRight;
}

function reportCosts(runs: readonly Run[]): void {
  const lengths = runs[0].members[0].samples.map(({ values }) => `${values} doubles`);
  const table = newTable('allGather, µs: median (best)', ...lengths, 'latency', 'GB/s');
  const costs = runs.map(({ name, engine, size, members }) => {
    const { samples } = members[0];
    const cost = fitted(engine, samples, size);
    const times = samples.map(({ min, median }) => `${three(median)} (${three(min)})`);
    table.push([
      `${name}, ${size} members`,
      ...times,
      `${three(cost.latency)} µs`,
      three(1e-3 / cost.perByte),
    ]);
    return { name, cost };
  });
  console.log(`\n${table.toString()}`);
  const merge = mergeCost();
  console.log(`Merging takes ${(1000 * merge).toFixed(2)} ns for each channel of each member.`);
  // What such networks are said to have, not measured.
  const network: Cost = { engine: overMpi, latency: 20, perByte: 1 / 3000 };
  for (const { name, cost } of [...costs, { name: 'MPI over a network of 20 µs and 3 GB/s', cost: network }])
    reportModel(name, cost, merge);
}

/** The model on paper: statistics of one layer, on the way forward. */
function reportModel(name: string, cost: Cost, merge: number): void {
  const sizes = [8, 64, 1024];
  const table = newTable(
    `on paper, µs: ${name}`,
    ...sizes.flatMap((size) => [`${size}: gather`, 'two phases']),
    'two phases from',
  );
  for (const channels of [64, 256, 1024, 4096]) {
    const times = sizes.flatMap((size) =>
      [gathered, twoPhase].map((model) => model(cost, merge, channels, size).toFixed(0)),
    );
    const from = crossover(cost, merge, channels);
    table.push([`${channels} channels`, ...times, from === undefined ? 'never' : `${from} members`]);
  }
  console.log(`\n${table.toString()}`);
}

/** A member that a launcher has started. */
function joinJob({ out, images, seed }: Options): void {
  const group = mpi();
  const task = { images, seed };
  const outcome = takePart(group, task);
  if (out !== undefined) {
    writeFileSync(join(out, String(group.rank)), serialize(outcome));
    return;
  }
  const { samples } = outcome;
  const members = gatherTrained(group, outcome).map((trained) => ({ ...trained, samples }));
  if (group.rank === 0) {
    const run = { name: 'MPI', engine: overMpi, size: group.size, members };
    if (!reportTraining(train(task), [run])) process.exitCode = 1;
    if (group.size > 1) reportCosts([run]);
  }
}

async function main(options: Options): Promise<void> {
  const { members, images, seed } = options;
  const task = { images, seed };
  console.log(
    `MNIST, ${images} images, batches of 128, one epoch, in double; ${members} members, seed ${seed}`,
  );
  setThreads(1);
  const one = train(task);
  const runs = [await byWorkers(members, task)];
  const [mpirun] = LAUNCHERS.slice(-1);
  const named = LAUNCHERS.slice(0, -1).filter(({ command }) => isThere(command));
  const launchers = named.length > 0 || !isThere(mpirun.command) ? named : [mpirun];
  for (const launcher of launchers) runs.push(byMpi(launcher, options));
  if (launchers.length === 0) console.log('Not run: MPI, which is not installed.');
  if (!reportTraining(one, runs)) process.exitCode = 1;
  reportCosts(runs);
}

/** Whether a launcher of MPI has started this process. */
const isLaunched = ['OMPI_COMM_WORLD_SIZE', 'PMI_SIZE', 'PMIX_RANK'].some(
  (name) => process.env[name] !== undefined,
);

if (!isMainThread) {
  const { handle, rank, task } = workerData;
  parentPort?.postMessage(takePart(WorkerGroup.join(handle, rank), task));
} else {
  const options = optionsOrExit(USAGE, readOptions);
  if (isLaunched) joinJob(options);
  else await main(options);
}
