import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { hasOneDnn } from './contenders/onednn.js';
import { hasPeer } from './contenders/peers.js';
import { options } from './options.js';

/** A contender as the tables name it, and how to start it. */
export interface Entry {
  name: string;
  library:
    | 'native'
    | 'plain-js'
    | 'onnxruntime'
    | 'onednn'
    | 'onednn-blocked'
    | 'tfjs-cpu'
    | 'tfjs-wasm'
    | 'pytorch';
  threads: number;
  /** Of a build of this package. */
  root: string;
  /** Forced on this library. */
  isa?: string;
  /** Of the interpreter. */
  command?: string;
}

/** The repository that this benchmark is part of. */
export const root = fileURLToPath(new URL('..', import.meta.url));

const threadCounts = [...new Set([1, options.threads])];

/** This library as built in `at`, with one thread and with several. */
export function nativeEntries(at: string, prefix: string): Entry[] {
  return threadCounts.map((threads) => ({
    name: `${prefix} ${threads}T`,
    library: 'native',
    threads,
    root: at,
  }));
}

function peer(library: Entry['library'], name: string, threads: readonly number[]): Entry[] {
  return threads.map((count) => ({
    name: threads.length > 1 ? `${name} ${count}T` : name,
    library,
    threads: count,
    root,
    command: options.python,
  }));
}

/** Everybody, or those asked for; those that are not installed are said to be left out. */
export function chooseEntries(say: (line: string) => void): Entry[] {
  const peers: { installed: () => boolean; entries: Entry[]; cure: string }[] = [
    {
      installed: () => hasPeer('onnxruntime-node'),
      entries: peer('onnxruntime', 'onnxruntime', threadCounts),
      cure: 'npm run bench:peers',
    },
    {
      installed: hasOneDnn,
      entries: [
        ...peer('onednn', 'oneDNN', threadCounts),
        ...peer('onednn-blocked', 'oneDNN blocked', threadCounts),
      ],
      cure: "its headers, Debian's libdnnl-dev",
    },
    {
      installed: () => hasPeer('@tensorflow/tfjs'),
      entries: peer('tfjs-cpu', 'tfjs-cpu', [1]),
      cure: 'npm run bench:peers',
    },
    {
      installed: () => hasPeer('@tensorflow/tfjs') && hasPeer('@tensorflow/tfjs-backend-wasm'),
      entries: peer('tfjs-wasm', 'tfjs-wasm', [1]),
      cure: 'npm run bench:peers',
    },
    {
      installed: () => spawnSync(options.python, ['-c', 'import torch'], { stdio: 'ignore' }).status === 0,
      entries: peer('pytorch', 'PyTorch', threadCounts),
      cure: '--python <an interpreter that imports torch>',
    },
  ];
  const wanted = ({ name }: Entry) =>
    options.contenders.length === 0 || options.contenders.some((part) => name.includes(part));
  const own = [
    ...options.isa.map(
      (isa): Entry => ({ name: `native 1T ${isa}`, library: 'native', threads: 1, root, isa }),
    ),
    ...peer('plain-js', 'plain JS', [1]),
  ].filter(wanted);
  const others = peers.flatMap(({ installed, entries, cure }) => {
    const chosen = entries.filter(wanted);
    if (chosen.length === 0 || installed()) return chosen;
    say(`${chosen.map(({ name }) => name).join(', ')}: left out, not installed (${cure})`);
    return [];
  });
  // This library is always there: the limits are measured in its processes, with as many threads.
  return [...nativeEntries(root, 'native'), ...own, ...others];
}
