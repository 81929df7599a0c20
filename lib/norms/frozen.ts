// Group, instance, layer and RMS norm for inference: what a layer has learned, as it is.
import { type Activation, checkActivation } from '../activation.js';
import type { Passes, RowForwardPass, RowGeometry } from '../backend/backend.js';
import { passesFor } from '../backend/index.js';
import type { AsyncOptions } from '../calls.js';
import { arithmeticOf, dtypeNames } from '../dtype.js';
import { oneValuePerRowError, stateError, typeError } from '../errors.js';
import { inferLater } from '../infer-later.js';
import { inspect, inspectedOf } from '../inspect.js';
import { defined, fieldsOf, jsonVersion, partFrom, type StateJSON, toNumbers } from '../json.js';
import { readAsync } from '../operations.js';
import { platform } from '../platform/node.js';
import { type Names, namesOf } from '../properties.js';
import { newResult } from '../result.js';
import { lengthOf } from '../typed-array.js';
import type { ArrayOf, DType, FloatArray, ParametersOf, Tensor, TensorLike } from '../types.js';
import {
  checkEps,
  checkLength,
  checkOneOf,
  checkOut,
  checkVaries,
  copyOf,
  inClassOf,
  newArray,
  type ReadTensor,
  readResidual,
  readRunOptions,
  readShape,
} from '../validate.js';
import {
  type Kind,
  kindFromJSON,
  kindToJSON,
  numberOfRows,
  parametersOf,
  type RowView,
  rowsOf,
  toldKind,
  valuesOfRow,
} from './rows.js';

/** What {@link FrozenNorm.run} may be given besides x. */
export interface FrozenNormRunOptions<D extends DType> {
  /** Where y goes: as long as x and of its dtype; x.data itself, or memory that overlaps neither x nor the residual. Default: new. */
  out?: ArrayOf<D>;
  /** Added before the activation: in the dtype and shape of x. Default: nothing. */
  residual?: TensorLike<ArrayOf<D>>;
}

/** What {@link FrozenNorm.toJSON} gives, and {@link FrozenNorm.fromJSON} takes. */
export interface FrozenNormJSON<D extends DType = DType> {
  /** The class. */
  type: 'FrozenNorm';
  /** Of this format. */
  version: 1;
  /** Which norm it is. */
  norm: 'GroupNorm' | 'InstanceNorm' | 'LayerNorm' | 'RMSNorm';
  /** Of a group norm. */
  groups?: number;
  /** Of a group or instance norm. */
  channels?: number;
  /** Of a group or instance norm. */
  axis?: number;
  /** Of a layer or RMS norm: the last dimensions. */
  shape?: number[];
  /** All but the values; what is undefined is absent. */
  config: {
    /** Added to the variance under the root. */
    eps: number;
    /** Of x and y. */
    dtype: D;
    /** What follows the normalization. */
    activation?: Activation;
  };
  /** The parameters that there are. */
  state: Pick<StateJSON, 'weight' | 'bias'>;
}

/** What a frozen norm is made of. @internal */
export interface FrozenNormParts<D extends DType> {
  readonly kind: Kind;
  readonly eps: number;
  readonly dtype: D;
  readonly activation: Activation | undefined;
  readonly weight: FloatArray | undefined;
  readonly bias: FloatArray | undefined;
}

/** Known to this library alone: nobody else makes one. @internal */
export const constructorKey = Symbol('frozen norm');

const runNames = namesOf(['out', 'residual']);
const runAsyncNames = namesOf(['out', 'residual', 'signal', 'transfer']);
const jsonNames = ['type', 'version', 'norm', 'groups', 'channels', 'axis', 'shape', 'config', 'state'];
const configNames = ['eps', 'dtype', 'activation'];
const stateNames = ['weight', 'bias'];

/** A call that has been checked. */
interface ReadRun<D extends DType> {
  readonly input: ReadTensor<ArrayOf<D>>;
  readonly geometry: RowGeometry;
  readonly residual: ArrayOf<D> | undefined;
  readonly out: ArrayOf<D> | undefined;
  /** As the caller has it. */
  readonly givenOut: ArrayOf<D> | undefined;
}

/**
 * A group, instance, layer or RMS norm for inference, as `freeze()` of such a layer makes it: immutable, keeps no x, and may run any
 * number of operations at a time.
 *
 * @typeParam D the dtype of x and y.
 * @example
 * import { RMSNorm } from 'batchnorm';
 *
 * const frozen = new RMSNorm(2, { eps: 1e-12 }).freeze();
 * console.log(frozen.run({ data: Float32Array.of(3, 3), shape: [1, 2] }).data); // Float32Array(2) [ 1, 1 ]
 */
export class FrozenNorm<D extends DType = DType> {
  readonly #parts: FrozenNormParts<D>;
  readonly #rows: RowView;
  readonly #passes: Passes<ArrayOf<D>>;
  #disposed = false;
  /** Statistics of a synchronous call, which nobody asks for. */
  #mean = newArray<Float64Array>('float64', 0);
  #variance = this.#mean;

