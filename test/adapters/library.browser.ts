// The library in headless Chromium: as a page loads it without a bundler, through vite, in a web worker, under policies.
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type OutgoingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join, resolve } from 'node:path';
import { build } from 'esbuild';
import type { Browser, Page } from 'puppeteer-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { wasmBytes } from '../../lib/backend/wasm-bytes.js';
import * as here from '../../lib/index.js';
import { version } from '../../lib/version.js';
import { launchChromium } from '../support/chromium.js';
import { everyPass } from '../support/every-pass.js';
import type * as Golden from '../support/golden.js';
import { expectListed } from '../support/messages.js';
import { patience } from '../support/patience.js';

// What the program of a page leaves there.
declare const library: typeof here;
declare const goldenDifference: typeof Golden.goldenDifference;

const libraryPath = '/node_modules/batchnorm/dist/browser.js';

/** Whether npm run build:wasm has been run. */
const isBuilt = wasmBytes !== undefined;

/** The program of the pages, with the library from there. */
const programWith = (library: string) => `
  import * as library from '${library}';
  import { everyPass } from '${resolve('test/support/every-pass.js')}';
  import { goldenDifference } from '${resolve('test/support/golden.js')}';
  Object.assign(globalThis, { library, goldenDifference, results: everyPass(library) });`;

/** What the server has, by path. */
const files = new Map<string, { type: string; body: string | Uint8Array; headers?: OutgoingHttpHeaders }>();

/** A page with a program. */
const pageOf = (program: string) =>
  `<!doctype html><link rel="icon" href="data:,"><script type="module" src="${program}"></script>`;

/** A page without one, under a policy. */
function addPage(path: string, policy?: string): void {
  const headers = policy ? { 'content-security-policy': policy } : {};
  files.set(path, { type: 'text/html', body: '<!doctype html><link rel="icon" href="data:,">', headers });
}

/** A program that loads the library as it is. */
async function addProgram(path: string, contents: string): Promise<void> {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: 'test/adapters', loader: 'ts' },
    bundle: true,
    format: 'esm',
    external: [libraryPath],
    write: false,
  });
  files.set(path, { type: 'text/javascript', body: outputFiles[0].contents });
}

/**
 * An application with the package installed, as vite builds it: a page with the first of its sources for a program.
 *
 * @returns what vite complains of.
 */
function addBuildOfVite(name: string, sources: Readonly<Record<string, string>>): string {
  const root = join(folder, name);
  mkdirSync(join(root, 'node_modules'), { recursive: true });
  symlinkSync(resolve('.'), join(root, 'node_modules/batchnorm'));
  writeFileSync(join(root, 'index.html'), pageOf(Object.keys(sources)[0]));
  for (const [file, source] of Object.entries(sources)) writeFileSync(join(root, file), source);
  const vite = resolve('node_modules/vite/bin/vite.js');
  const { NODE_ENV: _, ...env } = process.env;
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [vite, 'build', '--base', `/${name}/`, '--logLevel', 'warn'],
    { cwd: root, env, encoding: 'utf8' },
  );
  if (status !== 0) throw new Error(`vite must build ${name}, got ${stderr}`);
  for (const path of readdirSync(join(root, 'dist'), { recursive: true, encoding: 'utf8' })) {
    const type = { '.html': 'text/html', '.js': 'text/javascript' }[extname(path)];
    if (type) files.set(`/${name}/${path}`, { type, body: readFileSync(join(root, 'dist', path)) });
  }
  return `${stdout}${stderr}`;
}

const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
let complaintsOfVite: string;
let server: Server;
let address: string;
let browser: Browser;
let page: Page;
const problems: string[] = [];
const printed: string[] = [];

beforeAll(async () => {
  files.set(libraryPath, { type: 'text/javascript', body: readFileSync('dist/browser.js') });
  await addProgram('/page.js', programWith(libraryPath));
  files.set('/page.html', { type: 'text/html', body: pageOf('/page.js') });
  complaintsOfVite = addBuildOfVite('built', { 'main.ts': programWith('batchnorm') });
  server = createServer(({ url = '' }, response) => {
    const file = files.get(url);
    if (file) response.writeHead(200, { 'content-type': file.type, ...file.headers }).end(file.body);
    else response.writeHead(404).end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  browser = await launchChromium();
});

afterAll(async () => {
  await browser?.close();
  server?.close();
  rmSync(folder, { recursive: true });
});

beforeEach(async () => {
  problems.length = 0;
  printed.length = 0;
  page = await browser.newPage();
  page.setDefaultTimeout(patience);
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warn') problems.push(message.text());
    else printed.push(message.text());
  });
});

