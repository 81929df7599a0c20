/// <reference lib="esnext.disposable" preserve="true" />
import type { Activation } from './activation.js';
import type { InferPresentPass, Passes } from './backend/backend.js';
import { backend, passesFor } from './backend/index.js';
import { arithmeticOf, dtypeNames, isInteger } from './dtype.js';
import { stateError, typeError } from './errors.js';
import type {
  DefaultRunResultOf,
  FrozenOptions,
  FrozenParts,
  MeanStdOptions,
  RunAsyncOptions,
  RunOptions,
  RunResultOf,
} from './frozen-options.js';
import { givenMissing, jsonOfParts, partsOfJSON, partsOfMeanStd, partsOfState } from './frozen-parts.js';
import { deliver, isShared, move } from './handover.js';
import { inferLater } from './infer-later.js';
import { inspect, inspected } from './inspect.js';
import type { FrozenBatchNormJSON } from './json.js';
import { operate, readAsync } from './operations.js';
import { platform } from './platform/node.js';
import { checkNoneMissing, type Missing } from './presence.js';
import { areCallsUntouched, areRunsUntouched, namesOf } from './properties.js';
import { newResult } from './result.js';
import { isShape, shapeOf } from './shapes.js';
import { isStaged, stage, takeStaging, unstage } from './staging.js';
import type { AnyState } from './state.js';
import {
  checkNoneMissingStored,
  type GivenStored,
  imputedBias,
  isStored,
  readStored,
  type StoredCall,
  spanOf,
  storedPass,
  wholeOf,
} from './stored.js';
import { bufferOf, extentOf, typedArrayType, viewOf } from './typed-array.js';
import type {
  ArrayOf,
  DType,
  IntegerArray,
  ParametersOf,
  ResultDTypeOf,
  Tensor,
  TensorArray,
  TensorLike,
  ValueArray,
  WrittenOf,
} from './types.js';
import {
  checkKept,
  checkLength,
  checkOut,
  copyOf,
  geometryOf,
  inClassOf,
  newMemory,
  type ReadTensor,
  type ReadView,
  readCallOptions,
  readResidual,
  readRunOptions,
  type TensorProperties,
  tensorProperties,
  toDtype,
  viewOfProperties,
} from './validate.js';

/** Keeps the constructor to this library, which has checked what it gives. @internal */
export const constructorKey = Symbol('frozen');

const runNames = namesOf(['out', 'residual', 'outAxis', 'dtype'], areRunsUntouched);
const runAsyncNames = namesOf(
  ['out', 'residual', 'outAxis', 'dtype', 'signal', 'transfer'],
  areCallsUntouched,
);

/** What a run reads of x and its options. */
interface ReadRun<T extends TensorArray> {
  input: ReadTensor<T>;
  outer: number;
  inner: number;
  residual: T | undefined;
  /** Where the result is to be written. */
  out: T | undefined;
  /** As the caller has it. */
  givenOut: T | undefined;
  /** Of a run from one storage type to another. */
  stored: undefined;
}

/** A run that was checked: what need not be checked in another like it. */
interface LastRun {
  readonly shape: readonly number[];
  /** What its arrays call themselves. */
  readonly type: string;
  readonly dtype: DType;
  readonly size: number;
  readonly outer: number;
  readonly inner: number;
  readonly passes: Passes<TensorArray>;
  readonly memory: ArrayBuffer;
}

/** The same of a run from one storage type to another, or to another place. */
interface ReadStoredRun {
  stored: StoredCall;
}

/** Coefficients for data of one dtype. */
interface Frozen {
  readonly passes: Passes<TensorArray>;
  readonly memory: ArrayBuffer;
  /** Asynchronous calls that may still read it. One that came to nothing stays counted: then the garbage collector frees it. */
  readers: number;
}

/**
 * Batch normalization with fixed statistics: an immutable snapshot whose coefficients are computed once. Made by {@link BatchNorm.freeze},
 * {@link FrozenBatchNorm.from} or {@link FrozenBatchNorm.fromJSON}. What can be saved, or sent to a worker, is
 * {@link FrozenBatchNorm.toJSON}; structuredClone does not clone it.
 *
 * @typeParam D the dtype of the data it takes.
 * @example
 * import { BatchNorm } from 'batchnorm';
 *
 * const frozen = new BatchNorm(2, { eps: 1e-12 }).freeze(); // mean 0 and variance 1, at first
 * const y = frozen.run({ data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] });
 * console.log(y.data); // Float32Array(4) [ 1, 2, 3, 4 ]
 */
