import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { resultsFile } from '../../bench/report/file.js';

describe('results of the benchmark', () => {
  let folder: string;
  const nameOf = (part: string, machine: string) =>
    resultsFile(pathToFileURL(`${folder}/`), part, machine)
      .pathname.split('/')
      .at(-1);

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'results-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it('are written where none are', () => {
    expect(nameOf('-float64', 'AMD EPYC, 2 CPUs, Node v20, avx512')).toBe('RESULTS-float64.md');
  });

  it('take the place of those of the same CPU, and lie beside those of another', () => {
    writeFileSync(
      join(folder, 'RESULTS.md'),
      '# Results\n\n2026-11-27, AMD EPYC, 2 CPUs, Node v20, avx512\n',
    );
    expect(nameOf('', 'AMD EPYC, 8 CPUs, Node v22, avx2')).toBe('RESULTS.md');
    expect(nameOf('', 'Intel(R) Xeon(R) Gold 6226R CPU @ 2.90GHz, 2 CPUs, Node v20, avx2')).toBe(
      'RESULTS-intel-xeon-gold-6226r-cpu.md',
    );
  });
});
