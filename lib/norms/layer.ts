// Layer norm and RMS norm.
import { describe, rangeError } from '../errors.js';
import { refuseWrites } from '../read-only.js';
import type { DType } from '../types.js';
import { type LayerNormOptions, type RMSNormOptions, readLayerConfig, readRMSConfig } from './config.js';
import { RowNorm } from './row-norm.js';
import { readNormalizedShape } from './rows.js';
import { jsonOfNorm, type LayerNormJSON, type RMSNormJSON, readNormJSON } from './saved.js';

const cures = { shape: 'be given to the constructor' };

/**
 * Layer normalization: the last dimensions of x, together, are normalized by their own mean and variance (Ba, Kiros and Hinton,
 * "Layer Normalization", 2016); each of their places has a weight and a bias of its own.
 *
 * @typeParam D the dtype of x, y and their gradients.
 * @example
 * import { LayerNorm } from 'batchnorm';
 *
 * const norm = new LayerNorm(4, { eps: 1e-12 });
 * console.log(norm.forward({ data: Float32Array.of(0, 0, 2, 2), shape: [1, 4] }).data); // Float32Array(4) [ -1, -1, 1, 1 ]
 */
export class LayerNorm<D extends DType = 'float32'> extends RowNorm<D> {
  readonly #shape: readonly number[];

  /**
   * @param shape the last dimensions of x, which are normalized together: one number, or an array.
   * @param options by default PyTorch's: eps 1e-5, float32, weight and bias.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit.
   */
  constructor(shape: number | readonly number[], options: LayerNormOptions<D> = {}) {
    const checked = readNormalizedShape(shape);
    super({ norm: 'LayerNorm', shape: checked }, readLayerConfig(options));
    this.#shape = checked;
  }

  /** The last dimensions of x, which are normalized together. */
  get shape(): readonly number[] {
    return this.#shape;
  }

  /**
   * Everything that the layer is, as plain objects and arrays of numbers: JSON.stringify() calls it.
   *
   * @returns what {@link fromJSON} takes.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * console.log(JSON.parse(JSON.stringify(new LayerNorm([2, 3]))).shape); // [ 2, 3 ]
   */
  toJSON(): LayerNormJSON<D> {
    return jsonOfNorm<D>(this) as LayerNormJSON<D>;
  }

  /**
   * The layer that {@link toJSON} was called on, bit for bit.
   *
   * @param json what toJSON gave, or what JSON.parse made of its text: all of it, and nothing else.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) naming the field that does not fit.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * console.log(LayerNorm.fromJSON(new LayerNorm(4).toJSON()).shape); // [ 4 ]
   */
  static fromJSON<D extends DType = 'float32'>(json: LayerNormJSON<D>): LayerNorm<D> {
    return readNormJSON<D, LayerNorm<D>>('LayerNorm', json, (kind, config) =>
      kind.norm === 'LayerNorm' ? new LayerNorm<D>(kind.shape, config) : undefined,
    );
  }
}
refuseWrites(LayerNorm.prototype, cures);

/**
 * Root mean square normalization: the last dimensions of x, together, are divided by the root of their mean square (Zhang and
 * Sennrich, "Root Mean Square Layer Normalization", 2019): y = x / √(mean(x²) + eps) · weight. No mean is subtracted, and there is no
 * bias.
 *
 * @typeParam D the dtype of x, y and their gradients.
 * @example
 * import { RMSNorm } from 'batchnorm';
 *
 * const norm = new RMSNorm(4, { eps: 1e-12 });
 * console.log(norm.forward({ data: Float32Array.of(2, -2, 2, -2), shape: [1, 4] }).data); // Float32Array(4) [ 1, -1, 1, -1 ]
 */
export class RMSNorm<D extends DType = 'float32'> extends RowNorm<D> {
  readonly #shape: readonly number[];

  /**
   * @param shape the last dimensions of x, which are normalized together: one number, or an array.
   * @param options by default PyTorch's: the machine epsilon of the dtype as eps (float32: 2 ** −23), float32, a weight.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit.
   */
  constructor(shape: number | readonly number[], options: RMSNormOptions<D> = {}) {
    const checked = readNormalizedShape(shape);
    super({ norm: 'RMSNorm', shape: checked }, readRMSConfig(options));
    this.#shape = checked;
  }

  /** The last dimensions of x, which are normalized together. */
  get shape(): readonly number[] {
    return this.#shape;
  }

  /**
   * Everything that the layer is, as plain objects and arrays of numbers: JSON.stringify() calls it.
   *
   * @returns what {@link fromJSON} takes.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer.
   * @example
   * import { RMSNorm } from 'batchnorm';
   *
   * console.log(JSON.parse(JSON.stringify(new RMSNorm(4))).config.bias); // false
   */
  toJSON(): RMSNormJSON<D> {
    return jsonOfNorm<D>(this) as RMSNormJSON<D>;
  }

  /**
   * The layer that {@link toJSON} was called on, bit for bit.
   *
   * @param json what toJSON gave, or what JSON.parse made of its text: all of it, and nothing else.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) naming the field that does not fit.
   * @example
   * import { RMSNorm } from 'batchnorm';
   *
   * console.log(RMSNorm.fromJSON(new RMSNorm(4).toJSON()).shape); // [ 4 ]
   */
  static fromJSON<D extends DType = 'float32'>(json: RMSNormJSON<D>): RMSNorm<D> {
    return readNormJSON<D, RMSNorm<D>>('RMSNorm', json, (kind, { bias, ...options }) => {
      if (bias !== false)
        throw rangeError('json.config.bias', 'be false (an RMS norm has none)', describe(bias));
      return kind.norm === 'RMSNorm' ? new RMSNorm<D>(kind.shape, options) : undefined;
    });
  }
}
refuseWrites(RMSNorm.prototype, cures);
