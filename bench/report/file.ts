import { existsSync, readFileSync } from 'node:fs';

/** What a table says of the machine first: its CPU. */
const cpuOf = (machine: string) => machine.split(',')[0].trim();

/**
 * Where results are written: RESULTS.md, or RESULTS-float64.md and the like for a `part`, which are those of one CPU and stay
 * so; those of another one lie beside them, as RESULTS-intel-xeon.md.
 */
export function resultsFile(folder: URL, part: string, machine: string): URL {
  const file = new URL(`RESULTS${part}.md`, folder);
  if (!existsSync(file)) return file;
  const [, there] = readFileSync(file, 'utf8').match(/^\d{4}-\d\d-\d\d, (.+)$/m) ?? [];
  if (there === undefined || cpuOf(there) === cpuOf(machine)) return file;
  const name = cpuOf(machine)
    .toLowerCase()
    .replace(/\((?:r|tm)\)|@.*/g, '')
    .match(/[a-z0-9]+/g)
    ?.join('-');
  return new URL(`RESULTS${part}-${name}.md`, folder);
}
