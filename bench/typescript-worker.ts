import { Worker, type WorkerOptions } from 'node:worker_threads';

/** A worker thread with a TypeScript module: Node 20 does not hand the hooks that tsx has set on to its workers. */
export function typescriptWorker(module: URL, options: WorkerOptions): Worker {
  const program = `import('tsx/esm/api').then(({ register }) => {
    register();
    return import(${JSON.stringify(module.href)});
  })`;
  return new Worker(program, { ...options, eval: true });
}
