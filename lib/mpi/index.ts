/**
 * Groups of processes, on one machine or many, over MPI.
 *
 * @module batchnorm/mpi
 */
import process from 'node:process';
import { isMainThread } from 'node:worker_threads';
import type { Mpi } from '../backend/backend.js';
import { backend } from '../backend/index.js';
import { quoted, stateError, typeError } from '../errors.js';
import type { ProcessGroup } from '../group.js';
import { checkTimeout, Member } from '../member.js';
import { environment } from '../platform/node.js';
import { namesOf } from '../properties.js';
import { readOptions } from '../validate.js';
import type { MpiOptions } from './options.js';
import { MpiTransport } from './transport.js';

export type { ProcessGroup } from '../group.js';
export type { MpiOptions } from './options.js';

const optionNames = namesOf(['library', 'timeout']);

/** The names that libraries have, by the launchers that they belong to. */
const openMpi = ['libmpi.so.40'];
const ofMpichAbi = ['libmpich.so.12', 'libmpi.so.12'];
const ofAnyKind = ['libmpi_abi.so.1', 'libmpi_abi.so.0', 'libmpi.so'];
const homebrew = '/opt/homebrew/lib/';
const onMacOS: Readonly<Record<string, string>> = {
  'libmpi.so.40': 'libmpi.40.dylib',
  'libmpich.so.12': 'libmpich.12.dylib',
  'libmpi.so.12': 'libmpi.12.dylib',
  'libmpi_abi.so.1': 'libmpi_abi.1.dylib',
  'libmpi_abi.so.0': 'libmpi_abi.0.dylib',
  'libmpi.so': 'libmpi.dylib',
};

/** What launchers tell each process of how many there are. The first that is there counts: one may have started the other. */
const launchers = [
  { variable: 'OMPI_COMM_WORLD_SIZE', name: 'mpirun of Open MPI', isOpenMpi: true },
  { variable: 'PMI_SIZE', name: 'a launcher of MPICH, Intel MPI or MVAPICH', isOpenMpi: false },
  { variable: 'SLURM_STEP_NUM_TASKS', name: 'srun', isOpenMpi: true },
] as const;

interface Launcher {
  readonly variable: string;
  readonly name: string;
  readonly isOpenMpi: boolean;
  readonly size: number;
}

/**
 * The group of all processes that a launcher of MPI (`mpirun`, `mpiexec`, `srun`) has started together; of this one alone where
 * none has. Nothing is compiled, and no headers are needed: the library is loaded here, whichever is installed (Open MPI, MPICH,
 * Intel MPI, MVAPICH, or one with the ABI of MPI-5).
 *
 * Members that do not come to an exchange within the timeout, or make different ones, break the group. MPI ends when the process
 * does; where that has an error (an exit code other than 0), or is within an exchange, all members end with it.
 *
 * @param options which library, and how long members wait for each other.
 * @returns the group. Its exchanges throw, or reject with, Error (`GROUP_BROKEN`, `GROUP_BUSY`, `BUFFER_CHANGED`, behind
 *   `ERR_BATCHNORM_`).
 * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`),
 *   Error (`ERR_BATCHNORM_MPI_UNAVAILABLE`) where there is no library or it does not start, where the launcher is of another kind,
 *   in worker threads, at the second call of a process, on Windows, on the WebAssembly backend and in browsers.
 * @example
 * ```js
 * // train.js: mpirun -n 4 node train.js
 * import { BatchNorm } from 'batchnorm';
 * import { mpi } from 'batchnorm/mpi';
 *
 * const group = mpi();
 * const bn = new BatchNorm(64, { group }); // of which each process gives a part of the batch
 * console.log(group.rank, group.size); // 2 4
 * ```
 */
export function mpi(options?: MpiOptions): Required<ProcessGroup> {
  const { library, timeout } = readOptions(options, optionNames);
  const milliseconds = checkTimeout(timeout);
  // For the loader a name ends at a NUL.
  if (library !== undefined && (typeof library !== 'string' || library === '' || library.includes('\0')))
    throw typeError('library', 'be the name or path of an MPI library', library);
  const native = nativeMpi();
  leaveMemoryAlone();
  const launcher = launcherHere();
  const version = library === undefined ? loadAny(native, launcher) : loadGiven(native, library);
  const size = started(native, version);
  if (size === 1 && launcher !== undefined && launcher.size > 1) {
    native.end(0);
    throw unavailable(
      `mpi() must find all members, got ${quoted(version)} alone where ${launcher.name} (${launcher.variable}) has started ${launcher.size}; give library, or start with the launcher that comes with it`,
    );
  }
  const transport = new MpiTransport(native, size, milliseconds);
  // Not at the end of the environment, where the exit code is not known.
  process.on('exit', (code) => transport.end(code));
  return new Member(native.rank(), size, transport);
}

