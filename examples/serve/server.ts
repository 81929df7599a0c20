import { capabilities } from 'batchnorm';
import fastify, { type FastifyError, type FastifyInstance } from 'fastify';
import { abridged } from '../abridged.js';
import { answerSignal, CLIENT_GONE } from './answer-signal.js';
import { Batcher } from './batcher.js';
import type { Classify } from './classifier.js';
import { readImages } from './images.js';
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
  /** Bytes of a request's body at most. Default 1 MiB: 1337 images as bytes, some 300 as JSON. */
  readonly bodyLimit?: number;
  /** Milliseconds until a request that is not answered is given up. Default 5000. */
  readonly answerTimeout?: number;
}

/** A server that classifies images; `stats` counts what it does. */
export interface DigitServer {
  readonly app: FastifyInstance;
  readonly stats: Stats;
  /** Takes no more requests, answers those that have begun, and closes all connections. */
  close(): Promise<void>;
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
  { batch, bodyLimit = 1 << 20, answerTimeout = 5000 }: ServerOptions,
): DigitServer {
  const app = fastify({
    bodyLimit,
    // Of silence on a connection; of one request's arrival; between two requests.
    connectionTimeout: 10_000,
    requestTimeout: 10_000,
    keepAliveTimeout: 10_000,
    // The check of requestTimeout runs every 30 s by default, which would make 10 s mean up to 40.
    http: { connectionsCheckingInterval: 1000, headersTimeout: 5000 },
  });
  const stats = new Stats();
  const batcher = new Batcher(classify, batch);

  app.addHook('onClose', () => stats.close());
  app.addHook('onRequest', (_request, reply, done) => {
    reply.headers(SECURITY_HEADERS);
    done();
  });
  readBodies(app);
  answerErrors(app, bodyLimit);
  addPages(app);

  app.decorateRequest('images', 0);
  app.post('/predict', {
    schema: { response: { 200: PREDICTIONS } },
    onRequest: (request, reply, done) => {
      stats.begin();
      const begun = performance.now();
      // The end of the response, unlike the hook onResponse, comes for clients too that have gone.
      reply.raw.once('close', () => {
        const status = reply.raw.writableEnded ? reply.statusCode : CLIENT_GONE;
        stats.end(status, performance.now() - begun, request.images);
      });
      done();
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

  app.get('/stats.json', (_request, reply) => {
    reply.header('cache-control', 'no-store');
    return reply.send({ ...stats.report(), batches: batcher.counts, library: capabilities() });
  });
  const close = async () => {
    const closed = app.close();
    await stats.drained();
    // Those kept alive by their client, or opened by a browser in advance, would hold up the end for seconds.
    app.server.closeAllConnections();
    await closed;
  };
  return { app, stats, close };
}

/** JSON and bytes, nothing else: any other content type is a 415. */
function readBodies(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  const parseJson = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser('application/json', { parseAs: 'string' }, parseJson);
  app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) =>
    done(null, body),
  );
}

/** Every error is `{ code, message }`; what went wrong inside goes to the log and not to the sender. */
function answerErrors(app: FastifyInstance, bodyLimit: number): void {
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const { statusCode, code, message } = toRequestError(error, request.headers['content-type'], bodyLimit);
    if (code === 'INTERNAL') console.error(error);
    if (statusCode === 503) reply.header('retry-after', '1');
    return reply.code(statusCode).send({ code, message });
  });
  app.setNotFoundHandler((request, reply) => {
    const rule = 'be GET /, GET /stats, GET /stats.json or POST /predict';
    const message = `request must ${rule}, got ${request.method} ${abridged(request.url)}`;
    return reply.code(404).send({ code: 'NOT_FOUND', message });
  });
}

function toRequestError(error: FastifyError, type: string | undefined, bodyLimit: number): RequestError {
  if (error instanceof RequestError) return error;
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new RequestError(413, 'TOO_LARGE', `body must have at most ${bodyLimit} bytes, got more`);
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE': {
      const rule = 'be application/json or application/octet-stream';
      return new RequestError(415, 'UNSUPPORTED_TYPE', `content-type must ${rule}, got ${abridged(type)}`);
    }
  }
  if (error.statusCode !== undefined && error.statusCode < 500) {
    return new RequestError(error.statusCode, 'INVALID_REQUEST', error.message);
  }
  return new RequestError(500, 'INTERNAL', 'the server failed; its log says why');
}
