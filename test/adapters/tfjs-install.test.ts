import { spawnSync } from 'node:child_process';
import * as core from '@tensorflow/tfjs-core';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { install, installed, uninstall } from '../../lib/tfjs/index.js';
import { memoryOf } from '../../lib/tfjs/memory.js';
import { expectError } from '../support/tensors.js';
import { tf } from '../support/tfjs.js';

const everywhere = { backends: ['cpu', 'wasm'], layers: true };
const nowhere = { backends: [], layers: false };

/** A property of a class, its own or inherited. */
function propertyOf(prototype: object, name: string): unknown {
  let owner = prototype;
  while (!Object.hasOwn(owner, name)) owner = Object.getPrototypeOf(owner) as object;
  const { value, set } = Object.getOwnPropertyDescriptor(owner, name) as PropertyDescriptor;
  return value ?? set;
}

/** All that install() may change. */
function inPlace(): unknown[] {
  const layer = Object.getPrototypeOf(tf.layers.batchNormalization({}));
  return [
    tf.getKernel('FusedBatchNorm', 'cpu'),
    tf.getKernel('FusedBatchNorm', 'wasm'),
    tf.getGradient('FusedBatchNorm'),
    ...['call', 'apply', 'trainable'].map((name) => propertyOf(layer, name)),
    propertyOf(tf.LayersModel.prototype, 'trainable'),
    propertyOf(tf.Sequential.prototype, 'build'),
  ];
}

const warn = vi.spyOn(console, 'warn').mockImplementation(() => {});
beforeEach(() => warn.mockClear());
afterEach(() => uninstall());

