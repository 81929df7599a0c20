// Chooses the backend, once, when the library is loaded.
import { rangeError, stateError } from '../errors.js';
import type { DType, FloatArray } from '../tensor.js';
import type { Backend, Passes } from './backend.js';
import { createJsBackend } from './js.js';
import { createNativeBackend } from './native.js';
import { defaultThreads } from './threads.js';

/** Causes and cures in the order of their likelihood. */
function loadFailure(cause: unknown): string {
  const reason = cause instanceof Error ? cause.message.split('\n')[0] : String(cause);
  return [
    `the native binary of batchnorm could not be loaded on ${process.platform}-${process.arch}: ${reason}`,
    'Possible causes and what to do:',
    '- there is no binary for this platform: compile it with "npx cmake-js@8 compile" in the folder of the package (needs CMake and a C++17 compiler)',
    '- Node.js runs with --no-addons, or its permission model forbids addons: allow them',
    '- node_modules was copied from another operating system or CPU: install again on this machine',
  ].join('\n');
}

function environment(name: string): string | undefined {
  return process.env[name] || undefined;
}

function chooseBackend(): Backend {
  const wanted = environment('BATCHNORM_BACKEND');
  if (wanted !== undefined && wanted !== 'js' && wanted !== 'native')
    throw rangeError('BATCHNORM_BACKEND', "be 'js' or 'native'", JSON.stringify(wanted));
  if (wanted === 'js') return createJsBackend();
  try {
    return createNativeBackend(environment('BATCHNORM_ISA'));
  } catch (error) {
    if ((error as { code?: unknown }).code === 'ERR_BATCHNORM_UNSUPPORTED_ISA') throw error;
    if (wanted === 'native') throw stateError('NATIVE_UNAVAILABLE', loadFailure(error), error);
    process.emitWarning(
      `${loadFailure(error)}\nUntil then everything runs on the slower JavaScript backend.`,
      {
        type: 'BatchnormWarning',
        code: 'BATCHNORM_JS_BACKEND',
      },
    );
    return createJsBackend();
  }
}

function threadsAtStart(): number {
  const wanted = environment('BATCHNORM_THREADS');
  if (wanted === undefined) return defaultThreads();
  const count = Number(wanted);
  if (!Number.isInteger(count) || count < 1 || count > maxThreads)
    throw rangeError('BATCHNORM_THREADS', `be an integer from 1 to ${maxThreads}`, JSON.stringify(wanted));
  return count;
}

/** More than any machine has cores for one process; a bound against typing errors. */
export const maxThreads = 1024;

export const backend: Backend = chooseBackend();
const startThreads = threadsAtStart();
// The threads are the process's: a worker that loads the library later leaves them as they are.
if (backend.threads() === 0) backend.setThreads(startThreads);

/** The passes for a data type. */
export function passesFor<T extends FloatArray>(dtype: DType): Passes<T> {
  return backend[dtype] as Passes<FloatArray> as Passes<T>;
}
