/** Serves the digit network over HTTP until SIGINT or SIGTERM, then answers what is in flight and ends. */

import { lookup } from 'node:dns/promises';
import { existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { capabilities } from 'batchnorm';
import { loadNetwork, pathWithout, saveNetwork, type TrainedBlock } from '../mnist/checkpoint.js';
import { head, readMnist } from '../mnist/data.js';
import { HIGH_LEARNING_RATE, SIZES, trainNetwork } from '../mnist/recipe.js';
import { optionsOrExit } from '../options.js';
import { createClassifier } from './classifier.js';
import { createInside } from './inside.js';
import { type Options, readOptions, USAGE } from './options.js';
import { createServer, type DigitServer } from './server.js';

async function main(options: Options): Promise<void> {
  const { model, host, port, batch, grace, fold, dtype } = options;
  const blocks = loadModel(options);
  const server = createServer(createClassifier(blocks, { fold, dtype }), {
    batch,
    batchNorms: fold ? 'folded' : 'layers',
    inside: createInside(blocks, loadWithout(model)),
  });
  const address = await listen(server, host, port);
  endOnSignals(server, grace);
  const { backend, isa } = capabilities();
  const library = backend === 'wasm' ? 'WebAssembly' : isa;
  const norms = fold ? 'batch norms folded into the linear layers' : `batch norms on ${library}, ${dtype}`;
  console.log(`${SIZES.join('-')} from ${model}; ${norms}`);
  console.log(`Draw a digit:  ${address}/\nStatistics:    ${address}/stats`);
}

function loadModel({ model, train }: Options): TrainedBlock[] {
  if (!existsSync(model)) {
    if (train === 0) {
      const cure = 'run npm start first, or npm run serve -- --train';
      throw new Error(`--model must be an existing file, got ${model}; ${cure}`);
    }
    const digits = head(readMnist('train'), train);
    mkdirSync(dirname(model), { recursive: true });
    // From the same weights, at a rate that only batch norm can bear: the page shows both.
    for (const [path, batchNorm] of [
      [model, true],
      [pathWithout(model), false],
    ] as const) {
      const label = `no model yet: ${batchNorm ? 'with batch norm' : 'without'}`;
      const learningRate = HIGH_LEARNING_RATE;
      const { network } = trainNetwork(label, { batchNorm, learningRate, digits, epochs: 2, seed: 1 });
      saveNetwork(path, network, new Map([['format', 'pt']]));
    }
  }
  return load(model, true);
}

/** The network beside it, where there is one: files of another origin come alone, and what has diverged cannot be served. */
function loadWithout(model: string): TrainedBlock[] | undefined {
  const path = pathWithout(model);
  if (!existsSync(path)) return undefined;
  try {
    return load(path, false);
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : error}; the page shows the other one alone`);
    return undefined;
  }
}

function load(path: string, batchNorm: boolean): TrainedBlock[] {
  try {
    return loadNetwork(path, SIZES, batchNorm);
  } catch (error) {
    throw new Error(`${path} cannot be served: ${error instanceof Error ? error.message : error}`);
  }
}

async function listen({ app }: DigitServer, host: string, port: number): Promise<string> {
  try {
    // For localhost Fastify would open a second server, whose connections it does not tell of.
    const { address } = await lookup(host);
    return await app.listen({ host: address, port });
  } catch (error) {
    await app.close();
    switch ((error as NodeJS.ErrnoException).code) {
      case 'EADDRINUSE':
        throw new Error(`--port must be free, got ${port}, where another program listens on ${host}`);
      case 'EACCES':
        throw new Error(`--port must be one that this user may open, got ${port}`);
      case 'EADDRNOTAVAIL':
      case 'ENOTFOUND':
      case 'EAI_AGAIN':
        throw new Error(`--host must be an address of this machine, got ${host}`);
      default:
        throw error;
    }
  }
}

/** The first signal ends the server in good order, a second one at once. */
function endOnSignals(server: DigitServer, grace: number): void {
  // Under npm Ctrl+C arrives twice, from the terminal and passed on by npm: that is no impatience.
  const signalsOfOne = process.env.npm_lifecycle_event === undefined ? 1 : 2;
  let signals = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    signals++;
    // Without a listener the system ends the process, even where JavaScript is busy.
    if (signals >= signalsOfOne) {
      process.off('SIGINT', onSignal);
      process.off('SIGTERM', onSignal);
    }
    if (signals === 1) void end(server, signal, grace);
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
}

async function end(server: DigitServer, signal: string, grace: number): Promise<void> {
  console.log(`${signal}: in flight ${server.stats.inFlight}; another ${signal} ends at once`);
  const cut = await server.close(1000 * grace);
  console.log(
    cut === 0 ? 'All answered.' : `Not done within ${grace} s, and cut: ${cut} of the connections.`,
  );
}

main(optionsOrExit(USAGE, readOptions)).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
