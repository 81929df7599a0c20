// Files that are damaged or made to harm: an error with a code, in bounded time and memory, whatever the bytes are.
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlobWriter, TextReader, Uint8ArrayReader, ZipWriter } from '@zip.js/zip.js';
import { loadBatchNorms } from 'batchnorm/files';
import protobuf from 'protobufjs/minimal.js';
import { afterAll, describe, expect, it } from 'vitest';
import { failureOf, inFiles } from '../support/files.js';
import { patience } from '../support/patience.js';
import { Random, seedNote } from '../support/random.js';

const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
afterAll(() => rmSync(folder, { recursive: true }));

const bytesOf = (name: string) => new Uint8Array(readFileSync(inFiles(name)));

/** A file of these bytes, whose ending says its format. */
function fileOf(name: string, bytes: Uint8Array | string): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

/** Whether a file is read, or refused as it should be. */
async function isHandled(path: string): Promise<string | undefined> {
  const failure = await failureOf(() => loadBatchNorms(path));
  if (failure === undefined) return undefined;
  const { code, message } = failure;
  const known = /^ERR_BATCHNORM_(?:INVALID_FILE|UNSUPPORTED_FILE|FILE_TOO_LARGE|FILE_TOO_SLOW)$/.test(
    `${code}`,
  );
  return known && / must .*, got /s.test(message) ? undefined : `${code} ${message}`;
}

describe.each([
  'torch-float32.safetensors',
  'keras.safetensors',
  'opset15.onnx',
  'constants.onnx',
  'half.onnx',
])('%s', (name) => {
  const bytes = bytesOf(name);

  it('is refused at every length but its own', { timeout: patience }, async () => {
    for (let length = 0; length < bytes.length; length++) {
      const path = fileOf(`short-${name}`, bytes.subarray(0, length));
      const failure = await failureOf(() => loadBatchNorms(path));
      // A message of protobuf may end behind any of its fields.
      if (failure === undefined && name.endsWith('.onnx')) continue;
      expect(failure?.code, `${length} bytes`).toMatch(/^ERR_BATCHNORM_(?:INVALID|UNSUPPORTED)_FILE$/);
    }
  });

  it(`with bytes changed at random is read or refused, ${seedNote}`, { timeout: patience }, async () => {
    const random = new Random(24);
    for (let run = 0; run < 400; run++) {
      const changed = bytes.slice();
      for (let i = random.integer(1, 4); i > 0; i--)
        changed[random.integer(0, changed.length - 1)] = random.integer(0, 255);
      expect(await isHandled(fileOf(`changed-${name}`, changed)), `run ${run}`).toBeUndefined();
    }
  });
});

describe.each([
  ['keras3.keras', 60],
  ['keras2-weights.h5', 8],
] as const)('%s', (name, runs) => {
  const bytes = bytesOf(name);

  it(`cut or changed at random is read or refused, ${seedNote}`, { timeout: 2 * patience }, async () => {
    const random = new Random(25);
    for (let run = 0; run < runs; run++) {
      const changed = bytes.slice(0, run % 2 === 0 ? random.integer(0, bytes.length - 1) : bytes.length);
      for (let i = random.integer(1, 8); i > 0 && changed.length > 0; i--)
        changed[random.integer(0, changed.length - 1)] = random.integer(0, 255);
      expect(await isHandled(fileOf(`changed-${name}`, changed)), `run ${run}`).toBeUndefined();
    }
    // What failed has left nothing behind that the next would meet.
    expect((await loadBatchNorms(inFiles(name))).size).toBeGreaterThan(0);
  });
});

