// Arrays that begin at odd addresses. node misaligned.mjs <addon> <seed> <attempts>
import assert from 'node:assert/strict';
import { writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import {
  BatchNorm,
  backward,
  FrozenBatchNorm,
  foldIntoLinear,
  forwardInference,
  forwardTraining,
  updateRunningStats,
} from 'batchnorm';
import { assertSame, randomOf, valuesOf } from './tools.mjs';

const [addon, seed, attempts] = process.argv.slice(2);
const external = createRequire(import.meta.url)(addon);
const random = randomOf(Number(seed));
for (let i = 0; i < 8; i++) random();
const pick = (list) => list[Math.floor(random() * list.length)];

const aligned = (values) => values.slice();
const shifted = (values) => {
  const copy = new values.constructor(
    external(values.byteLength, pick([1, 2, 3, 4, 5, 7, 12, 20, 33, 63])),
    0,
    values.length,
  );
  copy.set(values);
  return copy;
};

/** Each returns what it has computed and written; `lay(name, values)` says where an argument lies. */
const calls = {
  async layer({ lay, tensor, channels, axis, dtype, out, state, isLater, residual }) {
    const bn = new BatchNorm(channels, { axis, dtype, activation: 'relu' });
    bn.loadStateDict(state());
    const options = { out: out(), residual: residual() };
    const y = isLater ? await bn.forwardAsync(tensor('x', 1), options) : bn.forward(tensor('x', 1), options);
    const back = { out: lay('dx', out() ?? tensor('dx', 5).data) };
    const g = isLater ? await bn.backwardAsync(tensor('dy', 2), back) : bn.backward(tensor('dy', 2), back);
    return [
      y.data,
      g.dx.data,
      g.dWeight,
      g.dBias,
      ...(g.dResidual ? [g.dResidual.data] : []),
      bn.runningMean,
      bn.runningVar,
    ];
  },
  async frozen({ tensor, axis, out, state, isLater, residual }) {
    const frozen = FrozenBatchNorm.from(state(), { axis });
    const options = { out: out(), residual: residual() };
    return [
      (isLater ? await frozen.runAsync(tensor('x', 1), options) : frozen.run(tensor('x', 1), options)).data,
    ];
  },
  async 'runAsync with transfer'({ tensor, axis, state }) {
    const frozen = FrozenBatchNorm.from(state(), { axis });
    const x = tensor('x', 1);
    try {
      return [(await frozen.runAsync(x, { transfer: true })).data];
    } catch (error) {
      assert.ok(x.data.length > 0, 'what is refused must be left to the caller');
      throw error;
    }
  },
  forwardTraining({ tensor, axis, out, affine, residual }) {
    const { y, mean, variance } = forwardTraining(tensor('x', 1), {
      axis,
      ...affine(),
      out: out(),
      residual: residual(),
    });
    return [y.data, mean, variance];
  },
  forwardInference: ({ tensor, axis, out, affine, statistics, residual }) => [
    forwardInference(tensor('x', 1), { axis, ...affine(), ...statistics(), out: out(), residual: residual() })
      .data,
  ],
  backward({ tensor, axis, out, affine, statistics }) {
    const options = { axis, ...affine(), ...statistics(), out: out() };
    const { dx, dWeight, dBias } = backward(tensor('dy', 2), tensor('x', 1), options);
    return [dx.data, dWeight, dBias];
  },
  updateRunningStats({ perChannel, statistics }) {
    const running = { runningMean: perChannel('runningMean', 11), runningVar: perChannel('runningVar', 12) };
    updateRunningStats(running, { ...statistics(), count: 8 });
    return Object.values(running);
  },
  folding({ lay, channels, affine, statistics, Type }) {
    const linear = { weight: lay('linear.weight', valuesOf(2 * channels, 3, Type)), shape: [channels, 2] };
    const { weight, bias } = foldIntoLinear(linear, { ...affine(), ...statistics() });
    return [weight, bias];
  },
};

let refused = 0;
let computed = 0;
for (let attempt = 0; attempt < Number(attempts); attempt++) {
  const name = pick(Object.keys(calls));
  const dtype = pick(['float32', 'float64']);
  const Type = dtype === 'float32' ? Float32Array : Float64Array;
  const [channels, inner, axis] = [pick([1, 3, 16, 65]), pick([1, 7, 64, 1000]), pick([1, -1])];
  const shape = axis === 1 ? [4, channels, inner] : [4, inner, channels];
  const options = { dtype, Type, channels, axis, isLater: random() < 0.5 };
  const has = Object.fromEntries(['out', 'residual', 'weight', 'bias'].map((part) => [part, random() < 0.5]));
  const which = new Map();
  const often = pick([0.1, 0.5, 1]);
  const inputs = [];
  const argumentsFor = (place) => {
    const lay = (what, values) => {
      const array = place(what, values);
      inputs.push([what, array, values]);
      return array;
    };
    const size = 4 * channels * inner;
    const tensor = (what, first) => ({ data: lay(what, valuesOf(size, first, Type)), shape });
    const perChannel = (what, first, Kind = Float64Array) =>
      lay(what, valuesOf(channels, first, Kind).map(Math.abs));
    const part = (what, make) => (has[what] ? make() : undefined);
    const affine = () => ({
      weight: part('weight', () => perChannel('weight', 3, Type)),
      bias: part('bias', () => perChannel('bias', 4, Type)),
    });
    return {
      ...options,
      lay,
      tensor,
      perChannel,
      affine,
      out: () => part('out', () => lay('out', new Type(size))),
      residual: () => part('residual', () => tensor('residual', 6)),
      statistics: () => ({ mean: perChannel('mean', 7), variance: perChannel('variance', 8) }),
      state: () => ({
        weight: perChannel('state.weight', 3, Type),
        bias: perChannel('state.bias', 4, Type),
        running_mean: perChannel('state.running_mean', 7),
        running_var: perChannel('state.running_var', 8),
      }),
    };
  };
  const expected = await calls[name](argumentsFor((_, values) => aligned(values)));
  inputs.length = 0;
  const isShifted = (what) => {
    if (!which.has(what)) which.set(what, random() < often);
    return which.get(what);
  };
  const make = argumentsFor((what, values) => (isShifted(what) ? shifted(values) : aligned(values)));
  writeSync(
    1,
    `attempt ${attempt}: ${name} ${JSON.stringify({ dtype, shape, axis, later: options.isLater, often })}\n`,
  );
  let actual;
  try {
    actual = await calls[name](make);
  } catch (error) {
    const names = [...which].filter(([, is]) => is).map(([what]) => what.replace(/^dx$/, 'out'));
    assert.match(String(error.code), /^ERR_BATCHNORM_/, error.stack);
    assert.ok(
      names.some((what) => error.message.startsWith(what)),
      `${error.message} must name one of ${names}`,
    );
    // What a call before it has written is right.
    for (const [what, array, values] of inputs)
      if (!['out', 'dx', 'runningMean', 'runningVar'].includes(what)) assertSame(array, values, what);
    refused++;
    continue;
  }
  computed++;
  actual.forEach((array, i) => {
    assertSame(array, expected[i], `${name}[${i}]`);
  });
}
assert.ok(computed > 0, `computed ${computed}, refused ${refused}`);
console.log('right');
