// Passes over bits of 16 by way of whole tensors in float32.
import type { HalfDType } from '../dtype.js';
import { lengthOf, zeros } from '../typed-array.js';
import { checkApart, isInPlace } from '../validate.js';
import type { Backend, Passes, Slot } from './backend.js';
import { conversions } from './convert.js';
import { checkLengths } from './machine.js';

/** The tensors that passes have, by their names. */
interface Tensors {
  readonly geometry: { readonly outer: number; readonly channels: number; readonly inner: number };
  readonly x: Uint16Array;
  readonly dy?: Uint16Array;
  readonly residual?: Uint16Array | undefined;
  readonly y?: Uint16Array;
  readonly dx?: Uint16Array | undefined;
  readonly dResidual?: Uint16Array | undefined;
}

/** A pass in float32, and what is to be done when it has been computed. */
interface Wide {
  readonly pass: WideRun;
  readonly inPlace: boolean;
  readonly narrow: () => void;
}

/** What is in it of any pass. */
interface WideRun {
  readonly x: Float32Array;
  readonly y: Float32Array;
  readonly residual: Float32Array | undefined;
}

type AnyPass = (pass: never, slot: never) => unknown;

/** The passes of both types, with a backend that narrows what has been computed off the event loop before it says so. */
export function withWidened(backend: Omit<Backend, 'bfloat16' | 'float16'>): Backend {
  const { float32, takeFinished, cancel } = backend;
  const waiting: Record<Slot, (() => void) | undefined> = Object.create(null);
  return {
    ...backend,
    bfloat16: widenedPasses('bfloat16', float32, waiting),
    float16: widenedPasses('float16', float32, waiting),
    takeFinished(slots) {
      const count = takeFinished(slots);
      for (let i = 0; i < count; i++) {
        const slot = slots[i] < 0 ? ~slots[i] : slots[i];
        if (slots[i] >= 0) waiting[slot]?.();
        waiting[slot] = undefined;
      }
      return count;
    },
    cancel(slot) {
      const isCancelled = cancel(slot);
      if (isCancelled) waiting[slot] = undefined;
      return isCancelled;
    },
  };
}

function widenedPasses(
  dtype: HalfDType,
  float32: Passes<Float32Array>,
  waiting: Record<Slot, (() => void) | undefined>,
): Passes<Uint16Array> {
  const widen = <T extends Uint16Array | undefined>(bits: T) => {
    if (bits === undefined) return undefined;
    const values = zeros<Float32Array>('float32', lengthOf(bits));
    conversions.widen(dtype, bits, values);
    return values;
  };
  const room = (bits: Uint16Array | undefined) => bits && zeros<Float32Array>('float32', lengthOf(bits));
  const wide = (pass: Tensors): Wide => {
    const { geometry, x, dy, residual, y, dx, dResidual } = pass;
    checkLengths(geometry.outer * geometry.channels * geometry.inner, x, dy, residual, y, dx, dResidual);
    const inPlace = y !== undefined && isInPlace(y, 'x.data', x);
    if (y) checkApart('out', y, { 'residual.data': residual });
    if (dx && dy) {
      isInPlace(dx, 'dy.data', dy);
      checkApart('out', dx, { 'x.data': x, 'residual.data': residual });
    }
    const results = { y: room(y), dx: room(dx), dResidual: room(dResidual) };
    const record = { ...pass, x: widen(x), dy: widen(dy), residual: widen(residual), ...results };
    return {
      pass: record as unknown as WideRun,
      inPlace,
      narrow() {
        if (y && results.y) conversions.narrow(dtype, results.y, y);
        if (dx && results.dx) conversions.narrow(dtype, results.dx, dx);
        if (dResidual && results.dResidual) conversions.narrow(dtype, results.dResidual, dResidual);
      },
    };
  };
  // A pass may be one of a whole backward, and have what it does not write.
  const written = (given: unknown, leavesDx: boolean) =>
    leavesDx ? { ...(given as Tensors), dx: undefined } : (given as Tensors);
  const now =
    (compute: AnyPass, leavesDx = false) =>
    (given: unknown) => {
      const { pass, inPlace, narrow } = wide(written(given, leavesDx));
      compute(pass as never, undefined as never);
      narrow();
      return inPlace;
    };
  const later =
    (compute: AnyPass, leavesDx = false) =>
    (given: unknown, slot: Slot) => {
      const { pass, inPlace, narrow } = wide(written(given, leavesDx));
      compute(pass as never, slot as never);
      // It keeps alive what is computed from, too.
      waiting[slot] = () => {
        narrow();
        lengthOf(pass.x);
      };
      return inPlace;
    };
  const frozen = (outer: number, inner: number, x: Uint16Array, y: Uint16Array, residual?: Uint16Array) => {
    const channels = lengthOf(x) === 0 ? 0 : lengthOf(x) / (outer * inner);
    return wide({ geometry: { outer, channels, inner }, x, y, residual });
  };
  return {
    forwardTraining: now(float32.forwardTraining),
    forwardInference: now(float32.forwardInference),
    moments: now(float32.moments),
    backward: now(float32.backward),
    gradSums: now(float32.gradSums, true),
    gradInput: now(float32.gradInput),
    gradParameters: float32.gradParameters,
    momentsOfPresent: now(float32.momentsOfPresent),
    inferPresent: now(float32.inferPresent),
    gradSumsOfPresent: now(float32.gradSumsOfPresent, true),
    gradInputOfPresent: now(float32.gradInputOfPresent),
    gradWeights: now(float32.gradWeights, true),
    findMissing: (geometry, x, weights) => float32.findMissing(geometry, widen(x) as Float32Array, weights),
    momentsOfPresentLater: later(float32.momentsOfPresentLater),
    inferPresentLater: later(float32.inferPresentLater),
    gradSumsOfPresentLater: later(float32.gradSumsOfPresentLater, true),
    gradInputOfPresentLater: later(float32.gradInputOfPresentLater),
    gradWeightsLater: later(float32.gradWeightsLater, true),
    forwardTrainingLater: later(float32.forwardTrainingLater),
    forwardInferenceLater: later(float32.forwardInferenceLater),
    momentsLater: later(float32.momentsLater),
    backwardLater: later(float32.backwardLater),
    gradSumsLater: later(float32.gradSumsLater, true),
    gradInputLater: later(float32.gradInputLater),
    frozenBytes: float32.frozenBytes,
    freeze: float32.freeze,
    runFrozen(outer, inner, memory, x, y, residual) {
      const { pass, narrow } = frozen(outer, inner, x, y, residual);
      if (pass.residual === undefined) float32.runFrozen(outer, inner, memory, pass.x, pass.y);
      else float32.runFrozen(outer, inner, memory, pass.x, pass.y, pass.residual);
      narrow();
    },
    runFrozenLater(outer, inner, memory, x, y, residual, slot) {
      const { pass, narrow } = frozen(outer, inner, x, y, residual);
      float32.runFrozenLater(outer, inner, memory, pass.x, pass.y, pass.residual, slot);
      waiting[slot] = () => {
        narrow();
        lengthOf(pass.x);
      };
    },
  };
}
