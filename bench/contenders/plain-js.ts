import { arrayFor, type Contender, eps } from '../contender.js';
import { backward, forwardInference, forwardTraining } from '../plain-js.js';

/** Loops as a good engineer writes them. */
export const plainJs: Contender = (subject, { x, dy, y, dx, weight, bias, mean, variance }) => {
  const affine = { weight, bias, eps };
  const moments = { mean, variance };
  const each = { ...subject, offset: 0, line: undefined };
  const gradients = {
    dx,
    dWeight: arrayFor(each, subject.channels),
    dBias: arrayFor(each, subject.channels),
  };
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
