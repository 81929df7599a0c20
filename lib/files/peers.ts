// The packages that read formats of others. Whoever needs one installs it; nobody else does.
import { stateError } from '../errors.js';

/** A package of the caller's, whose name stands literally in `load` so that bundlers see it. */
async function peer<T>(name: string, format: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    throw stateError(
      'PACKAGE_MISSING',
      `reading ${format} needs the package ${name}: npm install ${name}`,
      error,
    );
  }
}

export async function loadProtobuf() {
  const { default: protobuf } = await peer('protobufjs', '.onnx', () => import('protobufjs/minimal.js'));
  return protobuf.Reader;
}

export const loadZip = () => peer('@zip.js/zip.js', '.keras', () => import('@zip.js/zip.js'));

export type Hdf5Library = typeof import('h5wasm/node');

export const loadHdf5 = (): Promise<Hdf5Library> =>
  peer('h5wasm', '.h5 and .keras', () => import('h5wasm/node'));
