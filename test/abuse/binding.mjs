// The native binary without the library in front of it, called with anything. node binding.mjs <seed> <attempts>
import assert from 'node:assert/strict';
import { writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { randomOf } from './tools.mjs';

const [seed, attempts] = process.argv.slice(2).map(Number);
const binding = createRequire(import.meta.url)('node-gyp-build')(
  fileURLToPath(new URL('../..', import.meta.url)),
);
const random = randomOf(seed);
// What comes before the first numbers differs little from seed to seed.
for (let i = 0; i < 8; i++) random();
const below = (count) => Math.floor(random() * count);
const pick = (list) => list[below(list.length)];

const sizes = [0, 1, 2, 3, 4, 8, 16, 17];
/** Operations off this thread may read and write all of them for as long as this program lasts: that is the caller's part. */
const kept = [];
const arrayTypes = [Float32Array, Float64Array, Uint8Array, Int32Array, BigInt64Array, Int16Array];
const keep = (value) => {
  kept.push(value);
  return value;
};

const detached = new Float32Array(4);
structuredClone(detached.buffer, { transfer: [detached.buffer] });

const numbers = [
  -1,
  -0,
  0.5,
  Number.NaN,
  Infinity,
  -Infinity,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  2 ** 63,
  2 ** 64,
  1e308,
  -(2 ** 31),
  -(2 ** 63),
];
const others = [
  undefined,
  null,
  true,
  false,
  'x',
  Symbol('x'),
  3n,
  {},
  [],
  () => {},
  detached,
  detached.buffer,
  new DataView(new ArrayBuffer(16)),
  new SharedArrayBuffer(16),
  new Proxy(new Float32Array(4), {}),
];

const array = (length, Type = pick(arrayTypes)) => keep(new Type(length));
const bytes = (length) => keep(new ArrayBuffer(length));
const anything = () => {
  switch (below(5)) {
    case 0:
      return pick(numbers);
    case 1:
      return pick(sizes);
    case 2:
      return pick(others);
    case 3:
      return array(pick([...sizes, 64, 272]));
    default:
      return bytes(pick([...sizes, 64, 272]));
  }
};

let slots = 0;

/** Arguments that are right, of which some are then replaced. */
const right = {
  forward(Type, later) {
    const [outer, channels, inner] = [pick([0, 1, 2, 4]), pick([1, 3, 16]), pick([0, 1, 4, 17])];
    const size = outer * channels * inner;
    const values = () => array(size, Type);
    const perChannel = (Kind = Type) => array(channels, Kind);
    const args = [outer, channels, inner, 1e-5, values(), values()];
    args.push(pick([undefined, perChannel()]), pick([undefined, perChannel()]));
    args.push(
      perChannel(Float64Array),
      perChannel(Float64Array),
      pick([true, false]),
      pick([undefined, values()]),
    );
    args.push(pick([undefined, array(Math.floor(size / 8) + 8, Uint8Array)]));
    return later ? [...args, slots] : args;
  },
  backward(Type, later) {
    const [outer, channels, inner] = [pick([0, 1, 2, 4]), pick([1, 3, 16]), pick([0, 1, 4, 17])];
    const size = outer * channels * inner;
    const values = () => array(size, Type);
    const maybe = (value) => pick([undefined, value]);
    const perChannel = (Kind = Type) => array(channels, Kind);
    const args = [outer, channels, inner, 1e-5, values(), values()];
    args.push(perChannel(Float64Array), perChannel(Float64Array), maybe(perChannel()), maybe(perChannel()));
    args.push(pick([true, false]), maybe(values()), maybe(array(Math.floor(size / 8) + 8, Uint8Array)));
    args.push(
      maybe(values()),
      pick([true, false]),
      maybe(values()),
      maybe(perChannel()),
      maybe(perChannel()),
    );
    return later ? [...args, slots] : args;
  },
  freeze(Type) {
    const channels = pick([1, 3, 16]);
    const perChannel = (Kind = Type) => array(channels, Kind);
    const passes = Type === Float32Array ? binding.float32 : binding.float64;
    const memory = bytes(passes.frozenBytes(channels));
    return [
      channels,
      1e-5,
      pick([undefined, perChannel()]),
      undefined,
      perChannel(Float64Array),
      perChannel(Float64Array),
      pick([true, false]),
      memory,
    ];
  },
  runFrozen(Type, later) {
    const passes = Type === Float32Array ? binding.float32 : binding.float64;
    const [outer, channels, inner] = [pick([0, 1, 2, 4]), pick([1, 3, 16]), pick([0, 1, 4, 17])];
    const values = () => array(outer * channels * inner, Type);
    const memory = bytes(passes.frozenBytes(channels));
    const statistics = () => new Float64Array(channels);
    passes.freeze(channels, 1e-5, undefined, undefined, statistics(), statistics(), false, memory);
    // What lies there may be anything.
    if (random() < 0.5) new Uint8Array(memory).fill(below(256));
    const args = [outer, inner, memory, values(), values(), pick([undefined, values()])];
    return later ? [...args, slots] : args;
  },
  updateRunningStats() {
    const channels = pick([1, 3, 16]);
    const perChannel = () => array(channels, Float64Array);
    return [perChannel(), perChannel(), channels, 8, 0.9, true, perChannel(), perChannel()];
  },
  takeFinished: () => [new Int32Array(pick([0, 1, 256]))],
  cancel: () => [below(slots + 4)],
  setThreads: () => [1 + below(4)],
  setMachine: () => [2, 2 ** 20, pick([0, 2 ** 23]), pick([0, 2 ** 23])],
  useIsa: () => [pick([...binding.isas, 'none', ''])],
};

const functions = [];
for (const [owner, Type] of [
  [binding, Float32Array],
  [binding.float32, Float32Array],
  [binding.float64, Float64Array],
])
  for (const name of Object.keys(owner)) {
    if (typeof owner[name] !== 'function' || name === 'onFinished') continue;
    const kind = name.replace(/(Training|Inference)?(Later)?$/, '');
    functions.push({
      owner,
      name,
      kind,
      later: name.endsWith('Later'),
      make: () => right[kind]?.(Type, name.endsWith('Later')) ?? [],
    });
  }
assert.ok(functions.length >= 20);

// Not before it has been refused all that is no function.
for (const value of [undefined, 3, {}, 'x']) assert.throws(() => binding.onFinished(value));
const reports = new Int32Array(256);
if (random() < 0.9)
  binding.onFinished(() => {
    while (binding.takeFinished(reports) > 0);
  });

let computed = 0;
let refused = 0;
/** What has taken arguments that are right: an order that is no longer that of the binding is refused for ever. */
const taken = new Set();
for (let attempt = 0; attempt < attempts; attempt++) {
  const { owner, name, kind, later, make } = pick(functions);
  const args = make();
  const changes = pick([0, 1, 1, 2, 20]);
  for (let i = 0; i < changes; i++) {
    // One that is behind the last of them too.
    const at = below(args.length + 1);
    if (random() < 0.2) args.splice(at);
    else args[at] = random() < 0.2 ? pick(args) : anything();
  }
  if (attempt % 100 === 0) writeSync(1, `attempt ${attempt}\n`);
  try {
    owner[name](...args);
    computed++;
    if (changes === 0) taken.add(kind);
    if (later) slots++;
  } catch (error) {
    assert.ok(error instanceof Error, String(error));
    refused++;
  }
}
assert.ok(attempts < 1000 || (computed > 0 && refused > 0));
if (attempts >= 1000)
  assert.deepEqual(
    Object.keys(right).filter((kind) => !taken.has(kind)),
    [],
  );
console.log('right');
