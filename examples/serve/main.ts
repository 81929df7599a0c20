/** Serves the digit network over HTTP until SIGINT or SIGTERM, then answers what is in flight and ends. */

import { existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { capabilities } from 'batchnorm';
import { loadNetwork, saveNetwork, type TrainedBlock } from '../mnist/checkpoint.js';
import { readMnist } from '../mnist/data.js';
import { SIZES, trainNetwork } from '../mnist/recipe.js';
import { optionsOrExit } from '../options.js';
import { createClassifier } from './classifier.js';
import { type Options, readOptions, USAGE } from './options.js';
import { createServer, type DigitServer } from './server.js';

/** How long requests in flight may hold up the end. */
const SHUTDOWN_MS = 10_000;

async function main(options: Options): Promise<void> {
  const { model, host, port, batch, fold } = options;
  const server = createServer(createClassifier(loadModel(options), { fold }), { batch });
  endOnSignals(server);
  const address = await listen(server, host, port);
  const { backend, isa } = capabilities();
  const library = backend === 'js' ? 'plain JavaScript' : isa;
  const norms = fold ? 'batch norms folded into the linear layers' : `batch norms on ${library}`;
  console.log(`${SIZES.join('-')} from ${model}; ${norms}`);
  console.log(`Draw a digit:  ${address}/\nStatistics:    ${address}/stats`);
}

function loadModel({ model, train }: Options): TrainedBlock[] {
  if (!existsSync(model)) {
    if (!train) {
      const cure = 'run npm start first, or npm run serve -- --train';
      throw new Error(`--model must be an existing file, got ${model}; ${cure}`);
    }
    const { network } = trainNetwork('no model yet:', true, {
      digits: readMnist('train'),
      epochs: 2,
      seed: 1,
    });
    mkdirSync(dirname(model), { recursive: true });
    saveNetwork(model, network, new Map([['format', 'pt']]));
  }
  try {
    return loadNetwork(model, SIZES);
  } catch (error) {
    throw new Error(`${model} cannot be served: ${error instanceof Error ? error.message : error}`);
  }
}

async function listen({ app }: DigitServer, host: string, port: number): Promise<string> {
  try {
    return await app.listen({ host, port });
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

function endOnSignals(server: DigitServer): void {
  let ending = false;
  const end = async (signal: string) => {
    // A terminal's Ctrl+C arrives here twice, from the terminal and through npm: the second is no impatience.
    if (ending) return;
    ending = true;
    console.log(`${signal}: in flight ${server.stats.inFlight}`);
    setTimeout(() => {
      console.error(
        `requests must be answered within ${SHUTDOWN_MS} ms, got ${server.stats.inFlight} in flight`,
      );
      process.exit(1);
    }, SHUTDOWN_MS).unref();
    await server.close();
    console.log('All answered.');
  };
  process.on('SIGINT', end);
  process.on('SIGTERM', end);
}

main(optionsOrExit(USAGE, readOptions)).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
