// The program as a terminal has it: what it prints, with what it ends, and what it leaves on the disk.
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as tf from '@tensorflow/tfjs';
import { loadBatchNorms, writeSafetensors } from 'batchnorm/files';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { table } from '../../lib/text.js';
import { version } from '../../lib/version.js';
import { inFiles } from '../support/files.js';
import { patience } from '../support/patience.js';

const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
afterAll(() => rmSync(folder, { recursive: true }));

const { bin } = JSON.parse(readFileSync('package.json', 'utf8')) as { bin: { batchnorm: string } };

const run = (...args: string[]) => runIn('.', ...args);

function runIn(cwd: string, ...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [resolve(bin.batchnorm), ...args], {
    cwd,
    encoding: 'utf8',
    timeout: patience,
  });
  return { status, stdout, stderr };
}

/** A file of one layer, a channel of which each value is for. */
function layerOf(name: string, mean: number[], variance: number[], weight: number[]): string {
  const path = join(folder, name);
  const entries = { running_mean: mean, running_var: variance, weight };
  const tensors = new Map(
    Object.entries(entries).map(([part, values]) => [
      `bn.${part}`,
      { data: Float32Array.from(values), shape: [values.length] },
    ]),
  );
  writeSafetensors(path, { tensors, metadata: new Map() });
  return path;
}

let sound: string;
let broken: string;
beforeAll(() => {
  sound = layerOf('sound.safetensors', [0, 1, 2, 3], [1, 1, 1, 1], [1, 1, 1, 1]);
  broken = layerOf('broken.safetensors', [0, Number.NaN, 2, 9], [1, 1, 2e-6, 1], [1, 1, 1, 0]);
});

describe('help and mistakes', () => {
  it.each([['--help'], ['inspect', '--help'], ['fold', '--help'], ['gain', '--help']])('%s %s', (...args) => {
    const { status, stdout } = run(...args);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Usage: batchnorm /);
    if (args.length > 1) expect(stdout).toContain('\n  npx batchnorm ');
  });

  it('says the version', () => {
    expect(run('--version')).toEqual({ status: 0, stdout: `${version}\n`, stderr: '' });
  });

  it.each<[args: string[], line: string]>([
    [[], 'a command must be inspect, fold or gain, got "" (batchnorm --help)'],
    [['frobnicate'], 'a command must be inspect, fold or gain, got "frobnicate" (batchnorm --help)'],
    [['inspect'], 'a command must have one or two files, got 0 (batchnorm --help)'],
    [['inspect', 'none.onnx'], "ENOENT: no such file or directory, stat 'none.onnx'"],
    [
      ['inspect', inFiles('opset15.onnx'), inFiles('external.bin')],
      `batchnorm: ${inFiles('external.bin')}: file must be .safetensors`,
    ],
    [
      ['fold', inFiles('keras2.h5'), '--out', join(folder, 'h5')],
      'file must be a model.json of TensorFlow.js (with a modelTopology), got another format',
    ],
    [['fold', 'model.json'], '--out must be a folder, got nothing (batchnorm --help)'],
    [
      ['inspect', inFiles('external.bin')],
      'file must be .safetensors, .onnx, .keras, .h5 or model.json of TensorFlow.js, got',
    ],
  ])('%j is refused in a line', (args, line) => {
    const { status, stdout, stderr } = run(...args);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toMatch(/^batchnorm: [^\n]+\n$/);
    expect(stderr).toContain(line);
  });
});

