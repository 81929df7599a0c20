import { arrayFor, type Contender, eps, type Values } from '../contender.js';
import { onnxModel } from './onnx-model.js';
import { requirePeer } from './peers.js';

type Tensors = Record<string, { data: Values }>;

interface Session {
  run(feeds: Tensors, fetches: Tensors): Promise<Tensors>;
  release(): Promise<void>;
}

interface OnnxRuntime {
  Tensor: new (dtype: string, data: Values, shape: readonly number[]) => { data: Values };
  InferenceSession: {
    create(
      model: Uint8Array,
      options: { intraOpNumThreads: number; interOpNumThreads: number },
    ): Promise<Session>;
  };
}

/** Throws where it is not installed. */
export function loadOnnxRuntime(): OnnxRuntime {
  return requirePeer('onnxruntime-node') as OnnxRuntime;
}

/** BatchNormalization of opset 15 with results given; it has no channels-last, and no backward outside of training builds. */
export function onnxruntime(threads: number): Contender {
  const { Tensor, InferenceSession } = loadOnnxRuntime();
  return async (subject, { x, y, weight, bias, mean, variance }) => {
    const { layout, shape, channels, dtype, counts, storage } = subject;
    if (counts || storage || (layout === 'channels-last' && shape.length > 2)) return undefined;
    const each = { ...subject, offset: 0, line: undefined };
    const tensor = (data: Values, dimensions: readonly number[] = [channels]) =>
      new Tensor(dtype, data, dimensions);
    const perChannel = (values: ArrayLike<number>) => {
      const copy = arrayFor(each, channels);
      copy.set(values);
      return tensor(copy);
    };
    const feeds: Tensors = {
      x: tensor(x, shape),
      scale: tensor(weight),
      b: tensor(bias),
      mean: perChannel(mean),
      var: perChannel(variance),
    };
    const inferred: Tensors = { y: tensor(y, shape) };
    const trained: Tensors = {
      ...inferred,
      running_mean: perChannel(mean),
      running_var: perChannel(variance),
    };
    const create = (training: boolean) =>
      InferenceSession.create(onnxModel({ shape, channels, dtype, eps, training }), {
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
      });
    const inference = await create(false);
    const training = await create(true);
    return {
      calls: {
        inference: () => inference.run(feeds, inferred),
        training: () => training.run(feeds, trained),
      },
      async train() {
        const results = await training.run(feeds, trained);
        return { y: results.y.data, variance: results.running_var.data };
      },
      async dispose() {
        await inference.release();
        await training.release();
      },
    };
  };
}
