// The backend that computes here.
import { platform } from '../platform/node.js';
import type { DType, TensorArray } from '../types.js';
import type { Backend, Passes } from './backend.js';
import { createWasmBackend } from './wasm.js';

export const backend: Backend = platform.chooseBackend(createWasmBackend);

/** The passes for a data type. */
export function passesFor<T extends TensorArray>(dtype: DType): Passes<T> {
  return backend[dtype] as Passes<TensorArray> as Passes<T>;
}
