// The server of examples/serve: its answers with inject and over HTTP, and the process from start to end.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { loadNetwork, pathWithout, saveNetwork } from '../../examples/mnist/checkpoint.js';
import { head, readMnist } from '../../examples/mnist/data.js';
import { type Activations, activations, Network, run, softmax } from '../../examples/mnist/network.js';
import { uniform } from '../../examples/mnist/random.js';
import { SIZES } from '../../examples/mnist/recipe.js';
import { BATCH, batches, train } from '../../examples/mnist/train.js';
import { Batcher } from '../../examples/serve/batcher.js';
import { type Classify, createClassifier } from '../../examples/serve/classifier.js';
import { createInside, type InsideReport } from '../../examples/serve/inside.js';
import { readOptions } from '../../examples/serve/options.js';
import { createServer, type DigitServer, type ServerOptions } from '../../examples/serve/server.js';
import { patience } from '../support/patience.js';
import { until } from '../support/until.js';
import { type ServeProcess, startServe } from './serve-process.js';

const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
afterAll(() => rmSync(folder, { recursive: true }));

const PIXELS = 784;
const random = uniform(1);
const network = new Network(BATCH, SIZES, true, random);
const few = head(readMnist('train'), 4000);
train(network, few, { epochs: 1, learningRate: 0.1, momentum: 0.9, random, onStep: () => {} });
const model = join(folder, 'mnist.safetensors');
saveNetwork(model, network, new Map());
const classify = createClassifier(loadNetwork(model, SIZES));

const test = head(readMnist('t10k'), BATCH);
const [{ x: testImages }] = batches(test);
const stages = network.freeze();
/** What the network says without any server. */
const expected = (() => {
  const logits = run(stages, testImages);
  const rows = Array.from({ length: BATCH }, (_, n) => logits.data.subarray(10 * n, 10 * (n + 1)));
  return rows.map((row) => {
    const probabilities = new Float32Array(10);
    softmax(row, probabilities);
    return { digit: row.indexOf(Math.max(...row)), probabilities };
  });
})();

const bytesOf = (from: number, to: number) => Buffer.from(test.images.subarray(from * PIXELS, to * PIXELS));
const numbersOf = (n: number) => [...bytesOf(n, n + 1)];

interface Answer {
  predictions: { digit: number; probabilities: number[] }[];
  ms: number;
}

function expectPredictions({ predictions, ms }: Answer, from: number): void {
  expect(ms).toBeGreaterThanOrEqual(0);
  for (const [i, { digit, probabilities }] of predictions.entries()) {
    const wanted = expected[from + i];
    expect(digit).toBe(wanted.digit);
    expect(probabilities).toHaveLength(10);
    for (const [c, probability] of probabilities.entries())
      expect(probability).toBeCloseTo(wanted.probabilities[c], 5);
  }
}

