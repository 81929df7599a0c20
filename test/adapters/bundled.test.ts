// The library in a bundle, which does not bring the binary along, and as CommonJS.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build, type Format } from 'esbuild';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { wasmBytes } from '../../lib/backend/wasm-bytes.js';
import * as library from '../../lib/index.js';
import { version } from '../../lib/version.js';
import { patience } from '../support/patience.js';

const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
afterAll(() => rmSync(folder, { recursive: true }));

const program = `
  import { BatchNorm, capabilities } from 'batchnorm';
  const { data } = new BatchNorm(2, { eps: 1e-300, dtype: 'float64' }).forward({ data: Float64Array.of(1, 2, 3, 4), shape: [2, 2] });
  console.log(capabilities().backend, capabilities().version, data.join());`;

async function runBundled(format: Format, argumentsFor = (bundle: string) => [bundle]) {
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
  return spawnSync(process.execPath, argumentsFor(outfile), { env: environment, encoding: 'utf8' });
}

/** What lies in node_modules beside the bundle. */
const installed = join(folder, 'node_modules', 'batchnorm');
afterEach(() => rmSync(join(folder, 'node_modules'), { recursive: true, force: true }));

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

  it.each(['esm', 'cjs'] as const)(
    'finds the binary of the package that lies beside it: %s',
    async (format) => {
      mkdirSync(join(folder, 'node_modules'));
      symlinkSync(process.cwd(), installed);
      const { status, stdout, stderr } = await runBundled(format);
      expect({ status, stdout, stderr }).toEqual({
        status: 0,
        stdout: `native ${version} -1,-1,1,1\n`,
        stderr: '',
      });
    },
  );

  it.each([
    ['preloaded', (bundle: string) => ['--require', bundle, '--eval', '0']],
    ['of another program', (bundle: string) => ['--eval', `require(${JSON.stringify(bundle)})`]],
    [
      'in a worker',
      (bundle: string) => [
        '--eval',
        `new (require('node:worker_threads').Worker)(${JSON.stringify(bundle)})`,
      ],
    ],
  ] as const)('finds it from its own place, not from that of the program: %s', async (_, argumentsFor) => {
    mkdirSync(join(folder, 'node_modules'));
    symlinkSync(process.cwd(), installed);
    const { status, stdout, stderr } = await runBundled('cjs', argumentsFor);
    expect({ status, stdout, stderr }).toEqual({
      status: 0,
      stdout: `native ${version} -1,-1,1,1\n`,
      stderr: '',
    });
  });

  it.runIf(wasmBytes !== undefined).each(['esm', 'cjs'] as const)(
    'takes no binary of another version: %s',
    async (format) => {
      mkdirSync(installed, { recursive: true });
      writeFileSync(join(installed, 'package.json'), '{ "name": "batchnorm", "version": "0.0.1" }');
      writeFileSync(join(installed, 'binary.cjs'), 'module.exports = {};');
      const { status, stdout, stderr } = await runBundled(format);
      expect({ status, stdout }).toEqual({ status: 0, stdout: `wasm ${version} -1,-1,1,1\n` });
      expect(stderr).toContain(`the bundle has version ${version} of the library, node_modules has 0.0.1`);
    },
  );
});

describe('the library as CommonJS', () => {
  it('exports what the ES module exports', () => {
    const required = createRequire(import.meta.url)('../../dist/cjs/index.cjs') as typeof library;
    expect(Object.keys(required).sort()).toEqual(Object.keys(library).sort());
    expect(required.capabilities()).toEqual(library.capabilities());
  });
});

describe.runIf(wasmBytes !== undefined)('the file for browsers in Node.js', () => {
  it('keeps the process for what is on its way, and no longer', () => {
    const lines = [
      `import { BatchNorm, capabilities } from ${JSON.stringify(pathToFileURL(resolve('dist/browser.js')).href)};`,
      'const bn = new BatchNorm(1, { eps: 1e-12 });',
      'const x = () => ({ data: Float32Array.of(1, 3), shape: [2, 1] });',
      'const calls = [bn.forwardAsync(x()), bn.forwardAsync(x())];',
      'for (const call of calls) console.log(capabilities().backend, (await call).data.join());',
      'console.log((await bn.forwardAsync(x())).data.join());',
    ];
    const program = lines.join('\n');
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      ['--input-type=module', '--eval', program],
      { encoding: 'utf8', timeout: patience },
    );
    expect({ status, stdout, stderr }).toEqual({
      status: 0,
      stdout: 'wasm -1,1\nwasm -1,1\n-1,1\n',
      stderr: '',
    });
  });
});
