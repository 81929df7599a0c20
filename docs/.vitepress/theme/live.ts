// What the live page does with what is typed, apart from how it looks.
import type * as Library from '../../../lib/index.js';

export type Layout = 'first' | 'last' | 'other';

/** As it is typed. */
export interface Typed {
  readonly values: string;
  readonly shape: string;
  readonly layout: Layout;
  /** Of layout 'other'. */
  readonly axis: string;
  readonly eps: string;
  readonly activation: 'none' | 'relu';
}

export interface Channel {
  readonly mean: number;
  readonly variance: number;
}

export interface Value {
  readonly text: string;
  readonly channel: number;
}

export interface Outcome {
  readonly channels: readonly Channel[];
  /** y, along the last dimension. */
  readonly rows: readonly (readonly Value[])[];
  /** As many rows are one matrix. */
  readonly height: number;
  /** Values of y that are not among the rows. */
  readonly left: number;
  /** The same as a program. */
  readonly code: string;
}

/** More are computed, but not shown. */
const MOST_SHOWN = 600;
const MOST_IN_CODE = 12;

/** Of the library; they need not stand in a program. */
const DEFAULT_AXIS = 1;
const DEFAULT_EPS = 1e-5;

/** Numbers in any notation that separates them: spaces, commas, lines, brackets. */
function numbersOf(name: string, text: string): number[] {
  return text
    .split(/[\s,;[\]()]+/)
    .filter((word) => word !== '')
    .map((word) => {
      const value = Number(word);
      if (Number.isNaN(value) && word !== 'NaN')
        throw new TypeError(`${name} must be numbers with spaces or commas between them, got "${word}"`);
      return value;
    });
}

/** One number, or undefined where nothing is typed. */
function numberOf(name: string, text: string): number | undefined {
  const numbers = numbersOf(name, text);
  if (numbers.length > 1) throw new TypeError(`${name} must be one number, got "${text.trim()}"`);
  return numbers[0];
}

function axisOf({ layout, axis }: Typed): number | undefined {
  if (layout === 'other') return numberOf('axis', axis);
  return layout === 'first' ? DEFAULT_AXIS : -1;
}

/** A number as the page shows it. */
export function rounded(value: number): string {
  return String(Number(value.toPrecision(5)));
}

/** A program that does the same. */
function codeFor(
  channels: number,
  { axis, eps, activation }: Library.BatchNormOptions,
  x: readonly number[],
  shape: readonly number[],
): string {
  const options = [
    ...(axis === undefined ? [] : [`axis: ${axis}`]),
    ...(eps === undefined ? [] : [`eps: ${eps}`]),
    ...(activation === undefined ? [] : [`activation: '${activation}'`]),
  ];
  const values = x.slice(0, MOST_IN_CODE).join(', ');
  const more = x.length > MOST_IN_CODE ? ', /* … */' : '';
  return `import { BatchNorm } from 'batchnorm';

const bn = new BatchNorm(${channels}${options.length > 0 ? `, { ${options.join(', ')} }` : ''});
const x = {
  data: Float32Array.of(${values}${more}),
  shape: [${shape.join(', ')}],
};
const y = bn.forward(x);`;
}

/**
 * Normalizes what is typed, in training mode.
 *
 * @throws what the library throws, as it is; a TypeError where something typed is no number.
 */
export function normalize({ BatchNorm }: typeof Library, typed: Typed): Outcome {
  const x = numbersOf('x', typed.values);
  const shape = numbersOf('shape', typed.shape);
  const axis = axisOf(typed);
  const eps = numberOf('eps', typed.eps);
  const options = {
    axis: axis === DEFAULT_AXIS ? undefined : axis,
    eps: eps === DEFAULT_EPS ? undefined : eps,
    activation: typed.activation === 'none' ? undefined : typed.activation,
  };
  // Where there is no such dimension, forward says so.
  const channels = shape.at(axis ?? DEFAULT_AXIS) ?? 1;
  const bn = new BatchNorm(channels, options);
  const y = bn.forward({ data: Float32Array.from(x), shape });
  const { mean, variance } = bn.lastMoments ?? { mean: [], variance: [] };

  const width = shape[shape.length - 1];
  const position = shape.length + (axis ?? DEFAULT_AXIS);
  const inner = shape.slice((position % shape.length) + 1).reduce((a, b) => a * b, 1);
  const shown = Array.from(y.data.subarray(0, MOST_SHOWN), (value, i) => ({
    text: rounded(value),
    channel: Math.floor(i / inner) % channels,
  }));
  const rows = Array.from({ length: Math.ceil(shown.length / width) || 0 }, (_, row) =>
    shown.slice(row * width, (row + 1) * width),
  );
  return {
    channels: Array.from(mean, (value, i) => ({ mean: value, variance: variance[i] })),
    rows,
    height: shape.length > 2 ? shape[shape.length - 2] : rows.length,
    left: y.data.length - shown.length,
    code: codeFor(channels, options, x, shape),
  };
}
