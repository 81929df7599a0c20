// Where the values of tensors are. TensorFlow.js keeps them in its backends: `cpu` as typed arrays, `wasm` in its heap.

import type { TensorInfo } from '@tensorflow/tfjs-core';
import { dtypes } from '../dtype.js';
import { describeShape, rangeError, stateError, typeError } from '../errors.js';
import { newResult } from '../result.js';
import { lengthOf, typedArrayType } from '../typed-array.js';
import { newArray } from '../validate.js';
import { sizeOf } from './broadcast.js';

/** As its elements: values for a tensor or a shape, undefined for what is absent. */
type ValuesOf<List> = {
  -readonly [K in keyof List]: undefined extends List[K] ? Values | undefined : Values;
};
type InfosOf<List> = {
  -readonly [K in keyof List]: undefined extends List[K] ? TensorInfo | undefined : TensorInfo;
};
type Values = Float32Array;
type Shape = readonly number[];

/** The tensors of a backend, read and written where they are. */
export interface Memory {
  /**
   * Calls `pass` once with the values of `inputs` and with memory to be filled for each of `outputs`, which are shapes. It
   * becomes tensors of the backend. What is absent stays so.
   *
   * @throws what `pass` throws; then no tensor is left behind.
   */
  compute<
    const Inputs extends readonly (TensorInfo | undefined)[],
    const Shapes extends readonly (Shape | undefined)[],
  >(
    inputs: Inputs,
    outputs: Shapes,
    pass: (inputs: ValuesOf<Inputs>, outputs: ValuesOf<Shapes>) => void,
  ): InfosOf<Shapes>;
}

/** What is used of `DataStorage`, which fetches the data of a tensor that another backend holds. */
interface Storage<Data> {
  get(dataId: object): Data;
}

/** What is used of `MathBackendCPU`. */
interface CpuBackend {
  data: Storage<{ values: unknown }>;
  makeTensorInfo(shape: readonly number[], dtype: string, values: Float32Array): TensorInfo;
}

/** What is used of `BackendWasm`. */
interface WasmBackend {
  dataIdMap: Storage<{ memoryOffset: number }>;
  wasm: { HEAPU8: Uint8Array };
  makeOutput(shape: readonly number[], dtype: string): TensorInfo;
  typedArrayFromHeap(tensor: TensorInfo): Float32Array;
  disposeData(dataId: object): void;
}

const memories = new WeakMap<object, Memory>();

/** The memory of a backend, or undefined where it is neither `cpu` nor `wasm`, or not the one that was known in version 4. */
export function memoryOf(backend: object): Memory | undefined {
  const known = memories.get(backend);
  if (known !== undefined) return known;
  const made = isCpu(backend) ? cpuMemory(backend) : isWasm(backend) ? wasmMemory(backend) : undefined;
  if (made !== undefined) memories.set(backend, made);
  return made;
}

function isCpu(backend: object): backend is CpuBackend {
  const { data, makeTensorInfo } = backend as Partial<CpuBackend>;
  return isStorage(data) && typeof makeTensorInfo === 'function';
}

function isWasm(backend: object): backend is WasmBackend {
  const { dataIdMap, makeOutput, typedArrayFromHeap } = backend as Partial<WasmBackend>;
  return isStorage(dataIdMap) && typeof makeOutput === 'function' && typeof typedArrayFromHeap === 'function';
}

function isStorage(value: unknown): value is Storage<unknown> {
  return typeof (value as Partial<Storage<unknown>> | undefined)?.get === 'function';
}

/** The same with what is absent as undefined, whose types the interface above keeps apart. */
type Compute = (
  inputs: readonly (TensorInfo | undefined)[],
  outputs: readonly (Shape | undefined)[],
  pass: (inputs: (Values | undefined)[], outputs: (Values | undefined)[]) => void,
) => (TensorInfo | undefined)[];

function cpuMemory(backend: CpuBackend): Memory {
  const read = (tensor: TensorInfo): Float32Array => {
    const { values } = backend.data.get(tensor.dataId);
    if ((values as ArrayLike<unknown>).length !== sizeOf(tensor.shape))
      throw stateError(
        'BUFFER_CHANGED',
        `a tensor must keep its values, got a buffer that was detached or resized (shape ${describeShape(tensor.shape)})`,
      );
    // A cast from int32 leaves the values as they are.
    if (typedArrayType(values) === 'Float32Array') return values as Float32Array;
    const size = sizeOf(tensor.shape);
    const copy = newArray<Float32Array>('float32', size);
    for (let i = 0; i < size; i++) copy[i] = (values as ArrayLike<number>)[i];
    return copy;
  };
  const compute: Compute = (inputs, outputs, pass) => {
    checkReadable(inputs);
    const results = outputs.map((shape) => shape && newResult<Float32Array>('float32', sizeOf(shape)));
    pass(
      inputs.map((tensor) => tensor && read(tensor)),
      results,
    );
    return results.map(
      (values, i) => values && backend.makeTensorInfo(outputs[i] as Shape, 'float32', values),
    );
  };
  return { compute } as unknown as Memory;
}

function wasmMemory(backend: WasmBackend): Memory {
  const view = (tensor: TensorInfo | undefined) => tensor && backend.typedArrayFromHeap(tensor);
  const compute: Compute = (inputs, outputs, pass) => {
    checkReadable(inputs);
    const made: (TensorInfo | undefined)[] = [];
    try {
      // Both can make the heap grow, which detaches all views of it: views come last.
      for (const tensor of inputs) if (tensor) backend.dataIdMap.get(tensor.dataId);
      for (const shape of outputs) made.push(shape && backend.makeOutput(shape, 'float32'));
      for (const tensor of made) if (tensor) checkAllocated(backend, tensor);
      const results = made.map(view);
      pass(inputs.map(view), results);
    } catch (error) {
      for (const tensor of made) if (tensor) backend.disposeData(tensor.dataId);
      throw error;
    }
    return made;
  };
  return { compute } as unknown as Memory;
}

/** A heap that can grow no more gives address 0, and for sizes near 4 GiB memory that ends beyond it. */
function checkAllocated(backend: WasmBackend, { dataId, shape }: TensorInfo): void {
  const { memoryOffset } = backend.dataIdMap.get(dataId);
  const size = sizeOf(shape);
  const end = memoryOffset + size * dtypes.float32.bytes;
  if (size > 0 && (memoryOffset === 0 || end > lengthOf(backend.wasm.HEAPU8)))
    throw rangeError('a result', 'fit into the heap of wasm', `${size} values of float32`, 'OUT_OF_MEMORY');
}

/** @throws Error where a tensor is disposed; `cure` says what keeps it. */
export function checkAlive(name: string, tensor: { readonly shape: readonly number[] }, cure: string): void {
  if ((tensor as { isDisposed?: boolean }).isDisposed === true)
    throw stateError(
      'DISPOSED',
      `${name} must not be disposed, got a disposed tensor of shape ${describeShape(tensor.shape)}; ${cure}`,
    );
}

function checkReadable(tensors: readonly (TensorInfo | undefined)[]): void {
  for (const tensor of tensors) {
    if (tensor === undefined) continue;
    if (tensor.dtype !== 'float32') throw typeError('a tensor of batch norm', 'be float32', tensor.dtype);
  }
}
