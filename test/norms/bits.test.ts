// What must be the same to the bit: any number of threads, any memory, in place, asynchronous, fused, of 16 bits.
import { afterEach, describe, expect, it } from 'vitest';
import { capabilities, type DType, setThreads, type TensorArray, threads } from '../../lib/index.js';
import { bitsOf, expectRounded, halves } from '../support/half.js';
import {
  allDtypes,
  allNorms,
  arrayOf,
  type Drawn,
  drawFor,
  type Fusion,
  fusedOptions,
  fusions,
  goBack,
  layerOf,
  type NormGradients,
  normalize,
  normKinds,
  numbersOf,
  smallNorms,
  titleOf,
  type Values,
} from '../support/norm-cases.js';
import { type Norm, productOf } from '../support/norm-reference.js';
import { Random, seedNote } from '../support/random.js';
import { expectSame, foreign, shared } from '../support/tensors.js';

const atStart = threads();
afterEach(() => setThreads(atStart));

/** Arrays by their names. */
type Results = Record<string, TensorArray>;

function named({ dx, dWeight, dBias, dResidual }: NormGradients): Results {
  const arrays = { dx: dx?.data, dWeight, dBias, dResidual: dResidual?.data };
  return Object.fromEntries(Object.entries(arrays).filter(([, array]) => array !== undefined)) as Results;
}

function passes(norm: Norm, drawn: Drawn, options: object): Results {
  return { y: normalize(norm, drawn.x, options).y.data, ...named(goBack(norm, drawn.dy, drawn.x, options)) };
}

function expectEqual(actual: Results, expected: Results): void {
  expect(Object.keys(actual)).toEqual(Object.keys(expected));
  for (const [name, array] of Object.entries(expected)) expectSame(actual[name], array, name);
}

/** Of rows that are cut for threads, of many rows, and of few. */
const large: Norm[] = [
  { kind: 'group', shape: [4, 64, 28, 28], axis: 1, groups: 32 },
  { kind: 'group', shape: [1, 8, 40_000], axis: 1, groups: 1 },
  { kind: 'group', shape: [4, 28, 28, 64], axis: -1, groups: 32 },
  { kind: 'group', shape: [1, 20_000, 12], axis: -1, groups: 3 },
  { kind: 'instance', shape: [4, 64, 784], axis: 1 },
  { kind: 'instance', shape: [2, 1500, 96], axis: -1 },
  { kind: 'layer', shape: [300, 768], dimensions: 1 },
  { kind: 'layer', shape: [2000, 64], dimensions: 1 },
  { kind: 'layer', shape: [2, 100_001], dimensions: 1 },
  { kind: 'rms', shape: [300, 768], dimensions: 1 },
  { kind: 'rms', shape: [2, 100_001], dimensions: 1 },
];

it('there are large tensors of each norm', () => {
  for (const kind of normKinds) expect(large.some((norm) => norm.kind === kind)).toBe(true);
});

describe(`the same bits come from 1, 2, 3 and 7 threads (${seedNote}):`, () => {
  // Each dtype with another fusion, and which with which by the norm: the others are a matter of the same loops.
  const cases = large.flatMap((norm, index) =>
    fusions.map((fusion, i) => ({
      norm,
      ...fusion,
      dtypes: ['float32', allDtypes[(index + i) % 4]] as DType[],
      title: titleOf(norm),
    })),
  );

  it.each(cases)('$title, $fused, $dtypes', ({ norm, dtypes, ...fusion }) => {
    for (const dtype of new Set(dtypes)) {
      const drawn = drawFor(new Random(), norm, dtype);
      const options = fusedOptions(fusion, drawn, dtype);
      const [one, ...others] = [1, 2, 3, 7].map((count) => {
        setThreads(count);
        return passes(norm, drawn, options);
      });
      for (const other of others) expectEqual(other, one);
      const layer = () => {
        const made = layerOf(norm, { dtype, activation: fusion.activation });
        const y = made.forward(drawn.x, { residual: options.residual });
        return { y: y.data, ...named(made.backward(drawn.dy)) } as Results;
      };
      setThreads(1);
      const alone = layer();
      setThreads(3);
      expectEqual(layer(), alone);
    }
  });
});

