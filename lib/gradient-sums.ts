import type { Presence, Sums, ThroughForward } from './backend/backend.js';
import { passesFor } from './backend/index.js';
import type { AsyncOptions } from './calls.js';
import { isObject, rangeError, stateError, typeError } from './errors.js';
import { isShared, move } from './handover.js';
import { type NumberJSON, toNumbers, valuesFrom } from './json.js';
import { checkMoments, type Moments } from './moments.js';
import { operate, readAsync } from './operations.js';
import { checkElsewhere } from './overlap.js';
import { type PassOptions, readPass } from './pass.js';
import {
  checkMissing,
  checkPresent,
  type Missing,
  type Outside,
  presenceNames,
  readPresence,
  type Weights,
} from './presence.js';
import { areCallsUntouched, namesOf, propertiesOf } from './properties.js';
import { newResult } from './result.js';
import { stage, unstage } from './staging.js';
import { lengthOf } from './typed-array.js';
import type { DType, FloatArray, Said, Saying, TensorArray, TensorLike } from './types.js';
import {
  checkDivisor,
  checkLength,
  checkObject,
  checkPerChannel,
  checkSameShape,
  copyOf,
  newArray,
  readOptions,
  readShape,
} from './validate.js';

/**
 * What {@link GradientSums.of} takes: what the forward of this part was given. weight, bias and residual count where there is an
 * activation.
 */
export interface GradientSumsOptions<T extends TensorArray = FloatArray> extends Omit<PassOptions<T>, 'out'> {
  /** Those that the forward normalized with: of all parts. */
  moments: Moments;
  /** As the forward had them, like the next two; see {@link PresenceOptions}. */
  weights?: Weights;
  /** Likewise. */
  outside?: Outside;
  /** Likewise. */
  missing?: Missing;
}

/** What {@link GradientSums.toJSON} gives, and {@link GradientSums.from} takes. */
export interface GradientSumsJSON {
  /** As of {@link GradientSums}. */
  sumDy: NumberJSON[];
  /** As of {@link GradientSums}. */
  sumDyXmu: NumberJSON[];
}

/** What {@link GradientSums.from} takes: one value per channel each. */
export interface GradientSumsParts {
  /** As of {@link GradientSums}. */
  sumDy: FloatArray | readonly NumberJSON[];
  /** As of {@link GradientSums}. */
  sumDyXmu: FloatArray | readonly NumberJSON[];
}

const names = [
  'moments',
  'axis',
  'eps',
  'weight',
  'bias',
  'activation',
  'residual',
  'dtype',
  ...presenceNames,
];
const optionNames = namesOf([...names]);
const asyncOptionNames = namesOf([...names, 'signal', 'transfer'], areCallsUntouched);
const partNames = namesOf(['sumDy', 'sumDyXmu']);
const constructorKey = Symbol('GradientSums');
const { freeze } = Object;

/**
 * The sums that the gradients of a batch follow from, of one of its parts or of several: those of all parts are what
 * {@link BatchNorm.backward} of each takes as `sums`.
 *
 * @example
 * import { BatchNorm, GradientSums, Moments } from 'batchnorm';
 *
 * const column = (...values: number[]) => ({ data: Float32Array.from(values), shape: [values.length, 1] });
 * const [parts, dys] = [[column(1, 2, 3), column(6)], [column(1, 0, 0), column(1)]];
 * const moments = Moments.merge(...parts.map((x) => Moments.of(x)));
 * const bn = new BatchNorm(1);
 * const ys = parts.map((x) => bn.forward(x, { moments }));
 * const sums = GradientSums.merge(...parts.map((x, i) => GradientSums.of(dys[i], x, { moments })));
 * const dxs = ys.map((y, i) => bn.backward(dys[i], { of: y, sums, accumulate: true }).dx);
 * console.log(sums.sumDy[0], sums.sumDyXmu[0]); // 2 1
 */
export class GradientSums {
  /** How many channels there are. */
  readonly channels: number;
  /** Per channel the sum of dy, of that which the activation lets through. */
  readonly sumDy: Float64Array;
  /** Per channel the sum of dy · (x − mean), likewise. */
  readonly sumDyXmu: Float64Array;
  // That an object is one of this class, nobody else can say.
  #isOne = true;

  /** @internal */
  constructor(key: symbol, sums: Sums) {
    if (key !== constructorKey)
      throw stateError(
        'INVALID_TYPE',
        'GradientSums must be made by GradientSums.of(), merge() or from(), got a call of its constructor',
      );
    this.sumDy = sums.sumDy;
    this.sumDyXmu = sums.sumDyXmu;
    this.channels = lengthOf(this.sumDy);
    freeze(this);
  }

  /** @internal */
  static isOne(value: unknown): value is GradientSums {
    return isObject(value) && #isOne in value;
  }

