// Node.js, and what runs its modules: settings of the environment, the native backend where its binary loads.
import { Buffer } from 'node:buffer';
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { clearImmediate, setImmediate } from 'node:timers';
import { types } from 'node:util';
import * as workerThreads from 'node:worker_threads';
import { type Backend, maxThreads } from '../backend/backend.js';
import { createNativeBackend } from '../backend/native.js';
import { cpus } from '../backend/threads.js';
import { rangeError, stateError } from '../errors.js';
import type { Platform } from './platform.js';

// Taken when the library is loaded, and from modules: a test with a clock of its own replaces the global timers.
const { isSharedArrayBuffer } = types;
// From Node.js 22.10 on.
const { markAsUncloneable = () => {} } = workerThreads as { markAsUncloneable?: (object: object) => void };

const warningType = 'BatchnormWarning';

/** Causes and cures in the order of their likelihood. */
function loadFailure(cause: unknown): string {
  const message = cause instanceof Error ? cause.message.split('\n')[0] : String(cause);
  const { permission, resource } = cause as { permission?: string; resource?: string };
  const reason = permission === undefined ? message : `${message} (${permission} ${resource})`;
  return [
    `the native binary of batchnorm could not be loaded on ${process.platform}-${process.arch}: ${reason}`,
    'Possible causes and what to do:',
    '- the library was bundled: leave it out of the bundle (as external, or serverExternalPackages) and bring node_modules/batchnorm along, for a bundle does not bring the binary',
    '- there is no binary for this platform: compile one with "node node_modules/batchnorm/scripts/install.mjs" (needs CMake and GCC or clang; in a clone "npm run build")',
    '- Node.js runs with --no-addons, or its permission model forbids addons or what their loader reads (this package, node-gyp-build, /etc/alpine-release): allow them (Deno: --allow-env --allow-ffi --allow-read)',
    '- node_modules was copied from another operating system or CPU: install again on this machine',
  ].join('\n');
}

/** Where the runtime forbids to read it (Deno without permissions throws), it is as if it were not set. */
export function environment(name: string): string | undefined {
  try {
    return process.env[name] || undefined;
  } catch {
    return undefined;
  }
}

function choose(createWasmBackend: () => Backend): Backend {
  const wanted = environment('BATCHNORM_BACKEND');
  if (wanted !== undefined && wanted !== 'native' && wanted !== 'wasm')
    throw rangeError(
      'BATCHNORM_BACKEND',
      "be 'native' or 'wasm'",
      wanted === 'js' ? '"js"; wasm has taken its place' : JSON.stringify(wanted),
    );
  const streamBytes = environmentInteger('BATCHNORM_STREAM_BYTES', 0, Number.MAX_SAFE_INTEGER);
  if (wanted === 'wasm') return createWasmBackend();
  try {
    return createNativeBackend({ isa: environment('BATCHNORM_ISA'), streamBytes });
  } catch (error) {
    if ((error as { code?: unknown }).code === 'ERR_BATCHNORM_UNSUPPORTED_ISA') throw error;
    if (wanted === 'native') throw stateError('NATIVE_UNAVAILABLE', loadFailure(error), error);
    return createFallback(error, createWasmBackend);
  }
}

/** @throws Error with both reasons where there is no WebAssembly either. */
function createFallback(nativeError: unknown, createWasmBackend: () => Backend): Backend {
  let fallback: Backend;
  try {
    fallback = createWasmBackend();
  } catch (error) {
    const reason = `${loadFailure(nativeError)}\nNor is there WebAssembly to take its place: ${(error as Error).message}`;
    throw stateError('NATIVE_UNAVAILABLE', reason, nativeError);
  }
  process.emitWarning(
    `${loadFailure(nativeError)}\nUntil then everything runs on the slower WebAssembly backend, on one thread.`,
    { type: warningType, code: 'BATCHNORM_WASM_BACKEND' },
  );
  return fallback;
}

/** A setting that must be an integer; undefined where it is not set. */
function environmentInteger(name: string, from: number, to: number): number | undefined {
  const text = environment(name);
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!Number.isInteger(value) || value < from || value > to)
    throw rangeError(name, `be an integer from ${from} to ${to}`, JSON.stringify(text));
  return value;
}

export const platform: Platform = {
  chooseBackend(createWasmBackend) {
    const backend = choose(createWasmBackend);
    const startThreads = environmentInteger('BATCHNORM_THREADS', 1, maxThreads) ?? cpus();
    // The threads are the process's: a worker that loads the library later leaves them as they are.
    if (backend.threads() === 0) backend.setThreads(startThreads);
    return backend;
  },
  // Not imported: it is not needed where the binary loads, and takes a millisecond.
  inflate: (base64) => process.getBuiltinModule('node:zlib').inflateRawSync(Buffer.from(base64, 'base64')),
  wasmForbidden: 'policies and --jitless forbid it',
  isSharedArrayBuffer,
  markAsUncloneable,
  now: () => performance.now(),
  later(task) {
    const immediate = setImmediate(task);
    return () => clearImmediate(immediate);
  },
  writeText(folder, name, text, isMore) {
    mkdirSync(folder, { recursive: true });
    if (isMore) appendFileSync(join(folder, name), text);
    else writeFileSync(join(folder, name), text);
  },
  warn: (code, message) => process.emitWarning(message, { type: warningType, code }),
};
