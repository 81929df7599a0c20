// batchnorm inspect: a table, JSON or a page.
import { existsSync } from 'node:fs';
import { styleText } from 'node:util';
import { loadBatchNorms, type StoredBatchNorm } from '../files/index.js';
import { replaceFile } from '../files/write.js';
import { short, table } from '../text.js';
import { pageOf } from './page.js';
import { type Range, type Report, reportOf } from './report.js';
import { progress, shown } from './table.js';
import { UsageError } from './usage.js';
import { whole } from './whole.js';

export interface InspectOptions {
  readonly strict?: boolean;
  readonly json?: boolean;
  readonly html?: string;
  readonly force?: boolean;
}

/** @returns the exit code. */
export async function inspect(
  file: string,
  other: string | undefined,
  { strict = false, json = false, html, force = false }: InspectOptions,
): Promise<number> {
  if (html !== undefined && !force && existsSync(html))
    throw new UsageError(
      `--html must name a file that is not there, got ${JSON.stringify(html)}; --force replaces it`,
    );
  const files = other === undefined ? [file] : [file, other];
  const found: ReadonlyMap<string, StoredBatchNorm>[] = [];
  for (const [i, path] of files.entries()) {
    progress('reading', i, files.length);
    found.push(await loadBatchNorms(path).catch((error) => failed(error, path, files)));
  }
  progress('reading', files.length, files.length);
  const [norms, otherNorms] = found;
  const report = reportOf(file, norms, other === undefined ? undefined : { file: other, norms: otherNorms });
  if (html !== undefined) {
    const page = new TextEncoder().encode(pageOf(report, norms, otherNorms));
    whole(() => replaceFile(html, page));
  }
  process.stdout.write(json ? `${JSON.stringify(report, numbers, 2)}\n` : textOf(report));
  return strict && report.warnings.length > 0 ? 1 : 0;
}

/** Says in which of two files something is wrong. */
function failed(error: Error & { code?: unknown }, path: string, files: readonly string[]): never {
  // Errors of the file system name it themselves.
  if (files.length === 1 || !`${error.code}`.startsWith('ERR_BATCHNORM_')) throw error;
  throw new Error(`${path}: ${error.message}`, { cause: error });
}

/** JSON has no other numbers than finite ones. */
function numbers(_key: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isFinite(value) ? `${value}` : value;
}

const range = (values: Range | undefined) =>
  values === undefined ? '-' : `${short(values.min)} … ${short(values.max)}`;

function textOf({ file, layers, warnings }: Report): string {
  if (layers.length === 0 && warnings.length === 0) return `${file} has no batch norms.\n`;
  const hasDrift = layers.some(({ drift }) => drift !== undefined);
  const head = [
    'name',
    'channels',
    'eps',
    'mean',
    'variance',
    'weight',
    'dead',
    ...(hasDrift ? ['moved by', 'ratio'] : []),
  ];
  const rows = layers.map(({ name, channels, eps, mean, variance, weight, dead, drift }) => [
    shown(name),
    `${channels}`,
    short(eps),
    range(mean),
    range(variance),
    range(weight),
    `${dead.length}`,
    ...(hasDrift ? [drift ? short(drift.mean) : '-', drift ? short(drift.variance) : '-'] : []),
  ]);
  const isColoured = process.stdout.isTTY && process.env.NO_COLOR === undefined;
  const word = isColoured ? styleText('yellow', 'warning') : 'warning';
  const lines = warnings.map(({ layer, message }) => `${word}: ${shown(layer)}: ${message}\n`);
  return `${table(head, rows)}${lines.length > 0 ? '\n' : ''}${lines.join('')}`;
}
