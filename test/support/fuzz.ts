import fc from 'fast-check';
import { it } from 'vitest';
import { patience } from './patience.js';
import { seed, seedNote } from './random.js';

/** How long each property is tried; undefined for the number of runs that it has in the suite. */
const seconds = readSeconds();

function readSeconds(): number | undefined {
  const text = process.env.BATCHNORM_FUZZ_SECONDS;
  if (text === undefined || text === '') return undefined;
  const value = Number(text);
  if (!(value > 0 && value < 2 ** 20))
    throw new RangeError(`BATCHNORM_FUZZ_SECONDS must be a positive number, got ${text}`);
  return value;
}

/** A test that something holds for whatever is drawn: so often in the suite, or as long as BATCHNORM_FUZZ_SECONDS says. */
export function holds<Drawn extends [unknown, ...unknown[]]>(
  title: string,
  runs: number,
  property: () => fc.IRawProperty<Drawn, boolean>,
): void {
  it(`${title}, ${seedNote}`, { timeout: patience + 1000 * (seconds ?? 0) }, async () => {
    const details = await fc.check(property(), {
      seed: seed | 0,
      ...(seconds === undefined
        ? { numRuns: runs }
        : { numRuns: Number.MAX_SAFE_INTEGER, interruptAfterTimeLimit: 1000 * seconds }),
    });
    if (seconds !== undefined) console.log(`${title}: ${details.numRuns} runs`);
    if (details.failed)
      throw new Error(await fc.asyncDefaultReportMessage(details), { cause: details.errorInstance });
  });
}
