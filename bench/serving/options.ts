import { parseArgs } from 'node:util';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  allowNegative: true,
  options: {
    /** Of everything. */
    rounds: { type: 'string' },
    /** Of each contender in a round. */
    milliseconds: { type: 'string' },
    /** Of every library; of this one's workers each has one. */
    threads: { type: 'string', default: '2' },
    /** Two short rounds: to see whether it works. */
    quick: { type: 'boolean', default: false },
    /** Part of the name of a measurement. */
    only: { type: 'string', default: '' },
    /** Write the tables to bench/RESULTS-serving.md. */
    results: { type: 'boolean', default: false },
    out: { type: 'string', default: 'out' },
  },
});
if (positionals.length > 1) throw new RangeError(`serving must stand alone, got ${positionals.join(' ')}`);

function positive(name: 'rounds' | 'milliseconds' | 'threads', text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new RangeError(`--${name} must be a positive integer, got ${text}`);
  return value;
}

/** What the command line asks for. */
export const options = {
  ...values,
  rounds: positive('rounds', values.rounds ?? (values.quick ? '2' : '5')),
  milliseconds: positive('milliseconds', values.milliseconds ?? (values.quick ? '150' : '600')),
  threads: positive('threads', values.threads),
};
