// The golden results in Node.js. A difference is told with its first index, which takes the same array from another
// backend or instruction set: in a process of its own, for which this file is a program too (<row> <array>, to be
// printed in base64).
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import * as library from '../../lib/index.js';
import { type Digest, type GoldenDifference, goldenDifference, goldenRows } from './golden.js';

const file = fileURLToPath(import.meta.url);

export const sha256: Digest = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** In the order in which they are asked: those that share least with what computes here first. */
const others: readonly { name: string; env: Record<string, string> }[] = [
  { name: 'wasm', env: { BATCHNORM_BACKEND: 'wasm' } },
  { name: 'generic', env: { BATCHNORM_BACKEND: 'native', BATCHNORM_ISA: 'generic' } },
  { name: 'avx2', env: { BATCHNORM_BACKEND: 'native', BATCHNORM_ISA: 'avx2' } },
];

/** The bytes of an array as another process computes it; undefined where that backend is not there. */
function fromElsewhere(row: string, name: string, env: Record<string, string>): Buffer | undefined {
  const loader = file.endsWith('.ts') ? ['--import', 'tsx'] : [];
  const { status, stdout } = spawnSync(process.execPath, [...loader, file, row, name], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  return status === 0 ? Buffer.from(stdout, 'base64') : undefined;
}

/** In words: with the first index and both values, where another backend can be asked. */
export function describeDifference({ row, name, array }: GoldenDifference): string {
  const { isa } = library.capabilities();
  const what = `${row}, ${name}`;
  const mine = Buffer.from(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength);
  for (const other of others) {
    if (other.name === isa) continue;
    const bytes = fromElsewhere(row, name, other.env);
    if (bytes === undefined) continue;
    const ArrayType = array.constructor as Float32ArrayConstructor;
    const theirs = new ArrayType(Uint8Array.from(bytes).buffer);
    // By bytes: -0 and 0 differ, equal NaNs do not.
    const size = ArrayType.BYTES_PER_ELEMENT;
    const at = array.findIndex(
      (_, i) => mine.compare(bytes, i * size, (i + 1) * size, i * size, (i + 1) * size) !== 0,
    );
    return at < 0
      ? `${what}: ${isa} and ${other.name} have the same bits, so the arithmetic itself has changed`
      : `${what}, index ${at} of ${array.length}: ${array[at]} on ${isa}, ${theirs[at]} on ${other.name}`;
  }
  return `${what}: nothing else is there to compare ${isa} with`;
}

/** Where the results first differ from the golden ones, in words; undefined where they do not. */
export async function describeGolden(): Promise<string | undefined> {
  const difference = await goldenDifference(library, sha256);
  return difference && describeDifference(difference);
}

if (process.argv[1] === file) {
  const [, , row, name] = process.argv;
  for (const { name: found, arrays } of goldenRows(library)) {
    if (found !== row) continue;
    const { buffer, byteOffset, byteLength } = arrays[name];
    process.stdout.write(Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength).toString('base64'));
  }
}
