import { type ChildProcess, fork, type Serializable, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Entry } from './entries.js';
import type { Reply, Request } from './protocol.js';

/** A reply in which nothing is certain to be. */
interface Failing {
  error?: string;
}

/** A process of its own, which answers one request after another. */
export interface Child<Request, Reply extends Failing> {
  /** What the library throws is in the reply, and so is that its process ended; after that replies are empty. */
  ask(request: Request): Promise<Partial<Reply>>;
  end(): unknown;
}

/** A contender in a process of its own. */
export interface Worker extends Child<Request, Reply> {
  entry: Entry;
}

/** Starts a contender. */
export function startWorker(entry: Entry): Worker {
  return entry.library === 'pytorch' ? startPython(entry) : startNode(entry);
}

function startNode(entry: Entry): Worker {
  const { library, threads, isa, root } = entry;
  const module = new URL('child.ts', import.meta.url);
  const args = [library, `--threads=${threads}`, `--root=${root}`];
  return {
    entry,
    ...startChild(module, args, { OMP_NUM_THREADS: String(threads), ...(isa && { BATCHNORM_ISA: isa }) }),
  };
}

/** A process of its own with a module that answers one message after another, each with a `Reply`. */
export function startChild<Request extends Serializable, Reply extends Failing>(
  module: URL,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
): Child<Request, Reply> {
  const child = fork(module, args, {
    // What a library says about itself would break the progress bar.
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    // JSON would turn NaN into null.
    serialization: 'advanced',
    // Ctrl+C in a terminal is for the benchmark, which ends them when it has kept what there is.
    detached: true,
    env: { ...process.env, ...env },
  });
  return {
    ask: untilEnd<Request, Reply>(child, async (request, signal) => {
      child.send(request);
      const [reply] = await once(child, 'message', { signal });
      return reply as Reply;
    }),
    end: () => child.connected && child.disconnect(),
  };
}

function startPython(entry: Entry): Worker {
  const script = fileURLToPath(new URL('contenders/pytorch.py', import.meta.url));
  const child = spawn(entry.command ?? 'python3', [script, String(entry.threads)], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
    // PyTorch has no results that are given and reused; this makes its allocator keep their memory.
    env: { ...process.env, MALLOC_MMAP_THRESHOLD_: '10000000000', MALLOC_TRIM_THRESHOLD_: '100000000000' },
  });
  const lines = createInterface({ input: child.stdout });
  return {
    entry,
    ask: untilEnd<Request, Reply>(child, async (request, signal) => {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      const [line] = await once(lines, 'line', { signal });
      return JSON.parse(line as string) as Reply;
    }),
    end: () => child.stdin.end(),
  };
}

/** A library that ends its process must not end hours of measurements of the others. */
function untilEnd<Request, Reply extends Failing>(
  child: ChildProcess,
  ask: (request: Request, signal: AbortSignal) => Promise<Reply>,
): Child<Request, Reply>['ask'] {
  const ended = new AbortController();
  child.once('exit', (code, signal) =>
    ended.abort(`its process ended with ${signal ?? `exit code ${code}`}`),
  );
  return async (request) => {
    if (ended.signal.aborted) return {};
    try {
      return await ask(request, ended.signal);
    } catch (error) {
      const reason = ended.signal.aborted ? ended.signal.reason : error;
      return { error: String(reason) } as Partial<Reply>;
    }
  };
}
