// Builds the fuzzer of the C++ interface and runs it: --seconds <n>, by default 60. It begins with nothing, or with what
// earlier runs have left in build/fuzz; a case that fails is written there and printed as a case for test/native.
import { mkdirSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { run } from './run.js';
import { buildSanitized, sanitizerOptions } from './sanitized.js';

const { seconds } = parseArgs({ options: { seconds: { type: 'string', default: '60' } } }).values;
if (!/^[1-9]\d*$/.test(seconds)) throw new Error(`--seconds must be a positive integer, got ${seconds}`);

const folder = buildSanitized('native_fuzz');
const corpus = 'build/fuzz/corpus';
mkdirSync(corpus, { recursive: true });
// What an input is made of fits in 64 bytes; from the first on it may use them all.
run(
  `${folder}/native_fuzz`,
  [
    corpus,
    `-max_total_time=${seconds}`,
    '-max_len=64',
    '-len_control=0',
    '-timeout=600',
    '-artifact_prefix=build/fuzz/',
    '-print_final_stats=1',
    '-verbosity=0',
  ],
  sanitizerOptions,
);
