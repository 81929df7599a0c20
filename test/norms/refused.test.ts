// What group, instance, layer and RMS norm refuse, by what, and that nothing has been written or changed then.
import { afterEach, describe, expect, it } from 'vitest';
import {
  foldIntoConv,
  foldIntoLinear,
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
} from '../../lib/index.js';
import { errorOf } from '../support/error-of.js';
import { expectListed } from '../support/messages.js';
import { normKinds } from '../support/norm-cases.js';
import type { NormKind } from '../support/norm-reference.js';

// biome-ignore lint/suspicious/noExplicitAny: wrong types are what is tested
type Any = any;

const shape = [2, 4, 3];
const size = 24;
const numbers = (seed: number) => Float32Array.from({ length: size }, (_, i) => ((i * seed) % 11) - 4);
const x = () => ({ data: numbers(7), shape: [...shape] });
const dy = () => ({ data: numbers(5), shape: [...shape] });
const doubles = () => ({ data: Float64Array.from(numbers(7)), shape: [...shape] });
const halves = () => ({ data: new Uint16Array(size).fill(0x3c00), shape: [...shape] });

/** Each norm of x: its options, a layer, and how many parameters it has. */
const norms: Record<NormKind, { over: object; forward: Any; backward: Any; layer: Any; parameters: number }> =
  {
    group: {
      over: { groups: 2 },
      forward: groupNorm,
      backward: groupNormBackward,
      layer: (options?: Any) => new (GroupNorm as Any)(2, 4, options),
      parameters: 4,
    },
    instance: {
      over: {},
      forward: instanceNorm,
      backward: instanceNormBackward,
      layer: (options?: Any) => new (InstanceNorm as Any)(4, { weight: true, bias: true, ...options }),
      parameters: 4,
    },
    layer: {
      over: { shape: [4, 3] },
      forward: layerNorm,
      backward: layerNormBackward,
      layer: (options?: Any) => new (LayerNorm as Any)([4, 3], options),
      parameters: 12,
    },
    rms: {
      over: { shape: [3] },
      forward: rmsNorm,
      backward: rmsNormBackward,
      layer: (options?: Any) => new (RMSNorm as Any)([3], options),
      parameters: 3,
    },
  };

type Refused = [title: string, call: () => unknown, code: string, ...parts: string[]];

function expectRefused(call: () => unknown, code: string, parts: readonly string[]): void {
  const error = errorOf(call);
  expect({ code: error.code, message: error.message }).toEqual({
    code: `ERR_BATCHNORM_${code}`,
    message: expect.anything(),
  });
  for (const part of parts) expect(error.message).toContain(part);
  const Class = {
    INVALID_TYPE: TypeError,
    UNKNOWN_OPTION: TypeError,
    BUFFER_CHANGED: Error,
    NOT_FOLDABLE: RangeError,
  }[code];
  expect(Object.getPrototypeOf(error)).toBe((Class ?? RangeError).prototype);
  expectListed(error.message);
}

