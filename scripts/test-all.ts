// Runs every kind of check, two parts at a time, and says how long each took: all that a release must pass, for hours, or
// `-- --short`, what .ci/run must pass. `-- check browser` runs the parts named. What a part prints stands together, once
// it has ended. The first part that fails ends them all.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';

interface Part {
  readonly name: string;
  readonly title: string;
  /** Arguments of npm. */
  readonly command: readonly string[];
  /** Those that must have ended before: they make what this one takes, or write where it does. */
  readonly after?: readonly string[];
  /** No other part runs beside it: it measures, or takes all CPUs anyway. */
  readonly alone?: boolean;
  /** What the short form adds, or has in place of the arguments after `--`. */
  readonly short?: readonly string[];
  readonly long?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** One system that can be run here as it is, and one of another format, compiler and C library that Wine runs. */
const shortTargets = ['linux-x64-glibc', 'win32-x64'];

/** The scripts build first what they need; here that is done once, for parts beside each other must not. */
const build: Part = { name: 'build', title: 'The binary and dist/', command: ['run', 'build'], alone: true };

/** In this order, as far as they may begin. The suite is the last: its counts are the outcome. */
const parts: readonly Part[] = [
  {
    name: 'check',
    title: 'Types, lint, format, symbols, reference, pages',
    command: ['run', 'check', '--ignore-scripts'],
  },
  {
    name: 'native',
    title:
      'Native tests: plain, AddressSanitizer with LeakSanitizer and UndefinedBehaviorSanitizer, ThreadSanitizer',
    command: ['run', 'test:native'],
  },
  {
    name: 'wasm',
    title: 'The C++ as WebAssembly',
    command: ['run', 'build:wasm'],
    // It writes what that reads.
    after: ['check'],
  },
  {
    name: 'emulated',
    title: 'CPUs that are not here: arm64 and older x86, emulated',
    command: ['run', 'test:emulated', '--ignore-scripts'],
    short: ['--short'],
    after: ['native', 'wasm'],
  },
  {
    name: 'fuzz:native',
    title: 'The C++ interface, fuzzed',
    command: ['run', 'fuzz:native'],
    short: ['--seconds', '30'],
    long: ['--seconds', '600'],
    after: ['native'],
  },
  {
    name: 'sanitized',
    title: 'The suite, sanitized',
    command: ['run', 'test:sanitized', '--ignore-scripts'],
    // Native tests have run on every instruction set under sanitizers.
    short: ['--isa', 'best', '--short'],
    after: ['wasm', 'fuzz:native'],
  },
  {
    name: 'prebuilds',
    title: 'Binaries',
    command: ['run', 'prebuilds'],
    short: shortTargets,
    after: ['wasm'],
  },
  {
    name: 'install',
    title: 'The package, as users install it',
    command: ['run', 'test:install', '--ignore-scripts'],
    short: ['--short', ...shortTargets],
    after: ['prebuilds'],
  },
  {
    name: 'bundlers',
    title: 'Bundlers, frameworks, runtimes and package managers',
    command: ['run', 'test:bundlers', '--ignore-scripts'],
    after: ['prebuilds'],
  },
  {
    name: 'main',
    title: 'The main job',
    command: ['start', '--ignore-scripts'],
    short: ['--quick'],
    after: ['wasm'],
  },
  {
    name: 'gaps',
    title: 'Data with gaps',
    command: ['run', 'gaps', '--ignore-scripts'],
    short: ['--quick'],
    after: ['wasm'],
  },
  {
    name: 'distributed',
    title: 'One batch over many members',
    command: ['run', 'distributed', '--ignore-scripts'],
    short: ['--quick'],
    after: ['wasm'],
  },
  {
    name: 'tfjs',
    title: "TensorFlow.js' models with either batch norm",
    command: ['run', 'tfjs', '--ignore-scripts'],
    short: ['--quick'],
    after: ['wasm'],
  },
  {
    name: 'browser',
    title: "The library and the server's pages, in a browser",
    command: ['run', 'test:browser', '--ignore-scripts'],
    after: ['wasm'],
  },
  {
    name: 'site',
    title: 'The site of the documentation, in a browser',
    command: ['run', 'test:site', '--ignore-scripts'],
    after: ['wasm'],
  },
  {
    name: 'endurance',
    title: 'Endurance: memory over a million calls',
    command: ['run', 'test:endurance', '--ignore-scripts'],
    short: ['--share', '0.3'],
    alone: true,
  },
  {
    name: 'suite',
    title: 'The suite',
    command: ['test', '--ignore-scripts'],
    long: ['--whole'],
    env: { BATCHNORM_BACKEND: 'native' },
    alone: true,
  },
];

/** Arguments and calls at random, for minutes; the suite has them in short. */
const longOnly: readonly Part[] = [
  {
    name: 'fuzz',
    title: 'The interface, fuzzed',
    command: ['run', 'fuzz', '--ignore-scripts'],
    long: ['--seconds', '600'],
    after: ['wasm'],
  },
  {
    name: 'hunt',
    title: 'Data on which errors are largest',
    command: ['run', 'hunt', '--ignore-scripts'],
    long: ['--seconds', '600'],
    after: ['wasm'],
  },
];

const { values, positionals } = parseArgs({
  options: { short: { type: 'boolean', default: false } },
  allowPositionals: true,
});
const offered = values.short ? parts : [...longOnly, ...parts];
const unknown = positionals.find((name) => !offered.some((part) => part.name === name));
if (unknown !== undefined)
  throw new Error(`a part must be one of ${offered.map(({ name }) => name).join(', ')}, got ${unknown}`);
const chosen = [
  build,
  ...offered.filter(({ name }) => positionals.length === 0 || positionals.includes(name)),
];

const begun = performance.now();
const secondsSince = (start: number) => Math.round((performance.now() - start) / 1000);
const table = new Table({
  head: ['part', 'from', 'seconds'],
  colAligns: ['left', 'right', 'right'],
  style: { head: [], border: [] },
  chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
});

interface Run {
  readonly child: ChildProcess;
  /** Prints what the part has said. */
  readonly tell: (end: string) => void;
}
const running = new Map<Part, Run>();
let failed: string | undefined;
/** The last line of `npm test`. */
let counts: string | undefined;

/** Ends what runs, with all that it has started, and says how far it came. */
function endAll(reason: string): void {
  for (const { child, tell } of running.values()) {
    try {
      // The process group: npm passes no signal on to what its scripts have started.
      process.kill(-(child.pid as number), 'SIGTERM');
    } catch {
      // It has ended by itself.
    }
    tell(reason);
  }
  running.clear();
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.once(signal, () => {
    endAll(`ended by ${signal}`);
    process.exit(1);
  });

async function runPart(part: Part): Promise<void> {
  const { name, title, command, short = [], long = [], env } = part;
  const added = values.short ? short : long;
  const args = [...command, ...(added.length > 0 ? ['--', ...added] : [])];
  const start = performance.now();
  console.log(`--- ${name} begins at ${secondsSince(begun)} s`);
  const child = spawn('npm', args, {
    // Not every generator of CMake builds on all CPUs unless it is told.
    env: { CMAKE_BUILD_PARALLEL_LEVEL: String(availableParallelism()), ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  const tell = (end: string) =>
    console.log(`\n=== ${title} ===\n$ npm ${args.join(' ')}\n${output}--- ${name}: ${end}`);
  running.set(part, { child, tell });
  const [code] = await once(child, 'close');
  if (!running.delete(part)) return;
  const seconds = secondsSince(start);
  tell(code === 0 ? `${seconds} s` : `failed after ${seconds} s`);
  table.push([name, secondsSince(begun) - seconds, seconds]);
  counts = /^Tests: \d+ passed, \d+ failed, \d+ skipped$/m.exec(output)?.[0] ?? counts;
  if (code === 0) return;
  failed = name;
  endAll(`ended, for ${name} has failed`);
}

/** The first of those that wait, if it may begin beside those that run. */
function next(waiting: readonly Part[]): Part | undefined {
  if (running.size === 2 || [...running.keys()].some(({ alone }) => alone)) return undefined;
  const toCome = [...waiting, ...running.keys()].map(({ name }) => name);
  const part = waiting.find(({ after = [] }) => !after.some((name) => toCome.includes(name)));
  return part?.alone && running.size > 0 ? undefined : part;
}

// What an earlier revision has left there must not be packed.
rmSync('dist', { recursive: true, force: true });
let waiting: readonly Part[] = chosen;
const ends = new Set<Promise<void>>();
while (failed === undefined && (waiting.length > 0 || ends.size > 0)) {
  for (let part = next(waiting); part !== undefined; part = next(waiting)) {
    const begins = part;
    waiting = waiting.filter((other) => other !== begins);
    const end: Promise<void> = runPart(begins).finally(() => ends.delete(end));
    ends.add(end);
  }
  await Promise.race(ends);
}
table.push(['all', 0, secondsSince(begun)]);
console.log(`\n${table.toString()}`);
if (failed !== undefined) {
  console.error(`${failed} must pass, got a failure; what comes after it did not run`);
  process.exitCode = 1;
}
if (counts !== undefined) console.log(counts);
