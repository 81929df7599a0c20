// Runs the whole suite on the best instruction set of this machine, and what computes on every other and on the WebAssembly backend;
// `-- --whole` the whole suite on all of them. Says which ran. Other arguments go to vitest.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { wasmBytes } from '../lib/backend/wasm-bytes.js';
import { apartFromKernels, ownToWasm } from './suite.js';

const allIsas = ['avx512', 'avx2', 'neon', 'generic'];
const seed = process.env.BATCHNORM_SEED ?? String(Math.floor(Math.random() * 2 ** 32));
const whole = process.argv.includes('--whole');
const passedOn = process.argv.slice(2).filter((argument) => argument !== '--whole');
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

function runSuite(
  name: string,
  environment: Record<string, string>,
  leftOut: readonly string[] = [],
): Counts & { status: number } {
  console.log(`\n=== ${name}${leftOut.length > 0 ? ', what computes' : ', the whole suite'} ===`);
  const report = join(folder, `${name}.json`);
  const child = spawnSync(
    process.execPath,
    [
      'node_modules/vitest/vitest.mjs',
      'run',
      '--reporter=default',
      '--reporter=json',
      `--outputFile.json=${report}`,
    ].concat(
      // An argument may name nothing but files that are left out.
      leftOut.length > 0 && passedOn.length > 0 ? ['--passWithNoTests'] : [],
      leftOut.map((file) => `--exclude=${file}`),
      passedOn,
    ),
    { env: { ...process.env, BATCHNORM_SEED: seed, ...environment }, stdio: 'inherit' },
  );
  const counts = existsSync(report)
    ? (JSON.parse(readFileSync(report, 'utf8')) as Counts)
    : { numPassedTests: 0, numFailedTests: 0, numPendingTests: 0 };
  return { ...counts, status: child.status ?? 1 };
}

const isas = nativeIsas();
const isWasmBuilt = wasmBytes !== undefined;
if (isas.length === 0) throw new Error('the list of instruction sets must not be empty, got []');

const apart = whole ? [] : Object.keys(apartFromKernels);
const results = [
  ...isas.map((isa, i) =>
    runSuite(isa, { BATCHNORM_BACKEND: 'native', BATCHNORM_ISA: isa }, i === 0 ? [] : apart),
  ),
  ...(isWasmBuilt
    ? [
        runSuite(
          'wasm',
          { BATCHNORM_BACKEND: 'wasm', BATCHNORM_ISA: '' },
          apart.filter((file) => !ownToWasm.includes(file)),
        ),
      ]
    : []),
];
rmSync(folder, { recursive: true });

const total = (key: keyof Counts) => results.reduce((sum, result) => sum + result[key], 0);
const missing = allIsas.filter((isa) => !isas.includes(isa));
if (apart.length > 0)
  console.log(
    `\nOn ${isas[0]} alone: ${apart.join(', ')}; of these on the WebAssembly backend too: ${ownToWasm.join(', ')}`,
  );
console.log(`\nInstruction sets that ran: ${isas.join(', ')}`);
console.log(`WebAssembly: ${isWasmBuilt ? 'ran' : 'not built, not run (npm run build:wasm)'}`);
console.log(`That did not, because this CPU lacks them: ${missing.join(', ') || 'none'}`);
console.log(`Seed: ${seed} (BATCHNORM_SEED)`);
console.log(
  `Tests: ${total('numPassedTests')} passed, ${total('numFailedTests')} failed, ${total('numPendingTests')} skipped`,
);
const mustPass = passedOn.length === 0 ? results : results.slice(0, 1);
if (results.some(({ status }) => status !== 0) || mustPass.some(({ numPassedTests }) => numPassedTests === 0))
  process.exitCode = 1;
