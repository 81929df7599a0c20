// The results of every pass for data and shapes that are the same everywhere, and where they first differ from what
// golden.json has of them. Nothing of Node.js: browsers run it too.
import type * as Library from '../../lib/index.js';
import type { FloatArray, TensorArray } from '../../lib/index.js';
import expected from './golden.json' with { type: 'json' };
import { type GoldenRow, tensorData, values } from './golden-data.js';
import { normRows } from './golden-norms.js';

/** Shapes [outer, channels, inner] that meet every path: both layouts, folds, short planes, runs, pieces, tails. */
const shapes: [number, number, number][] = [
  [1, 1, 2],
  [2, 3, 1],
  [5, 16, 1],
  [33, 17, 1],
  [700, 3, 1],
  [600, 100, 1],
  [520, 130, 1],
  [900, 64, 1],
  [3, 5, 7],
  [4, 33, 49],
  [3, 2, 1000],
  [2, 3, 4100],
  [2, 2, 20001],
  [400, 2, 64],
  [7, 200, 2],
  [40, 3, 5],
  [33, 16, 4],
  [300, 9, 32],
  [2000, 5, 3],
  [6, 300, 1],
  [1, 70, 8],
  [4, 70, 9],
  [3, 9, 12],
  [12, 100, 16],
  [5, 70, 25],
  [4, 5, 32],
  [400, 6, 64],
  [70, 3, 49],
];

/** All results of a library: this one from source, from its package, or in another environment. */
export function* goldenRows(library: typeof Library): Generator<GoldenRow> {
  const { BatchNorm, backward, forwardInference, forwardTraining } = library;
  for (const [index, [outer, channels, inner]] of shapes.entries()) {
    for (const dtype of ['float32', 'float64', index % 2 === 0 ? 'bfloat16' : 'float16'] as const) {
      const isHalf = dtype === 'bfloat16' || dtype === 'float16';
      const ArrayType = dtype === 'float64' ? Float64Array : Float32Array;
      const shape = [outer, channels, inner];
      const length = outer * channels * inner;
      const tensor = (seed: number, scale: number, offset: number) => ({
        data: tensorData(dtype, length, seed, scale, offset) as FloatArray,
        shape,
      });
      const x = tensor(1, 4, 100);
      const dy = tensor(2, 2, 0);
      const residual = tensor(5, 2, 0);
      const weight = ArrayType.from(values(channels, 3, 1, 1));
      const bias = ArrayType.from(values(channels, 4, 1, 0));
      const arrays: Record<string, TensorArray> = {};

      const add = (pass: string, results: object) => {
        for (const [name, result] of Object.entries(results)) {
          const array: unknown = result?.data ?? result;
          if (ArrayBuffer.isView(array)) arrays[`${pass} ${name}`] = array as TensorArray;
        }
      };
      // Bits do not say which type they are of.
      const of = { dtype } as { dtype: 'float32' };
      const { mean, variance } = forwardTraining(x, { ...of, weight, bias });
      for (const [fused, options] of [
        ['', {}],
        ['relu ', { activation: 'relu' }],
        ['residual ', { residual }],
        ['relu residual ', { activation: 'relu', residual }],
      ] as const) {
        const given = { ...of, weight, bias, ...options };
        add(`${fused}training`, forwardTraining(x, given));
        add(`${fused}inference`, { y: forwardInference(x, { ...given, mean, variance }) });
        add(`${fused}backward`, backward(dy, x, { ...given, mean, variance }));
        add(`${fused}backward of constants`, backward(dy, x, { ...given, mean, variance, training: false }));

        // Of a residual and a ReLU the layer keeps a mask; backward reads it, where the function reads x and the residual.
        const { activation, residual: added } = options as Library.PassOptions<FloatArray>;
        const bn = new BatchNorm(channels, { dtype, activation });
        const run = added === undefined ? {} : { residual: added };
        bn.weight?.set(weight);
        bn.bias?.set(bias);
        bn.forward(x as never, run as never);
        add(`${fused}layer`, bn.backward(dy as never));
        bn.forward(dy as never, run as never);
        const { runningMean, runningVar } = bn;
        add(`${fused}layer`, { runningMean, runningVar });
        add(`${fused}frozen`, { y: bn.freeze().run(x as never, run as never) });
      }
      // Weights of positions, some of them 0, and values that are missing.
      const gaps = { data: x.data.slice(), shape };
      for (let i = 3; i < length; i += 7) gaps.data[i] = isHalf ? 0x7fff : Number.NaN;
      const weights = values(outer * inner, 6, 4, 1).map((value) => Math.max(0, value));
      for (const [name, given] of [
        ['weighted', { weights, activation: 'relu' }],
        [
          'masked',
          { weights: Uint8Array.from(weights, Math.sign), missing: 'skip', outside: 'zero', residual },
        ],
        ['imputed', { missing: 'impute', activation: 'relu', residual }],
      ] as const) {
        const options = { ...of, weight, bias, ...given };
        const some = name === 'weighted' ? x : gaps;
        const { y, moments } = forwardTraining(some, options);
        add(name, { y, count: moments.count, mean: moments.mean, variance: moments.variance });
        const weightsGrad = name !== 'imputed';
        add(`${name} backward`, backward(dy, some, { ...options, moments, weightsGrad }));
      }
      yield { name: `${dtype} [${shape.join(', ')}]`, arrays };
    }
  }
  yield* normRows(library);
}

/** What of a SHA-256 golden.json keeps of an array. */
export const digestLength = 8;

/** SHA-256 in hexadecimal. */
export type Digest = (bytes: Uint8Array<ArrayBuffer>) => string | Promise<string>;

/** The digests of a row as golden.json has them: in the order of its arrays. */
export async function digestsOf({ arrays }: GoldenRow, digest: Digest): Promise<string> {
  const digests: string[] = [];
  for (const { buffer, byteOffset, byteLength } of Object.values(arrays)) {
    const bytes = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
    digests.push((await digest(bytes)).slice(0, digestLength));
  }
  return digests.join(' ');
}

/** An array that is not as it should be. */
export interface GoldenDifference {
  readonly row: string;
  readonly name: string;
  readonly array: TensorArray;
}

/**
 * The first array whose bits are not those of golden.json; undefined where all are. They are the same on every
 * instruction set, thread count and backend, and move only when the arithmetic is changed on purpose (`npm run golden`);
 * the commit that moves them says why.
 */
export async function goldenDifference(
  library: typeof Library,
  digest: Digest,
): Promise<GoldenDifference | undefined> {
  const wanted = new Map<string, string>(Object.entries(expected));
  for (const row of goldenRows(library)) {
    const digests = await digestsOf(row, digest);
    const rowWanted = wanted.get(row.name) ?? '';
    wanted.delete(row.name);
    if (digests === rowWanted) continue;
    const [wrong, right] = [digests, rowWanted].map((text) => text.split(' '));
    const index = wrong.findIndex((one, i) => one !== right[i]);
    const [name, array] = Object.entries(row.arrays)[index] ?? ['an array too few', new Float64Array()];
    return { row: row.name, name, array };
  }
  for (const row of wanted.keys()) return { row, name: 'all arrays', array: new Float64Array() };
  return undefined;
}
