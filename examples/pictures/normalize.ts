import { FrozenBatchNorm } from 'batchnorm';
import { tf } from '../tfjs/tensorflow.js';
import { SIDE } from './photographs.js';

/** What a model wants of pixels: (pixel / 255 − mean) / std, a value per color. */
export interface Constants {
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/** Those of nearly all models that were trained on ImageNet. */
export const IMAGENET: Constants = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
/** Of those that take colors from 0 to 1. */
export const PLAIN: Constants = { mean: [0, 0, 0], std: [1, 1, 1] };

/** Where the colors of the result are: of each pixel side by side, or in planes. */
export type Order = 'pixels' | 'planes';

/** Makes of RGBA pixels of so many photographs what a model takes. */
export type Normalize = (pixels: Uint8Array, count: number, out: Float32Array) => Float32Array;

/** By this library: the opacity is stepped over where it lies, and the colors go to their planes on the way. */
export function byLibrary({ mean, std }: Constants, order: Order): Normalize {
  const layer = FrozenBatchNorm.fromMeanStd({ mean, std, scale: 1 / 255, axis: -1 });
  const strides = [SIDE * SIDE * 4, SIDE * 4, 4, 1];
  return (data, count, out) =>
    layer.run({ data, shape: [count, SIDE, SIDE, 3], strides }, { out, outAxis: order === 'planes' ? 1 : -1 })
      .data;
}

/** By the loop that everybody writes. */
export function byLoop({ mean, std }: Constants, order: Order): Normalize {
  const area = SIDE * SIDE;
  return (pixels, count, out) => {
    for (let n = 0; n < count; n++) {
      for (let i = 0; i < area; i++) {
        for (let c = 0; c < 3; c++) {
          const to = order === 'planes' ? (n * 3 + c) * area + i : (n * area + i) * 3 + c;
          out[to] = (pixels[(n * area + i) * 4 + c] / 255 - mean[c]) / std[c];
        }
      }
    }
    return out;
  };
}

/** As TensorFlow.js has it. */
export function byTensorFlow({ mean, std }: Constants, order: Order): Normalize {
  return (pixels, count) =>
    tf.tidy(() => {
      const rgba = tf.tensor4d(pixels, [count, SIDE, SIDE, 4], 'int32');
      const rgb = rgba.slice([0, 0, 0, 0], [count, SIDE, SIDE, 3]).toFloat();
      const y = rgb
        .div(255)
        .sub([...mean])
        .div([...std]);
      return (order === 'planes' ? y.transpose([0, 3, 1, 2]) : y).dataSync<'float32'>();
    });
}
