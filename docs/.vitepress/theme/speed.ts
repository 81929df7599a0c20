// The speed of the reader's browser: the library beside loops of plain JavaScript, taking turns.
import { backward, forwardInference, forwardTraining } from '../../../bench/plain-js.js';
import type * as Library from '../../../lib/index.js';

export const SHAPE = [8, 64, 56, 56];

export interface Row {
  readonly pass: string;
  /** Milliseconds of a call, the least of all slices. */
  readonly library: number;
  readonly plain: number;
  /** Bytes that must be moved at least, per time. */
  readonly gigabytesPerSecond: number;
}

/** Milliseconds of a slice: long beside the steps in which clocks of browsers go, short enough for the page to stay awake. */
const SLICE = 40;
const SLICES = 8;

/** Milliseconds of one call, the mean over a slice. */
function slice(call: () => unknown): number {
  const begin = performance.now();
  for (let calls = 1; ; calls++) {
    call();
    const took = performance.now() - begin;
    if (took >= SLICE) return took / calls;
  }
}

/** Until the page has drawn and heard of what was clicked. */
const turn = () => new Promise((resolve) => setTimeout(resolve));

/** Measures a pass after the other; each is given to `onRow` once it is known. */
export async function measure({ BatchNorm }: typeof Library, onRow: (row: Row) => void): Promise<void> {
  const [batch, channels, height, width] = SHAPE;
  const size = SHAPE.reduce((a, b) => a * b);
  const x = { data: Float32Array.from({ length: size }, Math.random), shape: SHAPE };
  const dy = { data: Float32Array.from({ length: size }, Math.random), shape: SHAPE };
  const out = new Float32Array(size);
  const bn = new BatchNorm(channels);
  const frozen = bn.freeze();

  const shape = { outer: batch, channels, inner: height * width };
  const [mean, variance] = [new Float64Array(channels), new Float64Array(channels).fill(1)];
  const moments = { mean, variance };
  const affine = { weight: new Float32Array(channels).fill(1), bias: new Float32Array(channels), eps: 1e-5 };
  const plainOut = new Float32Array(size);
  const gradients = {
    dx: plainOut,
    dWeight: new Float32Array(channels),
    dBias: new Float32Array(channels),
  };

  const passes = [
    {
      pass: 'inference',
      arrays: 2,
      library: () => frozen.run(x, { out }),
      plain: () => forwardInference(x.data, shape, moments, affine, plainOut),
    },
    {
      pass: 'training, forward',
      arrays: 2,
      library: () => bn.forward(x, { out }),
      plain: () => forwardTraining(x.data, shape, affine, moments, plainOut),
    },
    {
      pass: 'training, backward',
      arrays: 3,
      library: () => bn.backward(dy, { out, retain: true }),
      plain: () => backward(dy.data, x.data, shape, moments, affine, gradients),
    },
  ];
  for (const { pass, arrays, library, plain } of passes) {
    const times = { library: Number.POSITIVE_INFINITY, plain: Number.POSITIVE_INFINITY };
    for (let i = 0; i < SLICES; i++) {
      times.library = Math.min(times.library, slice(library));
      await turn();
      times.plain = Math.min(times.plain, slice(plain));
      await turn();
    }
    onRow({ pass, ...times, gigabytesPerSecond: (arrays * x.data.byteLength) / times.library / 1e6 });
  }
}
