/** Measures the server under load: starts it as a process of its own, and sends requests over ten connections. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createHistogram } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import autocannon from 'autocannon';
import Table from 'cli-table3';
import { head, readMnist } from '../mnist/data.js';
import { grouped } from '../mnist/report.js';
import { integer, optionsOrExit } from '../options.js';
import type { StatsReport } from './stats.js';

const USAGE = `Usage: npm run serve:load -- [options]

  --seconds <n>      duration of each load (default 10)
  --connections <n>  requests under way at a time (default 10)
  --batch <n>        images in one pass through the network at most (default 64; 1: no batching)
  --help             this text`;

interface Options {
  readonly seconds: number;
  readonly connections: number;
  readonly batch: number;
}

function readOptions(): Options | 'help' {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '10' },
      connections: { type: 'string', default: '10' },
      batch: { type: 'string', default: '64' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  return {
    seconds: integer('--seconds', values.seconds, 1, 600),
    connections: integer('--connections', values.connections, 1, 256),
    batch: integer('--batch', values.batch, 1, 4096),
  };
}

interface Load {
  readonly name: string;
  readonly images: number;
  readonly type: string;
  readonly body: string | Buffer;
}

/** Real digits, because the linear layers skip blank pixels. */
function loads(): Load[] {
  const { images } = head(readMnist('t10k'), 64);
  const bytes = Buffer.from(images);
  const one = bytes.subarray(0, images.length / 64);
  const json = JSON.stringify({ image: [...one] });
  return [
    { name: '1 image, JSON', images: 1, type: 'application/json', body: json },
    { name: '1 image, bytes', images: 1, type: 'application/octet-stream', body: one },
    { name: '64 images, bytes', images: 64, type: 'application/octet-stream', body: bytes },
  ];
}

async function main({ seconds, connections, batch }: Options): Promise<void> {
  const table = new Table({
    head: ['', 'requests/s', 'images/s', 'p50', 'p99', 'loop delay p50', 'p99', 'not 200'],
    style: { head: [], border: [] },
    colAligns: ['left', ...Array<'right'>(7).fill('right')],
  });
  for (const load of loads()) {
    table.push(await withServer(batch, (address) => measure(address, load, seconds, connections)));
  }
  console.log(`${connections} connections, ${seconds} s each, batches of up to ${batch}; times in ms`);
  console.log(table.toString());
}

/** A new server for each load, so that its statistics are those of the load. */
async function withServer<T>(batch: number, use: (address: string) => Promise<T>): Promise<T> {
  const args = [
    '--import',
    'tsx',
    'examples/serve/main.ts',
    '--port',
    '0',
    '--batch',
    String(batch),
    '--train',
  ];
  const server = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(server, 'close');
  try {
    return await use(await addressOf(createInterface(server.stdout)));
  } finally {
    server.kill('SIGTERM');
    await ended;
  }
}

async function addressOf(lines: AsyncIterable<string>): Promise<string> {
  for await (const line of lines) {
    const found = line.match(/^Draw a digit: +(\S+)\/$/);
    if (found) return found[1];
  }
  throw new Error('the server must listen, got its end');
}

async function measure(address: string, load: Load, seconds: number, connections: number): Promise<string[]> {
  const options: autocannon.Options = {
    url: `${address}/predict`,
    method: 'POST',
    headers: { 'content-type': load.type },
    body: load.body,
    connections,
  };
  // The first second compiles the code.
  await autocannon({ ...options, duration: 1 });
  // Of its own: that of autocannon counts whole milliseconds.
  const latency = createHistogram();
  const result = await new Promise<autocannon.Result>((resolve, reject) => {
    const done = (error: unknown, measured: autocannon.Result) => (error ? reject(error) : resolve(measured));
    autocannon({ ...options, duration: seconds }, done).on('response', (_client, _status, _bytes, time) =>
      latency.record(Math.max(1, Math.round(1000 * time))),
    );
  });
  const { loopDelayMs } = (await (await fetch(`${address}/stats.json`)).json()) as StatsReport;
  const perSecond = result.requests.total / result.duration;
  const ms = (value: number) => value.toFixed(2);
  return [
    load.name,
    grouped(Math.round(perSecond)),
    grouped(Math.round(perSecond * load.images)),
    ms(latency.percentile(50) / 1000),
    ms(latency.percentile(99) / 1000),
    ms(loopDelayMs.p50),
    ms(loopDelayMs.p99),
    String(result.non2xx + result.errors),
  ];
}

main(optionsOrExit(USAGE, readOptions)).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
