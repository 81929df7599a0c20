/**
 * Trains a small network on MNIST from the same seed with and without batch normalization, at a learning rate that only
 * the one with it can bear, and without it at the rate that suits it best. Then freezes the batch norm layers, classifies
 * the test images, and times batch norm against plain JavaScript.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { capabilities } from 'batchnorm';
import { integer, optionsOrExit } from '../options.js';
import { pathWithout, saveNetwork } from './checkpoint.js';
import { head, readMnist } from './data.js';
import { measureMonitor, monitorSection, type Watch, watchNetwork } from './monitoring.js';
import type { Network } from './network.js';
import { noiseNote } from './noise.js';
import { type Curve, svgDocument, trainingPlots } from './plot.js';
import { HIGH_LEARNING_RATE, LEARNING_RATE, MOMENTUM, SIZES, trainNetwork } from './recipe.js';
import {
  grouped,
  type Outcome,
  outcomeSection,
  renderPage,
  renderText,
  type Section,
  timeSection,
} from './report.js';
import { type Storage, storageNamed } from './storage.js';
import { compareTimes } from './timing.js';
import { accuracy, BATCH, batches } from './train.js';

const VARIANTS = [
  { norm: 'with batch norm', batchNorm: true, learningRate: HIGH_LEARNING_RATE, color: 'first' },
  { norm: 'without', batchNorm: false, learningRate: HIGH_LEARNING_RATE, color: 'second' },
  { norm: 'without', batchNorm: false, learningRate: LEARNING_RATE, color: 'third' },
] as const;

const USAGE = `Usage: npm start -- [options]

  --quick       10,000 training images, two epochs
  --epochs <n>  passes over the training images (default 4)
  --seed <n>    seed of the weights and of the order of the images (default 1)
  --dtype <d>   how the activations of batch norms are stored: float32 (default) or bfloat16, in half the bytes
  --monitor     watch the batch norms while they learn: a table, monitor.html and monitor.jsonl in <dir>, and what it costs
  --out <dir>   where mnist.svg, mnist.html and the networks are written (default out/)
  --help        this text`;

interface Options {
  readonly quick: boolean;
  readonly epochs: number;
  readonly seed: number;
  readonly out: string;
  readonly dtype: Storage;
  readonly monitor: boolean;
}

function readOptions(): Options | 'help' {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      epochs: { type: 'string' },
      seed: { type: 'string', default: '1' },
      dtype: { type: 'string', default: 'float32' },
      monitor: { type: 'boolean', default: false },
      out: { type: 'string', default: 'out/' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  return {
    quick: values.quick,
    epochs: integer('--epochs', values.epochs ?? (values.quick ? '2' : '4'), 1, 1000),
    seed: integer('--seed', values.seed, 0, 2 ** 32 - 1),
    out: values.out,
    dtype: storageNamed(values.dtype),
    monitor: values.monitor,
  };
}

function main({ quick, epochs, seed, out, dtype, monitor }: Options): void {
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
    ['training', `epochs: ${epochs}, momentum ${MOMENTUM}, learning rates fall to 0`],
    ['seed', String(seed)],
    ['storage', `${dtype} of what batch norms take and give`],
    ['library', library],
    ['machine', `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, Node.js ${process.version}`],
  ];
  for (const [name, value] of facts) console.log(`${name.padEnd(9)} ${value}`);
  console.log();

  const watches: Watch[] = [];
  const watch = (network: Network) => {
    const watched = watchNetwork(network, { folder: out, title: 'Batch norms of the digit network' });
    watches.push(watched);
    return watched.step;
  };
  const runs = VARIANTS.map(({ norm, color, ...variant }) => {
    const name = `${norm}, rate ${variant.learningRate}`;
    const begun = performance.now();
    const cpuBegun = process.cpuUsage();
    const { network, history } = trainNetwork(name.padEnd(25), {
      ...variant,
      digits,
      epochs,
      seed,
      dtype,
      ...(monitor && variant.batchNorm && { watch }),
    });
    const cpu = process.cpuUsage(cpuBegun);
    const seconds = (performance.now() - begun) / 1000;
    const cpuSeconds = (cpu.user + cpu.system) / 1e6;
    return { name, color, network, stages: network.freeze(), history, seconds, cpuSeconds };
  });

  const outcomes = runs.map(({ name, stages, history, seconds, cpuSeconds }): Outcome => {
    const { losses, stepsPerEpoch } = history;
    const last = losses.subarray(-stepsPerEpoch);
    return {
      name,
      accuracy: accuracy(stages, test),
      finalLoss: last.reduce((sum, loss) => sum + loss) / last.length,
      seconds,
      cpuSeconds,
    };
  });
  const normalized = runs[0];
  const [batch] = batches(test);
  const comparisons = compareTimes(normalized.network, normalized.stages, batch.x);
  const sections: Section[] = [
    outcomeSection(outcomes, test.count),
    timeSection(comparisons, { library: backend, batch: BATCH, noise: noiseNote(outcomes, comparisons) }),
  ];
  if (monitor) sections.push(monitorSection(measureMonitor(digits, HIGH_LEARNING_RATE, seed, dtype)));
  const lead = conclusion(outcomes);
  for (const section of sections) console.log(`\n${renderText(section)}`);
  for (const { monitor: watched } of watches) {
    watched.close();
    console.log(`\n${watched.table()}`);
  }
  console.log(`\n${lead}`);

  const title = 'MNIST with and without batch normalization';
  const curves = runs.map(({ name, color, history }): Curve => ({ name, color, history }));
  const plots = trainingPlots(curves);
  const command = `npm start -- ${quick ? '--quick ' : ''}--epochs ${epochs} --seed ${seed}${dtype === 'float32' ? '' : ` --dtype ${dtype}`}${monitor ? ' --monitor' : ''}`;
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
  writeFileSync(files.svg, svgDocument(title, plots));
  writeFileSync(files.html, renderPage(title, lead, plots, sections, [...facts, ...origin]));
  // The server shows the two beside each other: from the same weights, at the same rate.
  for (const [i, path] of [files.model, pathWithout(files.model)].entries()) {
    const metadata = new Map([
      ['format', 'pt'],
      ['command', command],
      ['test_accuracy', String(outcomes[i].accuracy)],
    ]);
    saveNetwork(path, runs[i].network, metadata);
  }
  const seconds = (performance.now() - started) / 1000;
  if (monitor) console.log(`\nThe batch norms, step by step: ${join(out, 'monitor.html')}`);
  console.log(`\nWrote ${files.svg}, ${files.html} and ${files.model}; ${seconds.toFixed(1)} s in all.`);
}

/** What the trainings say of batch norm, in the words of their outcomes. */
function conclusion([normalized, without, slower]: readonly Outcome[]): string {
  const percent = ({ accuracy }: Outcome) => `${(100 * accuracy).toFixed(2)} %`;
  const start = 'the same first weights and the same images in the same order';
  return `From ${start}, at learning rate ${HIGH_LEARNING_RATE} the network with batch norm gets ${percent(normalized)} of the test images right, without it ${percent(without)}. Without batch norm the rate has to be found: at ${LEARNING_RATE}, the best of those tried, it gets ${percent(slower)}.`;
}

main(optionsOrExit(USAGE, readOptions));