  /**
   * The sums of one part, in one pass over dy and x.
   *
   * @param dy the gradient of this part of y.
   * @param x this part; it may be empty.
   * @param options `moments` must be there; axis 1 and eps 1e-5 by default. With an activation also weight, bias and residual.
   * @returns its sums.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`, `ERR_BATCHNORM_UNKNOWN_OPTION`), RangeError
   *   (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`), Error (`ERR_BATCHNORM_BUFFER_CHANGED`) for what does not fit.
   * @example
   * import { GradientSums, Moments } from 'batchnorm';
   *
   * const x = { data: Float32Array.of(1, 3), shape: [2, 1] };
   * const dy = { data: Float32Array.of(1, 2), shape: [2, 1] };
   * console.log(GradientSums.of(dy, x, { moments: Moments.of(x) }).sumDyXmu[0]); // 1
   */
  static of<T extends Said<N>, N extends DType = never>(
    dy: TensorLike<T>,
    x: TensorLike<T>,
    options: GradientSumsOptions<T> & Saying<N>,
  ): GradientSums {
    checkObject('options', options);
    const pass = readSums<T>(dy, x, readOptions(options, optionNames));
    const passes = passesFor<T>(pass.dtype);
    if (pass.presence) passes.gradSumsOfPresent({ ...pass, presence: pass.presence, sumBias: undefined });
    else passes.gradSums(pass);
    return new GradientSums(constructorKey, pass.sums);
  }

  /**
   * {@link GradientSums.of} off the event loop. Everything is read at the moment of the call.
   *
   * @param dy as in {@link GradientSums.of}.
   * @param x likewise.
   * @param options those, and `signal` and `transfer`, which is for dy.
   * @returns a promise of the sums.
   * @throws what {@link GradientSums.of} throws, as a rejection; the reason of `signal`. In full: `ERR_BATCHNORM_INVALID_TYPE`,
   *   `ERR_BATCHNORM_UNKNOWN_OPTION`, `ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_MISSING_VALUE`, `ERR_BATCHNORM_OVERLAP`, `ERR_BATCHNORM_OUT_OF_MEMORY`,
   *   `ERR_BATCHNORM_NOT_TRANSFERABLE`, `ERR_BATCHNORM_BUFFER_CHANGED`, `ERR_BATCHNORM_NO_THREAD`.
   * @example
   * import { GradientSums, Moments } from 'batchnorm';
   *
   * const x = { data: Float32Array.of(1, 3), shape: [2, 1] };
   * const { sumDy } = await GradientSums.ofAsync(x, x, { moments: Moments.of(x) });
   * console.log(sumDy[0]); // 4
   */
  static async ofAsync<T extends Said<N>, N extends DType = never>(
    dy: TensorLike<T>,
    x: TensorLike<T>,
    options: GradientSumsOptions<T> & Saying<N> & AsyncOptions,
  ): Promise<GradientSums> {
    checkObject('options', options);
    const { signal, transfer } = readAsync(options);
    const read = readSums<T>(dy, x, readOptions(options, asyncOptionNames));
    const { dtype } = read;
    if (transfer) checkElsewhere('dy.data', read.dy, { 'x.data': read.x, 'residual.data': read.residual });
    const staged = (array: T | undefined) => array && stage(array, dtype);
    const pass = {
      ...read,
      dy: transfer ? read.dy : stage(read.dy, dtype),
      x: stage(read.x, dtype),
      residual: staged(read.residual),
      weight: read.weight && copyOf(read.weight),
      bias: read.bias && copyOf(read.bias),
    };
    return operate(
      signal,
      (slot) => {
        if (transfer) pass.dy = move('dy.data', read.dy, dtype);
        const passes = passesFor<T>(dtype);
        const { presence } = pass;
        if (presence) passes.gradSumsOfPresentLater({ ...pass, presence, sumBias: undefined }, slot);
        else passes.gradSumsLater(pass, slot);
        return pass;
      },
      () => {
        if (!isShared(pass.dy)) unstage(pass.dy);
        unstage(pass.x);
        unstage(pass.residual);
        return new GradientSums(constructorKey, pass.sums);
      },
    );
  }

  /**
   * The sums of parts together.
   *
   * @param parts of as many channels each, any number of them.
   * @returns the sums of all.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`)
   *   where there is none, or channels differ.
   * @example
   * import { GradientSums } from 'batchnorm';
   *
   * const part = GradientSums.from({ sumDy: [1], sumDyXmu: [2] });
   * console.log(GradientSums.merge(part, part).sumDyXmu[0]); // 4
   */
  static merge(...parts: readonly GradientSums[]): GradientSums {
    const number = parts.length;
    if (number === 0) throw rangeError('sums', 'be one at least', 'none');
    for (let i = 0; i < number; i++)
      checkSums(`sums[${i}]`, parts[i], i === 0 ? undefined : parts[0].channels);
    const { channels } = parts[0];
    const sumDy = newArray<Float64Array>('float64', channels);
    const sumDyXmu = newArray<Float64Array>('float64', channels);
    for (let i = 0; i < number; i++)
      for (let c = 0; c < channels; c++) {
        sumDy[c] += parts[i].sumDy[c];
        sumDyXmu[c] += parts[i].sumDyXmu[c];
      }
    return new GradientSums(constructorKey, { sumDy, sumDyXmu });
  }

