// What goes back through a forward: the sums of x and dy, which those of other parts of the batch may join, and the gradients that follow.
import type {
  BackwardPass,
  GradInputOfPresentPass,
  GradInputPass,
  GradWeightsPass,
  Passes,
  Presence,
  Slot,
  Sums,
} from './backend/backend.js';
import type { Exchange } from './exchange.js';
import { newSums } from './gradient-sums.js';
import { operate } from './operations.js';
import { checkApart, isInPlace } from './overlap.js';
import { copyInto, lengthOf } from './typed-array.js';
import type { TensorArray } from './types.js';
import { checkKept, copyOf, newArray } from './validate.js';

/** Where a backward takes the sums that dx follows from, if not from x and dy alone. */
export interface SumsOrigin {
  /** Those of all parts. */
  readonly given: Sums | undefined;
  readonly exchange: Exchange | undefined;
  /** Values per channel of all parts. */
  readonly count: number | Float64Array;
}

/** Before gradients of parameters are written: the pass that writes dx comes after them. */
function checkResult<T extends TensorArray>({ dx, dy, x, residual }: BackwardPass<T>): void {
  if (dx === undefined) return;
  isInPlace(dx, 'dy.data', dy);
  checkApart('out', dx, { 'x.data': x, 'residual.data': residual });
}

/** What a backward behind values of which not all count alike has beside its pass. */
export interface PresentBackward {
  readonly presence: Presence;
  /** Those of all parts, where x is one of them. */
  readonly given: Sums | undefined;
  /** Those of all parts otherwise, of this one's. */
  readonly gather: ((own: Sums) => Sums) | undefined;
  /** The same off the event loop. */
  readonly gatherLater: ((own: Sums) => Promise<Sums>) | undefined;
  /** Of what counts, per channel and of all parts; undefined where statistics are constants, as in evaluation. */
  readonly counts: Float64Array | undefined;
  /** For each position, where they are asked for. */
  readonly dWeights: Float64Array | undefined;
}

/** The sums of this part, which the other steps of such a backward pass follow. */
function ownSums<T extends TensorArray>(pass: BackwardPass<T>, { presence }: PresentBackward) {
  const { channels } = pass.geometry;
  const sumBias = presence.impute && pass.dBias ? newArray<Float64Array>('float64', channels) : undefined;
  return { ...pass, presence, sums: newSums(channels), sumBias };
}

/** What follows from the sums of all parts; undefined where it is not asked for. */
function presentSteps<T extends TensorArray>(
  pass: BackwardPass<T>,
  { presence, counts, dWeights }: PresentBackward,
  sums: Sums,
) {
  const { dx, dResidual } = pass;
  return {
    // Constants are changed by no weight.
    weights: dWeights && counts ? { ...pass, presence, sums, counts, dWeights } : undefined,
    input: dx || dResidual ? { ...pass, presence, sums, counts, dx } : undefined,
  };
}

/** Whether something follows from the sums of this part. */
function needsOwn(
  { given, gather, counts }: PresentBackward,
  { wantsInput, wantsParameters }: { readonly wantsInput: boolean; readonly wantsParameters: boolean },
): boolean {
  return (
    wantsParameters || (wantsInput && counts !== undefined && (gather !== undefined || given === undefined))
  );
}

/** The code of a group is the caller's. */
function checkParameters<T extends TensorArray>({ geometry, dWeight, dBias }: BackwardPass<T>): void {
  if (dWeight) checkKept('the gradient of weight', dWeight, geometry.channels);
  if (dBias) checkKept('the gradient of bias', dBias, geometry.channels);
}

function writeParameters<T extends TensorArray>(passes: Passes<T>, own: ReturnType<typeof ownSums<T>>): void {
  const { dBias, sums, sumBias } = own;
  checkParameters(own);
  gradParameters(passes, own, sums);
  if (dBias && sumBias) copyInto(dBias, sumBias);
}

/** {@link throughForward} behind values of which not all count alike. */
export function throughPresent<T extends TensorArray>(
  passes: Passes<T>,
  pass: BackwardPass<T>,
  beside: PresentBackward,
): void {
  checkResult(pass);
  const own = ownSums(pass, beside);
  const { given, gather, dWeights } = beside;
  const wantsInput = pass.dx !== undefined || dWeights !== undefined;
  const wantsParameters = pass.dWeight !== undefined || pass.dBias !== undefined;
  if (needsOwn(beside, { wantsInput, wantsParameters })) passes.gradSumsOfPresent(own);
  const exchanged = wantsInput ? gather?.(own.sums) : undefined;
  const { weights, input } = presentSteps(pass, beside, exchanged ?? given ?? own.sums);
  checkParameters(own);
  if (weights) passes.gradWeights(weights);
  if (input) passes.gradInputOfPresent(input);
  // Last, for that pass sees overlaps that nobody else can.
  writeParameters(passes, own);
}

