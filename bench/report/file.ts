import { existsSync, readFileSync } from 'node:fs';

/** What a table says of the machine first: its CPU. */
const cpuOf = (machine: string) => machine.split(',')[0].trim();

/** When and on which machine the results of a page were made. */
export function headOf(page: string): { date: string; machine: string } | undefined {
  const [, date, machine] = /^(\d{4}-\d\d-\d\d), (.+)$/m.exec(page) ?? [];
  return date === undefined ? undefined : { date, machine };
}

/**
 * Where results are written: RESULTS.md, or RESULTS-float64.md and the like for a `part`, which are those of one CPU and stay
 * so; those of another one lie beside them, as RESULTS-intel-xeon.md.
 */
export function resultsFile(folder: URL, part: string, machine: string): URL {
  const file = new URL(`RESULTS${part}.md`, folder);
  if (!existsSync(file)) return file;
  const there = headOf(readFileSync(file, 'utf8'));
  if (there === undefined || cpuOf(there.machine) === cpuOf(machine)) return file;
  const name = cpuOf(machine)
    .toLowerCase()
    .replace(/\((?:r|tm)\)|@.*/g, '')
    .match(/[a-z0-9]+/g)
    ?.join('-');
  return new URL(`RESULTS${part}-${name}.md`, folder);
}
