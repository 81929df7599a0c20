// What group, instance, layer and RMS norm share: a layer core over rows.
import { type Activation, checkActivation } from '../activation.js';
import type {
  AsyncOptions,
  ForwardOptions,
  LayerBackwardOptions,
  LayerGradients,
  Parameter,
} from '../calls.js';
import { LayerCore } from '../core.js';
import { inspect, inspectedOf } from '../inspect.js';
import { platform } from '../platform/node.js';
import { namesOf } from '../properties.js';
import { refuseWrites } from '../read-only.js';
import type { RunningStatistics } from '../running.js';
import { type Learned, loadState, stateOf } from '../saved.js';
import type { AnyState, StateDict, StateOptions } from '../state.js';
import type { ArrayOf, DType, ParametersOf, Tensor, TensorLike } from '../types.js';
import { checkBoolean, readOptions } from '../validate.js';
import { coreConfigOf, type RowNormConfig } from './config.js';
import { constructorKey, FrozenNorm } from './frozen.js';
import { type Kind, parametersOf, rowsOf, toldKind } from './rows.js';

/** What forward of a norm of rows may be given besides x. */
export type RowForwardOptions<D extends DType> = Pick<ForwardOptions<ArrayOf<D>>, 'out' | 'residual'>;

/** What its backward may be given besides dy. */
export type RowBackwardOptions<D extends DType> = Pick<
  LayerBackwardOptions<ArrayOf<D>>,
  'of' | 'accumulate' | 'retain' | 'out' | 'only'
>;

/** What its backward returns: as of {@link BatchNorm.backward}. */
export type RowGradients<D extends DType> = Omit<LayerGradients<ArrayOf<D>>, 'dWeights'>;

const freezeNames = namesOf(['activation']);

/** What a layer is made of: for its own module and for JSON alone. @internal */
export interface RowNormParts<D extends DType> extends Learned<D> {
  readonly kind: Kind;
}

/**
 * A layer that normalizes rows of x, each with its own mean and variance: {@link GroupNorm}, {@link InstanceNorm},
 * {@link LayerNorm} or {@link RMSNorm}. What {@link BatchNorm} says of backward, asynchronous calls, `reuse` and memory holds here as well.
 *
 * @typeParam D the dtype of x, y and their gradients.
 * @typeParam C its options in full.
 * @typeParam F what freeze() makes.
 */
export abstract class RowNorm<
  D extends DType = DType,
  C extends RowNormConfig<D> = RowNormConfig<D>,
  F extends object = FrozenNorm<D>,