const servers: DigitServer[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  vi.useRealTimers();
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

function start(options: Partial<ServerOptions> = {}, by: Classify = classify): DigitServer {
  const server = createServer(by, { batch: 64, answerTimeout: patience, ...options });
  servers.push(server);
  return server;
}

const bytes = { 'content-type': 'application/octet-stream' };
const post = ({ app }: DigitServer, payload: string | object, headers: Record<string, string> = {}) =>
  app.inject({ method: 'POST', url: '/predict', payload, headers });

describe('POST /inside', () => {
  const plain = new Network(BATCH, SIZES, false, uniform(2));
  saveNetwork(pathWithout(model), plain, new Map());
  const inside = createInside(loadNetwork(model, SIZES), loadNetwork(pathWithout(model), SIZES, false));
  const look = ({ app }: DigitServer, payload: object) =>
    app.inject({ method: 'POST', url: '/inside', payload, headers: bytes });

  /** What each stage of a network gives for an image, the last its logits. */
  function valuesOf({ layers }: Network, n: number): Float32Array[] {
    const values: Float32Array[] = [];
    let x = { data: testImages.data, shape: testImages.shape };
    for (const layer of layers) {
      x = layer.freeze().forward(x);
      const features = x.shape[1];
      values.push(x.data.slice(n * features, (n + 1) * features));
    }
    return values;
  }

  it('gives what goes into the batch norms and comes out of them, and the network without', async () => {
    const response = await look(start({ inside }), bytesOf(5, 6));
    expect(response.statusCode).toBe(200);
    const report = response.json<InsideReport>();
    const close = (values: readonly number[] | undefined, wanted: Float32Array) => {
      expect(values).toHaveLength(wanted.length);
      for (const [i, value] of wanted.entries()) expect(values?.[i]).toBeCloseTo(value, 3);
    };
    const [sums1, relu1, sums2, relu2] = valuesOf(network, 5);
    expect(report.with.layers).toHaveLength(2);
    for (const [i, [sums, relu]] of [[sums1, relu1] as const, [sums2, relu2] as const].entries()) {
      const { normalized } = report.with.layers[i];
      close(report.with.layers[i].sums, sums);
      close(
        normalized?.map((value) => Math.max(value, 0)),
        relu,
      );
      expect(Math.min(...(normalized ?? []))).toBeLessThan(-0.1);
    }
    close(report.with.probabilities, expected[5].probabilities);
    const [plain1, , plain2, , logits] = valuesOf(plain, 5);
    expect(report.without?.layers.map(({ normalized }) => normalized)).toEqual([undefined, undefined]);
    close(report.without?.layers[0].sums, plain1);
    close(report.without?.layers[1].sums, plain2);
    const probabilities = new Float32Array(10);
    softmax(logits, probabilities);
    close(report.without?.probabilities, probabilities);
  });

  it('is no prediction, and does without the network without', async () => {
    const server = start({ inside: createInside(loadNetwork(model, SIZES)) });
    const response = await look(server, bytesOf(0, 1));
    expect(Object.keys(response.json())).toEqual(['with']);
    expect(server.stats.report().requests.answered).toBe(0);
  });

  it('looks at one image, and at nothing else', async () => {
    const server = start({ inside });
    const two = await look(server, bytesOf(0, 2));
    expect([two.statusCode, two.json().message]).toEqual([400, 'body must be one image, got 2']);
    expect((await look(server, Buffer.alloc(783))).statusCode).toBe(400);
    expect((await look(start(), bytesOf(0, 1))).statusCode).toBe(404);
  });
});

describe('POST /predict', () => {
  it('gives the digit and the probabilities of an image, as the network itself does', async () => {
    const server = start();
    const response = await post(server, { image: numbersOf(3) });
    expect(response.statusCode).toBe(200);
    expect(response.headers['content-type']).toBe('application/json; charset=utf-8');
    expect(response.json<Answer>().predictions).toHaveLength(1);
    expectPredictions(response.json(), 3);
  });

  it('takes many images, and answers in their order', async () => {
    const response = await post(start(), { images: [numbersOf(7), numbersOf(8), numbersOf(9)] });
    expect(response.json<Answer>().predictions).toHaveLength(3);
    expectPredictions(response.json(), 7);
  });

  it.each([1, 7, 64, 100])('takes bytes and gives the same, in batches of %i', async (batch) => {
    const response = await post(start({ batch }), bytesOf(0, BATCH), bytes);
    expect(response.json<Answer>().predictions).toHaveLength(BATCH);
    expectPredictions(response.json(), 0);
    const right = response.json<Answer>().predictions.filter(({ digit }, n) => digit === test.labels[n]);
    expect(right.length).toBeGreaterThan(75);
  });

  it('gives the same with batch norms of their own', async () => {
    const server = start({}, createClassifier(loadNetwork(model, SIZES), { fold: false }));
    const response = await post(server, bytesOf(0, BATCH), bytes);
    expect(response.json<Answer>().predictions).toHaveLength(BATCH);
    expectPredictions(response.json(), 0);
  });

  it('finds the same digits with activations in bfloat16', async () => {
    const server = start({}, createClassifier(loadNetwork(model, SIZES), { fold: false, dtype: 'bfloat16' }));
    const response = await post(server, bytesOf(0, BATCH), bytes);
    const { predictions } = response.json<Answer>();
    expect(predictions).toHaveLength(BATCH);
    const same = predictions.filter(({ digit }, n) => digit === expected[n].digit);
    expect(same.length).toBeGreaterThanOrEqual(0.95 * BATCH);
  });

  it('takes fractions, and any parameters of the content type', async () => {
    const image = numbersOf(0).map((value) => value * 0.999);
    const headers = { 'content-type': 'application/json; charset=utf-8' };
    const response = await post(start(), JSON.stringify({ image }), headers);
    expect(response.json<Answer>().predictions[0].digit).toBe(expected[0].digit);
  });

  const image = numbersOf(0);
  const changed = (at: number, value: unknown) => image.map((old, i) => (i === at ? value : old));
  it.each<[body: unknown, message: string]>([
    [[], 'body must be an object with image or images, got []'],
    [null, 'body must be an object with image or images, got null'],
    ['784', 'body must be an object with image or images, got "784"'],
    [{}, 'body must have image or images and nothing else, got []'],
    [{ image, images: [image] }, 'body must have image or images and nothing else, got 2 keys'],
    [{ img: image }, 'body must have image or images and nothing else, got ["img"]'],
    [{ image: 'x' }, 'image must be an array, got "x"'],
    [{ image: null }, 'image must be an array, got null'],
    [{ image: [] }, 'image must have 784 values (28 x 28), got 0'],
    [{ image: image.slice(1) }, 'image must have 784 values (28 x 28), got 783'],
    [{ image: [...image, 0] }, 'image must have 784 values (28 x 28), got 785'],
    [{ image: changed(17, 256) }, 'image[17] must be a number from 0 (paper) to 255 (ink), got 256'],
    [{ image: changed(17, -1) }, 'image[17] must be a number from 0 (paper) to 255 (ink), got -1'],
    [{ image: changed(17, null) }, 'image[17] must be a number from 0 (paper) to 255 (ink), got null'],
    [{ image: changed(17, '7') }, 'image[17] must be a number from 0 (paper) to 255 (ink), got "7"'],
    [{ image: changed(17, [7]) }, 'image[17] must be a number from 0 (paper) to 255 (ink), got [7]'],
    [{ images: image }, 'images[0] must be an array, got 0'],
    [{ images: [] }, 'images must be an array of at least one image, got []'],
    [{ images: {} }, 'images must be an array of at least one image, got {…}'],
    [
      { images: [image, changed(783, 999)] },
      'images[1][783] must be a number from 0 (paper) to 255 (ink), got 999',
    ],
  ])('refuses %j', async (body, message) => {
    const response = await post(start(), JSON.stringify(body), { 'content-type': 'application/json' });
    expect(response.statusCode).toBe(400);
    expect(response.json()).toEqual({ code: 'INVALID_IMAGE', message });
  });

  it.each([
    ['no bytes', Buffer.alloc(0), 'got 0'],
    ['too few bytes', Buffer.alloc(783), 'got 783'],
    ['an image and a byte', Buffer.alloc(785), 'got 785'],
  ])('refuses %s', async (_what, body, actual) => {
    const response = await post(start(), body, bytes);
    expect(response.statusCode).toBe(400);
    expect(response.json().message).toMatch(/^body must .*784.*, got /);
    expect(response.json().message).toContain(actual);
  });

  it.each(['{', '', '{"image":[1,]}'])('refuses JSON like %s', async (body) => {
    const response = await post(start(), body, { 'content-type': 'application/json' });
    expect(response.statusCode).toBe(400);
    expect(response.json().code).toBe('INVALID_REQUEST');
  });

  it.each([['text/plain'], ['application/x-www-form-urlencoded'], ['image/png'], ['nonsense']])(
    'refuses the type %s',
    async (type) => {
      const response = await post(start(), 'x', { 'content-type': type });
      expect(response.statusCode).toBe(415);
      const rule = 'content-type must be application/json or application/octet-stream';
      expect(response.json()).toEqual({ code: 'UNSUPPORTED_TYPE', message: `${rule}, got "${type}"` });
    },
  );

  it.each(Object.entries({ json: { 'content-type': 'application/json' }, bytes }))(
    'refuses more %s than the limit',
    async (_what, headers) => {
      const server = start({ bodyLimit: 2 * PIXELS });
      expect((await post(server, Buffer.alloc(2 * PIXELS), bytes)).statusCode).toBe(200);
      const response = await post(server, Buffer.alloc(3 * PIXELS, ' '), headers);
      expect(response.statusCode).toBe(413);
      expect(response.json()).toEqual({
        code: 'TOO_LARGE',
        message: 'body must have at most 1568 bytes, got more',
      });
    },
  );

  it('hides what went wrong inside, and logs it', async () => {
    const log = vi.spyOn(console, 'error').mockImplementation(() => {});
    const failure = new Error('secret');
    const response = await post(
      start({}, () => Promise.reject(failure)),
      bytesOf(0, 1),
      bytes,
    );
    expect(response.statusCode).toBe(500);
    expect(response.body).toBe('{"code":"INTERNAL","message":"the server failed; its log says why"}');
    expect(log).toHaveBeenCalledWith(failure);
  });

  it('gives up what takes too long', async () => {
    const response = await post(
      start({ answerTimeout: 20 }, () => new Promise(() => {})),
      bytesOf(0, 1),
      bytes,
    );
    expect(response.statusCode).toBe(503);
    expect(response.headers['retry-after']).toBe('1');
    expect(response.json()).toEqual({
      code: 'TIMEOUT',
      message: 'an answer must take at most 20 ms, got none by then; try again',
    });
  });
});

describe('the other routes', () => {
  it.each([
    ['/', 'text/html'],
    ['/stats', 'text/html'],
    ['/style.css', 'text/css'],
    ['/draw.js', 'text/javascript'],
    ['/digit.js', 'text/javascript'],
    ['/stats.js', 'text/javascript'],
    ['/stats.json', 'application/json'],
  ])('GET %s is %s and may load nothing from elsewhere', async (url, type) => {
    const response = await start().app.inject(url);
    expect(response.statusCode).toBe(200);
    expect(response.headers['content-type']).toBe(`${type}; charset=utf-8`);
    expect(response.headers['content-security-policy']).toContain("default-src 'none'; script-src 'self'");
    expect(response.headers['x-content-type-options']).toBe('nosniff');
    expect(response.body).not.toMatch(/https?:/);
  });

  it.each([
    ['GET', '/predictions'],
    ['POST', '/stats/predict'],
  ] as const)('%s %s is not found', async (method, url) => {
    const response = await start().app.inject({ method, url });
    expect(response.statusCode).toBe(404);
    expect(response.json().code).toBe('NOT_FOUND');
    expect(response.headers['x-content-type-options']).toBe('nosniff');
  });

  it('/stats.json counts what was served, refused and failed', async () => {
    vi.spyOn(console, 'error').mockImplementation(() => {});
    // What is reported is of the last seconds only: none pass.
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    let broken = false;
    const server = start({}, async (x) => {
      if (broken) throw new Error('broken');
      await setTimeout(20);
      return classify(x);
    });
    await post(server, bytesOf(0, 5), bytes);
    await post(server, { images: [] });
    broken = true;
    await post(server, bytesOf(0, 5), bytes);
    const report = (await server.app.inject('/stats.json')).json();
    expect(report.requests).toMatchObject({ answered: 3, refused: 1, failed: 1, inFlight: 0 });
    expect(report.images.answered).toBe(5);
    expect(report.batches).toEqual({ batches: 1, images: 5 });
    expect(report.requests.perSecond).toBeGreaterThan(0);
    const { p50, p90, p99, max } = report.latencyMs;
    expect([p50, p90, p99, max]).toEqual([p50, p90, p99, max].toSorted((a, b) => a - b));
    expect(p50).toBeGreaterThan(0);
    // What the network was made to take, at least.
    expect(max).toBeGreaterThan(15);
    expect(report.library.version).toMatch(/^\d/);
    expect(report.batchNorms).toBe('folded');
    const layers = start({ batchNorms: 'layers' });
    expect((await layers.app.inject('/stats.json')).json().batchNorms).toBe('layers');
  });
});

describe('batches', () => {
  /** Gives each image its first pixel as its only probability, and notes the sizes of the batches. */
  function echo(sizes: number[]): Classify {
    return async ({ data, shape: [count, features] }) => {
      sizes.push(count);
      const y = activations(count, 1);
      for (let n = 0; n < count; n++) y.data[n] = data[n * features];
      return y;
    };
  }

  const images = (...first: number[]): Activations => ({
    data: Float32Array.from(first.flatMap((value) => [value, 0])),
    shape: [first.length, 2],
  });

  it('join what waits in one turn of the event loop, and every request gets its own', async () => {
    const sizes: number[] = [];
    const batcher = new Batcher(echo(sizes), 8);
    const answers = await Promise.all([
      batcher.submit(images(1)),
      batcher.submit(images(2, 3)),
      batcher.submit(images(4, 5, 6)),
      batcher.submit(images(7, 8, 9)),
      batcher.submit(images(10)),
    ]);
    expect(answers.map(({ data }) => [...data])).toEqual([[1], [2, 3], [4, 5, 6], [7, 8, 9], [10]]);
    expect(sizes).toEqual([6, 4]);
    expect(batcher.counts).toEqual({ batches: 2, images: 10 });
  });

  it('take a large request in pieces', async () => {
    const sizes: number[] = [];
    const batcher = new Batcher(echo(sizes), 4);
    const [large, small] = await Promise.all([
      batcher.submit(images(1, 2, 3, 4, 5, 6, 7, 8, 9)),
      batcher.submit(images(10)),
    ]);
    expect([...large.data]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect([...small.data]).toEqual([10]);
    expect(sizes).toEqual([4, 4, 2]);
  });

  it('fail for the request that makes them fail, and for no other', async () => {
    const sizes: number[] = [];
    const through = echo(sizes);
    const batcher = new Batcher(async (x) => {
      if (x.data.includes(13)) throw new Error('unlucky');
      return through(x);
    }, 8);
    const results = await Promise.allSettled([1, 13, 2].map((first) => batcher.submit(images(first))));
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect([...(await batcher.submit(images(3))).data]).toEqual([3]);
  });

  it('go on without the requests that were given up', async () => {
    const sizes: number[] = [];
    const batcher = new Batcher(echo(sizes), 8);
    const controller = new AbortController();
    const given = batcher.submit(images(1, 2), controller.signal);
    const kept = batcher.submit(images(3));
    controller.abort(new Error('gone'));
    await expect(given).rejects.toThrow('gone');
    expect([...(await kept).data]).toEqual([3]);
    expect(sizes).toEqual([1]);
  });

  it('refuse what would wait too long, and take it again later', async () => {
    const sizes: number[] = [];
    const batcher = new Batcher(echo(sizes), 4096);
    const many = { data: new Float32Array(2 * 6000), shape: [6000, 2] } as const;
    const first = batcher.submit(many);
    await expect(batcher.submit(many)).rejects.toMatchObject({ statusCode: 503, code: 'OVERLOADED' });
    await first;
    expect((await batcher.submit(many)).shape).toEqual([6000, 1]);
  });
});

describe('over HTTP', () => {
  async function listen(options: Partial<ServerOptions> = {}, by?: Classify) {
    const server = start(options, by);
    return { server, address: await server.app.listen({ host: '127.0.0.1', port: 0 }) };
  }

  it('answers many at once, each with its own', async () => {
    const { server, address } = await listen();
    await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        const [from, to] = [2 * i, 2 * i + 1 + (i % 3)];
        const body = new Uint8Array(bytesOf(from, to));
        const response = await fetch(`${address}/predict`, { method: 'POST', headers: bytes, body });
        const answer = (await response.json()) as Answer;
        expect(answer.predictions).toHaveLength(to - from);
        expectPredictions(answer, from);
      }),
    );
    const report = (await server.app.inject('/stats.json')).json();
    expect(report.requests).toMatchObject({ answered: 40, refused: 0, failed: 0, inFlight: 0 });
  });

  it('forgets a client that goes away', async () => {
    const { server, address } = await listen({}, () => new Promise(() => {}));
    const { port, hostname } = new URL(address);
    const socket = connect(Number(port), hostname);
    socket.write(
      'POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\ncontent-length: 784\r\n\r\n',
    );
    socket.write(Buffer.alloc(784));
    await until(() => server.stats.inFlight === 1);
    socket.destroy();
    await until(() => server.stats.inFlight === 0);
  });
});

