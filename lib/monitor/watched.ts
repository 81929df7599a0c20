// A layer under watch: what it shows of itself, as numbers. It is read and never written.
import type { BatchNorm } from '../batchnorm.js';
import { isDead } from '../dead.js';
import type { Moments } from '../moments.js';
import type { DType } from '../types.js';
import { type Geometry, geometryOf, type ReadTensor } from '../validate.js';
import { emptyRecord, type LayerRecord } from './record.js';

/** The values of y that are looked at, where there are more. */
const mostSampled = 2048;

/** The records of a layer that are kept: as many as a plot has room for. */
const mostRecords = 400;

/** The bits of infinity: above them is what is no number. */
const infinity = { bfloat16: 0x7f80, float16: 0x7c00 } as const;

const { abs, log2, sqrt, max, min, floor } = Math;
const { is } = Object;

export class Watched {
  readonly name: string;
  readonly layer: BatchNorm<DType>;
  /** The last of all; undefined before the first. */
  latest: LayerRecord | undefined;
  /** The last that had a batch to measure. */
  measured: LayerRecord | undefined;
  /** Of each stretch of {@link width} records the one that had drifted furthest, oldest first. */
  readonly records: LayerRecord[] = [];
  width = 1;
  #inStretch = 0;
  #moments: Moments | undefined;
  #batches: number;
  #rejected: number;
  #hadGradient = false;

  constructor(name: string, layer: BatchNorm<DType>) {
    this.name = name;
    this.layer = layer;
    this.#moments = layer.lastMoments;
    this.#batches = layer.batchesTracked;
    this.#rejected = layer.rejectedUpdates;
  }

  /** @param y what the layer gave, for this number of channels. */
  look(step: number, y: ReadTensor | undefined): LayerRecord {
    const record = this.#record(step, y);
    this.latest = record;
    if (record.state === 'training') this.measured = record;
    this.#keep(record);
    return record;
  }

  #record(step: number, y: ReadTensor | undefined): LayerRecord {
    const { name, layer } = this;
    const moments = layer.lastMoments;
    const { batchesTracked, rejectedUpdates, training, channels, config } = layer;
    const before = this.#moments;
    // Counters go back where statistics are reset.
    const batches = batchesTracked - (batchesTracked < this.#batches ? 0 : this.#batches);
    const rejected = rejectedUpdates - (rejectedUpdates < this.#rejected ? 0 : this.#rejected);
    this.#moments = moments;
    this.#batches = batchesTracked;
    this.#rejected = rejectedUpdates;
    if (moments === undefined) return emptyRecord(step, name, 'untrained');
    const isTracked = layer.runningVar !== null;
    // A batch may be seen without an update, and the same batch twice: then only counters tell.
    const isNew = batches > 0 || !isSame(before, moments) || (!isTracked && training);
    if (!isNew) return emptyRecord(step, name, training ? 'idle' : 'evaluation');
    return {
      step,
      layer: name,
      state: 'training',
      ...driftOf(layer, moments),
      dead: deadOf(layer, moments),
      withoutGradient: this.#withoutGradient(),
      notPositive: y ? notPositiveOf(y, geometryOf(y, config.axis, channels)) : null,
      rejected: isTracked ? rejected : null,
      rejectedShare: isTracked ? (batches > 0 ? min(1, rejected / (batches * channels)) : 0) : null,
    };
  }

  #withoutGradient(): number | null {
    const { channels } = this.layer;
    const parameters = this.layer.parameters();
    if (parameters.length === 0) return null;
    let count = 0;
    for (let c = 0; c < channels; c++) {
      let isZero = true;
      for (let i = 0; i < parameters.length; i++) isZero = isZero && parameters[i].grad[c] === 0;
      if (isZero) count++;
    }
    this.#hadGradient ||= count < channels;
    return this.#hadGradient ? count : null;
  }

