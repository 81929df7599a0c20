// Arrays that begin where their values should not: over an external ArrayBuffer of another addon, as one over a mapped file.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, describe, expect } from 'vitest';
import { holds } from '../support/fuzz.js';

const pathOf = (file: string) => fileURLToPath(new URL(file, import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** The addon, or undefined where there is no compiler for it. */
function compile(): string | undefined {
  const addon = join(folder, 'misaligned.node');
  // A sanitizer that is preloaded is for the addon that is tested.
  const { LD_PRELOAD: _, ...env } = process.env;
  const headers = fileURLToPath(new URL('../../node_modules/node-api-headers/include', import.meta.url));
  const flags = process.platform === 'darwin' ? ['-undefined', 'dynamic_lookup'] : [];
  for (const compiler of ['gcc', 'clang', 'cc']) {
    try {
      const args = ['-O1', '-shared', '-fPIC', ...flags, '-I', headers, '-o', addon, pathOf('misaligned.c')];
      execFileSync(compiler, args, { env, stdio: 'pipe' });
      return addon;
    } catch {}
  }
  console.log('misaligned.test.ts is skipped: no gcc, clang or cc makes the addon that it needs');
  return undefined;
}

const addon = compile();

describe.runIf(addon !== undefined)('arrays at odd addresses', () => {
  // Streaming stores fault where others do not.
  for (const [title, streamBytes] of [
    ['cached', ''],
    ['streamed', '0'],
  ])
    holds(`give the same results or an error that names them: ${title}`, 1, () =>
      fc.property(fc.noShrink(fc.nat(2 ** 31 - 1)), (seed) => {
        const args = ['--expose-gc', pathOf('misaligned.mjs'), addon as string, String(seed), '150'];
        const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
          env: { ...process.env, BATCHNORM_STREAM_BYTES: streamBytes },
          encoding: 'utf8',
          maxBuffer: 2 ** 28,
        });
        const last = stdout.trimEnd().split('\n').at(-1);
        expect({ status, signal, stderr, last }, `seed ${seed}`).toEqual({
          status: 0,
          signal: null,
          stderr: '',
          last: 'right',
        });
        return true;
      }),
    );
});
