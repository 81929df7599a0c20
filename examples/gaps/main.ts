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
import { type Line, svgDocument } from '../mnist/plot.js';
import { grouped, renderPage, renderText } from '../mnist/report.js';
import { BATCH } from '../mnist/train.js';
import { integer, optionsOrExit } from '../options.js';
import { HIDDEN } from './network.js';
import { LEARNING_RATE, MOMENTUM, SHARE, type Treatment, trainWithGaps } from './recipe.js';
import { conclusion, gapPlots, gapSections, SHARES, TITLE, type Trained } from './report.js';
import { columnsOf } from './sequences.js';

const VARIANTS = [
  { treatment: 'impute', name: "missing: 'impute'", color: 'first' },
  { treatment: 'mean', name: 'filled with means', color: 'second', isDashed: true },
  { treatment: 'zero', name: 'filled with zeros', color: 'third' },
] as const satisfies (Omit<Line, 'points'> & { treatment: Treatment })[];

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
  const sections = gapSections(trained, columnsOf(head(test, BATCH)));
  const lead = conclusion(trained);
  for (const section of sections) console.log(`\n${renderText(section)}`);
  console.log(`\n${lead}`);

  const plots = gapPlots(trained);
  const origin: [string, string][] = [
    ['date', new Date().toISOString().slice(0, 10)],
    ['command', `npm run gaps -- ${quick ? '--quick ' : ''}--epochs ${epochs} --seed ${seed}`],
  ];
  mkdirSync(out, { recursive: true });
  const files = { svg: join(out, 'gaps.svg'), html: join(out, 'gaps.html') };
  writeFileSync(files.svg, svgDocument(TITLE, plots));
  writeFileSync(files.html, renderPage(TITLE, lead, plots, sections, [...facts, ...origin]));
  const seconds = (performance.now() - started) / 1000;
  console.log(`\nWrote ${files.svg} and ${files.html}; ${seconds.toFixed(1)} s in all.`);
}

main(optionsOrExit(USAGE, readOptions));
