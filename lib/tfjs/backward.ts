// The pass that both gradients are: that of tf.batchNorm and that of the layer in training.
import { passesFor } from '../backend/index.js';
import type { Geometry } from '../validate.js';

/** What of the forward pass the gradients depend on. */
interface Forward {
  eps: number;
  /** Whether mean and variance are those of x, and carry gradient. */
  training: boolean;
  mean: Float64Array;
  variance: Float64Array;
  weight: Float32Array | undefined;
}

/** Where they go; absent are those that nobody asks for. */
interface Gradients {
  dx: Float32Array;
  dWeight: Float32Array | undefined;
  dBias: Float32Array | undefined;
}

/** Without an activation and a residual, which TensorFlow.js has elsewhere. */
export function backward(
  { outer, channels, inner }: Geometry,
  { eps, training, mean, variance, weight }: Forward,
  dy: Float32Array,
  x: Float32Array,
  { dx, dWeight, dBias }: Gradients,
): void {
  passesFor<Float32Array>('float32').backward(
    outer,
    channels,
    inner,
    eps,
    training,
    dy,
    x,
    mean,
    variance,
    weight,
    undefined,
    false,
    undefined,
    undefined,
    dx,
    dWeight,
    dBias,
    undefined,
  );
}
