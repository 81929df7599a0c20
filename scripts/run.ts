// Runs a program for the other scripts.
import { type SpawnSyncOptions, spawnSync } from 'node:child_process';

/** @throws Error where the program does not end with 0. */
export function run(command: string, args: readonly string[], options: SpawnSyncOptions = {}): void {
  const { status, signal, error } = spawnSync(command, args, { stdio: 'inherit', ...options });
  if (status !== 0)
    throw new Error(`${command} must succeed, got ${error?.message ?? signal ?? `exit code ${status}`}`);
}
