import { bytesOf, type Case, type Pass, sizeOf } from './cases.js';

/** Arrays of one dtype. */
export type Values = Float32Array | Float64Array;

/** The arrays of a case, touched and filled with reproducible values. */
export interface Buffers {
  x: Values;
  dy: Values;
  y: Values;
  dx: Values;
  weight: Values;
  bias: Values;
  mean: Float64Array;
  variance: Float64Array;
  /** One for each position, where they are a part of the case. */
  weights: Float32Array | Uint8Array | undefined;
}

/** A complete call as a user makes it. */
export type Call = () => unknown;

/** A library made ready for a case. */
export interface Prepared {
  /** One call for each pass that it has; one that gives a promise is awaited, and the waiting is measured too. */
  calls: Partial<Record<Pass | Roofline, Call>>;
  /** How the library has decided to do a pass, in words. */
  planOf?(pass: Pass | Roofline): string | undefined;
  /** One training forward with weight 1 and bias 0: what it makes of y, and the biased variance of each row (batch norm: channel). */
  train?(): Promise<Trained> | Trained;
  /** Gives back what the garbage collector cannot. */
  dispose?(): Promise<void> | void;
}

export interface Trained {
  y: Values;
  /** Absent where a library keeps it to itself. */
  variance?: ArrayLike<number>;
}

/** A library: undefined for a case that it cannot do. */
export type Contender = (
  subject: Case,
  buffers: Buffers,
) => Promise<Prepared | undefined> | Prepared | undefined;

/** eps of every contender. */
export const eps = 1e-5;

/**
 * What the machine does at best: x read once and y written once; or x and dy read once and dx written once. And of small tensors a
 * function of Node-API that is told of x and y and does nothing, and the passes of a training forward as the binary has them.
 */
export const rooflines = ['copy', 'sum', 'call', 'bound'] as const;
export type Roofline = (typeof rooflines)[number];

/** Of tensors up to here calls are a part of the time. */
const smallBytes = 2 ** 16;

export function isSmall(subject: Case): boolean {
  return bytesOf(subject) <= smallBytes;
}

/** The limit that a pass is measured against. */
export function rooflineOf(pass: Pass): Roofline {
  return pass === 'backward' ? 'sum' : 'copy';
}

/** Uniform in [−0.5, 0.5): a linear congruential generator is random enough for a clock. */
function fill<T extends Values>(values: T, seed: number): T {
  let state = seed;
  for (let i = 0; i < values.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = state / 2 ** 32 - 0.5;
  }
  return values;
}

/** Bytes of zeros: at a place in a line of memory where the case asks for one, which only pages let one choose. */
function bytesFor({ line }: Case, offset: number, length: number): [ArrayBuffer, number] {
  if (line === undefined) return [new ArrayBuffer(offset + length), offset];
  const pages = Math.ceil((line + offset + length) / 2 ** 16);
  return [new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer, line + offset];
}

/** Zeros of the case's dtype, off the start of their buffer where the case asks for it. */
export function arrayFor(subject: Case, length: number): Values {
  const Constructor = subject.dtype === 'float64' ? Float64Array : Float32Array;
  const [buffer, at] = bytesFor(subject, subject.offset, length * Constructor.BYTES_PER_ELEMENT);
  return new Constructor(buffer, at, length);
}

/** Weights from 0 to 1, or a mask: of each sample the first half to all of its positions. */
export function weightsFor({
  counts,
  shape,
  outer,
  inner,
}: Pick<Case, 'counts' | 'shape' | 'outer' | 'inner'>): Buffers['weights'] {
  const positions = outer * inner;
  if (counts === 'weights') return fill(new Float32Array(positions), 5).map((value) => value + 0.5);
  if (counts !== 'mask') return undefined;
  const [samples] = shape;
  const length = positions / samples;
  const endOf = (sample: number) => Math.ceil((length * (samples + sample)) / (2 * samples - 1));
  return Uint8Array.from({ length: positions }, (_, i) =>
    i % length < endOf(Math.floor(i / length)) ? 1 : 0,
  );
}

/** NaN in 1 % of the values. */
function withGaps<T extends Values>(values: T): T {
  const places = fill(new Float32Array(values.length), 6);
  for (let i = 0; i < values.length; i++) if (places[i] < -0.49) values[i] = Number.NaN;
  return values;
}

/** The buffers of a case, or those of `x` with nothing to learn: weight 1 and bias 0. */
export function buffersFor(subject: Case, x?: Values): Buffers {
  const { channels } = subject;
  const size = sizeOf(subject);
  const each = { ...subject, offset: 0, line: undefined };
  const filled = x ?? fill(arrayFor(subject, size), 1);
  return {
    x: subject.counts === 'missing' ? withGaps(filled) : filled,
    dy: fill(arrayFor(subject, size), 2),
    y: arrayFor(subject, size).fill(1),
    dx: arrayFor(subject, size).fill(1),
    weight: x ? arrayFor(each, channels).fill(1) : fill(arrayFor(each, channels), 3),
    bias: x ? arrayFor(each, channels) : fill(arrayFor(each, channels), 4),
    mean: new Float64Array(channels),
    variance: new Float64Array(channels).fill(1 / 12),
    weights: weightsFor(subject),
  };
}
