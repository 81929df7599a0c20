import { type Case, sizeOf } from './cases.js';
import type { Call, Prepared } from './contender.js';

/** Pictures as models want them: what torchvision does to those of ImageNet. */
export const pictures = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], scale: 1 / 255 };

/** The parts of this library that the cases of storage call; revisions before it have none of them. */
export type StorageLibrary = Pick<
  typeof import('batchnorm'),
  'BatchNorm' | 'FrozenBatchNorm' | 'decode' | 'encode'
>;

/** Bits of either type whose values lie between 2⁻⁶ and 1, of both signs. */
export function bitsFor(storage: 'bfloat16' | 'float16', length: number, seed: number): Uint16Array {
  const [mantissa, least] = storage === 'bfloat16' ? [7, 121] : [10, 9];
  let state = seed;
  return Uint16Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const exponent = least + ((state >>> 26) % 6);
    return ((state >>> 31) << 15) | (exponent << mantissa) | ((state >>> 8) & ((1 << mantissa) - 1));
  });
}

/** Pixels of any value. */
export function pixelsFor(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => Math.imul(i, 2654435761) >>> 24);
}

/** This library in a case of storage. */
export function storageCalls(subject: Case, library: StorageLibrary): Prepared['calls'] | undefined {
  const { storage, shape } = subject;
  switch (storage) {
    case undefined:
      return undefined;
    case 'bfloat16':
    case 'float16':
      return halfCalls(subject, storage, library);
    case 'pictures': {
      const frozen = library.FrozenBatchNorm.fromMeanStd({ ...pictures, axis: -1, dtype: 'float32' });
      const x = { data: pixelsFor(sizeOf(subject)), shape };
      const out = new Float32Array(sizeOf(subject)).fill(1);
      return { inference: () => frozen.run(x, { out, outAxis: 1 }) };
    }
    case 'encode': {
      const values = Float32Array.from({ length: sizeOf(subject) }, (_, i) => Math.sin(i));
      const out = new Uint16Array(sizeOf(subject)).fill(1);
      return { inference: () => library.encode(values, 'bfloat16', { out }) };
    }
    case 'decode': {
      const values = bitsFor('bfloat16', sizeOf(subject), 1);
      const out = new Float32Array(sizeOf(subject)).fill(1);
      return { inference: () => library.decode(values, 'bfloat16', { out }) };
    }
  }
}

function halfCalls(
  subject: Case,
  dtype: 'bfloat16' | 'float16',
  { BatchNorm }: StorageLibrary,
): Prepared['calls'] {
  const { outer, channels, inner } = subject;
  const shape = inner === 1 ? [outer, channels] : [outer, channels, inner];
  const size = sizeOf(subject);
  const [x, dy] = [1, 2].map((seed) => ({ data: bitsFor(dtype, size, seed), shape }));
  const [y, dx] = [x, dy].map(({ data }) => data.slice());
  const [bn, trained] = [0, 1].map(() => new BatchNorm(channels, { dtype }));
  const frozen = bn.freeze();
  trained.forward(x, { out: y });
  return {
    inference: () => frozen.run(x, { out: y }),
    training: () => bn.forward(x, { out: y }),
    backward: () => trained.backward(dy, { out: dx, retain: true }),
  };
}

/** The loop that everybody writes. */
export function plainPictures(subject: Case): Call {
  const [samples, height, width, channels] = subject.shape;
  const pixels = pixelsFor(sizeOf(subject));
  const planes = new Float32Array(pixels.length).fill(1);
  return () => normalizePixels(pixels, samples, height * width, channels, planes);
}

/** [n, h, w, c] to [n, c, h, w], normalized. */
export function normalizePixels(
  pixels: Uint8Array,
  samples: number,
  positions: number,
  channels: number,
  planes: Float32Array,
): void {
  const { mean, std, scale } = pictures;
  for (let n = 0; n < samples; n++)
    for (let c = 0; c < channels; c++)
      for (let i = 0; i < positions; i++)
        planes[(n * channels + c) * positions + i] =
          (pixels[(n * positions + i) * channels + c] * scale - mean[c]) / std[c];
}
