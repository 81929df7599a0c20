// Whatever JavaScript does to arrays, to the language and to prototypes, no memory error and no other result: programs that
// try at random, each attempt after the other in a process of its own, so that a signal fails this test with its seed.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect } from 'vitest';
import {
  BatchNorm,
  backward,
  capabilities,
  type FloatArray,
  forwardInference,
  forwardTraining,
} from '../../lib/index.js';
import { holds } from '../support/fuzz.js';
import { patience } from '../support/patience.js';

// biome-ignore lint/suspicious/noExplicitAny: arguments of calls that differ
type Any = any;

/** Ends with its last lines where a program finds something: `node test/abuse/<program>.mjs <arguments>` repeats it. */
async function expectRight(program: string, args: readonly string[]): Promise<true> {
  const path = fileURLToPath(new URL(`../abuse/${program}.mjs`, import.meta.url));
  const child = spawn(process.execPath, ['--expose-gc', path, ...args], {
    timeout: patience,
    killSignal: 'SIGKILL',
  });
  const [stdout, stderr, [code, signal]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ]);
  const last = stdout.trimEnd().split('\n').at(-1);
  expect({ code, signal, stderr, last }, `${program} ${args.join(' ')}`).toEqual({
    code: 0,
    signal: null,
    stderr: '',
    last: 'right',
  });
  return true;
}

/**
 * A seed is as good as another: there is none that is smaller. In the suite it is always the same one, for Node's own code may
 * not outlive what is done to the language, at some seeds; `npm run fuzz` draws them.
 */
const anySeed = process.env.BATCHNORM_FUZZ_SECONDS ? fc.noShrink(fc.nat(2 ** 31 - 1)) : fc.constant(20261126);

function attempts(title: string, program: string, kind: readonly string[], count: number): void {
  holds(title, 1, () =>
    fc.asyncProperty(anySeed, (seed) => expectRight(program, [...kind, String(seed), String(count)])),
  );
}

describe('whatever a caller does to', () => {
  attempts('its arrays, results are the same or an error says why', 'hostile', ['arrays'], 250);
  attempts(
    'the language, memory is safe, and results are the same or an error says why',
    'hostile',
    ['intrinsics'],
    250,
  );
  attempts('Object.prototype, nothing is inherited from it', 'hostile', ['inherited'], 250);
});

if (capabilities().backend === 'native')
  describe('the binding, called directly', () => {
    attempts('throws or computes, whatever it is given', 'binding', [], 20_000);
  });

// ---- One memory, two SharedArrayBuffer objects ----

const [channels, inner] = [4, 6];
const shape = [2, channels, inner];
const size = 2 * channels * inner;

/** How many values each argument has. */
const lengths: Record<string, number> = {
  x: size,
  residual: size,
  weight: channels,
  bias: channels,
  mean: channels,
  variance: channels,
};

const passes: Record<string, { takes: string[]; call: (given: Any, out: FloatArray) => unknown }> = {
  forwardTraining: {
    takes: ['x', 'residual', 'weight', 'bias'],
    call: ({ x, ...options }, out) => forwardTraining(x, { ...options, out }),
  },
  forwardInference: {
    takes: Object.keys(lengths),
    call: ({ x, ...options }, out) => forwardInference(x, { ...options, out }),
  },
  'backward of x': {
    takes: Object.keys(lengths),
    call: ({ x, ...options }, out) =>
      backward({ data: new (x.data.constructor as Any)(size).fill(1), shape }, x, { ...options, out }),
  },
  forward: {
    takes: ['x', 'residual'],
    call: ({ x, residual }, out) =>
      new BatchNorm(channels, { dtype: dtypeOf(out) }).forward(x, { residual, out: out as Any }),
  },
  run: {
    takes: ['x', 'residual'],
    call: ({ x, residual }, out) =>
      new BatchNorm(channels, { dtype: dtypeOf(out) }).freeze().run(x, { residual, out: out as Any }),
  },
};

const dtypeOf = (array: FloatArray) => (array instanceof Float32Array ? 'float32' : 'float64');

if (capabilities().backend === 'native')
  describe('two SharedArrayBuffer objects over one memory', () => {
    holds('are seen where a result overlaps an input, before anything is written', 500, () =>
      fc.property(
        fc.constantFrom(...Object.keys(passes)),
        fc.constantFrom(Float32Array, Float64Array),
        fc.record({ which: fc.nat(5), by: fc.integer({ min: -size - 2, max: size + 2 }) }),
        (name, Type, { which, by }) => {
          const { takes, call } = passes[name];
          const victim = takes[which % takes.length];
          const bytes = Type.BYTES_PER_ELEMENT;
          const memory = new SharedArrayBuffer(3 * size * bytes + 64) as Any;
          const other = structuredClone(memory);
          const all = new Uint8Array(memory);
          new Type(memory).fill(2);
          const begin = size * bytes;
          const out = new Type(memory, begin + by * bytes < 0 ? 0 : begin + by * bytes, size);
          const given: Any = {};
          for (const taken of takes) {
            // Per-channel arrays of the pass's own type are used where they are.
            const isStatistic = taken === 'mean' || taken === 'variance';
            const Own = isStatistic ? Float64Array : Type;
            const length = lengths[taken];
            const array: FloatArray =
              taken === victim ? new Own(other, Math.ceil(begin / 8) * 8, length) : new Own(length).fill(1.5);
            given[taken] = taken === 'x' || taken === 'residual' ? { data: array, shape } : array;
          }
          const { byteOffset, byteLength } = given[victim].data ?? given[victim];
          const overlaps =
            out.byteOffset < byteOffset + byteLength && byteOffset < out.byteOffset + out.byteLength;
          const isAllowed =
            !overlaps || (victim === 'x' && name !== 'backward of x' && byteOffset === out.byteOffset);
          const before = all.slice();
          let code: unknown;
          try {
            call(given, out);
          } catch (error) {
            code = (error as { code?: unknown }).code;
          }
          expect(code, `${name}: out ${by} values from ${victim}`).toBe(
            isAllowed ? undefined : 'ERR_BATCHNORM_OVERLAP',
          );
          if (!isAllowed) expect(all, 'the memory').toEqual(before);
          return true;
        },
      ),
    );
  });