> {
  readonly #kind: Kind;
  readonly #running: RunningStatistics | undefined;
  readonly #core: LayerCore<D>;
  #config: C;

  /** Whether a value is one indeed, which a proxy of one is not. @internal */
  static isLayer(value: object): value is RowNorm<DType, RowNormConfig, object> {
    return #core in value;
  }

  /** @internal */
  static partsOf<D extends DType>(norm: RowNorm<D, RowNormConfig<D>, object>): RowNormParts<D> {
    const config = { trackRunningStats: norm.#running !== undefined, ...norm.#config };
    return {
      kind: norm.#kind,
      channels: parametersOf(norm.#kind),
      config,
      core: norm.#core,
      running: norm.#running,
    };
  }

  /** @internal */
  constructor(kind: Kind, config: C, running?: RunningStatistics) {
    this.#kind = kind;
    this.#config = config;
    this.#running = running;
    this.#core = new LayerCore(parametersOf(kind), coreConfigOf(config), running, rowsOf(kind));
    platform.markAsUncloneable(this);
  }

  /** The options in full. */
  get config(): C {
    return this.#config;
  }

  /** Takes options in the place of others. @internal */
  protected configure(config: C): void {
    this.#config = config;
  }

  /** The live array, at first 1: one value per channel, of layer and RMS norm one per place of a row; null where the layer has none. */
  get weight(): ParametersOf<ArrayOf<D>> | null {
    return this.#core.weight ?? null;
  }

  /** The live array, at first 0, as {@link weight}; null where the layer has none. */
  get bias(): ParametersOf<ArrayOf<D>> | null {
    return this.#core.bias ?? null;
  }

  /** Whether the layer is in training mode, which only an instance norm with running statistics asks for. */
  get training(): boolean {
    return this.#core.training;
  }

  /**
   * Training mode, or evaluation with `mode` false.
   *
   * @param mode true by default.
   * @returns the layer itself.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`) for what is neither true nor false.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * console.log(new LayerNorm(3).train(false).training); // false
   */
  train(mode = true): this {
    this.#core.training = checkBoolean('mode', mode);
    return this;
  }

  /**
   * Evaluation mode.
   *
   * @returns the layer itself.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * console.log(new LayerNorm(3).eval().training); // false
   */
  eval(): this {
    return this.train(false);
  }

  /**
   * Normalizes the rows of x, applies weight and bias, adds the residual, and applies the activation, in one pass over memory. For
   * {@link backward} the layer and the tensor that is returned keep a reference to x. An empty x gives an empty y.
   *
   * @param x of the layer's dtype.
   * @param options `out` to write to memory that is there already (x.data itself is in place, backward is then impossible), `residual`
   *   to add a tensor on the way.
   * @returns y in the dtype and shape of x.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, RangeError
   *   (`ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL`) of an instance norm with one value per sample and channel, Error
   *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer; then nothing is written and no state has changed.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * const norm = new LayerNorm(2, { eps: 1e-12 });
   * console.log(norm.forward({ data: Float32Array.of(1, 3, 10, 30), shape: [2, 2] }).data); // Float32Array(4) [ -1, 1, -1, 1 ]
   */
  forward(x: TensorLike<ArrayOf<D>>, options?: RowForwardOptions<D>): Tensor<ArrayOf<D>> {
    return this.#core.forward(x, options);
  }

  /**
   * {@link forward} off the event loop, under the rules of {@link BatchNorm.forwardAsync}.
   *
   * @param x as for {@link forward}.
   * @param options those of {@link forward}, `signal` to cancel what has not begun, `transfer` to give the memory of x away.
   * @returns a promise of y. Nothing is thrown: it rejects, and then the layer has not changed.
   * @throws what {@link forward} throws, and in full: `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`,
   *   `ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL`, `ERR_BATCHNORM_OVERLAP`,
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_NOT_TRANSFERABLE`, `ERR_BATCHNORM_BUFFER_CHANGED`, `ERR_BATCHNORM_NO_THREAD`; the reason of `signal`.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * const y = await new LayerNorm(2).forwardAsync({ data: Float32Array.of(1, 3), shape: [1, 2] });
   * console.log(y.shape); // [ 1, 2 ]
   */
  async forwardAsync(
    x: TensorLike<ArrayOf<D>>,
    options?: RowForwardOptions<D> & AsyncOptions,
  ): Promise<Tensor<ArrayOf<D>>> {
    return this.#core.forwardAsync(x, options);
  }

  /**
   * The gradients of a forward: of the last one, or of the one that returned `of`. It goes through each once, unless `retain` is true.
   *
   * @param dy the gradient of y, in its dtype and shape.
   * @param options `of` for another forward, `out` for dx, `only` for half of the work, `accumulate` to add to the gradients of
   *   {@link parameters}, `retain` to go through the forward again.
   * @returns dx in the dtype and shape of dy; dWeight and dBias, as long as {@link weight}; dResidual where there was a residual.
   * @throws Error (`ERR_BATCHNORM_NO_FORWARD`, `ERR_BATCHNORM_INPUT_OVERWRITTEN`, `ERR_BATCHNORM_BUFFER_CHANGED`), TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`), as of {@link BatchNorm.backward}; then
   *   nothing is written.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * const norm = new LayerNorm(2);
   * norm.forward({ data: Float32Array.of(1, 3, 10, 30), shape: [2, 2] });
   * console.log(norm.backward({ data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] }).dBias); // Float32Array(2) [ 4, 6 ]
   */
  backward(dy: TensorLike<ArrayOf<D>>, options?: RowBackwardOptions<D>): RowGradients<D> {
    return this.#core.backward(dy, options);
  }

  /**
   * {@link backward} off the event loop, under the rules of {@link BatchNorm.backwardAsync}.
   *
   * @param dy as for {@link backward}.
   * @param options those of {@link backward}, `signal` to cancel what has not begun, `transfer` to give the memory of dy away.
   * @returns a promise of the gradients. Nothing is thrown: it rejects, and then no gradient has changed.
   * @throws what {@link backward} throws, and in full: `ERR_BATCHNORM_NO_FORWARD`, `ERR_BATCHNORM_INPUT_OVERWRITTEN`,
   *   `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`,
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_NOT_TRANSFERABLE`, `ERR_BATCHNORM_BUFFER_CHANGED`, `ERR_BATCHNORM_NO_THREAD`; the reason of `signal`.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * const norm = new LayerNorm(2);
   * await norm.forwardAsync({ data: Float32Array.of(1, 3), shape: [1, 2] });
   * const { dBias } = await norm.backwardAsync({ data: Float32Array.of(1, 2), shape: [1, 2] });
   * console.log(dBias); // Float32Array(2) [ 1, 2 ]
   */
  async backwardAsync(
    dy: TensorLike<ArrayOf<D>>,
    options?: RowBackwardOptions<D> & AsyncOptions,
  ): Promise<RowGradients<D>> {
    return this.#core.backwardAsync(dy, options);
  }

  /**
   * The learned parameters with their gradients (zeros before the first backward).
   *
   * @returns weight and bias, those of them that the layer has: a new list of the layer's own arrays.
   * @example
   * import { RMSNorm } from 'batchnorm';
   *
   * console.log(new RMSNorm(3).parameters().map(({ name }) => name)); // [ 'weight' ]
   */
  parameters(): Parameter<ParametersOf<ArrayOf<D>>>[] {
    return this.#core.parameters();
  }

  /**
   * Sets the gradients of {@link parameters} to 0: before backwards that `accumulate`.
   *
   * @returns the layer itself.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * console.log(new LayerNorm(2).zeroGrad().parameters()[0].grad); // Float32Array(2) [ 0, 0 ]
   */
  zeroGrad(): this {
    this.#core.zeroGrad();
    return this;
  }

  /**
   * Copies of what the layer has learned, under PyTorch's names, and of running statistics where it has some.
   *
   * @returns what {@link loadStateDict} takes.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer, RangeError
   *   (`ERR_BATCHNORM_OUT_OF_MEMORY`).
   * @example
   * import { GroupNorm } from 'batchnorm';
   *
   * console.log(Object.keys(new GroupNorm(2, 4).stateDict()).join(' ')); // weight bias
   */
  stateDict(): StateDict {
    return stateOf(RowNorm.partsOf(this));
  }

  /**
   * Copies a state into the layer's arrays, in all forms that {@link BatchNorm.loadStateDict} takes.
   *
   * @param state is copied; what has several dimensions, as the weight of a layer norm over several, in row-major order.
   * @param options `prefix` for a part of a whole model, `strict` for a state that has more or less than the layer.
   * @returns the layer itself.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`) naming the entry that does not fit, RangeError (`ERR_BATCHNORM_OUT_OF_MEMORY`), Error
   *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer; then nothing has changed.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * const model = { 'encoder.norm1.weight': [2, 3], 'encoder.norm1.bias': [0, 1] };
   * const norm = new LayerNorm(2).loadStateDict(model, { prefix: 'encoder.norm1' });
   * console.log(norm.weight); // Float32Array(2) [ 2, 3 ]
   */
  loadStateDict(state: AnyState, options?: StateOptions): this {
    const parts = RowNorm.partsOf(this);
    // What Keras calls the weight of an RMSNormalization, ONNX does too.
    const { norm } = this.#kind;
    const convention =
      norm === 'RMSNorm' && parts.config.convention === 'keras' ? 'onnx' : parts.config.convention;
    loadState({ ...parts, config: { ...parts.config, convention } }, state, options);
    return this;
  }

  /**
   * Forgets all forwards: no backward goes through them any more, and the layer holds no reference to the last x.
   *
   * @returns the layer itself.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * const norm = new LayerNorm(2);
   * norm.forward({ data: new Float32Array(2), shape: [1, 2] });
   * norm.clear(); // the tensor may be collected
   */
  clear(): this {
    this.#core.clear();
    return this;
  }

  /**
   * An immutable snapshot for inference, which finds the statistics of each row as the layer does.
   *
   * @param options `activation`: by default that of the layer.
   * @returns a frozen norm with the options and values of this layer.
   * @throws RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`), Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an
   *   array of the layer has lost its buffer, TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`).
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * const frozen = new LayerNorm(2, { eps: 1e-12 }).freeze({ activation: 'relu' });
   * console.log(frozen.run({ data: Float32Array.of(1, 3), shape: [1, 2] }).data); // Float32Array(2) [ 0, 1 ]
   */
  freeze(options?: { activation?: Activation }): F {
    const { activation: given } = readOptions(options, freezeNames);
    const { eps, dtype, activation } = this.#config;
    this.#core.checkOwn();
    const { weight, bias } = this.#core;
    return new FrozenNorm<D>(constructorKey, {
      kind: this.#kind,
      eps,
      dtype,
      activation: checkActivation(given) ?? activation,
      weight,
      bias,
    }) as object as F;
  }

  /** What `util.inspect` and `console.log` print. @internal */
  [inspect](): string {
    // The prototype has it too, and a proxy of a layer is none.
    if (!RowNorm.isLayer(this)) return 'RowNorm {}';
    return inspectedOf(this.#kind.norm, toldKind(this.#kind), this.#config);
  }
}

/** What cannot be replaced, and what to do instead. */
const cures = {
  weight: 'be written into, not replaced: norm.weight.set(values)',
  bias: 'be written into, not replaced: norm.bias.set(values)',
  training: 'be set by train() or eval()',
  config: 'be given to the constructor',
} as const;
refuseWrites(RowNorm.prototype, cures);
