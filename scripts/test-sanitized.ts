// Runs the suite over an addon with AddressSanitizer and UndefinedBehaviorSanitizer, once for every instruction set this
// machine has, or for those of `-- --isa avx2,generic`, or for the best: `-- --isa best`. `-- --short` leaves out what is
// large or does nothing new to memory. Positional arguments are vitest's filters of files.
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { run } from './run.js';
import { buildSanitized, sanitizedRoot, sanitizerLibrary, sanitizerOptions } from './sanitized.js';

const { values, positionals } = parseArgs({
  options: { isa: { type: 'string' }, short: { type: 'boolean', default: false } },
  allowPositionals: true,
});

buildSanitized('batchnorm');
const loaded = { BATCHNORM_PREBUILD: sanitizedRoot, BATCHNORM_BACKEND: 'native' };
const sanitized = {
  ...loaded,
  ...sanitizerOptions,
  LD_PRELOAD: sanitizerLibrary(),
  // Node itself leaves things behind.
  ASAN_OPTIONS: 'detect_leaks=0',
};

/** Tests that measure memory, of which the sanitizers take their own share. */
const measuring = ['may run out', 'is given back'];
/** Millions of values go ways on which the native tests, sanitized too, send thousands: stores past the caches, blocks. */
const large = ['beyond the caches', 'millions of values per channel'];
const leftOut = [...measuring, ...(values.short ? large : [])];
/**
 * The launchers and libraries of MPI have no sanitizers. What the examples and the search for large errors ask of the addon, other
 * rooms have asked.
 */
const leftOutFiles = [
  'test/mpi/**',
  ...(values.short
    ? [
        'test/examples/**',
        'test/kernels/hunt.test.ts',
        // Native tests go all their ways.
        'test/norms/bits.test.ts',
        'test/norms/numerics.test.ts',
        'test/norms/frameworks.test.ts',
      ]
    : []),
];

function isas(environment: NodeJS.ProcessEnv) {
  const program = "import { capabilities } from 'batchnorm'; console.log(capabilities().isas.join())";
  return spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
    env: { ...process.env, BATCHNORM_ISA: '', ...environment },
    encoding: 'utf8',
  });
}

const { stdout, stderr } = isas(sanitized);
if (!stdout) throw new Error(`the addon must load with the sanitizers, got\n${stderr}`);
// Without their library nothing but the sanitized addon would fail: this is the one that is tested.
const { status } = isas(loaded);
if (status === 0) throw new Error('the addon must need the sanitizers, got one that loads without them');

const found = stdout.trim().split(',');
const chosen =
  values.isa === undefined ? found : values.isa === 'best' ? found.slice(0, 1) : values.isa.split(',');
const lacking = chosen.find((isa) => !found.includes(isa));
if (lacking !== undefined)
  throw new Error(`--isa must be best or some of ${found.join(', ')}, got ${lacking || '""'}`);

for (const isa of chosen) {
  console.log(`\n=== ${isa}, sanitized, but for: ${[...leftOutFiles, ...leftOut].join('; ')} ===`);
  run(
    process.execPath,
    [
      'node_modules/vitest/vitest.mjs',
      'run',
      `--testNamePattern=^(?!.*(${leftOut.join('|')}))`,
      ...leftOutFiles.map((file) => `--exclude=${file}`),
      ...positionals,
    ],
    { ...sanitized, BATCHNORM_ISA: isa },
  );
}
const notRun = found.filter((isa) => !chosen.includes(isa));
console.log(`\nSanitized: ${chosen.join(', ')}; not run: ${notRun.join(', ') || 'none'}`);
