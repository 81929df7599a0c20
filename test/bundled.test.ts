// The library in a bundle, which does not bring the binary along.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build, type Format } from 'esbuild';
import { afterAll, describe, expect, it } from 'vitest';
import { wasmBytes } from '../lib/backend/wasm-bytes.js';
import { version } from '../lib/version.js';

const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
afterAll(() => rmSync(folder, { recursive: true }));

const program = `
  import { BatchNorm, capabilities } from 'batchnorm';
  const { data } = new BatchNorm(2, { eps: 1e-300, dtype: 'float64' }).forward({ data: Float64Array.of(1, 2, 3, 4), shape: [2, 2] });
  console.log(capabilities().backend, capabilities().version, data.join());`;

async function runBundled(format: Format) {
  const entry = join(folder, 'main.mjs');
  const outfile = join(folder, format === 'cjs' ? 'bundle.cjs' : 'bundle.mjs');
  writeFileSync(entry, program);
  await build({
    entryPoints: [entry],
    bundle: true,
    platform: 'node',
    format,
    outfile,
    // In the clone the package finds itself; from elsewhere this is what it is.
    alias: { batchnorm: join(process.cwd(), 'dist/index.js') },
    // CommonJS has no import.meta, which is what is tested.
    logLevel: 'error',
  });
  const environment = { ...process.env, BATCHNORM_BACKEND: '', BATCHNORM_ISA: '', BATCHNORM_PREBUILD: '' };
  return spawnSync(process.execPath, [outfile], { env: environment, encoding: 'utf8' });
}

describe('a bundle', () => {
  it.runIf(wasmBytes !== undefined).each(['esm', 'cjs'] as const)(
    'computes in WebAssembly, and one warning names bundling and its cure: %s',
    async (format) => {
      const { status, stdout, stderr } = await runBundled(format);
      expect({ status, stdout }).toEqual({ status: 0, stdout: `wasm ${version} -1,-1,1,1\n` });
      expect(stderr.match(/BatchnormWarning/g)).toHaveLength(1);
      expect(stderr).toContain('the library was bundled: leave it out of the bundle');
    },
  );
});
