// Any value anywhere in a call: only errors of ours come out, and what failed has changed nothing.
import { inspect, types } from 'node:util';
import vm from 'node:vm';
import fc from 'fast-check';
import { afterEach, describe, expect } from 'vitest';
import * as library from '../../lib/index.js';
import { BatchNorm, type FloatArray, FrozenBatchNorm, setThreads, threads } from '../../lib/index.js';
import { bufferOf, lengthOf } from '../../lib/typed-array.js';
import { holds } from '../support/fuzz.js';
import { foreign, shared } from '../support/tensors.js';

// biome-ignore lint/suspicious/noExplicitAny: wrong types are what is tested
type Any = any;

/** What code of the caller's throws; it comes out as it is. */
class Own extends Error {}

const throwOwn = (): never => {
  throw new Own('on purpose');
};

const shape = [2, 3, 4];
const values = (length: number, first = 1) => Float32Array.from({ length }, (_, i) => ((first + i) * 7) % 11);
const perChannel = (first: number) => Float64Array.from({ length: 3 }, (_, i) => first + i);
const tensorOf = (first: number) => ({ data: values(24, first), shape: [...shape] });
const statistics = () => ({ mean: perChannel(1), variance: perChannel(2) });
const affine = () => ({ weight: perChannel(3), bias: perChannel(4) });
const stateOf = () => ({
  ...affine(),
  running_mean: perChannel(1),
  running_var: perChannel(2),
  num_batches_tracked: 3,
});

/** What a call may be made on. */
interface Subjects {
  layer: BatchNorm;
  frozen: FrozenBatchNorm;
}

function newSubjects(): Subjects {
  const layer = new BatchNorm(3, { activation: 'relu' });
  layer.forward(tensorOf(5), { residual: tensorOf(6) });
  return { layer, frozen: FrozenBatchNorm.from(stateOf()) };
}

/** Arguments that are right, and the call. */
type Call = (subjects: Subjects) => [arguments_: unknown[], call: (...arguments_: Any[]) => unknown];

const pass = () => ({ axis: 1, eps: 1e-5, ...affine(), activation: 'relu', residual: tensorOf(2) });
const out = () => new Float32Array(24);
const signal = () => new AbortController().signal;
const linear = () => ({ weight: values(9), shape: [3, 3], bias: values(3) });