describe('the options', () => {
  it('have defaults for this machine alone', () => {
    const options = {
      model: 'out/mnist.safetensors',
      train: 0,
      host: '127.0.0.1',
      port: 8784,
      batch: 64,
      grace: 10,
      fold: true,
      dtype: 'float32',
    };
    expect(readOptions([])).toEqual(options);
    expect(readOptions(['--train'])).toEqual({ ...options, train: 60_000 });
    expect(readOptions(['--quick'])).toEqual({ ...options, train: 10_000 });
    expect(readOptions(['--no-fold'])).toEqual({ ...options, fold: false });
    expect(readOptions(['--dtype', 'bfloat16'])).toEqual({ ...options, fold: false, dtype: 'bfloat16' });
    expect(readOptions(['--help'])).toBe('help');
  });

  it.each([
    [['--port', '65536'], '--port must be an integer from 0 to 65535, got 65536'],
    [['--port', 'http'], '--port must be an integer from 0 to 65535, got http'],
    [['--batch', '0'], '--batch must be an integer from 1 to 4096, got 0'],
    [['--grace', '3601'], '--grace must be an integer from 0 to 3600, got 3601'],
    [['--host', ''], '--host must not be empty, got ""'],
    [['--dtype', 'float16'], '--dtype must be float32 or bfloat16, got float16'],
    [['--model='], '--model must not be empty, got ""'],
    [['--prot', '1'], "Unknown option '--prot'"],
    [['stray'], "Unexpected argument 'stray'"],
  ])('%j are refused', (args, message) => {
    expect(() => readOptions(args)).toThrow(message);
  });
});

