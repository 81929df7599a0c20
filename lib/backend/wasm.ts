// The C++ as WebAssembly: the same arithmetic wherever no binary can be loaded. Arrays are copied into the module's memory
// and results, which take the place of the input, out of it; binding/wasm.cpp is the other side.
import { arithmeticOf, dtypes } from '../dtype.js';
import { stateError } from '../errors.js';
import { checkApart, isInPlace } from '../overlap.js';
import { platform } from '../platform/node.js';
import { bytesOf, viewOfBytes } from '../typed-array.js';
import type { DType, ParametersOf, TensorArray } from '../types.js';
import {
  type Backend,
  type BackwardPass,
  type ForwardPass,
  type GradInputPass,
  type GradSumsPass,
  type MomentsPass,
  maskBytes,
  nothingOnTheWay,
  type Passes,
  type Sums,
  type ThroughForward,
} from './backend.js';
import {
  bytesFor,
  checkLengths,
  Machine,
  now,
  outOfMemory,
  type Part,
  type Pointer,
  partBytes,
  roundUp,
} from './machine.js';
import { type Prepared, Turns } from './turns.js';
import { wasmBytes } from './wasm-bytes.js';
import { presentPassesOf } from './wasm-presence.js';
import { rowPassesOf } from './wasm-rows.js';
import { storedPassesOf } from './wasm-stored.js';

const { apply } = Reflect;
const WeakMapClass = WeakMap;
const { get: getChannels, set: setChannels } = WeakMap.prototype;

/** Shorter runs cost more to copy one by one than is won. */
const runBytes = 2 ** 12;
/** Of a channel at least so many values, beside which the arithmetic of its coefficients is little. */
const perChannel = 32;

/** Three coefficients of 8 bytes for each come to less than 2 GiB. */
const mostFrozen = 2 ** 26;

/** What may be taken apart. A pass that sums a channel must see all of its samples. */
type Along = 'nothing' | 'samples' | 'channels' | 'both';

/** How a tensor is cut. */
interface Cut {
  /** How many parts there are. */
  count: number;
  /**
   * The bytes of the largest, which is the first. Not those of an array: one that lies in shared memory may have grown since
   * it was checked.
   */
  bytes: number;
  /** Of a part. */
  samples: number;
  channels: number;
  /** Parts side by side that have all the channels. */
  abreast: number;
}

/**
 * Whether channels lie side by side for a pass that sums; as layout_of_sums of native/partition.h. Many short samples are not cut, nor
 * are parts of longer ones short: `runBytes` is more than either has.
 */
function sumsColumns(outer: number, inner: number): boolean {
  return inner <= 32 && outer >= (inner <= 8 ? 1 : inner < 16 ? 4 : 5);
}

/**
 * Cuts a tensor into parts that stay near while they are copied in, computed and copied out. No bit depends on it: what
 * a channel's sums are made of follows from the other sizes alone (native/partition.h), unless channels lie side by side.
 */
function cutOf(along: Along, outer: number, channels: number, inner: number, valueBytes: number): Cut {
  const near = partBytes / valueBytes;
  if (along === 'nothing' || outer * channels * inner <= 2 * near)
    return { count: 1, bytes: outer * channels * inner * valueBytes, samples: outer, channels, abreast: 1 };
  const fewest = Math.ceil(perChannel / inner);
  const samples =
    along === 'channels' ? outer : Math.min(outer, Math.max(fewest, Math.floor(near / (channels * inner))));
  let block = channels;
  const liesApart = along === 'both' ? inner > 1 : along === 'channels' && !sumsColumns(outer, inner);
  if (liesApart) {
    const fitting = Math.min(channels, Math.max(1, Math.floor(near / (samples * inner))));
    if (fitting * inner * valueBytes >= runBytes) block = fitting;
  }
  const abreast = Math.ceil(channels / block);
  const count = abreast * Math.ceil(outer / samples);
  return { count, bytes: samples * block * inner * valueBytes, samples, channels: block, abreast };
}

