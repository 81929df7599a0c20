// What bench/RESULTS.md says, read back: pictures are drawn of the numbers that are published, not of another run.
import { readFileSync } from 'node:fs';
import { type Case, type Pass, passes, selectCases } from './cases.js';
import { rooflineOf } from './contender.js';
import { headOf } from './report/file.js';
import { type Accuracy, Lookup, type Measurement, type Results } from './results.js';

const PAGE = 'bench/RESULTS.md';

const units: Readonly<Record<string, number>> = { ns: 1, µs: 1e3, ms: 1e6, s: 1e9 };

/** "5.56 ms", or "5.56 ms (0.69)", in nanoseconds; undefined for "-". */
function nanosecondsOf(cell: string): number | undefined {
  const [, value, unit] = /^([\d.]+) (ns|µs|ms|s)\b/.exec(cell) ?? [];
  if (value !== undefined) return Number(value) * units[unit];
  if (cell === '-') return undefined;
  throw new Error(`a time of ${PAGE} must be a number with a unit, got ${cell}`);
}

/** Of a contender, by its name. */
function threadsOf(name: string): number {
  return Number(/ (\d+)T$/.exec(name)?.[1] ?? 1);
}

/** Heads and rows of the table below the heading that begins so. */
function tableBelow(text: string, heading: string): { head: string[]; rows: string[][] } {
  const [, section] = text.split(`\n## ${heading}`);
  if (section === undefined) throw new Error(`${PAGE} must have a heading "${heading}", got none`);
  const [head, , ...rows] = section
    .split('\n## ')[0]
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .slice(1, -1)
        .split('|')
        .map((cell) => cell.trim()),
    );
  return { head, rows };
}

/** Times, and the fractions beside them: medians over rounds that are not published. */
class PublishedLookup extends Lookup {
  constructor(
    results: Results,
    readonly fractions: ReadonlyMap<string, number>,
  ) {
    super(results);
  }

  override fraction(subject: Case, pass: Pass, contender: string): number | undefined {
    return this.fractions.get(`${subject.name}/${pass}/${contender}`);
  }
}

/** The results of the last published run, those in float32. */
export function readPublished(): Lookup {
  const text = readFileSync(PAGE, 'utf8');
  const made = headOf(text);
  const [, command] = /^`(npm run bench.*)`$/m.exec(text) ?? [];
  if (!made || !command)
    throw new Error(`${PAGE} must say when, where and how it was made, got something else`);

  const known = new Map(
    selectCases({ quick: false, sweep: true, dtype: 'float32', only: '' }).map((it) => [it.name, it]),
  );
  const cases = new Set<Case>();
  const measurements: Measurement[] = [];
  const fractions = new Map<string, number>();
  const names = new Set<string>();
  for (const pass of passes) {
    const { head, rows } = tableBelow(text, `${pass}: `);
    const limitColumn = head.indexOf('limit 1T');
    // After the contenders comes how this library went about it.
    const contenders = head.slice(limitColumn + 1).filter((name) => !name.startsWith('plan'));
    for (const name of contenders) names.add(name);
    for (const row of rows) {
      const subject = known.get(row[0]);
      if (!subject) throw new Error(`a shape of ${PAGE} must be a case of the benchmark, got ${row[0]}`);
      cases.add(subject);
      const add = (measured: Measurement['pass'], contender: string, min: number | undefined) => {
        if (min !== undefined)
          measurements.push({
            case: subject.name,
            pass: measured,
            contender,
            min,
            median: min,
            rounds: [min],
          });
      };
      // The limits of the two forward passes are one.
      if (pass !== 'training') add(rooflineOf(pass), contenders[0], nanosecondsOf(row[limitColumn]));
      for (const [i, name] of contenders.entries()) {
        const cell = row[limitColumn + 1 + i];
        add(pass, name, nanosecondsOf(cell));
        const [, fraction] = /\(([\d.]+)\)$/.exec(cell) ?? [];
        if (fraction !== undefined) fractions.set(`${subject.name}/${pass}/${name}`, Number(fraction));
      }
    }
  }

  const errors = tableBelow(text, 'Error in training');
  const accuracy = errors.rows.flatMap(([contender, layout, ...cells]) =>
    cells.map((cell, i): Accuracy => {
      const [varianceError, yError] = cell.split(' / ').map(Number);
      return {
        case: errors.head[2 + i],
        layout: layout as Case['layout'],
        contender,
        varianceError,
        yError,
      };
    }),
  );

  const results: Results = {
    ...made,
    command,
    threads: Math.max(...[...names].map(threadsOf)),
    contenders: [...names].map((name) => ({ name, threads: threadsOf(name) })),
    cases: [...cases],
    measurements,
    accuracy,
    notes: [],
  };
  return new PublishedLookup(results, fractions);
}