describe('a model.json', () => {
  const text = readFileSync(inFiles('tfjs/model.json'), 'utf8');

  /** The fixture with its description changed. */
  function changed(change: (model: Model) => void, name = 'model.json'): string {
    const model = JSON.parse(text);
    change(model);
    cpSync(inFiles('tfjs'), join(folder, 'tfjs'), { recursive: true });
    return fileOf(join('tfjs', name), JSON.stringify(model));
  }

  interface Model {
    modelTopology: { model_config?: object };
    weightsManifest: { paths: string[]; weights: Record<string, unknown>[] }[];
  }

  it.each<[what: string, change: (model: Model) => void, message: string, code?: string]>([
    [
      'a missing shard',
      ({ weightsManifest: [group] }) => group.paths.push('group1-shard3of3.bin'),
      'a shard must be beside the model, got no "group1-shard3of3.bin"',
    ],
    [
      'a shard outside',
      ({ weightsManifest: [group] }) => {
        group.paths[0] = '../../secret.bin';
      },
      'a shard must name a file in the folder of the model',
    ],
    [
      'an absolute shard',
      ({ weightsManifest: [group] }) => {
        group.paths[0] = '/etc/passwd';
      },
      'a shard must name a file in the folder of the model',
    ],
    ['one shard too few', ({ weightsManifest: [group] }) => group.paths.pop(), 'bytes of its shards'],
    [
      'one shard too many',
      ({ weightsManifest: [group] }) => group.paths.push('model.json'),
      'shards must have',
    ],
    [
      'a shard twice',
      ({ weightsManifest: [group] }) => group.paths.push(`./${group.paths[0]}`),
      'paths must have each shard once, got "./group1-shard1of2.bin" twice',
    ],
    [
      'a negative size',
      ({ weightsManifest: [group] }) => {
        group.weights[0].shape = [-1];
      },
      'must be an array of non-negative integers, got [-1]',
    ],
    [
      'a size beyond counting',
      ({ weightsManifest: [group] }) => {
        group.weights[0].shape = [2 ** 40, 2 ** 40];
      },
      'must have at most 2^53 - 1 values',
    ],
    [
      'an unknown dtype',
      ({ weightsManifest: [group] }) => {
        group.weights[0].dtype = '__proto__';
      },
      'or string, got "__proto__"',
    ],
    [
      'a quantization without a scale',
      ({ weightsManifest: [group] }) => {
        group.weights[0].quantization = { dtype: 'uint8', min: 0 };
      },
      'quantization.scale must be a finite number, got nothing',
    ],
    [
      'a weight twice',
      ({ weightsManifest: [group] }) => {
        group.weights[1].name = group.weights[0].name;
      },
      'weights must have each name once',
    ],
    [
      'a manifest that is none',
      (model) => {
        model.weightsManifest = {} as never;
      },
      'weightsManifest must be an array, got {…}',
    ],
    [
      'another JSON',
      (model) => {
        model.modelTopology = 3 as never;
      },
      'file must be a model.json of TensorFlow.js',
      'UNSUPPORTED_FILE',
    ],
  ])('with %s is refused', async (_what, change, message, code = 'INVALID_FILE') => {
    const failure = await failureOf(() => loadBatchNorms(changed(change)));
    expect(failure?.message).toContain(message);
    expect(failure?.code).toBe(`ERR_BATCHNORM_${code}`);
  });

  it.skipIf(process.platform === 'win32')('does not follow a link out of its folder', async () => {
    const path = changed(({ weightsManifest: [group] }) => {
      group.paths[0] = 'link.bin';
    });
    symlinkSync(inFiles('external.bin'), join(folder, 'tfjs', 'link.bin'));
    expect((await failureOf(() => loadBatchNorms(path)))?.message).toContain('in the folder of the model');
  });

  it('of models within models without end is refused', async () => {
    const deep = '{"class_name":"Sequential","config":{"name":"a","layers":[';
    const config = `${deep.repeat(20_000)}${']}}'.repeat(20_000)}`;
    const path = fileOf('deep.json', `{"modelTopology":{"model_config":${config}},"weightsManifest":[]}`);
    expect((await failureOf(() => loadBatchNorms(path)))?.code).toBe('ERR_BATCHNORM_FILE_TOO_LARGE');
  });

  interface Norms {
    path: string;
    names: string[];
  }

  /** Batch norms within a model. */
  function withNorms(count: number, around: string): Norms {
    const names = Array.from({ length: count }, (_, i) => `n${i}`);
    const layers = names.map((name) => ({ class_name: 'BatchNormalization', config: { name } }));
    const inner = { class_name: 'Sequential', config: { name: around, layers } };
    const weights = names.flatMap((name) =>
      ['moving_mean', 'moving_variance'].map((part) => ({
        name: `${name}/${part}`,
        shape: [1],
        dtype: 'float32',
      })),
    );
    mkdirSync(join(folder, 'many'), { recursive: true });
    fileOf('many/values.bin', new Uint8Array(8 * count));
    const model = {
      modelTopology: { class_name: 'Sequential', config: { name: 'model', layers: [inner] } },
      weightsManifest: [{ paths: ['values.bin'], weights }],
    };
    return { path: fileOf('many/model.json', JSON.stringify(model)), names };
  }

  it('of any number of batch norms is gone through once', { timeout: patience }, async () => {
    const { path, names } = withNorms(100_000, 'inner');
    expect([...(await loadBatchNorms(path)).keys()]).toEqual(names.map((name) => `inner/${name}`));
  });

  it('with a long name around many layers is refused', async () => {
    const { path } = withNorms(100, 'a'.repeat(1 << 20));
    const failure = await failureOf(() => loadBatchNorms(path));
    expect(failure?.message).toBe('names of layers must have at most 67108864 characters, got more');
    expect(failure?.code).toBe('ERR_BATCHNORM_FILE_TOO_LARGE');
  });

  it.skipIf(process.platform === 'win32')('as long as a disk is refused', async () => {
    const path = fileOf('sparse.json', '{');
    truncateSync(path, 2 ** 40);
    const failure = await failureOf(() => loadBatchNorms(path));
    expect(failure?.message).toBe(`file must have at most ${2 ** 26} bytes, got ${2 ** 40}`);
    expect(failure?.code).toBe('ERR_BATCHNORM_FILE_TOO_LARGE');
    rmSync(path);
  });

  it('may have names of what objects have', async () => {
    const path = changed(({ weightsManifest: [group] }) => {
      for (const weight of group.weights)
        weight.name = `${weight.name}`.replace(/^plain/, '__proto__').replace(/^bare/, 'constructor');
    });
    const found = await loadBatchNorms(path);
    expect([...found.keys()]).toEqual(expect.arrayContaining(['__proto__', 'constructor']));
    expect(Object.prototype).not.toHaveProperty('gamma');
  });

  it('with a shard given as bytes says what to give instead', async () => {
    const failure = await failureOf(() => loadBatchNorms(new TextEncoder().encode(text)));
    expect(failure?.message).toContain('give the path instead');
    expect(failure?.code).toBe('ERR_BATCHNORM_UNSUPPORTED_FILE');
  });
});