describe(`16 bits give what float32 gives of their values, rounded once (${seedNote}):`, () => {
  for (const half of halves)
    for (const [index, norm] of allNorms.entries())
      it.each(fusions)(`${titleOf(norm)}, ${half}, $fused`, (fusion) => {
        const drawn = drawFor(new Random(index), norm, half);
        const { weight, bias } = drawn;
        const widened = (values: Values) => ({
          ...values,
          data: numbersOf(half, values.data) as Float32Array,
        });
        const wide = {
          x: widened(drawn.x),
          dy: widened(drawn.dy),
          residual: widened(drawn.residual),
          weight,
          bias,
        };
        // RMS norm has another eps by default where the dtype is another.
        const [narrow, floats] = [
          { drawn, options: fusedOptions(fusion, drawn, half) },
          { drawn: wide, options: fusedOptions(fusion, wide, 'float32') },
        ].map(({ drawn: given, options }) => passes(norm, given, { ...options, eps: 1e-4 }));
        for (const [name, array] of Object.entries(floats)) {
          if (array.length === productOf(norm.shape) && name !== 'dWeight' && name !== 'dBias')
            expectRounded(half, narrow[name], array, name);
          else {
            expect(narrow[name], name).toBeInstanceOf(Float32Array);
            expectSame(narrow[name], array, name);
          }
        }
      });

  it.each(halves)('a NaN stays one, and what is beyond the range is infinite, %s', (half) => {
    const norm: Norm = { kind: 'layer', shape: [2, 4], dimensions: 1 };
    const x = { data: arrayOf(half, [1, 2, 3, 4, Number.NaN, 1, 2, 3]), shape: norm.shape };
    const weight = new Float32Array(4).fill(3e38);
    const { y } = normalize(norm, x, { dtype: half, weight });
    const infinite = bitsOf(half, Infinity);
    if (half === 'float16') expect(y.data[3]).toBe(infinite);
    expect(numbersOf(half, y.data)[4]).toBeNaN();
  });
});

describe(`a residual and a ReLU give the bits of passes of their own (${seedNote}):`, () => {
  for (const dtype of ['float32', 'float64'] as const)
    for (const [index, norm] of allNorms.entries())
      it(`${titleOf(norm)}, ${dtype}`, () => {
        const drawn = drawFor(new Random(index), norm, dtype);
        const { x, dy, residual, weight, bias } = drawn;
        const options = { weight, bias };
        const { y } = normalize(norm, x, options);
        const sum = (y.data as Float32Array).map((value, i) => value + (residual.data[i] as number));
        const relu = (values: Float32Array) => values.map((value) => (value > 0 ? value : 0));
        expectSame(normalize(norm, x, { ...options, residual }).y.data, sum, 'y and a residual');
        const both = normalize(norm, x, { ...options, residual, activation: 'relu' }).y.data as Float32Array;
        expectSame(both, relu(sum), 'y and both');
        const gated = {
          data: (dy.data as Float32Array).map((value, i) => (both[i] > 0 ? value : 0)),
          shape: dy.shape,
        };
        expectEqual(named(goBack(norm, dy, x, { ...options, residual, activation: 'relu' })), {
          ...named(goBack(norm, gated, x, options)),
          dResidual: gated.data,
        });
      });
});

/** Where the values of an argument lie. */
const memories: Record<string, <T extends TensorArray>(values: T) => T> = {
  'a view that begins off a line': (values) => {
    const Class = values.constructor as Float32ArrayConstructor;
    const view = new Class(values.length + 5).subarray(5) as typeof values & Float32Array;
    view.set(values as Float32Array);
    return view;
  },
  'shared memory': (values) =>
    values instanceof Uint16Array
      ? (new Uint16Array(new SharedArrayBuffer(values.byteLength)).map((_, i) => values[i]) as typeof values)
      : (shared(values as Float32Array) as typeof values),
  'another realm': (values) =>
    values instanceof Uint16Array ? values : (foreign(values as Float32Array) as typeof values),
};

function moved(drawn: Drawn, move: <T extends TensorArray>(values: T) => T): Drawn {
  const tensor = ({ data, shape }: Values) => ({ data: move(data), shape });
  const { x, dy, residual, weight, bias } = drawn;
  return { x: tensor(x), dy: tensor(dy), residual: tensor(residual), weight: move(weight), bias: move(bias) };
}

const both = fusions[3];
const everywhere = [...smallNorms, ...allNorms.slice(-20)].flatMap((norm, index) =>
  allDtypes.map((dtype) => ({ norm, index, dtype, title: titleOf(norm) })),
);

describe(`the same bits come to and from any memory (${seedNote}):`, () => {
  it.each(everywhere)('$title, $dtype', ({ norm, index, dtype }) => {
    const drawn = drawFor(new Random(index), norm, dtype);
    const expected = passes(norm, drawn, fusedOptions(both, drawn, dtype));
    for (const move of Object.values(memories)) {
      const there = moved(drawn, move);
      expectEqual(passes(norm, there, fusedOptions(both, there, dtype)), expected);
      const options = fusedOptions(both, there, dtype);
      const [out, dxOut] = [move(expected.y), move(expected.dx)];
      out.fill(0);
      dxOut.fill(0);
      const { y } = normalize(norm, there.x, { ...options, out });
      expect(y.data).toBe(out);
      const { dx } = goBack(norm, there.dy, there.x, { ...options, out: dxOut });
      expect(dx.data).toBe(dxOut);
      expectSame(out, expected.y, 'out of forward');
      expectSame(dxOut, expected.dx, 'out of backward');
    }
  });

  it.each(everywhere)('in place: $title, $dtype', ({ norm, index, dtype }) => {
    for (const fusion of fusions) {
      const drawn = drawFor(new Random(index), norm, dtype);
      const options = fusedOptions(fusion, drawn, dtype);
      const expected = passes(norm, drawn, options);
      const { x, dy } = drawn;
      const gradients = goBack(norm, dy, x, { ...options, out: dy.data });
      expect(gradients.dx.data).toBe(dy.data);
      const { y } = normalize(norm, x, { ...options, out: x.data });
      expect(y.data).toBe(x.data);
      expectEqual({ y: x.data, ...named(gradients) }, expected);
    }
  });
});

