// What the process-wide settings do, each in a process of its own.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { wasmBytes } from '../../lib/backend/wasm-bytes.js';
import { capabilities } from '../../lib/index.js';
import manifest from '../../package.json' with { type: 'json' };

/** Whether npm run build:wasm has been run. */
const isBuilt = wasmBytes !== undefined;

const report = `
  import { capabilities, BatchNorm } from 'batchnorm';
  const y = new BatchNorm(2).forward({ data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] });
  console.log(JSON.stringify({ ...capabilities(), y: [...y.data] }));`;

function run(environment: Record<string, string>, flags: string[] = [], cwd = process.cwd()) {
  const child = spawnSync(process.execPath, [...flags, '--input-type=module', '--eval', report], {
    cwd,
    env: {
      ...process.env,
      BATCHNORM_BACKEND: '',
      BATCHNORM_ISA: '',
      BATCHNORM_THREADS: '',
      BATCHNORM_STREAM_BYTES: '',
      ...environment,
    },
    encoding: 'utf8',
  });
  return {
    status: child.status,
    stderr: child.stderr,
    report: child.status === 0 ? JSON.parse(child.stdout) : undefined,
  };
}

const normalized = Float32Array.of(-1, -1, 1, 1).map((sign) => sign / Math.sqrt(1 + 1e-5));

describe('the environment', () => {
  it('chooses the native backend, its best instruction set and the version of the package by default', () => {
    const { report } = run({});
    expect(report).toMatchObject({ backend: 'native', version: manifest.version, y: [...normalized] });
    expect(report.isa).toBe(report.isas[0]);
    expect([
      'the widest that can be used here',
      ...(report.isa === 'avx2' ? ['AVX-512 lowers the clock of this CPU'] : []),
    ]).toContain(report.isaReason);
    expect(report.isas.at(-1)).toBe('generic');
    expect(report.threads).toBeGreaterThanOrEqual(1);
  });

  it('forces any instruction set the CPU has', () => {
    const { report } = run({});
    for (const isa of report.isas)
      expect(run({ BATCHNORM_ISA: isa }).report).toMatchObject({
        isa,
        isaReason: 'BATCHNORM_ISA',
        isas: report.isas,
        y: [...normalized],
      });
  });

  it('is refused where it asks for an instruction set the CPU lacks', () => {
    const { isas } = run({}).report;
    const { status, stderr } = run({ BATCHNORM_ISA: 'mmx' });
    expect(status).toBe(1);
    expect(stderr).toContain(
      `RangeError: BATCHNORM_ISA must be one that this CPU has (${isas.join(', ')}), got mmx`,
    );
    expect(stderr).toContain('ERR_BATCHNORM_UNSUPPORTED_ISA');
  });

  it('sets the number of threads', () => {
    expect(run({ BATCHNORM_THREADS: '3' }).report.threads).toBe(3);
  });

  it.each(['0', '-1', '1.5', 'many', '1025'])('is refused where it asks for %s threads', (threads) => {
    const { status, stderr } = run({ BATCHNORM_THREADS: threads });
    expect(status).toBe(1);
    expect(stderr).toContain(`BATCHNORM_THREADS must be an integer from 1 to 1024, got "${threads}"`);
  });

  it('sets the size from which results are written past the caches, which changes no bit', () => {
    const usual = run({}).report;
    expect(usual.l2Bytes).toBeGreaterThan(0);
    for (const [threads, mebibytes] of [
      [1, 8],
      [2, 16],
      [3, 24],
      [64, 24],
    ])
      expect(run({ BATCHNORM_THREADS: String(threads) }).report.streamBytes).toBe(mebibytes * 2 ** 20);
    const streamed = run({ BATCHNORM_STREAM_BYTES: '0' }).report;
    expect(streamed).toMatchObject({ streamBytes: 0, y: usual.y });
  });

  it('is refused where that size is no number', () => {
    const { status, stderr } = run({ BATCHNORM_STREAM_BYTES: '24M' });
    expect(status).toBe(1);
    expect(stderr).toContain(
      'BATCHNORM_STREAM_BYTES must be an integer from 0 to 9007199254740991, got "24M"',
    );
  });

  it.runIf(isBuilt)('forces the WebAssembly backend without a warning', () => {
    const { report, stderr } = run({ BATCHNORM_BACKEND: 'wasm' });
    const isaReason = 'the only one of the WebAssembly backend';
    expect(report).toMatchObject({ backend: 'wasm', isa: 'wasm', isaReason, threads: 1, y: [...normalized] });
    expect(stderr).toBe('');
  });

  it.runIf(isBuilt)('is refused where WebAssembly may not be compiled, with what forbids it', () => {
    const { status, stderr } = run({ BATCHNORM_BACKEND: 'wasm' }, ['--jitless']);
    expect(status).toBe(1);
    expect(stderr).toContain('ERR_BATCHNORM_WASM_UNAVAILABLE');
    expect(stderr).toContain('--jitless');
  });

  it.runIf(!isBuilt)('is refused where the WebAssembly module was not built, with the command for it', () => {
    const { status, stderr } = run({ BATCHNORM_BACKEND: 'wasm' });
    expect(status).toBe(1);
    expect(stderr).toContain('npm run build:wasm');
  });

  it('is refused where it asks for the JavaScript that WebAssembly has replaced', () => {
    const { status, stderr } = run({ BATCHNORM_BACKEND: 'js' });
    expect(status).toBe(1);
    expect(stderr).toContain(
      `BATCHNORM_BACKEND must be 'native' or 'wasm', got "js"; wasm has taken its place`,
    );
  });

  it('is refused where it asks for an unknown backend', () => {
    const { status, stderr } = run({ BATCHNORM_BACKEND: 'gpu' });
    expect(status).toBe(1);
    expect(stderr).toContain(`BATCHNORM_BACKEND must be 'native' or 'wasm', got "gpu"`);
  });
});

