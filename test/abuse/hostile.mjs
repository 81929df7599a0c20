// Arrays, intrinsics and prototypes that a caller has changed after the library was loaded, drawn at random.
// node hostile.mjs arrays|intrinsics|inherited <seed> <attempts> [<first attempt>]
//
// Each attempt makes one of the jobs below twice with the same values: undisturbed, and disturbed. Whatever is disturbed,
// nothing may end in a signal, show memory of somebody else or write elsewhere than to results. Beyond that, results,
// states and the memory of all arguments must be the same to the bit, or a call throws an error of ours and has written
// nothing, where `isStrict` says so: for all that is done to arrays and to Object.prototype, and for replaced parts of
// typed arrays, buffers and iterators. Not for the rest of the language: who replaces Math.max gets another maximum.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeSync } from 'node:fs';
import { types } from 'node:util';
import vm from 'node:vm';
import {
  BatchNorm,
  backward,
  compose,
  FrozenBatchNorm,
  foldBeforeLinear,
  foldIntoConv,
  foldIntoLinear,
  forwardInference,
  forwardTraining,
  GroupNorm,
  groupNorm,
  groupNormBackward,
  InstanceNorm,
  instanceNorm,
  instanceNormBackward,
  LayerNorm,
  layerNorm,
  layerNormBackward,
  RMSNorm,
  rmsNorm,
  rmsNormBackward,
  tensor,
  updateRunningStats,
} from 'batchnorm';
import ndarray from 'ndarray';
import { isNative, turn } from './tools.mjs';

// Taken before anything is replaced: between a disturbance and its end nothing else may be used here.
const { apply, construct, defineProperty, deleteProperty, getOwnPropertyDescriptor, ownKeys } = Reflect;
const [F32, F64, U8, Memory] = [Float32Array, Float64Array, Uint8Array, ArrayBuffer];
const { create, setPrototypeOf } = Object;
const clone = structuredClone;
const typedArray = Object.getPrototypeOf(U8);
const arrayIterator = Object.getPrototypeOf([][Symbol.iterator]());
const getter = (name) => getOwnPropertyDescriptor(typedArray.prototype, name).get;
const [typeOf, lengthOf, bufferOf, byteOffsetOf, byteLengthOf] = [
  Symbol.toStringTag,
  'length',
  'buffer',
  'byteOffset',
  'byteLength',
].map((name) => {
  const get = getter(name);
  return (array) => apply(get, array, []);
});
const { set } = typedArray.prototype;
const { isPromise } = types;

/** What code of the caller's throws. */
class Own extends Error {}

const [kind, seedText, attemptsText, firstText = '0'] = process.argv.slice(2);
const seed = Number(seedText);

/** Numbers that follow from the seed and one more number; mulberry32. */
function randomOf(stream) {
  let state = (seed ^ Math.imul(stream + 1, 0x9e3779b9)) >>> 0;
  const { imul } = Math;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = imul(t ^ (t >>> 15), t | 1);
    t ^= t + imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 4; i++) uniform();
  const below = (count) => Math.floor(uniform() * count);
  return { below, pick: (list) => list[below(list.length)], chance: (part) => uniform() < part, uniform };
}

// ---- What is lied with ----

const bytesOf = (array) => {
  const length = byteLengthOf(array);
  const copy = new U8(length);
  if (length > 0) apply(set, copy, [new U8(bufferOf(array), byteOffsetOf(array), length)]);
  return copy;
};

function detach(value) {
  try {
    const buffer = typeOf(value) === undefined ? value : bufferOf(value);
    clone(buffer, { __proto__: null, transfer: [buffer] });
  } catch {
    // No array, or memory that cannot be moved.
  }
}

/** A function, a class, an object or a value that is no good anywhere; `original` is what was there. */
const lies = {
  throws: () => () => {
    throw new Own('on purpose');
  },
  nothing: () => () => undefined,
  itself: () =>
    function () {
      return this;
    },
  bytes:
    ({ length }) =>
    () =>
      new U8(length),
  'no values': () => () => new F32(0),
  'one value more':
    ({ length }) =>
    () =>
      new F64(length + 1),
  'a huge number': () => () => 2 ** 40,
  'a negative number': () => () => -1,
  NaN: () => () => Number.NaN,
  true: () => () => true,
  detaches: ({ original }) =>
    function (...given) {
      detach(this);
      for (let i = 0; i < given.length; i++) detach(given[i]);
      return typeof original === 'function'
        ? new.target
          ? construct(original, given)
          : apply(original, this, given)
        : original;
    },
  'another array': () => (first) => new U8(typeof first === 'number' && first < 2 ** 20 ? first : 1),
  'a class of one value': () =>
    class extends F32 {
      constructor() {
        super(1);
      }
    },
  'a class of bytes': () => U8,
  'a class with a species of bytes': () => ({ [Symbol.species]: U8 }),
  'a class with a species of one value': () => ({
    [Symbol.species]: class extends F32 {
      constructor() {
        super(1);
      }
    },
  }),
  'a class with a species that detaches': ({ array }) => ({
    [Symbol.species]: (length) => {
      detach(array);
      return new F32(typeof length === 'number' ? length : 1);
    },
  }),
  'a value of 0': () => 0,
  'a value of 2^40': () => 2 ** 40,
  'a value of -1': () => -1,
  'a string': () => 'Float64Array',
  null: () => null,
  'a buffer': () => new Memory(1),
  'a proxy': () =>
    new Proxy(class {}, {
      get: (_, name) => (name === 'prototype' ? U8.prototype : U8),
      construct: () => new U8(1),
      apply: () => new U8(1),
    }),
};
const lieNames = Object.keys(lies);

