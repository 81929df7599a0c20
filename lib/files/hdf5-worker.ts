// The worker of hdf5-isolated.ts: reads one HDF5 file, answers, and is ended.
import { parentPort, workerData } from 'node:worker_threads';
import type { StoredBatchNorm } from './entries.js';
import { Hdf5 } from './hdf5.js';
import type { ConfiguredLayer } from './keras.js';
import { layersOf, layersOfModel } from './keras-groups.js';

/** What is to be read. */
export interface Job {
  readonly path: string;
  /** The configuration that the weights of a .keras file belong to. */
  readonly model?: ConfiguredLayer;
}

/** The batch norms, or what is left of an error between threads. */
export type Answer =
  | { readonly layers: Map<string, StoredBatchNorm> }
  | {
      readonly failure: {
        readonly className: 'Error' | 'RangeError' | 'TypeError';
        readonly message: string;
        readonly code: unknown;
        readonly cause: string | undefined;
      };
    };

const pageBytes = 65_536;

/** Beyond the largest parameter and what HDF5 keeps of its chunks. */
const mostPages = (1 << 29) / pageBytes;

// HDF5 sizes what it allocates by what the file says. What it does not get is an error of its own.
const { grow } = WebAssembly.Memory.prototype;
WebAssembly.Memory.prototype.grow = function (this: WebAssembly.Memory, pages: number): number {
  if (this.buffer.byteLength / pageBytes + pages > mostPages) throw new RangeError('no more memory');
  return grow.call(this, pages);
};

async function answer({ path, model }: Job): Promise<Answer> {
  try {
    const layers = await Hdf5.open(path, (file) =>
      model === undefined ? layersOf(file) : layersOfModel(file, model),
    );
    return { layers };
  } catch (error) {
    const { message, code, cause } = error as Error & { code?: unknown };
    const className =
      error instanceof RangeError ? 'RangeError' : error instanceof TypeError ? 'TypeError' : 'Error';
    return { failure: { className, message, code, cause: cause === undefined ? undefined : `${cause}` } };
  }
}

void answer(workerData).then((found) => parentPort?.postMessage(found));
