// Prototypes that the library shares with everybody, changed by somebody. node pollute.mjs <kind>
import assert from 'node:assert/strict';
import {
  BatchNorm,
  backward,
  FrozenBatchNorm,
  foldIntoLinear,
  forwardTraining,
  GradientSums,
  Moments,
  updateRunningStats,
} from 'batchnorm';
import { assertSame, channels, frozenLayer, sharedOf, state, tensorOf } from './tools.mjs';

const shape = [4, channels, 5];
const [x, dy, residual] = [1, 2, 3].map((seed) => tensorOf(shape, seed));
const size = 4 * channels * 5;
const out = () => new Float32Array(size);
const part = { prefix: 'bn', strict: false };
const linear = { weight: tensorOf([channels, 3]).data, shape: [channels, 3] };

/** What calls give, as arrays. */
const calls = {
  layer() {
    const bn = new BatchNorm(channels, { activation: 'relu' });
    bn.loadStateDict({ ...bn.stateDict(), weight: state.weight, bias: state.bias });
    const y = bn.forward(x, { residual, out: out() }).data;
    const { dx, dWeight, dBias, dResidual } = bn.backward(dy, { out: out() });
    return [y, bn.runningMean, bn.runningVar, dx.data, dWeight, dBias, dResidual.data];
  },
  reuse() {
    const bn = new BatchNorm(channels, { activation: 'relu', reuse: true });
    const [y, again] = [bn.forward(x, { residual }).data.slice(), bn.forward(x, { residual }).data];
    return [y, again, bn.backward(dy).dx.data];
  },
  states() {
    const bn = new BatchNorm(channels, { convention: 'keras' });
    const values = Array.from(state.weight);
    bn.loadStateDict({ 'bn/gamma:0': values, 'bn/beta:0': { data: state.bias, shape: [channels] } }, part);
    const again = BatchNorm.fromJSON(bn.toJSON());
    const frozen = FrozenBatchNorm.fromJSON(again.freeze().toJSON());
    return [bn.weight, bn.bias, again.weight, again.runningVar, frozen.run(x).data];
  },
  frozen: () => [
    frozenLayer({ activation: 'relu' }).run(x, { residual }).data,
    frozenLayer().run(x, { out: out() }).data,
    new BatchNorm(channels).freeze({ activation: 'relu' }).run(x).data,
  ],
  functions() {
    const options = { weight: state.weight, bias: state.bias, activation: 'relu', residual };
    const { y, mean, variance, count } = forwardTraining(x, { ...options, out: out() });
    const { dx, dWeight, dBias, dResidual } = backward(dy, x, { ...options, mean, variance, out: out() });
    const [runningMean, runningVar] = [new Float32Array(channels), new Float32Array(channels)];
    updateRunningStats({ runningMean, runningVar }, { mean, variance, count });
    const arrays = [y.data, mean, variance, dx.data, dWeight, dBias, dResidual.data, runningMean, runningVar];
    return [...arrays, Float64Array.from([...y.shape, ...dx.shape])];
  },
  parts() {
    const bn = new BatchNorm(channels);
    const moments = Moments.merge(
      Moments.of(x),
      Moments.from({ count: 3, mean: bn.runningMean, variance: bn.runningVar }),
    );
    const y = bn.forward(x, { moments });
    const sums = GradientSums.merge(GradientSums.of(dy, x, { moments }), GradientSums.of(dy, x, { moments }));
    const { dx, dWeight } = bn.backward(dy, { sums });
    const again = Moments.from(moments.toJSON());
    return [
      y.data,
      dx.data,
      dWeight,
      bn.runningVar,
      again.variance,
      bn.setRunningStats(moments).runningMean,
      bn.lastMoments.count,
    ];
  },
  folding: () => Object.values(foldIntoLinear(linear, new BatchNorm(channels))).filter(ArrayBuffer.isView),
};
/** Later: for pollution that leaves Node's own queues alone. */
const laterCalls = {
  async layer() {
    const bn = new BatchNorm(channels, { activation: 'relu' });
    const [y, { dx }] = await Promise.all([
      bn.forwardAsync(x, { residual, out: out() }),
      bn.backwardAsync(sharedOf(dy), { signal: new AbortController().signal }),
    ]);
    return [y.data, bn.runningMean, dx.data];
  },
  async parts() {
    const moments = await Moments.ofAsync(x);
    const { sumDyXmu } = await GradientSums.ofAsync(dy, x, { moments });
    return [moments.variance, sumDyXmu];
  },
  async frozen() {
    const frozen = frozenLayer();
    const moved = { data: x.data.slice(), shape };
    return (
      await Promise.all([frozen.runAsync(x, { residual }), frozen.runAsync(moved, { transfer: true })])
    ).map(({ data }) => data);
  },
};

const typedArray = Object.getPrototypeOf(Uint8Array.prototype);
const lie = (prototype, name, get) => Object.defineProperty(prototype, name, { get, configurable: true });

const kinds = {
  'properties of Object': () => {
    Object.prototype.polluted = 'by somebody';
    Object.prototype.method = () => 'by somebody';
  },
  'getters of typed arrays': () => {
    for (const name of ['length', 'buffer', 'byteOffset', 'byteLength', Symbol.toStringTag])
      lie(typedArray, name, () => 3);
  },
  'setters of Array': () => {
    for (let i = 0; i < 64; i++)
      Object.defineProperty(Array.prototype, i, { get: () => 7, set() {}, configurable: true });
  },
  'then of promises': () => {
    const { then } = Promise.prototype;
    // biome-ignore lint/suspicious/noThenProperty: as libraries that follow promises do
    Promise.prototype.then = function (...reactions) {
      return Reflect.apply(then, this, reactions);
    };
  },
};
/** These leave Node's own code behind them broken: nothing may be printed or waited for before they are undone. */
const restored = new Set(['getters of typed arrays', 'setters of Array']);

const kind = process.argv[2];
const expected = {};
for (const [name, call] of Object.entries(calls)) expected[name] = call();
const expectedLater = {};
for (const [name, call] of Object.entries(laterCalls)) expectedLater[name] = await call();

const before = [Array.prototype, typedArray].map((prototype) => [
  prototype,
  Object.getOwnPropertyDescriptors(prototype),
]);
const actual = {};
const failed = {};
const names = Object.keys(calls);
kinds[kind]();
// No iteration here: it goes through the prototypes that were changed.
for (let i = 0; i < names.length; i++) {
  try {
    actual[names[i]] = calls[names[i]]();
  } catch (error) {
    failed[names[i]] = error;
  }
}
const actualLater = {};
if (!restored.has(kind))
  for (const [name, call] of Object.entries(laterCalls)) actualLater[name] = await call();
for (const [prototype, properties] of before) {
  for (const key of Reflect.ownKeys(prototype)) if (!Object.hasOwn(properties, key)) delete prototype[key];
  Object.defineProperties(prototype, properties);
}
delete Object.prototype.polluted;
delete Object.prototype.method;

for (const [name, error] of Object.entries(failed)) assert.fail(`${name}: ${error.stack}`);
for (const [which, all] of [
  [expected, actual],
  [restored.has(kind) ? {} : expectedLater, actualLater],
])
  for (const [name, arrays] of Object.entries(which))
    arrays.forEach((array, i) => {
      assertSame(all[name][i], array, `${name}[${i}] with other ${kind}`);
    });
assert.ok(FrozenBatchNorm.from(state).channels === channels);
console.log('right');
