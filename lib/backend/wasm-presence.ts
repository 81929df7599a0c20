// The passes over values of which not all count alike, in WebAssembly: they take all at once.

import { checkApart, isInPlace } from '../overlap.js';
import type { DType, TensorArray } from '../types.js';
import {
  type InferPresentPass,
  type MomentsOfPresentPass,
  maskBytes,
  type Passes,
  type Presence,
  type ThroughPresent,
} from './backend.js';
import { bytesFor, checkLengths, type Machine, now } from './machine.js';
import type { Prepared, Turns } from './turns.js';

type PresentPasses<T extends TensorArray> = Pick<
  Passes<T>,
  | 'momentsOfPresent'
  | 'inferPresent'
  | 'gradSumsOfPresent'
  | 'gradInputOfPresent'
  | 'gradWeights'
  | 'findMissing'
  | 'momentsOfPresentLater'
  | 'inferPresentLater'
  | 'gradSumsOfPresentLater'
  | 'gradInputOfPresentLater'
  | 'gradWeightsLater'
>;

export function presentPassesOf<T extends TensorArray>(
  dtype: DType,
  machine: Machine,
  turns: Turns,
): PresentPasses<T> {
  const momentsOfPresentPass = machine.pass('momentsOfPresent', dtype);
  const momentsOfPresent = ({
    geometry: { outer, channels, inner },
    x,
    mean,
    variance,
    count,
    squares,
    presence: { weights, missing, impute, zero },
  }: MomentsOfPresentPass<T>): Prepared<void> => {
    checkLengths(outer * channels * inner, x);
    checkLengths(outer * inner, weights);
    checkLengths(channels, mean, variance, count, squares);
    const compute = () =>
      machine.within(dtype, bytesFor(undefined, x, weights, mean, variance, count, squares), () => {
        const px = machine.put(x);
        const pWeights = machine.put(weights);
        const pMean = machine.reserve(mean);
        const pVariance = machine.reserve(variance);
        const pCount = machine.reserve(count);
        const pSquares = machine.reserve(squares);
        momentsOfPresentPass(
          outer,
          channels,
          inner,
          px,
          pMean,
          pVariance,
          pCount,
          pSquares,
          pWeights,
          missing,
          impute,
          zero,
        );
        machine.get(mean, pMean);
        machine.get(variance, pVariance);
        machine.get(count, pCount);
        machine.get(squares, pSquares);
      });
    return { result: undefined, compute };
  };

  const inferPresentPass = machine.pass('inferPresent', dtype);
  const inferPresent = (pass: InferPresentPass<T>): Prepared<boolean> => {
    const { geometry, eps, x, y, weight, bias, mean, variance, relu, residual, mask, presence } = pass;
    const { outer, channels, inner } = geometry;
    const { weights, missing, impute, zero } = presence;
    const size = outer * channels * inner;
    checkLengths(size, x, y, residual);
    checkLengths(channels, weight, bias, mean, variance);
    checkLengths(maskBytes(size), mask);
    checkLengths(outer * inner, weights);
    const result = isInPlace(y, 'x.data', x);
    if (residual) checkApart('out', y, { 'residual.data': residual });
    const bytes = bytesFor(undefined, x, residual, weight, bias, mean, variance, mask, weights);
    const compute = () =>
      machine.within(dtype, bytes, () => {
        const px = machine.put(x);
        const pMask = machine.reserve(mask);
        inferPresentPass(
          outer,
          channels,
          inner,
          eps,
          px,
          px,
          machine.put(weight),
          machine.put(bias),
          machine.put(mean),
          machine.put(variance),
          relu,
          machine.put(residual),
          pMask,
          machine.put(weights),
          missing,
          impute,
          zero,
        );
        machine.get(y, px);
        machine.get(mask, pMask);
      });
    return { result, compute };
  };

  /** What goes back through such a forward has, beside that which all of them have. */
  interface BesidePresent {
    readonly counts?: Float64Array | undefined;
    readonly dx?: T | undefined;
    readonly dWeights?: Float64Array | undefined;
    readonly sumBias?: Float64Array | undefined;
  }
  const throughPresentPasses = {
    gradSumsOfPresent: machine.pass('gradSumsOfPresent', dtype),
    gradInputOfPresent: machine.pass('gradInputOfPresent', dtype),
    gradWeights: machine.pass('gradWeights', dtype),
  };
  const throughPresent = (
    name: keyof typeof throughPresentPasses,
    pass: ThroughPresent<T> & BesidePresent,
  ): Prepared<void> => {
    const { geometry, eps, dy, x, mean, variance, weight, bias, relu, residual, mask, dResidual } = pass;
    const { outer, channels, inner } = geometry;
    const { weights, missing, impute, zero }: Presence = pass.presence;
    const { sumDy, sumDyXmu } = pass.sums;
    // A pass may be one of a whole backward, and have what this one does not write.
    const dx = name === 'gradInputOfPresent' ? pass.dx : undefined;
    const dWeights = name === 'gradWeights' ? pass.dWeights : undefined;
    const counts = name === 'gradSumsOfPresent' ? undefined : pass.counts;
    const sumBias = name === 'gradSumsOfPresent' ? pass.sumBias : undefined;
    const size = outer * channels * inner;
    checkLengths(size, dy, x, residual, dx, dResidual);
    checkLengths(channels, mean, variance, weight, bias, sumDy, sumDyXmu, counts, sumBias);
    checkLengths(maskBytes(size), mask);
    checkLengths(outer * inner, weights, dWeights);
    if (dx) {
      isInPlace(dx, 'dy.data', dy);
      checkApart('out', dx, { 'x.data': x, 'residual.data': residual });
    }
    const bytes =
      bytesFor(undefined, dy, x, residual, dResidual, mean, variance, weight, bias, mask, sumDy, sumDyXmu) +
      bytesFor(undefined, weights, dWeights, counts, sumBias);
    const compute = () =>
      machine.within(dtype, bytes, () => {
        const pDy = machine.put(dy);
        const pDResidual = machine.reserve(dResidual);
        const pSumDy = machine.put(sumDy);
        const pSumDyXmu = machine.put(sumDyXmu);
        const pDWeights = machine.reserve(dWeights);
        const pSumBias = machine.reserve(sumBias);
        throughPresentPasses[name](
          outer,
          channels,
          inner,
          eps,
          pDy,
          machine.put(x),
          machine.put(mean),
          machine.put(variance),
          machine.put(weight),
          machine.put(bias),
          relu,
          machine.put(residual),
          machine.put(mask),
          pDResidual,
          pSumDy,
          pSumDyXmu,
          machine.put(counts),
          dWeights ? pDWeights : dx ? pDy : 0,
          machine.put(weights),
          missing,
          impute,
          zero,
          pSumBias,
        );
        machine.get(dx, pDy);
        machine.get(dWeights, pDWeights);
        if (name !== 'gradWeights') machine.get(dResidual, pDResidual);
        if (name !== 'gradSumsOfPresent') return;
        machine.get(sumDy, pSumDy);
        machine.get(sumDyXmu, pSumDyXmu);
        machine.get(sumBias, pSumBias);
      });
    return { result: undefined, compute };
  };
  const findMissing = machine.pass('findMissing', dtype);

  return {
    momentsOfPresent: (pass) => now(momentsOfPresent(pass)),
    inferPresent: (pass) => now(inferPresent(pass)),
    gradSumsOfPresent: (pass) => now(throughPresent('gradSumsOfPresent', pass)),
    gradInputOfPresent: (pass) => now(throughPresent('gradInputOfPresent', pass)),
    gradWeights: (pass) => now(throughPresent('gradWeights', pass)),
    findMissing({ outer, channels, inner }, x, weights) {
      checkLengths(outer * channels * inner, x);
      checkLengths(outer * inner, weights);
      return machine.within(dtype, bytesFor(undefined, x, weights), () =>
        findMissing(outer, channels, inner, machine.put(x), machine.put(weights)),
      );
    },
    momentsOfPresentLater: (pass, slot) => turns.later(momentsOfPresent(pass), slot),
    inferPresentLater: (pass, slot) => turns.later(inferPresent(pass), slot),
    gradSumsOfPresentLater: (pass, slot) => turns.later(throughPresent('gradSumsOfPresent', pass), slot),
    gradInputOfPresentLater: (pass, slot) => turns.later(throughPresent('gradInputOfPresent', pass), slot),
    gradWeightsLater: (pass, slot) => turns.later(throughPresent('gradWeights', pass), slot),
  };
}