/** Loops end with these: an iterator that is never done, or a step of 0, is endless and shows nothing. */
const ending = ['throws', 'nothing', 'NaN', 'detaches'];
const liesFor = (holder, name) =>
  name === 'next' || (!isNative && (holder === Math || holder === Number)) ? ending : lieNames;

// ---- What is handed over ----

const margin = 64;
const realm = vm.createContext({});
const inRealm = vm.runInContext(
  `({
    prototype: Object.prototype,
    object: (given) => ({ ...given }),
    array: (given) => [...given],
    inherited: (given) => Object.create({ ...given }),
  })`,
  realm,
);

/** Forms of an object that has the same properties for whoever goes along its prototypes. */
const forms = {
  plain: (properties) => properties,
  null: (properties) => Object.assign(create(null), properties),
  inherited: (properties) => create(properties),
  'inherited from null': (properties) => create(Object.assign(create(null), properties)),
  getters(properties) {
    class Holder {}
    class Sub extends Holder {}
    for (const name of Object.keys(properties))
      Object.defineProperty(Holder.prototype, name, { get: () => properties[name] });
    return new Sub();
  },
  proxy: (properties) => new Proxy(properties, create(null)),
  'of another realm': (properties) => inRealm.object(properties),
  'inherited in another realm': (properties) => inRealm.inherited(properties),
};
const formNames = Object.keys(forms);

/**
 * The arguments of a job. Two with one `stream` give the same values; `disturb(array, name)` returns what is handed over
 * in the place of an array.
 */
class Arguments {
  /** Every array that was handed over, with all its buffer, and whether a call may write to it. */
  given = [];
  /** Arrays of a layer. */
  live = [];

  constructor(stream, form, disturb) {
    this.random = randomOf(stream);
    this.form = form;
    this.disturb = disturb;
    const { random } = this;
    this.dtype = random.pick(['float32', 'float64']);
    this.Type = this.dtype === 'float32' ? F32 : F64;
    this.channels = random.pick([1, 3, 16, 300]);
    this.axis = random.pick([1, -1]);
    this.inner = random.pick([1, 5, 40]);
    // A large one lies in memory that is used again, a streamed one is written past the caches.
    if (isNative && random.chance(0.02)) {
      this.channels = 16;
      this.inner = 8192;
    }
  }

  shapeOf(outer) {
    return this.axis === 1 ? [outer, this.channels, this.inner] : [outer, this.inner, this.channels];
  }

  values(length, Type = this.Type, first = this.random.uniform()) {
    const values = new Type(length);
    for (let i = 0; i < length; i++) values[i] = ((first * 1000 + i * 7.25) % 11) + 0.5;
    return values;
  }

  array(name, values, isResult = false, isMovable = false) {
    const Type = values.constructor;
    const bytes = values.BYTES_PER_ELEMENT;
    const around = isMovable ? 0 : margin;
    const buffer = new Memory(values.length * bytes + 2 * around);
    new U8(buffer).fill(0xa5);
    const array = new Type(buffer, around, values.length);
    array.set(values);
    // The view that is looked through stays clean.
    this.given.push({ name, all: new U8(buffer), array: new Type(buffer, around, values.length), isResult });
    return this.disturb(array, name);
  }

  perChannel(name, isResult = false, Type = this.random.pick([F32, F64])) {
    return this.array(name, this.values(this.channels, Type), isResult);
  }

  object(properties) {
    for (const name of Object.keys(properties)) if (properties[name] === undefined) delete properties[name];
    return forms[this.form](properties);
  }

  tensor(name, outer, isMovable = false) {
    const shape = this.shapeOf(outer);
    const length = shape.reduce((product, dimension) => product * dimension);
    const data = this.array(name, this.values(length), isMovable, isMovable);
    const how = this.random.below(4);
    if (how === 0) return this.object({ data, dims: shape });
    if (how === 1) return this.object({ data, shape: inRealm.array(shape) });
    // ndarray itself asks the array for more than its elements.
    if (how === 2 && kind !== 'arrays' && this.form === 'plain' && data.constructor === this.Type)
      return ndarray(data, shape);
    return this.object({ data, shape });
  }

  out(outer) {
    return this.array(
      'out',
      new this.Type(this.shapeOf(outer).reduce((product, dimension) => product * dimension)),
      true,
    );
  }

  maybe(make) {
    return this.random.chance(0.5) ? make() : undefined;
  }

  /** Arrays that a layer has, and that its caller may do things to. */
  watch(...arrays) {
    for (const array of arrays) {
      if (!array || this.live.some((one) => one.array === array)) continue;
      this.live.push({ array });
      this.disturb(array, 'an array of the layer', true);
    }
  }

  layerOptions() {
    return this.object({
      dtype: this.dtype,
      axis: this.axis,
      activation: this.maybe(() => 'relu'),
      reuse: this.maybe(() => true),
      decay: this.maybe(() => 'cumulative'),
    });
  }

  state() {
    return this.object({
      weight: this.perChannel('state.weight'),
      bias: this.perChannel('state.bias'),
      running_mean: this.perChannel('state.running_mean'),
      running_var: this.perChannel('state.running_var'),
      num_batches_tracked: this.maybe(() => 3),
    });
  }
}

