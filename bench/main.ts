// Every case, pass by pass, round by round: each contender in its own process, one after another, never two at once.
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { capabilities } from 'batchnorm';
import { Presets, SingleBar } from 'cli-progress';
import Table from 'cli-table3';
import { type Case, cases, type Pass, passes, sizeOf } from './cases.js';
import type { Reply, Request } from './child.js';
import { type Roofline, rooflineOf, rooflines } from './contender.js';

const { values: options } = parseArgs({
  options: {
    /** Of each pass of a case. */
    rounds: { type: 'string', default: '5' },
    /** Of each contender in a round. */
    milliseconds: { type: 'string', default: '60' },
    threads: { type: 'string', default: '2' },
    /** Part of the name of a case. */
    only: { type: 'string', default: '' },
    out: { type: 'string', default: 'out' },
  },
});

interface Process {
  name: string;
  child: ChildProcess;
}

interface Measurement {
  case: Case;
  pass: Pass | Roofline;
  contender: string;
  /** Nanoseconds per call. */
  min: number;
  median: number;
}

function start(name: string, contender: string, threads: number): Process {
  return { name, child: fork(new URL('child.ts', import.meta.url), [contender, `--threads=${threads}`]) };
}

async function ask({ name, child }: Process, request: Request): Promise<Reply> {
  const ended = new AbortController();
  const onExit = (code: number | null, signal: string | null) =>
    ended.abort(new Error(`${name} must not end before the benchmark, got ${signal ?? `exit code ${code}`}`));
  child.once('exit', onExit);
  child.send(request);
  try {
    const [reply] = await once(child, 'message', { signal: ended.signal });
    return reply as Reply;
  } catch (error) {
    throw ended.signal.reason ?? error;
  } finally {
    child.off('exit', onExit);
  }
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

async function measureCase(subject: Case, contenders: Process[], done: () => void): Promise<Measurement[]> {
  for (const contender of contenders) await ask(contender, { prepare: subject });
  const samples = new Map<string, { pass: Pass | Roofline; contender: string; values: number[] }>();
  for (let round = 0; round < Number(options.rounds); round++)
    for (const pass of [...rooflines, ...passes])
      for (const contender of contenders) {
        const reply = await ask(contender, { measure: pass, milliseconds: Number(options.milliseconds) });
        done();
        if (!('samples' in reply) || reply.samples === undefined) continue;
        const key = `${contender.name} ${pass}`;
        const found = samples.get(key) ?? { pass, contender: contender.name, values: [] };
        found.values.push(...reply.samples);
        samples.set(key, found);
      }
  return [...samples.values()].map(({ pass, contender, values }) => ({
    case: subject,
    pass,
    contender,
    min: Math.min(...values),
    median: median(values),
  }));
}

function duration(nanoseconds: number): string {
  if (nanoseconds < 1e3) return `${nanoseconds.toFixed(0)} ns`;
  if (nanoseconds < 1e6) return `${(nanoseconds / 1e3).toPrecision(3)} µs`;
  return `${(nanoseconds / 1e6).toPrecision(3)} ms`;
}

const threadCounts = [...new Set([1, Number(options.threads)])];
const contenders = [
  ...threadCounts.map((threads) => start(`native ${threads}T`, 'native', threads)),
  start('plain JS', 'plain-js', 1),
];
const chosen = cases.filter(({ name }) => name.includes(options.only));

const bar = new SingleBar(
  { format: '{bar} {percentage}% | {name} | {eta_formatted} left' },
  Presets.shades_classic,
);
bar.start(
  chosen.length * Number(options.rounds) * contenders.length * (passes.length + rooflines.length),
  0,
  {
    name: '',
  },
);
const measurements: Measurement[] = [];
for (const subject of chosen) {
  bar.update({ name: subject.name });
  measurements.push(...(await measureCase(subject, contenders, () => bar.increment())));
}
bar.stop();
for (const { child } of contenders) child.disconnect();

function find(subject: Case, pass: Pass | Roofline, contender: string): Measurement | undefined {
  return measurements.find((m) => m.case === subject && m.pass === pass && m.contender === contender);
}

/** The share of the machine's limit, measured in the same run with as many threads. */
function fraction(subject: Case, pass: Pass, contender: string): number | undefined {
  const own = find(subject, pass, contender);
  const limit = find(subject, rooflineOf(pass), contender.startsWith('native') ? contender : 'native 1T');
  return own && limit && limit.min / own.min;
}

const machine = `${cpus()[0].model.trim()}, ${cpus().length} CPUs, Node ${process.version}, ${capabilities().isa}`;
console.log(`\n${machine}, ${new Date().toISOString().slice(0, 10)}`);
console.log('Time per call: minimum (median), and as a fraction of the copy (or sum) speed in the same run.');
for (const pass of passes) {
  const table = new Table({
    head: [
      pass,
      'MB',
      'limit 1T',
      ...contenders.flatMap(({ name }) => [name, 'fraction']),
      'native 1T / plain JS',
    ],
    style: { head: [], border: [], compact: true },
  });
  for (const subject of chosen) {
    const mine = find(subject, pass, 'native 1T');
    const plain = find(subject, pass, 'plain JS');
    if (!mine || !plain) continue;
    table.push([
      subject.name + (subject.layout === 'channels-last' ? ' last' : ''),
      ((sizeOf(subject) * 4) / 1e6).toPrecision(3),
      duration(find(subject, rooflineOf(pass), 'native 1T')?.min ?? Number.NaN),
      ...contenders.flatMap(({ name }) => {
        const own = find(subject, pass, name);
        return [
          own ? `${duration(own.min)} (${duration(own.median)})` : '-',
          fraction(subject, pass, name)?.toFixed(2) ?? '-',
        ];
      }),
      `${(plain.min / mine.min).toFixed(1)}x`,
    ]);
  }
  console.log(table.toString());
}
mkdirSync(options.out, { recursive: true });
const file = `${options.out}/bench.json`;
writeFileSync(file, JSON.stringify({ date: new Date().toISOString(), machine, measurements }, null, 1));
console.log(`All measurements: ${file}`);
