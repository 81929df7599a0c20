import type { Case, Norm } from '../cases.js';
import { arrayFor, type Buffers, type Contender, eps, type Prepared, type Values } from '../contender.js';
import { normModel, onnxModel } from './onnx-model.js';
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
  const settings = { intraOpNumThreads: threads, interOpNumThreads: 1 };
  return async (subject, buffers) => {
    if (subject.norm) return prepareNorm(subject, subject.norm, buffers);
    const { x, y, weight, bias, mean, variance } = buffers;
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
      InferenceSession.create(onnxModel({ shape, channels, dtype, eps, training }), settings);
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

  /** The forward alone, which is that of inference; group and instance norm have no channels-last. */
  async function prepareNorm(
    subject: Case,
    norm: Norm,
    { x, y, weight, bias }: Buffers,
  ): Promise<Prepared | undefined> {
    const { layout, shape, channels, dtype } = subject;
    const isOfRows = norm.name === 'layer' || norm.name === 'RMS';
    if (layout === 'channels-last' && !isOfRows) return undefined;
    const perChannel = (values: Values) => new Tensor(dtype, values, [channels]);
    const feeds: Tensors = {
      x: new Tensor(dtype, x, shape),
      scale: perChannel(weight),
      ...(norm.name !== 'RMS' && { b: perChannel(bias) }),
    };
    const fetches: Tensors = { y: new Tensor(dtype, y, shape) };
    const session = await InferenceSession.create(normModel({ norm, shape, channels, dtype, eps }), settings);
    return {
      calls: { inference: () => session.run(feeds, fetches) },
      async train() {
        const results = await session.run(feeds, fetches);
        return { y: results.y.data };
      },
      dispose: () => session.release(),
    };
  }
}
