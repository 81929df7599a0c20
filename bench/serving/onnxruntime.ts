import type { Call } from '../contender.js';
import { eps } from '../contender.js';
import { onnxModel } from '../contenders/onnx-model.js';
import { loadOnnxRuntime } from '../contenders/onnxruntime.js';
import { fill, sizeOf } from './state.js';

/** onnxruntime-node with the parameters in the model and results given: a call for each request under way at a time. */
export function onnxruntime(threads: number) {
  const { Tensor, InferenceSession } = loadOnnxRuntime();
  return async (shape: readonly number[], inFlight: number): Promise<Call[]> => {
    const channels = shape[1];
    const each = (value: number) => new Float32Array(channels).fill(value);
    const constants = { scale: each(1), b: each(0), mean: each(0), var: each(1 - eps) };
    const model = onnxModel({ shape, channels, dtype: 'float32', eps, training: false, constants });
    const session = await InferenceSession.create(model, {
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
    });
    return Array.from({ length: inFlight }, () => {
      const x = { x: new Tensor('float32', fill(new Float32Array(sizeOf(shape))), shape) };
      const y = { y: new Tensor('float32', new Float32Array(sizeOf(shape)), shape) };
      return () => session.run(x, y);
    });
  };
}
