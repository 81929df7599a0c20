// Runs the whole suite on the best instruction set of this machine, what computes on the WebAssembly backend, and on every
// other instruction set that it has the same bits; says which ran. `-- --whole` runs the whole suite on all of them.
// Any other argument goes to vitest, once, on the best: `-- folding`; `-- folding --on avx2,wasm` says where instead.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { wasmBytes } from '../lib/backend/wasm-bytes.js';
import { computing, equality, ownToWasm } from './suite.js';

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

function runSuite(name: string, filters: readonly string[]): Counts & { name: string; status: number } {
  console.log(`\n=== ${name}${filters.length > 0 ? `: ${filters.join(' ')}` : ', the whole suite'} ===`);
  const report = join(folder, `${name}.json`);
  const child = spawnSync(
    process.execPath,
    [
      'node_modules/vitest/vitest.mjs',
      'run',
      `--maxWorkers=${availableParallelism()}`,
      '--reporter=default',
      '--reporter=json',
      `--outputFile.json=${report}`,
      ...filters,
    ],
    {
      env: {
        ...process.env,
        BATCHNORM_SEED: seed,
        BATCHNORM_BACKEND: name === 'wasm' ? 'wasm' : 'native',
        BATCHNORM_ISA: name === 'wasm' ? '' : name,
      },
      stdio: 'inherit',
    },
  );
  const counts = existsSync(report)
    ? (JSON.parse(readFileSync(report, 'utf8')) as Counts)
    : { numPassedTests: 0, numFailedTests: 0, numPendingTests: 0 };
  return { ...counts, name, status: child.status ?? 1 };
}

const isas = nativeIsas();
if (isas.length === 0) throw new Error('the list of instruction sets must not be empty, got []');
const isWasmBuilt = wasmBytes !== undefined;
const here = [...isas, ...(isWasmBuilt ? ['wasm'] : [])];

/** What `--on` names, and what is left of the arguments for vitest. */
function parse(): { whole: boolean; on?: string[]; passedOn: string[] } {
  const passedOn = process.argv.slice(2).filter((argument) => argument !== '--whole');
  const at = passedOn.indexOf('--on');
  const on = at < 0 ? undefined : passedOn.splice(at, 2)[1]?.split(',');
  const unknown = at < 0 ? undefined : (on ?? ['nothing']).find((name) => !here.includes(name));
  if (unknown !== undefined) throw new Error(`--on must be some of ${here.join(',')}, got ${unknown}`);
  return { whole: process.argv.includes('--whole'), on, passedOn };
}

/** The filters of vitest for this one, or undefined where it does not run. */
function filtersOf(name: string): readonly string[] | undefined {
  if (on !== undefined) return on.includes(name) ? passedOn : undefined;
  if (whole || name === isas[0]) return passedOn;
  if (passedOn.length > 0) return undefined;
  return name === 'wasm' ? [...computing, ...ownToWasm] : equality;
}

const { whole, on, passedOn } = parse();
const results = here.flatMap((name) => {
  const filters = filtersOf(name);
  return filters === undefined ? [] : [runSuite(name, filters)];
});
rmSync(folder, { recursive: true });

const total = (key: keyof Counts) => results.reduce((sum, result) => sum + result[key], 0);
const ran = results.map(({ name }) => name);
const notRun = [...allIsas, 'wasm']
  .filter((name) => !ran.includes(name))
  .map((name) => {
    if (here.includes(name)) return `${name} (not asked for)`;
    return name === 'wasm' ? 'wasm (not built: npm run build:wasm)' : `${name} (this CPU lacks it)`;
  });
console.log(`\nRan: ${ran.join(', ')}`);
console.log(`Did not run: ${notRun.join(', ') || 'none'}`);
console.log(`Seed: ${seed} (BATCHNORM_SEED)`);
console.log(
  `Tests: ${total('numPassedTests')} passed, ${total('numFailedTests')} failed, ${total('numPendingTests')} skipped`,
);
if (results.some(({ status, numPassedTests }) => status !== 0 || numPassedTests === 0)) process.exitCode = 1;
