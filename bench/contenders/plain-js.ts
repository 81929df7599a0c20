import { type Case, type Norm, rowsOf } from '../cases.js';
import { arrayFor, type Buffers, type Contender, eps, type Prepared } from '../contender.js';
import { backward, forwardInference, forwardTraining } from '../plain-js.js';
import { backwardImputed, backwardWeighted, forwardImputed, forwardWeighted } from '../plain-js-counting.js';
import { backwardGroups, backwardRows, forwardGroups, forwardRows } from '../plain-js-norms.js';
import { plainPictures } from '../storage.js';

/** Inference is the forward: there are no statistics of others. */
function plainNorm(subject: Case, { name, groups }: Norm, { x, dy, y, dx, weight, bias }: Buffers): Prepared {
  const affine = { weight, bias, eps };
  const rows = rowsOf(subject);
  const moments = { mean: new Float64Array(rows), variance: new Float64Array(rows) };
  const gradients = { dx, dWeight: weight.slice(), dBias: bias.slice() };
  const shape = { ...subject, samples: rows / groups, groups };
  const isOfRows = name === 'layer' || name === 'RMS';
  const forward = isOfRows
    ? () => forwardRows(x, subject, name === 'layer', affine, moments, y)
    : () => forwardGroups(x, shape, affine, moments, y);
  const backward = isOfRows
    ? () => backwardRows(dy, x, subject, name === 'layer', moments, affine, gradients)
    : () => backwardGroups(dy, x, shape, moments, affine, gradients);
  forward();
  return {
    calls: { inference: forward, training: forward, backward },
    train() {
      forward();
      return { y, variance: moments.variance };
    },
  };
}

/** Loops as a good engineer writes them. */
export const plainJs: Contender = (subject, buffers) => {
  if (subject.norm !== undefined) return plainNorm(subject, subject.norm, buffers);
  const { x, dy, y, dx, weight, bias, mean, variance, weights } = buffers;
  // Nobody would write batch norm of bits as a loop.
  if (subject.storage !== undefined)
    return subject.storage === 'pictures' ? { calls: { inference: plainPictures(subject) } } : undefined;
  const affine = { weight, bias, eps };
  const moments = { mean, variance };
  const each = { ...subject, offset: 0, line: undefined };
  const gradients = {
    dx,
    dWeight: arrayFor(each, subject.channels),
    dBias: arrayFor(each, subject.channels),
  };
  if (weights)
    return {
      calls: {
        training: () => forwardWeighted(x, weights, subject, affine, moments, y),
        backward: () => backwardWeighted(dy, x, weights, subject, moments, affine, gradients),
      },
    };
  if (subject.counts) {
    const counts = new Float64Array(subject.channels);
    return {
      calls: {
        training: () => forwardImputed(x, subject, affine, moments, counts, y),
        backward: () => backwardImputed(dy, x, subject, moments, counts, affine, gradients),
      },
    };
  }
  const training = () => forwardTraining(x, subject, affine, moments, y);
  return {
    calls: {
      inference: () => forwardInference(x, subject, moments, affine, y),
      training,
      backward: () => backward(dy, x, subject, moments, affine, gradients),
    },
    train() {
      training();
      return { y, variance };
    },
  };
};