const constructors: Refused[] = [
  [
    'groups that do not divide the channels',
    () => new (GroupNorm as Any)(3, 4),
    'INVALID_VALUE',
    'groups must divide',
    '4',
    'got 3',
  ],
  ['more groups than channels', () => new (GroupNorm as Any)(8, 4), 'INVALID_VALUE', 'groups must', 'got 8'],
  ['no groups', () => new (GroupNorm as Any)(0, 4), 'INVALID_VALUE', 'groups must', 'got 0'],
  ['groups below 0', () => new (GroupNorm as Any)(-2, 4), 'INVALID_VALUE', 'groups must', 'got -2'],
  ['half a group', () => new (GroupNorm as Any)(0.5, 4), 'INVALID_VALUE', 'groups must', 'got 0.5'],
  [
    'groups that are no number',
    () => new (GroupNorm as Any)('2', 4),
    'INVALID_TYPE',
    'groups must',
    'got "2"',
  ],
  ['groups of NaN', () => new (GroupNorm as Any)(Number.NaN, 4), 'INVALID_VALUE', 'groups must', 'got NaN'],
  ['group norm of nothing said', () => new (GroupNorm as Any)(), 'INVALID_TYPE', 'got undefined'],
  [
    'group norm without channels',
    () => new (GroupNorm as Any)(2),
    'INVALID_TYPE',
    'channels must',
    'got undefined',
  ],
  [
    'group norm of no channels',
    () => new (GroupNorm as Any)(1, 0),
    'INVALID_VALUE',
    'channels must',
    'got 0',
  ],
  [
    'options in the place of channels',
    () => new (GroupNorm as Any)(2, { axis: 1 }),
    'INVALID_TYPE',
    'channels must',
  ],
  [
    'instance norm of no channels',
    () => new (InstanceNorm as Any)(0),
    'INVALID_VALUE',
    'channels must',
    'got 0',
  ],
  [
    'instance norm of an array',
    () => new (InstanceNorm as Any)([4]),
    'INVALID_TYPE',
    'channels must',
    'got an array',
  ],
  ...(['LayerNorm', 'RMSNorm'] as const).flatMap((name): Refused[] => {
    const Class: Any = { LayerNorm, RMSNorm }[name];
    return [
      [
        `${name} of an empty shape`,
        () => new Class([]),
        'INVALID_VALUE',
        'shape must have from 1 to 64 dimensions',
        'got 0',
      ],
      [
        `${name} of too many dimensions`,
        () => new Class(new Array(65).fill(1)),
        'INVALID_VALUE',
        'shape must',
        'got 65',
      ],
      [`${name} of no values`, () => new Class([3, 0]), 'INVALID_VALUE', 'shape[1] must', 'got 0'],
      [`${name} of 0`, () => new Class(0), 'INVALID_VALUE', 'shape must', 'got 0'],
      [`${name} below 0`, () => new Class([-3]), 'INVALID_VALUE', 'shape[0] must', 'got -3'],
      [`${name} of half a value`, () => new Class([1.5]), 'INVALID_VALUE', 'shape[0] must', 'got 1.5'],
      [`${name} of text`, () => new Class('3'), 'INVALID_TYPE', 'shape must', 'got "3"'],
      [`${name} of text in an array`, () => new Class(['3']), 'INVALID_TYPE', 'shape[0] must', 'got "3"'],
      [`${name} of nothing said`, () => new Class(), 'INVALID_TYPE', 'shape must', 'got undefined'],
      [`${name} of a tensor`, () => new Class(x()), 'INVALID_TYPE', 'shape must', 'got an object'],
      [`${name} of a hole`, () => new Class(new Array(2)), 'INVALID_TYPE', 'shape[0] must', 'got undefined'],
      [`${name} of too many values`, () => new Class([2 ** 20, 2 ** 20]), 'INVALID_VALUE', 'shape must'],
    ];
  }),
  ['groups as an option', () => new (GroupNorm as Any)(2, 4, { groups: 2 }), 'UNKNOWN_OPTION', '"groups"'],
  ['a bias for RMS norm', () => new (RMSNorm as Any)(3, { bias: true }), 'UNKNOWN_OPTION', '"bias"'],
  [
    'running statistics for group norm',
    () => new (GroupNorm as Any)(2, 4, { trackRunningStats: true }),
    'UNKNOWN_OPTION',
    '"trackRunningStats"',
  ],
  ['an axis for layer norm', () => new (LayerNorm as Any)(3, { axis: -1 }), 'UNKNOWN_OPTION', '"axis"'],
  [
    'affine',
    () => new (GroupNorm as Any)(2, 4, { affine: true }),
    'UNKNOWN_OPTION',
    '"affine"',
    'did you mean',
  ],
  [
    'elementwise_affine',
    () => new (LayerNorm as Any)(3, { elementwise_affine: true }),
    'UNKNOWN_OPTION',
    '"elementwise_affine"',
  ],
  [
    'momentum without a convention',
    () => new (InstanceNorm as Any)(4, { trackRunningStats: true, momentum: 0.1 }),
    'INVALID_TYPE',
    'momentum must come with convention',
  ],
  [
    'decay beside momentum',
    () => new (InstanceNorm as Any)(4, { convention: 'keras', decay: 0.9, momentum: 0.1 }),
    'INVALID_TYPE',
    'decay must be left out',
  ],
  [
    'a decay beyond 1',
    () => new (InstanceNorm as Any)(4, { trackRunningStats: true, decay: 2 }),
    'INVALID_VALUE',
    'decay must',
    'got 2',
  ],
];

