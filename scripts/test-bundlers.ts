// Tries the package, as it comes from its tarball, in what people bundle, run and install it with. Needs a binary for this system in
// prebuilds/ (npm run prebuilds). The tools come from npm into build/bundlers, and stay there; arguments name those to be tried.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { transformSync } from 'esbuild';
import { patience } from '../test/support/patience.js';
import { check, conclude, title } from './checks.js';
import { fetchPackages, forConsumer, npm, packAll } from './pack.js';
import { serveRegistry } from './registry.js';

/** What is tried, in the versions of docs/bundlers.md. */
const tools = {
  '@rollup/plugin-node-resolve': '16.0.3',
  '@vercel/ncc': '0.45.0',
  '@vercel/nft': '1.11.5',
  '@yarnpkg/cli-dist': '4.18.1',
  bun: '1.4.5',
  deno: '2.9.6',
  esbuild: '0.28.2',
  jest: '30.5.2',
  next: '16.4.6',
  pnpm: '12.21.0',
  postject: '1.0.0-alpha.6',
  react: '19.3.1',
  'react-dom': '19.3.1',
  rollup: '4.68.8',
  vite: '8.3.8',
  webpack: '5.113.0',
  'webpack-cli': '7.3.1',
  yarn: '1.22.22',
};

const scratch = resolve('build/bundlers');
const toolsFolder = join(scratch, 'tools');
/** Below the tools, so that what is built finds them. */
const app = join(toolsFolder, 'app');
const tool = (path: string) => join(toolsFolder, 'node_modules', path);
const node = process.execPath;
const bun = tool(`@oven/bun-linux-${process.arch === 'x64' ? 'x64' : 'aarch64'}/bin/bun`);
const deno = tool(`@deno/linux-${process.arch}-glibc/deno`);

type Backend = 'native' | 'wasm';
type Command = readonly string[];

