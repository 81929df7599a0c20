// Runs the suite over an addon with AddressSanitizer and UndefinedBehaviorSanitizer, once for every instruction set this
// machine has, or for those of `-- --isa avx2,generic`, or for the best: `-- --isa best`. Positional arguments are vitest's
// filters of files.
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { run } from './run.js';
import { buildSanitized, sanitizedRoot, sanitizerLibrary, sanitizerOptions } from './sanitized.js';

const { values, positionals } = parseArgs({ options: { isa: { type: 'string' } }, allowPositionals: true });

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
const leftOut = ['may run out', 'is given back'];

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
  console.log(`\n=== ${isa}, sanitized, but for: ${leftOut.join('; ')} ===`);
  run(
    process.execPath,
    [
      'node_modules/vitest/vitest.mjs',
      'run',
      // Launchers and libraries of MPI, which have no sanitizers, are what runs there.
      '--exclude=test/mpi/**',
      `--testNamePattern=^(?!.*(${leftOut.join('|')}))`,
      ...positionals,
    ],
    { ...sanitized, BATCHNORM_ISA: isa },
  );
}
const notRun = found.filter((isa) => !chosen.includes(isa));
console.log(`\nSanitized: ${chosen.join(', ')}; not run: ${notRun.join(', ') || 'none'}`);