describe('an .onnx', () => {
  /** A message with fields that are bytes, by their numbers. */
  function message(...fields: [number: number, value: Uint8Array | string | number][]): Uint8Array {
    const writer = protobuf.Writer.create();
    for (const [number, value] of fields) {
      if (typeof value === 'number') writer.uint32(number * 8).int64(value);
      else if (typeof value === 'string') writer.uint32(number * 8 + 2).string(value);
      else writer.uint32(number * 8 + 2).bytes(value);
    }
    return writer.finish();
  }
  const node = (operator: string, inputs: string[], output: string, ...more: [number, Uint8Array][]) =>
    message(...inputs.map((name): [number, string] => [1, name]), [2, output], [4, operator], ...more);
  const norm = node('BatchNormalization', ['x', 's', 's', 's', 's'], 'y');
  const model = (...graph: [number, Uint8Array][]) => message([1, 8], [7, message(...graph)]);
  const tensor = (...fields: [number, Uint8Array | string | number][]) => message(...fields, [8, 's']);

  it.each<[what: string, bytes: Uint8Array, message: string, code?: string]>([
    ['without a graph', message([1, 8]), 'file must have a graph, got none'],
    [
      'whose Identity nodes lead in a circle',
      model([1, node('Identity', ['s'], 's')], [1, norm]),
      'must lead to an initializer, got more than',
    ],
    [
      'whose parameters are computed',
      model([1, node('Add', ['a', 'b'], 's')], [1, norm]),
      'must be an initializer or a Constant, got "s"',
      'UNSUPPORTED_FILE',
    ],
    [
      'with fewer values than its shape says',
      model([1, norm], [5, tensor([1, 3], [2, 1], [9, new Uint8Array(8)])]),
      'raw_data must have 12 bytes',
    ],
    [
      'of a shape that would fill the memory',
      model([1, norm], [5, tensor([1, 2 ** 40], [2, 1])]),
      'must have at most 16777216 values',
      'FILE_TOO_LARGE',
    ],
    [
      'of a negative size',
      model([1, norm], [5, tensor([1, -3], [2, 1])]),
      'must be non-negative integers, got -3',
    ],
    [
      'of integers',
      model([1, norm], [5, tensor([1, 1], [2, 7])]),
      'data_type must be FLOAT',
      'UNSUPPORTED_FILE',
    ],
    [
      'with more listed values than its shape says',
      model([1, norm], [5, tensor([1, 1], [2, 1], [4, new Uint8Array(8)])]),
      'must have 1 values, got more',
    ],
    [
      'whose values lie elsewhere on the disk',
      model(
        [1, norm],
        [5, tensor([1, 1], [2, 1], [13, message([1, 'location'], [2, '../../etc/passwd'])], [14, 1])],
      ),
      'must name a file in the folder of the model',
    ],
    [
      'whose values lie behind the end of their file',
      model(
        [1, norm],
        [
          5,
          tensor(
            [1, 1],
            [2, 1],
            [13, message([1, 'location'], [2, 'refused.onnx'])],
            [13, message([1, 'offset'], [2, '9007199254740000'])],
            [14, 1],
          ),
        ],
      ),
      'external_data must lie in the',
    ],
    [
      'with half a value in a list',
      model(
        [1, node('Constant', [], 's', [5, message([1, 'value_floats'], [7, new Uint8Array(6)])])],
        [1, norm],
      ),
      'must have whole float32 values, got 6 bytes',
    ],
    [
      'whose values lie again and again in the same place',
      model(
        ...Array.from({ length: 17 }, (_, i): [number, Uint8Array] => [
          1,
          node('BatchNormalization', ['x', ...['s', 's', 's', 's'].map((name) => `${name}${i}`)], `y${i}`),
        ]),
        ...Array.from({ length: 17 }, (_, i): [number, Uint8Array] => [
          5,
          message(
            [1, 1 << 22],
            [2, 1],
            [8, `s${i}`],
            [13, message([1, 'location'], [2, 'zeros.bin'])],
            [14, 1],
          ),
        ]),
      ),
      'must stay below 268435456 bytes with all others, got shape [4194304]',
      'FILE_TOO_LARGE',
    ],
    [
      'with groups in each other',
      new Uint8Array(10_000).fill(0x0b),
      'must begin a field of protobuf, got another tag',
    ],
    ['with a length beyond its end', Uint8Array.of(0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f), 'must end at byte 6'],
  ])('%s is refused', async (_what, bytes, text, code = 'INVALID_FILE') => {
    fileOf('zeros.bin', new Uint8Array(1 << 24));
    const failure = await failureOf(() => loadBatchNorms(fileOf('refused.onnx', bytes)));
    expect(failure?.message).toContain(text);
    expect(failure?.code).toBe(`ERR_BATCHNORM_${code}`);
  });

  // Sparse: it takes no room on the disk, but of Windows, and would take all memory.
  it
    .skipIf(process.platform === 'win32')
    .each<[what: string, number: number, before: Uint8Array, text: string]>([
      ['dimensions', 1, tensor([2, 1]), 'dims must be at most 64, got more'],
      ['half values', 5, tensor([1, 1], [2, 10]), 'must have 1 values, got more'],
    ])('with a list of %s as long as a disk is refused', async (_what, number, before, text) => {
    const bytes = 2 ** 40;
    const head = (field: number, length: number) =>
      protobuf.Writer.create()
        .uint32(field * 8 + 2)
        .int64(length)
        .finish();
    const list = head(number, bytes);
    const inGraph = head(5, before.length + list.length + bytes);
    const nodes = message([1, norm]);
    const inModel = head(7, nodes.length + inGraph.length + before.length + list.length + bytes);
    const start = Buffer.concat([inModel, nodes, inGraph, before, list]);
    const path = fileOf('sparse.onnx', start);
    truncateSync(path, start.length + bytes);
    const failure = await failureOf(() => loadBatchNorms(path));
    expect(failure?.message).toContain(text);
    expect(failure?.code).toBe('ERR_BATCHNORM_INVALID_FILE');
    rmSync(path);
  });

  it('of graphs within graphs without end is refused', async () => {
    let graph = message();
    for (let depth = 0; depth < 100; depth++)
      graph = message([1, message([4, 'If'], [5, message([1, 'then_branch'], [6, graph])])]);
    const failure = await failureOf(() => loadBatchNorms(fileOf('deep.onnx', message([7, graph]))));
    expect(failure?.code).toBe('ERR_BATCHNORM_FILE_TOO_LARGE');
  });

  it('may use a name again in another graph', async () => {
    const values = tensor([1, 1], [2, 1], [9, new Uint8Array(4)]);
    const named = message(
      ...['x', 's', 's', 's', 's'].map((name): [number, string] => [1, name]),
      [2, 'y'],
      [3, 'bn'],
      [4, 'BatchNormalization'],
    );
    const inner = message([1, named], [5, values]);
    const branches = ['then_branch', 'else_branch'].map((name): [number, Uint8Array] => [
      5,
      message([1, name], [6, inner]),
    ]);
    const choice = message([3, 'if'], [4, 'If'], ...branches);
    const found = await loadBatchNorms(fileOf('names.onnx', model([1, named], [1, choice], [5, values])));
    expect([...found.keys()]).toEqual(['bn', 'y', 'if/else_branch/bn']);
  });

  it('of many nodes that share one parameter has it once', async () => {
    const values = tensor([1, 1 << 20], [2, 1], [9, new Uint8Array(1 << 22)]);
    const nodes = Array.from({ length: 500 }, (_, i): [number, Uint8Array] => [
      1,
      node('BatchNormalization', ['x', 's', 's', 's', 's'], `y${i}`),
    ]);
    const found = [...(await loadBatchNorms(fileOf('shared.onnx', model(...nodes, [5, values])))).values()];
    expect(found).toHaveLength(500);
    expect(new Set(found.flatMap(({ state }) => [state.weight, state.running_var])).size).toBe(1);
  });
});

