// Every message, verbatim, and that nothing has been written where one was thrown.
import { describe, expect, it } from 'vitest';
import {
  BatchNorm,
  backward,
  capabilities,
  compose,
  FrozenBatchNorm,
  foldIntoConv,
  forwardInference,
  forwardTraining,
  Moments,
  setThreads,
  tensor,
  updateRunningStats,
} from '../../lib/index.js';
import { expectListed } from '../support/messages.js';

// biome-ignore lint/suspicious/noExplicitAny: wrong types are what is tested
type Wrong = any;

interface Failure {
  Class: ErrorConstructor;
  code: string;
  message: string;
}

function failureOf(call: () => unknown): Failure {
  try {
    call();
  } catch (error) {
    const failure = error as Error & { code: string };
    return { Class: failure.constructor as ErrorConstructor, code: failure.code, message: failure.message };
  }
  throw new Error('the call must throw');
}

const type = (message: string, code = 'ERR_BATCHNORM_INVALID_TYPE'): Failure => ({
  Class: TypeError,
  code,
  message,
});
const range = (message: string, code = 'ERR_BATCHNORM_INVALID_VALUE'): Failure => ({
  Class: RangeError,
  code,
  message,
});
const state = (code: string, message: string): Failure => ({ Class: Error, code, message });

const x = () => ({ data: Float32Array.from({ length: 24 }, (_, i) => i), shape: [2, 3, 4] });
const stats = (channels = 3) => ({
  mean: new Float64Array(channels),
  variance: new Float64Array(channels).fill(1),
});
const bits = () => ({ data: new Uint16Array(24), shape: [2, 3, 4] });
const bitsCure = "the bits of bfloat16 or float16 need dtype: 'bfloat16' or 'float16'";
const integersCure = 'integers are input of inference alone: of run(), runAsync() and forwardInference()';
const float16Arrays = 'Float16Array' in globalThis ? 'Uint16Array or Float16Array' : 'Uint16Array';
const shared = new Float32Array(60);

/** As of a small ResNet in PyTorch. */
const wholeModel = () => ({
  'conv1.weight': new Float32Array(27),
  ...Object.fromEntries(
    ['bn1', 'layer1.0.bn1', 'layer1.0.bn2', 'layer1.0.bn10', 'layer2.downsample.1'].flatMap((name) =>
      Object.entries(new BatchNorm(3).stateDict()).map(([key, value]) => [`${name}.${key}`, value]),
    ),
  ),
  'fc.weight': new Float32Array(30),
});
const conv = () => ({ weight: Float32Array.of(1), shape: [1, 1] });

