/**
 * Trains a small network on MNIST twice from the same seed, with and without batch normalization, then
 * freezes the batch norm layers, classifies the test images, and times batch norm against plain JavaScript.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { capabilities } from 'batchnorm';
import { integer, optionsOrExit } from '../options.js';
import { saveNetwork } from './checkpoint.js';
import { head, readMnist } from './data.js';
import { type Curve, lossPlot } from './plot.js';
import { LEARNING_RATE, MOMENTUM, SIZES, trainNetwork } from './recipe.js';
import {
  grouped,
  type Outcome,
  outcomeSection,
  renderPage,
  renderText,
  type Section,
  timeSection,
} from './report.js';
import { compareTimes } from './timing.js';
import { accuracy, BATCH, batches } from './train.js';

const VARIANTS = [
  { name: 'with batch norm', batchNorm: true, color: '#0b6e99' },
  { name: 'without', batchNorm: false, color: '#c2571a' },
];

const USAGE = `Usage: npm start -- [options]

  --quick       10,000 training images, two epochs
  --epochs <n>  passes over the training images (default 6)
  --seed <n>    seed of the weights and of the order of the images (default 1)
  --out <dir>   where mnist.svg, mnist.html and mnist.safetensors are written (default out/)
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
      epochs: { type: 'string' },
      seed: { type: 'string', default: '1' },
      out: { type: 'string', default: 'out/' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  return {
    quick: values.quick,
    epochs: integer('--epochs', values.epochs ?? (values.quick ? '2' : '6'), 1, 1000),
    seed: integer('--seed', values.seed, 0, 2 ** 32 - 1),
    out: values.out,
  };
}

function main({ quick, epochs, seed, out }: Options): void {
  const started = performance.now();
  const all = readMnist('train');
  const digits = quick ? head(all, 10_000) : all;
  const test = readMnist('t10k');
  const { backend, isa, threads, version } = capabilities();
  const detail = backend === 'wasm' ? 'WebAssembly' : `native, ${isa}`;
  const library = `batchnorm ${version}: ${detail}, ${threads === 1 ? '1 thread' : `${threads} threads`}`;
  const facts: [string, string][] = [
    ['data', `MNIST, ${grouped(digits.count)} training images, ${grouped(test.count)} test images`],
    ['network', `${SIZES.join('-')}, ReLU, batches of ${BATCH}`],
    ['training', `epochs: ${epochs}, momentum ${MOMENTUM}, learning rate ${LEARNING_RATE} falling to 0`],
    ['seed', String(seed)],
    ['library', library],
    ['machine', `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, Node.js ${process.version}`],
  ];
  for (const [name, value] of facts) console.log(`${name.padEnd(9)} ${value}`);
  console.log();

  const runs = VARIANTS.map((variant) => {
    const begun = performance.now();
    const { network, history } = trainNetwork(variant.name.padEnd(15), variant.batchNorm, {
      digits,
      epochs,
      seed,
    });
    const seconds = (performance.now() - begun) / 1000;
    return { variant, network, stages: network.freeze(), history, seconds };
  });

  const outcomes = runs.map(({ variant, stages, history, seconds }): Outcome => {
    const { losses, stepsPerEpoch } = history;
    const last = losses.subarray(-stepsPerEpoch);
    return {
      name: variant.name,
      accuracy: accuracy(stages, test),
      finalLoss: last.reduce((sum, loss) => sum + loss) / last.length,
      seconds,
    };
  });
  const normalized = runs[0];
  const [batch] = batches(test);
  const comparisons = compareTimes(normalized.network, normalized.stages, batch.x);
  const sections: Section[] = [
    outcomeSection(outcomes, test.count),
    timeSection(comparisons, backend, BATCH),
  ];
  for (const section of sections) console.log(`\n${renderText(section)}`);

  const title = 'MNIST with and without batch normalization';
  const curves = runs.map(({ variant, history }): Curve => ({ ...variant, history }));
  const svg = lossPlot(title, curves);
  const command = `npm start -- ${quick ? '--quick ' : ''}--epochs ${epochs} --seed ${seed}`;
  const origin: [string, string][] = [
    ['date', new Date().toISOString().slice(0, 10)],
    ['command', command],
  ];
  mkdirSync(out, { recursive: true });
  const files = {
    svg: join(out, 'mnist.svg'),
    html: join(out, 'mnist.html'),
    model: join(out, 'mnist.safetensors'),
  };
  writeFileSync(files.svg, svg);
  writeFileSync(files.html, renderPage(title, svg, sections, [...facts, ...origin]));
  saveNetwork(
    files.model,
    normalized.network,
    new Map([
      ['format', 'pt'],
      ['command', command],
      ['test_accuracy', String(outcomes[0].accuracy)],
    ]),
  );
  const seconds = (performance.now() - started) / 1000;
  console.log(`\nWrote ${files.svg}, ${files.html} and ${files.model}; ${seconds.toFixed(1)} s in all.`);
}

main(optionsOrExit(USAGE, readOptions));
