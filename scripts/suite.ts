// Which files of the suite say something about an instruction set.

/** The others, with the reason: once per machine is enough. Globs of vitest. */
export const apartFromKernels = {
  'test/abuse.test.ts': 'memory, threads and processes around whatever is computed',
  'test/containers.test.ts': 'TypeScript',
  'test/environment.test.ts': 'settings, in processes that choose their own instruction sets',
  'test/event-loop.test.ts': 'threads and processes of Node',
  'test/examples.test.ts': 'examples',
  'test/fuzz-interface.test.ts': 'TypeScript',
  'test/fuzz-model.test.ts': 'TypeScript',
  'test/golden.test.ts': 'how a difference is told',
  'test/hunt.test.ts': 'what all instruction sets have to the bit, searched once',
  'test/safetensors.test.ts': 'an example',
  'test/serve*.test.ts': 'an example',
  'test/tfjs*.test.ts': 'what surrounds the kernels is the same everywhere',
  'test/types.test.ts': 'the compiler',
  'test/validation.test.ts': 'TypeScript',
} as const;

/** Of these, what the WebAssembly backend has ways of its own for: its turns of the event loop, its memory. */
export const ownToWasm: readonly string[] = ['test/abuse.test.ts', 'test/event-loop.test.ts'];