const calls: Record<string, Call> = {
  'new BatchNorm': () => [
    [
      3,
      {
        axis: 1,
        eps: 1e-5,
        dtype: 'float32',
        decay: 0.9,
        unbiasedRunningVar: true,
        weight: true,
        bias: true,
        trackRunningStats: true,
        activation: 'relu',
        reuse: false,
      },
    ],
    (...a) => new (BatchNorm as Any)(...a),
  ],
  'new BatchNorm with a convention': () => [
    [3, { convention: 'keras', momentum: 0.9 }],
    (...a) => new (BatchNorm as Any)(...a),
  ],
  'new BatchNorm with renorm': () => [
    [3, { renorm: { rMax: 2, dMax: Infinity } }],
    (...a) => new (BatchNorm as Any)(...a),
  ],
  'new BatchNorm with virtualBatchSize': () => [
    [3, { virtualBatchSize: 4, missing: 'throw' }],
    (...a) => new (BatchNorm as Any)(...a),
  ],
  'the bounds of renorm': ({ layer }) => [
    [{ rMax: 2, dMax: 1 }],
    (value) => {
      layer.renorm = value;
    },
  ],
  'forward of groups of samples': () => [
    [tensorOf(1), { out: out(), updateStats: true, residual: tensorOf(2) }],
    (...a) => (new BatchNorm(3, { virtualBatchSize: 1 }) as Any).forward(...a),
  ],
  forward: ({ layer }) => [
    [tensorOf(1), { out: out(), updateStats: true, residual: tensorOf(2) }],
    (...a) => (layer as Any).forward(...a),
  ],
  forwardAsync: ({ layer }) => [
    [
      tensorOf(1),
      { out: out(), updateStats: true, residual: tensorOf(2), signal: signal(), transfer: false },
    ],
    (...a) => (layer as Any).forwardAsync(...a),
  ],
  'forwardAsync with transfer': ({ layer }) => [
    [tensorOf(1), { residual: tensorOf(2), transfer: true }],
    (...a) => (layer as Any).forwardAsync(...a),
  ],
  'backward of a layer': ({ layer }) => [
    [tensorOf(1), { out: out(), only: 'input' }],
    (...a) => (layer as Any).backward(...a),
  ],
  backwardAsync: ({ layer }) => [
    [tensorOf(1), { out: out(), only: 'input', signal: signal(), transfer: false }],
    (...a) => (layer as Any).backwardAsync(...a),
  ],
  'backwardAsync with transfer': ({ layer }) => [
    [tensorOf(1), { transfer: true }],
    (...a) => (layer as Any).backwardAsync(...a),
  ],
  train: ({ layer }) => [[true], (...a) => (layer as Any).train(...a)],
  loadStateDict: ({ layer }) => [
    [
      { ...stateOf(), weight: values(3), bias: values(3) },
      { prefix: '', strict: true },
    ],
    (...a) => (layer as Any).loadStateDict(...a),
  ],
  'loadStateDict of a part': ({ layer }) => [
    [
      {
        'bn.weight': [1, 2, 3],
        'bn.bias': { data: values(3), shape: [3] },
        'bn.running_mean': { data: [1, 2, 3], dims: [1, 3] },
        'bn.num_batches_tracked': { data: BigInt64Array.of(3n), shape: [] },
      },
      { prefix: 'bn', strict: false },
    ],
    (...a) => (layer as Any).loadStateDict(...a),
  ],
  'BatchNorm.fromJSON': ({ layer }) => [[layer.toJSON()], (...a) => (BatchNorm.fromJSON as Any)(...a)],
  'FrozenBatchNorm.fromJSON': ({ frozen }) => [
    [frozen.toJSON()],
    (...a) => (FrozenBatchNorm.fromJSON as Any)(...a),
  ],
  freeze: ({ layer }) => [[{ activation: 'relu' }], (...a) => (layer as Any).freeze(...a)],
  'FrozenBatchNorm.from': () => [
    [stateOf(), { axis: 1, eps: 1e-5, dtype: 'float32', activation: 'relu' }],
    (...a) => (FrozenBatchNorm as Any).from(...a),
  ],
  'FrozenBatchNorm.from with a convention': () => [
    [
      { 'bn/moving_mean:0': [1, 2, 3], 'bn/moving_variance:0': [1, 2, 3] },
      { convention: 'keras', prefix: 'bn', strict: true },
    ],
    (...a) => (FrozenBatchNorm as Any).from(...a),
  ],
  'what FrozenBatchNorm.from gives': () => [
    [stateOf(), tensorOf(1)],
    (state, x) => FrozenBatchNorm.from(state).run(x),
  ],
  'new FrozenBatchNorm': () => [
    [
      Symbol('frozen'),
      { channels: 3, axis: 1, eps: 1e-5, dtype: undefined, ...statistics(), ...affine(), activation: 'relu' },
    ],
    (...a) => new (FrozenBatchNorm as Any)(...a),
  ],
  run: ({ frozen }) => [
    [tensorOf(1), { out: out(), residual: tensorOf(2) }],
    (...a) => (frozen as Any).run(...a),
  ],
  runAsync: ({ frozen }) => [
    [tensorOf(1), { out: out(), residual: tensorOf(2), signal: signal(), transfer: false }],
    (...a) => (frozen as Any).runAsync(...a),
  ],
  'runAsync with transfer': ({ frozen }) => [
    [tensorOf(1), { residual: tensorOf(2), transfer: true }],
    (...a) => (frozen as Any).runAsync(...a),
  ],
  tensor: () => [[values(24), [...shape]], (...a) => (library.tensor as Any)(...a)],
  'a tensor with dims': () => [
    [{ data: values(24), dims: [...shape] }],
    (...a) => (library.forwardTraining as Any)(...a),
  ],
  forwardTraining: () => [
    [tensorOf(1), { ...pass(), out: out() }],
    (...a) => (library.forwardTraining as Any)(...a),
  ],
  forwardInference: () => [
    [tensorOf(1), { ...pass(), ...statistics(), out: out() }],
    (...a) => (library.forwardInference as Any)(...a),
  ],
  backward: () => [
    [tensorOf(1), tensorOf(3), { ...pass(), ...statistics(), training: true, out: out() }],
    (...a) => (library.backward as Any)(...a),
  ],
  updateRunningStats: () => [
    [
      { runningMean: perChannel(1), runningVar: perChannel(2) },
      { ...statistics(), count: 8 },
      { decay: 0.9, unbiasedRunningVar: true },
    ],
    (...a) => (library.updateRunningStats as Any)(...a),
  ],
  foldIntoConv: ({ layer }) => [
    [
      {
        weight: values(3 * 2 * 4),
        shape: [2, 3, 2, 2],
        bias: values(3),
        groups: 1,
        transposed: true,
        activation: null,
      },
      layer,
    ],
    (...a) => (library.foldIntoConv as Any)(...a),
  ],
  foldIntoLinear: () => [
    [linear(), { ...statistics(), ...affine(), eps: 1e-5, axis: 1, activation: 'relu' }],
    (...a) => (library.foldIntoLinear as Any)(...a),
  ],
  foldBeforeLinear: ({ frozen }) => [[frozen, linear()], (...a) => (library.foldBeforeLinear as Any)(...a)],
  compose: () => [
    [
      { ...statistics(), ...affine(), eps: 1e-5, axis: 1 },
      { ...statistics(), activation: 'relu' },
    ],
    (...a) => (library.compose as Any)(...a),
  ],
  'what compose gives': ({ frozen }) => [
    [frozen, { ...statistics(), ...affine() }, tensorOf(1)],
    (first, second, x) => library.compose(first, second).run(x),
  ],
  setThreads: () => [[2], (...a) => (setThreads as Any)(...a)],
  'calls without arguments': ({ layer, frozen }) => [
    [undefined],
    (...a) => {
      const any = layer as Any;
      return [
        any.eval(...a),
        any.clear(...a),
        any.stateDict(...a),
        any.toJSON(...a),
        inspect(any),
        (frozen as Any).toJSON(...a),
        inspect(frozen),
        any.parameters(...a),
        (frozen as Any)[Symbol.dispose](...a),
        (threads as Any)(...a),
        (library.capabilities as Any)(...a),
      ];
    },
  ],
};

