// The compiler that carries the headers and libraries of every system, from PyPI.
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { run } from './run.js';

const version = '0.17.1';
const folder = resolve(`build/zig-${version}`);

/** The program; see {@link installZig}. */
export const zig = `${folder}/ziglang/zig`;

/** What it compiles of its own libraries stays in build/. */
export const zigEnvironment = {
  ZIG_GLOBAL_CACHE_DIR: resolve('build/zig-cache'),
  ZIG_LOCAL_CACHE_DIR: resolve('build/zig-cache'),
};

/** Needs Python's pip. */
export function installZig(): void {
  if (existsSync(zig)) return;
  run('python3', ['-m', 'pip', 'install', '--quiet', '--target', folder, `ziglang==${version}`]);
}
