import { MobileNetV2Model } from 'nsfwjs/models/mobilenet_v2';
import { tf } from './tensorflow.js';

/** What the package gives; its own types are not found from an ES module. */
interface Shipped {
  modelJson(): Promise<{ default: tf.io.ModelJSON }>;
  /** Each a part of the weights, in base64. */
  readonly weightBundles: readonly (() => Promise<{ default: string }>)[];
}

/** What the model tells apart, in the order of its probabilities. */
export const MOBILENET_CLASSES: readonly string[] = ['drawing', 'hentai', 'neutral', 'porn', 'sexy'];

/**
 * MobileNetV2 as the package `nsfwjs` ships it: a layers model with the batch norms of its training still in place. It tells
 * pictures that are fit for everybody from others, in five classes.
 */
export async function loadMobileNet(): Promise<tf.LayersModel> {
  const { modelJson, weightBundles }: Shipped = MobileNetV2Model;
  const { default: json } = await modelJson();
  const bundles = await Promise.all(weightBundles.map((load) => load()));
  const weights = Buffer.concat(bundles.map((bundle) => Buffer.from(bundle.default, 'base64')));
  return tf.loadLayersModel(
    tf.io.fromMemory({
      modelTopology: json.modelTopology,
      weightSpecs: json.weightsManifest.flatMap((group) => group.weights),
      weightData: new Uint8Array(weights).buffer,
    }),
  );
}

export function batchNormsOf(model: tf.LayersModel): tf.layers.Layer[] {
  return model.layers.filter((layer) => layer.getClassName() === 'BatchNormalization');
}

/** The model up to its last batch norm, in the same weights. */
export function featuresOf(model: tf.LayersModel): tf.LayersModel {
  const last = batchNormsOf(model).at(-1) as tf.layers.Layer;
  return tf.model({ inputs: model.inputs, outputs: last.output });
}

/** All values that the model gives, picture after picture. */
export function predict(model: tf.LayersModel, pictures: tf.Tensor4D): Float32Array {
  const result = model.predict(pictures) as tf.Tensor;
  try {
    return result.dataSync<'float32'>();
  } finally {
    result.dispose();
  }
}

/** An operation of TensorFlow.js' backend that ran, and how long. */
export interface Kernel {
  readonly name: string;
  readonly ms: number;
}

/** Predicts once, and says what ran. */
export async function profile(model: tf.LayersModel, x: tf.Tensor4D): Promise<Kernel[]> {
  const { kernels } = await tf.profile(() => (model.predict(x) as tf.Tensor).dispose());
  return kernels
    .map(({ name, kernelTimeMs }) => ({ name, ms: Number(kernelTimeMs) }))
    .filter(({ name }) => !isComposed(name));
}

/** Kernels that do the work of a batch norm. */
export function isBatchNorm({ name }: Kernel): boolean {
  return name === 'FusedBatchNorm';
}

/** An operation made of several kernels is listed beside them, under a name of its own. */
function isComposed(name: string): boolean {
  return name.endsWith('__op');
}