// ---- Values ----

function detached(): Float32Array {
  const array = new Float32Array(24);
  structuredClone(array.buffer, { transfer: [array.buffer] });
  return array;
}

function shrunk(tracking: boolean): Float32Array {
  const buffer = new (ArrayBuffer as Any)(96, { maxByteLength: 192 });
  const array = tracking ? new Float32Array(buffer) : new Float32Array(buffer, 0, 24);
  buffer.resize(40);
  return array;
}

function revoked(target: object): unknown {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

/** An array as Array.isArray sees it, of any length. */
function proxiedArray(length: unknown, element: unknown = 1): unknown {
  return new Proxy([] as unknown[], {
    get: (_, key) => (key === 'length' ? length : typeof key === 'string' ? element : undefined),
  });
}

class Species extends Float32Array {
  static get [Symbol.species](): Any {
    return throwOwn();
  }
}
class WrongSpecies extends Float32Array {
  static get [Symbol.species](): Any {
    return Int8Array;
  }
}
class ShortSpecies extends Float32Array {
  static get [Symbol.species](): Any {
    return class extends Float32Array {
      constructor() {
        super(1);
      }
    };
  }
}
class Overridden extends Float32Array {
  override get length(): Any {
    return 1e9;
  }
  override get buffer(): Any {
    return null;
  }
  override get byteOffset(): Any {
    return -1;
  }
  override slice(): Any {
    return 'a slice';
  }
  override subarray(): Any {
    return [];
  }
  override set(): Any {
    return throwOwn();
  }
  override map(): Any {
    return undefined;
  }
}

const traps = [
  'get',
  'has',
  'ownKeys',
  'getOwnPropertyDescriptor',
  'getPrototypeOf',
  'set',
  'isExtensible',
] as const;

const throwing = (trap: (typeof traps)[number], target: object) => new Proxy(target, { [trap]: throwOwn });

function fakeSignal(part: Record<string, unknown>): unknown {
  return { aborted: false, reason: new Own(), addEventListener() {}, removeEventListener() {}, ...part };
}

const listenersThatCallBack = {
  addEventListener: (_: string, listener: () => void) => listener(),
};

const realm = vm.createContext({});

/** Made anew for each run: a call may write to them. */
const hostile: Record<string, () => unknown> = {
  'a huge string': () => 'x'.repeat(1e6),
  'a huge BigInt': () => 1n << 20_000_000n,
  'a symbol': () => Symbol('x'),
  'a function': () => throwOwn,
  'a class': () => BatchNorm,
  'a sparse array': () => new Array(2 ** 32 - 1),
  'an array with holes': () => Object.assign(new Array(3), { 0: 2, 2: 4 }),
  'an array of ones': () => new Array(10_000).fill(1),
  'a shape of NaN': () => [Number.NaN, Number.NaN],
  'a huge shape': () => [2 ** 53 - 1, 2 ** 53 - 1],
  'a shape with a huge zero': () => [2 ** 52, 0, 2 ** 52],
  'a shape of strings': () => ['2', '3', '4'],
  'a shape of BigInts': () => [2n, 3n, 4n],
  'a shape as a typed array': () => Uint32Array.of(2, 3, 4),
  'an array that refers to itself': () => {
    const array: unknown[] = [];
    array.push(array);
    return array;
  },
  ...Object.fromEntries(
    [-1, 1.5, Number.NaN, 2 ** 32, 2 ** 53 - 1, Infinity, '3', 3n, null, Symbol('length'), {}].map(
      (length) => [`an array with length ${String(length)}`, () => proxiedArray(length)],
    ),
  ),
  'an array with length 2^32 - 1': () => proxiedArray(2 ** 32 - 1),
  'an array whose elements are objects': () => proxiedArray(3, { valueOf: throwOwn }),
  'a revoked proxy of an object': () => revoked({}),
  'a revoked proxy of an array': () => revoked([]),
  'a revoked proxy of a function': () => revoked(() => {}),
  'a revoked proxy of a typed array': () => revoked(new Float32Array(24)),
  'a proxy of a typed array': () => new Proxy(new Float32Array(24), {}),
  ...Object.fromEntries(traps.map((trap) => [`a proxy whose ${trap} throws`, () => throwing(trap, {})])),
  ...Object.fromEntries(
    traps.map((trap) => [`a proxy of a typed array whose ${trap} throws`, () => throwing(trap, values(24))]),
  ),
  ...Object.fromEntries(
    traps.map((trap) => [
      `a proxy of a layer whose ${trap} throws`,
      () => throwing(trap, newSubjects().layer),
    ]),
  ),
  'a Float32Array': () => values(24),
  'a short Float32Array': () => values(3),
  'an empty Float32Array': () => new Float32Array(0),
  'a Float64Array': () => Float64Array.from(values(24)),
  'a Float64Array with a value per channel': () => perChannel(1),
  'negative values': () => Float64Array.of(1, -1, 1),
  'values that are not finite': () => Float64Array.of(Number.NaN, Infinity, -Infinity),
  'an Int32Array': () => new Int32Array(24),
  'a BigInt64Array': () => new BigInt64Array(24),
  'a Uint8ClampedArray': () => new Uint8ClampedArray(96),
  'a Buffer': () => Buffer.alloc(96),
  'a DataView': () => new DataView(new ArrayBuffer(96)),
  'an ArrayBuffer': () => new ArrayBuffer(96),
  'a SharedArrayBuffer': () => new SharedArrayBuffer(96),
  'a detached array': detached,
  'an array out of bounds': () => shrunk(false),
  'an array that shrank': () => shrunk(true),
  'a shared array': () => shared(values(24)),
  'a growable shared array': () =>
    new Float32Array(new (SharedArrayBuffer as Any)(96, { maxByteLength: 192 })),
  'an array of another realm': () => foreign(values(24)),
  'a per-channel array of another realm': () => foreign(perChannel(1)),
  'WebAssembly memory': () =>
    new Float32Array(new (globalThis as Any).WebAssembly.Memory({ initial: 1 }).buffer, 0, 24),
  ...Object.fromEntries(
    [Species, WrongSpecies, ShortSpecies, Overridden].flatMap((Class) =>
      [3, 24].map((length) => [
        `a ${Class.name} of ${length}`,
        () => {
          const array = new Class(length);
          for (let i = 0; i < length; i++) array[i] = i;
          return array;
        },
      ]),
    ),
  ),
  'an array with properties of its own': () =>
    Object.defineProperties(values(24), {
      length: { get: throwOwn },
      buffer: { get: throwOwn },
      constructor: { get: throwOwn },
      slice: { get: throwOwn },
      set: { get: throwOwn },
    }),
  'a per-channel array with properties of its own': () =>
    Object.defineProperties(values(3), {
      length: { get: throwOwn },
      constructor: { get: throwOwn },
      slice: { get: throwOwn },
      set: { get: throwOwn },
    }),
  'a buffer with properties of its own': () => {
    const array = values(24);
    Object.defineProperties(array.buffer, { resizable: { get: throwOwn }, byteLength: { value: 4 } });
    return array;
  },
  'an object that pretends': () => ({ [Symbol.toStringTag]: 'Float32Array', length: 24 }),
  'an object of the prototype of Float32Array': () => Object.create(Float32Array.prototype),
  'a tensor': () => tensorOf(1),
  'an empty tensor': () => ({ data: new Float32Array(0), shape: [0, 3] }),
  'a tensor without a length': () => ({ data: new Float32Array(24), shape: [] }),
  'a tensor of shape and dims': () => ({ data: values(24), shape: undefined, dims: shape }),
  'a layer': () => newSubjects().layer,
  'a layer without statistics': () => new BatchNorm(3, { trackRunningStats: false }),
  'a proxy of a layer': () => new Proxy(newSubjects().layer, {}),
  'an object of the prototype of BatchNorm': () => Object.create(BatchNorm.prototype),
  'a frozen layer': () => newSubjects().frozen,
  'a proxy of a frozen layer': () => new Proxy(newSubjects().frozen, {}),
  'an object of the prototype of FrozenBatchNorm': () => Object.create(FrozenBatchNorm.prototype),
  'a frozen layer that was disposed of': () => {
    const { frozen } = newSubjects();
    frozen[Symbol.dispose]();
    return frozen;
  },
  // biome-ignore lint/suspicious/noThenProperty: on purpose
  'a thenable': () => ({ then: (resolve: (value: unknown) => void) => resolve(1) }),
  // biome-ignore lint/suspicious/noThenProperty: on purpose
  'a thenable that throws': () => ({ then: throwOwn }),
  'an object whose then throws': () => Object.defineProperty({}, 'then', { get: throwOwn }),
  'a promise': () => new Promise(() => {}),
  'an object that converts to nothing': () => ({
    toString: throwOwn,
    valueOf: throwOwn,
    [Symbol.toPrimitive]: throwOwn,
  }),
  'an object of another realm': () => vm.runInContext('({})', realm),
  'an array of another realm of dimensions': () => vm.runInContext('[2, 3, 4]', realm),
  'an object of thousands of properties': () =>
    Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`property${i}`, i])),
  arguments: (...a: unknown[]) =>
    (function () {
      // biome-ignore lint/complexity/noArguments: on purpose
      return arguments;
    })(...(a as [])),
  'an object with a null prototype': () => Object.assign(Object.create(null), { axis: 1 }),
  'a namespace': () => library,
  'a WeakRef': () => new WeakRef({}),
  'an iterator without end': () => ({
    *[Symbol.iterator]() {
      for (;;) yield 1;
    },
  }),
  'an aborted signal': () => AbortSignal.abort(),
  'a signal': signal,
  'a signal that aborts soon': () => AbortSignal.timeout(0),
  'an object of the prototype of AbortSignal': () => Object.create(AbortSignal.prototype),
  'a signal whose addEventListener throws': () => fakeSignal({ addEventListener: throwOwn }),
  'a signal whose removeEventListener throws': () => fakeSignal({ removeEventListener: throwOwn }),
  'a signal that calls back at once': () => fakeSignal(listenersThatCallBack),
  'a signal that calls back at once, whose reason throws': () =>
    Object.defineProperty(fakeSignal(listenersThatCallBack), 'reason', { get: throwOwn }),
  'a signal whose reason throws': () =>
    Object.defineProperty(fakeSignal({ aborted: true }), 'reason', { get: throwOwn }),
  'a signal that aborts while it is read': () => {
    let reads = 0;
    return Object.defineProperty(fakeSignal({ reason: new Own() }), 'aborted', { get: () => reads++ > 0 });
  },
};

