// batchnorm fold: a model of TensorFlow.js, written without its batch norms.
import { randomUUID } from 'node:crypto';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { isOutside } from '../files/source.js';
import { table } from '../text.js';
import { fold as foldModel } from '../tfjs/index.js';
import { shown } from './table.js';
import {
  filesOf,
  inputsFor,
  loadModel,
  loadTensorFlow,
  measure,
  milliseconds,
  predict,
  type Times,
} from './tensorflow.js';
import { UsageError } from './usage.js';
import { whole } from './whole.js';

export interface FoldOptions {
  readonly out: string;
  readonly force?: boolean;
  readonly time?: boolean;
  readonly shape?: readonly string[];
  readonly json?: boolean;
}

/** @returns the exit code. */
export async function fold(file: string, options: FoldOptions): Promise<number> {
  const { force = false, time = false, shape, json = false } = options;
  const { place, isThere } = placeOf(options.out, file, force);
  const { tf, backends } = await loadTensorFlow();
  const model = await loadModel(tf, file);
  const { model: folded, folded: count, left } = foldModel(model);
  const inputs = time ? inputsFor(tf, model, shape) : [];
  const files = await filesOf(tf, folded);
  const times: Record<string, Record<'before' | 'after', Times>> = {};
  for (const backend of time ? backends : []) {
    await tf.setBackend(backend);
    times[backend] = measure(
      `predicting on ${backend}`,
      { before: () => model, after: () => folded },
      inputs,
    );
  }
  const difference = time ? largestDifference(predict(model, inputs), predict(folded, inputs)) : undefined;
  whole(() => writeFolder(place, files, isThere));
  if (json) {
    process.stdout.write(
      `${JSON.stringify({ file, out: options.out, folded: count, left, ...(time && { times, difference }) }, null, 2)}\n`,
    );
    return 0;
  }
  const none = count === 0 && left.length === 0;
  process.stdout.write(none ? `${file} has no batch norms; ` : `${count} folded, ${left.length} left; `);
  process.stdout.write(`written to ${options.out}\n`);
  for (const { layer, reason } of left) process.stdout.write(`left: ${shown(layer)}: ${reason}\n`);
  if (time) {
    const rows = Object.entries(times).map(([backend, { before, after }]) => [
      backend,
      milliseconds(before.median),
      milliseconds(after.median),
      `${(before.median / after.median).toFixed(2)} times`,
    ]);
    process.stdout.write(`\n${table(['backend', 'before', 'after', 'as fast'], rows)}`);
    process.stdout.write(`largest difference of predictions: ${difference?.toExponential(1)}\n`);
  }
  return 0;
}

function largestDifference(a: readonly ArrayLike<number>[], b: readonly ArrayLike<number>[]): number {
  let largest = 0;
  for (const [i, values] of a.entries())
    for (let j = 0; j < values.length; j++) largest = Math.max(largest, Math.abs(values[j] - b[i][j]));
  return largest;
}

/** Where the folder is to be: what is there must be something that this program could have written, or nothing. */
function placeOf(out: string, file: string, force: boolean): { place: string; isThere: boolean } {
  const refuse = (rule: string, actual: string) => new UsageError(`--out must ${rule}, got ${actual}`);
  const named = JSON.stringify(out);
  // Resolved, it would be the working directory.
  if (out === '') throw refuse('be a folder', named);
  if (lstatSync(out, { throwIfNoEntry: false }) === undefined) return { place: resolve(out), isThere: false };
  if (!force) throw refuse('be a folder that is not there', `${named}; --force replaces it`);
  if (!statSync(out, { throwIfNoEntry: false })?.isDirectory()) throw refuse('be a folder', named);
  // Of a link it is the folder that is replaced.
  const place = realpathSync(out);
  const kept = [realpathSync(dirname(file)), dirname(realpathSync(file)), realpathSync('.')];
  if (kept.some((folder) => !isOutside(place, folder)))
    throw refuse('hold neither the model nor the working directory', named);
  const names = readdirSync(place);
  if (names.length > 0 && !names.includes('model.json'))
    throw refuse('be empty or hold a model.json to be replaced', named);
  return { place, isThere: true };
}

/**
 * Writes beside the folder and renames, so that there is the old one or the whole of the new one.
 *
 * @param isThere whether one is there that may go. One that somebody has made since may not.
 */
function writeFolder(out: string, files: ReadonlyMap<string, Uint8Array>, isThere: boolean): void {
  // Another process may write the same folder now.
  const id = randomUUID();
  const temporary = `${out}.${id}.tmp`;
  const old = `${out}.${id}.old`;
  try {
    mkdirSync(temporary, { recursive: true });
    for (const [name, bytes] of files) writeFileSync(join(temporary, name), bytes, { flag: 'wx' });
    if (isThere && existsSync(out)) renameSync(out, old);
    try {
      renameSync(temporary, out);
    } catch (error) {
      if (existsSync(old)) renameSync(old, out);
      throw error;
    }
    rmSync(old, { recursive: true, force: true });
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
}
