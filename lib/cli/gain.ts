// batchnorm gain: what batch norms cost a prediction of TensorFlow.js, and what this library does about it.

import { table } from '../text.js';
import { fold, install, uninstall } from '../tfjs/index.js';
import { shown } from './table.js';
import {
  inputsFor,
  loadModel,
  loadTensorFlow,
  measure,
  milliseconds,
  predict,
  type Times,
} from './tensorflow.js';

export interface GainOptions {
  readonly shape?: readonly string[];
  readonly json?: boolean;
}

type Side = 'stock' | 'install' | 'folded';

interface Gain {
  /** Of the time of all kernels, those of batch norms, in percent. */
  readonly share: number;
  readonly times: Record<Side, Times>;
}

/** @returns the exit code. */
export async function gain(file: string, { shape, json = false }: GainOptions): Promise<number> {
  const { tf, backends } = await loadTensorFlow();
  const model = await loadModel(tf, file);
  const { model: folded, folded: count, left } = fold(model);
  if (count === 0 && left.length === 0) {
    process.stdout.write(
      json ? `${JSON.stringify({ file, folded: 0, left })}\n` : `${file} has no batch norms.\n`,
    );
    return 0;
  }
  const inputs = inputsFor(tf, model, shape);
  const gains: Record<string, Gain> = {};
  for (const backend of backends) {
    await tf.setBackend(backend);
    const sides = {
      stock: () => {
        uninstall();
        return model;
      },
      install: () => {
        install(tf);
        return model;
      },
      folded: () => {
        uninstall();
        return folded;
      },
    };
    const times = measure(`predicting on ${backend}`, sides, inputs);
    uninstall();
    const { kernels } = await tf.profile(() => {
      predict(model, inputs);
    });
    let all = 0;
    let norms = 0;
    for (const { name, kernelTimeMs } of kernels) {
      const time = Number(kernelTimeMs);
      if (!Number.isFinite(time)) continue;
      all += time;
      if (name === 'FusedBatchNorm') norms += time;
    }
    gains[backend] = { share: (100 * norms) / all, times };
  }
  if (json) {
    process.stdout.write(`${JSON.stringify({ file, folded: count, left, gains }, null, 2)}\n`);
    return 0;
  }
  const rows = Object.entries(gains).map(([backend, { share, times }]) => [
    backend,
    `${share.toFixed(0)} %`,
    ...(['stock', 'install', 'folded'] as const).map((side) => milliseconds(times[side].median)),
    `${(times.stock.median / times.install.median).toFixed(2)} times`,
    `${(times.stock.median / times.folded.median).toFixed(2)} times`,
  ]);
  process.stdout.write(
    table(['backend', 'batch norms', 'TensorFlow.js', 'install', 'folded', 'install is', 'folded is'], rows),
  );
  process.stdout.write(`${count} batch norms can be folded, ${left.length} cannot.\n`);
  for (const { layer, reason } of left) process.stdout.write(`left: ${shown(layer)}: ${reason}\n`);
  return 0;
}
