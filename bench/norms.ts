import type { Case, Norm } from './cases.js';
import { type Buffers, eps, type Prepared } from './contender.js';

/** The parts of this library that the cases of norms call; revisions before it have none of them. */
export type NormLibrary = Pick<
  typeof import('batchnorm'),
  'GroupNorm' | 'InstanceNorm' | 'LayerNorm' | 'RMSNorm' | 'groupNorm' | 'layerNorm'
>;

/** This library in a case of a norm: all with weight and bias, RMS norm with its weight. */
export function normContender(subject: Case, norm: Norm, buffers: Buffers, library: NormLibrary): Prepared {
  const { shape, dtype } = subject;
  const { x, dy, y, dx } = buffers;
  const input = { data: x, shape };
  const [layer, trained] = [0, 1].map(() => layerOf(subject, norm, library));
  const frozen = layer.freeze();
  trained.forward(input, { out: y });
  return {
    calls: {
      inference: () => frozen.run(input, { out: y }),
      training: () => {
        layer.forward(input, { out: y });
        layer.clear();
      },
      backward: () => trained.backward({ data: dy, shape }, { out: dx, retain: true }),
    },
    train() {
      const { variance } =
        norm.name === 'layer'
          ? library.layerNorm(input, { eps, out: y, dtype })
          : library.groupNorm(input, { groups: norm.groups, axis: axisOf(subject), eps, out: y, dtype });
      return { y, variance };
    },
  };
}

function layerOf(subject: Case, { name, groups }: Norm, library: NormLibrary) {
  const { channels, dtype } = subject;
  const options = { eps, dtype, reuse: true };
  const axis = axisOf(subject);
  switch (name) {
    case 'group':
      return new library.GroupNorm(groups, channels, { ...options, axis });
    case 'instance':
      return new library.InstanceNorm(channels, { ...options, axis, weight: true, bias: true });
    case 'layer':
      return new library.LayerNorm(channels, options);
    case 'RMS':
      return new library.RMSNorm(channels, options);
  }
}

function axisOf({ layout }: Case): number {
  return layout === 'channels-first' ? 1 : -1;
}
