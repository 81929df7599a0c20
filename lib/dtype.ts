// All that differs between data types. A new one is one more row.
import type { DType } from './types.js';

/** What is computed in, and what parameters and their gradients are in. */
export type Arithmetic = 'float32' | 'float64';

/** Of 16 bits, which no array tells apart. */
export type HalfDType = 'bfloat16' | 'float16';

/** One row. */
interface Facts {
  /** What its arrays call themselves. */
  readonly arrayName: string;
  /** What makes them, taken when the library is loaded. */
  readonly Array: Float32ArrayConstructor | Float64ArrayConstructor | Uint16ArrayConstructor;
  /** The size of a value. */
  readonly bytes: number;
  /** Of its values, of which those of 16 bits are widened on the way in and rounded on the way out. */
  readonly arithmetic: Arithmetic;
  /** With which the names of its passes end in the WebAssembly module. */
  readonly suffix: string;
}

export const dtypes: Readonly<Record<DType, Facts>> = {
  float32: {
    arrayName: 'Float32Array',
    Array: Float32Array,
    bytes: 4,
    arithmetic: 'float32',
    suffix: 'Float32',
  },
  float64: {
    arrayName: 'Float64Array',
    Array: Float64Array,
    bytes: 8,
    arithmetic: 'float64',
    suffix: 'Float64',
  },
  bfloat16: {
    arrayName: 'Uint16Array',
    Array: Uint16Array,
    bytes: 2,
    arithmetic: 'float32',
    suffix: 'Float32',
  },
  float16: {
    arrayName: 'Uint16Array',
    Array: Uint16Array,
    bytes: 2,
    arithmetic: 'float32',
    suffix: 'Float32',
  },
};

/** All of them. */
export const dtypeNames = Object.keys(dtypes) as readonly DType[];

/** `Float32Array or Float64Array`, for messages. */
export const arrayNames = `${dtypes.float32.arrayName} or ${dtypes.float64.arrayName}`;

/** The data type of arrays that call themselves so; undefined where there is none, and for bits that do not say what they are. */
export function dtypeNamed(arrayName: string | undefined): Arithmetic | undefined {
  return arrayName === 'Float32Array' ? 'float32' : arrayName === 'Float64Array' ? 'float64' : undefined;
}

/** The same of the data of tensors, where a dtype may stand beside them. */
export function tensorDtypeNamed(
  arrayName: string | undefined,
  wanted: DType | undefined,
): DType | undefined {
  if (arrayName === 'Uint16Array') return wanted !== undefined && isHalf(wanted) ? wanted : undefined;
  if (arrayName === 'Float16Array') return 'float16';
  return dtypeNamed(arrayName);
}

export function isHalf(dtype: DType): dtype is HalfDType {
  return dtype === 'bfloat16' || dtype === 'float16';
}

export function arithmeticOf(dtype: DType): Arithmetic {
  return dtypes[dtype].arithmetic;
}
