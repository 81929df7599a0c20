import { fold } from 'batchnorm/tfjs';
import { largestDifference } from '../difference.js';
import type { Section } from '../mnist/report.js';
import {
  batchNormsOf,
  featuresOf,
  isBatchNorm,
  type Kernel,
  loadMobileNet,
  predict,
  profile,
} from './mobilenet.js';
import { batchOf, type Picture, readPictures } from './pictures.js';
import { FOLDED_COLUMNS, foldedCells, TIME_COLUMNS, timeCells } from './tables.js';
import { inTurns, milliseconds, NAMES, onBothSides, SIDES, type tf, useBackend } from './tensorflow.js';

/** How far apart predictions may lie. */
const TOLERANCE = 1e-4;

export interface InferenceOptions {
  /** Pictures at a time. */
  readonly batches: readonly number[];
  /** Of each batch, on either side. */
  readonly rounds: number;
}

/**
 * MobileNetV2 on the wasm backend, predicting with either batch norm, and with none, since they were folded.
 *
 * @throws {Error} where predictions are not the same, or a batch norm was not run.
 */
export async function compareInference({ batches, rounds }: InferenceOptions): Promise<Section[]> {
  await useBackend('wasm');
  const model = await loadMobileNet();
  const { model: folded, folded: count, left } = fold(model);
  const pictures = readPictures();
  const times: string[][] = [];
  const shares: string[][] = [];
  for (const batch of batches) {
    const x = batchOf(pictures, batch);
    times.push([String(batch), ...(await timesOf(model, folded, x, rounds))]);
    shares.push(...(await sharesOf(model, x, rounds)).map(([side, ...row]) => [`${batch}, ${side}`, ...row]));
    x.dispose();
  }
  const predictions = await predictionsOf(model, folded, pictures);
  for (const each of [folded, model]) each.dispose();
  return [
    {
      heading: 'MobileNetV2 on wasm: predictions',
      columns: [
        'photograph',
        'class',
        NAMES.stock,
        NAMES.ours,
        'difference',
        'before the classifier',
        'folded',
        'difference',
      ],
      rows: predictions,
      note: `The probability of the likeliest class; the largest differences of all five, and of all that the last batch norm gives, as a share of its largest. Folded: ${count} of ${count + left.length} batch norms worked into the layers beside them.`,
    },
    {
      heading: 'MobileNetV2 on wasm: time of a prediction',
      columns: ['pictures', ...TIME_COLUMNS, 'difference', ...FOLDED_COLUMNS],
      rows: times,
      note: `From the tensor of pictures to the probabilities; ${rounds} rounds in turns.`,
    },
    {
      heading: 'MobileNetV2 on wasm: where the time goes',
      columns: ['pictures, batch norm of', 'batch norms', 'their time', 'all else', 'share'],
      rows: shares,
      note: `Kernels (tf.profile), each at its fastest in ${rounds} rounds in turns.`,
    },
  ];
}

async function predictionsOf(
  model: tf.LayersModel,
  folded: tf.LayersModel,
  pictures: readonly Picture[],
): Promise<string[][]> {
  const features = featuresOf(model);
  const rows: string[][] = [];
  for (const picture of pictures) {
    const x = batchOf([picture], 1);
    const { stock, ours } = await onBothSides(() => predict(model, x));
    const inside = await onBothSides(() => predict(features, x));
    const without = predict(folded, x);
    x.dispose();
    const likeliest = stock.indexOf(Math.max(...stock));
    rows.push([
      picture.name,
      `${likeliest} of ${stock.length}`,
      stock[likeliest].toFixed(8),
      ours[likeliest].toFixed(8),
      checked(largestDifference(stock, ours)).toExponential(1),
      checked(largestDifference(inside.stock, inside.ours) / largest(inside.stock)).toExponential(1),
      without[likeliest].toFixed(8),
      checked(largestDifference(stock, without)).toExponential(1),
    ]);
  }
  return rows;
}

async function timesOf(
  model: tf.LayersModel,
  folded: tf.LayersModel,
  x: tf.Tensor4D,
  rounds: number,
): Promise<string[]> {
  const results = await onBothSides(() => predict(model, x));
  const difference = checked(largestDifference(results.stock, results.ours));
  const { stock, ours } = await inTurns(rounds, async (side) => {
    // The first one after a change of sides waits for code to be compiled anew.
    predict(model, x);
    return {
      whole: await milliseconds(() => predict(model, x)),
      // It has no batch norm that the sides could do: once a round.
      folded: side === 'stock' ? await milliseconds(() => predict(folded, x)) : Number.NaN,
    };
  });
  const wholes = { stock: stock.map(({ whole }) => whole), ours: ours.map(({ whole }) => whole) };
  const without = stock.map((times) => times.folded);
  return [...timeCells(wholes), difference.toExponential(1), ...foldedCells(wholes.stock, without)];
}

/** A row for each side. */
async function sharesOf(model: tf.LayersModel, x: tf.Tensor4D, rounds: number): Promise<string[][]> {
  const profiles = await inTurns(rounds, () => profile(model, x));
  const layers = batchNormsOf(model).length;
  return SIDES.map((side) => {
    const kernels = fastest(profiles[side]);
    const norms = kernels.filter(isBatchNorm);
    if (norms.length !== layers) throw new Error(`${layers} batch norms must run, got ${norms.length}`);
    const [normTime, allTime] = [timeOf(norms), timeOf(kernels)];
    return [
      NAMES[side],
      String(norms.length),
      `${normTime.toFixed(1)} ms`,
      `${(allTime - normTime).toFixed(1)} ms`,
      `${((100 * normTime) / allTime).toFixed(0)} %`,
    ];
  });
}

/** Each kernel in the round in which it was fastest: hardly any is disturbed in all of them. */
function fastest([first, ...others]: readonly Kernel[][]): Kernel[] {
  return first.map(({ name, ms }, i) => ({
    name,
    ms: Math.min(ms, ...others.map((kernels) => kernels[i].ms)),
  }));
}

function timeOf(kernels: readonly Kernel[]): number {
  return kernels.reduce((sum, { ms }) => sum + ms, 0);
}

function largest(values: Float32Array): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

function checked(difference: number): number {
  if (!(difference <= TOLERANCE))
    throw new Error(`predictions must lie within ${TOLERANCE} of each other, got ${difference}`);
  return difference;
}
