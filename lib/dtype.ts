// All that differs between data types. A new one is one more row.
import type { DType, IntegerDType, ResultDType } from './types.js';

/** What is computed in, and what parameters and their gradients are in. */
export type Arithmetic = 'float32' | 'float64';

/** Of 16 bits, which no array tells apart. */
export type HalfDType = 'bfloat16' | 'float16';

/** One row. */
interface Facts {
  /** What its arrays call themselves. */
  readonly arrayName: string;
  /** What makes them, taken when the library is loaded. */
  readonly Array:
    | Float32ArrayConstructor
    | Float64ArrayConstructor
    | Uint16ArrayConstructor
    | Uint8ArrayConstructor
    | Int8ArrayConstructor
    | Int16ArrayConstructor;
  /** The size of a value. */
  readonly bytes: number;
  /** Of its values, of which those of 16 bits are widened on the way in and rounded on the way out. */
  readonly arithmetic: Arithmetic;
  /** The distance from 1 to the next value; of whole numbers, which nothing is normalized in, that of float32. */
  readonly epsilon: number;
  /** With which the names of its passes end in the WebAssembly module. */
  readonly suffix: string;
}

export const dtypes: Readonly<Record<DType | IntegerDType, Facts>> = {
  float32: {
    arrayName: 'Float32Array',
    Array: Float32Array,
    bytes: 4,
    arithmetic: 'float32',
    epsilon: 2 ** -23,
    suffix: 'Float32',
  },
  float64: {
    arrayName: 'Float64Array',
    Array: Float64Array,
    bytes: 8,
    arithmetic: 'float64',
    epsilon: 2 ** -52,
    suffix: 'Float64',
  },
  bfloat16: {
    arrayName: 'Uint16Array',
    Array: Uint16Array,
    bytes: 2,
    arithmetic: 'float32',
    epsilon: 2 ** -7,
    suffix: 'Float32',
  },
  float16: {
    arrayName: 'Uint16Array',
    Array: Uint16Array,
    bytes: 2,
    arithmetic: 'float32',
    epsilon: 2 ** -10,
    suffix: 'Float32',
  },
  uint8: {
    arrayName: 'Uint8Array',
    Array: Uint8Array,
    bytes: 1,
    arithmetic: 'float32',
    epsilon: 2 ** -23,
    suffix: 'Float32',
  },
  int8: {
    arrayName: 'Int8Array',
    Array: Int8Array,
    bytes: 1,
    arithmetic: 'float32',
    epsilon: 2 ** -23,
    suffix: 'Float32',
  },
  int16: {
    arrayName: 'Int16Array',
    Array: Int16Array,
    bytes: 2,
    arithmetic: 'float32',
    epsilon: 2 ** -23,
    suffix: 'Float32',
  },
};

/** Those that layers compute in. */
export const dtypeNames: readonly DType[] = ['float32', 'float64', 'bfloat16', 'float16'];

/** Those that inference takes and gives, computed in float32, in the order of `Storage` in native/kernels.h. */
export const storedNames: readonly ResultDType[] = [
  'float32',
  'bfloat16',
  'float16',
  'uint8',
  'int8',
  'int16',
];

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

/** The data type of arrays of whole numbers that call themselves so. A Buffer is a Uint8Array. */
export function integerNamed(arrayName: string | undefined): IntegerDType | undefined {
  switch (arrayName) {
    case 'Uint8Array':
    case 'Uint8ClampedArray':
      return 'uint8';
    case 'Int8Array':
      return 'int8';
    case 'Int16Array':
      return 'int16';
    default:
      return undefined;
  }
}

export function isInteger(dtype: DType | IntegerDType): dtype is IntegerDType {
  return dtype === 'uint8' || dtype === 'int8' || dtype === 'int16';
}

/** The number by which the backends know it. */
export function storageOf(dtype: ResultDType): number {
  for (let i = 0; i < storedNames.length; i++) if (storedNames[i] === dtype) return i;
  return -1;
}

export function isHalf(dtype: DType | IntegerDType): dtype is HalfDType {
  return dtype === 'bfloat16' || dtype === 'float16';
}

export function arithmeticOf(dtype: DType): Arithmetic {
  return dtypes[dtype].arithmetic;
}
