// Group norm and instance norm.
import type { Activation } from '../activation.js';
import { checkActivation } from '../activation.js';
import type { AsyncOptions, ForwardOptions } from '../calls.js';
import { checkDecay } from '../config.js';
import { type Decay, decayOf, momentumOf } from '../conventions.js';
import { constructorKey, FrozenBatchNorm } from '../frozen.js';
import { namesOf } from '../properties.js';
import { refuseWrites } from '../read-only.js';
import { RunningStatistics } from '../running.js';
import type { ArrayOf, DType, Tensor, TensorLike } from '../types.js';
import { checkDivisors, checkInteger, checkVariance, maxChannels, readOptions } from '../validate.js';
import {
  type GroupNormConfig,
  type GroupNormOptions,
  type InstanceNormConfig,
  type InstanceNormOptions,
  readGroupConfig,
  readInstanceConfig,
} from './config.js';
import type { FrozenNorm } from './frozen.js';
import { RowNorm } from './row-norm.js';
import { checkGroups } from './rows.js';
import { type GroupNormJSON, type InstanceNormJSON, jsonOfNorm, readNormJSON } from './saved.js';

const { freeze } = Object;
const freezeNames = namesOf(['activation']);

/**
 * Group normalization: of each sample, the channels of a group together are normalized by their own mean and variance (Wu and He,
 * "Group Normalization", 2018). What the batch has besides changes nothing, so that training and inference are the same.
 *
 * @typeParam D the dtype of x, y and their gradients.
 * @example
 * import { GroupNorm } from 'batchnorm';
 *
 * const norm = new GroupNorm(2, 4, { eps: 1e-12 }); // two groups of two channels
 * const x = { data: Float32Array.of(1, 3, 10, 30), shape: [1, 4] };
 * console.log(norm.forward(x).data); // Float32Array(4) [ -1, 1, -1, 1 ]
 */
export class GroupNorm<D extends DType = 'float32'> extends RowNorm<D, GroupNormConfig<D>> {
  readonly #groups: number;
  readonly #channels: number;

  /**
   * @param groups into how many the channels are parted; a divisor of `channels`.
   * @param channels values of weight and of bias, an integer from 1 on.
   * @param options by default PyTorch's: axis 1, eps 1e-5, float32, weight and bias.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit.
   */
  constructor(groups: number, channels: number, options: GroupNormOptions<D> = {}) {
    const checkedChannels = checkInteger('channels', channels, 1, maxChannels);
    const checkedGroups = checkGroups(groups, checkedChannels);
    const config = readGroupConfig(options);
    super({ norm: 'GroupNorm', groups: checkedGroups, channels: checkedChannels, axis: config.axis }, config);
    this.#groups = checkedGroups;
    this.#channels = checkedChannels;
  }

  /** Into how many the channels are parted. */
  get groups(): number {
    return this.#groups;
  }

  /** Values of weight and of bias. */
  get channels(): number {
    return this.#channels;
  }

  /**
   * Everything that the layer is, as plain objects and arrays of numbers: JSON.stringify() calls it.
   *
   * @returns what {@link fromJSON} takes.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer.
   * @example
   * import { GroupNorm } from 'batchnorm';
   *
   * console.log(JSON.parse(JSON.stringify(new GroupNorm(2, 4))).groups); // 2
   */
  toJSON(): GroupNormJSON<D> {
    return jsonOfNorm<D>(this) as GroupNormJSON<D>;
  }

  /**
   * The layer that {@link toJSON} was called on, bit for bit.
   *
   * @param json what toJSON gave, or what JSON.parse made of its text: all of it, and nothing else.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) naming the field that does not fit.
   * @example
   * import { GroupNorm } from 'batchnorm';
   *
   * console.log(GroupNorm.fromJSON(new GroupNorm(2, 4).toJSON()).channels); // 4
   */
  static fromJSON<D extends DType = 'float32'>(json: GroupNormJSON<D>): GroupNorm<D> {
    return readNormJSON<D, GroupNorm<D>>('GroupNorm', json, (kind, config) =>
      kind.norm === 'GroupNorm' ? new GroupNorm<D>(kind.groups, kind.channels, config) : undefined,
    );
  }
}
refuseWrites(GroupNorm.prototype, {
  groups: 'be given to the constructor',
  channels: 'be given to the constructor',
});

