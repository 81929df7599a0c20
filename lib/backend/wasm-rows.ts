// The passes over rows in WebAssembly. Rows know nothing of each other: samples go through forward a few at a time, and through
// backward, which adds up what is theirs in the gradients of the parameters, all at once.
import { arithmeticOf, dtypes } from '../dtype.js';
import { checkApart, isInPlace } from '../overlap.js';
import type { DType, TensorArray } from '../types.js';
import { type Passes, type RowBackwardPass, type RowForwardPass, rowMaskBytes } from './backend.js';
import { bytesFor, checkLengths, type Machine, now, type Part, partBytes } from './machine.js';
import type { Prepared, Turns } from './turns.js';

type RowPasses<T extends TensorArray> = Pick<
  Passes<T>,
  'forwardRows' | 'forwardRowsLater' | 'backwardRows' | 'backwardRowsLater'
>;

export function rowPassesOf<T extends TensorArray>(
  dtype: DType,
  machine: Machine,
  turns: Turns,
): RowPasses<T> {
  const valueBytes = dtypes[arithmeticOf(dtype)].bytes;
  const forwardPass = machine.pass('forwardRows', dtype);
  const forward = ({
    geometry,
    eps,
    centred,
    x,
    y,
    weight,
    bias,
    mean,
    variance,
    relu,
    residual,
    mask,
  }: RowForwardPass<T>): Prepared<boolean> => {
    const { samples, places, groups, channels, inner } = geometry;
    const ofSample = places * channels * inner;
    checkLengths(samples * ofSample, x, y, residual);
    checkLengths(channels, weight, bias);
    checkLengths(samples * groups, mean, variance);
    checkLengths(rowMaskBytes(geometry), mask);
    const result = y !== undefined && isInPlace(y, 'x.data', x);
    if (y && residual) checkApart('out', y, { 'residual.data': residual });
    // The bits of a mask lie where its values do in the tensor.
    const fitting = Math.max(1, Math.floor(partBytes / (ofSample * valueBytes)));
    // One part at least, which finds that there is nothing.
    const some = Math.max(1, mask || ofSample === 0 ? samples : Math.min(samples, fitting));
    const each = some * ofSample * valueBytes;
    const bytes = bytesFor(each, x, residual) + bytesFor(undefined, weight, bias, mean, variance, mask);
    const compute = () =>
      machine.within(dtype, bytes, () => {
        const px = machine.reserve(x, each);
        const pResidual = machine.reserve(residual, each);
        const pMean = machine.reserve(mean);
        const pVariance = machine.reserve(variance);
        const pMask = machine.reserve(mask);
        const pWeight = machine.put(weight);
        const pBias = machine.put(bias);
        for (let first = 0; first === 0 || first < samples; first += some) {
          const count = Math.min(some, samples - first);
          const length = count * ofSample;
          const part: Part = {
            outer: count,
            channel: 0,
            channels,
            first: first * ofSample,
            runs: 1,
            length,
            stride: length,
          };
          machine.copyIn(x, px, part);
          machine.copyIn(residual, pResidual, part);
          const rows = first * groups * dtypes.float64.bytes;
          forwardPass(
            count,
            places,
            groups,
            channels / groups,
            inner,
            eps,
            centred,
            px,
            y ? px : 0,
            pWeight,
            pBias,
            pMean + rows,
            pVariance + rows,
            relu,
            pResidual,
            pMask,
          );
          machine.get(y, px, part);
        }
        machine.get(mean, pMean);
        machine.get(variance, pVariance);
        machine.get(mask, pMask);
      });
    return { result, compute };
  };

  const backwardPass = machine.pass('backwardRows', dtype);
  const backward = ({
    geometry,
    eps,
    centred,
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
    dx,
    dWeight,
    dBias,
  }: RowBackwardPass<T>): Prepared<void> => {
    const { samples, places, groups, channels, inner } = geometry;
    checkLengths(samples * places * channels * inner, dy, x, residual, dx, dResidual);
    checkLengths(channels, weight, bias, dWeight, dBias);
    checkLengths(samples * groups, mean, variance);
    checkLengths(rowMaskBytes(geometry), mask);
    if (dx) {
      isInPlace(dx, 'dy.data', dy);
      checkApart('out', dx, { 'x.data': x, 'residual.data': residual });
    }
    const bytes =
      bytesFor(undefined, dy, x, residual, dResidual, mean, variance, weight, bias) +
      bytesFor(undefined, mask, dWeight, dBias);
    const compute = () =>
      machine.within(dtype, bytes, () => {
        const pDy = machine.put(dy);
        const px = machine.put(x);
        const pResidual = machine.put(residual);
        const pDResidual = machine.reserve(dResidual);
        const pMean = machine.put(mean);
        const pVariance = machine.put(variance);
        const pWeight = machine.put(weight);
        const pBias = machine.put(bias);
        const pMask = machine.put(mask);
        const pDWeight = machine.reserve(dWeight);
        const pDBias = machine.reserve(dBias);
        backwardPass(
          samples,
          places,
          groups,
          channels / groups,
          inner,
          eps,
          centred,
          pDy,
          px,
          pMean,
          pVariance,
          pWeight,
          pBias,
          relu,
          pResidual,
          pMask,
          pDResidual,
          dx ? pDy : 0,
          pDWeight,
          pDBias,
        );
        machine.get(dx, pDy);
        machine.get(dResidual, pDResidual);
        machine.get(dWeight, pDWeight);
        machine.get(dBias, pDBias);
      });
    return { result: undefined, compute };
  };

  return {
    forwardRows: (pass) => now(forward(pass)),
    forwardRowsLater: (pass, slot) => turns.later(forward(pass), slot),
    backwardRows: (pass) => now(backward(pass)),
    backwardRowsLater: (pass, slot) => turns.later(backward(pass), slot),
  };
}
