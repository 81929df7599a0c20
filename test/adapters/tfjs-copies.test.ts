// Several copies of TensorFlow.js in one process: they share engine, kernels and gradients, but not their layers; those of
// another realm share nothing.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createContext, runInContext } from 'node:vm';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { install, installed, type TensorFlow, uninstall } from '../../lib/tfjs/index.js';
import { expectError } from '../support/tensors.js';
import { tf } from '../support/tfjs.js';

type Tfjs = typeof tf;

const require = createRequire(import.meta.url);
const bundle = require.resolve('@tensorflow/tfjs/dist/tf.min.js');

const nowhere = { backends: [], layers: false };

let layers = 0;

/** With a name of its own: copies count their layers each by itself, but share the names of variables. */
const batchNorm = (copy: Tfjs, args: object) =>
  copy.layers.batchNormalization({ ...args, name: `norm_${layers++}` });

/** Whether a copy's layers are ours: TensorFlow.js throws where there is no gamma. */
function trains(copy: Tfjs): boolean {
  return copy.tidy(() => {
    const layer = batchNorm(copy, { scale: false });
    try {
      layer.apply(copy.tensor2d([[1], [3]]), { training: true });
      return true;
    } catch {
      return false;
    }
  });
}

/** Whether those of a copy infer along an axis that is not the last, which TensorFlow.js does not (tfjs#1106). */
function infers(copy: Tfjs): boolean {
  return copy.tidy(() => {
    const layer = batchNorm(copy, { axis: 1, epsilon: 0 });
    const x = copy.tensor4d([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 2, 2]);
    layer.apply(x);
    layer.setWeights([copy.ones([2]), copy.zeros([2]), copy.tensor1d([1, 5]), copy.ones([2])]);
    const y = layer.apply(x) as ReturnType<Tfjs['tensor']>;
    return String(y.dataSync()) === '0,1,2,3,0,1,2,3';
  });
}

/** Whether a model of a copy freezes its layers. */
function freezes(copy: Tfjs): boolean {
  return copy.tidy(() => {
    const layer = batchNorm(copy, { inputShape: [1], scale: false, center: false });
    copy.sequential({ layers: [layer] }).trainable = false;
    layer.apply(copy.tensor2d([[1], [3]]), { training: true });
    return layer.getWeights()[0].dataSync()[0] === 0;
  });
}

const works = (copy: Tfjs) => [trains(copy), infers(copy)];

vi.spyOn(console, 'warn').mockImplementation(() => {});
afterEach(() => uninstall());
beforeAll(() => tf.setBackend('cpu'));