/** Numbers that are right somewhere, but ask for gigabytes. */
const isAffordable = (value: unknown) => typeof value !== 'number' || !(value > 1e5 && value < 2 ** 31);

const anything: fc.Arbitrary<{ title: string; make: () => unknown }> = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.constantFrom(...Object.entries(hostile)).map(([title, make]) => ({ title, make })),
  },
  {
    weight: 1,
    arbitrary: fc
      .oneof(
        fc.anything({
          maxDepth: 2,
          withBigInt: true,
          withBoxedValues: true,
          withDate: true,
          withMap: true,
          withNullPrototype: true,
          withObjectString: true,
          withSet: true,
          withSparseArray: true,
          withTypedArray: true,
        }),
        fc.double(),
        fc.integer(),
        fc.constantFrom(undefined, null, true, false, 0, -0, -1, 0.5, 3, 4, 24, 2 ** 31, 2 ** 32, 2 ** 53),
        fc.constantFrom('relu', 'float64', 'cumulative', 'pytorch', 'onnx', 'parameters', 'native'),
      )
      .filter(isAffordable)
      .map((value) => ({ title: fc.stringify(value), make: () => value })),
  },
);

// ---- Where they are put ----

type Key = string | number;

function isPlain(value: unknown): value is Record<Key, unknown> {
  if (typeof value !== 'object' || value === null || types.isProxy(value)) return false;
  return Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype;
}