export class FrozenBatchNorm<D extends DType = DType> {
  #parts: FrozenParts<D>;
  #disposed = false;
  #last: LastRun | undefined;
  readonly #frozen: Record<DType, Frozen | undefined> = {
    float32: undefined,
    float64: undefined,
    bfloat16: undefined,
    float16: undefined,
  };

  /** Whether a value is one indeed, which a proxy of one is not. @internal */
  static isLayer(value: object): value is FrozenBatchNorm {
    return #parts in value;
  }

  /** @internal */
  constructor(key: typeof constructorKey, parts: FrozenParts<D>) {
    if (key !== constructorKey)
      throw stateError(
        'INVALID_TYPE',
        'a FrozenBatchNorm must be made by freeze() or FrozenBatchNorm.from(), got a call of its constructor',
      );
    const { weight, bias, mean, variance } = parts;
    // The caller goes on writing to its arrays.
    this.#parts = {
      ...parts,
      weight: weight && copyOf(weight),
      bias: bias && copyOf(bias),
      mean: copyOf(mean),
      variance: copyOf(variance),
    };
    platform.markAsUncloneable(this);
  }

  /** Values per channel array. */
  get channels(): number {
    return this.#parts.channels;
  }

  /** The channel axis; −1 is the last. */
  get axis(): number {
    return this.#parts.axis;
  }

  /** Added to the variance under the root. */
  get eps(): number {
    return this.#parts.eps;
  }

  /** What follows the normalization; undefined for nothing. */
  get activation(): Activation | undefined {
    return this.#parts.activation;
  }

  /** What a NaN in x means. */
  get missing(): Missing {
    return this.#parts.missing;
  }

  /** Of the data it takes: that of the layer; undefined, either, where it was made from a state without naming one. */
  get dtype(): D | undefined {
    return this.#parts.dtype;
  }

  /** The layer's own arrays: only to be read. @internal */
  get parts(): Readonly<FrozenParts<D>> {
    return this.#parts;
  }

  /**
   * A frozen layer from a state, as {@link BatchNorm.stateDict} gives it or a checkpoint holds it. The state needs
   * running_mean and running_var; weight and bias may be absent (1 and 0).
   *
   * @param state is copied: what {@link BatchNorm.loadStateDict} takes; its arrays may be of either dtype, whatever `dtype` says.
   * @param options axis 1, eps 1e-5 (Keras: 1e-3), either dtype and no activation by default: a state does not say. `prefix`
   *   for a part of a whole model; `strict: false` passes over what is no part of a batch norm.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`) naming the entry or the option that does not fit, RangeError
   *   (`ERR_BATCHNORM_OUT_OF_MEMORY`).
   * @example
   * import { FrozenBatchNorm } from 'batchnorm';
   *
   * const state = { running_mean: Float64Array.of(1, 2), running_var: Float64Array.of(4, 4) };
   * const frozen = FrozenBatchNorm.from(state, { axis: -1, eps: 1e-12 });
   * console.log(frozen.run({ data: Float32Array.of(3, 6), shape: [1, 2] }).data); // Float32Array(2) [ 1, 2 ]
   */
  static from<D extends DType = 'float32' | 'float64'>(
    state: AnyState,
    options: FrozenOptions<D> = {},
  ): FrozenBatchNorm<D> {
    return new FrozenBatchNorm(constructorKey, partsOfState(state, options));
  }

  /**
   * (x · scale − mean) / std: what models of pictures and of sound want of what they are given, with the constants that come with
   * them.
   *
   * @param options one mean and one std per channel; scale 1, axis 1 and any dtype by default.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`,
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`) naming what does not fit.
   * @example
   * import { FrozenBatchNorm } from 'batchnorm';
   *
   * const normalize = FrozenBatchNorm.fromMeanStd({
   *   mean: [0.485, 0.456, 0.406],
   *   std: [0.229, 0.224, 0.225],
   *   scale: 1 / 255,
   *   axis: -1,
   * });
   * const pixels = { data: Uint8Array.of(124, 116, 104, 0, 0, 0), shape: [1, 1, 2, 3] };
   * const { data, shape } = normalize.run(pixels, { outAxis: 1 });
   * console.log(shape, data[1].toFixed(2)); // [ 1, 3, 1, 2 ] -2.12
   */
  static fromMeanStd<D extends DType = DType>(options: MeanStdOptions<D>): FrozenBatchNorm<D> {
    return new FrozenBatchNorm(constructorKey, partsOfMeanStd(options));
  }

  /**
   * Everything that the layer is, as plain objects and arrays of numbers: JSON.stringify() calls it. NaN, Infinity, -Infinity
   * and -0, which JSON does not know, are strings.
   *
   * @returns what {@link fromJSON} takes; of a layer that has been disposed of too.
   * @example
   * import { BatchNorm, FrozenBatchNorm } from 'batchnorm';
   *
   * const text = JSON.stringify(new BatchNorm(3).freeze({ activation: 'relu' }));
   * console.log(FrozenBatchNorm.fromJSON(JSON.parse(text)).activation); // relu
   */
  toJSON(): FrozenBatchNormJSON<D> {
    return jsonOfParts(this.#parts);
  }

  /**
   * A layer that gives the same bits as the one that {@link toJSON} was called on. Other than in a state its values may be NaN or
   * infinite.
   *
   * @param json what toJSON gave, or what JSON.parse made of its text: all of it, and nothing else.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`) naming the field that does not fit.
   * @example
   * import { BatchNorm, FrozenBatchNorm } from 'batchnorm';
   *
   * const frozen = new BatchNorm(3, { axis: -1 }).freeze();
   * const again = FrozenBatchNorm.fromJSON(JSON.parse(JSON.stringify(frozen)));
   * console.log(again.channels, again.axis); // 3 -1
   */
  static fromJSON<D extends DType = DType>(json: FrozenBatchNormJSON<D>): FrozenBatchNorm<D> {
    return new FrozenBatchNorm(constructorKey, partsOfJSON(json));
  }

  /** What `util.inspect` and `console.log` print. @internal */
  [inspect](): string {
    // The prototype has it too, and a proxy of a layer is none.
    if (!FrozenBatchNorm.isLayer(this)) return 'FrozenBatchNorm {}';
    const { channels, axis, eps, dtype, activation } = this.#parts;
    return inspected(
      'FrozenBatchNorm',
      channels,
      { axis, eps, dtype, activation, missing: givenMissing(this.#parts) },
      this.#disposed ? 'disposed of' : '',
    );
  }

  /**
   * y = activation((x − mean) / √(variance + eps) · weight + bias + residual), of the shape of x, which may be of any rank that has
   * the axis. An empty x gives an empty y.
   *
   * @param x of the dtype of the layer, or integers of 8 or 16 bits, with `channels` at the channel axis; in 32 bits or less its values may
   *   lie anywhere, as `strides` and `offset` say.
   * @param options `out` to write to memory that is there already, in the type that its class says; `dtype` of the result; `outAxis` to
   *   move the channel axis on the way; `residual` to add a tensor.
   * @returns y, in `out` or new: of the dtype of x, or float32 of integers, unless `out` or `dtype` says otherwise.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`) for what does not fit, Error
   *   (`ERR_BATCHNORM_DISPOSED`) after disposal; then nothing is written.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const frozen = new BatchNorm(3, { axis: -1, eps: 1e-12 }).freeze({ activation: 'relu' });
   * const x = { data: Float32Array.of(1, -2, 3), shape: [1, 3] };
   * const residual = { data: Float32Array.of(1, 1, 1), shape: [1, 3] };
   * const out = new Float32Array(3);
   * frozen.run(x, { residual, out });
   * console.log(out); // Float32Array(3) [ 2, 0, 4 ]
   */
  run<
    T extends ArrayOf<D> | IntegerArray,
    N extends ResultDTypeOf<T> = never,
    O extends RunResultOf<T, N, D> = never,
  >(x: TensorLike<T>, options?: RunOptions<T, N, O>): Tensor<WrittenOf<O, DefaultRunResultOf<T, N>>>;
  run<T extends ArrayOf<D>>(x: TensorLike<T>, options?: RunOptions<T>): Tensor<ValueArray> {
    if (this.#disposed) throw disposedError('run()');
    const { out, residual, outAxis, dtype } = readRunOptions(options, runNames);
    const { data, shape, dims, stride, strides, offset } = tensorProperties('x', x, this.#parts.dtype);
    const last = this.#last;
    if (
      last !== undefined &&
      residual === undefined &&
      outAxis === undefined &&
      dtype === undefined &&
      stride === undefined &&
      strides === undefined &&
      isShape(shape === undefined ? dims : shape, last.shape) &&
      typedArrayType(data) === last.type &&
      (out === undefined || typedArrayType(out) === last.type) &&
      // What stands in a shape may be a getter that has disposed of it.
      !this.#disposed
    ) {
      const y = out === undefined ? newResult<T>(last.dtype, last.size) : (out as T);
      const result = { data: y, shape: shapeOf(last.shape) };
      try {
        // Checks how long they are, last of all.
        last.passes.runFrozen(last.outer, last.inner, last.memory, data as T, y);
        return result;
      } catch {
        // Nothing is written: what is wrong is said below.
      }
    }
    return this.#runAny<T>(
      x,
      { data, shape, dims, stride, strides, offset },
      { out, residual, outAxis, dtype },
    );
  }

  #runAny<T extends TensorArray>(
    x: unknown,
    properties: TensorProperties,
    given: GivenStored,
  ): Tensor<ValueArray> {
    const read = this.#check<T>('run()', x, properties, given);
    if (read.stored !== undefined) return this.#runStored(read.stored);
    const { input, outer, inner, residual, out, givenOut } = read;
    const { data, shape, size, dtype } = input;
    const y = out ?? newResult<T>(dtype, size);
    if (this.#parts.missing === 'impute') {
      passesFor<T>(dtype).inferPresent(this.#imputing(dtype, outer, inner, data, y, residual));
      return { data: givenOut ?? inClassOf(input, y), shape };
    }
    const { passes, memory } = this.#frozen[dtype] ?? this.#freeze(dtype);
    if (residual === undefined && this.#parts.missing === 'propagate' && !input.isHalves)
      this.#last = {
        shape: shapeOf(shape),
        type: typedArrayType(data) as string,
        dtype,
        size,
        outer,
        inner,
        passes,
        memory,
      };
    // What is absent is not given: the binding need not look at it.
    if (residual === undefined) passes.runFrozen(outer, inner, memory, data, y);
    else passes.runFrozen(outer, inner, memory, data, y, residual);
    return { data: givenOut ?? inClassOf(input, y), shape };
  }

  /**
   * The same off the event loop, on the library's own threads: neither JavaScript nor libuv's pool waits. Operations begin
   * in the order of the calls.
   *
   * SharedArrayBuffers are read and written where they are, while others may write to them; `transfer` moves x in. All
   * other memory is copied: the caller may change x after the call, and `out` is written when the promise resolves.
   *
   * On the WebAssembly backend it computes in a turn of the event loop of its own.
   *
   * @param x as {@link run} takes it.
   * @param options those of {@link run}, `signal` to cancel what has not begun, `transfer` to give the memory of x away.
   * @returns a promise of the result, in `out`, in the memory that was moved in, or new. Nothing is thrown: it rejects.
   * @throws what {@link run} throws; RangeError (`ERR_BATCHNORM_NOT_TRANSFERABLE`) for memory that cannot be moved in; Error
   *   (`ERR_BATCHNORM_BUFFER_CHANGED`) where `out` has lost its buffer meanwhile; the reason of `signal`. In full:
   *   `ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OVERLAP`,
   *   `ERR_BATCHNORM_OUT_OF_MEMORY`, `ERR_BATCHNORM_DISPOSED`, `ERR_BATCHNORM_NOT_TRANSFERABLE`,
   *   `ERR_BATCHNORM_BUFFER_CHANGED`, `ERR_BATCHNORM_NO_THREAD`.
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const frozen = new BatchNorm(3).freeze();
   * const x = { data: new Float32Array(2 * 3 * 8), shape: [2, 3, 8] };
   * const y = await frozen.runAsync(x); // x is copied
   * const z = await frozen.runAsync(y, { transfer: true }); // y.data is detached, z.data is its memory
   * console.log(y.data.length, z.data.length); // 0 48
   */
  runAsync<
    T extends ArrayOf<D> | IntegerArray,
    N extends ResultDTypeOf<T> = never,
    O extends RunResultOf<T, N, D> = never,
  >(
    x: TensorLike<T>,
    options?: RunAsyncOptions<T, N, O>,
  ): Promise<Tensor<WrittenOf<O, DefaultRunResultOf<T, N>>>>;
  async runAsync<T extends ArrayOf<D>>(
    x: TensorLike<T>,
    options?: RunAsyncOptions<T>,
  ): Promise<Tensor<ValueArray>> {
    const { signal, transfer } = readAsync(options);
    this.#checkAlive('runAsync()');
    const {
      out: givenTo,
      residual: givenResidual,
      outAxis,
      dtype: givenDtype,
    } = readCallOptions(options, runAsyncNames);
    const read = this.#check<T>('runAsync()', x, tensorProperties('x', x, this.#parts.dtype), {
      out: givenTo,
      residual: givenResidual,
      outAxis,
      dtype: givenDtype,
    });
    if (read.stored !== undefined) return this.#runStoredAsync(read.stored, signal, transfer);
    const { input, outer, inner, residual, out, givenOut } = read;
    const { dtype } = input;
    const frozen = this.#frozen[dtype] ?? this.#freeze(dtype);
    const imputes = this.#parts.missing === 'impute';
    return inferLater(
      { input, residual, out, givenOut },
      signal,
      transfer,
      // Before a signal of the caller's making can dispose of the layer.
      () => frozen.readers++,
      ({ x, y, residual: added }, slot) => {
        if (imputes) {
          const pass = this.#imputing(dtype, outer, inner, x, y, added);
          passesFor<T>(dtype).inferPresentLater(pass, slot);
          return [pass, frozen];
        }
        frozen.passes.runFrozenLater(outer, inner, frozen.memory, x, y, added, slot);
        return [x, y, added, frozen];
      },
      () => {
        frozen.readers--;
        if (this.#disposed) letGo(frozen);
      },
    );
  }

  /**
   * Refuses every later call, and frees the coefficients: at once, or when the operations on their way are done. Where none
   * is called for, the garbage collector frees a layer like any other object. Doing it twice is harmless.
   *
   * @example
   * import { BatchNorm } from 'batchnorm';
   *
   * const frozen = new BatchNorm(3).freeze();
   * frozen[Symbol.dispose](); // or `using frozen = …` where the language has it
   */
  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#last = undefined;
    for (let i = 0; i < dtypeNames.length; i++) {
      letGo(this.#frozen[dtypeNames[i]]);
      this.#frozen[dtypeNames[i]] = undefined;
    }
  }

  /** All of a call but its options, which have been read. */
  #check<T extends TensorArray>(
    call: string,
    x: unknown,
    properties: TensorProperties,
    given: GivenStored,
  ): ReadRun<T> | ReadStoredRun {
    const parts = this.#parts;
    const view = viewOfProperties('x', x, properties, parts.dtype);
    if (isStored(view, parts.axis, given)) {
      const stored = readStored(view, given, parts.axis, parts.channels, parts.dtype);
      this.#checkAlive(call);
      if (parts.missing === 'throw') checkNoneMissingStored(stored);
      return { stored };
    }
    // Of its own dtype, and without strides.
    const input = view as ReadView & ReadTensor<T>;
    const { data, dtype } = input;
    const geometry = geometryOf(input, parts.axis, parts.channels);
    const { outer, inner } = geometry;
    const residual = given.residual === undefined ? undefined : readResidual<T>(given.residual, input);
    checkLength(input);
    if (residual !== undefined) checkLength(residual);
    const out = given.out === undefined ? undefined : checkOut<T>(given.out, input);
    // A getter may have disposed of it meanwhile.
    this.#checkAlive(call);
    if (parts.missing === 'throw') checkNoneMissing(passesFor<T>(dtype), geometry, data, undefined);
    return {
      input,
      outer,
      inner,
      residual: residual?.data,
      out,
      givenOut: given.out as T | undefined,
      stored: undefined,
    };
  }

  #checkAlive(call: string): void {
    if (this.#disposed) throw disposedError(call);
  }

  #runStored(call: StoredCall): Tensor<ValueArray> {
    const y = call.out ?? newResult(call.outDtype, call.input.size);
    const { memory } = this.#frozen.float32 ?? this.#freeze('float32');
    backend.runStored(storedPass(call, memory, wholeOf(call), y, call.residual, this.#imputedBias(call)));
    return { data: call.delivered(y), shape: call.shape };
  }

  #runStoredAsync(
    call: StoredCall,
    signal: AbortSignal | undefined,
    transfer: boolean,
  ): Promise<Tensor<ValueArray>> {
    const { input, dtype, out, outDtype, residual, residualDtype, shape } = call;
    const { size } = input;
    if (transfer && out !== undefined) throw typeError('out', 'be left out with transfer: true', out);
    const added = residual && stage(residual, residualDtype);
    const span = transfer ? wholeOf(call) : spanOf(call);
    let source = transfer ? span.data : stage(span.data, dtype);
    const place = () =>
      out !== undefined && isStaged(outDtype, size) ? takeStaging(outDtype, size) : newResult(outDtype, size);
    let target = out !== undefined && isShared(out) ? out : transfer && call.liesAlike ? source : place();
    const frozen = this.#frozen.float32 ?? this.#freeze('float32');
    const bias = this.#imputedBias(call);
    // Before a signal of the caller's making can dispose of the layer.
    frozen.readers++;
    return operate(
      signal,
      (slot) => {
        if (transfer) {
          source = move('x.data', input.data, dtype);
          if (call.liesAlike) target = viewOf(outDtype, bufferOf(source), extentOf(source).begin, size);
        }
        const pass = storedPass(call, frozen.memory, { data: source, view: span.view }, target, added, bias);
        backend.runStoredLater(pass, slot);
        return [pass, frozen];
      },
      () => {
        frozen.readers--;
        if (this.#disposed) letGo(frozen);
        if (call.givenOut !== undefined) checkKept('out', call.givenOut, size);
        const result = out === undefined ? target : deliver(target, out);
        unstage(added);
        if (!transfer) unstage(source);
        if (target !== result) unstage(target);
        return { data: call.delivered(result), shape };
      },
    );
  }

  /** What missing values become; undefined where there are none. */
  #imputedBias({ dtype }: StoredCall): Float32Array | undefined {
    const { missing, bias, channels } = this.#parts;
    return missing === 'impute' && !isInteger(dtype) ? imputedBias(bias, channels) : undefined;
  }

  /** The pass in which missing values become what the mean would. */
  #imputing<T extends TensorArray>(
    dtype: DType,
    outer: number,
    inner: number,
    x: T,
    y: T,
    residual: T | undefined,
  ): InferPresentPass<T> {
    const { channels, eps, weight, bias, mean, variance, activation } = this.#parts;
    return {
      geometry: { outer, channels, inner },
      eps,
      x,
      y,
      weight: weight && toDtype<ParametersOf<T>>(weight, arithmeticOf(dtype)),
      bias: bias && toDtype<ParametersOf<T>>(bias, arithmeticOf(dtype)),
      mean: toDtype(mean, 'float64'),
      variance: toDtype(variance, 'float64'),
      relu: activation !== undefined,
      residual,
      mask: undefined,
      presence: { weights: undefined, missing: true, impute: true, zero: false },
    };
  }

  /** Prepares the coefficients for data of a dtype. */
  #freeze(dtype: DType): Frozen {
    const { channels, eps, weight, bias, mean, variance, activation } = this.#parts;
    const passes = passesFor<TensorArray>(dtype);
    const memory = newMemory(passes.frozenBytes(channels));
    passes.freeze(
      channels,
      eps,
      weight && toDtype(weight, arithmeticOf(dtype)),
      bias && toDtype(bias, arithmeticOf(dtype)),
      toDtype(mean, 'float64'),
      toDtype(variance, 'float64'),
      activation !== undefined,
      memory,
    );
    const frozen = { passes, memory, readers: 0 };
    this.#frozen[dtype] = frozen;
    return frozen;
  }
}

function disposedError(call: string): Error {
  return stateError('DISPOSED', `a frozen layer must not be used after its disposal, got a call of ${call}`);
}

function letGo(frozen: Frozen | undefined): void {
  if (frozen?.readers === 0) backend.release(frozen.memory);
}
