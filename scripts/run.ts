// Runs a program for the other scripts.
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
