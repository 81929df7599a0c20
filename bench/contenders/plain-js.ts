import { arrayFor, type Contender, eps } from '../contender.js';
import { backward, forwardInference, forwardTraining } from '../plain-js.js';
import { backwardImputed, backwardWeighted, forwardImputed, forwardWeighted } from '../plain-js-counting.js';
import { plainPictures } from '../storage.js';

/** Loops as a good engineer writes them. */
export const plainJs: Contender = (subject, { x, dy, y, dx, weight, bias, mean, variance, weights }) => {
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
