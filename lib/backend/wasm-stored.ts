// Conversions, and inference from any storage type to any other, in WebAssembly: arrays go through it as bytes.
import { type HalfDType, storageOf } from '../dtype.js';
import { checkApart } from '../overlap.js';
import { bufferOf, byteLengthOf, bytesOf, extentOf, lengthOf, viewOfBytes, zeros } from '../typed-array.js';
import type { ValueArray } from '../types.js';
import type { Backend, StoredPass } from './backend.js';
import { checkLengths, type Machine, now, partBytes, roundUp } from './machine.js';
import type { Prepared, Turns } from './turns.js';

/** As in native/kernels.h. */
const storageBytes = [4, 2, 2, 1, 1, 2];
const halfBytes = 2;
const floatBytes = 4;
/** Numbers of a view before its dimensions. */
const before = 3;

/** The bytes of an array from one on. */
function partAsBytes(array: ValueArray, first = 0, length = byteLengthOf(array)): Uint8Array {
  return viewOfBytes(bufferOf(array), extentOf(array).begin + first, length);
}

/** From where on `count` indices of a dimension are, in values: the first place, and how many lie from there to the last. */
interface Reach {
  least: number;
  length: number;
}

/** `count` indices of a dimension, from one on. */
interface Indices {
  /** -1 for all of x. */
  readonly along: number;
  readonly first: number;
  readonly count: number;
}
const all: Indices = { along: -1, first: 0, count: 0 };

function rankOf(view: Float64Array): number {
  return (lengthOf(view) - before) / 2;
}

function reachOf(view: Float64Array, { along, first, count }: Indices): Reach {
  const rank = rankOf(view);
  let least = view[2];
  let most = view[2];
  for (let i = 0; i < rank; i++) {
    const stride = view[before + rank + i];
    const extent = i === along ? count : view[before + i];
    if (extent === 0) return { least: 0, length: 0 };
    const start = i === along ? first * stride : 0;
    const reach = (extent - 1) * stride;
    least += start + (reach < 0 ? reach : 0);
    most += start + (reach > 0 ? reach : 0);
  }
  return { least, length: most - least + 1 };
}

function sizeOf(view: Float64Array): number {
  const rank = rankOf(view);
  let size = 1;
  for (let i = 0; i < rank; i++) size *= view[before + i];
  return size;
}