/** {@link throughPresent} off the event loop; `take` gives the pass, when its turn has come. */
export async function throughPresentLater<T extends TensorArray, R>(
  passes: Passes<T>,
  beside: PresentBackward,
  wants: { readonly wantsInput: boolean; readonly wantsParameters: boolean },
  signal: AbortSignal | undefined,
  take: () => BackwardPass<T>,
  finish: () => R,
): Promise<R> {
  let own: ReturnType<typeof ownSums<T>> | undefined;
  let gathered: Sums | undefined;
  // When the turn of the first step has come.
  const begun = () => {
    own ??= ownSums(take(), beside);
    return own;
  };
  const stepsOf = () => presentSteps(begun(), beside, gathered ?? beside.given ?? begun().sums);
  const step = (compute: (slot: Slot) => void) =>
    operate(
      signal,
      (slot) => {
        compute(slot);
        return [begun(), beside, gathered];
      },
      () => undefined,
    );
  const { wantsInput } = wants;
  if (needsOwn(beside, wants)) await step((slot) => passes.gradSumsOfPresentLater(begun(), slot));
  if (wantsInput) gathered = await beside.gatherLater?.(begun().sums);
  if (beside.dWeights && beside.counts)
    await step((slot) => passes.gradWeightsLater(stepsOf().weights as GradWeightsPass<T>, slot));
  if (wantsInput)
    await step((slot) => passes.gradInputOfPresentLater(stepsOf().input as GradInputOfPresentPass<T>, slot));
  writeParameters(passes, begun());
  return finish();
}

/** A backward pass at once. */
export function throughForward<T extends TensorArray>(
  passes: Passes<T>,
  pass: BackwardPass<T>,
  { given, exchange, count }: SumsOrigin,
): void {
  const { dx, dWeight, dBias } = pass;
  if (dx === undefined || (given === undefined && exchange === undefined)) {
    passes.backward(pass);
    return;
  }
  checkResult(pass);
  // Of this part; and before dx takes the place of dy.
  const own = exchange || dWeight || dBias ? newSums(pass.geometry.channels) : undefined;
  if (own !== undefined) passes.gradSums({ ...pass, sums: own });
  let all = given;
  if (exchange !== undefined && own !== undefined) {
    all = exchange.sums(own);
    checkParameters(pass);
  }
  passes.gradInput(gradInputOf(pass, dx, all as Sums, count));
  // Last, for that pass sees overlaps that nobody else can.
  if (own !== undefined) gradParameters(passes, pass, own);
}

/**
 * {@link throughForward} off the event loop.
 *
 * @param take gives the pass, when its turn has come.
 */
export async function throughForwardLater<T extends TensorArray, R>(
  passes: Passes<T>,
  { given, exchange, count }: SumsOrigin,
  { wantsInput, wantsParameters }: { readonly wantsInput: boolean; readonly wantsParameters: boolean },
  signal: AbortSignal | undefined,
  take: () => BackwardPass<T>,
  finish: () => R,
): Promise<R> {
  const isCut = wantsInput && (given !== undefined || exchange !== undefined);
  let pass: BackwardPass<T> | undefined;
  let own: Sums | undefined;
  let all = given;
  if (isCut && (exchange !== undefined || wantsParameters))
    await operate(
      signal,
      (slot) => {
        pass = take();
        own = newSums(pass.geometry.channels);
        passes.gradSumsLater({ ...pass, sums: own }, slot);
        return [pass, own];
      },
      () => undefined,
    );
  if (exchange !== undefined && own !== undefined) all = await exchange.sumsLater(own);
  return operate(
    signal,
    (slot) => {
      pass ??= take();
      if (isCut) passes.gradInputLater(gradInputOf(pass, pass.dx as T, all as Sums, count), slot);
      else passes.backwardLater(pass, slot);
      return [pass, all];
    },
    () => {
      if (own !== undefined && pass !== undefined) gradParameters(passes, pass, own);
      return finish();
    },
  );
}

/** Of a backward pass dx alone, of sums over `count` values per channel. */
function gradInputOf<T extends TensorArray>(
  pass: BackwardPass<T>,
  dx: T,
  sums: Sums,
  count: number | Float64Array,
): GradInputPass<T> {
  if (typeof count === 'number') return { ...pass, dx, sums, count };
  // Each channel has its own: of the mean of dy there is one value.
  const sumDy = copyOf(sums.sumDy);
  const sumDyXmu = copyOf(sums.sumDyXmu);
  for (let channel = 0; channel < lengthOf(sumDy); channel++) {
    sumDy[channel] /= count[channel];
    sumDyXmu[channel] /= count[channel];
  }
  return { ...pass, dx, sums: { sumDy, sumDyXmu }, count: 1 };
}

/** Those that follow from the sums of this part. */
function gradParameters<T extends TensorArray>(
  passes: Passes<T>,
  { geometry, eps, mean, variance, dWeight, dBias }: BackwardPass<T>,
  own: Sums,
): void {
  if (dWeight || dBias) passes.gradParameters(geometry.channels, eps, mean, variance, own, dWeight, dBias);
}
