// tf.batchNorm and its gradient: the kernel that layers, graph models and tf.batchNorm end in.
import type * as tfc from '@tensorflow/tfjs-core';
import { passesFor } from '../backend/index.js';
import { typeError } from '../errors.js';
import { filled, lengthOf } from '../typed-array.js';
import { copyAs, newArray } from '../validate.js';
import { broadcast, gather, spread } from './broadcast.js';
import { checkAlive, memoryOf } from './memory.js';

export const kernelName = 'FusedBatchNorm';

/** TensorFlow.js' own where attributes are silent. */
const usualEps = 1e-3;

interface Inputs {
  x: tfc.TensorInfo;
  mean: tfc.TensorInfo;
  variance: tfc.TensorInfo;
  scale?: tfc.TensorInfo | null;
  offset?: tfc.TensorInfo | null;
}

function epsOf(attrs: tfc.NamedAttrMap | undefined): number {
  return (attrs?.varianceEpsilon as number | null | undefined) ?? usualEps;
}

/** How many gradients of gradients are being recorded; 0 where TensorFlow.js does not say. */
export function gradientDepth(tf: typeof tfc): number {
  const { state } = tf.engine() as { state?: { gradientDepth?: number } };
  return state?.gradientDepth ?? 0;
}

/**
 * The kernel in place of `stock`: y = (x − mean) / √(variance + eps) · scale + offset for parameters of any shape that
 * broadcasts to that of x.
 */
export function fusedBatchNorm(tf: typeof tfc, stock: tfc.KernelConfig): tfc.KernelConfig {
  return {
    ...stock,
    kernelFunc(parameters) {
      const { backend, attrs } = parameters;
      const inputs = parameters.inputs as unknown as Inputs;
      const { x, mean, variance } = inputs;
      // Graph models give null for what is absent.
      const [scale, offset] = [inputs.scale ?? undefined, inputs.offset ?? undefined];
      const memory = memoryOf(backend);
      if (memory === undefined) return stock.kernelFunc(parameters);
      for (const [name, tensor] of Object.entries({ x, mean, variance, scale, offset })) {
        if (tensor === undefined) continue;
        checkAlive(name, tensor, 'dispose of it after the call');
        if (tensor.dtype === 'float32') continue;
        // The kernel of wasm would take the bits of integers for those of floats.
        if (stock.backendName === 'wasm')
          throw typeError(name, 'be float32 (cast it with toFloat())', tensor.dtype);
        return stock.kernelFunc(parameters);
      }
      const { indices, ...geometry } = broadcast(x.shape, {
        mean: mean.shape,
        variance: variance.shape,
        scale: scale?.shape,
        offset: offset?.shape,
      });
      const [y] = memory.compute(
        [x, mean, variance, scale, offset],
        [x.shape],
        ([values, ...parameterValues], [result]) => {
          if (lengthOf(values) === 0) return;
          const [m, v, weight, bias] = parameterValues.map((value, i) => value && spread(value, indices[i]));
          passesFor<Float32Array>('float32').forwardInference({
            ...plain,
            geometry,
            eps: epsOf(attrs),
            x: values,
            y: result,
            weight,
            bias,
            mean: copyAs('float64', m as Float32Array),
            variance: copyAs('float64', v as Float32Array),
          });
        },
      );
      // The tape reads every input of a recorded call, and fails where one is undefined.
      if (gradientDepth(tf) > 0) {
        inputs.scale ??= tf.ones(mean.shape);
        inputs.offset ??= tf.zeros(mean.shape);
      }
      return y;
    },
  };
}

/** Of a pass that has neither activation nor residual: TensorFlow.js has these elsewhere. */
export const plain = { relu: false, residual: undefined, mask: undefined } as const;

/**
 * The gradient in place of `stock`, all of it in one pass over x and dy. With r = 1 / √(variance + eps):
 * dOffset = Σdy, dScale = Σdy·x̂, dx = dy·scale·r, dMean = −dOffset·scale·r, dVariance = −½·dScale·scale·r².
 */
export function fusedBatchNormGradient(tf: typeof tfc, stock: tfc.GradConfig): tfc.GradConfig {
  return {
    kernelName,
    inputsToSave: ['x', 'mean', 'variance', 'scale', 'offset'],
    gradFunc(dy, saved, attrs) {
      const [x, mean, variance, scale, offset] = saved;
      const memory = memoryOf(tf.backend());
      // Gradients of gradients need operations that the tape knows.
      if (
        memory === undefined ||
        gradientDepth(tf) > 0 ||
        Array.isArray(dy) ||
        saved.some(({ dtype }) => dtype !== 'float32')
      )
        return stock.gradFunc(dy, saved.slice(0, stock.inputsToSave?.length), attrs);
      const eps = epsOf(attrs);
      const { indices, ...geometry } = broadcast(x.shape, {
        mean: mean.shape,
        variance: variance.shape,
        scale: scale.shape,
        offset: offset.shape,
      });
      const infos = memory.compute(
        [dy, x, mean, variance, scale],
        [x.shape, mean.shape, variance.shape, scale.shape, offset.shape],
        ([dyValues, xValues, ...parameterValues], [dx, ...sums]) => {
          if (lengthOf(xValues) === 0) {
            for (const sum of sums) filled(sum, 0);
            return;
          }
          const [m, v, weight] = parameterValues.map((values, i) => spread(values, indices[i]));
          const dScale = newArray<Float32Array>('float32', geometry.channels);
          const dOffset = newArray<Float32Array>('float32', geometry.channels);
          passesFor<Float32Array>('float32').backward({
            ...plain,
            geometry,
            eps,
            training: false,
            dy: dyValues,
            x: xValues,
            mean: copyAs('float64', m),
            variance: copyAs('float64', v),
            weight,
            bias: undefined,
            dx,
            dWeight: dScale,
            dBias: dOffset,
            dResidual: undefined,
          });
          const dMean = newArray<Float64Array>('float64', geometry.channels);
          const dVariance = newArray<Float64Array>('float64', geometry.channels);
          for (let i = 0; i < geometry.channels; i++) {
            dMean[i] = (-dOffset[i] * weight[i]) / Math.sqrt(v[i] + eps);
            dVariance[i] = (-0.5 * dScale[i] * weight[i]) / (v[i] + eps);
          }
          [dMean, dVariance, dScale, dOffset].forEach((values, i) => {
            gather(values, indices[i], sums[i]);
          });
        },
      );
      // At once, not when each is asked for: TensorFlow.js disposes what was made for another of them.
      const [dx, dMean, dVariance, dScale, dOffset] = infos.map((info) =>
        tf.engine().makeTensorFromTensorInfo(info),
      );
      return {
        x: () => dx,
        mean: () => dMean,
        variance: () => dVariance,
        scale: () => dScale,
        offset: () => dOffset,
      };
    },
  };
}