afterEach(() => page?.close());

async function open(path: string): Promise<void> {
  await page.goto(`${address}${path}`);
}

/** Until the page prints or complains. */
const heardOf = () => vi.waitFor(() => expect(printed.length + problems.length).toBeGreaterThan(0), patience);

/** Evaluates to what the library is there, or to its error. */
const loading = `import('${libraryPath}').then(
  ({ capabilities }) => capabilities(),
  ({ name, code, message }) => ({ name, code, message }))`;

describe('the file for browsers', () => {
  it('says under which licences it is', () => {
    const text = readFileSync('dist/browser.js', 'utf8');
    for (const path of ['LICENSE', 'node_modules/fflate/LICENSE'])
      expect(text).toContain(readFileSync(path, 'utf8').trim());
  });

  it('is what vite takes the package for, without a warning', () => {
    expect(complaintsOfVite).toBe('');
  });
});

describe.runIf(isBuilt).each([
  { from: 'as it is', path: '/page.html' },
  { from: 'from a build of vite', path: '/built/index.html' },
])('in a page, $from', ({ path }) => {
  it('the library computes in WebAssembly, on one thread', async () => {
    await open(path);
    expect(await page.evaluate(() => library.capabilities())).toEqual({
      ...{
        backend: 'wasm',
        isa: 'wasm',
        isaReason: 'the only one of the WebAssembly backend',
        isas: ['wasm'],
      },
      ...{ threads: 1, l2Bytes: 0, streamBytes: 0, version },
    });
    expect(problems).toEqual([]);
  });

  it('every pass has the bits of the native backend, asynchronous ones too', async () => {
    expect(here.capabilities().backend).toBe('native');
    await open(path);
    expect(await page.evaluate('results')).toEqual(await everyPass(here));
    expect(problems).toEqual([]);
  });

  it('the golden results come out', async () => {
    await open(path);
    const difference = await page.evaluate(async () => {
      const found = await goldenDifference(library, async (bytes) => {
        const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
        return Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('');
      });
      return found && `${found.row}, ${found.name}`;
    });
    expect(difference).toBeUndefined();
  });

  it('a signal takes back what waits, and nothing else', async () => {
    await open(path);
    const outcomes = await page.evaluate(async () => {
      const bn = new library.BatchNorm(2, { eps: 1e-300 });
      bn.weight?.fill(2);
      const frozen = bn.freeze();
      const x = () => ({ data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] });
      const controller = new AbortController();
      const { signal } = controller;
      // What is there when the promise is resolved, and not what may come later.
      const run = async (options?: { signal: AbortSignal }) =>
        Array.from((await frozen.runAsync(x(), options)).data);
      const runs = [run({ signal }), run({ signal: AbortSignal.abort() }), run()];
      controller.abort(new Error('enough'));
      // In the place of what was taken back.
      runs.push(run());
      return (await Promise.allSettled(runs)).map((one) =>
        one.status === 'fulfilled' ? one.value : `${one.reason.name}: ${one.reason.message}`,
      );
    });
    expect(outcomes).toEqual([
      'Error: enough',
      expect.stringMatching(/^AbortError: /),
      [2, 4, 6, 8],
      [2, 4, 6, 8],
    ]);
  });

  it('a monitor measures and makes its page; files it has none, and says so once', async () => {
    await open(path);
    const found = await page.evaluate(() => {
      const bn = new library.BatchNorm(2, { decay: 0 });
      const watch = library.monitor({ bn }, { folder: 'out' });
      bn.forward({ data: Float32Array.of(1, 5, 2, 5), shape: [2, 2] });
      const [record] = watch.step() ?? [];
      watch.close();
      return [record.state, record.maxMeanDrift, record.dead, watch.html().slice(0, 15)];
    });
    expect(found).toEqual(['training', 0, 1, '<!doctype html>']);
    expect(problems).toEqual([
      expect.stringMatching(
        /^BATCHNORM_MONITOR: the monitor cannot write monitor\.jsonl into "out": pages have no files/,
      ),
    ]);
  });

  it('asynchronous calls leave turns to the page between them', async () => {
    await open(path);
    const turns = await page.evaluate(async () => {
      const frozen = new library.BatchNorm(1).freeze();
      let isOver = false;
      let turns = 0;
      const count = () => {
        turns++;
        if (!isOver) setTimeout(count);
      };
      setTimeout(count);
      while (turns < 3) await frozen.runAsync({ data: new Float32Array(1), shape: [1, 1] });
      isOver = true;
      return turns;
    });
    expect(turns).toBe(3);
  });

  it('shared memory is known for what it is, although the page has no SharedArrayBuffer', async () => {
    await open(path);
    const outcome = await page.evaluate(async () => {
      // @ts-expect-error WebAssembly has no types here
      const { buffer } = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
      const x = { data: new Float32Array(buffer, 0, 4).fill(2), shape: [2, 2] };
      const frozen = new library.BatchNorm(2, { eps: 1e-300 }).freeze();
      const error = await frozen.runAsync(x, { transfer: true }).then(
        () => undefined,
        ({ code, message }) => ({ code, message }),
      );
      const { data } = await frozen.runAsync(x);
      return { isGlobal: 'SharedArrayBuffer' in globalThis, error, data: Array.from(data) };
    });
    expect(outcome).toEqual({
      isGlobal: false,
      error: {
        code: 'ERR_BATCHNORM_NOT_TRANSFERABLE',
        message: expect.stringContaining('got a SharedArrayBuffer'),
      },
      data: [2, 2, 2, 2],
    });
  });

  it('what WebAssembly cannot hold is refused before anything is written, and the next call works', async () => {
    await open(path);
    const outcome = await page.evaluate(() => {
      const run = (length: number) => {
        // Zeros that the system has not laid anywhere yet.
        const x = { data: new Float32Array(length), shape: [length, 1] };
        const out = new Float32Array(length);
        // The sums of channels side by side are made of the whole tensor at once.
        library.forwardTraining(x, { bias: Float32Array.of(-1), out });
        return out[0];
      };
      try {
        run(2 ** 29 + 2 ** 28);
      } catch (error) {
        return [(error as { code: string }).code, run(4)];
      }
    });
    expect(outcome).toEqual(['ERR_BATCHNORM_OUT_OF_MEMORY', -1]);
  });

  it('bad input is refused in the same words, however hostile', async () => {
    await open(path);
    const error = await page.evaluate(() => {
      try {
        const { proxy, revoke } = Proxy.revocable([], {});
        revoke();
        new library.BatchNorm(2).forward(proxy as never);
      } catch (error) {
        const { name, code, message } = error as TypeError & { code: string };
        return { name, code, message };
      }
    });
    expect(error).toEqual({
      name: 'TypeError',
      code: 'ERR_BATCHNORM_INVALID_TYPE',
      message: 'x must be a tensor { data, shape }, got a revoked proxy',
    });
  });
});

