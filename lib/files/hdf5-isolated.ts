// HDF5 is read in a worker: what is damaged on purpose can make h5wasm run without end, fill memory or trap, after which nothing
// of it can be used any more. A worker can be ended.
import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';
import { stateError } from '../errors.js';
import { abridged } from './abridged.js';
import type { StoredBatchNorm } from './entries.js';
import { invalidFile, tooLarge, tooSlow } from './failures.js';
import type { Answer, Job } from './hdf5-worker.js';

/** Of V8's heap; hdf5-worker.ts bounds WebAssembly. The text of a configuration alone may have 64 MiB. */
const resourceLimits = { maxOldGenerationSizeMb: 512 };

const classes = { Error, RangeError, TypeError };

/** Where the worker lies: beside this file, unless somebody has made one file of all. */
function workerPath(): string {
  try {
    const require = createRequire(import.meta.url);
    return require.resolve('./hdf5-worker.js');
  } catch (error) {
    throw stateError(
      'PACKAGE_MISSING',
      'reading .h5 and .keras needs batchnorm/files as it is installed; leave batchnorm out of the bundle (external)',
      error,
    );
  }
}

/** Flags of the program by which packages are found. A worker refuses those of V8, and those about the program's own text. */
const ofLoading = /^(?:--(?:import|require|loader|experimental-loader|conditions)|-r|-C)(?:=|$)/;

/** Those flags, and their values where these stand behind them. */
function flagsOfLoading(flags: readonly string[]): string[] {
  const isBare = (flag = '=') => ofLoading.test(flag) && !flag.includes('=');
  return flags.filter((flag, i) => ofLoading.test(flag) || isBare(flags[i - 1]));
}

/**
 * The batch norms of an HDF5 file.
 *
 * @param timeout in milliseconds.
 */
export async function readHdf5(job: Job, timeout: number): Promise<Map<string, StoredBatchNorm>> {
  const worker = new Worker(workerPath(), {
    workerData: job,
    resourceLimits,
    execArgv: flagsOfLoading(process.execArgv),
    // What h5wasm has to say of a damaged file is in the error.
    stdout: true,
    stderr: true,
  });
  worker.stdout.resume();
  worker.stderr.resume();
  let timer: NodeJS.Timeout | undefined;
  try {
    return await new Promise((resolve, reject) => {
      timer = setTimeout(
        () =>
          reject(
            tooSlow(
              'file',
              `be read within ${timeout} ms`,
              'no end; a larger timeout, if it is to be trusted',
            ),
          ),
        timeout,
      );
      worker.on('message', (answer: Answer) => {
        if ('layers' in answer) resolve(answer.layers);
        else reject(errorOf(answer.failure));
      });
      worker.on('error', (error) => reject(reasonOf(error)));
      worker.on('exit', () =>
        reject(invalidFile('file', 'be HDF5 that h5wasm reads', 'the end of its worker')),
      );
    });
  } finally {
    clearTimeout(timer);
    await worker.terminate();
  }
}

function errorOf({
  className,
  message,
  code,
  cause,
}: Extract<Answer, { failure: object }>['failure']): Error {
  const error = new classes[className](message, cause === undefined ? undefined : { cause });
  return code === undefined ? error : Object.assign(error, { code });
}

function reasonOf(error: Error & { code?: string }): Error {
  return error.code === 'ERR_WORKER_OUT_OF_MEMORY'
    ? tooLarge('file', `be read in ${resourceLimits.maxOldGenerationSizeMb} MiB of memory`, 'more')
    : invalidFile('file', 'be HDF5 that h5wasm reads', abridged(error.message), error);
}
