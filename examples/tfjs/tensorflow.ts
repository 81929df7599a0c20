import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import * as tf from '@tensorflow/tfjs';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import { install, installed, type TensorFlowBackend, uninstall } from 'batchnorm/tfjs';

export { tf };

/** Who computes the batch norms: TensorFlow.js itself, or this library. */
export type Side = 'stock' | 'ours';

/** One of each. */
export type Pair<T> = Readonly<Record<Side, T>>;

export const SIDES: readonly Side[] = ['stock', 'ours'];

/** What the sides are called in tables. */
export const NAMES: Pair<string> = { stock: 'TensorFlow.js', ours: 'batchnorm' };

/** @throws {Error} where the backend cannot be started. */
export async function useBackend(backend: TensorFlowBackend): Promise<void> {
  // Otherwise it is said once that there are faster backends for Node.js.
  tf.enableProdMode();
  const folder = dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm'));
  if (backend === 'wasm' && tf.findBackend('wasm') === null) setWasmPaths(`${folder}/`);
  if (!(await tf.setBackend(backend))) throw new Error(`the backend ${backend} must start, got none`);
}

/**
 * From here on, batch norms are this side's.
 *
 * @throws {Error} where they turn out not to be.
 */
export function takeSide(side: Side): void {
  if (side === 'ours') install(tf);
  else uninstall();
  const { backends, layers } = installed(tf);
  const isOurs = layers && backends.some((backend) => backend === tf.getBackend());
  if (isOurs !== (side === 'ours')) throw new Error(`batch norm must be that of ${NAMES[side]}, got another`);
}

/** The sides in the order of a round: whoever is first finds the caches as the other left them. */
export function sidesOf(round: number): readonly Side[] {
  return round % 2 === 0 ? SIDES : SIDES.toReversed();
}

/** What the work gives on either side. */
export async function onBothSides<T>(work: (side: Side) => T | Promise<T>): Promise<Pair<T>> {
  const results: Partial<Record<Side, T>> = {};
  for (const side of SIDES) {
    takeSide(side);
    results[side] = await work(side);
  }
  return results as Pair<T>;
}

/**
 * Does the work on both sides in turns, so that what slows the machine down hits both. The first round, in which
 * code is compiled and memory is touched for the first time, does not count.
 */
export async function inTurns<T>(rounds: number, work: (side: Side) => T | Promise<T>): Promise<Pair<T[]>> {
  const results: Pair<T[]> = { stock: [], ours: [] };
  for (let round = 0; round <= rounds; round++) {
    for (const side of sidesOf(round)) {
      takeSide(side);
      const result = await work(side);
      if (round > 0) results[side].push(result);
    }
  }
  return results;
}

/** Milliseconds that the work takes. */
export async function milliseconds(work: () => unknown): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}
