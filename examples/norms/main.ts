/**
 * Trains the network of examples/mnist with each normalization, and without, in batches of 2, 8, 32 and 128 images: what it gets right
 * of the test images, and what that takes.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { capabilities } from 'batchnorm';
import { head, readMnist } from '../mnist/data.js';
import { type Line, svgDocument } from '../mnist/plot.js';
import { LEARNING_RATE, MOMENTUM, SIZES } from '../mnist/recipe.js';
import { grouped, renderPage, renderText } from '../mnist/report.js';
import { BATCH } from '../mnist/train.js';
import { integer, optionsOrExit } from '../options.js';
import { GROUPS, type NormName } from './network.js';
import { BATCH_SIZES, trainWithNorm } from './recipe.js';
import { conclusion, normPlots, normSections, TITLE, type Trained } from './report.js';

const VARIANTS = [
  { norm: 'none', name: 'none', color: 'sixth', isDashed: true },
  { norm: 'batch', name: 'batch norm', color: 'second' },
  { norm: 'group', name: 'group norm', color: 'first' },
  { norm: 'layer', name: 'layer norm', color: 'third' },
  { norm: 'rms', name: 'RMS norm', color: 'fourth' },
  { norm: 'instance', name: 'instance norm', color: 'fifth', isDashed: true },
] as const satisfies (Omit<Line, 'points'> & { norm: NormName })[];

const USAGE = `Usage: npm run norms -- [options]

  --quick       2,000 training images, 1,000 test images, one epoch
  --images <n>  training images, the first of MNIST (default 20000)
  --epochs <n>  passes over them (default 2)
  --seed <n>    seed of the weights and of the order of the images (default 1)
  --out <dir>   where norms.svg and norms.html are written (default out/)
  --help        this text`;

interface Options {
  readonly quick: boolean;
  readonly images: number;
  readonly epochs: number;
  readonly seed: number;
  readonly out: string;
}

function readOptions(): Options | 'help' {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      images: { type: 'string' },
      epochs: { type: 'string' },
      seed: { type: 'string', default: '1' },
      out: { type: 'string', default: 'out/' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  const { quick, seed, out } = values;
  return {
    quick,
    images: integer('--images', values.images ?? (quick ? '2000' : '20000'), 128, 60_000),
    epochs: integer('--epochs', values.epochs ?? (quick ? '1' : '2'), 1, 1000),
    seed: integer('--seed', seed, 0, 2 ** 32 - 1),
    out,
  };
}

function main({ quick, images, epochs, seed, out }: Options): void {
  const started = performance.now();
  const digits = head(readMnist('train'), images);
  const allTest = readMnist('t10k');
  const test = quick ? head(allTest, 1000) : allTest;
  const { backend, isa, threads, version } = capabilities();
  const detail = backend === 'wasm' ? 'WebAssembly' : `native, ${isa}`;
  const facts: [string, string][] = [
    ['data', `MNIST, ${grouped(digits.count)} training images, ${grouped(test.count)} test images`],
    ['network', `${SIZES.join('-')}, ReLU; ${GROUPS} groups of group norm`],
    [
      'training',
      `epochs: ${epochs}, momentum ${MOMENTUM}, learning rate ${LEARNING_RATE} x batch / ${BATCH}, falls to 0`,
    ],
    ['seed', String(seed)],
    ['library', `batchnorm ${version}: ${detail}, ${threads === 1 ? '1 thread' : `${threads} threads`}`],
    ['machine', `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, Node.js ${process.version}`],
  ];
  for (const [name, value] of facts) console.log(`${name.padEnd(9)} ${value}`);
  console.log();

  const run = { digits, test, epochs, seed };
  // The first training would pay for compiling what all of them use.
  trainWithNorm('warming up'.padEnd(28), 'batch', 128, { ...run, digits: head(digits, 128), epochs: 1 });
  const trained = VARIANTS.map(
    ({ norm, ...line }): Trained => ({
      ...line,
      norm,
      outcomes: BATCH_SIZES.map((batch) =>
        trainWithNorm(`${line.name}, batches of ${batch}`.padEnd(28), norm, batch, run),
      ),
    }),
  );
  const sections = normSections(trained);
  const lead = conclusion(trained);
  for (const section of sections) console.log(`\n${renderText(section)}`);
  console.log(`\n${lead}`);

  const plots = normPlots(trained);
  const origin: [string, string][] = [
    ['date', new Date().toISOString().slice(0, 10)],
    [
      'command',
      `npm run norms -- ${quick ? '--quick ' : ''}--images ${images} --epochs ${epochs} --seed ${seed}`,
    ],
  ];
  mkdirSync(out, { recursive: true });
  const files = { svg: join(out, 'norms.svg'), html: join(out, 'norms.html') };
  writeFileSync(files.svg, svgDocument(TITLE, plots));
  writeFileSync(files.html, renderPage(TITLE, lead, plots, sections, [...facts, ...origin]));
  const took = (performance.now() - started) / 1000;
  console.log(`\nWrote ${files.svg} and ${files.html}; ${took.toFixed(1)} s in all.`);
}

main(optionsOrExit(USAGE, readOptions));