describe.runIf(isBuilt)('batchnorm/tfjs', () => {
  it('folds a model of TensorFlow.js in a page, and computes its batch norms there', async () => {
    addBuildOfVite('tfjs', {
      'main.js': `
        import * as tf from '${resolve('node_modules/@tensorflow/tfjs/dist/tf.fesm.min.js')}';
        import { fold, install } from 'batchnorm/tfjs';
        await tf.setBackend('cpu');
        const model = tf.sequential({ layers: [
          tf.layers.conv2d({ filters: 4, kernelSize: 3, inputShape: [8, 8, 3] }),
          tf.layers.batchNormalization({ movingMeanInitializer: 'randomNormal', movingVarianceInitializer: 'ones', betaInitializer: 'randomNormal' }),
          tf.layers.reLU(),
        ] });
        const x = tf.randomNormal([2, 8, 8, 3]);
        const expected = model.predict(x);
        const { model: folded, left } = fold(model);
        const distance = (y) => y.sub(expected).abs().max().dataSync()[0];
        console.log(JSON.stringify({
          layers: folded.layers.length,
          left,
          folded: distance(folded.predict(x)) < 1e-5,
          installed: install(tf),
          computed: distance(model.predict(x)) < 1e-5,
        }));`,
    });
    await open('/tfjs/index.html');
    await heardOf();
    expect(problems).toEqual([]);
    expect(JSON.parse(printed[0])).toEqual({
      layers: 2,
      left: [],
      folded: true,
      installed: { backends: ['cpu'], layers: true },
      computed: true,
    });
  });
});