/** What each norm refuses alike, of its layer and of its function. */
function common(kind: NormKind): Refused[] {
  const { over, forward, backward, layer, parameters } = norms[kind];
  const call =
    (input: Any, options: Any = {}) =>
    () =>
      forward(input, { ...over, ...options });
  const back =
    (gradient: Any, input: Any, options: Any = {}) =>
    () =>
      backward(gradient, input, { ...over, ...options });
  const trained = (gradient: Any, options?: Any) => () => {
    const made = layer();
    made.forward(x());
    return made.backward(gradient, options);
  };
  const shared = new Float32Array(3 * size);
  const [first, second] = [shared.subarray(0, size), shared.subarray(size / 2, size / 2 + size)];
  const detached = () => {
    const given = x();
    structuredClone(given.data.buffer, { transfer: [given.data.buffer] });
    return given;
  };
  return [
    ['values without a shape', call(numbers(7)), 'INVALID_TYPE', 'x must be a tensor { data, shape }'],
    ['no tensor', call(null), 'INVALID_TYPE', 'x must be a tensor', 'got null'],
    ['data that is an array', call({ data: [1, 2], shape: [1, 2] }), 'INVALID_TYPE', 'x.data must'],
    [
      'data of integers',
      call({ data: new Int32Array(size), shape }),
      'INVALID_TYPE',
      'x.data must',
      'Int32Array',
    ],
    ['pixels', call({ data: new Uint8Array(size), shape }), 'INVALID_TYPE', 'x.data must', 'Uint8Array'],
    ['bits of which nobody says what', call(halves()), 'INVALID_TYPE', "dtype: 'bfloat16' or 'float16'"],
    [
      'too few values',
      call({ data: new Float32Array(size - 1), shape }),
      'INVALID_VALUE',
      'x.data must have 24 values',
    ],
    ['a shape below 0', call({ data: numbers(1), shape: [-2, 4, 3] }), 'INVALID_VALUE', 'x.shape[0] must'],
    ['strides of columns', call({ ...x(), strides: [1, 2, 8] }), 'INVALID_VALUE', 'x.strides must'],
    ['a detached buffer', call(detached()), 'INVALID_VALUE', 'x.data must have 24 values', 'got 0'],
    ['eps below 0', call(x(), { eps: -1e-5 }), 'INVALID_VALUE', 'eps must', 'got -0.00001'],
    ['eps of NaN', call(x(), { eps: Number.NaN }), 'INVALID_VALUE', 'eps must', 'got NaN'],
    ['infinite eps', call(x(), { eps: Infinity }), 'INVALID_VALUE', 'eps must', 'got Infinity'],
    ['eps of text', call(x(), { eps: '1e-5' }), 'INVALID_TYPE', 'eps must', 'got "1e-5"'],
    ['epsilon', call(x(), { epsilon: 1e-5 }), 'UNKNOWN_OPTION', '"epsilon"', 'did you mean eps?'],
    [
      'statistics that are not asked for',
      call(x(), { mean: new Float64Array(8) }),
      'UNKNOWN_OPTION',
      '"mean"',
    ],
    [
      'another activation',
      call(x(), { activation: 'gelu' }),
      'INVALID_VALUE',
      "activation must be 'relu'",
      'got "gelu"',
    ],
    ['another dtype', call(x(), { dtype: 'float8' }), 'INVALID_VALUE', 'dtype must', 'got "float8"'],
    [
      'a dtype that x is not of',
      call(x(), { dtype: 'float64' }),
      'INVALID_TYPE',
      'x.data must be a Float64Array',
    ],
    [
      'too long a weight',
      call(x(), { weight: new Float32Array(parameters + 1) }),
      'INVALID_VALUE',
      'weight must have',
      `${parameters} values`,
      `got ${parameters + 1}`,
    ],
    [
      'a weight that is an array',
      call(x(), { weight: new Array(parameters).fill(1) }),
      'INVALID_TYPE',
      'weight must be',
      'got an array',
    ],
    [
      'a residual of another shape',
      call(x(), { residual: { ...x(), shape: [2, 3, 4] } }),
      'INVALID_VALUE',
      'residual.shape must be [2, 4, 3]',
    ],
    [
      'a residual of another dtype',
      call(x(), { residual: doubles() }),
      'INVALID_TYPE',
      'residual.data must be a Float32Array',
    ],
    [
      'out of another dtype',
      call(x(), { out: new Float64Array(size) }),
      'INVALID_TYPE',
      'out must be a Float32Array',
    ],
    [
      'too short an out',
      call(x(), { out: new Float32Array(size - 1) }),
      'INVALID_VALUE',
      'out must have 24 values',
      'got 23',
    ],
    [
      'an out that overlaps x',
      call({ data: first, shape }, { out: second }),
      'OVERLAP',
      'out must be x.data itself or not overlap it',
      'share 48 bytes',
    ],
    [
      'an out that overlaps the residual',
      call(x(), { residual: { data: first, shape }, out: second }),
      'OVERLAP',
      'out must not overlap residual.data',
    ],
    [
      'an out that is the residual',
      call(x(), { residual: { data: first, shape }, out: first }),
      'OVERLAP',
      'out must not overlap residual.data',
    ],
    [
      'an out that overlaps the weight',
      call(x(), { weight: first.subarray(0, parameters), out: first }),
      'OVERLAP',
      'out must not overlap weight',
    ],
    ['options that are none', () => forward(x(), 3), 'INVALID_TYPE', 'options must be an object'],
    [
      'a dy of another shape',
      back({ ...dy(), shape: [4, 2, 3] }, x()),
      'INVALID_VALUE',
      'dy.shape must be [2, 4, 3]',
    ],
    ['a dy of another dtype', back(doubles(), x()), 'INVALID_TYPE', 'dy.data must be a Float32Array'],
    [
      'a dy of too few values',
      back({ data: new Float32Array(3), shape }, x()),
      'INVALID_VALUE',
      'dy.data must have 24 values',
    ],
    [
      'a dx that overlaps x',
      back(dy(), { data: first, shape }, { out: second }),
      'OVERLAP',
      'out must not overlap x.data',
    ],
    [
      'a dx that is x',
      back(dy(), { data: first, shape }, { out: first }),
      'OVERLAP',
      'out must not overlap x.data',
    ],
    [
      'a dx that overlaps dy',
      back({ data: first, shape }, x(), { out: second }),
      'OVERLAP',
      'out must be dy.data itself or not overlap it',
    ],
    [
      'a dx that overlaps the weight',
      back(dy(), x(), { weight: first.subarray(0, parameters), out: first }),
      'OVERLAP',
      'out must not overlap weight',
    ],
    [
      'a detached x in backward',
      back(dy(), detached()),
      'INVALID_VALUE',
      'x.data must have 24 values',
      'got 0',
    ],

    [
      'a layer of text for an option',
      () => layer({ weight: 'yes' }),
      'INVALID_TYPE',
      'weight must be true or false',
      'got "yes"',
    ],
    ['a layer of another dtype', () => layer({ dtype: 'float8' }), 'INVALID_VALUE', 'dtype must'],
    ['a layer of eps below 0', () => layer({ eps: -1 }), 'INVALID_VALUE', 'eps must', 'got -1'],
    [
      'a layer of another framework',
      () => layer({ convention: 'flax' }),
      'INVALID_VALUE',
      'convention must',
      'got "flax"',
    ],
    [
      'a layer of epsilon',
      () => layer({ epsilon: 1e-5 }),
      'UNKNOWN_OPTION',
      '"epsilon"',
      'did you mean eps?',
    ],
    ['a layer of a group', () => layer({ group: {} }), 'UNKNOWN_OPTION', '"group"'],
    [
      'doubles for a layer of float32',
      () => layer().forward(doubles()),
      'INVALID_TYPE',
      'x.data must be a Float32Array',
      'got Float64Array',
    ],
    [
      'bits for a layer of float32',
      () => layer().forward(halves()),
      'INVALID_TYPE',
      'x.data must be a Float32Array',
    ],
    [
      'floats for a layer of bits',
      () => layer({ dtype: 'bfloat16' }).forward(x()),
      'INVALID_TYPE',
      'x.data must be a Uint16Array',
      'encode(values',
    ],
    ['moments for a layer', () => layer().forward(x(), { moments: {} }), 'UNKNOWN_OPTION', '"moments"'],
    [
      'weights for a layer',
      () => layer().forward(x(), { weights: new Float32Array(2) }),
      'UNKNOWN_OPTION',
      '"weights"',
    ],
    [
      'an out that overlaps x, of a layer',
      () => layer().forward({ data: first, shape }, { out: second }),
      'OVERLAP',
      'out must be x.data itself or not overlap it',
    ],
    [
      'an out that is the weight of a layer',
      () => {
        const made = layer();
        return made.forward(x(), { out: new Float32Array(made.weight.buffer, 0, made.weight.length) });
      },
      'INVALID_VALUE',
      'out must have 24 values',
    ],
    [
      'a dy of another shape, of a layer',
      trained({ ...dy(), shape: [3, 8] }),
      'INVALID_VALUE',
      'dy.shape must be [2, 4, 3]',
    ],
    [
      'a dy of another dtype, of a layer',
      trained(doubles()),
      'INVALID_TYPE',
      'dy.data must be a Float32Array',
    ],
    [
      'another half',
      trained(dy(), { only: 'weights' }),
      'INVALID_VALUE',
      "only must be 'input' or 'parameters'",
    ],
    [
      'out without dx',
      trained(dy(), { only: 'parameters', out: new Float32Array(size) }),
      'INVALID_TYPE',
      'out must be left out',
    ],
    ['sums for a layer', trained(dy(), { sums: {} }), 'UNKNOWN_OPTION', '"sums"'],
    ['a mode that is none', () => layer().train('yes'), 'INVALID_TYPE', 'mode must be true or false'],
    [
      'JSON that is text',
      () => layer().constructor.fromJSON(JSON.stringify(layer())),
      'INVALID_TYPE',
      'JSON.parse() it first',
    ],
    [
      'JSON of an unknown field',
      () => layer().constructor.fromJSON({ ...layer().toJSON(), more: 1 }),
      'UNKNOWN_OPTION',
      '"more"',
    ],
    [
      'JSON of a later version',
      () => layer().constructor.fromJSON({ ...layer().toJSON(), version: 99 }),
      'INVALID_VALUE',
      'version',
    ],
    ['a state that is none', () => layer().loadStateDict(3), 'INVALID_TYPE', 'state must be an object'],
    ['an option of freezing that is none', () => layer().freeze({ eps: 1 }), 'UNKNOWN_OPTION', '"eps"'],
    [
      'pixels for a frozen layer',
      () =>
        layer()
          .freeze()
          .run({ data: new Float64Array(size), shape }),
      'INVALID_TYPE',
      'x.data must',
    ],
    [
      'folding into a linear layer',
      () => (foldIntoLinear as Any)({ weight: new Float32Array(16), shape: [4, 4] }, layer()),
      'NOT_FOLDABLE',
    ],
    [
      'folding into a convolution',
      () => (foldIntoConv as Any)({ weight: new Float32Array(16), shape: [4, 4, 1, 1] }, layer()),
      'NOT_FOLDABLE',
    ],
  ];
}