function partAt(index: number, cut: Cut, outer: number, channels: number, inner: number): Part {
  const { abreast } = cut;
  const stride = channels * inner;
  const channel = (index % abreast) * cut.channels;
  const sample = Math.floor(index / abreast) * cut.samples;
  const samples = Math.min(cut.samples, outer - sample);
  const block = Math.min(cut.channels, channels - channel);
  const runs = abreast === 1 ? 1 : samples;
  const length = (abreast === 1 ? samples : 1) * block * inner;
  return {
    outer: samples,
    channel,
    channels: block,
    first: sample * stride + channel * inner,
    runs,
    length,
    stride,
  };
}

function passesOf<T extends TensorArray>(dtype: DType, machine: Machine, turns: Turns): Passes<T> {
  /** In the module. */
  const valueBytes = dtypes[arithmeticOf(dtype)].bytes;
  /** The place of a channel's parameter, of an array that may be absent. */
  const from = (place: Pointer, channel: number) => place && place + channel * valueBytes;
  const trainingPass = machine.pass('forwardTraining', dtype);
  const inferencePass = machine.pass('forwardInference', dtype);
  const forward = (
    infers: boolean,
    {
      geometry: { outer, channels, inner },
      eps,
      x,
      y,
      weight,
      bias,
      mean,
      variance,
      relu,
      residual,
      mask,
    }: ForwardPass<T>,
  ): Prepared<boolean> => {
    const pass = infers ? inferencePass : trainingPass;
    const size = outer * channels * inner;
    checkLengths(size, x, y, residual);
    checkLengths(channels, weight, bias, mean, variance);
    checkLengths(maskBytes(size), mask);
    const result = isInPlace(y, 'x.data', x);
    if (residual) checkApart('out', y, { 'residual.data': residual });
    // The bits of a mask lie where its values do in the tensor.
    const along = mask ? 'nothing' : infers ? 'both' : 'channels';
    const cut = cutOf(along, outer, channels, inner, valueBytes);
    const bytes = bytesFor(cut.bytes, x, residual) + bytesFor(undefined, weight, bias, mean, variance, mask);
    const compute = () =>
      machine.within(dtype, bytes, () => {
        const px = machine.reserve(x, cut.bytes);
        const pResidual = machine.reserve(residual, cut.bytes);
        const pMean = infers ? machine.put(mean) : machine.reserve(mean);
        const pVariance = infers ? machine.put(variance) : machine.reserve(variance);
        const pMask = machine.reserve(mask);
        const pWeight = machine.put(weight);
        const pBias = machine.put(bias);
        for (let i = 0; i < cut.count; i++) {
          const part = partAt(i, cut, outer, channels, inner);
          const { channel } = part;
          machine.copyIn(x, px, part);
          machine.copyIn(residual, pResidual, part);
          pass(
            part.outer,
            part.channels,
            inner,
            eps,
            px,
            px,
            from(pWeight, channel),
            from(pBias, channel),
            pMean + channel * dtypes.float64.bytes,
            pVariance + channel * dtypes.float64.bytes,
            relu,
            pResidual,
            pMask,
          );
          machine.get(y, px, part);
        }
        machine.get(mask, pMask);
        if (infers) return;
        machine.get(mean, pMean);
        machine.get(variance, pVariance);
      });
    return { result, compute };
  };

  const momentsPass = machine.pass('moments', dtype);
  const moments = ({
    geometry: { outer, channels, inner },
    x,
    mean,
    variance,
  }: MomentsPass<T>): Prepared<void> => {
    checkLengths(outer * channels * inner, x);
    checkLengths(channels, mean, variance);
    const cut = cutOf('channels', outer, channels, inner, valueBytes);
    const compute = () =>
      machine.within(dtype, bytesFor(cut.bytes, x) + bytesFor(undefined, mean, variance), () => {
        const px = machine.reserve(x, cut.bytes);
        const pMean = machine.reserve(mean);
        const pVariance = machine.reserve(variance);
        for (let i = 0; i < cut.count; i++) {
          const part = partAt(i, cut, outer, channels, inner);
          machine.copyIn(x, px, part);
          const at = part.channel * dtypes.float64.bytes;
          momentsPass(part.outer, part.channels, inner, px, pMean + at, pVariance + at);
        }
        machine.get(mean, pMean);
        machine.get(variance, pVariance);
      });
    return { result: undefined, compute };
  };

  /** What passes back through a forward write or read beside it. */
  interface Beside {
    readonly training?: boolean;
    readonly dx?: T | undefined;
    readonly dWeight?: ParametersOf<T> | undefined;
    readonly dBias?: ParametersOf<T> | undefined;
    readonly sums?: Sums;
    readonly count?: number;
  }
  const through = {
    backward: machine.pass('backward', dtype),
    gradSums: machine.pass('gradSums', dtype),
    gradInput: machine.pass('gradInput', dtype),
  };
  const backThrough = (
    name: keyof typeof through,
    {
      geometry: { outer, channels, inner },
      eps,
      dy,
      x,
      mean,
      variance,
      weight,
      bias,
      relu,
      residual,
      mask,
      dResidual,
      training = true,
      dx,
      dWeight,
      dBias,
      sums,
      count = 0,
    }: ThroughForward<T> & Beside,
  ): Prepared<void> => {
    const size = outer * channels * inner;
    const { sumDy, sumDyXmu } = sums ?? {};
    checkLengths(size, dy, x, residual, dx, dResidual);
    checkLengths(channels, mean, variance, weight, bias, dWeight, dBias, sumDy, sumDyXmu);
    checkLengths(maskBytes(size), mask);
    if (dx) {
      isInPlace(dx, 'dy.data', dy);
      checkApart('out', dx, { 'x.data': x, 'residual.data': residual });
    }
    const cut = cutOf(mask ? 'nothing' : 'channels', outer, channels, inner, valueBytes);
    const bytes =
      bytesFor(cut.bytes, dy, x, residual, dResidual) +
      bytesFor(undefined, mean, variance, weight, bias, mask, dWeight, dBias, sumDy, sumDyXmu);
    const compute = () =>
      machine.within(dtype, bytes, () => {
        const pDy = machine.reserve(dy, cut.bytes);
        const px = machine.reserve(x, cut.bytes);
        const pResidual = machine.reserve(residual, cut.bytes);
        const pDResidual = machine.reserve(dResidual, cut.bytes);
        const pMean = machine.put(mean);
        const pVariance = machine.put(variance);
        const pWeight = machine.put(weight);
        const pBias = machine.put(bias);
        const pMask = machine.put(mask);
        const pDWeight = machine.reserve(dWeight);
        const pDBias = machine.reserve(dBias);
        const pSumDy = machine.put(sumDy);
        const pSumDyXmu = machine.put(sumDyXmu);
        for (let i = 0; i < cut.count; i++) {
          const part = partAt(i, cut, outer, channels, inner);
          const { channel } = part;
          const doubles = channel * dtypes.float64.bytes;
          machine.copyIn(dy, pDy, part);
          machine.copyIn(x, px, part);
          machine.copyIn(residual, pResidual, part);
          // What gradSums has no parameter for is passed over.
          const beside =
            name === 'backward'
              ? [training, dx ? pDy : 0, from(pDWeight, channel), from(pDBias, channel)]
              : name === 'gradSums'
                ? [pSumDy + doubles, pSumDyXmu + doubles, 0, 0]
                : [pSumDy + doubles, pSumDyXmu + doubles, count, pDy];
          through[name](
            part.outer,
            part.channels,
            inner,
            eps,
            pDy,
            px,
            pMean + doubles,
            pVariance + doubles,
            from(pWeight, channel),
            from(pBias, channel),
            relu,
            pResidual,
            pMask,
            pDResidual,
            beside[0],
            beside[1],
            beside[2],
            beside[3],
          );
          machine.get(dx, pDy, part);
          machine.get(dResidual, pDResidual, part);
        }
        machine.get(dWeight, pDWeight);
        machine.get(dBias, pDBias);
        if (name !== 'gradSums') return;
        machine.get(sumDy, pSumDy);
        machine.get(sumDyXmu, pSumDyXmu);
      });
    return { result: undefined, compute };
  };
  const backward = (pass: BackwardPass<T>) => backThrough('backward', pass);
  // A pass may be one of a whole backward, and have what these do not write.
  const gradSums = (pass: GradSumsPass<T>) =>
    backThrough('gradSums', { ...pass, dx: undefined, dWeight: undefined, dBias: undefined });
  const gradInput = (pass: GradInputPass<T>) =>
    backThrough('gradInput', { ...pass, dWeight: undefined, dBias: undefined });
  const gradParameters = machine.pass('gradParameters', dtype);

  /** Of what freeze has filled. */
  const channelsOf = new WeakMapClass<ArrayBuffer, number>();
  const frozenBytes = machine.pass('frozenBytes', dtype);
  const freezePass = machine.pass('freeze', dtype);
  const runPass = machine.pass('runFrozen', dtype);
  const runFrozen = (
    outer: number,
    inner: number,
    memory: ArrayBuffer,
    x: T,
    y: T,
    residual?: T,
  ): Prepared<void> => {
    const channels = apply(getChannels, channelsOf, [memory]) as number;
    checkLengths(outer * channels * inner, x, residual, y);
    isInPlace(y, 'x.data', x);
    if (residual) checkApart('out', y, { 'residual.data': residual });
    const cut = cutOf('samples', outer, channels, inner, valueBytes);
    const bytes = bytesFor(cut.bytes, x, residual) + roundUp(bytesOf(memory));
    const compute = () => {
      if (outer * inner === 0) return;
      machine.within(dtype, bytes, () => {
        const pMemory = machine.putBytes(memory);
        const px = machine.reserve(x, cut.bytes);
        const pResidual = machine.reserve(residual, cut.bytes);
        for (let i = 0; i < cut.count; i++) {
          const part = partAt(i, cut, outer, channels, inner);
          machine.copyIn(x, px, part);
          machine.copyIn(residual, pResidual, part);
          runPass(part.outer, channels, inner, pMemory, px, px, pResidual);
          machine.get(y, px, part);
        }
      });
    };
    return { result: undefined, compute };
  };

  return {
    forwardTraining: (pass) => now(forward(false, pass)),
    forwardInference: (pass) => now(forward(true, pass)),
    moments: (pass) => now(moments(pass)),
    backward: (pass) => now(backward(pass)),
    gradSums: (pass) => now(gradSums(pass)),
    gradInput: (pass) => now(gradInput(pass)),
    gradParameters(channels, eps, mean, variance, { sumDy, sumDyXmu }, dWeight, dBias) {
      checkLengths(channels, mean, variance, sumDy, sumDyXmu, dWeight, dBias);
      machine.within(dtype, bytesFor(undefined, mean, variance, sumDy, sumDyXmu, dWeight, dBias), () => {
        const pMean = machine.put(mean);
        const pVariance = machine.put(variance);
        const pSumDy = machine.put(sumDy);
        const pSumDyXmu = machine.put(sumDyXmu);
        const pDWeight = machine.reserve(dWeight);
        const pDBias = machine.reserve(dBias);
        gradParameters(channels, eps, pMean, pVariance, pSumDy, pSumDyXmu, pDWeight, pDBias);
        machine.get(dWeight, pDWeight);
        machine.get(dBias, pDBias);
      });
    },
    ...presentPassesOf<T>(dtype, machine, turns),
    ...rowPassesOf<T>(dtype, machine, turns),
    forwardTrainingLater: (pass, slot) => turns.later(forward(false, pass), slot),
    forwardInferenceLater: (pass, slot) => turns.later(forward(true, pass), slot),
    momentsLater: (pass, slot) => turns.later(moments(pass), slot),
    backwardLater: (pass, slot) => turns.later(backward(pass), slot),
    gradSumsLater: (pass, slot) => turns.later(gradSums(pass), slot),
    gradInputLater: (pass, slot) => turns.later(gradInput(pass), slot),
    frozenBytes(channels) {
      if (channels > mostFrozen) throw outOfMemory('a frozen layer', `${channels} channels`);
      return frozenBytes(channels);
    },
    freeze(channels, eps, weight, bias, mean, variance, relu, memory) {
      checkLengths(channels, weight, bias, mean, variance);
      const bytes = bytesFor(undefined, weight, bias, mean, variance) + roundUp(bytesOf(memory));
      machine.within(dtype, bytes, () => {
        const filled = viewOfBytes(memory, 0, bytesOf(memory));
        const pMemory = machine.reserve(filled);
        const pWeight = machine.put(weight);
        const pBias = machine.put(bias);
        freezePass(channels, eps, pWeight, pBias, machine.put(mean), machine.put(variance), relu, pMemory);
        machine.get(filled, pMemory);
      });
      apply(setChannels, channelsOf, [memory, channels]);
    },
    runFrozen: (outer, inner, memory, x, y, residual) => now(runFrozen(outer, inner, memory, x, y, residual)),
    runFrozenLater: (outer, inner, memory, x, y, residual, slot) =>
      turns.later(runFrozen(outer, inner, memory, x, y, residual), slot),
  };
}

