// The examples of all pages, among them those of the doc comments, as a reader would put them into files.
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { examples } from '../../scripts/pages.js';

interface Outcome {
  printed: string[];
  /** The stack of what it threw. */
  error?: string;
}

/** Inside the package, which finds itself and what is installed beside it from there. */
const parent = resolve('build');
mkdirSync(parent, { recursive: true });
const folder = mkdtempSync(join(parent, 'examples-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Types are checked by scripts/check-pages.ts. */
const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };

/** Runs each in a module of its own, all of them in one process. */
const runner = `
  import { format } from 'node:util';
  let printed;
  console.log = (...values) => printed.push(format(...values));
  console.warn = () => {}; // TensorFlow.js greets with it; warnings of Node do not come this way
  const outcomes = [];
  for (const file of JSON.parse(process.argv[2])) {
    printed = [];
    const error = await import(file).then(() => undefined, (error) => String(error?.stack ?? error));
    outcomes.push({ printed, error });
  }
  process.stdout.write(JSON.stringify(outcomes));`;

/** Without the spaces with which Node sets brackets apart. */
function compact(text: string): string {
  return text.replace(/(?<=[[{]) | (?=[\]}])/g, '');
}

describe('the examples of the pages', () => {
  const all = examples();
  let outcomes: Outcome[];

  beforeAll(() => {
    writeFileSync(join(folder, 'runner.mjs'), runner);
    copyFileSync('test/fixtures/files/torch-float32.safetensors', join(folder, 'model.safetensors'));
    const files = all.map(({ code }, i) => {
      writeFileSync(join(folder, `${i}.mjs`), ts.transpileModule(code, { compilerOptions }).outputText);
      return `./${i}.mjs`;
    });
    const { stdout, stderr } = spawnSync(
      process.execPath,
      [join(folder, 'runner.mjs'), JSON.stringify(files)],
      { cwd: folder, encoding: 'utf8' },
    );
    expect(stderr).toBe('');
    outcomes = JSON.parse(stdout) as Outcome[];
  });

  it('are found in the README, the reference and the other pages', () => {
    for (const page of [
      'README.md',
      'docs/api/',
      'docs/coming-from.md',
      'docs/statistics.md',
      'docs/batches.md',
      'docs/weights.md',
    ])
      expect(all.filter(({ name }) => name.startsWith(page)).length, page).toBeGreaterThanOrEqual(2);
  });

  it.each(all.map(({ name, prints }, i) => [name, prints, i] as const))('%s', (_, prints, i) => {
    const { printed, error } = outcomes[i];
    expect({ printed: printed.map(compact), error }).toEqual({ printed: prints.map(compact) });
  });
});