const particular: Refused[] = [
  [
    'group norm without groups',
    () => (groupNorm as Any)(x(), {}),
    'INVALID_TYPE',
    'groups must',
    'got undefined',
  ],
  [
    'groups that do not divide the channels of x',
    () => groupNorm(x(), { groups: 3 } as Any),
    'INVALID_VALUE',
    'groups must divide',
    '4',
    'got 3',
  ],
  [
    'groups of x that are one too many',
    () => groupNorm(x(), { groups: 5 } as Any),
    'INVALID_VALUE',
    'groups must',
  ],
  [
    'an axis beyond the rank',
    () => groupNorm(x(), { groups: 2, axis: 3 } as Any),
    'INVALID_VALUE',
    'axis must',
    'got 3',
  ],
  ['an axis of half', () => instanceNorm(x(), { axis: 0.5 } as Any), 'INVALID_VALUE', 'axis must', 'got 0.5'],
  ['an axis of text', () => instanceNorm(x(), { axis: '1' } as Any), 'INVALID_TYPE', 'axis must', 'got "1"'],
  [
    'x of one dimension',
    () => groupNorm({ data: new Float32Array(4), shape: [4] }, { groups: 2 } as Any),
    'INVALID_VALUE',
    'axis must',
  ],
  [
    'x of no channels',
    () => groupNorm({ data: new Float32Array(0), shape: [2, 0, 3] }, { groups: 1 } as Any),
    'INVALID_VALUE',
    'x.shape[1] must be at least 1',
  ],
  [
    'other channels than the layer has',
    () => (new GroupNorm(2, 6) as Any).forward(x()),
    'INVALID_VALUE',
    'x.shape[1] must be 6 (channels), got 4',
  ],
  [
    'channels on another axis',
    () => (new InstanceNorm(3) as Any).forward(x()),
    'INVALID_VALUE',
    'x.shape[1] must be 3 (channels), got 4',
    'axis: -1 has 3',
  ],
  [
    'group norm of a shape',
    () => groupNorm(x(), { groups: 2, shape: [3] } as Any),
    'UNKNOWN_OPTION',
    '"shape"',
  ],
  ['instance norm of groups', () => instanceNorm(x(), { groups: 2 } as Any), 'UNKNOWN_OPTION', '"groups"'],
  [
    'one value per sample and channel, of the layer',
    () => (new InstanceNorm(4) as Any).forward({ data: new Float32Array(8), shape: [2, 4] }),
    'ONE_VALUE_PER_CHANNEL',
    'got shape [2, 4]',
  ],
  [
    'a shape that is not the end of that of x',
    () => layerNorm(x(), { shape: [4] } as Any),
    'INVALID_VALUE',
    'x.shape must end with [4]',
    'got [2, 4, 3]',
  ],
  [
    'the beginning of the shape of x',
    () => rmsNorm(x(), { shape: [2, 4] } as Any),
    'INVALID_VALUE',
    'x.shape must end with [2, 4]',
    'got [2, 4, 3]',
  ],
  [
    'more dimensions than x has',
    () => layerNorm(x(), { shape: [1, 2, 4, 3] } as Any),
    'INVALID_VALUE',
    'x.shape must end with [1, 2, 4, 3]',
    'got [2, 4, 3]',
  ],
  [
    'as many values in another shape',
    () => layerNorm(x(), { shape: [12] } as Any),
    'INVALID_VALUE',
    'x.shape must end with [12]',
  ],
  [
    'x that does not fit the layer',
    () => (new LayerNorm(4) as Any).forward(x()),
    'INVALID_VALUE',
    'x.shape must end with [4]',
    'got [2, 4, 3]',
  ],
  [
    'an axis for the function',
    () => layerNorm(x(), { shape: [3], axis: 1 } as Any),
    'UNKNOWN_OPTION',
    '"axis"',
  ],
  [
    'a bias for RMS norm, of the function',
    () => rmsNorm(x(), { shape: [3], bias: new Float32Array(3) } as Any),
    'UNKNOWN_OPTION',
    '"bias"',
  ],
  [
    'a row that does not vary with eps 0',
    () => layerNorm({ data: new Float32Array(size).fill(2), shape }, { shape: [3], eps: 0 } as Any),
    'INVALID_VALUE',
    'eps: 0',
    'variance of 0',
  ],
  [
    'a row of zeros with eps 0',
    () => rmsNorm({ data: new Float32Array(size), shape }, { shape: [3], eps: 0 } as Any),
    'INVALID_VALUE',
    'eps: 0',
  ],
];

