import { hasPeer } from '../contenders/peers.js';
import type { Library } from './protocol.js';

/** A way to compute requests, as the tables name it; each has a process of its own. */
export interface Way {
  name: string;
  library: Library;
  threads: number;
  workers?: number;
}

const asynchronous: readonly [Library, string][] = [
  ['copies', 'runAsync'],
  ['shared', 'runAsync shared'],
  ['transfer', 'runAsync transfer'],
];

/** Those that a server has for requests of its event loop. onnxruntime is left out, and said to be, where it is not installed. */
export function eventLoopWays(threads: number, say: (line: string) => void): Way[] {
  const own: Way[] = [
    { name: 'idle', library: 'idle', threads },
    { name: 'run', library: 'run', threads },
    ...asynchronous.map(([library, name]) => ({ name, library, threads })),
  ];
  if (hasPeer('onnxruntime-node')) return [...own, { name: 'onnxruntime', library: 'onnxruntime', threads }];
  say('onnxruntime: left out, not installed (npm run bench:peers)');
  return own;
}

/** One JavaScript thread with one and with all native threads, and workers with one each. */
export function spreadWays(threads: number): Way[] {
  const inOne = [...new Set([1, threads])].map(
    (count): Way => ({ name: `run, ${count}T`, library: 'run', threads: count }),
  );
  const spread = [1, 2, 4].map(
    (count): Way => ({ name: `workers: ${count}`, library: 'workers', threads: 1, workers: count }),
  );
  return [...inOne, ...spread];
}
