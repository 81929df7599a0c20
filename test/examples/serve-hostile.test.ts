// What a client may send, and how it may hang on to its connection: each ends in a clear status, and the server goes on.
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { connect, createServer as createSocketServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeEach, describe, expect, it, type MockInstance, vi } from 'vitest';
import { abridged } from '../../examples/abridged.js';
import { saveNetwork } from '../../examples/mnist/checkpoint.js';
import { activations, Network } from '../../examples/mnist/network.js';
import { uniform } from '../../examples/mnist/random.js';
import { SIZES } from '../../examples/mnist/recipe.js';
import type { Classify } from '../../examples/serve/classifier.js';
import { readImages } from '../../examples/serve/images.js';
import { RequestError } from '../../examples/serve/request-error.js';
import { createServer, type DigitServer, type ServerOptions } from '../../examples/serve/server.js';
import type { StatsReport } from '../../examples/serve/stats.js';
import { until } from '../support/until.js';
import { type ServeProcess, startServe } from './serve-process.js';

const PIXELS = 784;
const LIMIT = 1 << 20;
const json = { 'content-type': 'application/json' };
const bytes = { 'content-type': 'application/octet-stream' };

const sevens: Classify = async ({ shape: [count] }) => {
  const y = activations(count, 10);
  for (let n = 0; n < count; n++) y.data[10 * n + 7] = 1;
  return y;
};

const servers: DigitServer[] = [];
let log: MockInstance;
beforeEach(() => {
  log = vi.spyOn(console, 'error');
});
afterEach(async () => {
  // Nothing that a client does is worth a line, let alone a stack.
  expect(log).not.toHaveBeenCalled();
  vi.restoreAllMocks();
  await Promise.all(servers.splice(0).map((server) => server.close(0)));
});

function start(options: Partial<ServerOptions> = {}, classify = sevens): DigitServer {
  const server = createServer(classify, { batch: 64, ...options });
  servers.push(server);
  return server;
}

function expectError(response: { statusCode: number; body: string }, status: number): void {
  expect(response.statusCode).toBe(status);
  const { code, message, ...others } = JSON.parse(response.body);
  expect(others).toEqual({});
  expect(code).toMatch(/^[A-Z_]+$/);
  expect(message).toMatch(/^.+ (must|may) .+, got /);
  expect(message.length).toBeLessThan(250);
  expect(message).not.toMatch(/node_modules|\bat .*:\d/);
}

/** A text of the size of the limit: `open` and `close` nested, or `open` over and over. */
const nested = (open: string, close: string) => {
  const depth = Math.floor((LIMIT - 1) / (open.length + close.length));
  return `${open.repeat(depth)}0${close.repeat(depth)}`;
};
const filled = (before: string, item: string, after: string) =>
  `${before}${item.repeat(Math.floor((LIMIT - before.length - after.length) / item.length))}${after}`;
const manyKeys = (() => {
  const text = Array.from({ length: 70_000 }, (_, i) => `"${i}":0`).join();
  return (before: string, after: string) => `${before}{${text}}${after}`;
})();
const image = JSON.stringify(Array(PIXELS).fill(0));

