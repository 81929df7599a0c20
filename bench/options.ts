import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { DType } from './cases.js';

/** Where npm run bench:python installs PyTorch and oneDNN. */
const installed = fileURLToPath(new URL('peers/python/bin/python', import.meta.url));

const { values } = parseArgs({
  allowNegative: true,
  options: {
    /** Of each pass of a case. */
    rounds: { type: 'string', default: '5' },
    /** Of each contender in a round. */
    milliseconds: { type: 'string', default: '60' },
    /** The second number of threads beside 1. */
    threads: { type: 'string', default: '2' },
    dtype: { type: 'string', default: 'float32' },
    /** Part of the name or of the group of a case. */
    only: { type: 'string', default: '' },
    /** Ten cases instead of all, large ones with weights and gaps and in 16 bits, some norms, and those where a cliff would show. */
    quick: { type: 'boolean', default: false },
    /** Tensors of 64 bytes to 100 MB besides. */
    sweep: { type: 'boolean', default: false },
    /** Instruction sets to force, separated by commas, each a contender of its own with one thread. */
    isa: { type: 'string', default: '' },
    /** Parts of the names of contenders, separated by commas; this library is always there. */
    contenders: { type: 'string', default: '' },
    /** The interpreter that may have PyTorch. */
    python: { type: 'string', default: existsSync(installed) ? installed : 'python3' },
    /** Times; without them the errors alone, which another machine does not change. */
    speed: { type: 'boolean', default: true },
    /** The error on the hard cases too. */
    accuracy: { type: 'boolean', default: true },
    /** Print each target with reached or not reached. */
    targets: { type: 'boolean', default: false },
    /** Another revision of this library as the only contender. */
    compare: { type: 'string', default: '' },
    /** Write the tables to bench/RESULTS.md, RESULTS-float64.md, or without speed RESULTS-accuracy.md. */
    results: { type: 'boolean', default: false },
    /** Show an earlier bench.json instead of measuring. */
    from: { type: 'string', default: '' },
    out: { type: 'string', default: 'out' },
  },
});

function list(text: string): string[] {
  return text.split(',').filter((part) => part !== '');
}

function positive(name: 'rounds' | 'milliseconds' | 'threads'): number {
  const value = Number(values[name]);
  if (!Number.isInteger(value) || value < 1)
    throw new RangeError(`--${name} must be a positive integer, got ${values[name]}`);
  return value;
}

if (values.dtype !== 'float32' && values.dtype !== 'float64')
  throw new RangeError(`--dtype must be float32 or float64, got ${values.dtype}`);
const dtype: DType = values.dtype;

/** What the command line asks for. */
export const options = {
  ...values,
  dtype,
  rounds: positive('rounds'),
  milliseconds: positive('milliseconds'),
  threads: positive('threads'),
  isa: list(values.isa),
  contenders: list(values.contenders),
};
