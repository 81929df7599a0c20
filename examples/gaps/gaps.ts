import { Moments } from 'batchnorm';
import type { Digits } from '../mnist/data.js';
import { uniform } from '../mnist/random.js';
import { BATCH, batches, type Prepare } from '../mnist/train.js';

/**
 * Knocks pixels out of the images of a batch: NaN, as a sensor that says nothing. An image loses the same ones each time, and those
 * of a smaller share are among those of a larger one.
 */
export function knockOut(share: number, seed: number): Prepare {
  return (pixels, indices) => {
    const size = pixels.length / indices.length;
    for (const [n, index] of indices.entries()) {
      const random = uniform(seed + index);
      for (let i = n * size; i < (n + 1) * size; i++) if (random() < share) pixels[i] = Number.NaN;
    }
  };
}

/** Writes `values`, one for each pixel of an image, where pixels are missing. */
export function fill(values: Float64Array): Prepare {
  return (pixels) => {
    for (let i = 0; i < pixels.length; i++)
      if (Number.isNaN(pixels[i])) pixels[i] = values[i % values.length];
  };
}

/** One after the other. */
export function inTurn(...steps: readonly Prepare[]): Prepare {
  return (pixels, indices) => {
    for (const step of steps) step(pixels, indices);
  };
}

/** Mean and variance of each pixel over the images that have it, found batch by batch. */
export function momentsOf(digits: Digits, prepare?: Prepare): Moments {
  let all: Moments | undefined;
  for (const { x } of batches(digits, prepare)) {
    const part = Moments.of(x, { missing: 'skip' });
    all = all ? Moments.merge(all, part) : part;
  }
  if (all === undefined) throw new RangeError(`digits.count must be ${BATCH} at least, got ${digits.count}`);
  return all;
}
