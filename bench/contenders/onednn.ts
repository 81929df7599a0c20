import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { type Case, type Norm, type Pass, rowsOf, sizeOf } from '../cases.js';
import { type Buffers, type Call, type Contender, eps } from '../contender.js';
import { bitsFor } from '../storage.js';

const addon = new URL('../../build/bench/onednn.node', import.meta.url);

/** Whether oneDNN's headers were there when the benchmark was built. */
export function hasOneDnn(): boolean {
  return existsSync(addon);
}

/** In the layout of the case, or in oneDNN's own: blocks of 16 channels. Its threads are OpenMP's. */
export function oneDnn(blocked: boolean): Contender {
  const { prepare, hasGroupNorm } = createRequire(import.meta.url)(fileURLToPath(addon)) as {
    hasGroupNorm: boolean;
    prepare(settings: object): Record<Pass, Call>;
  };
  return (subject, buffers) => {
    const { channels, dtype, layout, outer, inner, counts, storage, norm } = subject;
    const { y, weight, bias } = buffers;
    if (storage !== undefined && !(storage in types)) return undefined;
    if (counts || dtype !== 'float32' || (blocked && (layout !== 'channels-first' || channels % 16 !== 0)))
      return undefined;
    const name = nameOf(norm);
    if (norm !== undefined && (blocked || name === undefined || (name === 'group' && !hasGroupNorm)))
      return undefined;
    const batch = name === 'layer' ? outer : subject.shape[0];
    const rows = rowsOf(subject);
    const mean = new Float32Array(rows);
    const variance = new Float32Array(rows).fill(1);
    const calls = prepare({
      norm: name,
      groups: norm?.groups ?? 1,
      batch,
      channels,
      space: (outer * inner) / batch,
      format: formatOf(subject, blocked),
      eps,
      ...tensorsOf(subject, buffers),
      weight,
      bias,
      mean,
      variance,
      dWeight: new Float32Array(channels),
      dBias: new Float32Array(channels),
    });
    return {
      calls: sizeOf(subject) > rows ? calls : { inference: calls.inference },
      // What is random anyway is as good in blocks; what is to be judged is not.
      train: blocked
        ? undefined
        : () => {
            calls.training();
            return { y, variance };
          },
    };
  };
}

/** What oneDNN calls a norm: that of a channel alone is a group norm to it; RMS norm it has in its newest versions alone. */
function nameOf(norm: Norm | undefined): 'batch' | 'layer' | 'group' | undefined {
  switch (norm?.name) {
    case undefined:
      return 'batch';
    case 'RMS':
      return undefined;
    case 'layer':
      return 'layer';
    default:
      return 'group';
  }
}

/** What oneDNN calls the types that it has. */
const types: Readonly<Record<string, string>> = { bfloat16: 'bf16', float16: 'f16' };

function tensorsOf(subject: Case, { x, dy, y, dx }: Buffers) {
  const { storage } = subject;
  if (storage !== 'bfloat16' && storage !== 'float16') return { type: 'f32', x, dy, y, dx };
  const bits = [1, 2, 3, 4].map((seed) => bitsFor(storage, sizeOf(subject), seed));
  return { type: types[storage], x: bits[0], dy: bits[1], y: bits[2], dx: bits[3] };
}

function formatOf({ layout }: Case, blocked: boolean): string {
  if (blocked) return 'nChw16c';
  return layout === 'channels-first' ? 'nchw' : 'nhwc';
}
