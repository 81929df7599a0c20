import { BatchNorm } from 'batchnorm';
import { backward, forwardInference, forwardTraining } from '../../bench/plain-js.js';
import { largestDifference } from '../difference.js';
import { summary, type Times } from '../times.js';
import { type Activations, activations, type Network, Normalization, type Stage } from './network.js';

/** The same work by the package and by plain loops, in nanoseconds per image, and the largest difference between their results. */
export interface Comparison {
  readonly work: string;
  readonly library: Times;
  readonly plainJs: Times;
  readonly difference: number;
}

/** Long enough that the clock's resolution does not matter, short enough that a disturbed sample stands out. */
const REPEATS = 40;
const SAMPLES = 101;

/**
 * Times all batch norm layers of a network on one batch of real activations: inference with frozen layers,
 * and a training step (forward with batch statistics, backward) without the update of the running statistics.
 */
export function compareTimes(network: Network, stages: readonly Stage[], x: Activations): Comparison[] {
  const cases = normInputs(network, stages, x).map(({ norm, input }) => makeCase(norm, input));
  return [
    compare('inference', x.shape[0], cases, (c) => c.inference),
    compare('training step', x.shape[0], cases, (c) => c.training),
  ];
}

interface Contest {
  readonly library: () => void;
  readonly plainJs: () => void;
  /** Pairs of arrays that should be equal once both have run. */
  readonly results: () => readonly (readonly [Float32Array, Float32Array])[];
}

interface Case {
  readonly inference: Contest;
  readonly training: Contest;
}

function compare(
  work: string,
  batch: number,
  cases: readonly Case[],
  select: (c: Case) => Contest,
): Comparison {
  const contests = cases.map(select);
  const library = contests.map((contest) => contest.library);
  const plainJs = contests.map((contest) => contest.plainJs);
  const samples = { library: new Float64Array(SAMPLES), plainJs: new Float64Array(SAMPLES) };
  // The first round is the warm-up: after it, both have been compiled and their memory has been touched.
  for (let i = -1; i < SAMPLES; i++) {
    const a = nanoseconds(library) / batch;
    const b = nanoseconds(plainJs) / batch;
    if (i < 0) continue;
    samples.library[i] = a;
    samples.plainJs[i] = b;
  }
  const differences = contests.flatMap((contest) =>
    contest.results().map(([a, b]) => largestDifference(a, b)),
  );
  return {
    work,
    library: summary(samples.library),
    plainJs: summary(samples.plainJs),
    difference: Math.max(...differences),
  };
}

function makeCase(norm: BatchNorm, x: Activations): Case {
  const { weight, bias, runningMean, runningVar } = norm;
  if (weight === null || bias === null || runningMean === null || runningVar === null) {
    throw new Error('norm must have a weight, a bias and running statistics, got one without');
  }
  const [outer, channels] = x.shape;
  const shape = { outer, channels, inner: 1 };
  const affine = { weight, bias, eps: norm.config.eps };
  const running = { mean: runningMean, variance: runningVar };
  const moments = { mean: new Float64Array(channels), variance: new Float64Array(channels) };
  const gradients = {
    dx: new Float32Array(x.data.length),
    dWeight: new Float32Array(channels),
    dBias: new Float32Array(channels),
  };
  const frozen = norm.freeze();
  const y = { library: new Float32Array(x.data.length), plainJs: new Float32Array(x.data.length) };
  const dx = new Float32Array(x.data.length);
  // Any gradient will do, the time does not depend on its values; that of Σ y² / 2 is y.
  const dy = activations(outer, channels);
  forwardInference(x.data, shape, running, affine, dy.data);
  return {
    inference: {
      library: () => frozen.run(x, { out: y.library }),
      plainJs: () => forwardInference(x.data, shape, running, affine, y.plainJs),
      results: () => [[y.library, y.plainJs]],
    },
    training: {
      library: () => {
        norm.forward(x, { out: y.library, updateStats: false });
        norm.backward(dy, { out: dx, retain: true });
      },
      plainJs: () => {
        forwardTraining(x.data, shape, affine, moments, y.plainJs);
        backward(dy.data, x.data, shape, moments, affine, gradients);
      },
      results: () => [
        [y.library, y.plainJs],
        [dx, gradients.dx],
      ],
    },
  };
}

/** What reaches each batch norm layer, copied, because the stages use their buffers again. */
function normInputs(network: Network, stages: readonly Stage[], x: Activations) {
  const inputs: { norm: BatchNorm; input: Activations }[] = [];
  let current = x;
  for (const [i, layer] of network.layers.entries()) {
    if (layer instanceof Normalization) {
      inputs.push({
        norm: withoutRelu(layer.norm),
        input: { data: current.data.slice(), shape: current.shape },
      });
    }
    current = stages[i].forward(current);
  }
  return inputs;
}

/** Plain loops take longer for a ReLU than for the batch norm before it: with it, that is what would be compared. */
function withoutRelu(norm: BatchNorm): BatchNorm {
  const copy = new BatchNorm(norm.channels, { ...norm.config, activation: undefined });
  copy.loadStateDict(norm.stateDict());
  return copy;
}

function nanoseconds(work: readonly (() => void)[]): number {
  const start = process.hrtime.bigint();
  for (let i = 0; i < REPEATS; i++) {
    for (const run of work) run();
  }
  return Number(process.hrtime.bigint() - start) / REPEATS;
}