interface End {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** In a bare environment: npm's own settings are not those of users. */
const environment = { PATH: `${dirname(node)}:/usr/bin:/bin`, NEXT_TELEMETRY_DISABLED: '1', NO_COLOR: '1' };

/** A program that was begun, and its end. */
function begin([program, ...args]: Command, cwd: string, added: Record<string, string> = {}) {
  const child = spawn(program, args, {
    cwd,
    env: { ...environment, HOME: scratch, ...added },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: patience,
    killSignal: 'SIGKILL',
  });
  const end: End = { status: null, stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (end.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (end.stderr += text));
  const ended = once(child, 'close').then(([status]) => ({ ...end, status }));
  return { ended, kill: () => child.kill() };
}

const execute = (command: Command, cwd: string, added?: Record<string, string>): Promise<End> =>
  begin(command, cwd, added).ended;

const away = mkdtempSync(join(tmpdir(), 'batchnorm-'));
process.on('exit', () => rmSync(away, { recursive: true, force: true }));

/** A folder with no package beside or above it. */
const farFolder = () => mkdtempSync(join(away, 'away-'));

/** What report() must have said, on the backend that must serve. */
function checkReport(name: string, backend: Backend, { stdout, stderr }: Omit<End, 'status'>): void {
  const isRight = stdout.trim() === `${backend} right`;
  const warnings = stderr.match(/BatchnormWarning/g)?.length ?? 0;
  check(`${name}: the work is done right on the ${backend} backend`, isRight, stdout + stderr);
  if (backend === 'native') check(`${name}: no warning`, warnings === 0, stderr);
  else
    check(
      `${name}: one warning, which names bundling and its cure`,
      warnings === 1 && stderr.includes('the library was bundled: leave it out of the bundle'),
      stderr,
    );
  console.log(`${name}: ${stdout.trim()}${warnings > 0 ? ', with a warning' : ''}`);
}

async function build(name: string, ...commands: Command[]): Promise<void> {
  for (const command of commands) {
    const { status, stdout, stderr } = await execute(command, app);
    check(`${name}: the build ends with 0`, status === 0, stdout + stderr);
    check(`${name}: the build warns of nothing`, !/warn/i.test(stdout + stderr), stdout + stderr);
  }
}

interface Bundle {
  /** Makes `program` in the folder `out`. */
  commands: (out: string) => Command[];
  program: string;
  runtime?: string;
  /** The backend where node_modules/batchnorm lies above the bundle. */
  beside: Backend;
  /** The backend where it does not; left out where the bundle needs the package. */
  away?: Backend;
}

const esbuild = (entry: string, format: string, file: string) => (out: string) => [
  [
    tool('esbuild/bin/esbuild'),
    entry,
    '--bundle',
    '--platform=node',
    `--format=${format}`,
    `--outfile=${out}/${file}`,
  ],
];
const webpack =
  (entry: string, ...flags: string[]) =>
  (out: string) => [
    [
      ...[
        node,
        tool('webpack-cli/bin/cli.js'),
        'build',
        '--mode=production',
        '--target=node',
        `--entry=./${entry}`,
      ],
      ...[`--output-path=${out}`, '--output-filename=main.cjs', ...flags],
    ],
  ];
const vite =
  (...flags: string[]) =>
  (out: string) => [[node, tool('vite/bin/vite.js'), 'build', '--ssr=main.mjs', `--outDir=${out}`, ...flags]];
const ncc = (entry: string) => (out: string) => [
  [node, tool('@vercel/ncc/dist/ncc/cli.js'), 'build', entry, '--out', out],
];
const bunBuild = (target: string) => (out: string) => [
  [bun, 'build', 'main.mjs', `--target=${target}`, `--outfile=${out}/main.mjs`],
];

const bundles: Record<string, Bundle> = {
  'esbuild, ES module': {
    commands: esbuild('main.mjs', 'esm', 'main.mjs'),
    program: 'main.mjs',
    beside: 'native',
    away: 'wasm',
  },
  'esbuild, CommonJS': {
    commands: esbuild('main.mjs', 'cjs', 'main.cjs'),
    program: 'main.cjs',
    beside: 'native',
    away: 'wasm',
  },
  'esbuild, CommonJS of require()': {
    commands: esbuild('main.cjs', 'cjs', 'main.cjs'),
    program: 'main.cjs',
    beside: 'native',
    away: 'wasm',
  },
  rollup: {
    commands: (out) => [
      [
        ...[node, tool('rollup/dist/bin/rollup'), 'main.mjs', '--plugin=@rollup/plugin-node-resolve'],
        ...['--format=es', `--file=${out}/main.mjs`],
      ],
    ],
    program: 'main.mjs',
    beside: 'native',
    away: 'wasm',
  },
  'vite SSR': { commands: vite(), program: 'main.js', beside: 'native' },
  'vite SSR, noExternal': {
    commands: vite('--config=noexternal.mjs'),
    program: 'main.js',
    beside: 'native',
    away: 'wasm',
  },
  // Takes the loader of the binary into the bundle, which then looks beside that.
  webpack: { commands: webpack('main.mjs'), program: 'main.cjs', beside: 'wasm', away: 'wasm' },
  'webpack of require()': {
    commands: webpack('main.cjs'),
    program: 'main.cjs',
    beside: 'wasm',
    away: 'wasm',
  },
  'webpack, externals': {
    commands: webpack('main.mjs', '--externals=batchnorm', '--externals-type=commonjs'),
    program: 'main.cjs',
    beside: 'native',
  },
  'webpack, prebuilds/ copied': {
    commands: (out) => [...webpack('main.mjs')(out), ['cp', '-r', 'node_modules/batchnorm/prebuilds', out]],
    program: 'main.cjs',
    beside: 'native',
    away: 'native',
  },
  ncc: { commands: ncc('main.mjs'), program: 'index.mjs', beside: 'native', away: 'wasm' },
  'ncc of require()': { commands: ncc('main.cjs'), program: 'index.cjs', beside: 'native', away: 'wasm' },
  'bun build --target=node': {
    commands: bunBuild('node'),
    program: 'main.mjs',
    beside: 'native',
    away: 'wasm',
  },
  'bun build --target=bun': {
    commands: bunBuild('bun'),
    program: 'main.mjs',
    runtime: bun,
    beside: 'native',
    away: 'wasm',
  },
};

async function tryBundle(name: string, { commands, program, runtime = node, beside, away }: Bundle) {
  const out = join(app, 'out', name.replace(/\W+/g, '-'));
  await build(name, ...commands(out));
  checkReport(`${name}, beside node_modules`, beside, await execute([runtime, program], out));
  if (!away) return;
  const far = farFolder();
  cpSync(out, far, { recursive: true });
  checkReport(`${name}, elsewhere`, away, await execute([runtime, program], far));
}

/** Only what is traced is there when the program runs, as on a server without a disk of its own. */
async function tryTracing(name: string, entry: string): Promise<void> {
  const program = `
    import { nodeFileTrace } from '@vercel/nft';
    const { fileList } = await nodeFileTrace(['${entry}'], { base: process.cwd() });
    console.log(JSON.stringify([...fileList]));`;
  const { stdout, stderr } = await execute([node, '--input-type=module', '--eval', program], app);
  check(`${name}: it traces`, stdout !== '', stderr);
  const far = farFolder();
  for (const file of JSON.parse(stdout) as string[]) cpSync(join(app, file), join(far, file));
  checkReport(`${name}, what was traced`, 'native', await execute([node, entry], far));
}

async function trySingleExecutable(name: string): Promise<void> {
  const out = join(app, 'out', 'sea');
  await build(name, ...esbuild('main.mjs', 'cjs', 'main.cjs')(out));
  const config = { main: 'main.cjs', output: 'blob', disableExperimentalSEAWarning: true };
  writeFileSync(join(out, 'sea.json'), JSON.stringify(config));
  const far = farFolder();
  cpSync(node, join(far, 'program'));
  const inject = [tool('postject/dist/cli.js'), join(far, 'program'), 'NODE_SEA_BLOB', 'blob'];
  for (const args of [
    ['--experimental-sea-config', 'sea.json'],
    [...inject, '--sentinel-fuse', 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2'],
  ]) {
    const end = await execute([node, ...args], out);
    check(`${name}: ${args[0]} ends with 0`, end.status === 0, end);
  }
  checkReport(name, 'wasm', await execute(['./program'], far));
  for (const part of ['batchnorm', 'node-gyp-build'])
    cpSync(join(app, 'node_modules', part), join(far, 'node_modules', part), { recursive: true });
  checkReport(`${name}, node_modules beside it`, 'native', await execute(['./program'], far));
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

/** Builds a server of Next's that stands alone, and asks it elsewhere. */
async function tryNext(name: string, backend: Backend, settings: object): Promise<void> {
  const folder = join(app, 'next');
  const config = {
    output: 'standalone',
    outputFileTracingRoot: toolsFolder,
    turbopack: { root: toolsFolder },
  };
  writeFileSync(
    join(folder, 'next.config.mjs'),
    `export default ${JSON.stringify({ ...config, ...settings })};`,
  );
  rmSync(join(folder, '.next'), { recursive: true, force: true });
  const built = await execute([node, tool('next/dist/bin/next'), 'build'], folder);
  check(`${name}: the build ends with 0`, built.status === 0, built);
  const far = farFolder();
  cpSync(join(folder, '.next/standalone'), far, { recursive: true, verbatimSymlinks: true });
  const port = String(await freePort());
  const server = begin([node, 'server.js'], join(far, 'app/next'), { PORT: port, HOSTNAME: '127.0.0.1' });
  let isOver = false;
  void server.ended.then(() => (isOver = true));
  let stdout = '';
  while (!isOver && stdout === '') {
    await setTimeout(100);
    stdout = await fetch(`http://127.0.0.1:${port}/report`).then(
      (response) => response.text(),
      () => '',
    );
  }
  server.kill();
  checkReport(`${name}, elsewhere`, backend, { stdout, stderr: (await server.ended).stderr });
}

async function tryJest(name: string, ...conditions: string[]): Promise<void> {
  const options = JSON.stringify({ customExportConditions: conditions });
  const flags = conditions.length > 0 ? [`--testEnvironmentOptions=${options}`] : [];
  const end = await execute(
    [node, tool('jest/bin/jest.js'), '--testTimeout=60000', ...flags],
    join(app, 'jest'),
  );
  check(`${name}: a test with require() passes`, end.status === 0, end);
  console.log(`${name}: ${/^Tests: .*$/m.exec(end.stderr)?.[0]}`);
}

const runtimes: Record<string, readonly [Backend, ...Command]> = {
  'Bun, import': ['native', bun, 'main.mjs'],
  'Bun, require': ['native', bun, 'main.cjs'],
  'Deno with all permissions, import': ['native', deno, 'run', '--allow-all', 'main.mjs'],
  'Deno with all permissions, require': ['native', deno, 'run', '--allow-all', 'main.cjs'],
  'Deno with what a binary needs': [
    'native',
    deno,
    'run',
    '--no-prompt',
    '--allow-env',
    '--allow-ffi',
    '--allow-read',
    'main.mjs',
  ],
  'Deno without permissions': ['wasm', deno, 'run', '--no-prompt', 'main.mjs'],
};

interface Manager {
  /** Installs what package.json says. */
  install: Command;
  /** What runs a program then; else it is Node.js. */
  run?: Command;
  /** Of Yarn, from its second version on. */
  linker?: string;
}

const yarn = [node, tool('@yarnpkg/cli-dist/bin/yarn.js')];
const managers: Record<string, Manager> = {
  npm: { install: [node, npm, 'install'] },
  pnpm: { install: [node, tool('pnpm/bin/pnpm.mjs'), 'install'] },
  'Yarn 1': { install: [node, tool('yarn/bin/yarn.js'), 'install'] },
  'Yarn 4': { install: [...yarn, 'install'], linker: 'node-modules' },
  "Yarn 4, Plug'n'Play": { install: [...yarn, 'install'], run: [...yarn, 'node'], linker: 'pnp' },
  'bun install': { install: [bun, 'install'], run: [bun] },
  'deno install': { install: [deno, 'install'], run: [deno, 'run', '--allow-all'] },
};

async function tryManager(name: string, { install, run = [node], linker }: Manager): Promise<void> {
  const folder = farFolder();
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  const manifest = { name: 'app', private: true, type: 'module', dependencies: { batchnorm: version } };
  writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest));
  writeFileSync(join(folder, '.npmrc'), `registry=${registry.url}\n`);
  if (linker) {
    const settings = {
      npmRegistryServer: registry.url,
      unsafeHttpWhitelist: ['127.0.0.1'],
      nodeLinker: linker,
    };
    writeFileSync(join(folder, '.yarnrc.yml'), JSON.stringify({ ...settings, enableTelemetry: false }));
    writeFileSync(join(folder, 'yarn.lock'), '');
  }
  for (const file of ['main.mjs', 'report.mjs', 'golden.mjs']) cpSync(join(app, file), join(folder, file));
  const home = { HOME: folder, CI: '' };
  const installed = await execute(install, folder, home);
  check(`${name}: the installation ends with 0`, installed.status === 0, installed);
  checkReport(name, 'native', await execute([...run, 'main.mjs'], folder, home));
}

/** The folder of a user: two programs that say the same, and what the tools need beside them. */
async function prepare(): Promise<void> {
  rmSync(app, { recursive: true, force: true });
  for (const folder of ['next/app/report', 'jest']) mkdirSync(join(app, folder), { recursive: true });
  const write = (file: string, text: string) => writeFileSync(join(app, file), text);
  const report = readFileSync('test/installed/report.mjs', 'utf8');
  const main = "import { report } from './report.mjs';\n\nreport().then(console.log);\n";
  const commonjs = (text: string) => transformSync(text, { format: 'cjs' }).code.replaceAll('.mjs', '.cjs');
  write('package.json', '{ "name": "app", "private": true, "type": "module" }');
  write('golden.mjs', forConsumer('test/support/golden.ts', 'esm'));
  write('report.mjs', report);
  write('main.mjs', main);
  write('golden.cjs', forConsumer('test/support/golden.ts', 'cjs'));
  write('report.cjs', commonjs(report));
  write('main.cjs', commonjs(main));
  write('noexternal.mjs', 'export default { ssr: { noExternal: true } };');
  write('next/package.json', '{}');
  write('next/app/layout.js', 'export default ({ children }) => <html><body>{children}</body></html>;');
  write(
    'next/app/report/route.js',
    `import { report } from '../../../report.mjs';
    export const dynamic = 'force-dynamic';
    export const GET = async () => new Response(await report());`,
  );
  write('jest/package.json', '{}');
  write(
    'jest/report.test.js',
    `const { report } = require('../report.cjs');
    test('report', async () => expect(await report()).toBe('native right'));`,
  );
  const end = await execute(
    [node, npm, 'install', 'batchnorm', `--registry=${registry.url}`, '--no-audit'],
    app,
  );
  check('npm: the installation ends with 0', end.status === 0, end);
}

const { positionals: asked } = parseArgs({ options: {}, allowPositionals: true });
/** By the titles of their groups. */
const trials: Record<string, Record<string, () => Promise<void>>> = {
  Bundlers: Object.fromEntries(
    Object.entries(bundles).map(([name, bundle]) => [name, () => tryBundle(name, bundle)]),
  ),
  'Tracing, frameworks, single executables': {
    'nft, import': () => tryTracing('nft, import', 'main.mjs'),
    'nft, require': () => tryTracing('nft, require', 'main.cjs'),
    'single executable': () => trySingleExecutable('single executable'),
    jest: () => tryJest('jest'),
    // As with the environment jsdom.
    'jest, for browsers': () => tryJest('jest, for browsers', 'browser'),
    'next, serverExternalPackages': () =>
      tryNext('next, serverExternalPackages', 'native', { serverExternalPackages: ['batchnorm'] }),
    next: () => tryNext('next', 'wasm', {}),
  },
  Runtimes: Object.fromEntries(
    Object.entries(runtimes).map(([name, [backend, ...command]]) => [
      name,
      async () => checkReport(name, backend, await execute(command, app)),
    ]),
  ),
  'Package managers': Object.fromEntries(
    Object.entries(managers).map(([name, manager]) => [name, () => tryManager(name, manager)]),
  ),
};

title('The tools and the package');
const versions = Object.entries(tools).map(([name, version]) => `${name}@${version}`);
fetchPackages(toolsFolder, versions);
console.log(versions.join('\n'));
const { tarball, dependencies } = packAll(join(scratch, 'tarballs'));
const registry = await serveRegistry([tarball, ...dependencies]);
await prepare();
for (const [group, those] of Object.entries(trials)) {
  title(group);
  for (const [name, run] of Object.entries(those))
    if (asked.length === 0 || asked.some((word) => name.toLowerCase().includes(word.toLowerCase()))) {
      const start = performance.now();
      await run();
      console.log(`  ${((performance.now() - start) / 1000).toFixed(1)} s`);
    }
}
registry.close();
title('In short');
conclude();