describe('a .keras', () => {
  async function zipOf(entries: Record<string, string | Uint8Array>): Promise<Uint8Array> {
    const zip = new ZipWriter(new BlobWriter());
    for (const [name, value] of Object.entries(entries))
      await zip.add(name, typeof value === 'string' ? new TextReader(value) : new Uint8ArrayReader(value));
    return new Uint8Array(await (await zip.close()).arrayBuffer());
  }

  it.each<[what: string, entries: Record<string, string | Uint8Array>, message: string, code?: string]>([
    ['without a configuration', { 'data.pkl': 'x' }, 'must be a .keras file', 'UNSUPPORTED_FILE'],
    [
      'with a configuration of no JSON',
      { 'config.json': '{', 'model.weights.h5': 'x' },
      'must be JSON, got "{"',
    ],
    [
      'with weights that are none',
      { 'config.json': '{"class_name":"Sequential","config":{}}', 'model.weights.h5': 'x' },
      'must be HDF5 that h5wasm reads',
    ],
    [
      'whose layers are in another file',
      {
        'config.json': JSON.stringify({
          class_name: 'Sequential',
          config: { name: 'model', layers: [{ class_name: 'BatchNormalization', config: { name: 'bn' } }] },
        }),
        'model.weights.h5': bytesOf('outside-layers.weights.h5'),
      },
      'must have 4 variables, got 0',
    ],
    [
      'that becomes large when it is unpacked',
      {
        'config.json': '{"class_name":"Sequential","config":{}}',
        'model.weights.h5': new Uint8Array(2 ** 26 + 2 ** 23),
      },
      'model.weights.h5 must have at most',
      'FILE_TOO_LARGE',
    ],
    [
      'with a configuration of zeros without end',
      { 'config.json': new Uint8Array(2 ** 26 + 1), 'model.weights.h5': 'x' },
      'config.json must have at most 67108864 bytes',
      'FILE_TOO_LARGE',
    ],
  ])('%s is refused', { timeout: patience }, async (_what, entries, message, code = 'INVALID_FILE') => {
    const failure = await failureOf(async () => loadBatchNorms(await zipOf(entries)));
    expect(failure?.message).toContain(message);
    expect(failure?.code).toBe(`ERR_BATCHNORM_${code}`);
  });
});

