// tf.layers.layerNormalization: its call, which is the same in training and in inference.
import type * as tfc from '@tensorflow/tfjs-core';
import { passesFor } from '../backend/index.js';
import { describeShape, rangeError } from '../errors.js';
import { layerGeometry } from '../norms/rows.js';
import { newArray } from '../validate.js';
import { gradientDepth, plain } from './kernel.js';
import { checkInput, checkVariables, type LayerVariable, numbers } from './layer.js';
import { memoryOf } from './memory.js';
import { record } from './recorded.js';

const { apply } = Reflect;

/** What is used of the layer; absent are the parameters that it was told to do without. */
export interface LayerNormalization {
  readonly name: string;
  /** A list once it is built, counted from the first. */
  axis: number | readonly number[];
  epsilon: number;
  gamma?: LayerVariable | null;
  beta?: LayerVariable | null;
}

export type LayerNormCall = (
  this: LayerNormalization,
  inputs: tfc.Tensor | tfc.Tensor[],
  kwargs: unknown,
) => tfc.Tensor | tfc.Tensor[];

/**
 * The `call` in place of `stock`, which stays in charge of other axes than the last ones, other backends, other dtypes and gradients of
 * gradients.
 *
 * @param isReplaced whether batch norm is ours on a backend.
 */
export function layerNormCall(
  tf: typeof tfc,
  stock: LayerNormCall,
  isReplaced: (backend: string) => boolean,
): LayerNormCall {
  return function call(inputs, kwargs) {
    const x = Array.isArray(inputs) && inputs.length === 1 ? inputs[0] : inputs;
    const memory = memoryOf(tf.backend());
    if (
      Array.isArray(x) ||
      !numbers.includes(x.dtype) ||
      memory === undefined ||
      !isReplaced(tf.getBackend())
    )
      return apply(stock, this, [inputs, kwargs]);
    const first = firstAxis(this, x.rank);
    if (first === undefined) return apply(stock, this, [inputs, kwargs]);
    check(this, x, first);
    return tf.tidy('LayerNormalization', () => {
      // TensorFlow.js would cut y down to integers.
      const floats = x.dtype === 'float32' ? x : tf.cast(x, 'float32');
      if (gradientDepth(tf) > 1) return apply(stock, this, [floats, kwargs]);
      const { epsilon: eps, gamma, beta } = this;
      const geometry = layerGeometry({ name: 'x', shape: x.shape }, x.shape.slice(first));
      const passes = passesFor<Float32Array>('float32');
      const mean = newArray<Float64Array>('float64', geometry.samples);
      const variance = newArray<Float64Array>('float64', geometry.samples);
      const shared = { ...plain, geometry, centred: true, eps, mean, variance };
      return record(tf, memory, {
        norm: 'layer norm',
        x: floats,
        gamma,
        beta,
        constants: [],
        forward: (values) => passes.forwardRows({ ...shared, ...values }),
        backward: (values) =>
          passes.backwardRows({ ...shared, ...values, bias: undefined, dResidual: undefined }),
      });
    });
  };
}

/** From which axis on all are normalized together; undefined where these are not the last ones, in order. */
function firstAxis({ axis: given }: LayerNormalization, rank: number): number | undefined {
  const axes = typeof given === 'number' ? [given] : given;
  const first = rank - axes.length;
  return axes.every((axis, i) => (axis < 0 ? axis + rank : axis) === first + i) ? first : undefined;
}

function check(layer: LayerNormalization, x: tfc.Tensor, first: number): void {
  const { name, gamma, beta } = layer;
  checkInput(x);
  checkVariables(name, { gamma, beta });
  const shape = (gamma ?? beta)?.val.shape;
  shape?.forEach((size, i) => {
    const axis = first + i;
    if (x.shape[axis] !== size)
      throw rangeError(
        `x.shape[${axis}]`,
        `be ${size} (what the layer was built for)`,
        `${x.shape[axis]}; layer "${name}", x shape ${describeShape(x.shape)}`,
      );
  });
}