describe('a body', () => {
  it.each<[what: string, body: string | Buffer]>([
    ['20 000 arrays in each other', '['.repeat(20_000) + ']'.repeat(20_000)],
    ['a megabyte of arrays in each other', nested('[', ']')],
    ['a megabyte of arrays behind values', nested('[0,', ']')],
    ['a megabyte of objects in each other', nested('{"image":', '}')],
    ['arrays that never end', '['.repeat(LIMIT)],
    ['a deep image', `{"image":${nested('[', ']').slice(20, -20)}}`],
    ['a megabyte of zeros as images', filled('{"images":[', '0,', '0]}')],
    ['a megabyte of empty images', filled('{"images":[', '[],', '[]]}')],
    ['a megabyte of objects as images', filled('{"images":[', '{},', '{}]}')],
    ['a megabyte of one image', filled('{"image":[', '0,', '0]}')],
    ['70 000 keys', manyKeys('', '')],
    ['70 000 keys as an image', manyKeys('{"image":', '}')],
    ['the same key a thousand times', filled('{', '"image":[],', '"image":[]}')],
    ['the same key twice, the last one right', `{"image":0,"image":${image}}`],
    ['the same key twice, once escaped', `{"image":${image},"\\u0069mage":${image}}`],
    ['a long string', filled('{"image":"', 'x', '"}')],
    ['a long key', filled('{"', 'x', '":0}')],
    ['a string of brackets', filled('{"image":"', '[', '"}')],
    ['a string of quotes', filled('{"image":"', '\\"[', '"}')],
    ['a number of a megabyte', filled('{"image":', '9', '}')],
    ['a number without end', '{"image":1e999}'],
    ['infinite ink', `{"image":${image.replace('0', '1e999')}}`],
    ['NaN', `{"image":${image.replace('0', 'NaN')}}`],
    ['__proto__', `{"__proto__":{"image":${image}}}`],
    ['__proto__ beside an image', `{"image":${image},"__proto__":{}}`],
    ['a constructor', '{"constructor":{"prototype":{"image":[]}}}'],
    ['an object as long as an image', '{"image":{"length":784}}'],
    ['no byte', ''],
    ['blanks', ' '.repeat(LIMIT)],
    ['two texts', `{"image":${image}}{"image":${image}}`],
    ['zero bytes', Buffer.alloc(1000)],
    ['UTF-16', Buffer.from(`\ufeff{"image":${image}}`, 'utf16le')],
    ['a key that is not UTF-8', Buffer.from(`{"imag\xe9":${image}}`, 'latin1')],
    ['compressed JSON that does not say so', gzipSync(`{"image":${image}}`)],
  ])('of JSON with %s is refused', async (_what, payload) => {
    const { app } = start();
    const response = await app.inject({ method: 'POST', url: '/predict', headers: json, payload });
    expectError(response, 400);
  });

  it('cut short is refused, wherever that is', async () => {
    const { app } = start();
    const right = `{"images":[${image}]}`;
    for (let length = 0; length < right.length; length += length < 20 ? 1 : 97) {
      const payload = right.slice(0, length);
      expectError(await app.inject({ method: 'POST', url: '/predict', headers: json, payload }), 400);
    }
    const whole = await app.inject({ method: 'POST', url: '/predict', headers: json, payload: right });
    expect(whole.statusCode).toBe(200);
  });

  it.each(['gzip', 'deflate', 'br', 'identity, gzip', ''])('encoded as "%s" is refused', async (encoding) => {
    const headers = { ...bytes, 'content-encoding': encoding };
    const payload = Buffer.alloc(PIXELS);
    expectError(await start().app.inject({ method: 'POST', url: '/predict', headers, payload }), 415);
  });

  it('without a type is refused, and a request without a body too', async () => {
    const { app } = start();
    expectError(await app.inject({ method: 'POST', url: '/predict', payload: Buffer.alloc(PIXELS) }), 415);
    expectError(await app.inject({ method: 'POST', url: '/predict' }), 400);
  });

  it('gets no memory for images that it only claims', () => {
    // As many images as no array can hold the pixels of.
    const images = Object.assign([0], { length: 2 ** 32 - 1 });
    expect(() => readImages({ images })).toThrow(RequestError);
    const last = Object.assign([], { length: 2 ** 32 - 1 });
    expect(() => readImages({ images: last })).toThrow(/^images\[0\] must be an array, got nothing$/);
  });

  it('is shown in a message to the extent that it is read there', () => {
    const unread = new Proxy([], {
      get: (_target, name) => {
        throw new Error(`${String(name)} must not be read`);
      },
    });
    expect(abridged(['x'.repeat(90), unread])).toBe(`["${'x'.repeat(78)}…`);
    expect(abridged({ unread })).toBe('{…}');
    let deep: unknown = unread;
    for (let i = 0; i < 100_000; i++) deep = [deep];
    expect(abridged(deep)).toMatch(/^\[{40,80}.*…$/);
    expect(abridged(['a"\n', 1, null, true, [], Infinity])).toBe('["a\\"\\n",1,null,true,[],Infinity]');
  });

  it('for a path that is none is not read', async () => {
    const payload = '['.repeat(LIMIT);
    for (const url of ['/nothing', '/']) {
      const response = await start().app.inject({ method: 'POST', url, headers: json, payload });
      expectError(response, url === '/' ? 405 : 404);
    }
  });
});

async function untilInFlight(address: string, count: number): Promise<void> {
  await until(async () => {
    const report = (await (await fetch(`${address}/stats.json`)).json()) as StatsReport;
    return report.requests.inFlight === count;
  });
}

/** A connection; what comes is gathered. */
class Client {
  readonly socket: Socket;
  readonly ended: Promise<string>;
  text = '';

  constructor(address: string) {
    const { hostname, port } = new URL(address);
    this.socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
    this.socket.on('data', (chunk) => {
      this.text += chunk;
    });
    this.ended = new Promise((resolve, reject) => {
      this.socket.once('end', () => {
        this.socket.end();
        resolve(this.text);
      });
      this.socket.once('error', reject);
    });
    // Not every test waits for the end.
    this.ended.catch(() => {});
  }

  send(text: string | Buffer): this {
    this.socket.write(text);
    return this;
  }

  /** Waits for a text. */
  async until(text: string): Promise<void> {
    while (!this.text.includes(text)) await once(this.socket, 'data');
  }
}

async function listen(
  options: Partial<ServerOptions> = {},
  classify?: Classify,
): Promise<{ server: DigitServer; address: string; open(): Client }> {
  const server = start(options, classify);
  const address = await server.app.listen({ host: '127.0.0.1', port: 0 });
  return { server, address, open: () => new Client(address) };
}

const GET = 'GET /stats.json HTTP/1.1\r\nhost: x\r\n\r\n';
const HEAD_OF_POST = `POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n`;
const POST = `${HEAD_OF_POST}content-length: ${PIXELS}\r\n\r\n${'\0'.repeat(PIXELS)}`;

/** The last answer of a connection: its status and what it says. */
function parseAnswer(text: string): { statusCode: number; head: string; body: string } {
  const at = text.lastIndexOf('HTTP/1.1 ');
  const [head, body] = text.slice(at).split('\r\n\r\n');
  return { statusCode: Number(head.slice(9, 12)), head, body };
}

describe('a request', () => {
  it.each<[what: string, text: string, status: number]>([
    ['that is no HTTP', 'nonsense\r\n\r\n', 400],
    ['of TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400],
    ['of an unknown method', 'SING / HTTP/1.1\r\nhost: x\r\n\r\n', 400],
    ['without a host', 'GET / HTTP/1.1\r\n\r\n', 400],
    ['of another version', 'GET / HTTP/3.0\r\nhost: x\r\n\r\n', 400],
    ['with a header without end', `GET / HTTP/1.1\r\nhost: x\r\nx: ${'x'.repeat(20_000)}`, 431],
    ['with a path without end', `GET /${'x'.repeat(20_000)}`, 431],
    ['with two lengths', `${HEAD_OF_POST}content-length: 784\r\ncontent-length: 785\r\n\r\n`, 400],
    [
      'with a length and chunks',
      `${HEAD_OF_POST}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n`,
      400,
    ],
    ['with a length below zero', `${HEAD_OF_POST}content-length: -1\r\n\r\n`, 400],
    ['with a length of a petabyte', `${HEAD_OF_POST}content-length: ${2 ** 50}\r\n\r\n`, 413],
    ['with a length beyond all numbers', `${HEAD_OF_POST}content-length: ${'9'.repeat(99)}\r\n\r\n`, 400],
    ['with chunks that are none', `${HEAD_OF_POST}transfer-encoding: chunked\r\n\r\nzz\r\n`, 400],
    ['with chunks beyond the limit', filledChunks(), 413],
    ['to connect', 'CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n', 405],
    ['with a path that cannot be decoded', 'GET /%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n', 400],
    ['that expects the unknown', 'GET / HTTP/1.1\r\nhost: x\r\nexpect: x\r\nconnection: close\r\n\r\n', 417],
  ])('%s gets its status, and the next client is served', async (_what, text, status) => {
    const { open, address } = await listen();
    const answer = parseAnswer(await open().send(text).ended);
    expect(answer.statusCode).toBe(status);
    // What Node refuses by itself has an empty body.
    if (answer.head.includes('content-type')) expectError(answer, status);
    expect((await fetch(address)).status).toBe(200);
  });

  it('whose body ends before its length is refused', async () => {
    const { open } = await listen();
    const client = open().send(POST.slice(0, -1));
    client.socket.end();
    expectError(parseAnswer(await client.ended), 400);
  });

  it.each([
    ['/../package.json', 404],
    ['/..%2fpackage.json', 404],
    ['/%2e%2e/server.ts', 404],
    ['//etc/passwd', 404],
    ['/pages/draw.html', 404],
    ['/draw.html', 404],
    ['/draw.js/', 404],
    ['/draw.js%00', 404],
    ['/DRAW.JS', 404],
    ['/\\..\\package.json', 404],
    ['/%c0%ae%c0%ae/package.json', 400],
    ['http://elsewhere/nothing', 404],
    [`/${'%41'.repeat(5000)}`, 404],
  ])('for the path %.40s is refused', async (path, status) => {
    const { open } = await listen();
    const text = `GET ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`;
    expectError(parseAnswer(await open().send(text).ended), status);
  });

  it.each([
    ['GET', '/predict', 'POST'],
    ['OPTIONS', '/predict', 'POST'],
    ['PUT', '/predict?x', 'POST'],
    ['POST', '/', 'GET, HEAD'],
    ['DELETE', '/stats.json', 'GET, HEAD'],
    ['TRACE', '/style.css', 'GET, HEAD'],
  ] as const)('%s %s is told which methods there are', async (method, url, allowed) => {
    const { open } = await listen();
    const text = `${method} ${url} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`;
    const answer = parseAnswer(await open().send(text).ended);
    expectError(answer, 405);
    expect(answer.head).toContain(`\r\nallow: ${allowed}\r\n`);
  });

  it('of HEAD gets the head alone', async () => {
    const { open } = await listen();
    const text = 'HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n';
    const answer = parseAnswer(await open().send(text).ended);
    expect(answer.statusCode).toBe(200);
    expect(answer.head).toMatch(/\r\ncontent-length: [1-9]/);
    expect(answer.body).toBe('');
  });
});

function filledChunks(): string {
  const chunk = `10000\r\n${'\0'.repeat(0x10000)}\r\n`;
  return `${HEAD_OF_POST}transfer-encoding: chunked\r\n\r\n${chunk.repeat(17)}`;
}

describe('a connection', () => {
  it.each([
    ['says nothing', ''],
    ['stops in its headers', POST.slice(0, 40)],
    ['stops in its body', POST.slice(0, -1)],
  ])('that %s is given up', async (_what, text) => {
    const { open } = await listen({ requestTimeout: 100 });
    expectError(parseAnswer(await open().send(text).ended), 408);
  });

  it('beyond the limit is told so, and there is room again once another has gone', async () => {
    const { server, open } = await listen({ connections: 2 });
    const first = open().send(GET);
    const second = open().send(GET);
    await Promise.all([first.until('uptime'), second.until('uptime')]);
    const third = parseAnswer(await open().ended);
    expectError(third, 503);
    first.socket.destroy();
    await until(
      () => new Promise<boolean>((resolve) => server.app.server.getConnections((_, n) => resolve(n === 1))),
    );
    const fourth = open().send(GET);
    await fourth.until('uptime');
    expect(parseAnswer(fourth.text).statusCode).toBe(200);
  });
});

/** Lets the network wait until it is told to go on. */
function gated() {
  let open = () => {};
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  const classify: Classify = async (x) => {
    await gate;
    return sevens(x);
  };
  return { classify, open };
}

describe('the end', () => {
  it('comes after the answers to all that was in flight, each the last of its connection', async () => {
    const gate = gated();
    const { server, open, address } = await listen({}, gate.classify);
    const clients = Array.from({ length: 30 }, () => open().send(POST));
    await until(() => server.stats.inFlight === 30);
    const closed = server.close();
    await until(() => !server.app.server.listening);
    await expect(fetch(address)).rejects.toThrow();
    gate.open();
    for (const { ended } of clients) {
      const { statusCode, head } = parseAnswer(await ended);
      expect(statusCode).toBe(200);
      expect(head).toMatch(/\r\nconnection: close/i);
    }
    expect(await closed).toBe(0);
  });

  it('comes after the answers to requests that came together on one connection', async () => {
    const gate = gated();
    const { server, open } = await listen({}, gate.classify);
    const client = open().send(POST + POST + GET + POST);
    await until(() => server.stats.inFlight === 3);
    const closed = server.close();
    await until(() => !server.app.server.listening);
    gate.open();
    expect((await client.ended).match(/HTTP\/1\.1 200 /g)).toHaveLength(4);
    expect(await closed).toBe(0);
  });

  it('does not wait for idle connections, whether they had a request or not', async () => {
    const gate = gated();
    const { server, open } = await listen({}, gate.classify);
    const busy = open().send(POST);
    const silent = open();
    const idle = open().send(GET);
    await idle.until('uptime');
    await until(() => server.stats.inFlight === 1);
    const closed = server.close();
    await Promise.all([idle.ended, silent.ended]);
    expect(busy.text).toBe('');
    gate.open();
    expect(parseAnswer(await busy.ended).statusCode).toBe(200);
    expect(await closed).toBe(0);
  });

  it('answers what was read at its beginning, and what is completed in time', async () => {
    const { server, open } = await listen();
    const early = open();
    await once(early.socket, 'connect');
    const late = open().send(POST.slice(0, -1));
    await until(() => server.stats.inFlight === 1);
    await new Promise((resolve) => early.socket.write(POST, resolve));
    const closed = server.close();
    await until(() => !server.app.server.listening);
    late.send('\0');
    expect(parseAnswer(await late.ended).statusCode).toBe(200);
    expect(parseAnswer(await early.ended).statusCode).toBe(200);
    expect(await closed).toBe(0);
  });

  it('leaves no request without an answer under load', async () => {
    const { server, open } = await listen();
    let answers = 0;
    const clients = Array.from({ length: 30 }, () => {
      const client = open().send(POST);
      client.socket.on('data', (chunk) => {
        answers++;
        if (!/\r\nconnection: close/i.test(String(chunk))) client.send(POST);
      });
      return client;
    });
    await until(() => answers > 200);
    const closed = server.close();
    for (const { ended } of clients) {
      const { statusCode, head } = parseAnswer(await ended);
      expect(statusCode).toBe(200);
      expect(head).toMatch(/\r\nconnection: close/i);
    }
    expect(await closed).toBe(0);
  });

  it('cuts what is not done by then: slow requests, and answers that nobody reads', async () => {
    const { server, open } = await listen();
    const sockets: Socket[] = [];
    server.app.server.on('connection', (socket: Socket) => sockets.push(socket));
    open().send(POST.slice(0, 40));
    open().send(POST.slice(0, -1));
    const deaf = open();
    deaf.socket.pause();
    deaf.send('GET /draw.js HTTP/1.1\r\nhost: x\r\n\r\n'.repeat(5000));
    await until(() => sockets.length === 3 && sockets.every(({ bytesRead }) => bytesRead > 0));
    await until(() => sockets.some(({ writableLength }) => writableLength > 0));
    const closed = server.close(0);
    expect(await closed).toBe(3);
    expect(sockets.every(({ destroyed }) => destroyed)).toBe(true);
  });
});

// On Windows SIGTERM ends a process at once, and there are no FIFOs.
describe.runIf(process.platform !== 'win32')('the process', () => {
  const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const model = join(folder, 'mnist.safetensors');
  saveNetwork(model, new Network(1, SIZES, true, uniform(1)), new Map());

  const processes: ServeProcess[] = [];
  afterEach(() => {
    for (const { child } of processes.splice(0)) child.kill('SIGKILL');
  });
  function serve(...args: string[]): ServeProcess {
    const started = startServe('--port', '0', ...args);
    processes.push(started);
    return started;
  }

  /** A request of which a byte comes now and then, and none is the last. */
  async function drip(address: string): Promise<Client> {
    const client = new Client(address).send(HEAD_OF_POST);
    const timer = setInterval(() => client.socket.write('x'), 50);
    client.socket.once('close', () => clearInterval(timer)).on('error', () => {});
    await once(client.socket, 'connect');
    return client;
  }

  it('ends with 0 though clients drip, and answers the others', async () => {
    const server = serve('--model', model, '--grace', '1');
    const address = await server.address;
    await Promise.all(Array.from({ length: 5 }, () => drip(address)));
    const others = Array.from({ length: 30 }, () => new Client(address).send(POST.slice(0, -1)));
    await untilInFlight(address, 30);
    server.child.kill('SIGTERM');
    await until(() => server.output().includes('SIGTERM: in flight 30'));
    for (const other of others) other.send('\0');
    for (const { ended } of others) expect(parseAnswer(await ended).statusCode).toBe(200);
    expect(await server.ended).toBe(0);
    expect(server.output()).toContain('Not done within 1 s, and cut: 5 of the connections.');
    expect(server.output()).not.toMatch(/^ +at /m);
  });

  it('ends at once at a second signal', async () => {
    const server = serve('--model', model, '--grace', '3600');
    const address = await server.address;
    await drip(address);
    new Client(address).send(POST.slice(0, -1)).socket.on('error', () => {});
    await untilInFlight(address, 1);
    server.child.kill('SIGTERM');
    await until(() => server.output().includes('SIGTERM: in flight 1'));
    server.child.kill('SIGTERM');
    expect(await server.ended).toBe('SIGTERM');
  });

  async function expectRefused(path: string, message: string): Promise<void> {
    const server = serve('--model', path);
    expect(await server.ended).toBe(1);
    expect(server.output()).toContain(message);
    expect(server.output().trim().split('\n')).toHaveLength(1);
  }

  it('refuses a model that is a FIFO', async () => {
    const path = join(folder, 'fifo');
    execFileSync('mkfifo', [path]);
    await expectRefused(path, 'fifo cannot be served: file must be a regular file, got a FIFO');
  });

  it('refuses a model that is a directory', async () => {
    const path = join(folder, 'directory');
    mkdirSync(path);
    await expectRefused(path, 'cannot be served: file must be a regular file, got a directory');
  });

  it('refuses a model that is a device', async () => {
    await expectRefused('/dev/zero', 'cannot be served: file must be a regular file, got a device');
  });

  it('refuses a model that is a socket', async () => {
    const path = join(folder, 'socket');
    const listening = createSocketServer().listen(path);
    await once(listening, 'listening');
    await expectRefused(path, 'cannot be served: file must be a regular file, got a socket');
    listening.close();
  });

  it('refuses a model that is a link to nothing', async () => {
    const path = join(folder, 'link');
    symlinkSync(join(folder, 'nothing'), path);
    await expectRefused(path, '--model must be an existing file, got');
  });

  it('refuses a model for its size, before it is read', async () => {
    const path = join(folder, 'large');
    writeFileSync(path, '');
    // Without blocks on the disk.
    truncateSync(path, 2 ** 40);
    await expectRefused(path, `cannot be served: file must have at most`);
  });

  it('refuses the model of another network', async () => {
    const path = join(folder, 'other.safetensors');
    saveNetwork(path, new Network(1, [784, 10], true, uniform(1)), new Map());
    await expectRefused(path, 'other.safetensors cannot be served: layers.');
  });
});