describe('an .h5', () => {
  it('whose groups contain themselves, or link to other files, is refused', {
    timeout: patience,
  }, async () => {
    for (const name of ['circle.h5', 'outside.h5']) {
      const failure = await failureOf(() => loadBatchNorms(inFiles(name)));
      expect(failure?.code, name).toMatch(/^ERR_BATCHNORM_(?:FILE_TOO_LARGE|INVALID_FILE)$/);
    }
  });

  it('whose values are in another file is refused', { timeout: patience }, async () => {
    const failure = await failureOf(() => loadBatchNorms(inFiles('outside-values.h5')));
    expect(failure?.code).toBe('ERR_BATCHNORM_UNSUPPORTED_FILE');
    expect(failure?.message).toContain('must have its values in the file, got those of other files');
  });

  it('that would take for ever is given up in time, and nothing waits for it', {
    timeout: patience,
  }, async () => {
    let turns = 0;
    const timer = setInterval(() => turns++, 10);
    // A million ways lead through its 20 groups.
    const failure = await failureOf(() => loadBatchNorms(inFiles('paths.h5'), { timeout: 1500 }));
    clearInterval(timer);
    expect(failure?.code).toBe('ERR_BATCHNORM_FILE_TOO_SLOW');
    expect(failure?.message).toContain('file must be read within 1500 ms, got no end');
    expect(turns).toBeGreaterThan(5);
    expect((await loadBatchNorms(inFiles('keras2.h5'))).size).toBe(3);
  });
});

