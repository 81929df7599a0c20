import { type Line, plotLines, trainingPlots } from '../mnist/plot.js';
import type { Section } from '../mnist/report.js';
import { type Outcome, SHARE } from './recipe.js';
import { changeByPadding, normalize, type Sequences } from './sequences.js';

export const TITLE = 'Batch normalization of data with gaps';

/** Of the pixels that test images lack. */
export const SHARES = [0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9];

/** How one network did, and its line. */
export interface Trained extends Outcome, Omit<Line, 'points'> {}

const percent = (share: number) => `${(100 * share).toFixed(2)} %`;

export function gapSections(trained: readonly Trained[], sequences: Sequences): Section[] {
  return [accuracySection(trained), statisticsSection(trained), sequenceSection(sequences)];
}

export function gapPlots(trained: readonly Trained[]): string[] {
  const [losses] = trainingPlots(trained);
  return [accuracyPlot(trained), losses];
}

function accuracySection(trained: readonly Trained[]): Section {
  return {
    heading: 'Test accuracy',
    columns: ['pixels that test images lack', ...trained.map(({ name }) => name)],
    rows: SHARES.map((share, i) => [
      `${100 * share} %`,
      ...trained.map(({ accuracies }) => percent(accuracies[i])),
    ]),
    note: [
      'Means are those of the pixels that are there, from a pass over the training images; imputing needs none before.',
      'All three normalize the input; what a gap is worth to the first is learned with the network: the bias of that batch norm.',
    ].join('\n'),
  };
}

function statisticsSection(trained: readonly Trained[]): Section {
  return {
    heading: 'Statistics of the input, beside those of whole images',
    columns: ['', 'running mean', 'running variance'],
    rows: trained.map(({ name, mean, variance }) => [
      name,
      `${mean.toFixed(3)} x`,
      `${variance.toFixed(3)} x`,
    ]),
    note: 'Over all pixels. What was filled in counts as data, and pulls them away from what whole images have.',
  };
}

function sequenceSection(sequences: Sequences): Section {
  const lengths = sequences.values.map(({ length }) => length / sequences.features);
  const steps = Math.max(...lengths);
  const row = (name: string, isMasked: boolean) => {
    const { mean, deviation } = normalize(sequences, steps, isMasked);
    const change = changeByPadding(sequences, steps, isMasked);
    return [
      name,
      Math.abs(mean).toFixed(3),
      deviation.toFixed(3),
      change === 0 ? '0' : change.toPrecision(2),
    ];
  };
  return {
    heading: 'Padded sequences',
    columns: ['', 'mean of y', 'deviation of y', 'change when padded twice as far'],
    rows: [row('weights: maskOf(lengths)', true), row('padding counts', false)],
    note: `${lengths.length} digits, column after column: ${Math.min(...lengths)} to ${steps} steps. Mean and deviation are those of the steps that are there, and should be 0 and, where all features vary, 1.`,
  };
}

function accuracyPlot(trained: readonly Trained[]): string {
  const lines = trained.map(({ name, color, isDashed, accuracies }): Line => {
    const points = SHARES.map((share, i) => ({ x: 100 * share, y: 100 * accuracies[i] }));
    return { name, color, isDashed, points };
  });
  return plotLines(
    'Test accuracy (in %)',
    lines,
    {
      label: 'pixels that test images lack, in %',
      domain: [0, 90],
      ticks: SHARES.map((share) => 100 * share),
    },
    { domain: [0, 100] },
  );
}

/** What the trainings say, in the words of their outcomes. */
export function conclusion(trained: readonly Trained[]): string {
  const at = (share: number) => {
    const i = SHARES.indexOf(share);
    const [impute, mean, zero] = trained.map(({ accuracies }) => percent(accuracies[i]));
    return `${impute} with missing: 'impute', ${mean} with gaps filled with means, ${zero} with zeros`;
  };
  return `Trained on images that lack ${100 * SHARE} % of their pixels, of test images that lack as many the network gets right: ${at(SHARE)}. Of those that lack 75 %: ${at(0.75)}.`;
}