/** undefined where a getter is. */
function valueAt(holder: object, key: Key): unknown {
  return Object.getOwnPropertyDescriptor(holder, key)?.value;
}

/** All places in the arguments, as [object that holds it, key]. */
function placesIn(holder: Record<Key, unknown>): [holder: Record<Key, unknown>, key: Key][] {
  return Object.keys(holder).flatMap((key) => {
    const value = valueAt(holder, key);
    return [[holder, key] as [Record<Key, unknown>, Key], ...(isPlain(value) ? placesIn(value) : [])];
  });
}

/** How the value at a place becomes another. */
type Change = (holder: Record<Key, unknown>, key: Key, value: unknown, all: unknown[]) => void;

function set(holder: object, key: Key, value: unknown): void {
  Object.defineProperty(holder, key, { value, enumerable: true, configurable: true, writable: true });
}

function define(holder: object, key: Key, get: () => unknown): void {
  Object.defineProperty(holder, key, { get, enumerable: true, configurable: true });
}

/** A view of the memory of another value, off by as many bytes. */
function overlapping(value: unknown, by: number): unknown {
  if (!types.isFloat32Array(value) && !types.isFloat64Array(value)) return value;
  if (lengthOf(value) === 0) return value;
  const buffer = bufferOf(value);
  const start = 8 * (by % 2);
  const length = Math.floor((new Uint8Array(buffer).length - start) / 4);
  return length > 0 ? new Float32Array(buffer, start, Math.min(length, by % 3 ? length : 24)) : value;
}