describe('a constructor refuses', () => {
  it.each(constructors)('%s', (_, call, code, ...parts) => expectRefused(call, code, parts));

  it.each(normKinds)('a call without new: %s', (kind) => {
    const { constructor: Class } = norms[kind].layer();
    expect(() => Class(2, 4)).toThrow(TypeError);
  });
});

describe.each(normKinds)('%s norm refuses', (kind) => {
  it.each(common(kind))('%s', (_, call, code, ...parts) => expectRefused(call, code, parts));
});

describe('its own mistakes:', () => {
  it.each(particular)('%s', (_, call, code, ...parts) => expectRefused(call, code, parts));
});

describe.each(normKinds)('what %s norm refuses has changed nothing:', (kind) => {
  const { over, forward, backward, layer } = norms[kind];

  it('out, x and the residual of a function', () => {
    const [input, residual] = [x(), dy()];
    const out = new Float32Array(size).fill(7);
    for (const wrong of [{ eps: -1 }, { activation: 'tanh' }, { residual: doubles() }, { more: 1 }])
      errorOf(() => forward(input, { ...over, residual, out, ...wrong }));
    errorOf(() => forward({ ...input, shape: [2, 4, 2] }, { ...over, residual, out }));
    errorOf(() => backward({ ...dy(), shape: [24] }, input, { ...over, out }));
    expect(out).toEqual(new Float32Array(size).fill(7));
    expect([input, residual]).toEqual([x(), dy()]);
  });

  it('the layer, its gradients, its pending forward', () => {
    const made = layer();
    const y = made.forward(x());
    const before = JSON.stringify(made);
    const out = new Float32Array(size).fill(7);
    for (const wrong of [doubles(), { ...x(), shape: [24] }, { data: numbers(1).subarray(1), shape }])
      errorOf(() => made.forward(wrong, { out }));
    errorOf(() => made.backward(doubles(), { out }));
    errorOf(() => made.backward(dy(), { out: new Float32Array(3) }));
    errorOf(() => made.loadStateDict({ weight: [1] }));
    expect(out).toEqual(new Float32Array(size).fill(7));
    expect(JSON.stringify(made)).toBe(before);
    for (const { grad } of made.parameters()) expect(grad.every((value: number) => value === 0)).toBe(true);
    expect(made.backward(dy(), { of: y }).dx.data).toEqual(
      backward(dy(), x(), { ...over, weight: made.weight }).dx.data,
    );
  });
});

