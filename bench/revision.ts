import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A build of another revision outside of the repository. */
export interface Revision {
  root: string;
  remove(): void;
}

/** Checks a revision out beside the repository and builds it with the packages that are installed here. */
export function buildRevision(repository: string, ref: string): Revision {
  const run = (command: string, args: string[], cwd: string) =>
    execFileSync(command, args, { cwd, stdio: ['ignore', 'ignore', 'inherit'] });
  const parent = mkdtempSync(join(tmpdir(), 'batchnorm-revision-'));
  const root = join(parent, 'tree');
  const remove = () => {
    run('git', ['worktree', 'remove', '--force', root], repository);
    rmSync(parent, { recursive: true, force: true });
  };
  process.once('SIGINT', () => {
    remove();
    process.exit(130);
  });
  run('git', ['worktree', 'add', '--quiet', '--detach', root, ref], repository);
  try {
    symlinkSync(join(repository, 'node_modules'), join(root, 'node_modules'));
    run('npx', ['cmake-js', 'compile', '--log-level', 'warn'], root);
    run('npm', ['run', '--silent', 'build:lib'], root);
  } catch (error) {
    remove();
    throw error;
  }
  return { root, remove };
}