const changes: Record<string, Change> = {
  'is replaced': (holder, key, value) => set(holder, key, value),
  'is left out': (holder, key) => {
    delete holder[key];
  },
  'throws when it is read': (holder, key) => define(holder, key, throwOwn),
  'is another at each reading': (holder, key, value) => {
    const first = holder[key];
    let reads = 0;
    define(holder, key, () => (reads++ % 2 ? value : first));
  },
  'becomes another at the first reading': (holder, key, value) => {
    const first = holder[key];
    let reads = 0;
    define(holder, key, () => (reads++ ? first : value));
  },
  'has a new property': (holder, key, value) => {
    const target = holder[key];
    if (isPlain(target) && Object.isExtensible(target)) set(target, 'unknown', value);
  },
  'has a symbol': (holder, key, value) => {
    const target = holder[key];
    if (isPlain(target) && Object.isExtensible(target))
      Object.defineProperty(target, Symbol('unknown'), { value, enumerable: true });
  },
  'inherits its properties': (holder, key) => {
    const target = holder[key];
    if (typeof target === 'object' && target !== null) set(holder, key, Object.create(target));
  },
  'is frozen': (holder, key) => {
    const target = holder[key];
    if (isPlain(target)) Object.freeze(target);
  },
  'is behind a proxy': (holder, key) => {
    const target = holder[key];
    if (typeof target === 'object' && target !== null) set(holder, key, new Proxy(target, {}));
  },
  'is behind a proxy that throws': (holder, key) => {
    const target = holder[key];
    if (typeof target === 'object' && target !== null) set(holder, key, throwing('get', target));
  },
};