export function storedPassesOf(
  machine: Machine,
  turns: Turns,
): Pick<Backend, 'convert' | 'runStored' | 'runStoredLater' | 'findMissingStored'> {
  /** Calls compute(source) with `count` indices of a dimension of x in the module, and what the module must know of how they lie. */
  const withPart = (
    view: Float64Array,
    x: ValueArray,
    each: number,
    { along, first, count }: Indices,
    place: { view: number; x: number },
    compute: (source: number) => void,
  ) => {
    const rank = rankOf(view);
    const numbers = zeros<Float64Array>('float64', 2 * rank);
    for (let i = 0; i < 2 * rank; i++) numbers[i] = view[before + i];
    if (along >= 0) numbers[along] = count;
    machine.copyIn(numbers, place.view);
    const { least, length } = reachOf(view, { along, first, count });
    machine.copyIn(partAsBytes(x, least * each, length * each), place.x);
    const begin = along < 0 ? view[2] : view[2] + first * view[before + rank + along];
    compute(place.x + (begin - least) * each);
  };

  const runStored = ({
    view,
    memory,
    xStorage,
    x,
    yStorage,
    y,
    bias,
    residualStorage,
    residual,
  }: StoredPass): Prepared<void> => {
    const size = sizeOf(view);
    const xBytes = storageBytes[xStorage];
    const yBytes = storageBytes[yStorage];
    const residualBytes = storageBytes[residualStorage];
    const { least, length } = reachOf(view, all);
    checkLengths(size, y, residual);
    if (least < 0 || least + length > lengthOf(x)) checkLengths(least + length, x);
    if (residual) checkApart('out', y, { 'residual.data': residual });
    const rank = rankOf(view);
    // The first dimension of y, where that is not the channels: what lies side by side there is one part of y.
    const along = view[1] === 0 ? -1 : view[0] === 0 ? 1 : 0;
    const extent = along < 0 ? 1 : view[before + along];
    const perIndex = extent === 0 ? 0 : size / extent;
    const each = along < 0 ? 0 : reachOf(view, { along, first: 0, count: Math.min(1, extent) }).length;
    const most = Math.max(each * xBytes, perIndex * Math.max(yBytes, residual ? residualBytes : 0), 1);
    const step = along < 0 ? 1 : Math.max(1, Math.min(extent, Math.floor(partBytes / most)));
    const compute = () => {
      if (size === 0) return;
      const parts = along < 0 ? reachOf(view, all) : reachOf(view, { along, first: 0, count: step });
      const values = along < 0 ? size : step * perIndex;
      const room = roundUp(parts.length * xBytes);
      const bytes =
        roundUp(8 * 2 * rank) +
        roundUp(bytesOf(memory)) +
        room +
        roundUp(values * yBytes) +
        (residual ? roundUp(values * residualBytes) : 0) +
        (bias ? roundUp(byteLengthOf(bias)) : 0);
      machine.within('float32', bytes, () => {
        const pMemory = machine.putBytes(memory);
        const pBias = machine.put(bias);
        const place = { view: machine.room(8 * 2 * rank), x: machine.room(room) };
        const py = machine.room(values * yBytes);
        const pResidual = residual ? machine.room(values * residualBytes) : 0;
        for (let first = 0; first < extent; first += step) {
          const count = Math.min(step, extent - first);
          const some = count * perIndex;
          if (residual)
            machine.copyIn(
              partAsBytes(residual, first * perIndex * residualBytes, some * residualBytes),
              pResidual,
            );
          withPart(view, x, xBytes, { along, first, count }, place, (source) => {
            machine.invoke('runStored', [
              place.view,
              rank,
              view[0],
              view[1],
              pMemory,
              xStorage,
              source,
              yStorage,
              py,
              pBias,
              residualStorage,
              pResidual,
            ]);
          });
          machine.get(partAsBytes(y, first * perIndex * yBytes, some * yBytes), py);
        }
      });
    };
    return { result: undefined, compute };
  };

  /** Calls use(first, count) for parts of so many values. */
  const inParts = (length: number, use: (first: number, count: number) => void) => {
    const step = partBytes / floatBytes;
    for (let first = 0; first < length; first += step) use(first, Math.min(step, length - first));
  };
  const roomOf = (length: number) => Math.min(length, partBytes / floatBytes);
  const convert = (widens: boolean, dtype: HalfDType, halves: Uint16Array, floats: Float32Array) => {
    const length = lengthOf(halves);
    const most = roomOf(length);
    machine.within('float32', roundUp(most * halfBytes) + roundUp(most * floatBytes), () => {
      const pHalves = machine.room(most * halfBytes);
      const pFloats = machine.room(most * floatBytes);
      inParts(length, (first, count) => {
        const some = partAsBytes(halves, first * halfBytes, count * halfBytes);
        const wide = partAsBytes(floats, first * floatBytes, count * floatBytes);
        if (widens) machine.copyIn(some, pHalves);
        else machine.copyIn(wide, pFloats);
        if (widens) machine.invoke('widen', [storageOf(dtype), pHalves, count, pFloats]);
        else machine.invoke('narrow', [storageOf(dtype), pFloats, count, pHalves]);
        if (widens) machine.get(wide, pFloats);
        else machine.get(some, pHalves);
      });
    });
  };

  return {
    convert: {
      widen: (dtype, from, to) => convert(true, dtype, from, to),
      narrow: (dtype, from, to) => convert(false, dtype, to, from),
    },
    runStored: (pass) => now(runStored(pass)),
    runStoredLater: (pass, slot) => turns.later(runStored(pass), slot),
    findMissingStored(view, xStorage, x) {
      const size = sizeOf(view);
      if (size === 0) return size;
      const rank = rankOf(view);
      const { length } = reachOf(view, all);
      let found = size;
      const bytes = roundUp(8 * 2 * rank) + roundUp(length * storageBytes[xStorage]);
      machine.within('float32', bytes, () => {
        const place = { view: machine.room(8 * 2 * rank), x: machine.room(length * storageBytes[xStorage]) };
        withPart(view, x, storageBytes[xStorage], all, place, (source) => {
          found = machine.invoke('findMissingStored', [place.view, rank, view[0], view[1], xStorage, source]);
        });
      });
      return found;
    },
  };
}