// ---- Jobs ----

const arraysOf = (bn) => [
  bn.weight,
  bn.bias,
  bn.runningMean,
  bn.runningVar,
  ...bn.parameters().map(({ grad }) => grad),
];

/** A group, instance, layer or RMS norm: how its layer is made, its functions, and how many values its parameters have. */
function drawNorm(make) {
  const { random, channels, axis } = make;
  const group = random.pick([1, channels]);
  const shape = random.chance(0.5) ? make.shapeOf(4).slice(1) : make.shapeOf(4).slice(2);
  const size = shape.reduce((product, dimension) => product * dimension);
  const ofRow = { values: size, own: { shape }, isRow: true };
  const ofChannels = { values: channels, own: { axis } };
  return random.pick([
    {
      make: (options) => new GroupNorm(group, channels, options),
      run: groupNorm,
      back: groupNormBackward,
      ...ofChannels,
      own: { axis, groups: group },
    },
    {
      make: (options) => new InstanceNorm(channels, options),
      run: instanceNorm,
      back: instanceNormBackward,
      ...ofChannels,
      isInstance: true,
    },
    { make: (options) => new LayerNorm(shape, options), run: layerNorm, back: layerNormBackward, ...ofRow },
    {
      make: (options) => new RMSNorm(shape, options),
      run: rmsNorm,
      back: rmsNormBackward,
      ...ofRow,
      isRMS: true,
    },
  ]);
}

