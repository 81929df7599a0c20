// The golden results of group, instance, layer and RMS norm. Nothing of Node.js: browsers run it too.
import type * as Library from '../../lib/index.js';
import type { DType, TensorArray } from '../../lib/index.js';
import { type GoldenRow, tensorData, values } from './golden-data.js';

// biome-ignore lint/suspicious/noExplicitAny: functions and layers of four norms, whose arguments differ
type Any = any;

interface GoldenNorm {
  readonly kind: 'group' | 'instance' | 'layer' | 'rms';
  readonly shape: readonly number[];
  /** What the functions are told of it. */
  readonly over: { readonly axis?: number; readonly groups?: number; readonly shape?: readonly number[] };
}

const group = (groups: number, axis: number, ...shape: number[]): GoldenNorm => ({
  kind: 'group',
  shape,
  over: { groups, axis },
});
const instance = (axis: number, ...shape: number[]): GoldenNorm => ({
  kind: 'instance',
  shape,
  over: { axis },
});
const overLast = (dimensions: number, ...shape: number[]): GoldenNorm[] =>
  (['layer', 'rms'] as const).map((kind) => ({
    kind,
    shape,
    over: { shape: shape.slice(shape.length - dimensions) },
  }));

/** Both layouts, rows of one channel, of some and of all; short and long rows, few and many; tails. */
const norms: readonly GoldenNorm[] = [
  group(2, 1, 3, 6, 10),
  group(4, 1, 2, 16, 7, 7),
  group(1, 1, 2, 3, 4100),
  group(5, 1, 40, 35),
  group(3, -1, 3, 17, 9),
  group(32, -1, 2, 50, 64),
  group(1, -1, 2, 300, 40),
  group(2, 2, 3, 5, 4, 6),
  instance(1, 3, 5, 33),
  instance(1, 2, 2, 20_001),
  instance(-1, 2, 700, 17),
  ...overLast(1, 33, 7),
  ...overLast(1, 70, 16),
  ...overLast(1, 9, 768),
  ...overLast(1, 2, 5003),
  ...overLast(2, 3, 31, 33),
];

function of(library: typeof Library, { kind, shape, over }: GoldenNorm) {
  const { groupNorm, groupNormBackward, instanceNorm, instanceNormBackward } = library;
  const { layerNorm, layerNormBackward, rmsNorm, rmsNormBackward } = library;
  const { axis = 1, groups } = over;
  const channels = shape.at(axis);
  const norm: Record<GoldenNorm['kind'], { forward: Any; backward: Any; layer: (options: object) => Any }> = {
    group: {
      forward: groupNorm,
      backward: groupNormBackward,
      layer: (options) => new (library.GroupNorm as Any)(groups, channels, { axis, ...options }),
    },
    instance: {
      forward: instanceNorm,
      backward: instanceNormBackward,
      layer: (options) =>
        new (library.InstanceNorm as Any)(channels, {
          axis,
          weight: true,
          bias: true,
          trackRunningStats: true,
          ...options,
        }),
    },
    layer: {
      forward: layerNorm,
      backward: layerNormBackward,
      layer: (options) => new (library.LayerNorm as Any)(over.shape, options),
    },
    rms: {
      forward: rmsNorm,
      backward: rmsNormBackward,
      layer: (options) => new (library.RMSNorm as Any)(over.shape, options),
    },
  };
  return norm[kind];
}

/** All results of these norms. */
export function* normRows(library: typeof Library): Generator<GoldenRow> {
  for (const [index, norm] of norms.entries()) {
    const { kind, shape, over } = norm;
    const { forward, backward, layer } = of(library, norm);
    for (const dtype of ['float32', 'float64', index % 2 === 0 ? 'bfloat16' : 'float16'] as DType[]) {
      const ArrayType = dtype === 'float64' ? Float64Array : Float32Array;
      const length = shape.reduce((product, size) => product * size);
      const count =
        over.shape?.reduce((product, size) => product * size) ?? (shape.at(over.axis ?? 1) as number);
      const tensor = (seed: number, scale: number, offset: number) => ({
        data: tensorData(dtype, length, seed, scale, offset),
        shape,
      });
      const [x, dy, residual] = [tensor(1, 4, 100), tensor(2, 2, 0), tensor(5, 2, 0)];
      const weight = ArrayType.from(values(count, 3, 1, 1));
      const bias = ArrayType.from(values(count, 4, 1, 0));
      const parameters = kind === 'rms' ? { weight } : { weight, bias };
      const arrays: Record<string, TensorArray> = {};
      const add = (pass: string, results: object) => {
        for (const [name, result] of Object.entries(results)) {
          const array: unknown = result?.data ?? result;
          if (ArrayBuffer.isView(array)) arrays[`${pass} ${name}`] = array as TensorArray;
        }
      };
      for (const [fused, options] of [
        ['', {}],
        ['relu ', { activation: 'relu' }],
        ['residual ', { residual }],
        ['relu residual ', { activation: 'relu', residual }],
      ] as const) {
        const given = { dtype, ...over, ...parameters, ...options };
        add(`${fused}forward`, forward(x, given));
        add(`${fused}backward`, backward(dy, x, given));
        // Of a ReLU the layer keeps a mask, which the function has none of.
        const { activation, residual: added } = options as { activation?: 'relu'; residual?: object };
        const run = added === undefined ? {} : { residual: added };
        const made = layer({ dtype, activation });
        made.weight.set(weight);
        made.bias?.set(bias);
        made.forward(x, run);
        add(`${fused}layer`, made.backward(dy));
        add(`${fused}frozen`, { y: made.freeze().run(x, run) });
        if (kind === 'instance') {
          const { runningMean, runningVar } = made;
          add(`${fused}layer`, { runningMean, runningVar });
        }
      }
      yield { name: `${dtype} ${kind} norm [${shape.join(', ')}] ${JSON.stringify(over)}`, arrays };
    }
  }
}
