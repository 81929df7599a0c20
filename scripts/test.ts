// Runs the whole suite once for every instruction set this machine has and once on the JS backend, and says which
// ran. Arguments go to vitest.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const allIsas = ['avx512', 'avx2', 'neon', 'generic'];
const seed = process.env.BATCHNORM_SEED ?? String(Math.floor(Math.random() * 2 ** 32));
const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));

/** The instruction sets of this machine, from a process in which nothing but the native backend will do. */
function nativeIsas(): string[] {
  const program =
    "import { capabilities } from 'batchnorm'; console.log(JSON.stringify(capabilities().isas))";
  const child = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
    env: { ...process.env, BATCHNORM_BACKEND: 'native', BATCHNORM_ISA: '' },
    encoding: 'utf8',
  });
  if (child.status !== 0) throw new Error(`the native backend must load, got\n${child.stderr}`);
  return JSON.parse(child.stdout) as string[];
}

interface Counts {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
}

function runSuite(name: string, environment: Record<string, string>): Counts & { status: number } {
  console.log(`\n=== ${name} ===`);
  const report = join(folder, `${name}.json`);
  const child = spawnSync(
    process.execPath,
    [
      'node_modules/vitest/vitest.mjs',
      'run',
      '--reporter=default',
      '--reporter=json',
      `--outputFile.json=${report}`,
    ].concat(process.argv.slice(2)),
    { env: { ...process.env, BATCHNORM_SEED: seed, ...environment }, stdio: 'inherit' },
  );
  const counts = JSON.parse(readFileSync(report, 'utf8')) as Counts;
  return { ...counts, status: child.status ?? 1 };
}

const isas = nativeIsas();
if (isas.length === 0) throw new Error('the list of instruction sets must not be empty, got []');

const results = [
  ...isas.map((isa) => runSuite(isa, { BATCHNORM_BACKEND: 'native', BATCHNORM_ISA: isa })),
  runSuite('js', { BATCHNORM_BACKEND: 'js', BATCHNORM_ISA: '' }),
];
rmSync(folder, { recursive: true });

const total = (key: keyof Counts) => results.reduce((sum, result) => sum + result[key], 0);
const missing = allIsas.filter((isa) => !isas.includes(isa));
console.log(`\nInstruction sets that ran: ${isas.join(', ')}, and the JS backend`);
console.log(`That did not, because this CPU lacks them: ${missing.join(', ') || 'none'}`);
console.log(`Seed: ${seed} (BATCHNORM_SEED)`);
console.log(
  `Tests: ${total('numPassedTests')} passed, ${total('numFailedTests')} failed, ${total('numPendingTests')} skipped`,
);
if (results.some(({ status, numPassedTests }) => status !== 0 || numPassedTests === 0)) process.exitCode = 1;
