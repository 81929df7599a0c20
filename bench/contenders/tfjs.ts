import { dirname } from 'node:path';
import { type Contender, eps, type Prepared } from '../contender.js';
import { requirePeer } from './peers.js';

interface Tensor {
  dataSync(): Float32Array;
  dispose(): void;
}

interface Moments {
  mean: Tensor;
  variance: Tensor;
}

interface TensorFlow {
  setBackend(name: string): Promise<boolean>;
  tensor(values: ArrayLike<number>, shape?: readonly number[], dtype?: 'float32'): Tensor;
  tidy<T>(call: () => T): T;
  moments(x: Tensor, axes: number[]): Moments;
  batchNorm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    offset: Tensor,
    scale: Tensor,
    epsilon: number,
  ): Tensor;
  grads(f: (...inputs: Tensor[]) => Tensor): (inputs: Tensor[], dy: Tensor) => Tensor[];
}

interface WasmBackend {
  setWasmPaths(folder: string): void;
}

/**
 * batchNorm, moments + batchNorm, and the gradients of those two; tfjs cannot run its backward without the forward
 * before it. Channels-last float32 only; each result is a new tensor, given back at once.
 */
export async function tfjs(backend: 'cpu' | 'wasm'): Promise<Contender> {
  const { warn } = console;
  // On loading it recommends a package that does not install everywhere.
  console.warn = () => {};
  const tf = requirePeer('@tensorflow/tfjs') as TensorFlow;
  console.warn = warn;
  if (backend === 'wasm') {
    const name = '@tensorflow/tfjs-backend-wasm';
    (requirePeer(name) as WasmBackend).setWasmPaths(`${dirname(requirePeer.resolve(name))}/`);
  }
  if (!(await tf.setBackend(backend)))
    throw new Error(`The tfjs backend must be able to start, got a failure of ${backend}`);
  return ({ layout, shape, dtype, counts, storage, norm }, buffers) => {
    if (counts || storage || norm || layout !== 'channels-last' || dtype !== 'float32') return undefined;
    const x = tf.tensor(buffers.x, shape);
    const dy = tf.tensor(buffers.dy, shape);
    const [scale, offset] = [tf.tensor(buffers.weight), tf.tensor(buffers.bias)];
    const mean = tf.tensor(Float32Array.from(buffers.mean));
    const variance = tf.tensor(Float32Array.from(buffers.variance));
    const axes = shape.map((_, axis) => axis).slice(0, -1);
    const forward = (input: Tensor, weight: Tensor, bias: Tensor) => {
      const moments = tf.moments(input, axes);
      return tf.batchNorm(input, moments.mean, moments.variance, bias, weight, eps);
    };
    const gradients = tf.grads(forward);
    // Nothing returned: all that the call made is given back.
    const tidily = (call: () => unknown) => () => tf.tidy(() => void call());
    const calls: Prepared['calls'] = {
      inference: tidily(() => tf.batchNorm(x, mean, variance, offset, scale, eps)),
      training: tidily(() => forward(x, scale, offset)),
      backward: tidily(() => gradients([x, scale, offset], dy)),
    };
    return {
      calls,
      train: () =>
        tf.tidy(() => ({
          y: forward(x, scale, offset).dataSync().slice(),
          variance: tf.moments(x, axes).variance.dataSync().slice(),
        })),
      dispose() {
        for (const tensor of [x, dy, scale, offset, mean, variance]) tensor.dispose();
      },
    };
  };
}