describe('inspect', () => {
  it('says what is wrong in a line of its own on a terminal, where a bar stood', () => {
    const program = `${process.execPath} ${resolve(bin.batchnorm)} inspect ${join(folder, 'none.onnx')}`;
    // util-linux has it, and Debian's bsdutils.
    const { error, stdout } = spawnSync('script', ['-qec', program, '/dev/null'], { encoding: 'utf8' });
    if (error) return;
    const [bar, line, rest] = stdout.split('\r\u001b[K');
    expect([bar, line, rest]).toEqual([
      expect.stringMatching(/^\rreading .* 0\/1/),
      expect.stringMatching(/^batchnorm: ENOENT.*\r\n$/),
      undefined,
    ]);
  });

  it('lists any number of layers', () => {
    const rows = Array.from({ length: 200_000 }, (_, i) => [`${i}`]);
    expect(table(['name'], rows).split('\n')).toHaveLength(rows.length + 2);
  });

  it('prints a row for each batch norm, and nothing is wrong', () => {
    const { status, stdout, stderr } = run('inspect', sound, '--strict');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(
      /^name +channels +eps +mean +variance +weight +dead\nbn +4 +1e-5 +0 … 3 +1 … 1 +1 … 1 +0\n$/,
    );
  });

  it('warns of what is wrong, and ends with 1 where it is strict', () => {
    const { status, stdout } = run('inspect', broken, '--strict');
    expect(status).toBe(1);
    expect(stdout).toContain('warning: bn: 1 of 4 channels have values that are not finite\n');
    expect(stdout).toContain('warning: bn: 1 of 4 channels are dead: weight or variance near 0\n');
    expect(stdout).toContain('warning: bn: 1 of 4 channels have a variance below eps (0.00001)\n');
    expect(run('inspect', broken).status).toBe(0);
  });

  it('says how far another file has drifted', () => {
    const { status, stdout } = run(
      'inspect',
      sound,
      layerOf('after.safetensors', [0, 1, 2, 5], [1, 3, 1, 1], [1, 1, 1, 1]),
      '--strict',
    );
    expect(status).toBe(1);
    expect(stdout).toContain('warning: bn: means moved by up to 2.00 deviations, variances by 3.00 times\n');
    expect(run('inspect', sound, sound, '--strict').status).toBe(0);
  });

  it('warns of what is wrong with the other file, of either sign of a variance', () => {
    const negative = layerOf('negative.safetensors', [0, 1, 2, 3], [1, 1, -1, 1], [1, 1, 1, 1]);
    const own = run('inspect', negative);
    expect(own.stdout).toContain('warning: bn: 1 of 4 channels have a negative variance\n');
    expect(own.stdout).not.toMatch(/dead:|below eps/);
    const { status, stdout } = run('inspect', sound, broken, '--strict');
    expect(status).toBe(1);
    expect(stdout).toContain(
      `warning: bn: 1 of 4 channels are dead: weight or variance near 0, in ${broken}\n`,
    );
  });

  it('measures drift with the eps of the convention', () => {
    const kerasFile = (name: string, mean: number) => {
      const path = join(folder, name);
      const entries = { moving_mean: mean, moving_variance: 0.008, gamma: 1 };
      const tensors = new Map(
        Object.entries(entries).map(([part, value]) => [
          `bn/${part}`,
          { data: Float32Array.of(value), shape: [1] },
        ]),
      );
      writeSafetensors(path, { tensors, metadata: new Map() });
      return path;
    };
    const files = [kerasFile('keras-before.safetensors', 0), kerasFile('keras-after.safetensors', 0.3)];
    const [{ drift }] = JSON.parse(run('inspect', ...files, '--json').stdout).layers;
    expect(drift.mean).toBeCloseTo(0.3 / Math.sqrt(0.008 + 1e-3), 5);
  });

  it.runIf(existsSync('/dev/full'))('ends with 2 where its result cannot be written', () => {
    const stdout = openSync('/dev/full', 'w');
    const { status, stderr } = spawnSync(process.execPath, [resolve(bin.batchnorm), 'inspect', sound], {
      encoding: 'utf8',
      stdio: ['ignore', stdout, 'pipe'],
      timeout: patience,
    });
    closeSync(stdout);
    expect(status).toBe(2);
    expect(stderr).toMatch(/^batchnorm: ENOSPC[^\n]+\n$/);
  });

  it('gives JSON', () => {
    const { stdout } = run('inspect', broken, '--json');
    const { layers, warnings } = JSON.parse(stdout);
    expect(layers).toEqual([
      expect.objectContaining({
        name: 'bn',
        channels: 4,
        notFinite: [1],
        dead: [3],
        belowEps: [2],
        mean: { min: 0, max: 9 },
      }),
    ]);
    expect(warnings.map(({ kind }: { kind: string }) => kind)).toEqual(['not finite', 'dead', 'below eps']);
  });

  it('writes a page with histograms, never over one that is there without --force', () => {
    const page = join(folder, 'page.html');
    expect(run('inspect', broken, '--html', page).status).toBe(0);
    const text = readFileSync(page, 'utf8');
    expect(text.match(/<svg /g)).toHaveLength(3);
    expect(text).toContain('prefers-color-scheme: dark');
    expect(text).not.toMatch(/<script|src=|href=/);
    writeFileSync(page, 'mine');
    expect(run('inspect', sound, '--html', page).status).toBe(2);
    expect(readFileSync(page, 'utf8')).toBe('mine');
    expect(run('inspect', sound, '--html', page, '--force').status).toBe(0);
    expect(readFileSync(page, 'utf8')).toContain('<svg');
    expect(readdirSync(folder).filter((name) => name.includes('.tmp'))).toEqual([]);
  });

  it('shows names that would harm a terminal or a page as what they are', () => {
    const path = join(folder, 'names.safetensors');
    const data = Float32Array.of(1);
    const tensors = new Map(
      ['running_mean', 'running_var'].map((part) => [`\u001b[31m<script>.${part}`, { data, shape: [1] }]),
    );
    writeSafetensors(path, { tensors, metadata: new Map() });
    const page = join(folder, 'names.html');
    const { status, stdout } = run('inspect', path, '--html', page);
    expect(status).toBe(0);
    expect(stdout).toContain('"\\u001b[31m<script>"');
    expect(readFileSync(page, 'utf8')).not.toContain('<script');
  });

  it('says that a file has no batch norms, and ends with 0', () => {
    const path = join(folder, 'none.safetensors');
    writeSafetensors(path, {
      tensors: new Map([['weight', { data: Float32Array.of(1), shape: [1] }]]),
      metadata: new Map(),
    });
    expect(run('inspect', path, '--strict')).toEqual({
      status: 0,
      stdout: `${path} has no batch norms.\n`,
      stderr: '',
    });
  });
});

