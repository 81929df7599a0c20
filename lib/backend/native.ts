// Finds the .node file and types it; binding/binding.cpp is the other side.
import { createRequire } from 'node:module';
import { storageOf } from '../dtype.js';
import { rangeError } from '../errors.js';
import type { TensorArray } from '../types.js';
import { version } from '../version.js';
import {
  type Backend,
  type BackwardPass,
  type ForwardPass,
  type GradInputPass,
  type GradSumsPass,
  type InferPresentPass,
  type MomentsOfPresentPass,
  type MomentsPass,
  nothingOnTheWay,
  type OnTheWay,
  type Passes,
  type RowBackwardPass,
  type RowForwardPass,
  type Slot,
  type StoredPass,
  type ThroughPresent,
} from './backend.js';
import { l2Bytes, usualStreamBytes } from './caches.js';
import { cpus } from './threads.js';

/** The passes as binding.cpp has them: by position, and the slot last where they compute later. */
type BoundForward = (...operands: unknown[]) => boolean;
type Bound = (...operands: unknown[]) => void;
interface BoundPasses<T extends TensorArray>
  extends Pick<Passes<T>, 'frozenBytes' | 'freeze' | 'runFrozen' | 'runFrozenLater'> {
  forwardTraining: BoundForward;
  forwardInference: BoundForward;
  moments: Bound;
  backward: Bound;
  gradSums: Bound;
  gradInput: Bound;
  gradParameters: Bound;
  momentsOfPresent: Bound;
  inferPresent: BoundForward;
  gradSumsOfPresent: Bound;
  gradInputOfPresent: Bound;
  gradWeights: Bound;
  findMissing: (...operands: unknown[]) => number;
  momentsOfPresentLater: Bound;
  inferPresentLater: BoundForward;
  gradSumsOfPresentLater: Bound;
  gradInputOfPresentLater: Bound;
  gradWeightsLater: Bound;
  forwardTrainingLater: BoundForward;
  forwardInferenceLater: BoundForward;
  momentsLater: Bound;
  backwardLater: Bound;
  gradSumsLater: Bound;
  gradInputLater: Bound;
  forwardRows: BoundForward;
  forwardRowsLater: BoundForward;
  backwardRows: Bound;
  backwardRowsLater: Bound;
}

interface Binding
  extends Pick<
    Backend,
    | 'updateRunningStats'
    | 'release'
    | 'isAligned'
    | 'adviseHugePages'
    | 'onFinished'
    | 'takeFinished'
    | 'cancel'
    | 'setThreads'
    | 'threads'
    | 'mpi'
  > {
  isas: string[];
  /** Why the first of them is the best. */
  isaReason: string;
  float32: BoundPasses<Float32Array>;
  float64: BoundPasses<Float64Array>;
  bfloat16: BoundPasses<Uint16Array>;
  float16: BoundPasses<Uint16Array>;
  widen: Bound;
  narrow: Bound;
  runStored: Bound;
  runStoredLater: Bound;
  findMissingStored: Backend['findMissingStored'];
  /** Absent until the library is evaluated for the first time; see {@link Backend.onTheWay}. */
  onTheWay?: OnTheWay;
  /** For the environment that calls. */
  setMachine(cpus: number, cacheBytes: number, mostStreamBytes: number, streamBytesPerThread: number): void;
  /** Whether this CPU can run it. */
  useIsa(name: string): boolean;
}

/** What a caller of the library may decide through the environment; undefined for the best. */
export interface NativeSettings {
  isa?: string;
  streamBytes?: number;
}

/**
 * By the name of the package, not by a path: so a bundle finds it too, where the package lies beside it or above. Not before it is
 * wanted: the loader looks around as it is evaluated, which Node's permission model may forbid.
 *
 * @throws what the loader throws where there is no binary for this platform; Error where it is that of another version.
 */