describe.runIf(isBuilt)('in a web worker', () => {
  it('every pass has the bits of the native backend', async () => {
    await addProgram(
      '/worker.js',
      `import * as library from '${libraryPath}';
      import { everyPass } from '../support/every-pass.js';
      everyPass(library).then(postMessage, (error) => postMessage(String(error)));`,
    );
    addPage('/worker');
    await open('/worker');
    const results = page.evaluate(`new Promise((resolve, reject) => {
      const worker = new Worker('/worker.js', { type: 'module' });
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
    })`);
    expect(await results).toEqual(await everyPass(here));
  });
});

/** Of a page that may share memory with its workers. */
const isolation = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
};

/** A page that is rank 0 of a group, and its worker, which is rank 1: what they have found, beside what one layer finds of the whole. */
const groupOfTwo = (library: string, group: string, worker: string) => ({
  main: `
    import { BatchNorm } from '${library}';
    import { WorkerGroup } from '${group}';

    const { handle } = new WorkerGroup(2);
    const worker = new Worker(${worker}, { type: 'module' });
    const other = new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
    });
    worker.postMessage(handle);
    const member = WorkerGroup.join(handle, 0);
    const column = (...values) => ({ data: Float64Array.from(values), shape: [values.length, 1] });
    const bn = new BatchNorm(1, { dtype: 'float64', group: member });
    let refusal;
    try {
      bn.forward(column(1, 2, 3));
    } catch ({ code, message }) {
      refusal = { code, message };
    }
    const y = await bn.forwardAsync(column(1, 2, 3));
    const { dx } = await bn.backwardAsync(column(1, 0, 2));
    const [otherY, otherDx, mean] = await other;
    globalThis.outcome = {
      refusal,
      y: [...y.data, ...otherY],
      dx: [...dx.data, ...otherDx],
      means: [bn.runningMean[0], mean],
    };`,
  worker: `
    import { BatchNorm } from '${library}';
    import { WorkerGroup } from '${group}';

    onmessage = ({ data: handle }) => {
      const bn = new BatchNorm(1, { dtype: 'float64', group: WorkerGroup.join(handle, 1) });
      const column = (...values) => ({ data: Float64Array.from(values), shape: [values.length, 1] });
      const y = bn.forward(column(6, 4));
      const { dx } = bn.backward(column(5, 1));
      postMessage([[...y.data], [...dx.data], bn.runningMean[0]]);
    };`,
});

