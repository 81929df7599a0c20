import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { Case, Pass } from '../cases.js';
import { type Call, type Contender, eps } from '../contender.js';

const addon = new URL('../../build/bench/onednn.node', import.meta.url);

/** Whether oneDNN's headers were there when the benchmark was built. */
export function hasOneDnn(): boolean {
  return existsSync(addon);
}

/** In the layout of the case, or in oneDNN's own: blocks of 16 channels. Its threads are OpenMP's. */
export function oneDnn(blocked: boolean): Contender {
  const { prepare } = createRequire(import.meta.url)(fileURLToPath(addon)) as {
    prepare(settings: object): Record<Pass, Call>;
  };
  return (subject, { x, dy, y, dx, weight, bias }) => {
    const { channels, dtype, layout, outer, inner, counts } = subject;
    if (counts || dtype !== 'float32' || (blocked && (layout !== 'channels-first' || channels % 16 !== 0)))
      return undefined;
    const [batch] = subject.shape;
    const mean = new Float32Array(channels);
    const variance = new Float32Array(channels).fill(1);
    const calls = prepare({
      batch,
      channels,
      space: (outer * inner) / batch,
      format: formatOf(subject, blocked),
      eps,
      x,
      dy,
      y,
      dx,
      weight,
      bias,
      mean,
      variance,
      dWeight: new Float32Array(channels),
      dBias: new Float32Array(channels),
    });
    return {
      calls: outer * inner > 1 ? calls : { inference: calls.inference },
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

function formatOf({ layout }: Case, blocked: boolean): string {
  if (blocked) return 'nChw16c';
  return layout === 'channels-first' ? 'nchw' : 'nhwc';
}