/** Arrays whose memory a getter takes away while a call reads its options. */
function taking(data: Float32Array, name: string, value: unknown): object {
  return Object.defineProperty({}, name, {
    enumerable: true,
    get() {
      if (data.length > 0) structuredClone(data.buffer, { transfer: [data.buffer as ArrayBuffer] });
      return value;
    },
  });
}

describe.each(normKinds)('getters of the arguments of %s norm', (kind) => {
  const { over, forward, backward, layer, parameters } = norms[kind];
  const changed = { code: expect.stringMatching(/^ERR_BATCHNORM_(INVALID_VALUE|BUFFER_CHANGED)$/) };

  it.each(['eps', 'residual', 'activation', 'weight', 'out', 'dtype'])('may take x away: %s', (name) => {
    const given = x();
    const values: Record<string, unknown> = {
      eps: 1e-5,
      residual: dy(),
      weight: new Float32Array(parameters),
      out: new Float32Array(size),
      dtype: 'float32',
    };
    const options = Object.assign(taking(given.data, name, values[name]), over);
    expect(errorOf(() => forward(given, options))).toMatchObject(changed);
    expect(given.data).toHaveLength(0);
    const gradient = dy();
    const others = Object.assign(taking(gradient.data, name, values[name]), over);
    expect(errorOf(() => backward(gradient, x(), others))).toMatchObject(changed);
  });

  it('may take x away: of a layer', () => {
    for (const name of ['residual', 'out']) {
      const given = x();
      const value = name === 'out' ? new Float32Array(size) : dy();
      expect(errorOf(() => layer().forward(given, taking(given.data, name, value)))).toMatchObject(changed);
    }
  });

  it('may take the memory of the layer away', () => {
    const made = layer();
    const options = taking(made.weight, 'out', new Float32Array(size));
    expect(errorOf(() => made.forward(x(), options))).toMatchObject({ code: 'ERR_BATCHNORM_BUFFER_CHANGED' });
    for (const call of [() => made.forward(x()), () => made.stateDict(), () => made.freeze()])
      expect(errorOf(call)).toMatchObject({ code: 'ERR_BATCHNORM_BUFFER_CHANGED' });
  });

  it('are asked once each', () => {
    const asked: Record<string, number> = {};
    const counted = (object: Any, prefix: string): object =>
      Object.defineProperties(
        {},
        Object.fromEntries(
          Object.keys(object).map((key) => [
            key,
            {
              enumerable: true,
              get() {
                asked[prefix + key] = (asked[prefix + key] ?? 0) + 1;
                return object[key];
              },
            },
          ]),
        ),
      );
    const options = counted(
      {
        ...over,
        eps: 1e-5,
        residual: dy(),
        weight: new Float32Array(parameters),
        out: new Float32Array(size),
      },
      'options.',
    );
    forward(counted(x(), 'x.'), options);
    backward(counted(dy(), 'dy.'), counted(x(), 'input.'), options);
    for (const [name, count] of Object.entries(asked))
      expect(count, name).toBe(name.startsWith('options.') ? 2 : 1);
    expect(Object.keys(asked)).toContain('x.shape');
  });

  it('may change the shape after it has been read', () => {
    const given = x();
    const { data, shape } = dy();
    const residual = Object.defineProperty({ shape }, 'data', {
      enumerable: true,
      get() {
        given.shape[0] = 100;
        return data;
      },
    });
    expect(forward(given, { ...over, residual })).toEqual(forward(x(), { ...over, residual: dy() }));
    expect(given.shape[0]).toBe(100);
  });

  it('may throw, which comes out as it is', () => {
    class Own extends Error {}
    const options = Object.defineProperty({ ...over }, 'eps', {
      enumerable: true,
      get() {
        throw new Own('on purpose');
      },
    });
    expect(errorOf(() => forward(x(), options))).toBeInstanceOf(Own);
  });
});