/** Each returns its steps: [name, call, what is looked at behind it]. Calls use nothing that could be disturbed. */
const jobs = {
  layer(make) {
    let bn;
    let other;
    let state;
    const options = make.layerOptions();
    const given = make.state();
    const [x, less, dy] = [make.tensor('x', 4), make.tensor('x', 2), make.tensor('dy', 2)];
    const forward = make.maybe(() =>
      make.object({
        out: make.maybe(() => make.out(4)),
        residual: make.maybe(() => make.tensor('residual', 4)),
      }),
    );
    const again = make.object({ residual: make.maybe(() => make.tensor('residual', 2)) });
    const back = make.maybe(() => make.object({ out: make.maybe(() => make.out(2)) }));
    const infinite = make.tensor('x', 2);
    make.given.at(-1).array[0] = Number.NaN;
    return [
      [
        'new',
        () => {
          bn = new BatchNorm(make.channels, options);
        },
        () => make.watch(...arraysOf(bn)),
      ],
      ['loadStateDict', () => void bn.loadStateDict(given)],
      ['forward', () => bn.forward(x, forward)],
      ['forward of what is not finite', () => bn.forward(infinite)],
      ['forward again', () => bn.forward(less, again)],
      ['backward', () => bn.backward(dy, back)],
      ['backward again', () => bn.backward(dy)],
      [
        'stateDict',
        () => {
          state = bn.stateDict();
          return state;
        },
      ],
      [
        'new',
        () => {
          other = new BatchNorm(make.channels, options);
        },
        () => make.watch(...arraysOf(other)),
      ],
      ['loadStateDict', () => void other.loadStateDict(state)],
      ['forward in evaluation', () => other.eval().forward(x)],
      ['freeze', () => other.freeze().run(x)],
      [
        'config',
        () => [
          bn.config.axis,
          bn.config.eps,
          bn.config.decay,
          bn.config.activation,
          bn.batchesTracked,
          bn.rejectedUpdates,
        ],
      ],
    ];
  },

  layerLater(make) {
    let bn;
    const options = make.layerOptions();
    const transfer = make.maybe(() => true);
    const x = make.tensor('x', 4, transfer);
    const dy = make.tensor('dy', 4);
    const forward = make.object({
      transfer,
      signal: make.maybe(() => new AbortController().signal),
      out: transfer ? undefined : make.maybe(() => make.out(4)),
      residual: make.maybe(() => make.tensor('residual', 4)),
    });
    const only = make.maybe(() => 'input');
    const back = make.maybe(() => make.object({ only, out: make.maybe(() => make.out(4)) }));
    return [
      [
        'new',
        () => {
          bn = new BatchNorm(make.channels, options);
        },
        () => make.watch(...arraysOf(bn)),
      ],
      ['forwardAsync', () => bn.forwardAsync(x, forward)],
      ['backwardAsync', () => bn.backwardAsync(dy, back)],
      ['backwardAsync again', () => bn.backwardAsync(dy)],
      ['forwardAsync in evaluation', () => bn.eval().forwardAsync(dy)],
    ];
  },

  frozen(make) {
    let frozen;
    const state = make.state();
    const options = make.object({
      axis: make.axis,
      eps: make.maybe(() => 1e-3),
      dtype: make.maybe(() => make.dtype),
      activation: make.maybe(() => 'relu'),
    });
    const x = make.tensor('x', 4);
    const moved = make.tensor('x', 4, true);
    const run = () =>
      make.maybe(() =>
        make.object({
          out: make.maybe(() => make.out(4)),
          residual: make.maybe(() => make.tensor('residual', 4)),
        }),
      );
    const [first, second, transfer] = [run(), run(), make.object({ transfer: true })];
    return [
      [
        'from',
        () => {
          frozen = FrozenBatchNorm.from(state, options);
        },
      ],
      ['run', () => frozen.run(x, first)],
      ['runAsync', () => frozen.runAsync(x, second)],
      ['runAsync with transfer', () => frozen.runAsync(moved, transfer)],
    ];
  },

  functions(make) {
    const pass = (more) => ({
      axis: make.axis,
      eps: make.maybe(() => 1e-3),
      weight: make.maybe(() => make.perChannel('weight')),
      bias: make.maybe(() => make.perChannel('bias')),
      activation: make.maybe(() => 'relu'),
      residual: make.maybe(() => make.tensor('residual', 4)),
      out: make.maybe(() => make.out(4)),
      ...more,
    });
    const statistics = () => ({ mean: make.perChannel('mean'), variance: make.perChannel('variance') });
    const [x, dy] = [make.tensor('x', 4), make.tensor('dy', 4)];
    const training = make.object(pass());
    const inference = make.object(pass(statistics()));
    const gradients = make.object(pass({ ...statistics(), training: make.maybe(() => false) }));
    const running = make.object({
      runningMean: make.perChannel('runningMean', true),
      runningVar: make.perChannel('runningVar', true),
    });
    const batch = make.object({ ...statistics(), count: 8 });
    const mixing = make.maybe(() => make.object({ decay: make.maybe(() => 0.5) }));
    const { data } = make.tensor('x', 4);
    const shape = make.shapeOf(4);
    return [
      ['forwardTraining', () => forwardTraining(x, training)],
      ['forwardInference', () => forwardInference(x, inference)],
      ['backward', () => backward(dy, x, gradients)],
      ['updateRunningStats', () => updateRunningStats(running, batch, mixing)],
      ['tensor', () => tensor(data, shape)],
    ];
  },

  folding(make) {
    const { channels } = make;
    const fixed = () =>
      make.object({
        mean: make.perChannel('mean'),
        variance: make.perChannel('variance'),
        weight: make.maybe(() => make.perChannel('weight')),
        bias: make.maybe(() => make.perChannel('bias')),
        eps: make.maybe(() => 1e-3),
      });
    const layer = (length, shape, more) =>
      make.object({
        weight: make.array('weight', make.values(length)),
        shape,
        bias: make.maybe(() => make.perChannel('bias')),
        ...more,
      });
    const [first, second] = [fixed(), fixed()];
    const linear = layer(channels * channels, [channels, channels]);
    const conv = layer(channels * 4, [channels, 1, 2, 2], { groups: make.maybe(() => channels) });
    const transposed = layer(channels * 2, [2, channels], { transposed: true, groups: make.maybe(() => 1) });
    const x = make.object({ data: make.array('x', make.values(2 * channels)), shape: [2, channels] });
    return [
      ['foldIntoConv', () => foldIntoConv(conv, first)],
      ['foldIntoConv, transposed', () => foldIntoConv(transposed, first)],
      ['foldIntoLinear', () => foldIntoLinear(linear, first)],
      ['foldBeforeLinear', () => foldBeforeLinear(first, linear)],
      ['compose', () => compose(first, second).run(x)],
    ];
  },

  norms(make) {
    // One value per sample and channel is an error of an instance norm.
    if (make.inner === 1) make.inner = 5;
    const norm = drawNorm(make);
    const tracks = norm.isInstance && make.random.chance(0.5);
    const options = make.object({
      dtype: make.dtype,
      axis: norm.isRow ? undefined : make.axis,
      weight: norm.isInstance ? true : undefined,
      bias: norm.isInstance ? true : undefined,
      trackRunningStats: tracks ? true : undefined,
      activation: make.maybe(() => 'relu'),
      reuse: make.maybe(() => true),
    });
    const values = (name) => make.array(name, make.values(norm.values));
    const state = make.object({
      weight: values('state.weight'),
      bias: norm.isRMS ? undefined : values('state.bias'),
      running_mean: tracks ? make.perChannel('state.running_mean') : undefined,
      running_var: tracks ? make.perChannel('state.running_var') : undefined,
    });
    const [x, dy] = [make.tensor('x', 4), make.tensor('dy', 4)];
    const call = () =>
      make.object({
        out: make.maybe(() => make.out(4)),
        residual: make.maybe(() => make.tensor('residual', 4)),
      });
    const [forward, later, frozen] = [call(), call(), call()];
    const half = make.object({ only: 'parameters', retain: true });
    const back = make.object({ out: make.maybe(() => make.out(4)) });
    let layer;
    return [
      [
        'new',
        () => {
          layer = norm.make(options);
        },
        () =>
          make.watch(
            layer.weight,
            layer.bias,
            layer.runningMean,
            layer.runningVar,
            ...layer.parameters().map(({ grad }) => grad),
          ),
      ],
      ['loadStateDict', () => void layer.loadStateDict(state)],
      ['forward', () => layer.forward(x, forward)],
      ['half of a backward', () => layer.backward(dy, half)],
      ['backward', () => layer.backward(dy, back)],
      ['forwardAsync', () => layer.forwardAsync(x, later)],
      ['backwardAsync', () => layer.backwardAsync(dy)],
      ['stateDict', () => layer.stateDict()],
      ['freeze', () => layer.freeze().run(x, frozen)],
    ];
  },

  normFunctions(make) {
    const norm = drawNorm(make);
    const values = (name) => make.maybe(() => make.array(name, make.values(norm.values)));
    const options = () =>
      make.object({
        ...norm.own,
        eps: make.maybe(() => 1e-3),
        weight: values('weight'),
        bias: norm.isRMS ? undefined : values('bias'),
        activation: make.maybe(() => 'relu'),
        residual: make.maybe(() => make.tensor('residual', 4)),
        out: make.maybe(() => make.out(4)),
      });
    const [x, dy] = [make.tensor('x', 4), make.tensor('dy', 4)];
    const [forward, back] = [options(), options()];
    return [
      ['the function', () => norm.run(x, forward)],
      ['its gradient', () => norm.back(dy, x, back)],
    ];
  },

  errors(make) {
    const { channels } = make;
    const x = make.tensor('x', 4);
    const empty = make.object({});
    const stranger = make.object({ unknown: 1 });
    const state = make.object({ weight: make.perChannel('state.weight') });
    const short = make.object({ data: make.array('x', make.values(2)), shape: [4, channels] });
    const groups = make.object({ groups: channels + 1, axis: make.axis });
    const bn = new BatchNorm(channels, { axis: make.axis, dtype: make.dtype });
    make.watch(...arraysOf(bn));
    // An option of which somebody may have put another on Object.prototype.
    const calls = [
      ['a layer of no channels', () => new BatchNorm(0)],
      ['a tensor of nothing', () => bn.forward(empty)],
      ['options of another kind', () => bn.forward(x, 3)],
      ['backward of nothing', () => bn.backward(x)],
      ['a part of a state', () => bn.loadStateDict(state)],
      ['no state', () => FrozenBatchNorm.from(empty)],
      ['no statistics', () => forwardInference(x, empty)],
      ['too few values', () => forwardTraining(short)],
      ['no layer', () => foldIntoLinear(empty, bn)],
      ['groups that do not divide', () => groupNorm(x, groups)],
      ['a norm of no place', () => new LayerNorm(0)],
      ['a norm that does not fold', () => foldIntoLinear(short, new LayerNorm(channels))],
      ['no batch norm', () => foldIntoLinear(short, empty)],
      ['no running statistics', () => updateRunningStats(empty, empty)],
    ];
    // What is inherited is no option of this call.
    if (make.form === 'plain' || make.form === 'null')
      calls.push(['an unknown option', () => bn.forward(x, stranger)]);
    return calls;
  },
};
const jobNames = Object.keys(jobs);