function loadBinding(): Binding {
  if (import.meta.url !== undefined) {
    // Tools that trace requires know this form, with literal names, and no other.
    const require = createRequire(import.meta.url);
    checkVersion(require('batchnorm/package.json'));
    return require('batchnorm/binary.cjs');
  }
  // CommonJS that was made of modules: a file that is loaded as such knows its place, which in a single executable is the
  // program. By another name, for webpack warns of what it cannot trace.
  const requireFrom = createRequire;
  const require = requireFrom(typeof __filename === 'string' ? __filename : process.execPath);
  checkVersion(require('batchnorm/package.json'));
  return require('batchnorm/binary.cjs');
}

/** A bundle may lie beside another version of the package. */
function checkVersion({ version: found }: { version: string }): void {
  if (found !== version)
    throw new Error(`the bundle has version ${version} of the library, node_modules has ${found}`);
}

// The one place where a pass becomes positions: a record costs the binding more to read than the whole of a small pass.

function spreadForward<T extends TensorArray>(
  bound: BoundForward,
): (pass: ForwardPass<T>, slot?: Slot) => boolean {
  return (pass, slot) =>
    bound(
      pass.geometry.outer,
      pass.geometry.channels,
      pass.geometry.inner,
      pass.eps,
      pass.x,
      pass.y,
      pass.weight,
      pass.bias,
      pass.mean,
      pass.variance,
      pass.relu,
      pass.residual,
      pass.mask,
      slot,
    );
}

function spreadMoments<T extends TensorArray>(bound: Bound): (pass: MomentsPass<T>, slot?: Slot) => void {
  return ({ geometry, x, mean, variance }, slot) =>
    bound(geometry.outer, geometry.channels, geometry.inner, x, mean, variance, slot);
}

function spreadBackward<T extends TensorArray>(bound: Bound): (pass: BackwardPass<T>, slot?: Slot) => void {
  return (pass, slot) =>
    bound(
      pass.geometry.outer,
      pass.geometry.channels,
      pass.geometry.inner,
      pass.eps,
      pass.dy,
      pass.x,
      pass.mean,
      pass.variance,
      pass.weight,
      pass.bias,
      pass.relu,
      pass.residual,
      pass.mask,
      pass.dResidual,
      pass.training,
      pass.dx,
      pass.dWeight,
      pass.dBias,
      slot,
    );
}

/** gradSums reads neither count nor dx. */
function spreadSums<T extends TensorArray>(
  bound: Bound,
): (pass: GradSumsPass<T> & Partial<Pick<GradInputPass<T>, 'count' | 'dx'>>, slot?: Slot) => void {
  return (pass, slot) =>
    bound(
      pass.geometry.outer,
      pass.geometry.channels,
      pass.geometry.inner,
      pass.eps,
      pass.dy,
      pass.x,
      pass.mean,
      pass.variance,
      pass.weight,
      pass.bias,
      pass.relu,
      pass.residual,
      pass.mask,
      pass.dResidual,
      pass.sums.sumDy,
      pass.sums.sumDyXmu,
      pass.count,
      pass.dx,
      slot,
    );
}

function spreadMomentsOfPresent<T extends TensorArray>(
  bound: Bound,
): (pass: MomentsOfPresentPass<T>, slot?: Slot) => void {
  return (pass, slot) =>
    bound(
      pass.geometry.outer,
      pass.geometry.channels,
      pass.geometry.inner,
      pass.x,
      pass.mean,
      pass.variance,
      pass.count,
      pass.squares,
      pass.presence.weights,
      pass.presence.missing,
      pass.presence.impute,
      pass.presence.zero,
      slot,
    );
}

function spreadInferPresent<T extends TensorArray>(
  bound: BoundForward,
): (pass: InferPresentPass<T>, slot?: Slot) => boolean {
  return (pass, slot) =>
    bound(
      pass.geometry.outer,
      pass.geometry.channels,
      pass.geometry.inner,
      pass.eps,
      pass.x,
      pass.y,
      pass.weight,
      pass.bias,
      pass.mean,
      pass.variance,
      pass.relu,
      pass.residual,
      pass.mask,
      pass.presence.weights,
      pass.presence.missing,
      pass.presence.impute,
      pass.presence.zero,
      slot,
    );
}

