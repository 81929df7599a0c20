// Finds the .node file and types it; binding/binding.cpp is the other side.
import { fileURLToPath } from 'node:url';
import load from 'node-gyp-build';
import { rangeError } from '../errors.js';
import type { Backend, Passes } from './backend.js';

interface Binding extends Pick<Backend, 'updateRunningStats' | 'setThreads' | 'threads'> {
  isas: string[];
  float32: Passes<Float32Array>;
  float64: Passes<Float64Array>;
  /** Whether this CPU can run it. */
  useIsa(name: string): boolean;
}

const packageRoot = fileURLToPath(new URL('../..', import.meta.url));

/**
 * @param isa the instruction set to use, undefined for the best one.
 * @throws what the loader throws where there is no binary for this platform; RangeError where the CPU lacks `isa`.
 */
export function createNativeBackend(isa: string | undefined): Backend {
  const binding = load(packageRoot) as Binding;
  const { isas } = binding;
  if (isa !== undefined && !binding.useIsa(isa))
    throw rangeError(
      'BATCHNORM_ISA',
      `be one that this CPU has (${isas.join(', ')})`,
      isa,
      'UNSUPPORTED_ISA',
    );
  return {
    name: 'native',
    isa: isa ?? isas[0],
    isas,
    float32: binding.float32,
    float64: binding.float64,
    updateRunningStats: binding.updateRunningStats,
    setThreads: binding.setThreads,
    threads: binding.threads,
  };
}
