// A frozen layer remembers what it has checked of its last run: another call gets what it would get as the first one.
import { describe, expect, it } from 'vitest';
import { BatchNorm, FrozenBatchNorm, type FrozenNorm, LayerNorm } from '../../lib/index.js';

// biome-ignore lint/suspicious/noExplicitAny: what is given is wrong on purpose.
type Any = any;
type Frozen = { run(x: Any, options?: Any): Any; [Symbol.dispose](): void };

/** What a call came to: a result, or an error of ours. */
function outcomeOf(call: () => Any): unknown {
  try {
    const { data, shape } = call();
    return { type: data[Symbol.toStringTag], values: Array.from(data), shape };
  } catch (error) {
    const { name, code, message } = error as Error & { code?: string };
    return { name, code, message };
  }
}

const values = [1, 2, 3, 4, 5, 6];
const good = () => ({ data: Float32Array.from(values), shape: [2, 3] });
const outOf = (length = 6) => new Float32Array(length);

/** Memory that was taken away. */
function detached<T extends Float32Array>(array: T): T {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
  return array;
}

/** Memory that has shrunk. */
function shrunk(): Float32Array {
  const Resizable = ArrayBuffer as Any;
  const buffer = new Resizable(24, { maxByteLength: 24 });
  const array = new Float32Array(buffer);
  (buffer as Any).resize(8);
  return array;
}

class Own extends Error {}

/** Arguments of a run, beside the layer that it is of. */
const calls: Record<string, (frozen: Frozen) => [x: unknown, options?: unknown]> = {
  'the same': () => [good(), { out: outOf() }],
  'without a place for the result': () => [good()],
  'in place': () => {
    const x = good();
    return [x, { out: x.data }];
  },
  'of another shape': () => [{ data: Float32Array.of(1, 2, 3), shape: [1, 3] }, { out: outOf(3) }],
  'of another rank': () => [{ data: Float32Array.from(values), shape: [1, 2, 3] }, { out: outOf() }],
  'of a shape that its data do not have': () => [{ ...good(), shape: [1, 3] }, { out: outOf() }],
  'of as many values in other dimensions': () => [{ ...good(), shape: [3, 2] }, { out: outOf() }],
  'of data that are too short': () => [{ ...good(), data: outOf(3) }, { out: outOf() }],
  'of data that are too long': () => [{ ...good(), data: outOf(9) }, { out: outOf() }],
  'into what is too short': () => [good(), { out: outOf(5) }],
  'into what is too long': () => [good(), { out: outOf(7) }],
  'of doubles': () => [{ ...good(), data: Float64Array.from(values) }, { out: outOf() }],
  'into doubles': () => [good(), { out: new Float64Array(6) }],
  'of integers with as many bytes': () => [{ ...good(), data: new Int32Array(6) }, { out: outOf() }],
  'into integers': () => [good(), { out: new Uint8Array(6) }],
  'into no array': () => [good(), { out: { length: 6 } }],
  'into nothing': () => [good(), { out: null }],
  'of what calls itself a Float32Array': () => [
    { ...good(), data: { [Symbol.toStringTag]: 'Float32Array', length: 6 } },
    { out: outOf() },
  ],
  'of a proxy of data': () => [{ ...good(), data: new Proxy(outOf(), {}) }, { out: outOf() }],
  'of data that were taken away': () => [{ ...good(), data: detached(outOf()) }, { out: outOf() }],
  'into memory that was taken away': () => [good(), { out: detached(outOf()) }],
  'into memory that has shrunk': () => [good(), { out: shrunk() }],
  'into what begins within x': () => {
    const memory = new Float32Array(9);
    return [{ ...good(), data: memory.subarray(0, 6) }, { out: memory.subarray(3) }];
  },
  'of an array-like shape': () => [{ ...good(), shape: { 0: 2, 1: 3, length: 2 } }, { out: outOf() }],
  'of a typed shape': () => [{ ...good(), shape: Int32Array.of(2, 3) }, { out: outOf() }],
  'of a shape of strings': () => [{ ...good(), shape: ['2', '3'] }, { out: outOf() }],
  'of a shape behind a proxy': () => [{ ...good(), shape: new Proxy([2, 3], {}) }, { out: outOf() }],
  'of a shape behind a revoked proxy': () => {
    const { proxy, revoke } = Proxy.revocable([2, 3], {});
    revoke();
    return [{ ...good(), shape: proxy }, { out: outOf() }];
  },
  'of a shape that throws': () => {
    const shape = [2, 3];
    Object.defineProperty(shape, 1, {
      get() {
        throw new Own('own');
      },
    });
    return [{ ...good(), shape }, { out: outOf() }];
  },
  'of a shape that disposes of it': (frozen) => {
    const shape = [2, 3];
    Object.defineProperty(shape, 1, {
      get() {
        frozen[Symbol.dispose]();
        return 3;
      },
    });
    return [{ ...good(), shape }, { out: outOf() }];
  },
  'of a shape that takes the data away': () => {
    const x = good();
    Object.defineProperty(x.shape, 1, {
      get() {
        if (x.data.length > 0) detached(x.data);
        return 3;
      },
    });
    return [x, { out: outOf() }];
  },
  'with dims': () => [{ data: Float32Array.from(values), dims: [2, 3] }, { out: outOf() }],
  'with dims that do not fit': () => [{ data: Float32Array.from(values), dims: [3, 2] }, { out: outOf() }],
  'with strides': () => [{ ...good(), strides: [1, 2] }, { out: outOf() }],
  'with strides of rows': () => [{ ...good(), strides: [3, 1] }, { out: outOf() }],
  'with a stride': () => [{ ...good(), stride: [1, 2] }, { out: outOf() }],
  'with a residual': () => [good(), { out: outOf(), residual: good() }],
  'with a residual that does not fit': () => [good(), { out: outOf(), residual: { ...good(), shape: [6] } }],
  'with outAxis': () => [good(), { out: outOf(), outAxis: 0 }],
  'with a dtype': () => [good(), { dtype: 'float16' }],
  'with a dtype that does not exist': () => [good(), { out: outOf(), dtype: 'int4' }],
  'with a name that is wrong': () => [good(), { out: outOf(), residuals: good() }],
  'with options that are none': () => [good(), 3],
  'with a list of options': () => [good(), [{ out: outOf() }]],
  'of no tensor': () => [undefined, { out: outOf() }],
  'of an array': () => [outOf(), { out: outOf() }],
};

