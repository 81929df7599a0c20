// What other frameworks make of group, instance, layer and RMS norm; scripts/norms.py writes it.
import { readFileSync } from 'node:fs';
import type { NormKind } from './norm-reference.js';
import type { FloatDType } from './tensors.js';

export type Framework = 'pytorch' | 'keras' | 'onnx';

interface Given {
  readonly by: Framework;
  readonly name: string;
  readonly kind: NormKind;
  readonly dtype: FloatDType;
  readonly shape: number[];
  readonly axis?: number;
  readonly groups?: number;
  /** The dimensions that layer and RMS norm go over. */
  readonly over?: number[];
  /** Absent: the default of the framework. */
  readonly eps?: number;
  /** PyTorch's, of running statistics. Absent: 0.1. */
  readonly momentum?: number;
}

const arrayNames = [
  'x',
  'weight',
  'bias',
  'runningMean',
  'runningVar',
  'y',
  'dy',
  'dx',
  'dWeight',
  'dBias',
  'newRunningMean',
  'newRunningVar',
] as const;

/** Numbers of a framework; gradients are there where it has some. */
export interface NormSample
  extends Given,
    Readonly<Partial<Record<(typeof arrayNames)[number], Float64Array>>> {
  readonly x: Float64Array;
  readonly y: Float64Array;
}

/** What a framework refuses, with the shapes of the parameters. */
export interface RefusedSample extends Given {
  /** In its words. */
  readonly refusal: string;
  readonly weight?: number[];
  readonly bias?: number[];
}

type Written = Given & Record<string, unknown>;

const written: readonly Written[] = JSON.parse(
  readFileSync(new URL('./norms.json', import.meta.url), 'utf8'),
);

function read(one: Written): NormSample {
  const ArrayType = one.dtype === 'float64' ? Float64Array : Float32Array;
  const arrays = arrayNames
    .filter((name) => name in one)
    .map((name) => {
      const bytes = Uint8Array.from(Buffer.from(one[name] as string, 'base64'));
      return [name, Float64Array.from(new ArrayType(bytes.buffer))];
    });
  return { ...one, ...Object.fromEntries(arrays) } as NormSample;
}

export const normSamples: readonly NormSample[] = written.filter((one) => !('refusal' in one)).map(read);

export const refusedSamples = written.filter((one) => 'refusal' in one) as unknown as RefusedSample[];

/** What eps is where nobody says it. */
export function defaultEps({ by, kind, dtype }: Given): number {
  if (by === 'keras') return kind === 'rms' ? 1e-6 : 1e-3;
  if (by === 'pytorch' && kind === 'rms') return dtype === 'float64' ? 2 ** -52 : 2 ** -23;
  return 1e-5;
}