describe(`a layer has the same bits (${seedNote}):`, () => {
  function withParameters(norm: Norm, dtype: DType, fusion: Fusion, drawn: Drawn, options: object = {}) {
    const layer = layerOf(norm, { dtype, activation: fusion.activation, ...options });
    layer.weight.set(drawn.weight);
    layer.bias?.set(drawn.bias);
    return layer;
  }
  const run = (fusion: Fusion, { residual }: Drawn) => (fusion.hasResidual ? { residual } : {});

  it.each(everywhere)('off the event loop: $title, $dtype', async ({ norm, index, dtype }) => {
    for (const fusion of fusions) {
      const drawn = drawFor(new Random(index), norm, dtype);
      const { x, dy } = drawn;
      const layer = withParameters(norm, dtype, fusion, drawn);
      const expected = {
        y: layer.forward(x, run(fusion, drawn)).data,
        ...named(layer.backward(dy)),
      };
      const later = withParameters(norm, dtype, fusion, drawn);
      const [y, gradients] = await Promise.all([
        later.forwardAsync(x, run(fusion, drawn)),
        later.backwardAsync(dy),
      ]);
      expectEqual({ y: y.data, ...named(gradients) }, expected);
      const given = moved(drawn, (values) => values.slice() as typeof values);
      const taken = await later.forwardAsync(given.x, { ...run(fusion, given), transfer: true });
      expect(given.x.data).toHaveLength(0);
      expectSame(taken.data, expected.y, 'y of what was given away');
      const back = await later.backwardAsync(given.dy, { transfer: true });
      expectEqual(named(back), Object.fromEntries(Object.entries(expected).filter(([name]) => name !== 'y')));
      const common = moved(drawn, memories['shared memory']);
      const out = memories['shared memory'](expected.y);
      out.fill(0);
      const there = await later.forwardAsync(common.x, { ...run(fusion, common), out });
      expect(there.data).toBe(out);
      expectSame(out, expected.y, 'y in shared memory');
    }
  });

  it.each(everywhere)('frozen: $title, $dtype', async ({ norm, index, dtype }) => {
    for (const fusion of fusions) {
      const drawn = drawFor(new Random(index), norm, dtype);
      const layer = withParameters(norm, dtype, fusion, drawn);
      const expected = layer.forward(drawn.x, run(fusion, drawn)).data;
      const frozen = layer.freeze();
      layer.weight.fill(3);
      layer.bias?.fill(3);
      expectSame(frozen.run(drawn.x, run(fusion, drawn)).data, expected, 'run');
      expectSame((await frozen.runAsync(drawn.x, run(fusion, drawn))).data, expected, 'runAsync');
      const out = expected.slice();
      out.fill(0);
      expect(frozen.run(drawn.x, { ...run(fusion, drawn), out }).data).toBe(out);
      expectSame(out, expected, 'run with out');
      const { x } = moved(drawn, (values) => values.slice() as typeof values);
      expect(frozen.run(x, { ...run(fusion, drawn), out: x.data }).data).toBe(x.data);
      expectSame(x.data, expected, 'run in place');
    }
  });

  it.each(everywhere)('with memory of its own for results: $title, $dtype', ({ norm, index, dtype }) => {
    for (const fusion of fusions) {
      const drawn = drawFor(new Random(index), norm, dtype);
      const [plain, own] = [false, true].map((reuse) =>
        withParameters(norm, dtype, fusion, drawn, { reuse }),
      );
      const memory = own.forward(drawn.x, run(fusion, drawn)).data;
      for (let round = 0; round < 2; round++) {
        const [y, expected] = [own, plain].map((layer) => layer.forward(drawn.x, run(fusion, drawn)));
        expect(y.data).toBe(memory);
        expectSame(y.data, expected.data, 'y');
        expectEqual(named(own.backward(drawn.dy)), named(plain.backward(drawn.dy)));
      }
    }
  });
});

it('a backend is there that these were tried on', () => {
  expect(['native', 'wasm']).toContain(capabilities().backend);
});
