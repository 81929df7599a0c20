/**
 * Models of TensorFlow.js with its own batch norm and with this library's: the same results, how fast they come, and
 * what was wrong.
 */

import { cpus, loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { capabilities } from 'batchnorm';
import { renderText, type Section } from '../mnist/report.js';
import { integer, optionsOrExit } from '../options.js';
import { showFaults } from './faults.js';
import { compareInference } from './inference.js';
import { tf } from './tensorflow.js';
import { compareTraining, MOST_STEPS } from './training.js';

const PARTS = ['faults', 'inference', 'training'] as const;

type Part = (typeof PARTS)[number];

const USAGE = `Usage: npm run tfjs -- [part ...] [options]

  faults        what TensorFlow.js' batch norm gets wrong
  inference     MobileNetV2 looks at photographs, on wasm
  training      a small convolutional network learns MNIST, on cpu
                (without a part: all of them)

  --quick       few rounds and steps: whether results are the same, not how fast they come
  --batch <n>   photographs at a time; may be given again (default 1 and 8)
  --rounds <n>  measurements of each side (default 21)
  --steps <n>   training steps of 100 images, up to ${MOST_STEPS} (default ${MOST_STEPS})
  --help        this text`;

interface Options {
  readonly parts: readonly Part[];
  readonly batches: readonly number[];
  readonly rounds: number;
  readonly steps: number;
}

function readOptions(): Options | 'help' {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      quick: { type: 'boolean', default: false },
      batch: { type: 'string', multiple: true, default: ['1', '8'] },
      rounds: { type: 'string' },
      steps: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  for (const name of positionals) {
    if (!PARTS.some((part) => part === name))
      throw new RangeError(`a part must be one of ${PARTS.join(', ')}, got ${name}`);
  }
  return {
    parts: PARTS.filter((part) => positionals.length === 0 || positionals.includes(part)),
    batches: values.batch.map((text) => integer('--batch', text, 1, 64)),
    rounds: integer('--rounds', values.rounds ?? (values.quick ? '3' : '21'), 1, 1000),
    steps: integer('--steps', values.steps ?? (values.quick ? '4' : String(MOST_STEPS)), 1, MOST_STEPS),
  };
}

function compare(part: Part, options: Options): Promise<Section[]> {
  switch (part) {
    case 'faults':
      return showFaults();
    case 'inference':
      return compareInference(options);
    case 'training':
      return compareTraining(options);
  }
}

async function main(options: Options): Promise<void> {
  const started = performance.now();
  const { backend, isa, threads, version } = capabilities();
  const detail = backend === 'wasm' ? 'WebAssembly' : `native, ${isa}`;
  const load = loadavg()[0].toFixed(1);
  console.log(`library  batchnorm ${version}: ${detail}, threads: ${threads}`);
  console.log(`against  TensorFlow.js ${tf.version.tfjs}`);
  console.log(`machine  ${cpus().length} x ${cpus()[0]?.model.trim() ?? 'unknown CPU'}, load ${load}`);
  console.log(`runtime  Node.js ${process.version}`);
  for (const part of options.parts) {
    console.log();
    for (const section of await compare(part, options)) console.log(`${renderText(section)}\n`);
  }
  console.log(`${((performance.now() - started) / 1000).toFixed(0)} s in all.`);
}

await main(optionsOrExit(USAGE, readOptions));