const cases: [title: string, call: () => unknown, expected: Failure][] = [
  // Tensors
  [
    'a tensor that is null',
    () => forwardTraining(null as Wrong),
    type('x must be a tensor { data, shape }, got null'),
  ],
  [
    'a tensor that is a number',
    () => forwardTraining(3 as Wrong),
    type('x must be a tensor { data, shape }, got 3'),
  ],
  [
    'a tensor that is an array',
    () => forwardTraining([1, 2] as Wrong),
    type('x must be a tensor { data, shape }, got an array'),
  ],
  [
    'values without a shape',
    () => new BatchNorm(4).forward(new Float32Array(4) as Wrong),
    type('x must be a tensor { data, shape }, got a Float32Array'),
  ],
  [
    'values without a shape, of a frozen layer',
    () => new BatchNorm(4).freeze().run(new Int8Array(4) as Wrong),
    type('x must be a tensor { data, shape }, got an Int8Array'),
  ],
  [
    'a tensor without data',
    () => new BatchNorm(4).forward({ shape: [1, 4] } as Wrong),
    type('x must be a tensor { data, shape }, got an object without data'),
  ],
  [
    'a tensor of TensorFlow.js',
    () => new BatchNorm(4).forward({ data: () => {}, shape: [1, 4] } as Wrong),
    type(
      'x.data must be a Float32Array, got a function; of a tensor of TensorFlow.js give { data: await t.data(), shape: t.shape }',
    ),
  ],
  [
    'data that is an array',
    () => tensor([1, 2] as Wrong, [2]),
    type('tensor.data must be a Float32Array or Float64Array, got an array'),
  ],
  [
    'data of integers',
    () => forwardTraining({ data: new Int32Array(6), shape: [2, 3] } as Wrong),
    type('x.data must be a Float32Array or Float64Array, got Int32Array'),
  ],
  [
    'data that pretends to be a Float32Array',
    () =>
      forwardTraining({ data: { [Symbol.toStringTag]: 'Float32Array', length: 6 }, shape: [2, 3] } as Wrong),
    type('x.data must be a Float32Array or Float64Array, got an object'),
  ],
  [
    'double data for a float32 layer',
    () => new BatchNorm(3).forward({ data: new Float64Array(6), shape: [2, 3] } as Wrong),
    type('x.data must be a Float32Array, got Float64Array'),
  ],
  [
    'a missing shape',
    () => tensor(new Float32Array(2), undefined as Wrong),
    type('tensor.shape must be an array of dimensions, got undefined'),
  ],
  [
    'dims that are no array',
    () => forwardTraining({ data: new Float32Array(2), dims: 'two' } as Wrong),
    type('x.dims must be an array of dimensions, got "two"'),
  ],
  [
    'an empty shape',
    () => tensor(new Float32Array(1), []),
    range('tensor.shape must have from 1 to 64 dimensions, got 0'),
  ],
  [
    'a shape of too many dimensions',
    () => tensor(new Float32Array(1), new Array(65).fill(1)),
    range('tensor.shape must have from 1 to 64 dimensions, got 65'),
  ],
  [
    'a shape with the length of a lie',
    () => tensor(new Float32Array(1), new Proxy([1], { get: () => 2 ** 53 })),
    range('tensor.shape must have from 1 to 64 dimensions, got 9007199254740992'),
  ],
  [
    'a revoked proxy for options',
    () => {
      const { proxy, revoke } = Proxy.revocable({}, {});
      revoke();
      forwardTraining(x(), proxy);
    },
    type('options must be an object, got a revoked proxy'),
  ],
  [
    'a BigInt whose digits take minutes',
    () => new BatchNorm((1n << 20_000_000n) as Wrong),
    type('channels must be an integer from 1 to 2147483647, got a large BigInt'),
  ],
  [
    'a fractional dimension',
    () => tensor(new Float32Array(3), [1.5, 2]),
    range('tensor.shape[0] must be a non-negative safe integer, got 1.5'),
  ],
  [
    'a negative dimension',
    () => tensor(new Float32Array(3), [1, -3]),
    range('tensor.shape[1] must be a non-negative safe integer, got -3'),
  ],
  [
    'a dimension that is NaN',
    () => tensor(new Float32Array(3), [Number.NaN]),
    range('tensor.shape[0] must be a non-negative safe integer, got NaN'),
  ],
  [
    'an infinite dimension',
    () => tensor(new Float32Array(3), [Infinity]),
    range('tensor.shape[0] must be a non-negative safe integer, got Infinity'),
  ],
  [
    'a dimension that is a string',
    () => tensor(new Float32Array(3), ['3'] as Wrong),
    type('tensor.shape[0] must be a non-negative safe integer, got "3"'),
  ],
  [
    'dimensions whose product passes 2^53',
    () => tensor(new Float32Array(3), [2 ** 30, 2 ** 30]),
    range('tensor.shape must stay below 2^53 values, got [1073741824, 1073741824]'),
  ],
  [
    'dimensions whose product passes 2^53 beside a zero',
    () => tensor(new Float32Array(0), [2 ** 30, 2 ** 30, 0]),
    range('tensor.shape must stay below 2^53 values, got [1073741824, 1073741824, 0]'),
  ],
  [
    'data shorter than its shape',
    () => forwardTraining({ data: new Float32Array(401400), shape: [8, 64, 28, 28] }),
    range('x.data must have 401408 values (8 x 64 x 28 x 28), got 401400'),
  ],
  [
    'a detached buffer',
    () => {
      const data = new Float32Array(6);
      structuredClone(data.buffer, { transfer: [data.buffer] });
      forwardTraining({ data, shape: [2, 3] });
    },
    range('x.data must have 6 values (2 x 3), got 0'),
  ],
  [
    'a shrunk buffer',
    () => {
      const Resizable = ArrayBuffer as Wrong;
      const buffer = new Resizable(24, { maxByteLength: 24 });
      const data = new Float32Array(buffer);
      buffer.resize(8);
      forwardTraining({ data, shape: [2, 3] });
    },
    range('x.data must have 6 values (2 x 3), got 2'),
  ],

  // Axis and channels
  [
    'an axis that is a string',
    () => forwardTraining(x(), { axis: '1' as Wrong }),
    type('axis must be an integer, got "1"'),
  ],
  ['a fractional axis', () => new BatchNorm(3, { axis: 0.5 }), range('axis must be an integer, got 0.5')],
  [
    'an axis past the last',
    () => forwardTraining(x(), { axis: 3 }),
    range('axis must be an integer from -3 to 2 (x has shape [2, 3, 4]), got 3'),
  ],
  [
    'an axis before the first',
    () => forwardTraining(x(), { axis: -4 }),
    range('axis must be an integer from -3 to 2 (x has shape [2, 3, 4]), got -4'),
  ],
  [
    'rank 1 with the default axis',
    () => forwardTraining({ data: new Float32Array(4), shape: [4] }),
    range('axis must be an integer from -1 to 0 (x has shape [4]), got 1'),
  ],
  [
    'no channels',
    () => forwardTraining({ data: new Float32Array(0), shape: [2, 0] }),
    range('x.shape[1] must be at least 1 (channels), got 0'),
  ],
  [
    'other channels than the layer has',
    () => new BatchNorm(64).forward(x()),
    range('x.shape[1] must be 64 (channels), got 3'),
  ],
  [
    'other channels than the frozen layer has',
    () => new BatchNorm(64).freeze().run(x()),
    range('x.shape[1] must be 64 (channels), got 3'),
  ],

  [
    'channels that are last on the default axis',
    () => new BatchNorm(64).forward({ data: new Float32Array(28 * 28 * 64), shape: [1, 28, 28, 64] }),
    range('x.shape[1] must be 64 (channels), got 28; axis: -1 has 64'),
  ],
  [
    'channels that are last, of a frozen layer',
    () => new BatchNorm(4).freeze().run(x()),
    range('x.shape[1] must be 4 (channels), got 3; axis: -1 has 4'),
  ],
  [
    'channels that are first on the last axis',
    () => new BatchNorm(3, { axis: -1 }).forward(x()),
    range('x.shape[2] must be 3 (channels), got 4; axis: 1 has 3'),
  ],

  // Options
  ...(
    [
      ['affine', 'weight and bias'],
      ['num_features', 'the first argument, channels'],
      ['track_running_stats', 'trackRunningStats'],
      ['gamma', 'weight'],
      ['beta', 'bias'],
      ['scale', 'weight'],
      ['center', 'bias'],
      ['channels_last', 'axis: -1'],
      ['dataFormat', 'axis'],
      ['Eps', 'eps'],
      ['esp', 'eps'],
      ['momentun', 'momentum'],
      ['activaton', 'activation'],
      ['unbiased', 'unbiasedRunningVar'],
      ['relu', "activation: 'relu'"],
      ['renorm_clipping', 'renorm: { rMax, dMax }'],
      ['virtual_batch_size', 'virtualBatchSize'],
      ['device', undefined],
      ['', undefined],
      ['name', undefined],
    ] as const
  ).map(([name, meant]): [string, () => unknown, Failure] => [
    `an option of the layer called ${JSON.stringify(name)}`,
    () => new BatchNorm(3, { [name]: 1 } as Wrong),
    type(
      `options must only have axis, eps, dtype, decay, unbiasedRunningVar, weight, bias, trackRunningStats, activation, reuse, singleValue, missing, virtualBatchSize, renorm, convention, momentum, group, got ${JSON.stringify(name)}${meant === undefined ? '' : `; did you mean ${meant}?`}`,
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ]),
  [
    'a momentum of the function',
    () =>
      updateRunningStats(
        { runningMean: new Float64Array(3), runningVar: new Float64Array(3) },
        { ...stats(), count: 4 },
        {
          momentum: 0.1,
        } as Wrong,
      ),
    type(
      'options must only have decay, unbiasedRunningVar, got "momentum"; did you mean decay, the weight of the old running value?',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'a mode for forward',
    () => new BatchNorm(3).forward(x(), { training: false } as Wrong),
    type(
      'options must only have out, updateStats, residual, moments, weights, outside, got "training"; did you mean train() or eval()?',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'running statistics for the function',
    () => forwardInference(x(), { running_mean: stats().mean, running_var: stats().variance } as Wrong),
    type(
      'options must only have axis, eps, weight, bias, activation, residual, out, dtype, mean, variance, missing, outAxis, got "running_mean"; did you mean mean?',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'options that are a number',
    () => forwardTraining(x(), 3 as Wrong),
    type('options must be an object, got 3'),
  ],
  [
    'missing options where statistics are needed',
    () => forwardInference(x(), undefined as Wrong),
    type('options must be an object, got undefined'),
  ],
  [
    'an unknown option of the layer',
    () => new BatchNorm(3, { epsilon: 1e-3 } as Wrong),
    type(
      'options must only have axis, eps, dtype, decay, unbiasedRunningVar, weight, bias, trackRunningStats, activation, reuse, singleValue, missing, virtualBatchSize, renorm, convention, momentum, group, got "epsilon"; did you mean eps?',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'an unknown option of a function',
    () => forwardTraining(x(), { gamma: 1 } as Wrong),
    type(
      'options must only have axis, eps, weight, bias, activation, residual, out, dtype, moments, weights, outside, missing, got "gamma"; did you mean weight?',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'an unknown option of run',
    () => new BatchNorm(3).freeze().run(x(), { output: 1 } as Wrong),
    type(
      'options must only have out, residual, outAxis, dtype, got "output"; did you mean out?',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'a negative eps',
    () => new BatchNorm(3, { eps: -0.001 }),
    range('eps must be a finite number from 0 on, got -0.001'),
  ],
  [
    'an infinite eps',
    () => forwardTraining(x(), { eps: Number.POSITIVE_INFINITY }),
    range('eps must be a finite number from 0 on, got Infinity'),
  ],
  [
    'an eps that is NaN',
    () => forwardTraining(x(), { eps: Number.NaN }),
    range('eps must be a finite number from 0 on, got NaN'),
  ],
  [
    'an eps that is a string',
    () => forwardTraining(x(), { eps: '1e-5' as Wrong }),
    type('eps must be a finite number from 0 on, got "1e-5"'),
  ],
  [
    'a decay above 1',
    () => new BatchNorm(3, { decay: 1.5 }),
    range("decay must be a number from 0 to 1 or 'cumulative', got 1.5"),
  ],
  [
    'a decay that is another word',
    () => new BatchNorm(3, { decay: 'mean' as Wrong }),
    type(`decay must be a number from 0 to 1 or 'cumulative', got "mean"`),
  ],
  [
    'a bare momentum',
    () => new BatchNorm(3, { momentum: 0.1 }),
    type(
      "momentum must come with convention: 'pytorch', 'keras' or 'onnx', which give the word opposite meanings, or be written as decay, the weight of the old running value, got 0.1",
    ),
  ],
  [
    'decay beside momentum',
    () => new BatchNorm(3, { momentum: 0.1, convention: 'pytorch', decay: 0.9 }),
    type('decay must be left out beside momentum, got 0.9'),
  ],
  [
    'a momentum above 1',
    () => new BatchNorm(3, { momentum: 2, convention: 'keras' }),
    range('momentum must be a number from 0 to 1, got 2'),
  ],
  [
    'a momentum of null for Keras',
    () => new BatchNorm(3, { momentum: null, convention: 'keras' }),
    type('momentum must be a number from 0 to 1, got null'),
  ],
  [
    'an unknown convention',
    () => new BatchNorm(3, { convention: 'caffe' as Wrong }),
    range(`convention must be 'pytorch' or 'keras' or 'onnx', got "caffe"`),
  ],
  [
    'an unknown dtype',
    () => new BatchNorm(3, { dtype: 'int8' as Wrong }),
    range(`dtype must be 'float32' or 'float64' or 'bfloat16' or 'float16', got "int8"`),
  ],
  [
    'a dtype of a function that does not exist',
    () => forwardTraining(x(), { dtype: 'float8' as Wrong }),
    range(`dtype must be 'float32' or 'float64' or 'bfloat16' or 'float16', got "float8"`),
  ],
  [
    'bits without a dtype in a layer',
    () => new BatchNorm(3).forward(bits() as Wrong),
    type(`x.data must be a Float32Array, got Uint16Array; ${bitsCure}`),
  ],
  [
    'bits without a dtype in a function',
    () => forwardTraining(bits() as Wrong),
    type(`x.data must be a Float32Array or Float64Array, got Uint16Array; ${bitsCure}`),
  ],
  [
    'bits without a dtype for moments',
    () => Moments.of(bits() as Wrong),
    type(`x.data must be a Float32Array or Float64Array, got Uint16Array; ${bitsCure}`),
  ],
  [
    'bits for a frozen layer of either dtype',
    () => FrozenBatchNorm.from({ running_mean: [0, 0, 0], running_var: [1, 1, 1] }).run(bits() as Wrong),
    type(`x.data must be a Float32Array or Float64Array, got Uint16Array; ${bitsCure}`),
  ],
  [
    'floats in a layer of bits',
    () => new BatchNorm(3, { dtype: 'bfloat16' }).forward(x() as Wrong),
    type(`x.data must be a Uint16Array, got Float32Array; encode(values, 'bfloat16') makes one`),
  ],
  [
    'floats with the dtype of bits',
    () => forwardInference(x(), { ...stats(), dtype: 'float16' as Wrong }),
    type(`x.data must be a ${float16Arrays}, got Float32Array; encode(values, 'float16') makes one`),
  ],
  [
    'doubles with the dtype of floats',
    () => forwardTraining({ ...x(), data: new Float64Array(24) }, { dtype: 'float32' as Wrong }),
    type('x.data must be a Float32Array, got Float64Array'),
  ],
  [
    'a gradient of another dtype than bits',
    () => {
      const bn = new BatchNorm(3, { dtype: 'bfloat16' });
      bn.forward(bits());
      bn.backward(x() as Wrong);
    },
    type(`dy.data must be a Uint16Array, got Float32Array; encode(values, 'bfloat16') makes one`),
  ],
  [
    'a residual of another dtype than bits',
    () => new BatchNorm(3, { dtype: 'bfloat16' }).forward(bits(), { residual: x() as Wrong }),
    type(`residual.data must be a Uint16Array, got Float32Array; encode(values, 'bfloat16') makes one`),
  ],
  [
    'integers in training',
    () => new BatchNorm(3).forward({ ...x(), data: new Uint8Array(24) } as Wrong),
    type(`x.data must be a Float32Array, got Uint8Array; ${integersCure}`),
  ],
  [
    'integers in training by a function',
    () => forwardTraining({ ...x(), data: new Int16Array(24) } as Wrong),
    type(`x.data must be a Float32Array or Float64Array, got Int16Array; ${integersCure}`),
  ],
  [
    'a Buffer as a gradient',
    () => backward({ ...x(), data: Buffer.alloc(24) } as Wrong, x(), stats()),
    type(`dy.data must be a Float32Array, got Uint8Array; ${integersCure}`),
  ],
  [
    'floats as the result of bits',
    () => new BatchNorm(3, { dtype: 'bfloat16' }).forward(bits(), { out: new Float32Array(24) as Wrong }),
    type(`out must be a Uint16Array, got Float32Array`),
  ],
  [
    'bits as the result of floats',
    () => new BatchNorm(3).forward(x(), { out: new Uint16Array(24) as Wrong }),
    type(`out must be a Float32Array, got Uint16Array`),
  ],
  [
    'integers as the result of training',
    () => new BatchNorm(3).forward(x(), { out: new Int8Array(24) as Wrong }),
    type(`out must be a Float32Array, got Int8Array`),
  ],
  [
    'floats as the result of a backward pass of bits',
    () => {
      const bn = new BatchNorm(3, { dtype: 'float16' });
      bn.forward(bits());
      bn.backward(bits(), { out: new Float32Array(24) as Wrong });
    },
    type(`out must be a ${float16Arrays}, got Float32Array`),
  ],
  [
    'a result that overlaps bits',
    () => {
      const data = new Uint16Array(25);
      const tensorOfBits = { data: data.subarray(0, 24), shape: [2, 3, 4] };
      new BatchNorm(3, { dtype: 'bfloat16' }).forward(tensorOfBits, { out: data.subarray(1) });
    },
    range(
      'out must be x.data itself or not overlap it, got views that share 46 bytes',
      'ERR_BATCHNORM_OVERLAP',
    ),
  ],
  [
    'bits as a weight',
    () => forwardTraining(x(), { weight: new Uint16Array(3) as Wrong }),
    type(
      'weight must be a Float32Array or Float64Array, got Uint16Array; of the bits of bfloat16 or float16 decode(values, dtype) makes a Float32Array',
    ),
  ],
  [
    'a weight option that is an array',
    () => new BatchNorm(3, { weight: new Float32Array(3) as Wrong }),
    type('weight must be true or false, got Float32Array'),
  ],
  [
    'no channels for a layer',
    () => new BatchNorm(0),
    range('channels must be an integer from 1 to 2147483647, got 0'),
  ],
  [
    'fractional channels',
    () => new BatchNorm(2.5),
    range('channels must be an integer from 1 to 2147483647, got 2.5'),
  ],
  [
    'an updateStats that is a number',
    () => new BatchNorm(3).forward(x(), { updateStats: 1 as Wrong }),
    type('updateStats must be true or false, got 1'),
  ],
  [
    'an unknown part of the gradients',
    () => new BatchNorm(3).backward(x(), { only: 'weight' as Wrong }),
    range(`only must be 'input' or 'parameters', got "weight"`),
  ],
  [
    'a training that is a string',
    () => backward(x(), x(), { ...stats(), training: 'yes' as Wrong }),
    type('training must be true or false, got "yes"'),
  ],
  [
    'a mode that is a number',
    () => new BatchNorm(3).train(1 as Wrong),
    type('mode must be true or false, got 1'),
  ],
  ['no threads', () => setThreads(0), range('count must be an integer from 1 to 1024, got 0')],
  [
    'threads by name',
    () => setThreads('2' as Wrong),
    type('count must be an integer from 1 to 1024, got "2"'),
  ],

  [
    'an unknown option of freeze',
    () => new BatchNorm(3).freeze({ relu: true } as Wrong),
    type(
      `options must only have activation, got "relu"; did you mean activation: 'relu'?`,
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'an activation that does not exist',
    () => new BatchNorm(3, { activation: 'gelu' as Wrong }),
    range('activation must be \'relu\', got "gelu"'),
  ],
  [
    'an activation that is no string',
    () => new BatchNorm(3).freeze({ activation: true as Wrong }),
    type("activation must be 'relu', got true"),
  ],
  [
    'an activation that does not exist, of a function',
    () => forwardTraining(x(), { activation: 'RELU' as Wrong }),
    range('activation must be \'relu\', got "RELU"'),
  ],
  [
    'an activation that does not exist, of a state',
    () => FrozenBatchNorm.from(new BatchNorm(3).stateDict(), { activation: 'relu6' as Wrong }),
    range('activation must be \'relu\', got "relu6"'),
  ],
  [
    'a residual of another shape',
    () => new BatchNorm(3).forward(x(), { residual: { data: new Float32Array(6), shape: [3, 2] } }),
    range('residual.shape must be [2, 3, 4] (the shape of x), got [3, 2]'),
  ],
  [
    'a residual of another dtype',
    () =>
      new BatchNorm(3).forward(x(), { residual: { data: new Float64Array(24), shape: [2, 3, 4] } as Wrong }),
    type('residual.data must be a Float32Array, got Float64Array'),
  ],
  [
    'a residual with too few values',
    () => forwardTraining(x(), { residual: { data: new Float32Array(5), shape: [2, 3, 4] } }),
    range('residual.data must have 24 values (2 x 3 x 4), got 5'),
  ],
  [
    'a residual that is no tensor',
    () => new BatchNorm(3).freeze().run(x(), { residual: new Float32Array(6) as Wrong }),
    type('residual must be a tensor { data, shape }, got a Float32Array'),
  ],
  [
    'options that are an array',
    () => forwardTraining(x(), [] as Wrong),
    type('options must be an object, got an array'),
  ],
  [
    'a decay of null',
    () => new BatchNorm(3, { decay: null as Wrong }),
    type("decay must be a number from 0 to 1 or 'cumulative', got null"),
  ],
  [
    'an out for parameters alone',
    () => new BatchNorm(3).backward(x(), { only: 'parameters', out: new Float32Array(24) }),
    type("out must be left out with only: 'parameters', got Float32Array"),
  ],
  [
    'a count that is a string',
    () =>
      updateRunningStats(
        { runningMean: new Float64Array(3), runningVar: new Float64Array(3) },
        { ...stats(), count: '4' as Wrong },
      ),
    type('count must be an integer from 0 on, got "4"'),
  ],
  [
    'one array for both running statistics',
    () => {
      const both = new Float64Array(3);
      updateRunningStats({ runningMean: both, runningVar: both }, { ...stats(), count: 4 });
    },
    range('runningMean must not overlap runningVar, got views that share 24 bytes', 'ERR_BATCHNORM_OVERLAP'),
  ],
  [
    'an out over a weight of another dtype',
    () => {
      const buffer = new ArrayBuffer(96);
      forwardTraining(x(), { weight: new Float64Array(buffer, 0, 3), out: new Float32Array(buffer) });
    },
    range('out must not overlap weight, got views that share 24 bytes', 'ERR_BATCHNORM_OVERLAP'),
  ],
  [
    'a gradient in the memory of a gradient',
    () => {
      const bn = new BatchNorm(2).eval();
      bn.forward({ data: new Float32Array(2), shape: [1, 2] });
      bn.backward({ data: bn.parameters()[0].grad, shape: [1, 2] });
    },
    range(
      'dy.data must not overlap the gradient of weight, got views that share 8 bytes',
      'ERR_BATCHNORM_OVERLAP',
    ),
  ],
  [
    'more channels than an array can have',
    () => forwardTraining({ data: new Float32Array(0), shape: [2 ** 50, 0] }, { axis: 0 }),
    range('x.shape[0] must be at most 2147483647 (channels), got 1125899906842624'),
  ],
  [
    'evaluation without statistics of one value per channel',
    () =>
      new BatchNorm(3, { trackRunningStats: false })
        .eval()
        .forward({ data: new Float32Array(3), shape: [1, 3] }),
    range(
      'evaluation without running statistics needs more than one value per channel, got shape [1, 3]; use a larger batch',
      'ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL',
    ),
  ],
  [
    'a call of the constructor of frozen layers',
    () => new (FrozenBatchNorm as Wrong)({ channels: 0 }),
    state(
      'ERR_BATCHNORM_INVALID_TYPE',
      'a FrozenBatchNorm must be made by freeze() or FrozenBatchNorm.from(), got a call of its constructor',
    ),
  ],

  // Per-channel arrays
  [
    'a weight of another size',
    () => forwardTraining({ data: new Float32Array(128), shape: [2, 64] }, { weight: new Float32Array(32) }),
    range('weight must have 64 values (one per channel), got 32'),
  ],
  [
    'a bias that is an array',
    () => forwardTraining(x(), { bias: [0, 0, 0] as Wrong }),
    type('bias must be a Float32Array or Float64Array, got an array'),
  ],
  [
    'a missing mean',
    () => forwardInference(x(), { variance: stats().variance } as Wrong),
    type('mean must be a Float32Array or Float64Array, got undefined'),
  ],
  [
    'a variance of another size',
    () => forwardInference(x(), { ...stats(), variance: new Float64Array(2) }),
    range('variance must have 3 values (one per channel), got 2'),
  ],
  [
    'a negative variance',
    () => forwardInference(x(), { ...stats(), variance: Float64Array.of(1, -2, 1) }),
    range('variance must not be negative, got -2 in channel 1'),
  ],
  [
    'a negative running variance',
    () => {
      const bn = new BatchNorm(3);
      (bn.runningVar as Float64Array)[2] = -1;
      bn.freeze();
    },
    range('runningVar must not be negative, got -1 in channel 2'),
  ],

  // Results
  [
    'an out of another type',
    () => forwardTraining(x(), { out: new Float64Array(24) as Wrong }),
    type('out must be a Float32Array, got Float64Array'),
  ],
  [
    'an out of another length',
    () => forwardTraining(x(), { out: new Float32Array(25) }),
    range('out must have 24 values (2 x 3 x 4), got 25'),
  ],
  [
    'an out that overlaps x in part',
    () =>
      forwardTraining({ data: shared.subarray(0, 24), shape: [2, 3, 4] }, { out: shared.subarray(1, 25) }),
    range(
      'out must be x.data itself or not overlap it, got views that share 92 bytes',
      'ERR_BATCHNORM_OVERLAP',
    ),
  ],
  [
    'an out that overlaps the weight',
    () => forwardTraining(x(), { out: shared.subarray(0, 24), weight: shared.subarray(23, 26) }),
    range('out must not overlap weight, got views that share 4 bytes', 'ERR_BATCHNORM_OVERLAP'),
  ],
  [
    'a dx over x',
    () => {
      const input = x();
      backward(x(), input, { ...stats(), out: input.data });
    },
    range('out must not overlap x.data, got views that share 96 bytes', 'ERR_BATCHNORM_OVERLAP'),
  ],
  [
    'a y over the running mean',
    () => {
      const bn = new BatchNorm(3, { dtype: 'float64' });
      const out = new Float64Array((bn.runningMean as Float64Array).buffer);
      bn.forward({ data: new Float64Array(3), shape: [1, 3, 1] }, { out, updateStats: false });
    },
    range(
      'training needs more than one value per channel, got shape [1, 3, 1]; call eval() or use a larger batch',
      'ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL',
    ),
  ],
  [
    'a frozen result that overlaps x in part',
    () =>
      new BatchNorm(3)
        .freeze()
        .run({ data: shared.subarray(0, 24), shape: [2, 3, 4] }, { out: shared.subarray(12, 36) }),
    range(
      'out must be x.data itself or not overlap it, got views that share 48 bytes',
      'ERR_BATCHNORM_OVERLAP',
    ),
  ],

  // The order of calls
  [
    'training with one value per channel',
    () => new BatchNorm(64).forward({ data: new Float32Array(64), shape: [1, 64, 1, 1] }),
    range(
      'training needs more than one value per channel, got shape [1, 64, 1, 1]; call eval() or use a larger batch',
      'ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL',
    ),
  ],
  [
    'backward before forward',
    () => new BatchNorm(3).backward(x()),
    state(
      'ERR_BATCHNORM_NO_FORWARD',
      'backward() must follow a forward() in training, got none since the layer was made or cleared',
    ),
  ],
  [
    'backward after an in-place forward',
    () => {
      const bn = new BatchNorm(3);
      const input = x();
      bn.forward(input, { out: input.data });
      bn.backward(x());
    },
    state(
      'ERR_BATCHNORM_INPUT_OVERWRITTEN',
      'backward() must find the x of the last forward(), got one that wrote its result over x; give forward() another out',
    ),
  ],
  [
    'backward with another shape',
    () => {
      const bn = new BatchNorm(3);
      bn.forward(x());
      bn.backward({ ...x(), shape: [2, 3, 2, 2] });
    },
    range('dy.shape must be [2, 3, 4] (the shape of the last x), got [2, 3, 2, 2]'),
  ],
  [
    'a dy of another shape than x',
    () => backward({ ...x(), shape: [4, 3, 2] }, x(), stats()),
    range('dy.shape must be [2, 3, 4] (the shape of x), got [4, 3, 2]'),
  ],
  [
    'backward after x was detached',
    () => {
      const bn = new BatchNorm(3);
      const input = x();
      bn.forward(input);
      structuredClone(input.data.buffer, { transfer: [input.data.buffer] });
      bn.backward(x());
    },
    range('x.data must have 24 values (2 x 3 x 4), got 0'),
  ],
  [
    'freeze without running statistics',
    () => new BatchNorm(3, { trackRunningStats: false }).freeze(),
    state(
      'ERR_BATCHNORM_NO_RUNNING_STATS',
      'freeze() must have running statistics, got trackRunningStats: false',
    ),
  ],
  [
    'run after disposal',
    () => {
      const frozen = new BatchNorm(3).freeze();
      frozen[Symbol.dispose]();
      frozen.run(x());
    },
    state(
      'ERR_BATCHNORM_DISPOSED',
      'a frozen layer must not be used after its disposal, got a call of run()',
    ),
  ],

  // States
  [
    'a state that is null',
    () => new BatchNorm(3).loadStateDict(null as Wrong),
    type('state must be an object, got null'),
  ],
  [
    'a state without an entry',
    () => new BatchNorm(3).loadStateDict({}),
    type(
      'state.weight must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got undefined',
    ),
  ],
  [
    'a state with an entry the layer lacks',
    () => new BatchNorm(3, { weight: false }).loadStateDict(new BatchNorm(3).stateDict()),
    range('state.weight must be absent (the layer has none), got a value'),
  ],
  [
    'a state with an unknown entry',
    () => new BatchNorm(3).loadStateDict({ ...new BatchNorm(3).stateDict(), gamma: 1 } as Wrong),
    type(
      `state must only have weight, bias, running_mean, running_var, num_batches_tracked, got "gamma"; convention: 'keras' knows it`,
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'a state of another size',
    () => new BatchNorm(3).loadStateDict(new BatchNorm(4).stateDict()),
    range('state.weight must have 3 values (one per channel), got 4'),
  ],
  [
    'a state of another type',
    () => new BatchNorm(3).loadStateDict({ ...new BatchNorm(3).stateDict(), bias: new Int32Array(3) }),
    type(
      'state.bias must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got Int32Array',
    ),
  ],
  [
    'a state with a negative running variance',
    () =>
      new BatchNorm(1).loadStateDict({ ...new BatchNorm(1).stateDict(), running_var: Float64Array.of(-1) }),
    range('state.running_var must not be negative, got -1 in channel 0'),
  ],
  [
    'a state with a fractional count',
    () => new BatchNorm(1).loadStateDict({ ...new BatchNorm(1).stateDict(), num_batches_tracked: 0.5 }),
    range('state.num_batches_tracked must be an integer from 0 to 9007199254740991, got 0.5'),
  ],
  [
    'a frozen layer from a state without statistics',
    () => FrozenBatchNorm.from({ weight: new Float32Array(3) }),
    type(
      'state.running_mean must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got undefined',
    ),
  ],
  [
    'a frozen layer from parts of different sizes',
    () => FrozenBatchNorm.from({ ...new BatchNorm(3).stateDict(), running_var: new Float64Array(2) }),
    range('state.running_var must have 3 values (one per channel), got 2'),
  ],

  ...(
    [
      [
        'running_var',
        Float64Array.of(1, Number.NaN, 1),
        'state.running_var must be finite, got NaN in channel 1',
      ],
      [
        'running_mean',
        Float32Array.of(1, 1, -Infinity),
        'state.running_mean must be finite, got -Infinity in channel 2',
      ],
      ['weight', [1, Infinity, 1], 'state.weight must be finite, got Infinity in channel 1'],
      ['bias', Float64Array.of(0, 0, 1e39), 'state.bias must be finite in float32, got 1e+39 in channel 2'],
      ['bias', [0, 0], 'state.bias must have 3 values (one per channel), got 2'],
      ['bias', [], 'state.bias must have at least one value (one per channel), got 0'],
      [
        'weight',
        { data: new Float32Array(3), shape: [4] },
        'state.weight.data must have 4 values (4), got 3',
      ],
      [
        'running_var',
        { data: new Float32Array(4), shape: [4] },
        'state.running_var must have 3 values (one per channel), got 4',
      ],
      [
        'num_batches_tracked',
        -1,
        'state.num_batches_tracked must be an integer from 0 to 9007199254740991, got -1',
      ],
      [
        'num_batches_tracked',
        -1n,
        'state.num_batches_tracked must be an integer from 0 to 9007199254740991, got -1n',
      ],
      [
        'num_batches_tracked',
        BigInt64Array.of(2n ** 53n),
        'state.num_batches_tracked must be an integer from 0 to 9007199254740991, got 9007199254740992n',
      ],
      [
        'num_batches_tracked',
        Float64Array.of(0.5),
        'state.num_batches_tracked must be an integer from 0 to 9007199254740991, got 0.5',
      ],
      ['num_batches_tracked', new Int32Array(2), 'state.num_batches_tracked must have one value, got 2'],
      ['num_batches_tracked', [], 'state.num_batches_tracked must have one value, got 0'],
    ] as const
  ).map(([name, value, message]): [string, () => unknown, Failure] => [
    `a state with ${name} ${typeof value === 'bigint' ? value : JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? `${v}` : v))}`,
    () => new BatchNorm(3).loadStateDict({ ...new BatchNorm(3).stateDict(), [name]: value }),
    range(message),
  ]),
  ...(
    [
      ['weight', ['1', 1, 1], 'state.weight[0] must be a number, got "1"'],
      ['weight', new Array(3), 'state.weight[0] must be a number, got undefined'],
      [
        'weight',
        new Uint16Array(3),
        "state.weight must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got Uint16Array; give { data, shape, dtype: 'bfloat16' }, or 'float16': bits alone do not say which they are",
      ],
      [
        'weight',
        { data: new Uint16Array(3), shape: [3] },
        "state.weight.dtype must be 'bfloat16' or 'float16', got undefined",
      ],
      [
        'bias',
        { data: new Float32Array(3) },
        'state.bias.shape must be an array of dimensions, got undefined',
      ],
      [
        'bias',
        {},
        'state.bias must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got an object',
      ],
      [
        'running_mean',
        JSON.parse(JSON.stringify(new Float32Array(3))),
        'state.running_mean must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got an object with the key 0, as JSON makes of a typed array; save what toJSON() of the layer gives, and read it with fromJSON()',
      ],
      [
        'num_batches_tracked',
        '3',
        'state.num_batches_tracked must be an integer from 0 to 9007199254740991, got "3"',
      ],
      [
        'num_batches_tracked',
        {},
        'state.num_batches_tracked must be an integer from 0 to 9007199254740991, got an object',
      ],
    ] as const
  ).map(([name, value, message], i): [string, () => unknown, Failure] => [
    `a state with a wrong type of ${name} (${i})`,
    () => new BatchNorm(3).loadStateDict({ ...new BatchNorm(3).stateDict(), [name]: value }),
    type(message),
  ]),
  [
    'a state that is a Map',
    () => new BatchNorm(3).loadStateDict(new Map() as Wrong),
    type('state must be an object, got a Map; give Object.fromEntries(map)'),
  ],
  [
    'a state that is an array',
    () => new BatchNorm(3).loadStateDict([] as Wrong),
    type('state must be an object, got an array'),
  ],
  [
    'a state that is a typed array',
    () => new BatchNorm(3).loadStateDict(new Float32Array(2 ** 27) as Wrong),
    type('state must be an object, got Float32Array'),
  ],
  [
    'a state with a near miss',
    () =>
      new BatchNorm(3).loadStateDict({ ...new BatchNorm(3).stateDict(), runningMean: new Float64Array(3) }),
    type(
      'state must only have weight, bias, running_mean, running_var, num_batches_tracked, got "runningMean"; did you mean running_mean?',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    "a state of ONNX under Keras' convention",
    () => new BatchNorm(3, { convention: 'keras' }).loadStateDict({ scale: [1, 1, 1] }),
    type(
      `state must only have weight, bias, running_mean, running_var, num_batches_tracked, gamma, beta, moving_mean, moving_variance, got "scale"; convention: 'onnx' knows it`,
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'a state with the same entry twice',
    () =>
      FrozenBatchNorm.from(
        { 'bn/gamma:0': [1], 'bn/gamma': [1], 'bn/moving_mean': [0], 'bn/moving_variance': [1] },
        { convention: 'keras', prefix: 'bn' },
      ),
    type('state["bn/gamma:0"] must be left out beside state["bn/gamma"], got an array'),
  ],
  [
    'the state of a whole model without a prefix',
    () => FrozenBatchNorm.from(wholeModel()),
    type(
      'state must only have weight, bias, running_mean, running_var, num_batches_tracked, got "conv1.weight"; prefix: "bn1." takes a part of a whole model',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    "the state of a whole model of Keras' without a convention",
    () =>
      FrozenBatchNorm.from({ 'conv/kernel:0': [1], 'bn/moving_mean:0': [0], 'bn/moving_variance:0': [1] }),
    type(
      `state must only have weight, bias, running_mean, running_var, num_batches_tracked, got "conv/kernel:0"; prefix: "bn/" with convention: 'keras' takes a part of a whole model`,
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'a prefix that is too short',
    () =>
      FrozenBatchNorm.from(
        { 'a.running_mean': [0], 'a.running_var': [1], 'a.b.weight': [1] },
        { prefix: 'a' },
      ),
    type(
      'state must only have weight, bias, running_mean, running_var, num_batches_tracked behind "a.", got "a.b.weight"; prefix: "a.b." takes a part of a whole model',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'a prefix that matches nothing',
    () => FrozenBatchNorm.from(wholeModel(), { prefix: 'layer1.0.bn3.' }),
    range(
      'prefix must be followed by one of weight, bias, running_mean, running_var, num_batches_tracked in a key of state, got "layer1.0.bn3."; near are "layer1.0.bn1.running_mean", "layer1.0.bn2.running_mean", "layer1.0.bn10.running_mean"',
    ),
  ],
  [
    'a prefix that matches nothing, with strict: false',
    () => new BatchNorm(3).loadStateDict(wholeModel(), { prefix: 'bn', strict: false }),
    range(
      'prefix must be followed by one of weight, bias, running_mean, running_var, num_batches_tracked in a key of state, got "bn"; near are "bn1.running_mean", "layer1.0.bn1.running_mean", "layer1.0.bn2.running_mean"',
    ),
  ],
  [
    'a prefix of nothing at all',
    () => new BatchNorm(3).loadStateDict({}, { prefix: 'bn' }),
    range(
      'prefix must be followed by one of weight, bias, running_mean, running_var, num_batches_tracked in a key of state, got "bn"',
    ),
  ],
  [
    'a prefix of names that belong to another convention',
    () => FrozenBatchNorm.from({ 'bn/gamma:0': [1], 'bn/moving_mean:0': [0] }, { prefix: 'bn' }),
    range(
      `prefix must be followed by one of weight, bias, running_mean, running_var, num_batches_tracked in a key of state, got "bn"; convention: 'keras' knows "bn/gamma:0"`,
    ),
  ],
  [
    'a state of which nothing matches, with strict: false',
    () => new BatchNorm(3).loadStateDict({ kernel: [1] }, { strict: false }),
    range(
      'state must have at least one of weight, bias, running_mean, running_var, num_batches_tracked, got none of them; near is "kernel"',
    ),
  ],
  [
    'a state of what the layer does not have alone, with strict: false',
    () => new BatchNorm(3, { bias: false }).loadStateDict({ bias: [1, 1, 1] }, { strict: false }),
    range(
      'state must have at least one of weight, bias, running_mean, running_var, num_batches_tracked, got none of them; near is "bias"',
    ),
  ],
  [
    'a tensor of a state as JSON makes it',
    () =>
      FrozenBatchNorm.from(
        JSON.parse(
          JSON.stringify({ running_mean: { data: Float32Array.of(1), shape: [1] }, running_var: [1] }),
        ),
      ),
    type(
      'state.running_mean.data must be a Float32Array, a Float64Array or an array of numbers, got an object with the key 0, as JSON makes of a typed array; save what toJSON() of the layer gives, and read it with fromJSON()',
    ),
  ],
  [
    'an entry behind the prefix that is unknown',
    () =>
      FrozenBatchNorm.from(
        { 'bn.running_mean': [0], 'bn.running_var': [1], 'bn.wieght': [1] },
        { prefix: 'bn' },
      ),
    type(
      'state must only have weight, bias, running_mean, running_var, num_batches_tracked behind "bn.", got "bn.wieght"; did you mean weight?',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'an entry behind the prefix that is wrong',
    () => FrozenBatchNorm.from({ 'bn.running_mean': [0], 'bn.running_var': [-1] }, { prefix: 'bn' }),
    range('state["bn.running_var"] must not be negative, got -1 in channel 0'),
  ],
  [
    'an entry that is missing behind the prefix',
    () => FrozenBatchNorm.from({ 'bn.running_mean': [0] }, { prefix: 'bn', strict: false }),
    type(
      'state["bn.running_var"] must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got undefined',
    ),
  ],
  [
    'a prefix that is a number',
    () => new BatchNorm(3).loadStateDict({}, { prefix: 1 as Wrong }),
    type('prefix must be a string, got 1'),
  ],
  [
    'a strict that is a string',
    () => new BatchNorm(3).loadStateDict({}, { strict: 'no' as Wrong }),
    type('strict must be true or false, got "no"'),
  ],
  [
    'an unknown option of loadStateDict',
    () => new BatchNorm(3).loadStateDict({}, { prefx: 'bn' } as Wrong),
    type(
      'options must only have prefix, strict, got "prefx"; did you mean prefix?',
      'ERR_BATCHNORM_UNKNOWN_OPTION',
    ),
  ],
  [
    'a fold of statistics that are not finite',
    () => foldIntoConv(conv(), { mean: [0], variance: [Number.NaN] } as Wrong),
    range('bn.variance must be finite, got NaN in channel 0'),
  ],
  [
    'a fold of a layer that is not finite',
    () => {
      const bn = new BatchNorm(1);
      bn.weight?.fill(Infinity);
      foldIntoConv(conv(), bn);
    },
    range('bn.weight must be finite, got Infinity in channel 0'),
  ],
  [
    'a fold of running statistics that are not finite',
    () => {
      const bn = new BatchNorm(1);
      bn.runningMean?.fill(Number.NaN);
      foldIntoConv(conv(), bn);
    },
    range('bn.runningMean must be finite, got NaN in channel 0'),
  ],
  [
    "a fold of Keras' names without a convention",
    () => foldIntoConv(conv(), { gamma: [1], beta: [0], moving_mean: [0], moving_variance: [1] }),
    type(
      `bn.mean must be a Float32Array, a Float64Array, { data, shape } or an array of numbers, got undefined; convention: 'keras' knows "gamma"`,
    ),
  ],
  [
    'a fold of two means',
    () => foldIntoConv(conv(), { mean: [0], running_mean: [0], variance: [1] } as Wrong),
    type('bn.running_mean must be left out beside bn.mean, got an array'),
  ],

  // Running statistics
  [
    'running statistics without values',
    () =>
      updateRunningStats(
        { runningMean: new Float64Array(0), runningVar: new Float64Array(0) },
        { ...stats(0), count: 4 },
      ),
    range('runningMean must have at least one value (one per channel), got 0'),
  ],
  [
    'a fractional count',
    () =>
      updateRunningStats(
        { runningMean: new Float64Array(3), runningVar: new Float64Array(3) },
        { ...stats(), count: 1.5 },
      ),
    range('count must be an integer from 0 on, got 1.5'),
  ],
  [
    'a cumulative decay for the function',
    () =>
      updateRunningStats(
        { runningMean: new Float64Array(3), runningVar: new Float64Array(3) },
        { ...stats(), count: 4 },
        { decay: 'cumulative' as Wrong },
      ),
    type('decay must be a number from 0 to 1, got "cumulative"'),
  ],
];

describe('errors', () => {
  it.each(cases)('%s gives a clear error', (_, call, expected) => {
    expect(failureOf(call)).toEqual(expected);
    expectListed(expected.message);
  });

  it('are thrown before anything is written', () => {
    const out = new Float32Array(24).fill(7);
    const bn = new BatchNorm(3);
    bn.forward(x());
    const before = { ...bn.stateDict(), rejected: bn.rejectedUpdates };
    failureOf(() => bn.forward(x(), { out, momentum: 1 } as Wrong));
    failureOf(() => bn.forward({ ...x(), data: new Float32Array(23) }, { out }));
    failureOf(() => bn.forward(x(), { out: out.subarray(1) }));
    failureOf(() => bn.loadStateDict({ ...bn.stateDict(), running_var: Float64Array.of(9, 9, -9) }));
    failureOf(() => bn.backward({ ...x(), shape: [1, 6, 4] }, { out }));
    expect({ ...bn.stateDict(), rejected: bn.rejectedUpdates }).toEqual(before);
    expect(out.every((value) => value === 7)).toBe(true);
    expect(bn.backward(x()).dx?.shape).toEqual([2, 3, 4]);
  });

  it('come from the values that are used, even where getters change what they give', () => {
    const data = new Float32Array(24);
    let reads = 0;
    const shifty = {
      data,
      get shape() {
        reads++;
        return reads === 1 ? [2, 3, 4] : [1000, 1000, 1000];
      },
    };
    expect(forwardTraining(shifty).y.shape).toEqual([2, 3, 4]);
    expect(reads).toBe(1);
  });

  it('name a buffer that a getter detaches while the options are read', () => {
    const input = x();
    const options = {
      get axis() {
        structuredClone(input.data.buffer, { transfer: [input.data.buffer] });
        return 1;
      },
    };
    expect(failureOf(() => forwardTraining(input, options))).toEqual(
      range('x.data must have 24 values (2 x 3 x 4), got 0'),
    );
  });

  it('name a result that a getter of the tensor detaches after the options were read', () => {
    const out = new Float32Array(24);
    const shifty = {
      data: x().data,
      get shape() {
        structuredClone(out.buffer, { transfer: [out.buffer] });
        return [2, 3, 4];
      },
    };
    expect(failureOf(() => new BatchNorm(3).freeze().run(shifty, { out }))).toEqual(
      range('out must have 24 values (2 x 3 x 4), got 0'),
    );
  });

  it('survive arrays whose length is a lie', () => {
    class Liar extends Float32Array {
      override get length(): number {
        return 24;
      }
    }
    const call = () => new BatchNorm(3).forward({ data: new Liar(6), shape: [2, 3, 4] });
    expect(failureOf(call)).toEqual(range('x.data must have 24 values (2 x 3 x 4), got 6'));
  });

  it('never come from what a subclass of the caller makes of its methods', () => {
    class Subclass extends Float64Array {
      static get [Symbol.species](): Wrong {
        throw new Error('on purpose');
      }
      override slice(): Wrong {
        return 'a slice';
      }
      override set(): void {
        throw new Error('on purpose');
      }
    }
    const own = (value: number) => new Subclass(3).fill(value);
    const state = { weight: own(2), bias: own(1), running_mean: own(0), running_var: own(1) };
    const plain = Object.fromEntries(
      Object.entries(state).map(([name, values]) => [name, Float64Array.from(values)]),
    );
    const expected = FrozenBatchNorm.from(plain).run(x()).data;
    expect(FrozenBatchNorm.from(state).run(x()).data).toEqual(expected);
    const { weight, bias, running_mean: mean, running_var: variance } = state;
    expect(compose({ mean, variance, weight, bias }, stats()).channels).toBe(3);
    const dy = { data: new Subclass(24).fill(1), shape: [2, 3, 4] };
    const doubles = { data: Float64Array.from(x().data), shape: [2, 3, 4] };
    const gradients = (given: typeof doubles) =>
      backward(given, doubles, { ...stats(), activation: 'relu' }).dx.data;
    expect(gradients(dy)).toEqual(gradients({ ...dy, data: new Float64Array(24).fill(1) }));
  });

  it('come where a result meets its input in shared memory that is mapped twice', () => {
    const data = new Float32Array(new SharedArrayBuffer(4 * 25), 0, 24).map((_, i) => i);
    const shared = new Float32Array(new SharedArrayBuffer(4 * 25), 0, 24);
    shared.set(data);
    const twin = structuredClone(shared.buffer);
    const bn = new BatchNorm(3);
    if (capabilities().backend === 'native') {
      expect(
        failureOf(() =>
          bn.forward({ data: shared, shape: [2, 3, 4] }, { out: new Float32Array(twin, 4, 24) }),
        ),
      ).toEqual(
        range(
          'out must be x.data itself or not overlap it, got views that share 92 bytes',
          'ERR_BATCHNORM_OVERLAP',
        ),
      );
      bn.forward({ data: shared, shape: [2, 3, 4] }, { out: new Float32Array(twin, 0, 24) });
      expect(failureOf(() => bn.backward(x())).code).toBe('ERR_BATCHNORM_INPUT_OVERWRITTEN');
    } else {
      // JavaScript cannot see that two SharedArrayBuffers are one: as the documentation says.
      expect(twin).not.toBe(shared.buffer);
    }
  });

  it('keep the arrays of a layer from being replaced', () => {
    const bn = new BatchNorm(3) as Wrong;
    for (const name of ['channels', 'config', 'weight', 'bias', 'runningMean', 'runningVar'])
      expect(() => {
        bn[name] = new Uint8Array(3);
      }, name).toThrow(TypeError);
    const frozen = bn.freeze();
    for (const name of ['channels', 'axis', 'eps', 'dtype'])
      expect(() => {
        frozen[name] = 0;
      }, name).toThrow(TypeError);
  });

  it('come before a state is half loaded, where an array of the layer is detached', () => {
    const bn = new BatchNorm(3);
    const { buffer } = bn.runningMean as Float64Array;
    structuredClone(buffer, { transfer: [buffer] as ArrayBuffer[] });
    const given = { ...new BatchNorm(3).stateDict(), weight: Float32Array.of(5, 5, 5) };
    expect(failureOf(() => bn.loadStateDict(given))).toEqual(
      state(
        'ERR_BATCHNORM_BUFFER_CHANGED',
        'runningMean must keep its length, got a buffer that was detached or resized',
      ),
    );
    expect(bn.weight).toEqual(Float32Array.of(1, 1, 1));
  });

  it('come before training statistics are half updated, where a running array is detached', () => {
    const bn = new BatchNorm(3);
    const { buffer } = bn.runningMean as Float64Array;
    structuredClone(buffer, { transfer: [buffer] as ArrayBuffer[] });
    const out = new Float32Array(24).fill(7);
    expect(failureOf(() => bn.forward(x(), { out }))).toEqual(
      state(
        'ERR_BATCHNORM_BUFFER_CHANGED',
        'runningMean must keep its length, got a buffer that was detached or resized',
      ),
    );
    expect(out.every((value) => value === 7)).toBe(true);
    expect(bn.batchesTracked).toBe(0);
  });

  it.each([
    ['weight', true],
    ['runningMean', true],
    ['runningVar', true],
    ['runningMean', false],
    ['runningVar', false],
  ] as const)('name the %s that a getter of the residual detaches, with training %s', (name, training) => {
    const bn = new BatchNorm(3).train(training);
    const residual = {
      shape: [2, 3, 4],
      get data() {
        const buffer = bn[name]?.buffer as ArrayBuffer;
        structuredClone(buffer, { transfer: [buffer] });
        return new Float32Array(24);
      },
    };
    const out = new Float32Array(24).fill(7);
    expect(failureOf(() => bn.forward(x(), { out, residual }))).toEqual(
      state(
        'ERR_BATCHNORM_BUFFER_CHANGED',
        `${name} must keep its length, got a buffer that was detached or resized`,
      ),
    );
    expect(out.every((value) => value === 7)).toBe(true);
    expect(failureOf(() => bn.backward(x()))).toMatchObject({ code: 'ERR_BATCHNORM_NO_FORWARD' });
  });
});