/** Those that put memory of one argument where another is; drawn apart, because they need no value. */
const aliases: Record<string, (holder: Record<Key, unknown>, key: Key, other: unknown, by: number) => void> =
  {
    'is that of another place': (holder, key, other) => set(holder, key, other),
    'overlaps another place': (holder, key, other, by) => set(holder, key, overlapping(other, by)),
  };

const mutation = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      at: fc.nat(63),
      how: fc.constantFrom(...Object.keys(changes)),
      value: anything,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      at: fc.nat(63),
      how: fc.constantFrom(...Object.keys(aliases)),
      from: fc.nat(63),
      by: fc.nat(5),
    }),
  },
);
type Mutation = typeof mutation extends fc.Arbitrary<infer Drawn> ? Drawn : never;

function mutate(args: unknown[], mutations: readonly Mutation[]): void {
  const places = placesIn(args as unknown as Record<Key, unknown>);
  for (const one of mutations) {
    const [holder, key] = places[one.at % places.length];
    if (Object.isFrozen(holder)) continue;
    if ('from' in one) {
      const [otherHolder, otherKey] = places[one.from % places.length];
      aliases[one.how](holder, key, valueAt(otherHolder, otherKey), one.by);
    } else {
      // A getter that another change has put here stays.
      if (Object.getOwnPropertyDescriptor(holder, key)?.get !== undefined) continue;
      changes[one.how](holder, key, one.value.make(), args);
    }
  }
}

