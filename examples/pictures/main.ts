/**
 * Photographs and sound as models want them, straight from the bytes of a decoder: by this library, by the loop that
 * everybody writes, and by TensorFlow.js. The same numbers, how fast they come, and the same predictions.
 */

import { cpus, loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { capabilities } from 'batchnorm';
import { largestDifference } from '../difference.js';
import { MOST_ABOVE_BEST } from '../mnist/noise.js';
import { renderText, type Section } from '../mnist/report.js';
import { integer, optionsOrExit } from '../options.js';
import { loadMobileNet, MOBILENET_CLASSES, predict } from '../tfjs/mobilenet.js';
import { tf, useBackend } from '../tfjs/tensorflow.js';
import { summary, type Times } from '../times.js';
import {
  byLibrary,
  byLoop,
  byTensorFlow,
  type Constants,
  IMAGENET,
  type Normalize,
  type Order,
  PLAIN,
} from './normalize.js';
import { batchOf, type Photograph, readPhotographs, SIDE } from './photographs.js';
import { normalizeSound } from './sound.js';

const USAGE = `Usage: npm run pictures -- [options]

  --rounds <n>  measurements of each way (default 21)
  --help        this text`;

/** How far apart normalized values, and probabilities, may lie: what rounding to float32 in another order makes. */
const TOLERANCE = 1e-5;

const NAMES = ['batchnorm', 'a loop', 'TensorFlow.js'] as const;

function waysOf(constants: Constants, order: Order): readonly Normalize[] {
  return [byLibrary(constants, order), byLoop(constants, order), byTensorFlow(constants, order)];
}

function checked(difference: number): string {
  if (!(difference <= TOLERANCE))
    throw new Error(`all ways must give the same within ${TOLERANCE}, got a difference of ${difference}`);
  return difference.toExponential(1);
}

/** The times of so many calls of each, in turns. */
function timesOf(calls: readonly (() => void)[], rounds: number): Times[] {
  const times: number[][] = calls.map(() => []);
  // The first round compiles, and touches memory.
  for (let round = -1; round < rounds; round++) {
    calls.forEach((call, i) => {
      const started = performance.now();
      call();
      if (round >= 0) times[i].push(performance.now() - started);
    });
  }
  return times.map(summary);
}

function compareTimes(photographs: readonly Photograph[], rounds: number): Section {
  let above = 0;
  const rows = (
    [
      ['planes', 1],
      ['planes', 32],
      ['pixels', 1],
      ['pixels', 32],
    ] as const
  ).map(([order, count]) => {
    const pixels = batchOf(photographs, count);
    const ways = waysOf(IMAGENET, order);
    const outs = ways.map(() => new Float32Array(count * SIDE * SIDE * 3));
    const results = ways.map((way, i) => way(pixels, count, outs[i]));
    const difference = Math.max(
      largestDifference(results[0], results[1]),
      largestDifference(results[0], results[2]),
    );
    const times = timesOf(
      ways.map((way, i) => () => void way(pixels, count, outs[i])),
      rounds,
    );
    above = Math.max(above, ...times.map(({ min, median }) => median / min - 1));
    return [
      `${count} x ${SIDE} x ${SIDE} to ${order}`,
      ...times.map(({ median }) => `${median.toFixed(3)} ms`),
      `${(times[1].median / times[0].median).toFixed(1)} x`,
      checked(difference),
    ];
  });
  return {
    heading: 'RGBA bytes to normalized float32',
    columns: ['photographs', ...NAMES, 'to the loop', 'difference'],
    rows,
    note:
      `Medians of ${rounds} rounds in turns; TensorFlow.js on wasm, from the bytes to the values.` +
      (above > MOST_ABOVE_BEST
        ? `\nNoisy, other programs were at work: medians lie up to ${Math.round(100 * above)} % above the best rounds.`
        : ''),
  };
}

async function comparePredictions(photographs: readonly Photograph[]): Promise<Section> {
  const model = await loadMobileNet();
  const ways = waysOf(PLAIN, 'pixels');
  const rows = photographs.map(({ name, pixels }) => {
    const predictions = ways.map((way) => {
      const values = way(pixels, 1, new Float32Array(SIDE * SIDE * 3));
      const x = tf.tensor4d(values, [1, SIDE, SIDE, 3]);
      try {
        return predict(model, x);
      } finally {
        x.dispose();
      }
    });
    const likeliest = predictions.map((each) => each.indexOf(Math.max(...each)));
    if (likeliest.some((each) => each !== likeliest[0]))
      throw new Error(`all ways must lead to the same class of ${name}, got ${likeliest.join(', ')}`);
    return [
      name,
      MOBILENET_CLASSES[likeliest[0]],
      ...predictions.map((each) => each[likeliest[0]].toFixed(8)),
      checked(
        Math.max(
          largestDifference(predictions[0], predictions[1]),
          largestDifference(predictions[0], predictions[2]),
        ),
      ),
    ];
  });
  model.dispose();
  return {
    heading: 'What MobileNetV2 says of them',
    columns: ['photograph', 'class', ...NAMES, 'difference'],
    rows,
    note: `The probability of the likeliest of its classes (${MOBILENET_CLASSES.join(', ')}), by who normalized the photograph.`,
  };
}

async function main({ rounds }: { rounds: number }): Promise<void> {
  const { backend, isa, threads, version } = capabilities();
  const detail = backend === 'wasm' ? 'WebAssembly' : `native, ${isa}`;
  console.log(`library  batchnorm ${version}: ${detail}, threads: ${threads}`);
  console.log(
    `machine  ${cpus().length} x ${cpus()[0]?.model.trim() ?? 'unknown CPU'}, load ${loadavg()[0].toFixed(1)}`,
  );
  console.log(`runtime  Node.js ${process.version}, TensorFlow.js ${tf.version.tfjs}\n`);
  await useBackend('wasm');
  const photographs = readPhotographs();
  console.log(`${renderText(compareTimes(photographs, rounds))}\n`);
  console.log(`${renderText(await comparePredictions(photographs))}\n`);
  console.log(renderText(normalizeSound()));
}

await main(
  optionsOrExit(USAGE, () => {
    const { values } = parseArgs({
      options: { rounds: { type: 'string', default: '21' }, help: { type: 'boolean', default: false } },
    });
    return values.help ? 'help' : { rounds: integer('--rounds', values.rounds, 1, 1000) };
  }),
);
