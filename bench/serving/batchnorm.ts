import { FrozenBatchNorm, setThreads } from 'batchnorm';
import type { Call } from '../contender.js';
import { fill, neutralState, sizeOf } from './state.js';

/** This library: a call for each of the requests under way at a time, each with memory of its own. */
export function batchnorm(way: 'run' | 'copies' | 'shared' | 'transfer', threads: number) {
  setThreads(threads);
  return (shape: readonly number[], inFlight: number): Call[] => {
    const frozen = FrozenBatchNorm.from(neutralState(shape[1]));
    return Array.from({ length: inFlight }, () => callOf(frozen, way, shape));
  };
}

function callOf(frozen: FrozenBatchNorm, way: string, shape: readonly number[]): Call {
  const size = sizeOf(shape);
  switch (way) {
    case 'shared': {
      const shared = () => new Float32Array(new SharedArrayBuffer(size * 4));
      const x = { data: fill(shared()), shape };
      const out = shared();
      return () => frozen.runAsync(x, { out });
    }
    case 'transfer': {
      let x = { data: fill(new Float32Array(size)), shape };
      return () =>
        frozen.runAsync(x, { transfer: true }).then((y) => {
          x = y;
        });
    }
    case 'copies': {
      const x = { data: fill(new Float32Array(size)), shape };
      return () => frozen.runAsync(x);
    }
    default: {
      const x = { data: fill(new Float32Array(size)), shape };
      const out = new Float32Array(size);
      return () => frozen.run(x, { out });
    }
  }
}
