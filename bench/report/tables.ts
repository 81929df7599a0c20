import { hardCaseNames } from '../accuracy.js';
import { bytesOf, type Case, passes } from '../cases.js';
import { type Accuracy, geometricMean, type Lookup, ratio } from '../results.js';
import { judge } from '../targets.js';
import { duration, error, share } from './format.js';

/** Rows of text, for the terminal, for Markdown and for the page. */
export interface TextTable {
  title: string;
  head: string[];
  rows: string[][];
}

/** One table for each pass: time, and fraction of the limit, of every contender. */
export function speedTables(lookup: Lookup): TextTable[] {
  const { cases, contenders } = lookup.results;
  return lookup.passesOf(cases).map((pass) => ({
    title: `${pass}: minimum (fraction of the limit)`,
    head: ['shape', 'MB', 'limit 1T', ...contenders.map(({ name }) => name), 'plan of the first'],
    rows: cases
      .filter((subject) => contenders.some(({ name }) => lookup.find(subject, pass, name)))
      .map((subject) => {
        const limit = lookup.limit(subject, pass, contenders[0].name);
        return [
          subject.name,
          String(Number((bytesOf(subject) / 1e6).toPrecision(3))),
          limit ? duration(limit.min) : '-',
          ...contenders.map(({ name }) => {
            const own = lookup.find(subject, pass, name);
            return own ? `${duration(own.min)} (${share(lookup.fraction(subject, pass, name))})` : '-';
          }),
          lookup.find(subject, pass, contenders[0].name)?.plan ?? '-',
        ];
      }),
  }));
}

/** Errors of every contender on the hard cases: variance / y. */
export function accuracyTables({ results }: Lookup): TextTable[] {
  const { accuracy, contenders } = results;
  const rows = (['channels-first', 'channels-last'] as const).flatMap((layout) =>
    contenders.flatMap(({ name }) => {
      const own = accuracy.filter(
        (it) => it.contender === name && it.layout === layout && it.norm === undefined,
      );
      if (own.length === 0) return [];
      const cells = hardCaseNames.map((hard) => {
        const found = own.find((it) => it.case === hard);
        return found ? errorCell(found) : '-';
      });
      return [[name, layout, ...cells]];
    }),
  );
  const title =
    'Error in training: variance (relative) / y (share of the largest); both absolute where x is constant';
  const tables = [
    { title, head: ['', 'layout', ...hardCaseNames], rows },
    normAccuracyTable(accuracy, contenders),
  ];
  return tables.filter((table) => table.rows.length > 0);
}

function normAccuracyTable(
  accuracy: readonly Accuracy[],
  contenders: Lookup['results']['contenders'],
): TextTable {
  const every = accuracy.flatMap((it) => (it.norm === undefined ? [] : [{ ...it, column: columnOf(it) }]));
  const columns = [...new Set(every.map(({ column }) => column))];
  return {
    title: 'Error of group and layer norm: variance (relative) / y (share of the largest)',
    head: ['', ...columns],
    rows: contenders.flatMap(({ name }) => {
      const own = every.filter(({ contender }) => contender === name);
      const cells = columns.map((column) => own.find((it) => it.column === column));
      return own.length === 0 ? [] : [[name, ...cells.map((it) => (it ? errorCell(it) : '-'))]];
    }),
  };
}

function columnOf({ norm, case: data, layout }: Accuracy): string {
  return norm === 'layer' ? `${norm}, ${data}` : `${norm}, ${data}, ${layout}`;
}

function errorCell({ varianceError, yError }: Accuracy): string {
  return `${varianceError === undefined ? '-' : error(varianceError)} / ${error(yError)}`;
}

/** The targets, reached or not. */
export function targetTable(lookup: Lookup): TextTable {
  return {
    title: 'Targets, as fractions of the limit; the verdict is that of the worst shape',
    head: ['target', 'threads', 'asked', '', 'worst', 'worst shape', 'geometric mean'],
    rows: judge(lookup).map((cell) => [
      cell.name,
      String(cell.threads),
      cell.target,
      cell.reached === undefined ? 'not measured' : cell.reached ? 'reached' : 'NOT reached',
      cell.worst,
      cell.worstCase,
      cell.geometricMean,
    ]),
  };
}

/** What became of the time since another revision. */
export function compareTable(lookup: Lookup, ref: string): TextTable {
  const { cases, contenders } = lookup.results;
  const pairs = contenders.flatMap(({ name, threads }) => {
    const before = contenders.find((other) => other.threads === threads && other.name.startsWith(ref));
    return before && before.name !== name ? [{ threads, now: name, before: before.name }] : [];
  });
  const rows: string[][] = [];
  for (const pass of passes)
    for (const { threads, now, before } of pairs) {
      const ratios: number[] = [];
      for (const subject of cases) {
        const pair = [lookup.find(subject, pass, before), lookup.find(subject, pass, now)];
        const [old, own] = pair;
        if (!old || !own) continue;
        ratios.push(ratio(old, own));
        rows.push([
          pass,
          subject.name,
          String(threads),
          duration(old.min),
          duration(own.min),
          timesFaster(ratio(old, own)),
          own.plan ?? '-',
        ]);
      }
      if (ratios.length > 1)
        rows.push([pass, 'geometric mean', String(threads), '', '', timesFaster(geometricMean(ratios)), '']);
    }
  return {
    title: `${ref} against the working tree; above 1 the working tree is faster (median over the rounds)`,
    head: ['pass', 'shape', 'threads', ref, 'working tree', 'ratio', 'plan'],
    rows,
  };
}

function timesFaster(ratio: number): string {
  return `${ratio.toFixed(2)}×`;
}

/** Which shapes of the run were measured, without the sweep. */
export function tabulated(cases: readonly Case[]): Case[] {
  return cases.filter(({ group }) => group !== 'sweep');
}
