// Where the values of tensors are. TensorFlow.js keeps them in its backends: `cpu` as typed arrays, `wasm` in its heap.
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { describeShape, rangeError, stateError, typeError } from '../errors.js';
import { newResult } from '../result.js';
import { typedArrayType } from '../typed-array.js';

/** The tensors of a backend, read and written where they are. */
export interface Memory {
  /**
   * Calls `pass` once with the values of `inputs` and, for each of `outputs`, a shape, memory to be filled, which becomes a
   * tensor of the backend.
   *
   * @throws what `pass` throws; then no tensor is left behind.
   */
  compute(
    inputs: readonly TensorInfo[],
    outputs: readonly (readonly number[])[],
    pass: (inputs: Float32Array[], outputs: Float32Array[]) => void,
  ): TensorInfo[];
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
  dataIdMap: Storage<unknown>;
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
  // The backend for GPUs has `data` and `makeTensorInfo` too.
  return isStorage(data) && typeof makeTensorInfo === 'function' && !('gpgpu' in backend);
}

function isWasm(backend: object): backend is WasmBackend {
  const { dataIdMap, makeOutput, typedArrayFromHeap } = backend as Partial<WasmBackend>;
  return isStorage(dataIdMap) && typeof makeOutput === 'function' && typeof typedArrayFromHeap === 'function';
}

function isStorage(value: unknown): value is Storage<unknown> {
  return typeof (value as Partial<Storage<unknown>> | undefined)?.get === 'function';
}

function cpuMemory(backend: CpuBackend): Memory {
  const read = (tensor: TensorInfo): Float32Array => {
    const { values } = backend.data.get(tensor.dataId);
    const type = typedArrayType(values);
    // A cast from int32 leaves the values as they are.
    return type === 'Float32Array'
      ? (values as Float32Array)
      : Float32Array.from(values as ArrayLike<number>);
  };
  return {
    compute(inputs, outputs, pass) {
      checkReadable(inputs);
      const results = outputs.map((shape) => newResult<Float32Array>('float32', sizeOf(shape)));
      pass(inputs.map(read), results);
      return results.map((values, i) => backend.makeTensorInfo(outputs[i], 'float32', values));
    },
  };
}

function wasmMemory(backend: WasmBackend): Memory {
  return {
    compute(inputs, outputs, pass) {
      checkReadable(inputs);
      const made: TensorInfo[] = [];
      try {
        // Both can make the heap grow, which detaches all views of it: views come last.
        for (const { dataId } of inputs) backend.dataIdMap.get(dataId);
        for (const shape of outputs) made.push(backend.makeOutput(shape, 'float32'));
        const results = made.map((tensor) => backend.typedArrayFromHeap(tensor));
        for (const { byteOffset, length } of results)
          if (byteOffset === 0 && length > 0)
            throw rangeError(
              'a result',
              'fit into the heap of wasm',
              `${length} values of float32`,
              'OUT_OF_MEMORY',
            );
        pass(
          inputs.map((tensor) => backend.typedArrayFromHeap(tensor)),
          results,
        );
      } catch (error) {
        for (const { dataId } of made) backend.disposeData(dataId);
        throw error;
      }
      return made;
    },
  };
}

function checkReadable(tensors: readonly TensorInfo[]): void {
  for (const tensor of tensors) {
    const { dtype, shape, isDisposed } = tensor as TensorInfo & { isDisposed?: boolean };
    if (isDisposed === true)
      throw stateError('DISPOSED', `a tensor must not be disposed, got one of shape ${describeShape(shape)}`);
    if (dtype !== 'float32') throw typeError('a tensor of batch norm', 'be float32', dtype);
  }
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((size, dimension) => size * dimension, 1);
}
