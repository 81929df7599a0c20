// What batchnorm/mpi is where there are no processes.
import { stateError } from '../errors.js';
import type { ProcessGroup } from '../group.js';
import type { MpiOptions } from './options.js';

export type { ProcessGroup } from '../group.js';
export type { MpiOptions } from './options.js';

export function mpi(_options?: MpiOptions): Required<ProcessGroup> {
  throw stateError(
    'MPI_UNAVAILABLE',
    'mpi() must be called in Node.js, got a browser; batchnorm/workers has groups of web workers',
  );
}