/** @throws Error where the module is not there, or WebAssembly is not to be had: a policy forbids it, or --jitless. */
function load(): Machine {
  if (wasmBytes === undefined)
    throw stateError(
      'WASM_UNAVAILABLE',
      "the WebAssembly backend must have its module, got none: it is made by 'npm run build:wasm'",
    );
  try {
    return new Machine(platform.inflate(wasmBytes));
  } catch (error) {
    throw stateError(
      'WASM_UNAVAILABLE',
      `the WebAssembly module of batchnorm must compile, got ${String(error)} (${platform.wasmForbidden})`,
      error,
    );
  }
}

/** The backend that computes on the calling thread, in WebAssembly. */
export function createWasmBackend(): Backend {
  const machine = load();
  const turns = new Turns();
  return {
    name: 'wasm',
    isa: 'wasm',
    isaReason: 'the only one of the WebAssembly backend',
    isas: ['wasm'],
    l2Bytes: 0,
    streamBytes: () => 0,
    inParts: (_bytes, call) => call(),
    // The language has no way to do that.
    release: () => {},
    isAligned: () => true,
    adviseHugePages: () => {},
    onTheWay: nothingOnTheWay(),
    onFinished: (handler) => turns.onFinished(handler),
    takeFinished: (slots) => turns.takeFinished(slots),
    cancel: (slot) => turns.cancel(slot),
    float32: passesOf<Float32Array>('float32', machine, turns),
    float64: passesOf<Float64Array>('float64', machine, turns),
    bfloat16: passesOf<Uint16Array>('bfloat16', machine, turns),
    float16: passesOf<Uint16Array>('float16', machine, turns),
    ...storedPassesOf(machine, turns),
    updateRunningStats(mean, variance, channels, count, decay, unbiased, runningMean, runningVar, accepted) {
      checkLengths(channels, mean, variance, runningMean, runningVar, accepted);
      return machine.within(
        'float64',
        bytesFor(undefined, mean, variance, runningMean, runningVar, accepted),
        () => {
          const pMean = machine.put(mean);
          const pVariance = machine.put(variance);
          const pRunningMean = machine.put(runningMean);
          const pRunningVar = machine.put(runningVar);
          const pAccepted = machine.put(accepted);
          const rejected = machine.invoke('updateRunningStats', [
            channels,
            pMean,
            pVariance,
            count,
            decay,
            unbiased,
            pRunningMean,
            pRunningVar,
            pAccepted,
          ]);
          machine.get(runningMean, pRunningMean);
          machine.get(runningVar, pRunningVar);
          machine.get(accepted, pAccepted);
          return rejected;
        },
      );
    },
    setThreads() {},
    threads: () => 1,
  };
}