function nativeMpi(): Mpi {
  const { mpi: native, name } = backend;
  if (name !== 'native')
    throw unavailable(
      'mpi() must have the native backend, got WebAssembly; see the warning at start, or BATCHNORM_BACKEND',
    );
  if (native === undefined)
    throw unavailable(
      'mpi() must have Open MPI, MPICH, Intel MPI or MVAPICH of Linux or macOS, got Windows; install one in WSL, or use batchnorm/workers on one machine',
    );
  if (!isMainThread)
    throw unavailable(
      'mpi() must be called on the main thread, got a worker; batchnorm/workers has groups of workers',
    );
  checkNotStarted(native);
  return native;
}

/**
 * UCX, which MPICH and Open MPI send with, puts hooks into the C library's code for memory, while the threads of Node.js run it:
 * now and then a process ends with a signal. What it wants them for, memory that stays known to a network card, is not ours:
 * each exchange has its own.
 */
function leaveMemoryAlone(): void {
  process.env.UCX_MEM_EVENTS ??= 'n';
}

function launcherHere(): Launcher | undefined {
  for (let i = 0; i < launchers.length; i++) {
    const size = Number(environment(launchers[i].variable));
    if (size >= 1) return { ...launchers[i], size };
  }
  return undefined;
}

/** The first of the libraries that can be loaded, those that belong to the launcher first. */
function loadAny(native: Mpi, launcher: Launcher | undefined): string {
  const isOpenMpiFirst = launcher?.isOpenMpi ?? true;
  const tried = { reasons: '' };
  const version =
    firstLoaded(native, isOpenMpiFirst ? openMpi : ofMpichAbi, tried) ??
    firstLoaded(native, isOpenMpiFirst ? ofMpichAbi : openMpi, tried) ??
    firstLoaded(native, ofAnyKind, tried);
  if (version === undefined)
    throw unavailable(
      `mpi() must find an MPI library, got none (${tried.reasons}); install Open MPI or MPICH (in Debian openmpi-bin or mpich), put its folder into LD_LIBRARY_PATH, or give its path as library`,
    );
  return version;
}

function firstLoaded(native: Mpi, names: readonly string[], tried: { reasons: string }): string | undefined {
  for (let i = 0; i < names.length; i++) {
    const name = process.platform === 'darwin' ? onMacOS[names[i]] : names[i];
    const version = loadOne(native, name, tried);
    if (version !== undefined) return version;
    if (process.platform !== 'darwin') continue;
    const brewed = loadOne(native, homebrew + name, tried);
    if (brewed !== undefined) return brewed;
  }
  return undefined;
}

function loadOne(native: Mpi, name: string, tried: { reasons: string }): string | undefined {
  try {
    return native.load(name);
  } catch (error) {
    const { message } = error as Error;
    tried.reasons += `${tried.reasons === '' ? '' : '; '}${message.includes(name) ? message : `${name}: ${message}`}`;
    return undefined;
  }
}

function loadGiven(native: Mpi, library: string): string {
  try {
    return native.load(library);
  } catch (error) {
    throw unavailable(
      `library must be that of an MPI, got ${quoted(library)}: ${(error as Error).message}`,
      error,
    );
  }
}

function checkNotStarted(native: Mpi): void {
  if (native.isStarted()) throw unavailable('mpi() must be called once in a process, got a process with MPI');
}

function started(native: Mpi, version: string): number {
  // Somebody else may have started this library.
  checkNotStarted(native);
  try {
    return native.start();
  } catch (error) {
    throw unavailable(
      `MPI must start, got ${JSON.stringify((error as Error).message)} of ${quoted(version)}`,
      error,
    );
  }
}

function unavailable(message: string, cause?: unknown): Error {
  return stateError('MPI_UNAVAILABLE', message, cause);
}