  /** Memory stays the same however long training takes: of two neighbours the one that had drifted further goes on. */
  #keep(record: LayerRecord): void {
    const { records } = this;
    if (this.#inStretch === 0) {
      if (records.length === mostRecords) {
        for (let i = 0; i < mostRecords / 2; i++) records[i] = further(records[2 * i], records[2 * i + 1]);
        records.length = mostRecords / 2;
        this.width *= 2;
      }
      records[records.length] = record;
    } else records[records.length - 1] = further(records[records.length - 1], record);
    this.#inStretch = (this.#inStretch + 1) % this.width;
  }
}

function further(a: LayerRecord, b: LayerRecord): LayerRecord {
  return (b.maxMeanDrift ?? -1) > (a.maxMeanDrift ?? -1) ? b : a;
}

/** Whether two looks have seen the same batch. */
function isSame(a: Moments | undefined, b: Moments): boolean {
  if (a === undefined) return false;
  for (let c = 0; c < b.channels; c++)
    if (!is(a.mean[c], b.mean[c]) || !is(a.variance[c], b.variance[c])) return false;
  return true;
}

type Drift = Pick<
  LayerRecord,
  'meanDrift' | 'maxMeanDrift' | 'driftChannel' | 'varDrift' | 'maxVarDrift' | 'notFinite'
>;

function driftOf({ runningMean, runningVar, config }: BatchNorm<DType>, moments: Moments): Drift {
  const { channels, mean } = moments;
  const { eps, unbiasedRunningVar } = config;
  let meanDrift = 0;
  let maxMeanDrift = -1;
  let driftChannel = -1;
  let varDrift = 0;
  let maxVarDrift = 0;
  let finite = 0;
  if (runningMean === null || runningVar === null)
    return {
      meanDrift: null,
      maxMeanDrift: null,
      driftChannel: null,
      varDrift: null,
      maxVarDrift: null,
      notFinite: null,
    };
  const variance = unbiasedRunningVar ? moments.unbiasedVariance() : moments.variance;
  for (let c = 0; c < channels; c++) {
    const z = abs(mean[c] - runningMean[c]) / sqrt(runningVar[c] + eps);
    const ratio = abs(log2((variance[c] + eps) / (runningVar[c] + eps)));
    if (!Number.isFinite(z) || !Number.isFinite(ratio)) continue;
    finite++;
    meanDrift += z;
    varDrift += ratio;
    maxVarDrift = max(maxVarDrift, ratio);
    if (z <= maxMeanDrift) continue;
    maxMeanDrift = z;
    driftChannel = c;
  }
  const isKnown = finite > 0;
  return {
    meanDrift: isKnown ? meanDrift / finite : null,
    maxMeanDrift: isKnown ? maxMeanDrift : null,
    driftChannel: isKnown ? driftChannel : null,
    varDrift: isKnown ? varDrift / finite : null,
    maxVarDrift: isKnown ? maxVarDrift : null,
    notFinite: channels - finite,
  };
}

function deadOf({ weight, config }: BatchNorm<DType>, { channels, variance }: Moments): number {
  let dead = 0;
  for (let c = 0; c < channels; c++) if (isDead(weight?.[c], variance[c], config.eps)) dead++;
  return dead;
}

/** The share in a sample of y, as many values of each channel, that lie as far apart as can be. */
function notPositiveOf({ data, dtype }: ReadTensor, { outer, channels, inner }: Geometry): number | null {
  const all = outer * inner;
  if (all === 0) return null;
  const each = min(all, max(1, floor(mostSampled / channels)));
  const most = dtype === 'bfloat16' || dtype === 'float16' ? infinity[dtype] : Number.POSITIVE_INFINITY;
  let positive = 0;
  for (let k = 0; k < each; k++) {
    const place = floor((k * all) / each);
    const first = floor(place / inner) * channels * inner + (place % inner);
    // Without a branch: of these values nobody can guess which it will be. Of bits, what is above infinity is negative, or no number.
    for (let c = 0; c < channels; c++) {
      const value = data[first + c * inner];
      positive += Number(value > 0) & Number(value <= most);
    }
  }
  return 1 - positive / (each * channels);
}
