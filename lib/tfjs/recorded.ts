// One call on the tape of TensorFlow.js, with a gradient for x and for each parameter that is there.
import type * as tfc from '@tensorflow/tfjs-core';
import { stateError } from '../errors.js';
import { filled, lengthOf } from '../typed-array.js';
import { gradientDepth } from './kernel.js';
import type { LayerVariable } from './layer.js';
import type { Memory } from './memory.js';

type Values = Float32Array;

/** What a forward pass reads and writes; what is absent is undefined. */
export interface ForwardValues {
  readonly x: Values;
  readonly weight: Values | undefined;
  readonly bias: Values | undefined;
  readonly y: Values;
}

/** The same of a backward pass. */
export interface BackwardValues {
  readonly dy: Values;
  readonly x: Values;
  readonly weight: Values | undefined;
  readonly dx: Values;
  readonly dWeight: Values | undefined;
  readonly dBias: Values | undefined;
}

/** What is normalized, and by which passes: none is called where x is empty. */
export interface Recorded {
  /** As messages name it. */
  readonly norm: string;
  readonly x: tfc.Tensor;
  readonly gamma?: LayerVariable | null;
  readonly beta?: LayerVariable | null;
  /** Tensors that the forward pass reads besides, and that have no gradient. */
  readonly constants: readonly tfc.Tensor[];
  forward(values: ForwardValues, constants: readonly Values[]): void;
  backward(values: BackwardValues): void;
}

export function record(tf: typeof tfc, memory: Memory, call: Recorded): tfc.Tensor {
  const { norm, x, constants } = call;
  const scale = call.gamma?.read();
  const offset = call.beta?.read();
  // By the time of the gradient another backend may be current.
  const holder = tf.backend();
  const toTensor = (info: tfc.TensorInfo) => tf.engine().makeTensorFromTensorInfo(info, holder);

  const recorded = tf.customGrad((...args: (tfc.Tensor | tfc.GradSaveFunc)[]) => {
    const save = args[args.length - 1] as tfc.GradSaveFunc;
    save(scale ? [x, scale] : [x]);
    const inputs: (tfc.Tensor | undefined)[] = [x, scale, offset, ...constants];
    const [y] = memory.compute(inputs, [x.shape] as const, (given, [result]) => {
      const [values, weight, bias, ...others] = given as [Values, ...Values[]];
      if (lengthOf(values) > 0) call.forward({ x: values, weight, bias, y: result }, others);
    });
    const gradFunc = (dy: tfc.Tensor, saved: tfc.Tensor[]) => {
      // What follows is not on the tape: the outer gradient would lack it.
      if (gradientDepth(tf) > 0)
        throw stateError(
          'NOT_DIFFERENTIABLE',
          `a ${norm} whose gradient is differentiated must be called within the inner tf.grad, got one from outside`,
        );
      const [savedX, savedScale] = saved as [tfc.Tensor, tfc.Tensor | undefined];
      return memory
        .compute(
          [dy, savedX, savedScale],
          [x.shape, scale?.shape, offset?.shape],
          ([dyValues, values, weight], [dx, dWeight, dBias]) => {
            if (lengthOf(values) === 0) {
              if (dWeight) filled(dWeight, 0);
              if (dBias) filled(dBias, 0);
              return;
            }
            call.backward({ dy: dyValues, x: values, weight, dx, dWeight, dBias });
          },
        )
        .filter((info) => info !== undefined)
        .map(toTensor);
    };
    return { value: toTensor(y), gradFunc };
  });
  return recorded(...[x, scale, offset].filter((tensor) => tensor !== undefined));
}
