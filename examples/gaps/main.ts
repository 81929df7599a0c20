/**
 * Trains a small network on MNIST whose images lack 30 % of their pixels, with a batch norm that imputes them and with two
 * that never see a gap, and looks at test images that lack none to nearly all. Then normalizes sequences of different lengths,
 * with a mask and without.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { capabilities } from 'batchnorm';
import { head, readMnist } from '../mnist/data.js';
import { type Line, plotLines, svgDocument, trainingPlots } from '../mnist/plot.js';
import { grouped, renderPage, renderText, type Section } from '../mnist/report.js';
import { BATCH } from '../mnist/train.js';
import { integer, optionsOrExit } from '../options.js';
import { HIDDEN } from './network.js';
import { LEARNING_RATE, MOMENTUM, type Outcome, SHARE, type Treatment, trainWithGaps } from './recipe.js';
import { changeByPadding, columnsOf, normalize } from './sequences.js';

const VARIANTS = [
  { treatment: 'impute', name: "missing: 'impute'", color: 'first' },
  { treatment: 'mean', name: 'filled with means', color: 'second', isDashed: true },
  { treatment: 'zero', name: 'filled with zeros', color: 'third' },
] as const satisfies (Omit<Line, 'points'> & { treatment: Treatment })[];

/** Of the pixels that test images lack. */
const SHARES = [0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9];

const USAGE = `Usage: npm run gaps -- [options]

  --quick       10,000 training images, 2,000 test images
  --epochs <n>  passes over the training images (default 2)
  --seed <n>    seed of the weights, of the order of the images and of their gaps (default 1)
  --out <dir>   where gaps.svg and gaps.html are written (default out/)
  --help        this text`;

interface Options {
  readonly quick: boolean;
  readonly epochs: number;
  readonly seed: number;
  readonly out: string;
}

function readOptions(): Options | 'help' {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      epochs: { type: 'string', default: '2' },
      seed: { type: 'string', default: '1' },
      out: { type: 'string', default: 'out/' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  return {
    quick: values.quick,
    epochs: integer('--epochs', values.epochs, 1, 1000),
    seed: integer('--seed', values.seed, 0, 2 ** 31),
    out: values.out,
  };
}

interface Trained extends Outcome, Omit<Line, 'points'> {}

const percent = (share: number) => `${(100 * share).toFixed(2)} %`;

function main({ quick, epochs, seed, out }: Options): void {
  const started = performance.now();
  const all = readMnist('train');
  const digits = quick ? head(all, 10_000) : all;
  const allTest = readMnist('t10k');
  const test = quick ? head(allTest, 2000) : allTest;
  const { backend, isa, threads, version } = capabilities();
  const detail = backend === 'wasm' ? 'WebAssembly' : `native, ${isa}`;
  const facts: [string, string][] = [
    ['data', `MNIST, ${grouped(digits.count)} training images, ${grouped(test.count)} test images`],
    ['gaps', `${100 * SHARE} % of the pixels of each training image, others in each`],
    ['network', `batch norm, ${digits.pixels}-${HIDDEN}-10, ReLU, batches of ${BATCH}`],
    ['training', `epochs: ${epochs}, momentum ${MOMENTUM}, learning rate ${LEARNING_RATE}, falls to 0`],
    ['seed', String(seed)],
    ['library', `batchnorm ${version}: ${detail}, ${threads === 1 ? '1 thread' : `${threads} threads`}`],
    ['machine', `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, Node.js ${process.version}`],
  ];
  for (const [name, value] of facts) console.log(`${name.padEnd(9)} ${value}`);
  console.log();

  const trained = VARIANTS.map(({ treatment, ...line }): Trained => {
    const run = { digits, test, epochs, seed, shares: SHARES };
    return { ...line, ...trainWithGaps(line.name.padEnd(18), treatment, run) };
  });
  const sections = [accuracySection(trained), statisticsSection(trained), sequenceSection(head(test, BATCH))];
  const lead = conclusion(trained);
  for (const section of sections) console.log(`\n${renderText(section)}`);
  console.log(`\n${lead}`);

  const title = 'Batch normalization of data with gaps';
  const plots = [accuracyPlot(trained), trainingPlots(trained)[0]];
  const origin: [string, string][] = [
    ['date', new Date().toISOString().slice(0, 10)],
    ['command', `npm run gaps -- ${quick ? '--quick ' : ''}--epochs ${epochs} --seed ${seed}`],
  ];
  mkdirSync(out, { recursive: true });
  const files = { svg: join(out, 'gaps.svg'), html: join(out, 'gaps.html') };
  writeFileSync(files.svg, svgDocument(title, plots));
  writeFileSync(files.html, renderPage(title, lead, plots, sections, [...facts, ...origin]));
  const seconds = (performance.now() - started) / 1000;
  console.log(`\nWrote ${files.svg} and ${files.html}; ${seconds.toFixed(1)} s in all.`);
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

function sequenceSection(digits: Parameters<typeof columnsOf>[0]): Section {
  const sequences = columnsOf(digits);
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
    note: `${digits.count} digits, column after column: ${Math.min(...lengths)} to ${steps} steps. Mean and deviation are those of the steps that are there, and should be 0 and, where all features vary, 1.`,
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
function conclusion(trained: readonly Trained[]): string {
  const at = (share: number) => {
    const i = SHARES.indexOf(share);
    const [impute, mean, zero] = trained.map(({ accuracies }) => percent(accuracies[i]));
    return `${impute} with missing: 'impute', ${mean} with gaps filled with means, ${zero} with zeros`;
  };
  return `Trained on images that lack ${100 * SHARE} % of their pixels, of test images that lack as many the network gets right: ${at(SHARE)}. Of those that lack 75 %: ${at(0.75)}.`;
}

main(optionsOrExit(USAGE, readOptions));
