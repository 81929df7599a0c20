import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { bytesOf } from '../cases.js';
import type { Contender, Prepared, Values } from '../contender.js';
import { eps } from '../contender.js';
import { normContender } from '../norms.js';
import { storageCalls } from '../storage.js';

interface RooflineAddon {
  /** c = a + b, or a copy of a; false where the machine has no such variant. */
  stream(
    variant: number,
    threads: number,
    a: Float32Array,
    b: Float32Array | undefined,
    c: Float32Array,
  ): boolean;
}

interface Binary {
  /** What is decided about a pass whose sums read so many tensors. Older revisions have none. */
  plan?(outer: number, channels: number, inner: number, bytesPerValue: number, summed: number): string;
}

const tensorsSummed = { inference: 0, training: 1, backward: 2 } as const;

/** The limit knows bytes only. */
function asFloats({ buffer, byteOffset, byteLength }: Values): Float32Array {
  return new Float32Array(buffer, byteOffset, byteLength / 4);
}

/**
 * This library through its layer, results reused; and beside it, in the same process, the limits of the machine.
 *
 * @param root of a build of the package, for the benchmark compares revisions.
 */
export async function native(threadCount: number, root: string): Promise<Contender> {
  const entry = pathToFileURL(resolve(root, 'dist/index.js'));
  const library = (await import(entry.href)) as typeof import('batchnorm');
  const { BatchNorm, forwardTraining, setThreads, threads } = library;
  const roofline = createRequire(import.meta.url)('../../build/bench/roofline.node') as RooflineAddon;
  const binary = createRequire(entry)('batchnorm/binary.cjs') as Binary;
  setThreads(threadCount);
  const fastest = (from: Values, other: Values | undefined, to: Values) => {
    const a = asFloats(from);
    const b = other && asFloats(other);
    const c = asFloats(to);
    const run = (variant: number) => roofline.stream(variant, threads(), a, b, c);
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
  return (subject, buffers) => {
    const { outer, channels, inner, dtype, counts } = subject;
    const { x, dy, y, dx, weights } = buffers;
    const stored = storageCalls(subject, library);
    if (stored !== undefined) {
      const [a, b, c] = [x, dy, y].map((values) => new Float32Array(values.buffer, 0, bytesOf(subject) / 4));
      return { calls: { ...stored, copy: fastest(a, undefined, c), sum: fastest(a, b, c) } };
    }
    const limits = { copy: fastest(x, undefined, y), sum: fastest(x, dy, dx) };
    if (subject.norm !== undefined) {
      const { calls, train } = normContender(subject, subject.norm, buffers, library);
      return { calls: { ...calls, ...limits }, train };
    }
    const shape = inner === 1 ? [outer, channels] : [outer, channels, inner];
    const input = { data: x, shape };
    const gradient = { data: dy, shape };
    // Older revisions know of no such option.
    const options = counts === 'missing' ? { dtype, missing: 'impute' as const } : { dtype };
    const given = weights ? { out: y, weights } : { out: y };
    const bn = new BatchNorm(channels, options);
    const frozen = bn.freeze();
    const calls: Prepared['calls'] = counts ? {} : { inference: () => frozen.run(input, { out: y }) };
    // One row has no batch statistics.
    if (outer * inner > 1) {
      const trained = new BatchNorm(channels, options);
      trained.forward(input, given);
      calls.training = () => bn.forward(input, given);
      // Older revisions go through a forward as often as they are asked to.
      const kept = 'zeroGrad' in trained ? { out: dx, retain: true } : { out: dx };
      calls.backward = () => trained.backward(gradient, kept);
    }
    return {
      calls: { ...calls, ...limits },
      planOf(pass) {
        // The passes over values that count differently have no such choices.
        if (pass === 'copy' || pass === 'sum' || counts) return undefined;
        return binary.plan?.(outer, channels, inner, x.BYTES_PER_ELEMENT, tensorsSummed[pass]);
      },
      train() {
        const { variance } = forwardTraining(input, { eps, out: y });
        return { y, variance };
      },
    };
  };
}
