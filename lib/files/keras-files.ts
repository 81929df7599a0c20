// Files of Keras: .keras (a zip of a configuration and weights), .weights.h5 (those weights alone) and the older .h5.
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { abridged } from './abridged.js';
import type { StoredBatchNorm } from './entries.js';
import { invalidFile, tooLarge, unsupportedFile } from './failures.js';
import { readHdf5 } from './hdf5-isolated.js';
import { parseJson } from './json.js';
import { readConfig } from './keras.js';
import { loadZip } from './peers.js';
import type { Source } from './source.js';

type Layers = Map<string, StoredBatchNorm>;

/** A configuration is text, of which even a large one has few megabytes. */
const mostConfigBytes = 1 << 26;

/** Weights hardly compress. What becomes this many times as large is made to fill a disk. */
const mostExpansion = 20;
const freeExpansion = 1 << 26;

const configName = 'config.json';
const weightsName = 'model.weights.h5';

/** Calls `use` with a file in a folder of its own, which is gone afterwards. */
async function withTemporary<T>(use: (path: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
  try {
    return await use(join(folder, 'model.h5'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The batch norms of a .h5 file. */
export function readH5(source: Source, timeout: number): Promise<Layers> {
  if (source.path !== undefined) return readHdf5({ path: source.path }, timeout);
  return withTemporary((path) => {
    writeFileSync(path, source.read(0, source.size));
    return readHdf5({ path }, timeout);
  });
}

/** The batch norms of a .keras file. */
export async function readKeras(source: Source, timeout: number): Promise<Layers> {
  const { ZipReader, Reader } = await loadZip();
  class SourceReader extends Reader<Source> {
    override size = source.size;
    override async readUint8Array(begin: number, length: number) {
      return source.read(Math.min(begin, source.size), Math.min(begin + length, source.size));
    }
  }
  const options = { useWebWorkers: false, checkSignature: true };
  const zip = new ZipReader(new SourceReader(source), options);
  const failed = (error: unknown): never => {
    if (error instanceof Error && `${'code' in error && error.code}`.startsWith('ERR_BATCHNORM_'))
      throw error;
    throw invalidFile(
      'file',
      'be a whole zip',
      abridged(error instanceof Error ? error.message : error),
      error,
    );
  };
  const entries = await zip.getEntries().catch(failed);

  /** Gives the bytes of an entry to `take`, piece by piece. */
  const extract = async (name: string, most: number, take: (bytes: Uint8Array) => void) => {
    const entry = entries.find(({ filename }) => filename === name);
    if (entry === undefined || entry.directory)
      throw unsupportedFile(
        'file',
        `be a .keras file (a zip with ${configName} and ${weightsName})`,
        `no ${name}`,
      );
    let size = 0;
    const stream = new WritableStream<Uint8Array>({
      write(bytes) {
        size += bytes.length;
        if (size > most) throw tooLarge(name, `have at most ${most} bytes`, 'more');
        take(bytes);
      },
    });
    await entry.getData(stream, options).catch(failed);
  };

  const parts: Uint8Array[] = [];
  await extract(configName, mostConfigBytes, (bytes) => parts.push(bytes.slice()));
  const model = readConfig(configName, parseJson(configName, Buffer.concat(parts)));
  return withTemporary(async (path) => {
    const file = openSync(path, 'w');
    try {
      const most = freeExpansion + mostExpansion * source.size;
      await extract(weightsName, most, (bytes) => {
        for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
      });
    } finally {
      closeSync(file);
    }
    return readHdf5({ path, model }, timeout);
  });
}