// ---- What came of it ----

/** All that can be seen of a result, as [what, bytes or text]. */
function seen(value, name = '', found = []) {
  if (typeOf(value) !== undefined) {
    found.push([`${name} ${typeOf(value)}`, bytesOf(value)]);
  } else if (Array.isArray(value)) {
    found.push([`${name}.length`, String(value.length)]);
    for (let i = 0; i < value.length; i++) seen(value[i], `${name}[${i}]`, found);
  } else if (typeof value === 'object' && value !== null) {
    for (const key of ownKeys(value).sort()) seen(value[key], `${name}.${String(key)}`, found);
  } else {
    found.push([name, Object.is(value, -0) ? '-0' : String(value)]);
  }
  return found;
}

const resultArrays = (value) => {
  const arrays = [];
  const walk = (one) => {
    if (typeOf(one) !== undefined) arrays.push(one);
    else if (typeof one === 'object' && one !== null) for (const key of Object.keys(one)) walk(one[key]);
  };
  walk(value);
  return arrays;
};

/** What a layer and the arguments are behind a step. */
const memoryOf = (make) => [
  ...make.given.map(({ name, all }) => [`memory of ${name}`, bytesOf(all)]),
  ...make.live.map(({ array }) => ['an array of the layer', bytesOf(array)]),
];

const isSame = (a, b) =>
  typeof a === 'string' ? a === b : typeof b !== 'string' && Buffer.compare(a, b) === 0;

function difference(before, after) {
  for (let i = 0; i < Math.max(before.length, after.length); i++) {
    const [what, expected] = before[i] ?? ['nothing', ''];
    const [name, actual] = after[i] ?? ['nothing', ''];
    if (what !== name) return `${name} where ${what} should be`;
    if (!isSame(expected, actual)) return `${what} is another`;
  }
  return undefined;
}

/** What nobody has handed over: 'AAAA' as float32 and as float64. */
const secret = new U8(8).fill(0x41);
const secrets = Array.from({ length: 500 }, (_, i) => new U8(80 + (i % 16) * 64).fill(0x41));

/**
 * Makes a job. `around(step, call)` calls, with what is disturbed; `restore` ends that when the call has settled.
 *
 * @returns what was seen behind each step, up to the first that failed.
 */
async function perform(name, make, around, restore, settled = (promise) => promise) {
  const steps = jobs[name](make);
  const outcomes = [];
  for (let i = 0; i < steps.length; i++) {
    const [step, call, then] = steps[i];
    const before = memoryOf(make);
    const outcome = { step, error: undefined, result: [], memory: [], before };
    let value;
    try {
      value = around(i, call);
      if (isPromise(value)) value = await settled(value);
    } catch (error) {
      outcome.error = error;
    } finally {
      restore();
    }
    if (outcome.error === undefined) {
      then?.();
      outcome.result = seen(value);
    }
    outcome.memory = memoryOf(make);
    outcome.arrays = resultArrays(value);
    outcomes.push(outcome);
    if (outcome.error !== undefined && name !== 'errors') break;
  }
  return outcomes;
}

const codeOf = (error) => (error instanceof Own ? undefined : error?.code);
const describe = (error) => `${error?.name} ${error?.code}: ${error?.message}`;

