// What a server feels of inference: round by round, each way in its own process, one after another, never two at once.
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { capabilities } from 'batchnorm';
import { Presets, SingleBar } from 'cli-progress';
import { type Child, startChild } from '../process.js';
import { markdownFile } from '../report/markdown.js';
import { terminalTable } from '../report/terminal.js';
import { everyMeasurement, type Measurement } from './measurements.js';
import { options } from './options.js';
import type { Reply, Request } from './protocol.js';
import type { Finding, Results } from './results.js';
import { servingTables } from './tables.js';
import { eventLoopWays, spreadWays, type Way } from './ways.js';

const reading = [
  'Medians over the rounds with the least of them in brackets, and max of all rounds, unless a heading says otherwise.',
  'Delay is what perf_hooks gives with a resolution of 1 ms, which is part of it; the lateness of the timer is without it.',
  'run blocks the event loop and has `out` given; runAsync copies its input, shared reads and writes SharedArrayBuffers,',
  'transfer moves memory in and out. onnxruntime has its parameters in the model and its result given. Every worker has a',
  'frozen layer of its own and one thread.',
];

/** The processes of the ways, started when they are first asked for something. */
class Children {
  readonly #children = new Map<Way, Child<Request, Reply>>();

  ask(way: Way, request: Request): Promise<Reply> {
    const known = this.#children.get(way);
    if (known) return known.ask(request);
    const { library, threads, workers = 1 } = way;
    const args = [library, `--threads=${threads}`, `--workers=${workers}`];
    const child = startChild<Request, Reply>(new URL('child.ts', import.meta.url), args, {});
    this.#children.set(way, child);
    return child.ask(request);
  }

  end(): void {
    for (const child of this.#children.values()) child.end();
  }
}

async function measure(
  { name, ways, measure, shape, inFlight }: Measurement,
  children: Children,
  done: () => void,
  note: (line: string) => void,
): Promise<Finding[]> {
  const findings = ways.map((way): Finding => ({ measurement: name, way: way.name, rounds: [] }));
  const { rounds, milliseconds } = options;
  for (let round = 0; round < rounds; round++)
    for (const [i, way] of ways.entries()) {
      const { figures, error } = await children.ask(way, { measure, shape, inFlight, milliseconds });
      done();
      if (figures) findings[i].rounds.push(figures);
      if (error !== undefined) note(`${way.name}, ${name}: ${error}`);
    }
  return findings;
}

async function everything(): Promise<Results> {
  const notes: string[] = [];
  const note = (line: string) => notes.push(line);
  const measurements = everyMeasurement(
    eventLoopWays(options.threads, note),
    spreadWays(options.threads),
  ).filter(({ name }) => name.includes(options.only));
  if (measurements.length === 0)
    throw new RangeError(`--only must be part of the name of a measurement, got ${options.only}`);
  const bar = new SingleBar(
    { format: '{bar} {percentage}% | {name} | {eta_formatted} left' },
    Presets.shades_classic,
  );
  const steps = measurements.reduce((sum, { ways }) => sum + ways.length * options.rounds, 0);
  bar.start(steps, 0, { name: '' });
  const children = new Children();
  const findings: Finding[] = [];
  try {
    for (const measurement of measurements) {
      bar.update({ name: measurement.name });
      findings.push(...(await measure(measurement, children, () => bar.increment(), note)));
    }
  } finally {
    bar.stop();
    children.end();
  }
  return {
    date: new Date().toISOString(),
    machine: `${cpus()[0].model.trim()}, ${cpus().length} CPUs, Node ${process.version}, ${capabilities().isa}, threads: ${options.threads}`,
    command: ['npm run bench --', ...process.argv.slice(2)].join(' '),
    measurements,
    findings,
    notes,
  };
}

const results = await everything();
const tables = servingTables(results);
console.log(`\n${results.machine}, ${results.date.slice(0, 10)}\n${reading.join('\n')}`);
for (const table of tables) console.log(`\n${terminalTable(table)}`);
for (const line of results.notes) console.log(line);

mkdirSync(options.out, { recursive: true });
const json = join(options.out, 'serving.json');
writeFileSync(json, JSON.stringify(results, null, 1));
console.log(`All measurements: ${json}`);
if (options.results)
  writeFileSync(
    new URL('../RESULTS-serving.md', import.meta.url),
    markdownFile('Results of the benchmark of serving', results, reading, tables),
  );