describe('two copies in one realm', () => {
  let other: Tfjs;
  beforeAll(() => {
    other = require(bundle) as Tfjs;
  });

  it('share the engine and the kernels, but not the layers', () => {
    expect(other.registerKernel).not.toBe(tf.registerKernel);
    expect(other.engine()).toBe(tf.engine());
    install(tf);
    expect(installed(other)).toEqual({ backends: ['cpu', 'wasm'], layers: false });
    expect([works(tf), works(other)[0]]).toEqual([[true, true], false]);
  });

  it('are installed each for itself, again too', () => {
    for (let times = 0; times < 2; times++) {
      expect(install(tf).layers).toBe(true);
      expect(install(other).layers).toBe(true);
    }
    expect([works(tf), works(other)]).toEqual([
      [true, true],
      [true, true],
    ]);
    expect([freezes(tf), freezes(other)]).toEqual([true, true]);
  });

  it.each([true, false])('are uninstalled each for itself: the first first %s', (firstFirst) => {
    const before = [tf.getKernel('FusedBatchNorm', 'cpu'), tf.getGradient('FusedBatchNorm')];
    install(tf);
    install(other);
    const [leaving, staying] = firstFirst ? [tf, other] : [other, tf];
    uninstall(leaving as TensorFlow);
    expect(installed(leaving).layers).toBe(false);
    expect(installed(staying)).toEqual({ backends: ['cpu', 'wasm'], layers: true });
    expect([trains(leaving), works(staying)]).toEqual([false, [true, true]]);
    uninstall(staying as TensorFlow);
    expect([installed(leaving), installed(staying)]).toEqual([nowhere, nowhere]);
    expect([works(tf), works(other)]).toEqual([
      [false, false],
      [false, false],
    ]);
    expect([tf.getKernel('FusedBatchNorm', 'cpu'), tf.getGradient('FusedBatchNorm')]).toEqual(before);
  });

  it('have an option each', () => {
    install(tf, { trainable: 'tfjs' });
    install(other);
    const moved = [tf, other].map((copy) =>
      copy.tidy(() => {
        const layer = batchNorm(copy, { trainable: false });
        layer.apply(copy.tensor2d([[1], [3]]), { training: true });
        return layer.getWeights()[2].dataSync()[0] !== 0;
      }),
    );
    expect(moved).toEqual([true, false]);
  });

  it('of which one is not installed: uninstalling it changes nothing', () => {
    install(tf);
    uninstall(other as TensorFlow);
    expect(works(tf)).toEqual([true, true]);
  });

  it('of which one comes later and puts its kernels over ours: install again', () => {
    install(tf);
    const wasm = tf.getKernel('FusedBatchNorm', 'wasm');
    for (const path of Object.keys(require.cache)) if (path === bundle) delete require.cache[path];
    const third = require(bundle) as Tfjs;
    expect(installed(tf)).toEqual({ backends: ['wasm'], layers: true });
    expect(install(third)).toEqual({ backends: ['cpu', 'wasm'], layers: true });
    expect([works(tf), works(third)]).toEqual([
      [true, true],
      [true, true],
    ]);
    expect(tf.getKernel('FusedBatchNorm', 'wasm')).toBe(wasm);
    uninstall(third as TensorFlow);
    expect(works(tf)).toEqual([true, true]);
    uninstall(tf);
    expect(installed(tf)).toEqual(nowhere);
  });
});

describe('a copy of another realm', () => {
  let other: Tfjs;
  beforeAll(async () => {
    const context = createContext({ console, setTimeout, performance, TextEncoder, WorkerGlobalScope: {} });
    // As a worker of a browser.
    runInContext('globalThis.self = globalThis', context);
    runInContext(readFileSync(bundle, 'utf8'), context);
    other = (context as { tf: Tfjs }).tf;
    await other.setBackend('cpu');
  });

  it('shares nothing', () => {
    expect(other.engine()).not.toBe(tf.engine());
    install(tf);
    expect(installed(other)).toEqual(nowhere);
    expect([works(tf), works(other)]).toEqual([
      [true, true],
      [false, false],
    ]);
    expect(install(other)).toEqual({ backends: ['cpu'], layers: true });
    uninstall(tf);
    expect([works(tf), works(other)]).toEqual([
      [false, false],
      [true, true],
    ]);
    uninstall(other as TensorFlow);
    expect([installed(other), works(other)]).toEqual([nowhere, [false, false]]);
  });
});

describe('uninstall', () => {
  beforeEach(() => {
    install(tf);
  });

  it('takes every object that a copy is known by', () => {
    uninstall({ ...tf } as TensorFlow);
    expect(installed(tf)).toEqual(nowhere);
  });

  it.each([null, 1, 'tf', {}])('refuses what is not TensorFlow.js, and changes nothing', (given) => {
    expectError(() => uninstall(given as never), TypeError);
    expect(works(tf)).toEqual([true, true]);
  });

  it('of tfjs-core by itself leaves what layers need', async () => {
    const core = await import('@tensorflow/tfjs-core');
    install(core);
    uninstall(core);
    expect(works(tf)).toEqual([true, true]);
    uninstall(tf);
    expect(installed(core)).toEqual(nowhere);
  });
});
