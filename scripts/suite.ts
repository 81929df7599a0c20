// Which rooms and files of the suite say something about what computes: vitest's filters of files.

/** Every pass, sync and async: right on each instruction set and backend, or on none. */
export const computing = [
  'test/kernels/',
  'test/async/async.test.ts',
  'test/interface/folding.test.ts',
  'test/interface/layer.test.ts',
  'test/interface/moments.test.ts',
  'test/norms/textbook.test.ts',
  'test/norms/layers.test.ts',
  'test/norms/edges.test.ts',
] as const;

/** The WebAssembly backend has ways of its own with memory and with turns of the event loop. */
export const ownToWasm = ['test/abuse/', 'test/async/event-loop.test.ts'] as const;

/** That an instruction set has the bits of all others, with any number of threads. */
export const equality = ['test/kernels/invariants.test.ts'] as const;
