// A layer at work as its users call it, for what runs in other places too: pages, web workers, bundles. Nothing of Node.js.
import type * as Library from '../../lib/index.js';
import type { DType, Tensor, TensorArray } from '../../lib/index.js';

/** The bytes in hexadecimal: what comes from elsewhere as text is the same to the bit, signs of zeros and all. */
function hexOf({ buffer, byteOffset, byteLength }: TensorArray): string {
  const bytes = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Values in the array of a dtype. */
function arrayOf({ encode }: typeof Library, dtype: DType, values: Float64Array): TensorArray {
  if (dtype === 'float64') return values;
  const floats = Float32Array.from(values);
  return dtype === 'float32' ? floats : encode(floats, dtype);
}

/**
 * Results by their names, in hexadecimal; those of asynchronous calls have the names of the same calls in turn.
 *
 * @throws Error where an asynchronous call gives other bits, or memory that was given away is still there.
 */
export async function everyPass(library: typeof Library): Promise<Record<string, string>> {
  const results: Record<string, string> = {};
  const add = (name: string, result: object) => {
    for (const [part, value] of Object.entries(result)) {
      const array: unknown = value?.data ?? value;
      if (ArrayBuffer.isView(array)) results[`${name} ${part}`] = hexOf(array as TensorArray);
    }
  };
  const same = (name: string, result: Tensor<TensorArray>, expected: Tensor<TensorArray>) => {
    if (hexOf(result.data) !== hexOf(expected.data)) throw new Error(`${name} must have the same bits`);
  };

  for (const dtype of ['float32', 'float64', 'bfloat16', 'float16'] as const) {
    const shape = [3, 5, 7, 11];
    const tensor = (seed: number) => {
      const length = shape.reduce((product, size) => product * size);
      const values = Float64Array.from({ length }, (_, i) => ((i * seed) % 1021) / 256 - 2);
      return { data: arrayOf(library, dtype, values), shape };
    };
    const newLayer = (activation?: 'relu') => new library.BatchNorm<Library.DType>(5, { dtype, activation });
    for (const activation of [undefined, 'relu'] as const)
      for (const options of [{}, { residual: tensor(19) }]) {
        const name = [dtype, activation ?? 'plain', ...Object.keys(options)].join(' ');
        const [x, dy] = [tensor(7), tensor(13)];
        const bn = newLayer(activation);
        const y = bn.forward(x, options);
        const gradients = bn.backward(dy);
        add(`${name} training`, { y, ...gradients, mean: bn.runningMean, variance: bn.runningVar });
        add(`${name} evaluation`, { y: bn.eval().forward(x, options) });
        const frozen = bn.freeze();
        const run = frozen.run(x, options);
        add(`${name} frozen`, { y: run });

        const later = newLayer(activation);
        const [yLater, gradientsLater] = await Promise.all([
          later.forwardAsync(x, options),
          later.backwardAsync(dy),
        ]);
        same(`${name} forwardAsync`, yLater, y);
        same(`${name} backwardAsync`, gradientsLater.dx as typeof y, gradients.dx as typeof y);
        same(`${name} runAsync`, await frozen.runAsync(x, options), run);
        const given = tensor(7);
        same(`${name} transfer`, await frozen.runAsync(given, { ...options, transfer: true }), run);
        if (given.data.length > 0) throw new Error(`${name} transfer must take x away`);
      }
  }
  return results;
}
