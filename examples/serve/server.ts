import { capabilities } from 'batchnorm';
import fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import { abridged } from '../abridged.js';
import { answerSignal, CLIENT_GONE } from './answer-signal.js';
import { Batcher } from './batcher.js';
import type { Classify } from './classifier.js';
import { Connections } from './connections.js';
import { answerClientError, answerError, answerErrors } from './errors.js';
import { checkOutline, readImages } from './images.js';
import { INSIDE, type Inside } from './inside.js';
import { addPages } from './pages.js';
import { PREDICTIONS, toPredictions } from './predictions.js';
import { RequestError } from './request-error.js';
import { round } from './round.js';
import { Stats } from './stats.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Images that were classified for this request. */
    images: number;
  }
}

export interface ServerOptions {
  /** Images in one pass through the network at most. */
  readonly batch: number;
  /** What `/stats.json` says of the batch norms of the network. Default 'folded', as `createClassifier` has them. */
  readonly batchNorms?: 'folded' | 'layers';
  /** What `/inside` answers; without it there is no such route. */
  readonly inside?: Inside;
  /** Bytes of a request's body at most. Default 1 MiB: 1337 images as bytes, some 300 as JSON. */
  readonly bodyLimit?: number;
  /** Milliseconds until a request that is not answered is given up. Default 5000. */
  readonly answerTimeout?: number;
  /** Milliseconds until a request must have arrived, its headers in half of that. Default 10 000. */
  readonly requestTimeout?: number;
  /** Connections at most. Default 256, so that bodies on their way take at most 256 MiB. */
  readonly connections?: number;
}

/** A server that classifies images; `stats` counts what it does. */
export interface DigitServer {
  readonly app: FastifyInstance;
  readonly stats: Stats;
  /**
   * Refuses new connections, closes idle ones, and answers requests that have begun; after `graceMs` (default 10 000)
   * cuts the connections that are left.
   *
   * @returns The number of those.
   */
  close(graceMs?: number): Promise<number>;
}

/** What a browser may do with the answers: run and load what comes from here, and nothing else. */
const SECURITY_HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
};

/** The routes, without a port. Close it to end the measurements. */
export function createServer(
  classify: Classify,
  {
    batch,
    batchNorms = 'folded',
    inside,
    bodyLimit = 1 << 20,
    answerTimeout = 5000,
    requestTimeout = 10_000,
    connections = 256,
  }: ServerOptions,
): DigitServer {
  const app = fastify({
    bodyLimit,
    requestTimeout,
    // Of silence, also where nobody reads the answer, for which one has its own time; between two requests.
    connectionTimeout: requestTimeout + answerTimeout,
    keepAliveTimeout: requestTimeout,
    // The check of these runs every 30 s by default, which would make 10 s mean up to 40.
    http: { connectionsCheckingInterval: requestTimeout / 10, headersTimeout: requestTimeout / 2 },
    // A request that was on its way when the end began is answered as well.
    return503OnClosing: false,
    clientErrorHandler: answerClientError,
    frameworkErrors: answerError,
  });
  const stats = new Stats();
  const batcher = new Batcher(classify, batch);
  const open = new Connections(app, connections);

  app.addHook('onClose', () => stats.close());
  app.addHook('onRequest', (_request, reply, done) => {
    reply.headers(SECURITY_HEADERS);
    done();
  });
  app.removeAllContentTypeParsers();
  answerErrors(app);
  addPages(app);

  app.decorateRequest('images', 0);
  // In a scope of its own, so that nobody reads the bodies of other requests.
  app.register(async (scope) => {
    readBodies(scope);
    scope.post('/predict', {
      schema: { response: { 200: PREDICTIONS } },
      onRequest: async (request, reply) => {
        stats.begin();
        const begun = performance.now();
        // The end of the response, unlike the hook onResponse, comes for clients too that have gone.
        reply.raw.once('close', () => {
          const status = reply.raw.writableEnded ? reply.statusCode : CLIENT_GONE;
          stats.end(status, performance.now() - begun, request.images);
        });
        checkEncoding(request);
      },
      handler: async (request, reply) => {
        const begun = performance.now();
        const x = readImages(request.body);
        const y = await batcher.submit(x, answerSignal(reply.raw, answerTimeout));
        request.images = x.shape[0];
        reply.header('cache-control', 'no-store');
        return { predictions: toPredictions(y), ms: round(performance.now() - begun, 3) };
      },
    });
    if (inside === undefined) return;
    // No prediction, and not counted as one: a look at one image, for the page.
    scope.post('/inside', {
      schema: { response: { 200: INSIDE } },
      onRequest: async (request) => checkEncoding(request),
      handler: async (request, reply) => {
        const x = readImages(request.body);
        if (x.shape[0] !== 1)
          throw new RequestError(400, 'INVALID_IMAGE', `body must be one image, got ${x.shape[0]}`);
        reply.header('cache-control', 'no-store');
        return inside(x);
      },
    });
  });

  app.get('/stats.json', (_request, reply) => {
    reply.header('cache-control', 'no-store');
    return reply.send({ ...stats.report(), batches: batcher.counts, batchNorms, library: capabilities() });
  });
  return { app, stats, close: (graceMs = 10_000) => open.close(graceMs) };
}

/** JSON and bytes, nothing else: any other content type is a 415. */
function readBodies(app: FastifyInstance): void {
  // Nothing copies the keys of a body: one called __proto__ is a key like any other here, and refused like any other.
  const parseJson = app.getDefaultJsonParser('ignore', 'ignore');
  app.addContentTypeParser<string>('application/json', { parseAs: 'string' }, (request, body, done) => {
    checkOutline(body);
    parseJson(request, body, done);
  });
  app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) =>
    done(null, body),
  );
}

/** Compressed bytes, too, may be a multiple of an image's. */
function checkEncoding({ headers }: FastifyRequest): void {
  const encoding = headers['content-encoding'];
  if (encoding === undefined || encoding.toLowerCase() === 'identity') return;
  const message = `content-encoding must be identity, got ${abridged(encoding)}`;
  throw new RequestError(415, 'UNSUPPORTED_ENCODING', message);
}