describe.runIf(isBuilt)('a group of a page and its worker', () => {
  const workersPath = '/node_modules/batchnorm/dist/workers/index.js';

  beforeAll(() => {
    for (const path of readdirSync('dist', { recursive: true, encoding: 'utf8' }))
      if (/^(?!browser)[\w-]+\.js$|^workers\/[\w-]+\.js$/.test(path))
        files.set(`/node_modules/batchnorm/dist/${path}`, {
          type: 'text/javascript',
          body: readFileSync(join('dist', path)),
        });
    const asItIs = groupOfTwo(libraryPath, workersPath, "'/member.js'");
    files.set('/group.js', { type: 'text/javascript', body: asItIs.main });
    files.set('/member.js', { type: 'text/javascript', body: asItIs.worker, headers: isolation });
    files.set('/group.html', { type: 'text/html', body: pageOf('/group.js'), headers: isolation });
    const built = groupOfTwo('batchnorm', 'batchnorm/workers', "new URL('./member.js', import.meta.url)");
    expect(addBuildOfVite('group', { 'main.js': built.main, 'member.js': built.worker })).toBe('');
    for (const [path, file] of files) if (path.startsWith('/group/')) file.headers = isolation;
  });

  it.each(['/group.html', '/group/index.html'])(
    'trains as one, and the page never waits: %s',
    async (path) => {
      await open(path);
      const ended = () => page.evaluate('globalThis.outcome').then((outcome) => outcome ?? problems[0]);
      const outcome = (await vi.waitUntil(ended, patience)) as Record<'y' | 'dx' | 'means', number[]>;
      expect(problems).toEqual([]);
      const column = (...values: number[]) => ({
        data: Float64Array.from(values),
        shape: [values.length, 1],
      });
      const one = new here.BatchNorm(1, { dtype: 'float64' });
      const y = one.forward(column(1, 2, 3, 6, 4));
      const { dx } = one.backward(column(1, 0, 2, 5, 1));
      const mean = one.runningMean?.[0] ?? Number.NaN;
      const refusal = {
        code: 'ERR_BATCHNORM_MAIN_THREAD',
        message:
          'allGather() must be called in a worker, got a page, which may not wait; call allGatherAsync(), or forwardAsync() and backwardAsync() of a layer',
      };
      const close = (values: ArrayLike<number> = []) =>
        Array.from(values, (value) => expect.closeTo(value, 12));
      expect(outcome).toEqual({
        refusal,
        y: close(y.data),
        dx: close(dx?.data),
        means: close([mean, mean]),
      });
      expectListed(refusal.message);
    },
  );

  it('is refused in a page that is not isolated, with what it must send', async () => {
    addPage('/alone');
    await open('/alone');
    const error = await page.evaluate(`import('${workersPath}').then(({ WorkerGroup }) => {
      try {
        new WorkerGroup(2);
      } catch ({ code, message }) {
        return { code, message };
      }
    })`);
    const message =
      'a WorkerGroup must have shared memory, got a page that is not isolated; serve it with Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp';
    expect(error).toEqual({ code: 'ERR_BATCHNORM_NO_SHARED_MEMORY', message });
    expectListed(message);
  });
});

describe.runIf(isBuilt)('the examples of docs/browsers.md', () => {
  const text = readFileSync('docs/browsers.md', 'utf8');
  const blocksOf = (language: string) =>
    [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))].map(([, code]) => code);
  const printsOf = (code: string) =>
    [...code.matchAll(/console\.log\(.*\);? \/\/ (.*)$/gm)].map(([, print]) => print);

  it('run in a page without a bundler', async () => {
    const [body] = blocksOf('html');
    files.set('/example.html', { type: 'text/html', body: `<link rel="icon" href="data:,">${body}` });
    await open('/example.html');
    expect(printsOf(body)).toHaveLength(1);
    await heardOf();
    expect({ printed, problems }).toEqual({ printed: printsOf(body), problems: [] });
  });

  it('run with a worker, from a build of vite', async () => {
    const [worker, main] = blocksOf('js');
    expect([worker, main].map((code) => code.split('\n')[0])).toEqual(['// worker.js', '// main.js']);
    expect(addBuildOfVite('example', { 'main.js': main, 'worker.js': worker })).toBe('');
    await open('/example/index.html');
    expect(printsOf(main)).toHaveLength(1);
    await heardOf();
    expect({ printed, problems }).toEqual({ printed: printsOf(main), problems: [] });
  });
});

describe.runIf(isBuilt)('a Content-Security-Policy', () => {
  it("with 'wasm-unsafe-eval' lets the library compute", async () => {
    addPage('/allowed', "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'");
    await open('/allowed');
    expect(await page.evaluate(loading)).toMatchObject({ backend: 'wasm' });
  });

  it('without it is named by the error, with what it must allow', async () => {
    addPage('/forbidden', "default-src 'none'; script-src 'self'");
    await open('/forbidden');
    expect(await page.evaluate(loading)).toEqual({
      name: 'Error',
      code: 'ERR_BATCHNORM_WASM_UNAVAILABLE',
      message: expect.stringMatching(
        /^the WebAssembly module of batchnorm must compile, got CompileError: .*Content-Security-Policy.*'wasm-unsafe-eval'/,
      ),
    });
  });
});

describe.runIf(!isBuilt)('without the WebAssembly module', () => {
  it('the error names the command that makes it', async () => {
    addPage('/empty');
    await open('/empty');
    expect(await page.evaluate(loading)).toMatchObject({
      code: 'ERR_BATCHNORM_WASM_UNAVAILABLE',
      message: expect.stringContaining('npm run build:wasm'),
    });
  });
});
