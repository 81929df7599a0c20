// Every pass, at once and later, under the flags of this process. node all.mjs native|js: the backend that must compute.
import assert from 'node:assert/strict';
import {
  BatchNorm,
  backward,
  capabilities,
  compose,
  FrozenBatchNorm,
  foldIntoLinear,
  forwardInference,
  forwardTraining,
  setThreads,
  updateRunningStats,
} from 'batchnorm';
import { assertSame, channels, sharedOf, state, tensorOf } from './tools.mjs';

assert.equal(capabilities().backend, process.argv[2]);
setThreads(2);
const shape = [4, channels, 5, 5];
const [x, dy, residual] = [1, 2, 3].map((seed) => tensorOf(shape, seed));
const options = { weight: state.weight, bias: state.bias, activation: 'relu', residual };

const { y, mean, variance, count } = forwardTraining(x, options);
const { dx, dWeight, dBias, dResidual } = backward(dy, x, { ...options, mean, variance });
const runningMean = new Float64Array(channels);
const runningVar = new Float64Array(channels).fill(1);
updateRunningStats({ runningMean, runningVar }, { mean, variance, count });

for (const later of [false, true]) {
  const bn = new BatchNorm(channels, { activation: 'relu' });
  bn.loadStateDict({ ...bn.stateDict(), weight: state.weight, bias: state.bias });
  const result = later
    ? await bn.forwardAsync(sharedOf(x), { residual })
    : bn.forward(x, { residual, out: new Float32Array(x.data.length) });
  assertSame(result.data, y.data, 'y of a layer');
  assertSame(bn.runningMean, runningMean, 'runningMean');
  assertSame(bn.runningVar, runningVar, 'runningVar');
  const gradients = later
    ? await bn.backwardAsync(dy, { signal: new AbortController().signal })
    : bn.backward(dy);
  assertSame(gradients.dx.data, dx.data, 'dx of a layer');
  assertSame(gradients.dWeight, dWeight, 'dWeight');
  assertSame(gradients.dBias, dBias, 'dBias');
  assertSame(gradients.dResidual.data, dResidual.data, 'dResidual');

  const inferred = forwardInference(x, { ...options, mean: runningMean, variance: runningVar });
  const frozen = FrozenBatchNorm.from(bn.stateDict(), { activation: 'relu' });
  const own = { data: x.data.slice(), shape };
  const run = later ? await frozen.runAsync(own, { residual, transfer: true }) : frozen.run(x, { residual });
  assertSame(run.data, inferred.data, 'what a frozen layer gives');
  assert.equal(own.data.length, later ? 0 : x.data.length);
}
const refused = { name: 'TypeError', code: 'ERR_BATCHNORM_INVALID_TYPE' };
assert.throws(() => forwardTraining(x, { eps: '1' }), refused);
await assert.rejects(new BatchNorm(channels).freeze().runAsync(x, { signal: {} }), refused);
const linear = { weight: tensorOf([channels, 3]).data, shape: [channels, 3] };
assert.equal(foldIntoLinear(linear, { mean, variance }).weight.length, linear.weight.length);
assert.equal(compose({ mean, variance }, { mean, variance }).channels, channels);
console.log('right');
