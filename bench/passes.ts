// The benchmark of the passes: every case, pass by pass, round by round, each contender in its own process, one after
// another, never two at once.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { capabilities } from 'batchnorm';
import { Presets, SingleBar } from 'cli-progress';
import { accuracySteps, measureAccuracy } from './accuracy.js';
import { selectCases } from './cases.js';
import { chooseEntries, type Entry, nativeEntries, root } from './entries.js';
import { measureCase, stepsOf } from './measure.js';
import { options } from './options.js';
import { startWorker } from './process.js';
import { resultsFile } from './report/file.js';
import { markdown } from './report/markdown.js';
import { noiseNote } from './report/noise.js';
import { page } from './report/page.js';
import { accuracyTables, compareTable, speedTables, type TextTable, targetTable } from './report/tables.js';
import { terminalTable } from './report/terminal.js';
import { Lookup, type Results, readResults, writeResults } from './results.js';
import { buildRevision, type Revision } from './revision.js';

async function measure(entries: readonly Entry[], notes: string[]): Promise<Results> {
  const cases = options.speed ? selectCases(options) : [];
  if (options.speed && cases.length === 0)
    throw new RangeError(`--only must be part of a name or a group, got ${options.only}`);
  const workers = entries.map(startWorker);
  const hard = options.accuracy && !options.compare;
  const bar = new SingleBar(
    {
      format: '{bar} {percentage}% | {name} | {eta_formatted} left',
      // Into a file, a line each half minute.
      noTTYOutput: true,
      notTTYSchedule: 30_000,
    },
    Presets.shades_classic,
  );
  const stop = stopOnSignal();
  const steps = cases.length * stepsOf(workers, options);
  bar.start(steps + (hard ? accuracySteps(workers) : 0), 0, { name: '' });
  const note = (line: string) => notes.push(line);
  const done = () => bar.increment();
  try {
    const results: Results = {
      date: new Date().toISOString(),
      machine: `${cpus()[0].model.trim()}, ${cpus().length} CPUs, Node ${process.version}, ${capabilities().isa}`,
      command: ['npm run bench --', ...process.argv.slice(2)].join(' '),
      threads: options.threads,
      contenders: entries.map(({ name, threads }) => ({ name, threads })),
      cases,
      measurements: [],
      accuracy: [],
      notes,
    };
    for (const subject of cases) {
      bar.update({ name: subject.name });
      const { rounds, milliseconds } = options;
      const measured = await measureCase(subject, workers, { rounds, milliseconds, stop, done, note });
      // Of a case that was stopped some contenders have had more rounds than others.
      if (stop.aborted) break;
      results.measurements.push(...measured);
    }
    if (stop.aborted) {
      results.cases = cases.filter(({ name }) => results.measurements.some((one) => one.case === name));
      note(`Stopped: ${results.cases.length} of ${cases.length} cases, no errors`);
      return results;
    }
    bar.update({ name: 'accuracy' });
    if (hard) results.accuracy = await measureAccuracy(workers, options.dtype, note, done);
    return results;
  } finally {
    bar.stop();
    for (const worker of workers) worker.end();
  }
}

/** Aborts with SIGINT or SIGTERM, so that what has been measured is shown and written; more of them end the process. */
function stopOnSignal(): AbortSignal {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    // Under npm Ctrl+C arrives twice, from the terminal and passed on by npm.
    let more = 1;
    process.on(signal, () => {
      if (stop.signal.aborted && more-- === 0) process.exit(130);
      stop.abort();
    });
  }
  return stop.signal;
}

async function compare(ref: string): Promise<Results> {
  console.log(`Building ${ref} …`);
  const other: Revision = buildRevision(root, ref);
  try {
    return await measure([...nativeEntries(root, 'native'), ...nativeEntries(other.root, ref)], []);
  } finally {
    other.remove();
  }
}

function everyContender(): Promise<Results> {
  const notes: string[] = [];
  const entries = chooseEntries((line) => {
    notes.push(line);
    console.log(line);
  });
  return measure(entries, notes);
}

function tablesOf(lookup: Lookup): TextTable[] {
  if (options.compare) return [compareTable(lookup, options.compare)];
  if (!options.speed) return accuracyTables(lookup);
  return [
    ...speedTables(lookup),
    ...accuracyTables(lookup),
    ...(options.targets ? [targetTable(lookup)] : []),
  ];
}

const measured: Results = options.from
  ? readResults(readFileSync(options.from, 'utf8'))
  : await (options.compare ? compare(options.compare) : everyContender());
const noise = noiseNote(measured.measurements);
const results = noise === undefined ? measured : { ...measured, notes: [...measured.notes, noise] };
const lookup = new Lookup(results);
const tables = tablesOf(lookup);
console.log(`\n${results.machine}, ${results.date.slice(0, 10)}`);
for (const table of tables) console.log(terminalTable(table));
for (const note of results.notes) console.log(note);

mkdirSync(options.out, { recursive: true });
const json = join(options.out, options.compare ? 'compare.json' : 'bench.json');
if (!options.from) writeFileSync(json, writeResults(measured));
const html = join(options.out, options.compare ? 'compare.html' : 'bench.html');
writeFileSync(html, page(lookup, tables));
console.log(`All measurements: ${options.from || json}, page: ${html}`);
if (options.results) {
  const part = !options.speed ? '-accuracy' : options.dtype === 'float64' ? '-float64' : '';
  const folder = new URL('.', import.meta.url);
  writeFileSync(resultsFile(folder, part, results.machine), markdown(results, tables));
}
