// The fallback where no binary can be loaded, and a second implementation of the same arithmetic: chunks, order of
// additions and roundings are those of native/, so its results are the same to the bit. Names follow native/.
import { stateError } from '../errors.js';
import type { FloatArray } from '../tensor.js';
import { bytesOf, bytesPerValue, copyInto, filled, lengthOf, viewOf, zeros } from '../typed-array.js';
import { checkApart, copyOf, isInPlace } from '../validate.js';
import { type Backend, maskBytes, nothingOnTheWay, type Passes } from './backend.js';
import { now, type Prepared, Turns } from './turns.js';

/** Rounds a double to the data type: exact float32 arithmetic is double arithmetic rounded after each operation. */
type Round = (value: number) => number;

const chunkGroups = 128;
const chunkRows = 128;
const wide = 256;

/** As Partition in native/partition.h. */
interface Partition {
  outer: number;
  channels: number;
  inner: number;
  channelsLast: boolean;
  lanes: number;
  fold: number;
  width: number;
  run: number;
  piece: number;
  pieces: number;
  rows: number;
  rest: number;
  chunks: number;
}

/** As Span in native/partition.h. */
interface Span {
  first: number;
  count: number;
  offset: number;
  length: number;
}

function doubles(length: number): Float64Array {
  return zeros<Float64Array>('float64', length);
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

function foldOf(channels: number, lanes: number): number {
  if (channels >= wide) return 1;
  const whole = lanes / greatestCommonDivisor(lanes, channels);
  return whole * Math.ceil(wide / (whole * channels));
}

function partitionOf(outer: number, channels: number, inner: number, lanes: number): Partition {
  const channelsLast = inner === 1;
  const shape = { outer, channels, inner, channelsLast, lanes };
  if (channelsLast) {
    const fold = foldOf(channels, lanes);
    const rows = Math.floor(outer / fold);
    const rest = (outer % fold) * channels;
    const chunks = Math.ceil(rows / chunkRows) + (rest > 0 ? 1 : 0);
    return {
      ...shape,
      fold,
      width: channels * fold,
      run: chunkRows,
      piece: 0,
      pieces: 1,
      rows,
      rest,
      chunks,
    };
  }
  const group = 4 * lanes;
  const groups = Math.ceil(inner / group);
  const piece = Math.ceil(groups / Math.ceil(groups / chunkGroups)) * group;
  const pieces = Math.ceil(inner / piece);
  const run = Math.max(1, Math.floor(chunkGroups / groups));
  const chunks = Math.ceil(outer / run) * pieces;
  return { ...shape, fold: 1, width: channels, run, piece, pieces, rows: 0, rest: 0, chunks };
}

function chunkOf(partition: Partition, index: number): Span {
  const { run, piece, pieces } = partition;
  if (partition.channelsLast) {
    const first = index * run;
    if (first >= partition.rows)
      return { first: partition.rows, count: 1, offset: 0, length: partition.rest };
    return { first, count: Math.min(run, partition.rows - first), offset: 0, length: partition.width };
  }
  const first = Math.floor(index / pieces) * run;
  const offset = (index % pieces) * piece;
  return {
    first,
    count: Math.min(run, partition.outer - first),
    offset,
    length: Math.min(piece, partition.inner - offset),
  };
}

function valuesOf(partition: Partition, span: Span, channel: number): number {
  if (!partition.channelsLast) return span.count * span.length;
  return channel < span.length ? span.count : 0;
}

function positionOf(partition: Partition, span: Span, channel: number, index: number): number {
  if (partition.channelsLast) return (span.first + index) * partition.width + channel;
  const sample = span.first + Math.floor(index / span.length);
  return (sample * partition.channels + channel) * partition.inner + span.offset + (index % span.length);
}

function median(a: number, b: number, c: number): number {
  const low = a < b ? a : b;
  const high = a < b ? b : a;
  const middle = high < c ? high : c;
  return low < middle ? middle : low;
}

function ninther(partition: Partition, span: Span, channel: number, x: FloatArray): number {
  const ninth = Math.floor(valuesOf(partition, span, channel) / 9);
  const step = ninth === 0 ? 0 : (ninth - 1) | 1;
  const value = (i: number) => x[positionOf(partition, span, channel, i * step)];
  return median(
    median(value(0), value(1), value(2)),
    median(value(3), value(4), value(5)),
    median(value(6), value(7), value(8)),
  );
}

/**
 * Two sums over one channel of a span, by `add(start, distance, terms, lane)`, which adds the values at
 * start, start + distance, … to a lane: a channels-first channel has many lanes, a channels-last one has one.
 */
function forEachLane(
  partition: Partition,
  span: Span,
  channel: number,
  add: (start: number, distance: number, terms: number, lane: number) => void,
): void {
  const { lanes, width } = partition;
  if (partition.channelsLast) {
    add(positionOf(partition, span, channel, 0), width, span.count, 0);
    return;
  }
  for (let sample = 0; sample < span.count; sample++) {
    const start = positionOf(partition, span, channel, sample * span.length);
    for (let lane = 0; lane < lanes && lane < span.length; lane++)
      add(start + lane, lanes, Math.ceil((span.length - lane) / lanes), lane);
  }
}

/** Halves the lanes until one is left. */
function sumOfLanes(lanes: Float64Array): number {
  for (let half = lengthOf(lanes) / 2; half >= 1; half /= 2)
    for (let i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

/** Calls visit(channel, start, end) for runs of values of one channel, or of single values channels-last. */
function forEachRun(
  outer: number,
  channels: number,
  inner: number,
  visit: (channel: number, start: number, end: number) => void,
): void {
  if (inner === 0) return;
  for (let sample = 0, start = 0; sample < outer; sample++)
    for (let channel = 0; channel < channels; channel++, start += inner) visit(channel, start, start + inner);
}

/** relu(v) and what it lets through: v above zero, or NaN. */
function isPositive(value: number): boolean {
  return !(value <= 0);
}

/** Each array must still be as long as it was when it was checked. */
function checkLengths(length: number, ...arrays: (FloatArray | Uint8Array | undefined)[]): void {
  for (let i = 0; i < arrays.length; i++) {
    const array = arrays[i];
    if (array !== undefined && lengthOf(array) !== length)
      throw stateError(
        'BUFFER_CHANGED',
        'every array must keep its length during a call, got a buffer that was detached or resized',
      );
  }
}

function passesOf<T extends FloatArray>(round: Round, lanes: number, turns: Turns): Passes<T> {
  const first = doubles(lanes);
  const second = doubles(lanes);

  /** A lane adds groups of four terms, each summed as a tree. */
  function momentsOfLane(
    x: T,
    shift: number,
    start: number,
    distance: number,
    terms: number,
    lane: number,
  ): void {
    let sum = first[lane];
    let squares = second[lane];
    for (let term = 0, at = start; term < terms; term += 4, at += 4 * distance) {
      const a = round(x[at] - shift);
      let group = a;
      let groupSquares = round(a * a);
      if (term + 1 < terms) {
        const b = round(x[at + distance] - shift);
        group = round(a + b);
        groupSquares = round(groupSquares + round(b * b));
      }
      if (term + 2 < terms) {
        const c = round(x[at + 2 * distance] - shift);
        let pair = c;
        let pairSquares = round(c * c);
        if (term + 3 < terms) {
          const d = round(x[at + 3 * distance] - shift);
          pair = round(c + d);
          pairSquares = round(pairSquares + round(d * d));
        }
        group = round(group + pair);
        groupSquares = round(groupSquares + pairSquares);
      }
      sum = round(sum + group);
      squares = round(squares + groupSquares);
    }
    first[lane] = sum;
    second[lane] = squares;
  }

  function momentsOfLaneInDouble(
    x: T,
    shift: number,
    start: number,
    distance: number,
    terms: number,
    lane: number,
  ): void {
    for (let term = 0, at = start; term < terms; term++, at += distance) {
      const deviation = x[at] - shift;
      first[lane] += deviation;
      second[lane] += deviation * deviation;
    }
  }

  function isGood(values: number, sum: number, squares: number): boolean {
    if (!Number.isFinite(sum) || !Number.isFinite(squares)) return false;
    return round !== Math.fround || !(sum * sum > 0.9375 * (squares * values));
  }

  /** `gradient` is dy, or what a ReLU has let through of it. */
  function gradSumsOfLane(
    gradient: ArrayLike<number>,
    x: T,
    mean: number,
    start: number,
    distance: number,
    terms: number,
    lane: number,
  ): void {
    let sum = first[lane];
    let products = second[lane];
    for (let term = 0, at = start; term < terms; term += 4, at += 4 * distance) {
      let group = gradient[at];
      let groupProducts = round(gradient[at] * round(x[at] - mean));
      if (term + 1 < terms) {
        const b = at + distance;
        group = round(group + gradient[b]);
        groupProducts = round(groupProducts + round(gradient[b] * round(x[b] - mean)));
      }
      if (term + 2 < terms) {
        const c = at + 2 * distance;
        let pair = gradient[c];
        let pairProducts = round(gradient[c] * round(x[c] - mean));
        if (term + 3 < terms) {
          const d = at + 3 * distance;
          pair = round(pair + gradient[d]);
          pairProducts = round(pairProducts + round(gradient[d] * round(x[d] - mean)));
        }
        group = round(group + pair);
        groupProducts = round(groupProducts + pairProducts);
      }
      sum = round(sum + group);
      products = round(products + groupProducts);
    }
    first[lane] = sum;
    second[lane] = products;
  }

  function clear(): void {
    filled(first, 0);
    filled(second, 0);
  }

  /** Mean and biased variance of each channel: the chunks in their order, all with reference to the first's shift. */
  function moments(partition: Partition, x: T, mean: Float64Array, variance: Float64Array): void {
    const { channels, fold, chunks } = partition;
    const count = partition.outer * partition.inner;
    for (let channel = 0; channel < channels; channel++) {
      let reference = 0;
      let sum = 0;
      let squares = 0;
      for (let chunk = 0; chunk < chunks; chunk++) {
        const span = chunkOf(partition, chunk);
        for (let copy = 0; copy < fold; copy++) {
          const place = copy * channels + channel;
          const values = valuesOf(partition, span, place);
          if (values === 0) break;
          let shift = ninther(partition, span, place, x);
          clear();
          forEachLane(partition, span, place, (start, distance, terms, lane) =>
            momentsOfLane(x, shift, start, distance, terms, lane),
          );
          let chunkSum = sumOfLanes(first);
          let chunkSquares = sumOfLanes(second);
          if (!isGood(values, chunkSum, chunkSquares)) {
            if (!Number.isFinite(shift)) shift = 0;
            clear();
            forEachLane(partition, span, place, (start, distance, terms, lane) =>
              momentsOfLaneInDouble(x, shift, start, distance, terms, lane),
            );
            chunkSum = sumOfLanes(first);
            chunkSquares = sumOfLanes(second);
          }
          if (chunk === 0 && copy === 0) reference = shift;
          const distance = shift - reference;
          sum += chunkSum + values * distance;
          squares += chunkSquares + distance * (2 * chunkSum + values * distance);
        }
      }
      const offset = sum / count;
      const biased = (squares - sum * offset) / count;
      mean[channel] = reference + offset;
      variance[channel] = biased < 0 ? biased - biased : biased;
      if (round === Math.fround) continue;
      if (!Number.isFinite(mean[channel]) || !Number.isFinite(variance[channel]))
        mend(partition, channel, x, mean, variance);
    }
  }

  /** Statistics that are not finite, once more if the data is, from values so small that no square of them overflows. */
  function mend(
    { outer, channels, inner }: Partition,
    channel: number,
    x: T,
    mean: Float64Array,
    variance: Float64Array,
  ): void {
    let finite = true;
    for (let sample = 0; finite && sample < outer; sample++) {
      const start = (sample * channels + channel) * inner;
      for (let i = start; finite && i < start + inner; i++) finite = Number.isFinite(x[i]);
    }
    if (!finite) return;
    /** With what its roundings have lost (Neumaier, 1974). */
    const meanOf = (term: (value: number) => number) => {
      let sum = 0;
      let lost = 0;
      for (let sample = 0; sample < outer; sample++) {
        const start = (sample * channels + channel) * inner;
        for (let i = start; i < start + inner; i++) {
          const value = term(x[i] * 2 ** -600);
          const total = sum + value;
          lost += Math.abs(sum) >= Math.abs(value) ? sum - total + value : value - total + sum;
          sum = total;
        }
      }
      return (sum + lost) / (outer * inner);
    };
    const centre = meanOf((value) => value);
    const rest = meanOf((value) => value - centre);
    const squares = meanOf((value) => (value - centre) * (value - centre));
    mean[channel] = (centre + rest) * 2 ** 600;
    variance[channel] = (squares - rest * rest) * 2 ** 600 * 2 ** 600;
  }

  const reach = round === Math.fround ? 2 ** 103 : 2 ** 970;

  /** As in native/kernels/channels.h. */
  function isLeftToOffset(mean: number, inverse: number): boolean {
    const size = Math.abs(mean);
    if (!(size >= reach && size <= Number.MAX_VALUE)) return false;
    return size * inverse <= 8 || !Number.isFinite(round(mean));
  }

  /** Coefficients of y = (x - high) * scale + offset. */
  function normalization(
    channels: number,
    eps: number,
    weight: T | undefined,
    bias: T | undefined,
    mean: Float64Array,
    variance: Float64Array,
  ): Normalization {
    const high = doubles(channels);
    const scale = doubles(channels);
    const offset = doubles(channels);
    for (let channel = 0; channel < channels; channel++) {
      const inverse = 1 / Math.sqrt(variance[channel] + eps);
      const factor = (weight ? weight[channel] : 1) * inverse;
      high[channel] = isLeftToOffset(mean[channel], inverse) ? 0 : round(mean[channel]);
      scale[channel] = round(factor);
      offset[channel] = round((bias ? bias[channel] : 0) - (mean[channel] - high[channel]) * factor);
    }
    return { high, scale, offset };
  }

  function normalize(
    outer: number,
    channels: number,
    inner: number,
    x: T,
    y: T,
    { high, scale, offset }: Normalization,
    relu = false,
    residual: T | undefined = undefined,
  ): void {
    forEachRun(outer, channels, inner, (channel, start, end) => {
      const mean = high[channel];
      const factor = scale[channel];
      const constant = offset[channel];
      for (let i = start; i < end; i++) {
        let value = round(round(round(x[i] - mean) * factor) + constant);
        if (residual) value = round(value + residual[i]);
        y[i] = relu && !isPositive(value) ? 0 : value;
      }
    });
  }

  function fillMask(y: T, mask: Uint8Array | undefined): void {
    if (mask === undefined) return;
    filled(mask, 0);
    const length = lengthOf(y);
    for (let i = 0; i < length; i++) if (isPositive(y[i])) mask[i >> 3] |= 1 << (i & 7);
  }

  /** With the statistics of x, which it writes, or with those that are given. */
  const forward =
    (training: boolean) =>
    (
      outer: number,
      channels: number,
      inner: number,
      eps: number,
      x: T,
      y: T,
      weight: T | undefined,
      bias: T | undefined,
      mean: Float64Array,
      variance: Float64Array,
      relu: boolean,
      residual: T | undefined,
      mask: Uint8Array | undefined,
    ): Prepared<boolean> => {
      const size = outer * channels * inner;
      checkLengths(size, x, y, residual);
      checkLengths(channels, weight, bias, mean, variance);
      checkLengths(maskBytes(size), mask);
      const result = isInPlace(y, 'x.data', x);
      if (residual) checkApart('out', y, { 'residual.data': residual });
      const compute = () => {
        if (training && size === 0) {
          filled(mean, Number.NaN);
          filled(variance, Number.NaN);
          return;
        }
        if (training) moments(partitionOf(outer, channels, inner, lanes), x, mean, variance);
        const coefficients = normalization(channels, eps, weight, bias, mean, variance);
        normalize(outer, channels, inner, x, y, coefficients, relu, residual);
        fillMask(y, mask);
      };
      return { result, compute };
    };

  const backward = (
    outer: number,
    channels: number,
    inner: number,
    eps: number,
    training: boolean,
    dy: T,
    x: T,
    mean: Float64Array,
    variance: Float64Array,
    weight: T | undefined,
    bias: T | undefined,
    relu: boolean,
    residual: T | undefined,
    mask: Uint8Array | undefined,
    dx: T | undefined,
    dWeight: T | undefined,
    dBias: T | undefined,
    dResidual: T | undefined,
  ): Prepared<void> => {
    const size = outer * channels * inner;
    checkLengths(size, dy, x, residual, dx, dResidual);
    checkLengths(channels, mean, variance, weight, bias, dWeight, dBias);
    checkLengths(maskBytes(size), mask);
    if (dx) {
      isInPlace(dx, 'dy.data', dy);
      checkApart('out', dx, { 'x.data': x, 'residual.data': residual });
    }
    const compute = () => {
      if (size === 0) {
        if (dWeight) filled(dWeight, 0);
        if (dBias) filled(dBias, 0);
        return;
      }
      const partition = partitionOf(outer, channels, inner, lanes);
      const count = outer * inner;
      const { high, scale, offset } = normalization(channels, eps, weight, bias, mean, variance);
      const slope = doubles(channels);
      const constant = doubles(channels);
      let gradient = dy;
      if (relu) {
        gradient = dResidual ?? copyOf(dy);
        if (mask) {
          for (let i = 0; i < size; i++) gradient[i] = (mask[i >> 3] >> (i & 7)) & 1 ? dy[i] : 0;
        } else {
          normalize(outer, channels, inner, x, gradient, { high, scale, offset }, true, residual);
          for (let i = 0; i < size; i++) gradient[i] = isPositive(gradient[i]) ? dy[i] : 0;
        }
      } else if (dResidual) copyInto(dResidual, dy);
      for (let channel = 0; channel < channels; channel++) {
        const inverseDeviation = 1 / Math.sqrt(variance[channel] + eps);
        let sum = 0;
        let products = 0;
        for (let chunk = 0; chunk < partition.chunks; chunk++) {
          const span = chunkOf(partition, chunk);
          for (let copy = 0; copy < partition.fold; copy++) {
            const place = copy * channels + channel;
            if (valuesOf(partition, span, place) === 0) break;
            clear();
            forEachLane(partition, span, place, (start, distance, terms, lane) =>
              gradSumsOfLane(gradient, x, high[channel], start, distance, terms, lane),
            );
            sum += sumOfLanes(first);
            products += sumOfLanes(second);
          }
        }
        const low = mean[channel] - high[channel];
        const sumNormalized = (products - low * sum) * inverseDeviation;
        if (dWeight) dWeight[channel] = sumNormalized;
        if (dBias) dBias[channel] = sum;
        const channelSlope = inverseDeviation * (sumNormalized / count);
        slope[channel] = round(channelSlope);
        constant[channel] = round(sum / count - low * channelSlope);
      }
      if (!dx) return;
      if (training)
        forEachRun(outer, channels, inner, (channel, start, end) => {
          for (let i = start; i < end; i++) {
            const explained = round(round(x[i] - high[channel]) * slope[channel]);
            dx[i] = round(round(gradient[i] - explained) - constant[channel]) * scale[channel];
          }
        });
      else
        normalize(outer, channels, inner, gradient, dx, {
          high: doubles(channels),
          scale,
          offset: doubles(channels),
        });
    };
    return { result: undefined, compute };
  };

  const runFrozen = (
    outer: number,
    inner: number,
    memory: ArrayBuffer,
    x: T,
    y: T,
    residual?: T,
  ): Prepared<void> => {
    const { channels, relu, coefficients } = frozenIn(memory);
    checkLengths(outer * channels * inner, x, residual, y);
    isInPlace(y, 'x.data', x);
    if (residual) checkApart('out', y, { 'residual.data': residual });
    return {
      result: undefined,
      compute: () => normalize(outer, channels, inner, x, y, coefficients, relu, residual),
    };
  };

  return {
    forwardTraining: now(forward(true)),
    forwardInference: now(forward(false)),
    backward: now(backward),
    forwardTrainingLater: turns.later(forward(true)),
    forwardInferenceLater: turns.later(forward(false)),
    backwardLater: turns.later(backward),

    frozenBytes: (channels) => (1 + 3 * channels) * bytesPerValue.float64,
    freeze(channels, eps, weight, bias, mean, variance, relu, memory) {
      checkLengths(channels, weight, bias, mean, variance);
      const { high, scale, offset } = normalization(channels, eps, weight, bias, mean, variance);
      viewOf<Float64Array>('float64', memory, 0, 1)[0] = Number(relu);
      const { coefficients } = frozenIn(memory);
      copyInto(coefficients.high, high);
      copyInto(coefficients.scale, scale);
      copyInto(coefficients.offset, offset);
    },
    runFrozen: now(runFrozen),
    runFrozenLater: turns.later(runFrozen),
  };
}

/** What freeze has left in memory. */
function frozenIn(memory: ArrayBuffer): { channels: number; relu: boolean; coefficients: Normalization } {
  const size = bytesPerValue.float64;
  const channels = (bytesOf(memory) / size - 1) / 3;
  const array = (index: number) =>
    viewOf<Float64Array>('float64', memory, (1 + index * channels) * size, channels);
  const relu = viewOf<Float64Array>('float64', memory, 0, 1)[0] !== 0;
  return { channels, relu, coefficients: { high: array(0), scale: array(1), offset: array(2) } };
}

/** Values that T can hold, as doubles. */
interface Normalization {
  high: Float64Array;
  scale: Float64Array;
  offset: Float64Array;
}

/** The backend that needs nothing but JavaScript. It computes on the calling thread. */
export function createJsBackend(): Backend {
  const turns = new Turns();
  return {
    name: 'js',
    isa: 'js',
    isas: ['js'],
    l2Bytes: 0,
    streamBytes: () => 0,
    // The language has no way to do that.
    release: () => {},
    isAligned: () => true,
    adviseHugePages: () => {},
    onTheWay: nothingOnTheWay(),
    onFinished: (handler) => turns.onFinished(handler),
    takeFinished: (slots) => turns.takeFinished(slots),
    cancel: (slot) => turns.cancel(slot),
    float32: passesOf<Float32Array>(Math.fround, 16, turns),
    float64: passesOf<Float64Array>((value) => value, 8, turns),
    updateRunningStats(mean, variance, channels, count, decay, unbiased, runningMean, runningVar, accepted) {
      checkLengths(channels, mean, variance, runningMean, runningVar, accepted);
      const average = (keep: number, running: number, batch: number) =>
        keep === 0 ? batch : keep * running + (1 - keep) * batch;
      const varianceExists = !unbiased || count > 1;
      const correction = unbiased && varianceExists ? count / (count - 1) : 1;
      let rejected = 0;
      for (let channel = 0; channel < channels; channel++) {
        const keep = accepted ? 1 - 1 / (accepted[channel] + 1) : decay;
        const newMean = average(keep, runningMean[channel], mean[channel]);
        const newVar = varianceExists
          ? average(keep, runningVar[channel], variance[channel] * correction)
          : variance[channel];
        if (!Number.isFinite(newMean) || !Number.isFinite(newVar)) {
          rejected++;
          continue;
        }
        runningMean[channel] = newMean;
        if (varianceExists) runningVar[channel] = newVar;
        if (accepted) accepted[channel]++;
      }
      return rejected;
    },
    setThreads() {},
    threads: () => 1,
  };
}