  /** Whether a value is one indeed, which a proxy of one is not. @internal */
  static isNorm(value: object): value is FrozenNorm {
    return #parts in value;
  }

  /** @internal */
  static partsOf<D extends DType>(norm: FrozenNorm<D>): FrozenNormParts<D> {
    return norm.#parts;
  }

  /** @internal */
  constructor(key: typeof constructorKey, parts: FrozenNormParts<D>) {
    if (key !== constructorKey)
      throw typeError('FrozenNorm', 'be made by freeze() of a layer or fromJSON()', key);
    const { weight, bias } = parts;
    this.#parts = { ...parts, weight: weight && copyOf(weight), bias: bias && copyOf(bias) };
    this.#rows = rowsOf(parts.kind);
    this.#passes = passesFor(parts.dtype);
    platform.markAsUncloneable(this);
  }

  /** Of x and y. */
  get dtype(): D {
    return this.#parts.dtype;
  }

  /** Added to the variance under the root. */
  get eps(): number {
    return this.#parts.eps;
  }

  /** What follows the normalization; undefined for nothing. */
  get activation(): Activation | undefined {
    return this.#parts.activation;
  }

  /**
   * Normalizes the rows of x, as forward of the layer does.
   *
   * @param x of the dtype of the layer, as its forward takes it.
   * @param options `out` to write to memory that is there already, `residual` to add a tensor.
   * @returns y, in `out` or new.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, RangeError
   *   (`ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL`) of an instance norm with one value per sample and channel, Error
   *   (`ERR_BATCHNORM_DISPOSED`) after disposal, (`ERR_BATCHNORM_BUFFER_CHANGED`) where a getter takes memory away; then nothing is written.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * const out = new Float32Array(2);
   * new LayerNorm(2, { eps: 1e-12 }).freeze().run({ data: Float32Array.of(1, 3), shape: [1, 2] }, { out });
   * console.log(out); // Float32Array(2) [ -1, 1 ]
   */
  run(x: TensorLike<ArrayOf<D>>, options?: FrozenNormRunOptions<D>): Tensor<ArrayOf<D>> {
    const { input, geometry, residual, out, givenOut } = this.#read('run()', x, options, runNames);
    const y = out ?? newResult<ArrayOf<D>>(input.dtype, input.size);
    const rows = numberOfRows(geometry);
    if (lengthOf(this.#mean) !== rows) {
      // Both or none.
      const mean = newArray<Float64Array>('float64', rows);
      this.#variance = newArray('float64', rows);
      this.#mean = mean;
    }
    const pass = this.#pass(geometry, { x: input.data, y, residual }, this.#mean, this.#variance);
    if (pass.eps === 0) {
      this.#passes.forwardRows({ ...pass, y: undefined });
      checkVaries(this.#variance, 'row');
    }
    this.#passes.forwardRows(pass);
    return { data: givenOut ?? inClassOf(input, y), shape: input.shape };
  }

  /**
   * The same off the event loop, under the rules of {@link FrozenBatchNorm.runAsync}.
   *
   * @param x as {@link run} takes it.
   * @param options those of {@link run}, `signal` to cancel what has not begun, `transfer` to give the memory of x away.
   * @returns a promise of the result, in `out`, in the memory that was moved in, or new. Nothing is thrown: it rejects. With eps 0 a row that does not vary has NaN.
   * @throws what {@link run} throws; RangeError (`ERR_BATCHNORM_NOT_TRANSFERABLE`) for memory that cannot be moved in; the reason of
   *   `signal`. In full: `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`,
   *   `ERR_BATCHNORM_ONE_VALUE_PER_CHANNEL`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_DISPOSED`, `ERR_BATCHNORM_NOT_TRANSFERABLE`,
   *   `ERR_BATCHNORM_BUFFER_CHANGED`, `ERR_BATCHNORM_NO_THREAD`.
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * const frozen = new LayerNorm(2).freeze();
   * console.log((await frozen.runAsync({ data: new Float32Array(4), shape: [2, 2] })).shape); // [ 2, 2 ]
   */
  async runAsync(
    x: TensorLike<ArrayOf<D>>,
    options?: FrozenNormRunOptions<D> & AsyncOptions,
  ): Promise<Tensor<ArrayOf<D>>> {
    const { signal, transfer } = readAsync(options);
    const { geometry, ...call } = this.#read('runAsync()', x, options, runAsyncNames);
    const rows = numberOfRows(geometry);
    const mean = newArray<Float64Array>('float64', rows);
    const variance = newArray<Float64Array>('float64', rows);
    return inferLater(
      call,
      signal,
      transfer,
      () => {},
      (memory, slot) => {
        const pass = this.#pass(geometry, memory, mean, variance);
        this.#passes.forwardRowsLater(pass, slot);
        return pass;
      },
      () => {},
    );
  }

  /**
   * Everything that the norm is, as plain objects and arrays of numbers: JSON.stringify() calls it.
   *
   * @returns what {@link fromJSON} takes.
   * @example
   * import { FrozenNorm, LayerNorm } from 'batchnorm';
   *
   * const text = JSON.stringify(new LayerNorm(2).freeze({ activation: 'relu' }));
   * console.log(FrozenNorm.fromJSON(JSON.parse(text)).activation); // relu
   */
  toJSON(): FrozenNormJSON<D> {
    const { kind, eps, dtype, activation, weight, bias } = this.#parts;
    return {
      type: 'FrozenNorm',
      version: jsonVersion,
      ...kindToJSON(kind),
      config: defined({ eps, dtype, activation }),
      state: { ...(weight && { weight: toNumbers(weight) }), ...(bias && { bias: toNumbers(bias) }) },
    };
  }

  /**
   * A norm that gives the same bits as the one that {@link toJSON} was called on.
   *
   * @param json what toJSON gave, or what JSON.parse made of its text: all of it, and nothing else.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) naming the field that does not fit.
   * @example
   * import { FrozenNorm, GroupNorm } from 'batchnorm';
   *
   * const again = FrozenNorm.fromJSON(JSON.parse(JSON.stringify(new GroupNorm(2, 4).freeze())));
   * console.log(again.eps); // 0.00001
   */
  static fromJSON<D extends DType = DType>(json: FrozenNormJSON<D>): FrozenNorm<D> {
    const fields = fieldsOf('json', json, jsonNames);
    const kind = kindFromJSON('FrozenNorm', fields);
    const { eps, dtype, activation } = fieldsOf('json.config', fields.config, configNames);
    const state = fieldsOf('json.state', fields.state, stateNames);
    const checkedDtype = checkOneOf('json.config.dtype', dtype, dtypeNames) as D;
    const values = (name: 'weight' | 'bias') =>
      partFrom<ParametersOf<ArrayOf<D>>>(
        `json.state.${name}`,
        state[name],
        state[name] !== undefined,
        parametersOf(kind),
        arithmeticOf(checkedDtype),
      );
    return new FrozenNorm<D>(constructorKey, {
      kind,
      eps: checkEps(eps, 'json.config.eps'),
      dtype: checkedDtype,
      activation: checkActivation(activation, 'json.config.activation'),
      weight: values('weight'),
      bias: values('bias'),
    });
  }

  /**
   * Refuses every later call. Doing it twice is harmless.
   *
   * @example
   * import { LayerNorm } from 'batchnorm';
   *
   * const frozen = new LayerNorm(3).freeze();
   * frozen[Symbol.dispose](); // or `using frozen = …` where the language has it
   */
  [Symbol.dispose](): void {
    this.#disposed = true;
  }

  /** What `util.inspect` and `console.log` print. @internal */
  [inspect](): string {
    // The prototype has it too, and a proxy of a norm is none.
    if (!FrozenNorm.isNorm(this)) return 'FrozenNorm {}';
    const { kind, eps, dtype, activation } = this.#parts;
    const state = this.#disposed ? 'disposed of' : '';
    return inspectedOf(`Frozen${kind.norm}`, toldKind(kind), { eps, dtype, activation }, state);
  }

  #read(call: string, x: unknown, options: FrozenNormRunOptions<D> | undefined, names: Names): ReadRun<D> {
    this.#checkAlive(call);
    const { out: givenOut, residual: givenResidual } = readRunOptions(options, names);
    const input = readShape<ArrayOf<D>>('x', x, this.#parts.dtype);
    const geometry = this.#rows.geometryOf(input);
    if (this.#rows.needsMany && valuesOfRow(geometry) === 1 && input.size > 0)
      throw oneValuePerRowError(input.shape, false);
    const residual = givenResidual === undefined ? undefined : readResidual(givenResidual, input);
    checkLength(input);
    if (residual !== undefined) checkLength(residual);
    const out = givenOut === undefined ? undefined : checkOut(givenOut, input);
    // A getter may have disposed of it meanwhile.
    this.#checkAlive(call);
    return { input, geometry, residual: residual?.data, out, givenOut };
  }

  #checkAlive(call: string): void {
    if (this.#disposed)
      throw stateError(
        'DISPOSED',
        `a frozen layer must not be used after its disposal, got a call of ${call}`,
      );
  }

  #pass(
    geometry: RowGeometry,
    { x, y, residual }: { x: ArrayOf<D>; y: ArrayOf<D>; residual: ArrayOf<D> | undefined },
    mean: Float64Array,
    variance: Float64Array,
  ): RowForwardPass<ArrayOf<D>> {
    const { eps, activation, weight, bias } = this.#parts;
    return {
      geometry,
      centred: this.#rows.centred,
      eps,
      x,
      y,
      weight: weight as ParametersOf<ArrayOf<D>> | undefined,
      bias: bias as ParametersOf<ArrayOf<D>> | undefined,
      mean,
      variance,
      relu: activation !== undefined,
      residual,
      mask: undefined,
    };
  }
}