/** Each of them reads what its pass has. */
interface OfPresent<T extends TensorArray> extends ThroughPresent<T> {
  counts?: Float64Array | undefined;
  dx?: T | undefined;
  dWeights?: Float64Array;
  sumBias?: Float64Array | undefined;
}

function spreadThroughPresent<T extends TensorArray>(
  bound: Bound,
): (pass: OfPresent<T>, slot?: Slot) => void {
  return (pass, slot) =>
    bound(
      pass.geometry.outer,
      pass.geometry.channels,
      pass.geometry.inner,
      pass.eps,
      pass.dy,
      pass.x,
      pass.mean,
      pass.variance,
      pass.weight,
      pass.bias,
      pass.relu,
      pass.residual,
      pass.mask,
      pass.dResidual,
      pass.sums.sumDy,
      pass.sums.sumDyXmu,
      pass.counts,
      pass.dWeights ?? pass.dx,
      pass.presence.weights,
      pass.presence.missing,
      pass.presence.impute,
      pass.presence.zero,
      pass.sumBias,
      slot,
    );
}

function spreadForwardRows<T extends TensorArray>(
  bound: BoundForward,
): (pass: RowForwardPass<T>, slot?: Slot) => boolean {
  return (pass, slot) =>
    bound(
      pass.geometry.samples,
      pass.geometry.places,
      pass.geometry.groups,
      pass.geometry.channels / pass.geometry.groups,
      pass.geometry.inner,
      pass.eps,
      pass.centred,
      pass.x,
      pass.y,
      pass.weight,
      pass.bias,
      pass.mean,
      pass.variance,
      pass.relu,
      pass.residual,
      pass.mask,
      slot,
    );
}

function spreadBackwardRows<T extends TensorArray>(
  bound: Bound,
): (pass: RowBackwardPass<T>, slot?: Slot) => void {
  return (pass, slot) =>
    bound(
      pass.geometry.samples,
      pass.geometry.places,
      pass.geometry.groups,
      pass.geometry.channels / pass.geometry.groups,
      pass.geometry.inner,
      pass.eps,
      pass.centred,
      pass.dy,
      pass.x,
      pass.mean,
      pass.variance,
      pass.weight,
      pass.bias,
      pass.relu,
      pass.residual,
      pass.mask,
      pass.dResidual,
      pass.dx,
      pass.dWeight,
      pass.dBias,
      slot,
    );
}

function spreadStored(bound: Bound): (pass: StoredPass, slot?: Slot) => void {
  return (pass, slot) =>
    bound(
      pass.view,
      pass.memory,
      pass.xStorage,
      pass.x,
      pass.yStorage,
      pass.y,
      pass.bias,
      pass.residualStorage,
      pass.residual,
      slot,
    );
}