/** @throws where something came of it that must not. */
function check(job, make, expected, actual, isStrict) {
  for (let i = 0; i < actual.length; i++) {
    const [want, got] = [expected[i], actual[i]];
    const where = `${job}, ${got.step}`;
    for (const array of got.arrays) {
      const bytes = Buffer.from(bytesOf(array));
      for (const size of [4, 8])
        if (size === (typeOf(array) === 'Float64Array' ? 8 : 4))
          for (
            let at = bytes.indexOf(secret.subarray(0, size));
            at >= 0;
            at = bytes.indexOf(secret.subarray(0, size), at + 1)
          )
            assert.ok(at % size !== 0, `${where}: memory of somebody else at ${at}`);
    }
    // A call that fails, or is lied to, writes to results at most.
    for (let j = 0; j < make.given.length; j++) {
      const { name, all, array, isResult } = make.given[j];
      if (byteLengthOf(all) === 0) continue;
      const [was, is] = [Buffer.from(got.before[j][1]), Buffer.from(got.memory[j][1])];
      if (was.length !== is.length) continue;
      if (isResult && !(isStrict && got.error !== undefined)) {
        const [begin, end] = [byteOffsetOf(array), byteOffsetOf(array) + byteLengthOf(array)];
        was.fill(0, begin, end);
        is.fill(0, begin, end);
      }
      assert.ok(was.equals(is), `${where}: it wrote to ${isResult ? 'the memory around ' : ''}${name}`);
    }
    if (!isStrict) continue;
    if (got.error === undefined) {
      assert.ok(want.error === undefined, `${where}: it must throw ${describe(want.error)}`);
      const other = difference(want.result, got.result) ?? difference(want.memory, got.memory);
      assert.ok(other === undefined, `${where}: ${other}`);
    } else {
      if (want.error !== undefined && describe(want.error) === describe(got.error)) continue;
      assert.match(String(codeOf(got.error)), /^ERR_BATCHNORM_/, `${where}: ${got.error?.stack}`);
      assert.ok(kind !== 'inherited', `${where}: ${describe(got.error)}`);
      const written = difference(got.before, got.memory);
      assert.ok(written === undefined, `${where}: ${written}, though it threw ${describe(got.error)}`);
    }
  }
  if (isStrict && actual.at(-1).error === undefined) assert.equal(actual.length, expected.length);
}

// ---- What is disturbed ----

const methodNames = [
  ...new Set(
    [typedArray.prototype, F32.prototype, Object.prototype, Memory.prototype].flatMap((prototype) =>
      ownKeys(prototype).filter((name) => name !== '__proto__'),
    ),
  ),
  'toJSON',
  'then',
  'data',
  'resizable',
  'growable',
];

/** Things to do to an array; those that return another cannot be done to an array of a layer. */
function disturber(random, notes) {
  const lie = (array, original) => {
    const name = random.pick(lieNames);
    return [name, lies[name]({ length: lengthOf(array), array, original })];
  };
  const own = (array) => {
    const name = random.pick(methodNames);
    const [title, value] = lie(array, array[name]);
    const isGetter = random.chance(0.3);
    notes.push(`${String(name)} ${isGetter ? 'is got from' : 'is'} ${title}`);
    defineProperty(array, name, {
      configurable: true,
      ...(isGetter ? { get: typeof value === 'function' ? value : () => value } : { value, writable: true }),
    });
    return array;
  };
  const prototype = (array) => {
    const prototypes = {
      null: null,
      'that of bytes': U8.prototype,
      'that of floats': F32.prototype,
      'that of doubles': F64.prototype,
      'that of arrays': Array.prototype,
      'that of views': DataView.prototype,
      'that of objects': Object.prototype,
      'an empty object': {},
      'a proxy': new Proxy(
        {},
        {
          get: () => lies[random.pick(lieNames)]({ length: 3, array }),
          has: () => true,
          getPrototypeOf: () => U8.prototype,
        },
      ),
    };
    const name = random.pick(Object.keys(prototypes));
    notes.push(`its prototype is ${name}`);
    setPrototypeOf(array, prototypes[name]);
    return array;
  };
  const subclass = (array) => {
    const [title, species] = lie(array);
    notes.push(`it is of a class whose species is ${title}`);
    let isMade = false;
    class Sub extends array.constructor {
      constructor(...given) {
        if (isMade) throw new Own('the constructor of a subclass');
        super(...given);
        isMade = true;
      }
      static get [Symbol.species]() {
        return species;
      }
    }
    for (const name of ['length', 'buffer', 'byteOffset', 'byteLength'])
      Object.defineProperty(Sub.prototype, name, { get: () => 7 });
    return new Sub(bufferOf(array), byteOffsetOf(array), byteLengthOf(array) / array.BYTES_PER_ELEMENT);
  };
  const proxy = (array) => {
    notes.push('it is behind a proxy');
    return new Proxy(array, {});
  };
  const buffer = (array) => {
    const memory = bufferOf(array);
    const name = random.pick([
      'byteLength',
      'resizable',
      'slice',
      'constructor',
      'maxByteLength',
      Symbol.toStringTag,
    ]);
    const [title, value] = lie(array, memory[name]);
    notes.push(`${String(name)} of its buffer is ${title}`);
    defineProperty(memory, name, { configurable: true, value });
    return array;
  };
  return (array, isLive) => {
    const how = random.pick(
      isLive ? [own, own, own, prototype, buffer] : [own, own, own, prototype, buffer, subclass, proxy],
    );
    return how(array);
  };
}