describe('install', () => {
  it('says what it has replaced, and warns of nothing', () => {
    expect(installed(tf)).toEqual(nowhere);
    const stock = inPlace();
    expect(install(tf)).toEqual(everywhere);
    inPlace().forEach((replaced, i) => {
      expect(replaced).not.toBe(stock[i]);
    });
    expect(warn).not.toHaveBeenCalled();
  });

  it('a second time changes nothing', () => {
    install(tf);
    const first = inPlace();
    expect(install(tf)).toEqual(everywhere);
    expect(inPlace()).toEqual(first);
  });

  it('from a second copy of the library changes nothing', async () => {
    install(tf);
    const first = inPlace();
    vi.resetModules();
    const copy = await import('../../lib/tfjs/index.js');
    expect(copy.install).not.toBe(install);
    expect(copy.install(tf)).toEqual(everywhere);
    copy.uninstall();
    expect(inPlace()).toEqual(first);
  });

  it('from a second copy of the library that finds nothing in place any more is undone by that copy', async () => {
    const stock = inPlace();
    install(tf);
    vi.resetModules();
    const copy = await import('../../lib/tfjs/index.js');
    copy.install(tf);
    uninstall();
    expect(installed(tf)).toEqual(nowhere);
    expect(copy.install(tf)).toEqual(everywhere);
    copy.uninstall();
    expect(inPlace()).toEqual(stock);
  });

  it('is undone by uninstall, which is harmless a second time', () => {
    const stock = inPlace();
    install(tf);
    uninstall();
    expect(inPlace()).toEqual(stock);
    expect(installed(tf)).toEqual(nowhere);
    uninstall();
    expect(inPlace()).toEqual(stock);
    expect(warn).not.toHaveBeenCalled();
  });

  it('leaves the numbers alone by which TensorFlow.js names layers and weights', () => {
    const number = () => Number(/\d+$/.exec(tf.layers.batchNormalization({}).name)?.[0]);
    const first = number();
    install(tf);
    installed(tf);
    uninstall();
    expect(number()).toBe(first + 1);
  });

  it('leaves no property where there was none', () => {
    const properties = () =>
      [
        Object.getPrototypeOf(tf.layers.batchNormalization({})),
        tf.Sequential.prototype,
        tf.LayersModel.prototype,
        Object.getPrototypeOf(tf.LayersModel.prototype),
      ].map((prototype) => Object.getOwnPropertyDescriptors(prototype));
    const stock = properties();
    install(tf);
    expect(properties()).not.toEqual(stock);
    uninstall();
    expect(properties()).toEqual(stock);
  });

  it('leaves what somebody else has put over it', () => {
    const stock = tf.getKernel('FusedBatchNorm', 'cpu');
    install(tf);
    const other = { ...stock };
    tf.unregisterKernel('FusedBatchNorm', 'cpu');
    tf.registerKernel(other);
    uninstall();
    expect(tf.getKernel('FusedBatchNorm', 'cpu')).toBe(other);
    tf.unregisterKernel('FusedBatchNorm', 'cpu');
    tf.registerKernel(stock);

    const prototype = Object.getPrototypeOf(tf.layers.batchNormalization({}));
    const { call } = prototype;
    install(tf);
    const over = vi.fn();
    prototype.call = over;
    uninstall();
    expect(prototype.call).toBe(over);
    prototype.call = call;
  });

  it('does with tfjs-core alone, without layers', () => {
    expect(install(core)).toEqual({ backends: ['cpu', 'wasm'], layers: false });
    expect(install(tf)).toEqual(everywhere);
  });

  it('takes a backend that was imported later when it is called again', () => {
    const stock = tf.getKernel('FusedBatchNorm', 'wasm');
    tf.unregisterKernel('FusedBatchNorm', 'wasm');
    expect(install(tf).backends).toEqual(['cpu']);
    tf.registerKernel(stock);
    expect(installed(tf).backends).toEqual(['cpu']);
    expect(install(tf)).toEqual(everywhere);
  });

  it.each([undefined, null, 1, 'tf', {}, { ...tf, customGrad: undefined }])(
    'refuses what is not TensorFlow.js',
    (given) => {
      const stock = inPlace();
      expectError(() => install(given as never), TypeError);
      expectError(() => installed(given as never), TypeError);
      expect(inPlace()).toEqual(stock);
    },
  );

  it('names what it wants', () => {
    expect(() => install({} as never)).toThrow(
      "tf must be the module of TensorFlow.js 4 (import * as tf from '@tensorflow/tfjs'), got an object",
    );
  });

  it.each([
    [null, TypeError, 'options must be an object, got null'],
    [{ trainable: 1 }, TypeError, "trainable must be 'keras' or 'tfjs', got 1"],
    [{ trainable: 'torch' }, RangeError, "trainable must be 'keras' or 'tfjs', got \"torch\""],
    [{ masks: true }, TypeError, "masks must be 'keras' or 'ignore', got true"],
    [{ masks: 'tfjs' }, RangeError, "masks must be 'keras' or 'ignore', got \"tfjs\""],
    [{ trainable: 'tfjs', masks: 'none' }, RangeError, "masks must be 'keras' or 'ignore', got \"none\""],
    [{ frozen: true }, TypeError, 'options must only have trainable, masks, got "frozen"'],
  ])('refuses options that it does not know, and changes nothing: %j', (options, Class, message) => {
    const stock = inPlace();
    expectError(() => install(tf, options as never), Class);
    expect(() => install(tf, options as never)).toThrow(message);
    expect(inPlace()).toEqual(stock);
  });

  it('leaves a backend alone whose insides it does not know', () => {
    for (const backend of [{}, { data: new Map() }, { dataIdMap: new Map() }])
      expect(memoryOf(backend)).toBeUndefined();
    const stock = tf.getKernel('FusedBatchNorm', 'cpu');
    const kernelFunc = vi.fn();
    tf.unregisterKernel('FusedBatchNorm', 'cpu');
    tf.registerKernel({ ...stock, kernelFunc });
    install(tf);
    const given = { inputs: {}, backend: {}, attrs: {} };
    tf.getKernel('FusedBatchNorm', 'cpu').kernelFunc(given);
    expect(kernelFunc).toHaveBeenCalledExactlyOnceWith(given);
    uninstall();
    tf.unregisterKernel('FusedBatchNorm', 'cpu');
    tf.registerKernel(stock);
  });
});

describe('neither entry loads anything of TensorFlow.js:', () => {
  it.each(['batchnorm', 'batchnorm/tfjs'])('%s', (entry) => {
    const program = `
      import module from 'node:module';
      import '${entry}';
      console.log(Object.keys(module._cache).filter((path) => path.includes('tensorflow')).length);`;
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
      encoding: 'utf8',
    });
    expect({ stdout, stderr }).toEqual({ stdout: '0\n', stderr: '' });
  });
});