function passesOf<T extends TensorArray>(bound: BoundPasses<T>): Passes<T> {
  return {
    forwardTraining: spreadForward(bound.forwardTraining),
    forwardInference: spreadForward(bound.forwardInference),
    moments: spreadMoments(bound.moments),
    backward: spreadBackward(bound.backward),
    gradSums: spreadSums(bound.gradSums),
    gradInput: spreadSums(bound.gradInput),
    gradParameters: (channels, eps, mean, variance, { sumDy, sumDyXmu }, dWeight, dBias) =>
      bound.gradParameters(channels, eps, mean, variance, sumDy, sumDyXmu, dWeight, dBias),
    momentsOfPresent: spreadMomentsOfPresent(bound.momentsOfPresent),
    inferPresent: spreadInferPresent(bound.inferPresent),
    gradSumsOfPresent: spreadThroughPresent(bound.gradSumsOfPresent),
    gradInputOfPresent: spreadThroughPresent(bound.gradInputOfPresent),
    gradWeights: spreadThroughPresent(bound.gradWeights),
    findMissing: ({ outer, channels, inner }, x, weights) =>
      bound.findMissing(outer, channels, inner, x, weights),
    momentsOfPresentLater: spreadMomentsOfPresent(bound.momentsOfPresentLater),
    inferPresentLater: spreadInferPresent(bound.inferPresentLater),
    gradSumsOfPresentLater: spreadThroughPresent(bound.gradSumsOfPresentLater),
    gradInputOfPresentLater: spreadThroughPresent(bound.gradInputOfPresentLater),
    gradWeightsLater: spreadThroughPresent(bound.gradWeightsLater),
    forwardTrainingLater: spreadForward(bound.forwardTrainingLater),
    forwardInferenceLater: spreadForward(bound.forwardInferenceLater),
    momentsLater: spreadMoments(bound.momentsLater),
    backwardLater: spreadBackward(bound.backwardLater),
    gradSumsLater: spreadSums(bound.gradSumsLater),
    gradInputLater: spreadSums(bound.gradInputLater),
    forwardRows: spreadForwardRows(bound.forwardRows),
    forwardRowsLater: spreadForwardRows(bound.forwardRowsLater),
    backwardRows: spreadBackwardRows(bound.backwardRows),
    backwardRowsLater: spreadBackwardRows(bound.backwardRowsLater),
    frozenBytes: bound.frozenBytes,
    freeze: bound.freeze,
    runFrozen: bound.runFrozen,
    runFrozenLater: bound.runFrozenLater,
  };
}

/** @throws what {@link loadBinding} throws; RangeError where the CPU lacks `isa`. */
export function createNativeBackend({ isa, streamBytes }: NativeSettings = {}): Backend {
  const binding = loadBinding();
  const { isas } = binding;
  if (isa !== undefined && !binding.useIsa(isa))
    throw rangeError(
      'BATCHNORM_ISA',
      `be one that this CPU has (${isas.join(', ')})`,
      isa,
      'UNSUPPORTED_ISA',
    );
  binding.onTheWay ??= nothingOnTheWay();
  const l2 = l2Bytes();
  const { most, perThread } =
    streamBytes === undefined ? usualStreamBytes : { most: streamBytes, perThread: streamBytes };
  // The other half is for what is written, and for the next group, which is being fetched.
  const available = cpus();
  const writeFrom = (mostBytes: number, bytesPerThread: number) =>
    binding.setMachine(available, l2 / 2, mostBytes, bytesPerThread);
  writeFrom(most, perThread);
  const streamedFrom = () => Math.min(most, perThread * binding.threads());
  return {
    name: 'native',
    isa: isa ?? isas[0],
    isaReason: isa === undefined ? binding.isaReason : 'BATCHNORM_ISA',
    isas,
    l2Bytes: l2,
    streamBytes: streamedFrom,
    inParts(bytes, call) {
      if (bytes < streamedFrom()) return call();
      // What a call needs of the settings it takes before it returns, one that computes later too.
      writeFrom(0, 0);
      try {
        return call();
      } finally {
        writeFrom(most, perThread);
      }
    },
    float32: passesOf(binding.float32),
    float64: passesOf(binding.float64),
    bfloat16: passesOf(binding.bfloat16),
    float16: passesOf(binding.float16),
    convert: {
      widen: (dtype, from, to) => binding.widen(storageOf(dtype), from, to),
      narrow: (dtype, from, to) => binding.narrow(storageOf(dtype), from, to),
    },
    runStored: spreadStored(binding.runStored),
    runStoredLater: spreadStored(binding.runStoredLater),
    findMissingStored: binding.findMissingStored,
    updateRunningStats: binding.updateRunningStats,
    release: binding.release,
    isAligned: binding.isAligned,
    adviseHugePages: binding.adviseHugePages,
    onTheWay: binding.onTheWay,
    onFinished: binding.onFinished,
    takeFinished: binding.takeFinished,
    cancel: binding.cancel,
    setThreads: binding.setThreads,
    threads: binding.threads,
    mpi: binding.mpi,
  };
}
