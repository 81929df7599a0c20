import { maxThreads } from './backend/backend.js';
import { backend } from './backend/index.js';
import { checkInteger } from './validate.js';
import { version } from './version.js';

/** What computes in this process. */
export interface Capabilities {
  /** 'wasm' where no native binary could be loaded, or BATCHNORM_BACKEND asks for it. */
  backend: 'native' | 'wasm';
  /** The instruction set in use: 'avx512' | 'avx2' | 'neon' | 'generic', or 'wasm'. */
  isa: string;
  /**
   * Why it is that one, in words: 'BATCHNORM_ISA', which asked for it; 'the widest that can be used here'; 'AVX-512 lowers the clock
   * of this CPU', on Intel's before Ice Lake, where avx2 is the best; or 'the only one of the WebAssembly backend'.
   */
  isaReason: string;
  /** Those that could be used here (BATCHNORM_ISA), best first. */
  isas: string[];
  /** As {@link threads} says. */
  threads: number;
  /** The second-level cache of a core, which the order of work follows (no bit of a result does); 0 for 'wasm'. */
  l2Bytes: number;
  /**
   * Results from this size on are written past the caches: BATCHNORM_STREAM_BYTES, or 8 MiB for each of the first
   * three threads; 0 for 'wasm'.
   */
  streamBytes: number;
  /** The version of this package. */
  version: string;
}

/**
 * The most threads that one call may use, the calling one among them, for the whole process (all its workers).
 * It changes no bit of any result. What computes off the event loop leaves one CPU to it and to libuv's threads, however
 * many this says. The WebAssembly backend computes on the calling thread whatever this says.
 *
 * @param count an integer from 1 to 1024. At start: BATCHNORM_THREADS, or what affinity and cgroup quota allow.
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`) for anything else.
 * @example
 * import { setThreads } from 'batchnorm';
 *
 * setThreads(1); // leave the other CPUs to other processes
 */
export function setThreads(count: number): void {
  backend.setThreads(checkInteger('count', count, 1, maxThreads));
}

/**
 * The most threads that one call may use, the calling one among them. 1 on the WebAssembly backend.
 *
 * @returns what {@link setThreads} was given last, or what it is at start.
 * @example
 * import { threads } from 'batchnorm';
 *
 * console.log(threads() >= 1); // true
 */
export function threads(): number {
  return backend.threads();
}

/**
 * What computes here, and with what: for a log line, or to see whether the native binary was found.
 *
 * @returns a new object; writing to it changes nothing.
 * @example
 * import { capabilities } from 'batchnorm';
 *
 * const { backend, isa, isas } = capabilities();
 * console.log(isas.includes(isa), backend === 'native' || backend === 'wasm'); // true true
 */
export function capabilities(): Capabilities {
  const { name, isa, isaReason, isas, l2Bytes } = backend;
  return {
    backend: name,
    isa,
    isaReason,
    isas: isas.slice(),
    threads: threads(),
    l2Bytes,
    streamBytes: backend.streamBytes(),
    version,
  };
}
