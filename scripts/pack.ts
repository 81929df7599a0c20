// The package and its dependencies as tarballs, so that it can be installed with no registry in reach.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { buildSync } from 'esbuild';
import manifest from '../package.json' with { type: 'json' };
import { run } from './run.js';

/** npm's own program. */
export const npm = process.env.npm_execpath as string;
if (!npm) throw new Error('this script must be run by npm, got no npm_execpath: npm run');

function runPack(folder: string, ...flags: string[]): { filename: string; size: number } {
  const { stdout, status, stderr } = spawnSync(
    process.execPath,
    [npm, 'pack', folder, '--json', '--ignore-scripts', ...flags],
    { encoding: 'utf8', maxBuffer: 2 ** 26 },
  );
  if (status !== 0) throw new Error(`npm pack must succeed, got ${stderr}`);
  return (JSON.parse(stdout) as { filename: string; size: number }[])[0];
}

function pack(folder: string, destination: string): string {
  return join(destination, runPack(folder, '--pack-destination', destination).filename);
}

/** The bytes of the package's tarball, with `dist/` and `prebuilds/` as they are. */
export function packedBytes(): number {
  return runPack('.', '--dry-run').size;
}

/** Packs them into a folder, with `dist/` as it is. */
export function packAll(destination: string): { tarball: string; dependencies: string[] } {
  mkdirSync(destination, { recursive: true });
  return {
    tarball: pack('.', destination),
    dependencies: Object.keys(manifest.dependencies).map((name) =>
      pack(resolve('node_modules', name), destination),
    ),
  };
}

/** A file of test/ for those who have nothing but the package: with what it imports in it, and its data, for not every tool takes JSON. */
export function forConsumer(path: string, format: 'esm' | 'cjs'): string {
  const library = '../../lib/index.js';
  const { outputFiles } = buildSync({
    entryPoints: [path],
    bundle: true,
    write: false,
    format,
    platform: 'node',
    target: 'es2022',
    external: [library],
  });
  return outputFiles[0].text.replaceAll(library, 'batchnorm');
}

/** Packages of the registry in a folder of their own under build/, unless they are there. */
export function fetchPackages(
  folder: string,
  specifications: readonly string[],
  flags: readonly string[] = [],
): void {
  const wanted = JSON.stringify(specifications);
  const note = join(folder, 'fetched.json');
  if (existsSync(note) && readFileSync(note, 'utf8') === wanted) return;
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const quiet = ['--silent', '--no-audit', '--no-fund', '--no-save', '--ignore-scripts'];
  run('npm', ['install', ...quiet, '--prefix', folder, ...flags, ...specifications]);
  writeFileSync(note, wanted);
}
