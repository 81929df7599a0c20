// All that differs between data types. A new one is one more row.
import type { DType } from './types.js';

/** One row. */
interface Facts {
  /** What its arrays call themselves. */
  readonly arrayName: string;
  /** What makes them, taken when the library is loaded. */
  readonly Array: Float32ArrayConstructor | Float64ArrayConstructor;
  /** The size of a value. */
  readonly bytes: number;
  /** With which the names of its passes end in the WebAssembly module. */
  readonly suffix: string;
}

export const dtypes: Readonly<Record<DType, Facts>> = {
  float32: { arrayName: 'Float32Array', Array: Float32Array, bytes: 4, suffix: 'Float32' },
  float64: { arrayName: 'Float64Array', Array: Float64Array, bytes: 8, suffix: 'Float64' },
};

const names = Object.keys(dtypes) as readonly DType[];
const namesOfArrays = names.map((name) => dtypes[name].arrayName);

/** `Float32Array or Float64Array`, for messages. */
export const arrayNames = namesOfArrays.join(' or ');

/** The data type of arrays that call themselves so; undefined where there is none. */
export function dtypeNamed(arrayName: string | undefined): DType | undefined {
  for (let i = 0; i < namesOfArrays.length; i++) if (namesOfArrays[i] === arrayName) return names[i];
  return undefined;
}