it.each([
  [['--max-old-space-size=300', '--expose-gc']],
  [['--import', 'data:text/javascript,', '--stack-size=900']],
])('HDF5 is read in a process with the flags %j', { timeout: patience }, (flags) => {
  const program = `import { loadBatchNorms } from 'batchnorm/files';
    console.log((await loadBatchNorms(${JSON.stringify(inFiles('keras2.h5'))})).size);`;
  const args = [...flags, '--input-type=module', '--eval', program];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: patience });
  expect({ stdout, stderr }).toEqual({ stdout: '3\n', stderr: '' });
});

describe('a package that is not installed', () => {
  it.each([
    ['opset15.onnx', 'protobufjs'],
    ['keras3.h5', 'h5wasm'],
    ['keras3.keras', '@zip.js/zip.js'],
  ])('is named where %s is read', (name, missing) => {
    const copy = join(folder, 'alone');
    cpSync(join(import.meta.dirname, '../../dist'), copy, { recursive: true });
    writeFileSync(join(copy, 'package.json'), '{"type":"module"}');
    const program = `import { loadBatchNorms } from './files/index.js';
      await loadBatchNorms(${JSON.stringify(inFiles(name))}).catch(({ code, message }) => console.log(code, message));`;
    const args = ['--input-type=module', '--eval', program];
    const { stdout } = spawnSync(process.execPath, args, { cwd: copy, encoding: 'utf8', timeout: patience });
    expect(stdout).toMatch(/^ERR_BATCHNORM_PACKAGE_MISSING /);
    expect(stdout).toContain(`npm install ${missing}\n`);
  });
});

describe('what is no model', () => {
  const circle: { name: string; layers: unknown[] } = { name: 'circle', layers: [] };
  circle.layers.push(circle);

  it.each<[what: string, value: unknown, code: string]>([
    ['no bytes', new Uint8Array(0), 'UNSUPPORTED_FILE'],
    ['a picture', Uint8Array.of(0xff, 0xd8, 0xff, 0xe0), 'UNSUPPORTED_FILE'],
    ['a number', 3, 'INVALID_TYPE'],
    ['nothing', undefined, 'INVALID_TYPE'],
    ['an array', [1], 'INVALID_TYPE'],
    ['a URL of the web', new URL('http://example.org/model.onnx'), 'INVALID_TYPE'],
    ['a model of no layers', { layers: [null] }, 'INVALID_TYPE'],
    ['a model within itself', circle, 'FILE_TOO_LARGE'],
    [
      'artifacts with a hole in a shape',
      {
        modelTopology: { node: [] },
        // biome-ignore lint/suspicious/noSparseArray: it is what is refused
        weightSpecs: [{ name: 'a', shape: [, 2], dtype: 'float32' }],
        weightData: new ArrayBuffer(8),
      },
      'INVALID_FILE',
    ],
    ['a folder', folder, 'INVALID_FILE'],
  ])('%s is refused', async (_what, value, code) => {
    const failure = await failureOf(() => loadBatchNorms(value as never));
    expect(failure?.code).toBe(`ERR_BATCHNORM_${code}`);
    expect(failure?.message).toMatch(/ must .*, got /);
  });

  it.each([
    [{ timeout: 0 }, 'INVALID_VALUE', 'timeout must be an integer from 1 to 2147483647, got 0'],
    [{ timeout: '1' }, 'INVALID_TYPE', 'timeout must be an integer from 1 to 2147483647, got "1"'],
    [{ timout: 1 }, 'UNKNOWN_OPTION', 'did you mean timeout?'],
  ])('options %o are refused', async (options, code, message) => {
    const failure = await failureOf(() => loadBatchNorms('none.h5', options as never));
    expect(failure?.code).toBe(`ERR_BATCHNORM_${code}`);
    expect(failure?.message).toContain(message);
  });

  it('a file that is not there has the code of the system', async () => {
    expect((await failureOf(() => loadBatchNorms(join(folder, 'none.onnx'))))?.code).toBe('ENOENT');
  });

  it('a model without batch norms is an empty map', async () => {
    mkdirSync(join(folder, 'empty'), { recursive: true });
    expect((await loadBatchNorms(fileOf('empty/model.json', '{"modelTopology":{"node":[]}}'))).size).toBe(0);
  });
});
