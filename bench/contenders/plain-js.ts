import type { Contender } from '../contender.js';
import { backward, forwardInference, forwardTraining } from '../plain-js.js';

/** Loops as a good engineer writes them. */
export const plainJs: Contender = (shape, { x, dy, y, dx, weight, bias, mean, variance }) => {
  const affine = { weight, bias, eps: 1e-5 };
  const moments = { mean, variance };
  const gradients = {
    dx,
    dWeight: new Float32Array(shape.channels),
    dBias: new Float32Array(shape.channels),
  };
  return {
    inference: () => forwardInference(x, shape, moments, affine, y),
    training: () => forwardTraining(x, shape, affine, moments, y),
    backward: () => backward(dy, x, shape, moments, affine, gradients),
  };
};
