import type { Backend } from '../backend/backend.js';

/**
 * What the library needs of where it runs: node.ts has it of Node.js, browser.ts of browsers. Nothing else in lib/ knows of
 * either; scripts/build-browser.ts puts the one in the place of the other.
 */
export interface Platform {
  /** The backend that computes here, as settings and what can be loaded decide. Once, when the library is loaded. */
  chooseBackend(createWasmBackend: () => Backend): Backend;
  /** The bytes that were deflated and written in base64. When the library is loaded. */
  inflate(base64: string): Uint8Array;
  /** What may forbid WebAssembly here and what to do about it, for a message. */
  readonly wasmForbidden: string;
  /** Of any realm, whatever its prototype. */
  isSharedArrayBuffer(buffer: ArrayBufferLike): buffer is SharedArrayBuffer;
  /** What structuredClone and postMessage then refuse, where the runtime can be told so. */
  markAsUncloneable(object: object): void;
  /** Milliseconds since some time. */
  now(): number;
  /** Calls back in a turn of the event loop of its own, in the order of the calls; what it returns takes that back. */
  later(task: () => void): () => void;
  /** Writes a file of a folder, anew or behind what is there, and the folder where there is none. Throws where that cannot be. */
  writeText(folder: string, name: string, text: string, isMore: boolean): void;
  /** Says what should be known, though all goes on. */
  warn(code: string, message: string): void;
}
