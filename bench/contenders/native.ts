import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { BatchNorm, TensorLike } from 'batchnorm';
import { bytesOf, type Case, type Pass } from '../cases.js';
import type { Contender, Prepared, Values } from '../contender.js';
import { eps, isSmall } from '../contender.js';
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
  /** Does nothing. */
  call(outer: number, inner: number, x: Values, y: Values): void;
}

interface Binary {
  /** What is decided about a pass whose sums read so many tensors. Older revisions have none. */
  plan?(outer: number, channels: number, inner: number, bytesPerValue: number, summed: number): string;
  float32: { forwardTraining(...operands: unknown[]): boolean };
  updateRunningStats(...operands: unknown[]): number;
}

const tensorsSummed = { inference: 0, training: 1, backward: 2 } as const;

/** The limit knows bytes only. */
function asFloats({ buffer, byteOffset, byteLength }: Values): Float32Array {
  return new Float32Array(buffer, byteOffset, byteLength / 4);
}

/** Of one frozen layer, or of several that take turns. */
function inferenceOf(
  bn: BatchNorm<'float32' | 'float64'>,
  { layers = 1 }: Case,
  input: TensorLike<Values>,
  out: Values,
): () => unknown {
  const frozen = bn.freeze();
  if (layers === 1) return () => frozen.run(input, { out });
  const all = Array.from({ length: layers }, () => bn.freeze());
  let turn = 0;
  return () => {
    turn = turn + 1 < layers ? turn + 1 : 0;
    return all[turn].run(input, { out });
  };
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
    const options =
      counts === 'missing' ? { dtype, reuse: true, missing: 'impute' as const } : { dtype, reuse: true };
    const given = weights ? { out: y, weights } : { out: y };
    const bn = new BatchNorm(channels, options);
    const calls: Prepared['calls'] = counts ? {} : { inference: inferenceOf(bn, subject, input, y) };
    // One row has no batch statistics.
    if (outer * inner > 1) {
      const trained = new BatchNorm(channels, options);
      trained.forward(input, given);
      calls.training = () => {
        bn.forward(input, given);
        // What a backward would have done: a forward that waits for one keeps its statistics.
        bn.clear();
      };
      // Older revisions go through a forward as often as they are asked to.
      const kept = 'zeroGrad' in trained ? { out: dx, retain: true } : { out: dx };
      calls.backward = () => trained.backward(gradient, kept);
    }
    if (isSmall(subject) && dtype === 'float32' && !counts) {
      const { weight, bias, mean, variance } = buffers;
      const [runningMean, runningVar] = [mean.slice(), variance.slice()];
      calls.call = () => roofline.call(outer, inner, x, y);
      const { forwardTraining: train } = binary.float32;
      calls.bound = () => {
        train(outer, channels, inner, eps, x, y, weight, bias, mean, variance, false);
        binary.updateRunningStats(
          mean,
          variance,
          channels,
          outer * inner,
          0.9,
          true,
          runningMean,
          runningVar,
        );
      };
    }
    return {
      calls: { ...calls, ...limits },
      planOf(pass) {
        // The passes over values that count differently have no such choices.
        if (!(pass in tensorsSummed) || counts) return undefined;
        return binary.plan?.(outer, channels, inner, x.BYTES_PER_ELEMENT, tensorsSummed[pass as Pass]);
      },
      train() {
        const { variance } = forwardTraining(input, { eps, out: y });
        return { y, variance };
      },
    };
  };
}
