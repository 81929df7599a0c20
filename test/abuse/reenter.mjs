// Code of the caller's runs where it is least expected. node reenter.mjs getters|threads|then
import assert from 'node:assert/strict';
import { backward, forwardInference, forwardTraining, setThreads } from 'batchnorm';
import {
  assertSame,
  channels,
  churn,
  frozenLayer,
  isNative,
  layer,
  steal,
  tensorOf,
  turn,
  valuesOf,
} from './tools.mjs';

const shape = [8, channels, 32, 32];
const x = tensorOf(shape);
const copyOf = ({ data }) => ({ data: data.slice(), shape });
const frozen = frozenLayer();
const expected = frozen.run(x).data;

async function getters() {
  const takers = [
    (array) => steal(array.buffer),
    (array) => array.buffer.resize(4),
    (array) => array.buffer.resize(0),
  ];
  const memory = (values) => {
    const array = new values.constructor(
      new ArrayBuffer(values.byteLength, { maxByteLength: values.byteLength }),
    );
    array.set(values);
    return array;
  };
  const statistics = {
    mean: valuesOf(channels, 5, Float64Array),
    variance: valuesOf(channels, 6, Float64Array).map(Math.abs),
    weight: valuesOf(channels, 7),
    bias: valuesOf(channels, 8),
  };
  const calls = {
    forwardTraining: (given, options) => forwardTraining(given, options),
    forwardInference: (given, options) => forwardInference(given, options),
    backward: (given, options) => backward(given, x, options),
    backwardX: (given, options) => backward(x, given, options),
    run: (given, options) => frozen.run(given, options),
    runAsync: (given, options) => frozen.runAsync(given, options),
    transferred: (given, options) => frozen.runAsync(given, { ...options, out: undefined, transfer: true }),
    forward: (given, options) => layer().forward(given, options),
    forwardAsync: (given, options) => layer().forwardAsync(given, options),
    layerBackward: (given, options) => {
      const bn = layer();
      bn.forward(x);
      return bn.backward(given, options);
    },
    backwardAsync: (given, options) => {
      const bn = layer();
      bn.forward(x);
      return bn.backwardAsync(given, options);
    },
  };
  const takesStatistics = { forwardTraining: ['weight', 'bias'], forwardInference: Object.keys(statistics) };
  takesStatistics.backward = takesStatistics.backwardX = takesStatistics.forwardInference;
  let refused = 0;
  for (const [name, call] of Object.entries(calls)) {
    const arrays = [
      'x',
      'out',
      ...(/[bB]ackward/.test(name) ? [] : ['residual']),
      ...(takesStatistics[name] ?? []),
    ];
    // One array loses its memory while another property is read.
    for (const victim of arrays) {
      for (const reader of [...arrays, 'shape'].filter((array) => array !== victim)) {
        for (const take of takers) {
          const given = Object.fromEntries(
            arrays.map((array) => [array, memory(statistics[array] ?? x.data)]),
          );
          const trap = () => {
            if (given[victim].length > 0) take(given[victim]);
          };
          const valueFor = (array) => (array === 'residual' ? { data: given.residual, shape } : given[array]);
          const input = {
            get data() {
              if (reader === 'x') trap();
              return given.x;
            },
            get shape() {
              if (reader === 'shape') trap();
              return shape;
            },
          };
          const options = {};
          for (const array of arrays.filter((array) => array !== 'x'))
            Object.defineProperty(options, array, {
              enumerable: true,
              get() {
                if (reader === array) trap();
                return valueFor(array);
              },
            });
          try {
            await call(input, options);
          } catch (error) {
            assert.match(error.code, /^ERR_BATCHNORM_/, `${name}: ${victim} at ${reader}: ${error.stack}`);
            refused++;
          }
        }
      }
    }
  }
  assert.ok(refused > 100);
}

async function threads() {
  const results = [];
  for (let i = 0; i < (isNative ? 300 : 50); i++) {
    setThreads(1 + (i % 9));
    results.push(frozen.runAsync(x));
    setThreads(1 + ((i * 7) % 5));
    if (i % 5 === 0) assertSame(frozen.run(x).data, expected, 'run');
    if (i % 50 === 0) await turn();
  }
  for (const { data } of await Promise.all(results)) assertSame(data, expected, 'runAsync');
}

async function then() {
  const bn = layer();
  const reference = layer().forward(x).data;
  let reads = 0;
  const getter = (get) => Object.defineProperty(Object.prototype, 'then', { configurable: true, get });
  const settle = (promise) =>
    new Promise((resolve) =>
      promise.then(
        () => resolve('fulfilled'),
        () => resolve('rejected'),
      ),
    );

  getter(() => {
    reads++;
    throw new Error('on purpose');
  });
  assert.equal(await settle(frozen.runAsync(x)), 'rejected');
  assert.equal(await settle(bn.forwardAsync(x)), 'rejected');
  assert.equal(await settle(bn.backwardAsync(x)), 'rejected');
  assert.ok(reads > 0);

  let inner = [];
  getter(() => {
    if (reads++ % 50 === 0) inner.push(frozen.runAsync(x), bn.forwardAsync(x));
    assertSame(frozen.run(x).data, expected, 'run in a getter');
    return undefined;
  });
  reads = 0;
  assert.equal(await settle(Promise.all(Array.from({ length: 20 }, () => frozen.runAsync(x)))), 'fulfilled');
  assert.ok(inner.length > 0);
  for (const promise of inner.splice(0)) assert.equal(await settle(promise), 'fulfilled');
  inner = [];
  delete Object.prototype.then;
  churn(2 ** 16);
  assertSame((await frozen.runAsync(x)).data, expected, 'runAsync');
  assertSame((await bn.forwardAsync(copyOf(x))).data, reference, 'forwardAsync');
}

await { getters, threads, then }[process.argv[2]]();
console.log('right');
