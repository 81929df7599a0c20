// Runs a program for the other scripts, and builds the native ones.
import { spawnSync } from 'node:child_process';

/** @throws Error where the program does not end with 0. */
export function run(command: string, args: readonly string[], environment: NodeJS.ProcessEnv = {}): void {
  console.log(`$ ${[command, ...args].join(' ')}`);
  const { status, signal, error } = spawnSync(command, args, {
    stdio: 'inherit',
    env: { ...process.env, ...environment },
  });
  if (status !== 0)
    throw new Error(`${command} must succeed, got ${error?.message ?? signal ?? `exit code ${status}`}`);
}

/** Builds CMake targets beside the addon, from the objects that it has too; returns the folder. */
export function buildTargets(
  folder: string,
  targets: readonly string[],
  settings: Readonly<Record<string, string>> = {},
  ...options: readonly string[]
): string {
  run('npx', [
    ...['cmake-js', 'configure', '--log-level', 'warn', '--out', folder, ...options],
    ...Object.entries(settings).map(([name, value]) => `--CD${name}=${value}`),
  ]);
  run('cmake', ['--build', folder, '--config', 'Release', '--parallel', '2', '--target', ...targets]);
  return folder;
}
