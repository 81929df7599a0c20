import type { Activations } from '../mnist/network.js';
import { round } from './round.js';

/** What the network makes of one image. */
export interface Prediction {
  readonly digit: number;
  /** One for each digit, to a millionth. */
  readonly probabilities: readonly number[];
}

/** The answer to `POST /predict` as a JSON schema, from which its serializer is made. */
export const PREDICTIONS = {
  type: 'object',
  required: ['predictions', 'ms'],
  properties: {
    predictions: {
      type: 'array',
      items: {
        type: 'object',
        required: ['digit', 'probabilities'],
        properties: {
          digit: { type: 'integer' },
          probabilities: { type: 'array', items: { type: 'number' } },
        },
      },
    },
    ms: { type: 'number' },
  },
} as const;

export function toPredictions({ data, shape: [count, classes] }: Activations): Prediction[] {
  return Array.from({ length: count }, (_, n) => {
    const row = data.subarray(n * classes, (n + 1) * classes);
    return {
      digit: row.indexOf(Math.max(...row)),
      probabilities: Array.from(row, (value) => round(value, 6)),
    };
  });
}