/** What the language has, and whether the library may be lied to by it. */
function intrinsics() {
  const targets = [];
  const add = (title, holder, isStrict, names = ownKeys(holder)) => {
    for (const name of names) {
      const property = getOwnPropertyDescriptor(holder, name);
      if (property?.configurable)
        targets.push({ title: `${title}.${String(name)}`, holder, name, property, isStrict });
    }
  };
  const arrays = [
    'Float32Array',
    'Float64Array',
    'Uint8Array',
    'Int8Array',
    'Uint16Array',
    'Int32Array',
    'Uint32Array',
    'Uint8ClampedArray',
    'BigInt64Array',
  ];
  const buffers = ['ArrayBuffer', 'SharedArrayBuffer', 'DataView'];
  add('globalThis', globalThis, true, [...arrays, ...buffers, 'structuredClone']);
  add('TypedArray', typedArray, true);
  add('TypedArray.prototype', typedArray.prototype, true);
  for (const name of [...arrays, ...buffers]) {
    add(name, globalThis[name], true);
    add(`${name}.prototype`, globalThis[name].prototype, true);
  }
  add('ArrayIterator.prototype', arrayIterator, true);
  add('Iterator.prototype', Object.getPrototypeOf(arrayIterator), true);
  const iteration = [Symbol.iterator, 'values', 'keys', 'entries'];
  add('Array.prototype', Array.prototype, true, iteration);
  add(
    'Array.prototype',
    Array.prototype,
    false,
    ownKeys(Array.prototype).filter((name) => !iteration.includes(name)),
  );
  const others = [
    'Object',
    'Reflect',
    'Array',
    'Function',
    'Number',
    'Math',
    'BigInt',
    'String',
    'Set',
    'Map',
    'WeakMap',
    'WeakRef',
    'Promise',
    'Symbol',
    'Error',
    'TypeError',
    'RangeError',
    'FinalizationRegistry',
    'AbortSignal',
    'EventTarget',
    'performance',
    'queueMicrotask',
    'setImmediate',
    'Atomics',
  ];
  add('globalThis', globalThis, false, others);
  for (const name of others) {
    const value = globalThis[name];
    // What Node itself calls in between is not ours to protect; nor is what only the literals of this file would see.
    if (name !== 'Array')
      add(
        name,
        value,
        false,
        ownKeys(value).filter((key) => key !== 'prototype'),
      );
    else add(name, value, false);
    if (typeof value === 'function' && value.prototype && name !== 'Array')
      add(`${name}.prototype`, value.prototype, false);
  }
  return targets;
}

function replace(holder, name, property) {
  return defineProperty(holder, name, { __proto__: null, configurable: true, ...property });
}

/** Every word of the library could be the name of a property that it reads. */
function wordsOfLibrary() {
  const words = new Set([
    ...[
      'get',
      'set',
      'value',
      'writable',
      'enumerable',
      'configurable',
      'cause',
      'code',
      'type',
      'detail',
      'then',
    ],
    ...[
      'toJSON',
      'once',
      'passive',
      'capture',
      'length',
      '0',
      '1',
      '2',
      'next',
      'done',
      'return',
      'raw',
      'index',
    ],
  ]);
  const folder = new URL('../../dist/', import.meta.url);
  for (const file of readdirSync(folder, { recursive: true })) {
    if (!file.endsWith('.js') || file.startsWith('tfjs')) continue;
    const code = readFileSync(new URL(file, folder), 'utf8').replaceAll(
      /\/\*.*?\*\/|\/\/.*|^import.*$/gms,
      '',
    );
    for (const [word] of code.matchAll(/\b[A-Za-z_]\w*/g)) words.add(word);
  }
  return [...words].filter((word) => !(word in Object.prototype));
}

const symbols = [
  Symbol.iterator,
  Symbol.species,
  Symbol.toPrimitive,
  Symbol.toStringTag,
  Symbol.hasInstance,
  Symbol.dispose,
].filter((symbol) => symbol !== undefined);

/** What an option of a name could well be. */
function plausible(name, make) {
  const { Type } = make;
  const size = make.shapeOf(4).reduce((product, dimension) => product * dimension);
  const perChannel = () => new F64(make.channels).fill(2);
  const values = {
    out: () => new Type(size),
    residual: () => ({ data: new Type(size).fill(3), shape: make.shapeOf(4) }),
    activation: () => 'relu',
    eps: () => 10,
    axis: () => 0,
    dtype: () => (make.dtype === 'float32' ? 'float64' : 'float32'),
    decay: () => 0.25,
    momentum: () => 0.25,
    convention: () => 'keras',
    updateStats: () => false,
    unbiasedRunningVar: () => false,
    trackRunningStats: () => false,
    virtualBatchSize: () => 1,
    renorm: () => ({ rMax: 2, dMax: 1 }),
    rMax: () => 2,
    dMax: () => 1,
    reuse: () => true,
    training: () => false,
    only: () => 'parameters',
    signal: () => AbortSignal.abort(),
    transfer: () => true,
    data: () => new Type(size),
    shape: () => make.shapeOf(4),
    dims: () => make.shapeOf(2),
    strides: () => [1, 1, 1],
    stride: () => [1, 1, 1],
    offset: () => 1,
    groups: () => 2,
    transposed: () => true,
    count: () => 5,
    num_batches_tracked: () => 7,
  };
  if (typeof name === 'symbol') return undefined;
  return Object.hasOwn(values, name)
    ? values[name]()
    : /mean|var|weight|bias/i.test(name)
      ? perChannel()
      : undefined;
}

