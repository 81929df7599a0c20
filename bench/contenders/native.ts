import { createRequire } from 'node:module';
import { BatchNorm, type FloatArray, setThreads, threads } from 'batchnorm';
import type { Contender } from '../contender.js';

interface RooflineAddon {
  /** c = a + b, or a copy of a; false where the machine has no such variant. */
  stream(variant: number, threads: number, a: FloatArray, b: FloatArray | undefined, c: FloatArray): boolean;
}

const roofline = createRequire(import.meta.url)('../../build/bench/roofline.node') as RooflineAddon;

/** This library through its layer, results reused; and beside it, in the same process, the limits of the machine. */
export function native(threadCount: number): Contender {
  setThreads(threadCount);
  return ({ outer, channels, inner }, { x, dy, y, dx }) => {
    const shape = inner === 1 ? [outer, channels] : [outer, channels, inner];
    const input = { data: x, shape };
    const gradient = { data: dy, shape };
    // One row has no batch statistics.
    const trains = outer * inner > 1;
    const bn = new BatchNorm(channels);
    const frozen = bn.freeze();
    const passes: ReturnType<Contender> = { inference: () => frozen.run(input, { out: y }) };
    if (trains) {
      const trained = new BatchNorm(channels);
      trained.forward(input, { out: y });
      passes.training = () => bn.forward(input, { out: y });
      passes.backward = () => trained.backward(gradient, { out: dx });
    }
    const fastest = (b: FloatArray | undefined, c: FloatArray) => {
      const run = (variant: number) => roofline.stream(variant, threads(), x, b, c);
      let best = 0;
      let bestTime = Infinity;
      for (let variant = 0; run(variant); variant++)
        for (let i = 0; i < 3; i++) {
          const start = process.hrtime.bigint();
          run(variant);
          const time = Number(process.hrtime.bigint() - start);
          if (time < bestTime) {
            bestTime = time;
            best = variant;
          }
        }
      return () => run(best);
    };
    return { ...passes, copy: fastest(undefined, y), sum: fastest(dy, dx) };
  };
}