describe('Object.prototype', () => {
  const prototype = Object.prototype as Any;
  const names = ['groups', 'axis', 'shape', 'eps', 'weight', 'activation', 'residual', 'out', 'convention'];
  afterEach(() => {
    for (const name of names) delete prototype[name];
  });

  it.each(normKinds)('reaches into no call of %s norm', (kind) => {
    const { over, forward, layer } = norms[kind];
    const options = over;
    const tensor = (result: Any) => result.y ?? result;
    const expected = tensor(forward(x(), options)).data;
    const config = { ...layer().config };
    prototype.eps = 9;
    prototype.activation = 'relu';
    prototype.residual = dy();
    prototype.out = new Float32Array(3);
    prototype.convention = 'keras';
    const actual = tensor(forward(x(), options)).data;
    const made = layer();
    const ownConfig = { ...made.config };
    const y = made.forward(x()).data;
    for (const name of names) delete prototype[name];
    expect(actual).toEqual(expected);
    expect(ownConfig).toEqual(config);
    expect(y).toEqual(tensor(forward(x(), options)).data);
  });

  it('gives group norm no groups', () => {
    prototype.groups = 2;
    const { code } = errorOf(() => (groupNorm as Any)(x(), {}));
    delete prototype.groups;
    expect(code).toBe('ERR_BATCHNORM_INVALID_TYPE');
  });
});

describe('asynchronous calls reject with what synchronous ones throw:', () => {
  it.each(normKinds)('%s norm', async (kind) => {
    const { layer } = norms[kind];
    for (const [input, options] of [
      [doubles(), {}],
      [{ ...x(), shape: [24] }, {}],
      [x(), { out: new Float32Array(3) }],
      [x(), { signal: 3 }],
    ] as Any[]) {
      const { signal: _, ...rest } = options;
      const made = layer();
      const promise = made.forwardAsync(input, options);
      await expect(promise).rejects.toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^ERR_BATCHNORM_/) }),
      );
      if (!('signal' in options)) {
        const { code, message } = errorOf(() => made.forward(input, rest));
        await expect(promise).rejects.toMatchObject({ code, message });
      }
    }
    const aborted = AbortSignal.abort(new Error('enough'));
    await expect(layer().forwardAsync(x(), { signal: aborted })).rejects.toThrow('enough');
  });
});