  /**
   * Sums of numbers that come from elsewhere.
   *
   * @param parts copied; for instance what {@link GradientSums.toJSON} gave.
   * @returns the sums.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`, `ERR_BATCHNORM_OUT_OF_MEMORY`).
   * @example
   * import { GradientSums } from 'batchnorm';
   *
   * console.log(GradientSums.from({ sumDy: [1, 2], sumDyXmu: [3, 4] }).channels); // 2
   */
  static from(parts: GradientSumsParts): GradientSums {
    checkObject('sums', parts);
    const { sumDy, sumDyXmu } = propertiesOf(parts, partNames);
    const first = valuesFrom('sums.sumDy', sumDy);
    const second = valuesFrom('sums.sumDyXmu', sumDyXmu, lengthOf(first));
    return new GradientSums(constructorKey, { sumDy: first, sumDyXmu: second });
  }

  /**
   * As plain arrays of numbers; NaN, Infinity, -Infinity and -0, which JSON does not know, are strings.
   *
   * @returns what {@link GradientSums.from} takes.
   * @throws TypeError (`ERR_BATCHNORM_INVALID_TYPE`), RangeError (`ERR_BATCHNORM_INVALID_VALUE`) where an array has been taken away.
   * @example
   * import { GradientSums } from 'batchnorm';
   *
   * console.log(JSON.stringify(GradientSums.from({ sumDy: [1], sumDyXmu: [2] }))); // {"sumDy":[1],"sumDyXmu":[2]}
   */
  toJSON(): GradientSumsJSON {
    checkSums('sums', this);
    return { sumDy: toNumbers(this.sumDy), sumDyXmu: toNumbers(this.sumDyXmu) };
  }
}

/** Sums, of so many channels where that is known. What their arrays hold is the caller's; that they are whole is checked. */
export function checkSums(name: string, value: unknown, channels?: number): GradientSums {
  if (!GradientSums.isOne(value))
    throw typeError(name, 'be GradientSums (of GradientSums.of, merge or from)', value);
  const expected = channels ?? value.channels;
  if (value.channels !== expected)
    throw rangeError(name, `have ${expected} channels`, String(value.channels));
  checkPerChannel(`${name}.sumDy`, value.sumDy, expected);
  checkPerChannel(`${name}.sumDyXmu`, value.sumDyXmu, expected);
  return value;
}

type Read<T extends TensorArray> = ThroughForward<T> & {
  readonly dtype: DType;
  readonly sums: Sums;
  readonly presence: Presence | undefined;
};

function readSums<T extends TensorArray>(dy: unknown, x: unknown, options: GradientSumsOptions<T>): Read<T> {
  const { moments, weights, outside, missing } = options;
  const { input, dtype, axis, geometry, eps, weight, bias, relu, residual } = readPass<T>(x, options);
  const gradient = readShape<T>('dy', dy, dtype);
  checkSameShape(gradient, 'x', input.shape);
  const present = readPresence({ weights, outside, missing: checkMissing(missing) }, input, geometry, axis);
  // No code of the caller's runs after this.
  const { channels } = geometry;
  checkMoments('moments', moments, channels);
  for (let channel = 0; eps === 0 && channel < channels; channel++)
    if (moments.count[channel] > 0) checkDivisor('moments.variance', moments.variance[channel], channel);
  checkLength(input);
  checkLength(gradient);
  if (residual !== undefined) checkLength(residual);
  if (present) checkPresent(passesFor<T>(dtype), present, geometry, input.data);
  return {
    dtype,
    presence: present?.presence,
    geometry,
    eps,
    dy: gradient.data,
    x: input.data,
    mean: copyOf(moments.mean),
    variance: copyOf(moments.variance),
    weight,
    bias,
    relu,
    residual: relu ? residual?.data : undefined,
    mask: undefined,
    // Where the mask is computed.
    dResidual: relu && residual ? newResult<T>(dtype, input.size) : undefined,
    sums: newSums(channels),
  };
}

/** Sums of 0. */
export function newSums(channels: number): Sums {
  return { sumDy: newArray('float64', channels), sumDyXmu: newArray('float64', channels) };
}

/** For a backward that knows but its own part. */
export function sumsError(): Error {
  return rangeError(
    'sums',
    'be the GradientSums of all parts behind a forward with moments',
    'undefined; give it GradientSums.merge() of the GradientSums.of() of each part',
  );
}
