import type { Request } from './protocol.js';
import type { Way } from './ways.js';

/** Something to measure in several ways. */
export interface Measurement extends Omit<Request, 'milliseconds'> {
  /** As --only and the tables name it. */
  name: string;
  ways: readonly Way[];
}

const image = [32, 64, 56, 56];
const row = [1, 256];

/** Everything, in the order of the tables. */
export function everyMeasurement(eventLoop: readonly Way[], spread: readonly Way[]): Measurement[] {
  const busy = eventLoop.filter(({ library }) => library !== 'idle');
  const requests = (shape: readonly number[], inFlight: number): Measurement => ({
    name: `requests (${shape.join(', ')}), ${inFlight} in flight`,
    measure: 'requests',
    shape,
    inFlight,
    ways: busy,
  });
  const rate = (shape: readonly number[]): Measurement => ({
    name: `workers (${shape.join(', ')})`,
    measure: 'rate',
    shape,
    inFlight: 1,
    ways: spread,
  });
  return [
    // Two, so that the threads have work while the loop answers one.
    { name: 'loop', measure: 'loop', shape: image, inFlight: 2, ways: eventLoop },
    {
      name: 'pool',
      measure: 'pool',
      shape: image,
      inFlight: 16,
      ways: eventLoop.filter(({ library }) => ['idle', 'shared', 'onnxruntime'].includes(library)),
    },
    requests(row, 1),
    requests(row, 64),
    requests(image, 1),
    requests(image, 4),
    rate([32, 256]),
    rate([1, 256, 56, 56]),
  ];
}