/** What forward of an instance norm may be given besides x. */
export type InstanceForwardOptions<D extends DType> = Pick<
  ForwardOptions<ArrayOf<D>>,
  'out' | 'residual' | 'updateStats'
>;

/**
 * Instance normalization: each channel of each sample is normalized by its own mean and variance (Ulyanov, Vedaldi and Lempitsky,
 * "Instance Normalization", 2016). As in PyTorch it has neither parameters nor running statistics unless they are asked for; with
 * `trackRunningStats` evaluation is that of a batch norm with the mean of the statistics of the samples.
 *
 * @typeParam D the dtype of x, y and their gradients.
 * @example
 * import { InstanceNorm } from 'batchnorm';
 *
 * const norm = new InstanceNorm(2, { eps: 1e-12 });
 * const x = { data: Float32Array.of(1, 3, 10, 30), shape: [1, 2, 2] };
 * console.log(norm.forward(x).data); // Float32Array(4) [ -1, 1, -1, 1 ]
 */
export class InstanceNorm<D extends DType = 'float32'> extends RowNorm<
  D,
  InstanceNormConfig<D>,
  FrozenNorm<D> | FrozenBatchNorm<D>
> {
  readonly #channels: number;
  readonly #running: RunningStatistics | undefined;

  /**
   * @param channels an integer from 1 on.
   * @param options by default PyTorch's: axis 1, eps 1e-5, float32, no weight, no bias, no running statistics.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit.
   */
  constructor(channels: number, options: InstanceNormOptions<D> = {}) {
    const checked = checkInteger('channels', channels, 1, maxChannels);
    const config = readInstanceConfig(options);
    const { axis, decay, unbiasedRunningVar, trackRunningStats } = config;
    const running = trackRunningStats ? new RunningStatistics(checked, decay, unbiasedRunningVar) : undefined;
    super({ norm: 'InstanceNorm', channels: checked, axis }, config, running);
    this.#channels = checked;
    this.#running = running;
  }

  /** Of x. */
  get channels(): number {
    return this.#channels;
  }

  /** The live array, one value per channel, at first 0; null without trackRunningStats. */
  get runningMean(): Float64Array | null {
    return this.#running?.mean ?? null;
  }

  /** The live array, one value per channel, at first 1; null without trackRunningStats. */
  get runningVar(): Float64Array | null {
    return this.#running?.variance ?? null;
  }

  /** Training batches whose statistics were offered to the running ones. */
  get batchesTracked(): number {
    return this.#running?.batchesTracked ?? 0;
  }

  /** Updates of a channel's running statistics that were left out because they would not have been finite. */
  get rejectedUpdates(): number {
    return this.#running?.rejectedUpdates ?? 0;
  }

  /** Weight of the old running value, or 'cumulative': may be written at any time. */
  get decay(): Decay {
    return this.config.decay;
  }

  /**
   * From the next batch on.
   *
   * @param value a number from 0 to 1, or 'cumulative'.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`).
   */
  set decay(value: Decay) {
    const decay = checkDecay(value);
    this.#running?.setDecay(decay);
    this.configure(freeze({ ...this.config, decay }));
  }

  /** {@link decay} in the meaning of the layer's `convention`, as of {@link BatchNorm.momentum}. */
  get momentum(): number | null | undefined {
    const { convention, decay } = this.config;
    return convention && momentumOf(convention, decay);
  }

  /**
   * From the next batch on.
   *
   * @param value in the meaning of the convention.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), also without a convention; RangeError (`ERR_BATCHNORM_INVALID_VALUE`,
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`).
   */
  set momentum(value: number | null) {
    this.decay = decayOf(this.config.convention, value);
  }

  override forward(x: TensorLike<ArrayOf<D>>, options?: InstanceForwardOptions<D>): Tensor<ArrayOf<D>> {
    return super.forward(x, options);
  }

  override async forwardAsync(
    x: TensorLike<ArrayOf<D>>,
    options?: InstanceForwardOptions<D> & AsyncOptions,
  ): Promise<Tensor<ArrayOf<D>>> {
    return super.forwardAsync(x, options);
  }

  /**
   * Running statistics as those of a new layer.
   *
   * @returns the layer itself.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer.
   * @example
   * import { InstanceNorm } from 'batchnorm';
   *
   * console.log(new InstanceNorm(1, { trackRunningStats: true }).resetRunningStats().batchesTracked); // 0
   */
  resetRunningStats(): this {
    RowNorm.partsOf<D>(this).core.checkOwn();
    this.#running?.reset();
    return this;
  }

  /**
   * An immutable snapshot for inference: with running statistics that of a batch norm, which evaluation is.
   *
   * @param options `activation`: by default that of the layer.
   * @throws RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`), Error (`ERR_BATCHNORM_BUFFER_CHANGED`), TypeError
   *   (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), as of {@link BatchNorm.freeze}.
   * @example
   * import { InstanceNorm } from 'batchnorm';
   *
   * const frozen = new InstanceNorm(1, { trackRunningStats: true, eps: 0 }).freeze(); // mean 0 and variance 1, at first
   * console.log(frozen.run({ data: Float32Array.of(1, 2), shape: [1, 1, 2] }).data); // Float32Array(2) [ 1, 2 ]
   */
  override freeze(options?: { activation?: Activation }): FrozenNorm<D> | FrozenBatchNorm<D> {
    const running = this.#running;
    if (running === undefined) return super.freeze(options);
    const { activation: given } = readOptions(options, freezeNames);
    const { axis, eps, dtype, activation } = this.config;
    const { core } = RowNorm.partsOf<D>(this);
    core.checkOwn();
    const { mean, variance } = running;
    checkVariance('runningVar', variance, this.#channels);
    checkDivisors('runningVar', variance, eps);
    return new FrozenBatchNorm(constructorKey, {
      channels: this.#channels,
      axis,
      eps,
      dtype,
      weight: core.weight,
      bias: core.bias,
      mean,
      variance,
      activation: checkActivation(given) ?? activation,
      missing: 'propagate',
    });
  }

  /**
   * Everything that the layer is, as plain objects and arrays of numbers: JSON.stringify() calls it.
   *
   * @returns what {@link fromJSON} takes.
   * @throws Error (`ERR_BATCHNORM_BUFFER_CHANGED`) where an array of the layer has lost its buffer.
   * @example
   * import { InstanceNorm } from 'batchnorm';
   *
   * console.log(JSON.parse(JSON.stringify(new InstanceNorm(4))).channels); // 4
   */
  toJSON(): InstanceNormJSON<D> {
    return jsonOfNorm<D>(this) as InstanceNormJSON<D>;
  }

  /**
   * The layer that {@link toJSON} was called on, bit for bit.
   *
   * @param json what toJSON gave, or what JSON.parse made of its text: all of it, and nothing else.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) naming the field that does not fit.
   * @example
   * import { InstanceNorm } from 'batchnorm';
   *
   * console.log(InstanceNorm.fromJSON(new InstanceNorm(4).toJSON()).channels); // 4
   */
  static fromJSON<D extends DType = 'float32'>(json: InstanceNormJSON<D>): InstanceNorm<D> {
    return readNormJSON<D, InstanceNorm<D>>('InstanceNorm', json, (kind, config) =>
      kind.norm === 'InstanceNorm' ? new InstanceNorm<D>(kind.channels, config) : undefined,
    );
  }
}
refuseWrites(InstanceNorm.prototype, {
  channels: 'be given to the constructor',
  runningMean: 'be written into, not replaced: norm.runningMean.set(values)',
  runningVar: 'be written into, not replaced: norm.runningVar.set(values)',
  batchesTracked: 'be set by loadStateDict() or resetRunningStats()',
  rejectedUpdates: 'be set by resetRunningStats()',
});