// ---- What must not change ----

function arraysIn(value: unknown, found: FloatArray[] = []): FloatArray[] {
  if (ArrayBuffer.isView(value)) found.push(value as FloatArray);
  else if (isPlain(value)) for (const key of Object.keys(value)) arraysIn(value[key], found);
  return found;
}

/** Bytes of arrays whose memory nothing but the call could take away. */
function bytesOf(arrays: readonly FloatArray[]): string[] {
  return arrays.map((array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('hex'));
}

function stateOfSubjects({ layer, frozen }: Subjects): unknown {
  const hex = (array: FloatArray | null | undefined) => (array ? bytesOf([array])[0] : array);
  const { weight, bias, runningMean, runningVar, training, batchesTracked, rejectedUpdates, config } = layer;
  const gradients = layer.parameters().map(({ grad }) => hex(grad));
  return {
    arrays: [weight, bias, runningMean, runningVar].map(hex),
    gradients,
    training,
    batchesTracked,
    rejectedUpdates,
    config,
    frozen: [frozen.channels, frozen.axis, frozen.eps, frozen.activation, frozen.dtype],
  };
}

/** What a backward and a run give: they see all that is hidden. */
function behaviourOf({ layer, frozen }: Subjects): string[] {
  const { dx, dWeight, dBias, dResidual } = layer.backward(tensorOf(9));
  const y = frozen.run(tensorOf(8)).data;
  return bytesOf([dx?.data, dWeight, dBias, dResidual?.data, y].filter((array) => array !== undefined));
}

/**
 * What reading a property throws comes out as it is: of the caller's own, of a signal that has aborted, and of a proxy of
 * an object with private parts, which is none.
 */
function isOfReading(error: unknown): boolean {
  if (error instanceof Own || error instanceof DOMException) return true;
  const { code, message } = error as Error & { code?: unknown };
  return code === 'ERR_INVALID_THIS' || /^Cannot read private member/.test(message);
}

/** Whether an error says what was wrong in the way that all of ours do. */
function expectOurs(error: unknown, where: string): void {
  const { message, code, constructor: Class } = error as Error & { code?: unknown };
  expect([TypeError, RangeError, Error], `${where}: ${String((error as Error)?.stack)}`).toContain(Class);
  expect(code, `${where}: ${String((error as Error)?.stack)}`).toMatch(/^ERR_BATCHNORM_[A-Z_]+$/);
  expect(message.length, `${where}: the length of its message`).toBeLessThan(1000);
  expect(message, where).toMatch(/ (must|needs) .*, got /s);
}

const atStart = threads();
afterEach(() => setThreads(atStart));

describe('any value anywhere', () => {
  holds('gives a result or an error of ours, and an error changes nothing', 2000, () =>
    fc.asyncProperty(
      fc.constantFrom(...Object.keys(calls)),
      fc.array(mutation, { minLength: 1, maxLength: 3 }),
      async (name, mutations) => {
        const subjects = newSubjects();
        const [args, call] = calls[name](subjects);
        const arrays = arraysIn(args);
        const before = { bytes: bytesOf(arrays), state: stateOfSubjects(subjects) };
        mutate(args, mutations);
        let error: unknown;
        try {
          await call(...args);
          return;
        } catch (thrown) {
          error = thrown;
        } finally {
          setThreads(atStart);
        }
        if (!isOfReading(error)) expectOurs(error, name);
        expect(stateOfSubjects(subjects), `the layers after ${name}`).toEqual(before.state);
        expect(bytesOf(arrays), `the arrays after ${name}`).toEqual(before.bytes);
        expect(behaviourOf(subjects), `what the layers give after ${name}`).toEqual(
          behaviourOf(newSubjects()),
        );
      },
    ),
  );
});