describe('without a binary', () => {
  it.runIf(isBuilt)('WebAssembly takes over with one warning that says why and what to do', () => {
    const { report, stderr } = run({}, ['--no-addons']);
    expect(report).toMatchObject({ backend: 'wasm', y: [...normalized] });
    expect(stderr.match(/BatchnormWarning/g)).toHaveLength(1);
    expect(stderr).toContain(`could not be loaded on ${process.platform}-${process.arch}`);
    expect(stderr).toContain('--no-addons');
    expect(stderr).toContain('"node node_modules/batchnorm/scripts/install.mjs"');
  });

  it('and without WebAssembly the import fails with both reasons', () => {
    const { status, stderr } = run({}, ['--no-addons', '--jitless']);
    expect(status).toBe(1);
    expect(stderr).toContain('ERR_BATCHNORM_NATIVE_UNAVAILABLE');
    expect(stderr).toContain(`could not be loaded on ${process.platform}-${process.arch}`);
    expect(stderr).toContain('Nor is there WebAssembly to take its place');
  });

  it('a demand for the native backend is refused', () => {
    const { status, stderr } = run({ BATCHNORM_BACKEND: 'native' }, ['--no-addons']);
    expect(status).toBe(1);
    expect(stderr).toContain('ERR_BATCHNORM_NATIVE_UNAVAILABLE');
  });

  it.runIf(isBuilt)('a package that was installed without one works', () => {
    const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
    try {
      for (const part of ['dist', 'binary.cjs', 'package.json'])
        cpSync(part, join(folder, part), { recursive: true });
      symlinkSync(join(process.cwd(), 'node_modules'), join(folder, 'node_modules'));
      const { report, stderr } = run({ BATCHNORM_PREBUILD: '' }, [], folder);
      expect(report).toMatchObject({ backend: 'wasm', y: [...normalized] });
      expect(stderr).toContain('No native build was found');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('flags of Node', () => {
  /** Every pass, at once and later, on the backend that must compute. */
  function runAll(backend: 'native' | 'wasm', flags: string[]) {
    const child = spawnSync(process.execPath, [...flags, 'test/abuse/all.mjs', backend], {
      env: { ...process.env, BATCHNORM_BACKEND: '', BATCHNORM_ISA: '' },
      encoding: 'utf8',
    });
    const { status, stdout, stderr } = child;
    return { status, stdout, warnings: stderr.match(/BatchnormWarning/g)?.length ?? 0, stderr };
  }

  it.each([
    ['frozen intrinsics', ['--frozen-intrinsics']],
    ['a __proto__ that throws', ['--disable-proto=throw']],
    ['no __proto__', ['--disable-proto=delete']],
    ['no code from strings', ['--disallow-code-generation-from-strings']],
  ])('change nothing: %s', (_, flags) => {
    expect(runAll('native', flags)).toMatchObject({ status: 0, stdout: 'right\n', warnings: 0 });
  });

  it.runIf(isBuilt)('that forbid addons leave WebAssembly, and one warning', () => {
    expect(runAll('wasm', ['--no-addons'])).toMatchObject({ status: 0, stdout: 'right\n', warnings: 1 });
  });

  describe('of the permission model', () => {
    const permission = process.allowedNodeEnvironmentFlags.has('--permission')
      ? '--permission'
      : '--experimental-permission';
    // Of Node 20 a folder is all in it only with an asterisk behind it.
    const readPackage = `--allow-fs-read=${join(process.cwd(), '*')}`;

    it('allow the native backend where addons are allowed', () => {
      const flags = [permission, '--allow-addons', '--allow-fs-read=*'];
      expect(runAll('native', flags)).toMatchObject({ status: 0, stdout: 'right\n', warnings: 0 });
    });

    it.runIf(isBuilt)('leave WebAssembly where they are not', () => {
      const end = runAll('wasm', [permission, '--allow-fs-read=*']);
      expect(end).toMatchObject({ status: 0, stdout: 'right\n', warnings: 1 });
      expect(end.stderr).toContain('permission model');
    });

    // Elsewhere the loader looks for nothing else.
    it.runIf(isBuilt && process.platform === 'linux')(
      'need allow nothing to be read but the package and what the loader of addons looks for',
      () => {
        const flags = [permission, '--allow-addons', readPackage];
        const alpine = '--allow-fs-read=/etc/alpine-release';
        expect(runAll('native', [...flags, alpine])).toMatchObject({
          status: 0,
          stdout: 'right\n',
          warnings: 0,
        });
        const end = runAll('wasm', flags);
        expect(end).toMatchObject({ status: 0, stdout: 'right\n', warnings: 1 });
        expect(end.stderr).toContain('FileSystemRead /etc/alpine-release');
      },
    );
  });
});

describe('this run', () => {
  it('tests the backend and instruction set it was asked for', () => {
    const { BATCHNORM_BACKEND: wantedBackend, BATCHNORM_ISA: wantedIsa } = process.env;
    const { backend, isa } = capabilities();
    expect(backend).toBe(wantedBackend || 'native');
    if (wantedIsa) expect(isa).toBe(wantedIsa);
  });
});
