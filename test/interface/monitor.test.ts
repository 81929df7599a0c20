// What a monitor sees of layers, and that they do not notice it.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import {
  BatchNorm,
  encode,
  FrozenBatchNorm,
  type LayerRecord,
  type Monitor,
  monitor,
  type Named,
  type TensorArray,
  type TensorLike,
} from 'batchnorm';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { uniform } from '../../examples/mnist/random.js';
import { expectListed } from '../support/messages.js';

const random = uniform(25);

/** Values of [samples, channels], around the number of their channel. */
function batch(samples: number, channels: number, spread = 1) {
  const values = Float32Array.from(
    { length: samples * channels },
    (_, i) => (i % channels) + spread * (random() - 0.5),
  );
  return { data: values, shape: [samples, channels] };
}

function only(watch: Monitor, outputs?: Named<TensorLike<TensorArray>>): LayerRecord {
  const [record] = watch.step(outputs) ?? [];
  return record;
}

function thrown(call: () => unknown): { name: string; code: string; message: string } {
  try {
    call();
  } catch (error) {
    const { name, code, message } = error as Error & { code: string };
    expectListed(message);
    return { name, code, message };
  }
  throw new Error('it must throw, got nothing');
}

describe('a monitor', () => {
  it('measures the drift of running statistics by their own deviations', () => {
    const bn = new BatchNorm(3, { decay: 0.75, eps: 1e-3 });
    const watch = monitor({ bn });
    for (let i = 0; i < 5; i++) {
      bn.forward(batch(8, 3, 1 + i));
      const record = only(watch);
      const { mean, variance } = bn.lastMoments ?? { mean: [], variance: [] };
      const [runningMean, runningVar] = [bn.runningMean ?? [], bn.runningVar ?? []];
      const z = [0, 1, 2].map((c) => Math.abs(mean[c] - runningMean[c]) / Math.sqrt(runningVar[c] + 1e-3));
      const ratios = [0, 1, 2].map((c) =>
        Math.abs(Math.log2(((variance[c] * 8) / 7 + 1e-3) / (runningVar[c] + 1e-3))),
      );
      expect(record).toMatchObject({ step: i + 1, layer: 'bn', state: 'training', notFinite: 0, dead: 0 });
      expect(record.meanDrift).toBeCloseTo((z[0] + z[1] + z[2]) / 3, 12);
      expect(record.maxMeanDrift).toBeCloseTo(Math.max(...z), 12);
      expect(record.driftChannel).toBe(z.indexOf(Math.max(...z)));
      expect(record.varDrift).toBeCloseTo((ratios[0] + ratios[1] + ratios[2]) / 3, 12);
      expect(record.maxVarDrift).toBeCloseTo(Math.max(...ratios), 12);
    }
  });

  it('sees no drift where the running statistics are those of the batch, biased or not', () => {
    for (const unbiasedRunningVar of [true, false]) {
      const bn = new BatchNorm(3, { decay: 0, unbiasedRunningVar });
      const watch = monitor([bn]);
      bn.forward(batch(4, 3));
      expect(only(watch)).toMatchObject({ layer: '0', maxMeanDrift: 0, maxVarDrift: 0 });
    }
  });

  it('counts dead channels by their weights and by their variances', () => {
    const bn = new BatchNorm(4);
    const watch = monitor({ bn });
    const x = batch(6, 4);
    for (let n = 0; n < 6; n++) x.data[4 * n + 2] = 7;
    bn.weight?.set([0, 1, 1, -1e-6]);
    bn.forward(x);
    expect(only(watch).dead).toBe(3);
    bn.forward(batch(6, 4));
    expect(only(watch).dead).toBe(2);
  });

  it('counts channels through which no gradient comes, once one has been seen', () => {
    const bn = new BatchNorm(3, { activation: 'relu' });
    const watch = monitor({ bn });
    bn.bias?.set([0, -100, 0]);
    const y = bn.forward(batch(6, 3));
    expect(only(watch, { bn: y }).withoutGradient).toBeNull();
    bn.backward({ data: new Float32Array(18).map(random), shape: [6, 3] });
    expect(only(watch, { bn: y }).state).toBe('idle');
    bn.forward(batch(6, 3));
    expect(only(watch).withoutGradient).toBe(1);
    bn.bias?.fill(-100);
    bn.forward(batch(6, 3));
    bn.backward({ data: new Float32Array(18).map(random), shape: [6, 3] });
    expect(only(watch).withoutGradient).toBe(3);
    expect(new BatchNorm(2, { weight: false, bias: false }).parameters()).toEqual([]);
    const bare = new BatchNorm(2, { weight: false, bias: false });
    const other = monitor({ bare });
    bare.forward(batch(4, 2));
    expect(only(other).withoutGradient).toBeNull();
  });

  it.each(['float32', 'float64', 'bfloat16', 'float16'] as const)(
    'counts what a ReLU makes 0, in %s, of all values where there are few',
    (dtype) => {
      const values = [-1, 2, 3, -0, 0, NaN, 5, -Infinity, Infinity, -2, 1e-3, -7];
      const stored =
        dtype === 'float64'
          ? Float64Array.from(values)
          : dtype === 'float32'
            ? Float32Array.from(values)
            : encode(Float32Array.from(values), dtype);
      const bn = new BatchNorm(2, { dtype });
      const watch = monitor([bn]);
      const x =
        dtype === 'float64'
          ? Float64Array.from({ length: 12 }, random)
          : Float32Array.from({ length: 12 }, random);
      const data = dtype === 'float64' || dtype === 'float32' ? x : encode(x as Float32Array, dtype);
      bn.forward({ data, shape: [2, 2, 3] } as never);
      expect(only(watch, [{ data: stored, shape: [2, 2, 3] }]).notPositive).toBeCloseTo(7 / 12, 12);
    },
  );

  it('looks at as many values of each channel where there are many, wherever the channels lie', () => {
    for (const axis of [1, -1]) {
      const bn = new BatchNorm(4, { axis });
      const shape = axis === 1 ? [64, 4, 40, 40] : [64, 40, 40, 4];
      const size = 64 * 4 * 1600;
      // Positive in channel 3 alone.
      const channelOf = (i: number) => (axis === 1 ? Math.floor(i / 1600) % 4 : i % 4);
      const y = { data: Float32Array.from({ length: size }, (_, i) => (channelOf(i) === 3 ? 1 : -1)), shape };
      const watch = monitor({ bn });
      bn.forward({ data: new Float32Array(size).map(random), shape });
      expect(only(watch, { bn: y }).notPositive).toBe(0.75);
    }
  });

  it('counts rejected updates since the last look, and channels that are not finite', () => {
    const bn = new BatchNorm(4);
    const watch = monitor({ bn });
    const x = batch(6, 4);
    x.data[1] = NaN;
    bn.forward(x);
    bn.forward(batch(6, 4));
    expect(only(watch)).toMatchObject({ rejected: 1, rejectedShare: 1 / 8, notFinite: 0 });
    bn.forward(x);
    expect(only(watch)).toMatchObject({ rejected: 1, rejectedShare: 1 / 4, notFinite: 1 });
    bn.resetRunningStats();
    bn.forward(x);
    expect(only(watch)).toMatchObject({ rejected: 1, rejectedShare: 1 / 4 });
    x.data.fill(NaN);
    bn.forward(x);
    expect(only(watch)).toMatchObject({
      meanDrift: null,
      driftChannel: null,
      notFinite: 4,
      rejectedShare: 1,
    });
  });

  it('tells layers that train from those that do not', () => {
    const layers = {
      training: new BatchNorm(2),
      idle: new BatchNorm(2),
      evaluation: new BatchNorm(2),
      untrained: new BatchNorm(2).eval(),
      cleared: new BatchNorm(2),
      untracked: new BatchNorm(2, { trackRunningStats: false }),
    };
    layers.idle.forward(batch(4, 2));
    layers.evaluation.forward(batch(4, 2));
    layers.evaluation.eval();
    const watch = monitor(layers);
    const x = batch(4, 2);
    layers.training.forward(x);
    layers.evaluation.forward(x);
    layers.untrained.forward(x);
    layers.cleared.forward(x);
    layers.cleared.clear();
    layers.untracked.forward(x);
    const states = () => Object.fromEntries(watch.step()?.map(({ layer, state }) => [layer, state]) ?? []);
    expect(states()).toEqual({
      training: 'training',
      idle: 'idle',
      evaluation: 'evaluation',
      untrained: 'untrained',
      cleared: 'training',
      untracked: 'training',
    });
    // The same batch again: what counts tells, and nothing else can.
    layers.training.forward(x);
    layers.untracked.forward(x);
    expect(states()).toMatchObject({ training: 'training', untracked: 'training', cleared: 'idle' });
    layers.training.forward(x);
    // A batch that no statistics take in is a batch.
    layers.cleared.forward(batch(4, 2), { updateStats: false });
    layers.untracked.eval();
    expect(states()).toMatchObject({
      training: 'training',
      idle: 'idle',
      cleared: 'training',
      untracked: 'evaluation',
    });
    expect(watch.toJSON().layers[5].records[0]).toMatchObject({ meanDrift: null, rejected: null, dead: 0 });
  });

  it('changes no bit of a training', () => {
    const train = (isWatched: boolean) => {
      const bn = new BatchNorm(5, { activation: 'relu', reuse: true });
      const watch = isWatched ? monitor({ bn }) : undefined;
      const values = uniform(1);
      const results: number[] = [];
      for (let i = 0; i < 20; i++) {
        const x = { data: Float32Array.from({ length: 40 }, values), shape: [8, 5] };
        const y = bn.forward(x);
        const { dx } = bn.backward({ data: x.data.map((value) => value - 0.5), shape: [8, 5] });
        watch?.step({ bn: y });
        for (const { value, grad } of bn.parameters())
          value.forEach((_, c) => {
            value[c] -= 0.1 * grad[c];
          });
        results.push(...y.data, ...(dx?.data ?? []));
      }
      return { results, state: bn.toJSON() };
    };
    expect(train(true)).toEqual(train(false));
  });

  it('looks at one step in `every`, the first among them', () => {
    const bn = new BatchNorm(2);
    const watch = monitor({ bn }, { every: 3 });
    const steps = Array.from({ length: 8 }, () => {
      bn.forward(batch(4, 2));
      return watch.step()?.[0].step;
    });
    expect(steps).toEqual([1, undefined, undefined, 4, undefined, undefined, 7, undefined]);
    expect(watch.toJSON()).toMatchObject({ steps: 8, every: 3 });
  });

  it('keeps as many records however long training takes, and of each stretch the furthest drift', () => {
    const bn = new BatchNorm(1, { decay: 0.9 });
    const watch = monitor({ bn });
    let furthest: LayerRecord | undefined;
    for (let i = 0; i < 5000; i++) {
      const x = batch(4, 1);
      if (i === 2345)
        x.data.forEach((value, n) => {
          x.data[n] = value + 50;
        });
      bn.forward(x);
      const record = only(watch);
      if (i > 100 && (record.maxMeanDrift ?? 0) > (furthest?.maxMeanDrift ?? 0)) furthest = record;
    }
    const [{ records }] = watch.toJSON().layers;
    expect(records.length).toBeGreaterThan(199);
    expect(records.length).toBeLessThan(401);
    expect(furthest?.step).toBe(2346);
    expect(records).toContain(furthest);
    const steps = records.map(({ step }) => step);
    expect(steps).toEqual([...steps].sort((a, b) => a - b));
    // From the whole of training, and not from its end alone.
    const gaps = steps.slice(1).map((step, j) => step - steps[j]);
    expect(Math.max(...gaps)).toBeLessThan(64);
    expect(new Set(steps).size).toBe(steps.length);
  });

  it('takes layers by name from an object, a Map or pairs, and by index from an array', () => {
    const [a, b] = [new BatchNorm(1), new BatchNorm(2)];
    const names = (layers: Named<BatchNorm>) =>
      monitor(layers)
        .toJSON()
        .layers.map(({ name, channels }) => [name, channels]);
    const expected = [
      ['a', 1],
      ['b', 2],
    ];
    expect(names({ a, b })).toEqual(expected);
    expect(
      names(
        new Map([
          ['a', a],
          ['b', b],
        ]),
      ),
    ).toEqual(expected);
    expect(
      names([
        ['a', a],
        ['b', b],
      ]),
    ).toEqual(expected);
    expect(names([a, b])).toEqual([
      ['0', 1],
      ['1', 2],
    ]);
  });

  it('prints a table, by console.log too', () => {
    const bn = new BatchNorm(2, { decay: 0 });
    const watch = monitor({ bn, new: new BatchNorm(1), 'a\u001b[2J\nb': new BatchNorm(1) });
    expect(watch.table()).toContain('not looked at');
    bn.forward(batch(4, 2));
    watch.step();
    const [, head, first, second, third] = watch.table().split('\n');
    expect(head.split(/ {2,}/).slice(0, 5)).toEqual(['layer', 'state', 'step', 'mean drift', 'largest']);
    expect(first.split(/ {2,}/)).toEqual([
      'bn',
      'training',
      '1',
      '0',
      '0',
      '0',
      '0',
      '0 of 2',
      '–',
      '–',
      '0 %',
    ]);
    expect(second).toContain('untrained');
    expect(third).toContain('"a\\u001b[2J\\nb"');
    expect(inspect(watch)).toBe(watch.table());
  });

  it('makes a page in which names are text, and that loads nothing', () => {
    const bn = new BatchNorm(2);
    const watch = monitor({ '<script>alert(1)</script>': bn }, { title: 'A & <b>' });
    for (let i = 0; i < 30; i++) {
      bn.forward(batch(4, 2));
      watch.step();
    }
    const html = watch.html();
    expect(html).toContain('<h1>A &#38; &#60;b&#62;</h1>');
    expect(html).not.toContain('<script');
    expect(html).not.toMatch(/(?:src|href)=|url\(|@import|NaN|undefined/);
    expect(monitor({ bn }).html()).toContain('over 0 steps');
  });
});

describe('the files of a monitor', () => {
  const folders: string[] = [];
  const newFolder = () => {
    const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
    folders.push(folder);
    return folder;
  };
  afterEach(() => {
    vi.restoreAllMocks();
    for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
  });

  it('are a line of JSON per layer and look, and the page, in a folder that it makes', () => {
    const folder = join(newFolder(), 'some', 'where');
    const [a, b] = [new BatchNorm(2), new BatchNorm(3)];
    const watch = monitor({ a, b }, { folder, every: 2 });
    const records: LayerRecord[] = [];
    for (let i = 0; i < 5; i++) {
      a.forward(batch(4, 2));
      records.push(...(watch.step() ?? []));
    }
    watch[Symbol.dispose]();
    const written = readFileSync(join(folder, 'monitor.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(written).toHaveLength(6);
    expect(written).toEqual(records);
    expect(readFileSync(join(folder, 'monitor.html'), 'utf8')).toBe(watch.html());
    // A second training begins anew.
    monitor({ a }, { folder }).close();
    expect(readFileSync(join(folder, 'monitor.jsonl'), 'utf8')).toBe('');
  });

  it('are written while training goes on', () => {
    const folder = newFolder();
    const now = vi.spyOn(performance, 'now');
    const bn = new BatchNorm(2);
    const start = performance.now();
    const watch = monitor({ bn }, { folder });
    const lines = () => readFileSync(join(folder, 'monitor.jsonl'), 'utf8').split('\n').length - 1;
    watch.step();
    now.mockReturnValue(start + 2000);
    watch.step();
    expect([lines(), existsSync(join(folder, 'monitor.html'))]).toEqual([2, false]);
    watch.step();
    expect(lines()).toBe(2);
    now.mockReturnValue(start + 60_000);
    watch.step();
    expect([lines(), existsSync(join(folder, 'monitor.html'))]).toEqual([4, true]);
  });

  it('may not be writable: one warning, and training goes on', () => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
    const folder = join(newFolder(), 'file');
    writeFileSync(folder, 'no folder');
    const bn = new BatchNorm(2);
    const watch = monitor({ bn }, { folder });
    for (let i = 0; i < 3; i++) {
      bn.forward(batch(4, 2));
      expect(only(watch).state).toBe('training');
    }
    watch.close();
    expect(warn).toHaveBeenCalledTimes(1);
    const [message, options] = warn.mock.calls[0] as unknown as [string, { code: string; type: string }];
    expect(message).toMatch(/^the monitor cannot write monitor\.jsonl into ".*file": .*Training goes on/);
    expectListed(message);
    expect(options).toEqual({ type: 'BatchnormWarning', code: 'BATCHNORM_MONITOR' });
    expect(readFileSync(folder, 'utf8')).toBe('no folder');
  });

  it('may become unwritable while training goes on', () => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
    const folder = newFolder();
    const watch = monitor({ bn: new BatchNorm(2) }, { folder });
    watch.step();
    rmSync(join(folder, 'monitor.jsonl'));
    mkdirSync(join(folder, 'monitor.jsonl'));
    watch.close();
    expect(warn).toHaveBeenCalledTimes(1);
  });
});

describe('a monitor refuses', () => {
  const bn = new BatchNorm(2);
  const cases: [title: string, call: () => unknown, code: string, message: string][] = [
    [
      'nothing',
      () => monitor(undefined as never),
      'TYPE',
      'layers must be layers by name, or an array of them, got undefined',
    ],
    [
      'a layer alone',
      () => monitor(bn as never),
      'TYPE',
      'layers must be layers by name, or an array of them, got an object; give { name: layer }',
    ],
    [
      'an array of numbers',
      () => monitor(new Float32Array(2) as never),
      'TYPE',
      'layers must be layers by name, or an array of them, got Float32Array',
    ],
    ['no layers', () => monitor({}), 'VALUE', 'layers must be one at least, got none'],
    [
      'what is no layer',
      () => monitor({ conv: {} as never }),
      'TYPE',
      'layers.conv must be a BatchNorm, got an object',
    ],
    [
      'a proxy of a layer',
      () => monitor([new Proxy(bn, {})]),
      'TYPE',
      'layers["0"] must be a BatchNorm, got an object',
    ],
    [
      'a frozen layer',
      () => monitor({ f: new BatchNorm(1).freeze() as never }),
      'TYPE',
      'layers.f must be a BatchNorm, got an object (a FrozenBatchNorm, in which nothing changes)',
    ],
    [
      'a frozen layer that was disposed of',
      () => {
        const f = FrozenBatchNorm.fromMeanStd({ mean: [0], std: [1] });
        f[Symbol.dispose]();
        monitor({ f: f as never });
      },
      'TYPE',
      'layers.f must be a BatchNorm, got an object (a FrozenBatchNorm, in which nothing changes)',
    ],
    [
      'layers that share a name',
      () =>
        monitor([
          ['bn', bn],
          ['bn', new BatchNorm(2)],
        ]),
      'VALUE',
      'layers[1] must have a name of its own, got "bn" twice',
    ],
    [
      'names that are no strings',
      () => monitor(new Map([[1, bn]]) as never),
      'TYPE',
      'layers must have a string as its name, got 1',
    ],
    [
      'an unknown option',
      () => monitor({ bn }, { dir: 'out' } as never),
      'OPTION',
      'options must only have every, folder, title, got "dir"',
    ],
    ['every 0', () => monitor({ bn }, { every: 0 }), 'VALUE', 'every must be an integer from 1 on, got 0'],
    [
      'a folder that is no string',
      () => monitor({ bn }, { folder: new URL('file:///tmp') as never }),
      'TYPE',
      'folder must be a string, got an object',
    ],
    [
      'a title that is no string',
      () => monitor({ bn }, { title: 5 as never }),
      'TYPE',
      'title must be a string, got 5',
    ],
    [
      'outputs of other layers',
      () => monitor({ bn1: bn }).step({ bn: batch(4, 2) }),
      'VALUE',
      'outputs must have names of layers that are watched, got "bn"; did you mean bn1?',
    ],
    [
      'more outputs than layers',
      () => monitor([bn]).step([batch(4, 2), batch(4, 2)]),
      'VALUE',
      'outputs must have names of layers that are watched, got "1"',
    ],
    [
      'outputs of other channels',
      () => monitor({ bn }).step({ bn: batch(4, 3) }),
      'VALUE',
      'outputs.bn.shape[1] must be 2 (channels), got 3',
    ],
    [
      'outputs that are too short',
      () => monitor({ bn }).step({ bn: { data: new Float32Array(7), shape: [4, 2] } }),
      'VALUE',
      'outputs.bn.data must have 8 values (4 x 2), got 7',
    ],
    [
      'outputs of another dtype',
      () => monitor({ bn }).step({ bn: { data: new Float64Array(8), shape: [4, 2] } }),
      'TYPE',
      'outputs.bn.data must be a Float32Array, got Float64Array',
    ],
    [
      'a step behind its end',
      () => {
        const watch = monitor({ bn });
        watch.close();
        watch.close();
        watch.step();
      },
      'DISPOSED',
      'step() must come before close(), got a monitor that is closed',
    ],
  ];

  it.each(cases)('%s', (_, call, code, message) => {
    const error = thrown(call);
    expect(error.message).toBe(message);
    expect(error.code).toMatch(new RegExp(`${code}$`));
  });

  it('outputs without counting the step', () => {
    const watch = monitor({ bn });
    expect(() => watch.step({ other: batch(4, 2) })).toThrow();
    expect(watch.steps).toBe(0);
  });
});
