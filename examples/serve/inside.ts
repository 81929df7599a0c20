// What goes into the batch norms of a network and comes out of them, for a page that shows it beside a network without.
import { FrozenBatchNorm } from 'batchnorm';
import type { TrainedBlock } from '../mnist/checkpoint.js';
import { type Activations, activations, softmax } from '../mnist/network.js';
import { linearStep, rectify } from './classifier.js';
import { round } from './round.js';

/** A hidden layer, one value per feature. */
export interface InsideLayer {
  /** What its linear layer gives. */
  readonly sums: readonly number[];
  /** What the batch norm makes of them, which goes into the ReLU; absent where there is none. */
  readonly normalized?: readonly number[];
}

/** A network and an image. */
export interface InsideNetwork {
  readonly layers: readonly InsideLayer[];
  /** One for each digit. */
  readonly probabilities: readonly number[];
}

export interface InsideReport {
  readonly with: InsideNetwork;
  /** Absent where there is no such network. */
  readonly without?: InsideNetwork;
}

/** Of one image, `[1][pixels]`. */
export type Inside = (x: Activations) => InsideReport;

const LAYER = {
  type: 'object',
  required: ['sums'],
  properties: {
    sums: { type: 'array', items: { type: 'number' } },
    normalized: { type: 'array', items: { type: 'number' } },
  },
} as const;

const NETWORK = {
  type: 'object',
  required: ['layers', 'probabilities'],
  properties: {
    layers: { type: 'array', items: LAYER },
    probabilities: { type: 'array', items: { type: 'number' } },
  },
} as const;

/** The answer to `POST /inside` as a JSON schema. */
export const INSIDE = {
  type: 'object',
  required: ['with'],
  properties: { with: NETWORK, without: NETWORK },
} as const;

export function createInside(blocks: readonly TrainedBlock[], without?: readonly TrainedBlock[]): Inside {
  const network = lookInto(blocks);
  const other = without && lookInto(without);
  return (x) => ({ with: network(x), ...(other && { without: other(x) }) });
}

function lookInto(blocks: readonly TrainedBlock[]): (x: Activations) => InsideNetwork {
  const steps = blocks.map(({ linear: { activation: _, ...linear }, norm }) => ({
    sums: linearStep(linear),
    frozen: norm && FrozenBatchNorm.from(norm),
  }));
  return (x) => {
    const layers: InsideLayer[] = [];
    let current = x;
    for (const [i, { sums, frozen }] of steps.entries()) {
      const y = sums(current);
      if (i === steps.length - 1) {
        current = y;
        break;
      }
      const normalized = frozen?.run(y);
      layers.push({
        sums: rounded(y.data),
        ...(normalized && { normalized: rounded(normalized.data) }),
      });
      current = { data: normalized?.data ?? y.data, shape: y.shape };
      rectify(current.data);
    }
    const probabilities = activations(1, current.shape[1]);
    softmax(current.data, probabilities.data);
    return { layers, probabilities: rounded(probabilities.data) };
  };
}

function rounded(values: Float32Array): number[] {
  return Array.from(values, (value) => round(value, 4));
}