function layers(): Record<string, () => Frozen> {
  return {
    FrozenBatchNorm: () => new BatchNorm(3).freeze() as FrozenBatchNorm as Frozen,
    FrozenNorm: () => new LayerNorm(3).freeze() as FrozenNorm<'float32'> as Frozen,
  };
}

describe.each(Object.entries(layers()))('a run of a %s after another', (_name, make) => {
  it.each(Object.keys(calls))('%s, is what it is as the first one', (name) => {
    const [first, later] = [make(), make()];
    const wanted = outcomeOf(() => first.run(...calls[name](first)));
    for (let i = 0; i < 2; i++) later.run(good(), { out: outOf() });
    expect(outcomeOf(() => later.run(...calls[name](later)))).toEqual(wanted);
  });

  it('gives each result a shape of its own, which may be written to', () => {
    const frozen = make();
    const shapes = Array.from({ length: 4 }, () => frozen.run(good(), { out: outOf() }).shape);
    expect(new Set(shapes).size).toBe(4);
    shapes[2][0] = 7;
    expect([shapes[3], frozen.run(good(), { out: outOf() }).shape]).toEqual([
      [2, 3],
      [2, 3],
    ]);
  });

  it('sees that the shape of a tensor is another by then', () => {
    const frozen = make();
    const x = good();
    frozen.run(x, { out: outOf() });
    x.shape[0] = 1;
    expect(() => frozen.run(x, { out: outOf() })).toThrow(/^x\.data must have 3 values/);
  });

  it('is refused after its disposal', () => {
    const frozen = make();
    frozen.run(good(), { out: outOf() });
    frozen[Symbol.dispose]();
    expect(() => frozen.run(good(), { out: outOf() })).toThrow(/disposal/);
  });

  it('reads what stands on Object.prototype by then no more than before', () => {
    const frozen = make();
    const plain = outcomeOf(() => frozen.run(good()));
    const out = outOf();
    const inherited = Object.prototype as Any;
    inherited.out = out;
    inherited.strides = [1, 2];
    try {
      expect(outcomeOf(() => frozen.run(good()))).toEqual(plain);
    } finally {
      delete inherited.out;
      delete inherited.strides;
    }
    expect(out.every((value) => value === 0)).toBe(true);
  });
});

describe('layers of two dtypes', () => {
  it('that either takes, remember the last of them only', () => {
    const either = FrozenBatchNorm.from({ running_mean: [1, 2, 3], running_var: [1, 1, 1] }, { eps: 1e-12 });
    const single = () => either.run(good()).data;
    const double = () => either.run({ data: Float64Array.from(values), shape: [2, 3] }).data;
    for (let i = 0; i < 3; i++) {
      expect(single()).toEqual(Float32Array.of(0, 0, 0, 3, 3, 3));
      expect(Array.from(double(), Math.round)).toEqual([0, 0, 0, 3, 3, 3]);
      expect(double()).toBeInstanceOf(Float64Array);
    }
  });
});