describe('models of TensorFlow.js', () => {
  const path = join(folder, 'model/model.json');

  beforeAll(async () => {
    const model = tf.sequential({
      layers: [
        tf.layers.conv2d({
          filters: 4,
          kernelSize: 3,
          inputShape: [8, 8, 3],
          biasInitializer: 'randomNormal',
        }),
        tf.layers.batchNormalization({
          betaInitializer: 'randomNormal',
          movingMeanInitializer: 'randomNormal',
          name: 'first',
        }),
        tf.layers.reLU(),
        tf.layers.batchNormalization({ name: 'second' }),
        tf.layers.reLU(),
      ],
    });
    await model.save(
      tf.io.withSaveHandler(async ({ modelTopology, weightSpecs, weightData }) => {
        mkdirSync(join(folder, 'model'));
        writeFileSync(join(folder, 'model/weights.bin'), new Uint8Array(weightData as ArrayBuffer));
        const weightsManifest = [{ paths: ['weights.bin'], weights: weightSpecs }];
        writeFileSync(path, JSON.stringify({ modelTopology, weightsManifest }));
        return { modelArtifactsInfo: { dateSaved: new Date(), modelTopologyType: 'JSON' } };
      }),
    );
  });

  it('fold writes a model, says what is left and how long predictions take', {
    timeout: patience,
  }, async () => {
    const out = join(folder, 'folded');
    const { status, stdout, stderr } = run('fold', path, '--out', out, '--time');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(/^1 folded, 1 left; written to /);
    expect(stdout).toMatch(/\nleft: second: ReLU \(\w+\) stands before it; ReLU \(\w+\) stands behind it\n/);
    expect(stdout).toMatch(/\ncpu +[\d.]+ ms +[\d.]+ ms +[\d.]+ times\nwasm +/);
    expect(Number(/difference of predictions: (.*)\n/.exec(stdout)?.[1])).toBeLessThan(1e-5);
    expect([...(await loadBatchNorms(join(out, 'model.json'))).keys()]).toEqual(['second']);
    expect(readdirSync(out).sort()).toEqual(['group1-shard1of1.bin', 'model.json']);
  });

  it('fold never writes over a folder that is there without --force, and leaves nothing half-written', {
    timeout: patience,
  }, () => {
    const out = join(folder, 'there');
    mkdirSync(out);
    writeFileSync(join(out, 'mine'), '');
    expect(run('fold', path, '--out', out).stderr).toContain('--force replaces it');
    // What it could not have written is not to be replaced.
    expect(run('fold', path, '--out', out, '--force').stderr).toContain('be empty or hold a model.json');
    expect(readdirSync(out)).toEqual(['mine']);
    writeFileSync(join(out, 'model.json'), '');
    expect(run('fold', path, '--out', out, '--force').status).toBe(0);
    expect(readdirSync(out)).not.toContain('mine');
    writeFileSync(
      join(folder, 'model/cut.json'),
      readFileSync(path, 'utf8').replace('weights.bin', 'missing.bin'),
    );
    const none = join(folder, 'none');
    const { status, stderr } = run('fold', join(folder, 'model/cut.json'), '--out', none);
    expect(status).toBe(2);
    expect(stderr).toBe('batchnorm: a shard must be beside the model, got no "missing.bin"\n');
    expect(existsSync(none)).toBe(false);
    expect(readdirSync(folder).filter((name) => /\.(?:tmp|old)$/.test(name))).toEqual([]);
  });

  it('fold --force never replaces the model, where it runs, or what is no folder', {
    timeout: patience,
  }, () => {
    const work = join(folder, 'model/work/here');
    mkdirSync(work, { recursive: true });
    writeFileSync(join(folder, 'model/work/model.json'), '');
    writeFileSync(join(folder, 'model.json'), '');
    writeFileSync(join(folder, 'regular'), 'mine');
    const refused: [out: string, rule: string][] = [
      [join(folder, 'model'), 'hold neither'],
      [folder, 'hold neither'],
      ['..', 'hold neither'],
      ['.', 'hold neither'],
      [join(folder, 'regular'), 'be a folder'],
    ];
    if (process.platform !== 'win32') {
      symlinkSync(join(folder, 'model'), join(folder, 'link'));
      symlinkSync(join(folder, 'nowhere'), join(folder, 'dangling'));
      refused.push([join(folder, 'link'), 'hold neither'], [join(folder, 'dangling'), 'be a folder']);
    }
    for (const [out, rule] of refused) {
      const { status, stderr } = runIn(work, 'fold', path, '--out', out, '--force');
      expect({ status, stderr }, out).toEqual({
        status: 2,
        stderr: expect.stringContaining(`batchnorm: --out must ${rule}`),
      });
    }
    expect(readFileSync(join(folder, 'regular'), 'utf8')).toBe('mine');
    expect(existsSync(path)).toBe(true);
    rmSync(join(folder, 'model.json'));
  });

  it('fold takes no name for the working directory', { timeout: patience }, () => {
    const work = join(folder, 'unnamed');
    mkdirSync(work);
    writeFileSync(join(work, 'mine'), '');
    expect(runIn(work, 'fold', path, '--out', '')).toEqual({
      status: 2,
      stdout: '',
      stderr: 'batchnorm: --out must be a folder, got "" (batchnorm --help)\n',
    });
    expect(readdirSync(work)).toEqual(['mine']);
  });

  /** `batchnorm fold` with code that runs before its first file is written. */
  function foldAfter(code: string, out: string) {
    const preload = join(folder, 'preload.mjs');
    writeFileSync(
      preload,
      `import fs from 'node:fs';
      import { syncBuiltinESMExports } from 'node:module';
      const { writeFileSync, mkdirSync } = fs;
      fs.writeFileSync = (...args) => {
        ${code};
        return writeFileSync(...args);
      };
      syncBuiltinESMExports();`,
    );
    const args = [
      '--import',
      pathToFileURL(preload).href,
      resolve(bin.batchnorm),
      'fold',
      path,
      '--out',
      out,
    ];
    return spawnSync(process.execPath, args, { encoding: 'utf8', timeout: patience });
  }

  it('fold leaves a folder alone that somebody made while it worked', { timeout: patience }, () => {
    const out = join(folder, 'meanwhile');
    const [folderName, fileName] = [out, join(out, 'mine')].map((name) => JSON.stringify(name));
    const { status, stderr } = foldAfter(
      `mkdirSync(${folderName}, { recursive: true }); writeFileSync(${fileName}, '')`,
      out,
    );
    expect(stderr).toMatch(/^batchnorm: .*not empty.*\n$/);
    expect(status).toBe(2);
    expect(readdirSync(out)).toEqual(['mine']);
    expect(readdirSync(folder).filter((name) => /\.(?:tmp|old)$/.test(name))).toEqual([]);
  });

  it.runIf(process.platform !== 'win32')(
    'fold writes the whole model though a signal is to end it',
    { timeout: patience },
    () => {
      const out = join(folder, 'interrupted');
      foldAfter("process.kill(process.pid, 'SIGTERM')", out);
      expect(readdirSync(out).sort()).toEqual(['group1-shard1of1.bin', 'model.json']);
      expect(readdirSync(folder).filter((name) => /\.(?:tmp|old)$/.test(name))).toEqual([]);
    },
  );

  it('fold writes nothing where the times cannot be had', { timeout: patience }, () => {
    const out = join(folder, 'untimed');
    expect(run('fold', path, '--out', out, '--time', '--shape', '1,9,9,5').status).toBe(2);
    expect(existsSync(out)).toBe(false);
  });

  it('gain says the share of batch norms, and what install and folding bring', { timeout: patience }, () => {
    const { status, stdout, stderr } = run('gain', path, '--json');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { folded, left, gains } = JSON.parse(stdout);
    expect({ folded, left: left.length }).toEqual({ folded: 1, left: 1 });
    for (const backend of ['cpu', 'wasm']) {
      expect(gains[backend].share).toBeGreaterThan(0);
      expect(Object.keys(gains[backend].times)).toEqual(['stock', 'install', 'folded']);
    }
    expect(run('gain', path, '--shape', '1,8').stderr).toMatch(/^batchnorm: [^\n]+\n$/);
  });
});
