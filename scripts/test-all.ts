// Runs every kind of check, part by part, and says how long each took: all that a release must pass, for hours, or
// `-- --short`, what .ci/run must pass. `-- check browser` runs the parts named. The first part that fails ends it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';

interface Part {
  readonly name: string;
  readonly title: string;
  /** Arguments of npm. */
  readonly command: readonly string[];
  /** What the short form adds, or has in place of the arguments after `--`. */
  readonly short?: readonly string[];
  readonly long?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** One system that can be run here as it is, and one of another format, compiler and C library that Wine runs. */
const shortTargets = ['linux-x64-glibc', 'win32-x64'];

/** The suite is the last: its counts are the outcome. */
const parts: readonly Part[] = [
  { name: 'check', title: 'Types, lint, format, symbols, reference, pages', command: ['run', 'check'] },
  { name: 'wasm', title: 'The C++ as WebAssembly', command: ['run', 'build:wasm'] },
  {
    name: 'native',
    title:
      'Native tests: plain, AddressSanitizer with LeakSanitizer and UndefinedBehaviorSanitizer, ThreadSanitizer',
    command: ['run', 'test:native'],
  },
  {
    name: 'fuzz:native',
    title: 'The C++ interface, fuzzed',
    command: ['run', 'fuzz:native'],
    short: ['--seconds', '60'],
    long: ['--seconds', '600'],
  },
  {
    name: 'sanitized',
    title: 'The suite, sanitized',
    command: ['run', 'test:sanitized'],
    // Native tests have run on every instruction set under sanitizers.
    short: ['--isa', 'best'],
  },
  {
    name: 'emulated',
    title: 'CPUs that are not here: arm64 and older x86, emulated',
    command: ['run', 'test:emulated'],
    short: ['--short'],
  },
  { name: 'prebuilds', title: 'Binaries', command: ['run', 'prebuilds'], short: shortTargets },
  {
    name: 'install',
    title: 'The package, as users install it',
    command: ['run', 'test:install'],
    short: shortTargets,
  },
  {
    name: 'bundlers',
    title: 'Bundlers, frameworks, runtimes and package managers',
    command: ['run', 'test:bundlers'],
  },
  {
    name: 'endurance',
    title: 'Endurance: memory over a million calls',
    command: ['run', 'test:endurance'],
    short: ['--share', '0.5'],
  },
  { name: 'main', title: 'The main job', command: ['start'], short: ['--quick'] },
  { name: 'gaps', title: 'Data with gaps', command: ['run', 'gaps'], short: ['--quick'] },
  {
    name: 'distributed',
    title: 'One batch over many members',
    command: ['run', 'distributed'],
    short: ['--quick'],
  },
  {
    name: 'tfjs',
    title: "TensorFlow.js' models with either batch norm",
    command: ['run', 'tfjs'],
    short: ['--quick'],
  },
  {
    name: 'browser',
    title: "The library and the server's pages, in a browser",
    command: ['run', 'test:browser'],
  },
  {
    name: 'suite',
    title: 'The suite',
    command: ['test'],
    long: ['--whole'],
    env: { BATCHNORM_BACKEND: 'native' },
  },
];

/** Arguments and calls at random, for minutes; the suite has them in short. */
const longOnly: readonly Part[] = [
  { name: 'fuzz', title: 'The interface, fuzzed', command: ['run', 'fuzz'], long: ['--seconds', '600'] },
  {
    name: 'hunt',
    title: 'Data on which errors are largest',
    command: ['run', 'hunt'],
    long: ['--seconds', '600'],
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
const chosen = offered.filter(({ name }) => positionals.length === 0 || positionals.includes(name));

/** The last line of `npm test`. */
let counts: string | undefined;

/** Runs a part, lets its output through, and returns whether it ended with 0. */
async function runPart({ command, short = [], long = [], env }: Part): Promise<boolean> {
  const added = values.short ? short : long;
  const args = [...command, ...(added.length > 0 ? ['--', ...added] : [])];
  console.log(`$ npm ${args.join(' ')}`);
  const child = spawn('npm', args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'] });
  let line = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    process.stdout.write(text);
    const lines = (line + text).split('\n');
    line = lines.pop() as string;
    counts = lines.findLast((one) => /^Tests: \d+ passed, \d+ failed, \d+ skipped$/.test(one)) ?? counts;
  });
  const [code] = await once(child, 'close');
  return code === 0;
}

const table = new Table({
  head: ['part', 'seconds'],
  colAligns: ['left', 'right'],
  style: { head: [], border: [] },
  chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
});
const begun = performance.now();
const secondsSince = (start: number) => Math.round((performance.now() - start) / 1000);
let failed: string | undefined;
for (const part of chosen) {
  console.log(`\n=== ${part.title} (at ${secondsSince(begun)} s) ===`);
  const start = performance.now();
  if (!(await runPart(part))) failed = part.name;
  table.push([part.name, secondsSince(start)]);
  if (failed !== undefined) break;
}
table.push(['all', secondsSince(begun)]);
console.log(`\n${table.toString()}`);
if (failed !== undefined) {
  console.error(`${failed} must pass, got a failure; what comes after it did not run`);
  process.exitCode = 1;
}
if (counts !== undefined) console.log(counts);
