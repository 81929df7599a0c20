import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** CPUs that the cgroup's quota allows, Infinity where there is none: cpu.max of version 2, cpu.cfs_* of version 1. */
function cgroupCpus(): number {
  let cpus = Number.POSITIVE_INFINITY;
  for (const line of (read('/proc/self/cgroup') ?? '').split('\n')) {
    const [, controllers, group] = line.split(':');
    // A quota on any group above binds too. In a container the paths may be those of the host: the root is there.
    for (
      let path = group ?? '';
      path !== '';
      path = path === '/' ? '' : path.slice(0, path.lastIndexOf('/')) || '/'
    ) {
      if (controllers === '') {
        const [quota, period] = (read(`/sys/fs/cgroup${path}/cpu.max`) ?? 'max').split(' ').map(Number);
        if (quota > 0 && period > 0) cpus = Math.min(cpus, quota / period);
      } else if (controllers?.split(',').includes('cpu')) {
        const folder = `/sys/fs/cgroup/cpu${path}`;
        const quota = Number(read(`${folder}/cpu.cfs_quota_us`));
        const period = Number(read(`${folder}/cpu.cfs_period_us`));
        if (quota > 0 && period > 0) cpus = Math.min(cpus, quota / period);
      }
    }
  }
  return cpus;
}

/** The CPUs that affinity and cgroup quota allow this process. A fraction of one is not worth a thread. */
export function cpus(): number {
  return Math.max(1, Math.floor(Math.min(availableParallelism(), cgroupCpus())));
}
