// Finds the .node file and types it; binding/binding.cpp is the other side.
import { createRequire } from 'node:module';
import { rangeError } from '../errors.js';
import { type Backend, nothingOnTheWay, type OnTheWay, type Passes } from './backend.js';
import { l2Bytes, usualStreamBytes } from './caches.js';
import { cpus } from './threads.js';

interface Binding
  extends Pick<
    Backend,
    | 'updateRunningStats'
    | 'release'
    | 'isAligned'
    | 'adviseHugePages'
    | 'onFinished'
    | 'takeFinished'
    | 'cancel'
    | 'setThreads'
    | 'threads'
  > {
  isas: string[];
  float32: Passes<Float32Array>;
  float64: Passes<Float64Array>;
  /** Absent until the library is evaluated for the first time; see {@link Backend.onTheWay}. */
  onTheWay?: OnTheWay;
  /** For the environment that calls. */
  setMachine(cpus: number, cacheBytes: number, mostStreamBytes: number, streamBytesPerThread: number): void;
  /** Whether this CPU can run it. */
  useIsa(name: string): boolean;
}

/** What a caller of the library may decide through the environment; undefined for the best. */
export interface NativeSettings {
  isa?: string;
  streamBytes?: number;
}

/**
 * @throws what the loader throws where there is no binary for this platform; RangeError where the CPU lacks `isa`.
 */
export function createNativeBackend({ isa, streamBytes }: NativeSettings = {}): Backend {
  // Not before it is wanted, and in here, where it may fail: it looks around as it is evaluated, which Node's permission model may
  // forbid, and a bundle may have no address of its own to begin from. The path is literal for tools that trace requires.
  const require = createRequire(import.meta.url);
  const binding = require('../../binary.cjs') as Binding;
  const { isas } = binding;
  if (isa !== undefined && !binding.useIsa(isa))
    throw rangeError(
      'BATCHNORM_ISA',
      `be one that this CPU has (${isas.join(', ')})`,
      isa,
      'UNSUPPORTED_ISA',
    );
  binding.onTheWay ??= nothingOnTheWay();
  const l2 = l2Bytes();
  const { most, perThread } =
    streamBytes === undefined ? usualStreamBytes : { most: streamBytes, perThread: streamBytes };
  // The other half is for what is written, and for the next group, which is being fetched.
  binding.setMachine(cpus(), l2 / 2, most, perThread);
  return {
    name: 'native',
    isa: isa ?? isas[0],
    isas,
    l2Bytes: l2,
    streamBytes: () => Math.min(most, perThread * binding.threads()),
    float32: binding.float32,
    float64: binding.float64,
    updateRunningStats: binding.updateRunningStats,
    release: binding.release,
    isAligned: binding.isAligned,
    adviseHugePages: binding.adviseHugePages,
    onTheWay: binding.onTheWay,
    onFinished: binding.onFinished,
    takeFinished: binding.takeFinished,
    cancel: binding.cancel,
    setThreads: binding.setThreads,
    threads: binding.threads,
  };
}
