// The values of weights as TensorFlow.js saves them, one behind the other.
import type { FloatArray } from '../../types.js';

/** What a weight is. */
export interface WeightSpec {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly quantization?: { readonly dtype: string };
}

const bytesOf: Readonly<Record<string, number>> = {
  float32: 4,
  int32: 4,
  complex64: 8,
  bool: 1,
  uint8: 1,
  uint16: 2,
  float16: 2,
};

function sizeIn(view: DataView, begin: number, { shape, dtype, quantization }: WeightSpec): number {
  const count = shape.reduce((product, dimension) => product * dimension, 1);
  if (dtype !== 'string') return count * bytesOf[quantization?.dtype ?? dtype];
  // Each text has its length before it.
  let end = begin;
  for (let i = 0; i < count; i++) end += 4 + view.getUint32(end, true);
  return end - begin;
}

/** The weights that are kept, as they are, and others behind them. */
export function joined(
  specs: readonly WeightSpec[],
  data: ArrayBuffer | readonly ArrayBuffer[],
  kept: ReadonlySet<string>,
  added: readonly { name: string; values: FloatArray; shape: readonly number[] }[],
): { weightSpecs: WeightSpec[]; weightData: ArrayBuffer } {
  const buffers = Array.isArray(data) ? (data as ArrayBuffer[]) : [data as ArrayBuffer];
  const whole = bytesBehindEachOther(buffers.map((buffer) => new Uint8Array(buffer)));
  const view = new DataView(whole.buffer);
  const parts: Uint8Array[] = [];
  const weightSpecs: WeightSpec[] = [];
  let begin = 0;
  for (const spec of specs) {
    const end = begin + sizeIn(view, begin, spec);
    if (kept.has(spec.name)) {
      weightSpecs.push(spec);
      parts.push(whole.subarray(begin, end));
    }
    begin = end;
  }
  for (const { name, values, shape } of added) {
    weightSpecs.push({ name, shape, dtype: 'float32' });
    const floats = Float32Array.from(values);
    parts.push(new Uint8Array(floats.buffer));
  }
  return { weightSpecs, weightData: bytesBehindEachOther(parts).buffer as ArrayBuffer };
}

function bytesBehindEachOther(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