/** What Node's own code, between two turns of the event loop, and the language ask of any object. */
const askedByNode = new Set(['then', 'length', 'buffer', 'byteOffset', 'byteLength']);
const isAskedByNode = (name) => askedByNode.has(name) || (typeof name === 'string' && /^\d+$/.test(name));

// ---- Attempts ----

const targets = kind === 'intrinsics' ? intrinsics() : [];
const words = kind === 'inherited' ? [...wordsOfLibrary(), ...symbols] : [];
const undisturbed = (array) => array;
const plainly = (_, call) => call();

/** Whether what goes wrong is the doing of who has replaced a part of the language. */
let isTolerant = false;
for (const event of ['uncaughtException', 'unhandledRejection'])
  process.on(event, (error) => {
    if (isTolerant) return;
    // Not by the console, which what is on Object.prototype breaks.
    writeSync(2, `${error?.stack}\n`);
    process.exit(1);
  });

/** A promise that somebody has broken may never be settled. */
async function inSomeTurns(promise) {
  let isSettled = false;
  const settle = () => {
    isSettled = true;
  };
  promise.then(settle, settle);
  for (let turns = 0; turns < 1000 && !isSettled; turns++) await turn();
  return isSettled ? promise : undefined;
}

async function attempt(number) {
  const random = randomOf(number);
  const stream = random.below(2 ** 30);
  const job = random.pick(jobNames);
  const form = kind === 'inherited' || random.chance(0.2) ? random.pick(formNames) : 'plain';
  const notes = [`${job}, objects ${form}`];
  const clean = new Arguments(stream, form, undisturbed);
  const expected = await perform(job, clean, plainly, () => {});

  let disturb = undisturbed;
  let isStrict = true;
  const changes = [];
  if (kind === 'arrays') {
    const change = disturber(random, notes);
    const often = random.pick([0.1, 0.3, 1]);
    disturb = (array, name, isLive) => {
      if (!random.chance(often)) return array;
      notes.push(`${name}:`);
      return change(array, isLive);
    };
  }
  const make = new Arguments(stream, form, disturb);
  if (kind === 'intrinsics') {
    for (let count = random.chance(0.7) ? 1 : 1 + random.below(4); count > 0; count--) {
      const { title, holder, name, property, isStrict: strict } = random.pick(targets);
      const original = property.value ?? property.get;
      const lie = random.pick(liesFor(holder, name));
      const value = lies[lie]({ length: make.channels, original });
      const isGetter = property.get !== undefined || random.chance(0.1);
      notes.push(`${title} ${isGetter ? 'is got from' : 'is'} ${lie}`);
      isStrict &&= strict;
      changes.push({
        holder,
        name,
        lie: isGetter
          ? { get: typeof value === 'function' ? value : () => value }
          : { value, writable: true },
        property,
      });
    }
  }
  if (kind === 'inherited') {
    const name = random.pick(words);
    const wellMeant = plausible(name, make);
    const lie = wellMeant !== undefined && random.chance(0.6) ? undefined : random.pick(lieNames);
    const value = lie === undefined ? wellMeant : lies[lie]({ length: make.channels });
    const isGetter = lie === 'throws' || random.chance(0.2);
    const how = isGetter
      ? { get: lie === 'throws' ? value : () => value, set: () => {} }
      : { value, writable: random.chance(0.9) };
    notes.push(`Object.prototype.${String(name)} ${isGetter ? 'is got from' : 'is'} ${lie ?? 'plausible'}`);
    for (const prototype of [Object.prototype, inRealm.prototype])
      changes.push({
        holder: prototype,
        name,
        lie: { ...how, enumerable: random.chance(0.5) },
        property: undefined,
      });
  }
  Object.freeze(changes);
  // In the middle of the job, to see what the library has kept.
  const first = random.chance(0.5) ? 0 : random.below(5);
  // Between turns Node's own code asks typed arrays for their length, and the language what promises lead to for its then.
  const untilSettled = random.chance(0.5) && isStrict && !changes.some(({ name }) => isAskedByNode(name));
  writeSync(1, `attempt ${number}: ${notes.join('; ')}\n`);

  const begin = () => {
    for (let i = 0; i < changes.length; i++) replace(changes[i].holder, changes[i].name, changes[i].lie);
  };
  const end = () => {
    for (let i = changes.length - 1; i >= 0; i--) {
      const { holder, name, property } = changes[i];
      if (property === undefined) deleteProperty(holder, name);
      else replace(holder, name, property);
    }
  };
  const around = (i, call) => {
    if (i < first) return call();
    begin();
    try {
      return call();
    } finally {
      if (!untilSettled) end();
    }
  };
  try {
    isTolerant = !isStrict;
    const actual = await perform(job, make, around, end, isStrict ? undefined : inSomeTurns);
    isTolerant = false;
    check(job, make, expected, actual, isStrict);
    // What has been disturbed for a time must be as good as new.
    if (isStrict && kind !== 'arrays') {
      const afterwards = new Arguments(stream, form, undisturbed);
      check(job, afterwards, expected, await perform(job, afterwards, plainly, () => {}), true);
    }
  } catch (error) {
    end();
    error.message = `attempt ${number} of seed ${seed} (${notes.join('; ')}): ${error.message}`;
    throw error;
  }
}

for (let number = Number(firstText); number < Number(firstText) + Number(attemptsText); number++)
  await attempt(number);
assert.ok(secrets.length > 0);
console.log('right');
