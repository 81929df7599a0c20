import type { ProcessGroup } from 'batchnorm';
import { CLASSES, head, readMnist } from '../mnist/data.js';
import { shuffle, uniform } from '../mnist/random.js';
import { MOMENTUM, SIZES } from '../mnist/recipe.js';
import { lossOf, Network } from './network.js';

/** Images in a step, of all members together. */
export const BATCH = 128;
const LEARNING_RATE = 0.1;

/** What is trained, the same for every member. */
export interface Task {
  readonly images: number;
  readonly seed: number;
}

/** What a member has seen. */
export interface Trained {
  /** Of each step, over the whole batch. */
  readonly losses: Float64Array;
  /** Milliseconds of each step, and of the exchanges in it, waiting for others included. */
  readonly steps: Float64Array;
  readonly exchanges: Float64Array;
}

/** Where the samples of each member begin, and where the last one's end: the second member has twice those of the first, and so on. */
export function cutsOf(size: number): number[] {
  const shares = (size * (size + 1)) / 2;
  return Array.from({ length: size + 1 }, (_, rank) =>
    Math.round((BATCH * ((rank * (rank + 1)) / 2)) / shares),
  );
}

/** A group that notes how long its exchanges take. */
export function timed(group: ProcessGroup): { group: ProcessGroup; take: () => number } {
  let milliseconds = 0;
  const time = (exchange: () => void) => {
    const begun = performance.now();
    exchange();
    milliseconds += performance.now() - begun;
  };
  const take = () => {
    const taken = milliseconds;
    milliseconds = 0;
    return taken;
  };
  const { rank, size } = group;
  return {
    group: {
      rank,
      size,
      allGather: (mine, all) => time(() => group.allGather(mine, all)),
      allReduce: (values) => time(() => group.allReduce(values)),
    },
    take,
  };
}

/** Trains for an epoch, alone or as a member of a group: stochastic gradient descent with momentum. */
export function train({ images, seed }: Task, whole?: ProcessGroup): Trained {
  const { group, take } = whole === undefined ? { group: undefined, take: () => 0 } : timed(whole);
  const { rank, size } = group ?? { rank: 0, size: 1 };
  const cuts = cutsOf(size);
  const [from, to] = [cuts[rank], cuts[rank + 1]];
  const digits = head(readMnist('train'), images);
  const random = uniform(seed);
  const network = new Network(to - from, SIZES, random, group);
  const parameters = network.parameters();
  const velocities = parameters.map(({ value }) => new Float64Array(value.length));
  // All gradients, and the loss behind them, go in one exchange.
  const flat = new Float64Array(parameters.reduce((sum, { grad }) => sum + grad.length, 1));
  const order = Uint32Array.from({ length: digits.count }, (_, i) => i);
  shuffle(order, random);
  const count = Math.floor(images / BATCH);
  const [losses, steps, exchanges] = [0, 1, 2].map(() => new Float64Array(count));
  const x = new Float64Array((to - from) * digits.pixels);
  const labels = new Uint8Array(to - from);
  const dLogits = new Float64Array((to - from) * CLASSES);
  for (let step = 0; step < count; step++) {
    for (let n = 0; n < to - from; n++) {
      const image = order[step * BATCH + from + n];
      labels[n] = digits.labels[image];
      for (let i = 0; i < digits.pixels; i++)
        x[n * digits.pixels + i] = digits.images[image * digits.pixels + i] / 255;
    }
    const begun = performance.now();
    const loss = lossOf(network.forward(x), labels, BATCH, dLogits);
    network.backward(dLogits);
    let at = 0;
    for (const { grad } of parameters) {
      flat.set(grad, at);
      at += grad.length;
    }
    flat[at] = loss / BATCH;
    group?.allReduce(flat);
    losses[step] = flat[at];
    at = 0;
    for (const [k, { value }] of parameters.entries()) {
      const velocity = velocities[k];
      for (let i = 0; i < value.length; i++) {
        velocity[i] = MOMENTUM * velocity[i] + flat[at + i];
        value[i] -= LEARNING_RATE * velocity[i];
      }
      at += value.length;
    }
    steps[step] = performance.now() - begun;
    exchanges[step] = take();
  }
  return { losses, steps, exchanges };
}

/** What all members have seen, in the order of ranks. */
export function gatherTrained(group: ProcessGroup, { losses, steps, exchanges }: Trained): Trained[] {
  const gather = (mine: Float64Array) => {
    const all = new Float64Array(group.size * mine.length);
    group.allGather(mine, all);
    return (rank: number) => all.subarray(rank * mine.length, (rank + 1) * mine.length);
  };
  const [lossesOf, stepsOf, exchangesOf] = [losses, steps, exchanges].map(gather);
  return Array.from({ length: group.size }, (_, rank) => ({
    losses: lossesOf(rank),
    steps: stepsOf(rank),
    exchanges: exchangesOf(rank),
  }));
}