// On Windows SIGTERM ends a process at once.
describe.runIf(process.platform !== 'win32')('the process', () => {
  const processes: ServeProcess[] = [];
  afterEach(() => {
    for (const { child } of processes.splice(0)) child.kill('SIGKILL');
  });
  function serve(...args: string[]): ServeProcess {
    const started = startServe(...args);
    processes.push(started);
    return started;
  }

  it.each(['SIGTERM', 'SIGINT'] as const)(
    'answers what is in flight at %s, then ends with 0',
    async (signal) => {
      const server = serve('--model', model, '--port', '0');
      const address = await server.address;
      const body = bytesOf(0, 2);
      const headers = { ...bytes, 'content-length': body.length };
      const answer = new Promise<Answer>((resolve, reject) => {
        const sent = request(`${address}/predict`, { method: 'POST', headers }, (response) => {
          const parts: Buffer[] = [];
          response.on('data', (part) => parts.push(part));
          response.on('end', () => resolve(JSON.parse(Buffer.concat(parts).toString())));
        });
        sent.on('error', reject);
        // Half of the body: the request is in flight for certain when the signal arrives, and ends only after it.
        sent.write(body.subarray(0, 1000));
        void (async () => {
          await until(async () => {
            const report = (await (await fetch(`${address}/stats.json`)).json()) as {
              requests: { inFlight: number };
            };
            return report.requests.inFlight === 1;
          });
          server.child.kill(signal);
          await until(() => server.output().includes(`${signal}: in flight 1`));
          // The connection of the report may have its last answer; a new one is refused.
          await until(() =>
            fetch(`${address}/stats`).then(
              () => false,
              () => true,
            ),
          );
          sent.end(body.subarray(1000));
        })().catch(reject);
      });
      expectPredictions(await answer, 0);
      expect(await server.ended).toBe(0);
      expect(server.output()).toContain('All answered.');
    },
  );

  it('ends at once where nothing is in flight, whatever connections are open', async () => {
    const server = serve('--model', model, '--port', '0');
    const address = await server.address;
    await (await fetch(address)).text();
    server.child.kill('SIGTERM');
    expect(await server.ended).toBe(0);
  });

  it('says what to do where there is no model', async () => {
    const server = serve('--model', join(folder, 'none.safetensors'), '--port', '0');
    expect(await server.ended).toBe(1);
    expect(server.output()).toMatch(
      /^--model must be an existing file, got .*none\.safetensors; run npm start first/,
    );
    expect(server.output()).not.toMatch(/^ +at /m);
  });

  it('says what is wrong with a model', async () => {
    const broken = join(folder, 'broken.safetensors');
    writeFileSync(broken, 'not a model');
    const server = serve('--model', broken, '--port', '0');
    expect(await server.ended).toBe(1);
    expect(server.output()).toMatch(/^.*broken\.safetensors cannot be served: header must have at most/);
  });

  it('says when the port is taken', async () => {
    const taken = createTcpServer().listen(0, '127.0.0.1');
    await until(() => taken.listening);
    const { port } = taken.address() as AddressInfo;
    const server = serve('--model', model, '--port', String(port));
    expect(await server.ended).toBe(1);
    expect(server.output()).toBe(
      `--port must be free, got ${port}, where another program listens on 127.0.0.1\n`,
    );
    taken.close();
  });

  it('says when the host is none of this machine', async () => {
    const server = serve('--model', model, '--host', '192.0.2.1', '--port', '0');
    expect(await server.ended).toBe(1);
    expect(server.output()).toBe('--host must be an address of this machine, got 192.0.2.1\n');
  });

  it('shows its options', async () => {
    const help = serve('--help');
    expect(await help.ended).toBe(0);
    expect(help.output()).toContain('Usage: npm run serve');
    const wrong = serve('--port', '-1');
    expect(await wrong.ended).toBe(2);
  });
});
