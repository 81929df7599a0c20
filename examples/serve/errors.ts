import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { ConnectionError, FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { abridged } from '../abridged.js';
import { RequestError } from './request-error.js';

const ROUTES = 'GET /, GET /stats, GET /stats.json or POST /predict';

/** Every error is `{ code, message }`; what went wrong inside goes to the log and not to the sender. */
export function answerErrors(app: FastifyInstance): void {
  app.setErrorHandler(answerError);
  app.setNotFoundHandler((request, reply) => {
    const [path] = request.url.split('?', 1);
    const allowed = ['GET', 'HEAD', 'POST'].filter((method) => app.hasRoute({ url: path, method }));
    if (allowed.length > 0) {
      reply.header('allow', allowed.join(', '));
      throw new RequestError(
        405,
        'METHOD_NOT_ALLOWED',
        `method must be ${allowed.join(' or ')}, got ${request.method}`,
      );
    }
    const message = `request must be ${ROUTES}, got ${request.method} ${abridged(request.url)}`;
    throw new RequestError(404, 'NOT_FOUND', message);
  });
  // Node leaves it to others, and without any closes the connection.
  app.server.on('connect', (_request, socket: Socket) => {
    endWith(socket, new RequestError(405, 'METHOD_NOT_ALLOWED', `request must be ${ROUTES}, got CONNECT`));
  });
}

export function answerError(error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  const { statusCode, code, message } = toRequestError(error, request);
  if (code === 'INTERNAL') console.error(error);
  if (statusCode === 503) reply.header('retry-after', '1');
  reply.code(statusCode).send({ code, message });
}

function toRequestError(error: FastifyError, request: FastifyRequest): RequestError {
  if (error instanceof RequestError) return error;
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE': {
      const rule = `have at most ${request.routeOptions.bodyLimit} bytes`;
      return new RequestError(413, 'TOO_LARGE', `body must ${rule}, got more`);
    }
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE': {
      const rule = 'be application/json or application/octet-stream';
      const type = abridged(request.headers['content-type']);
      return new RequestError(415, 'UNSUPPORTED_TYPE', `content-type must ${rule}, got ${type}`);
    }
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return new RequestError(400, 'INVALID_REQUEST', 'body must be JSON, got no byte');
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
      return new RequestError(400, 'INVALID_REQUEST', 'body must be JSON, got another text');
    case 'FST_ERR_BAD_URL':
      return new RequestError(400, 'INVALID_REQUEST', `path must be a URL's, got ${abridged(request.url)}`);
  }
  if (error.statusCode !== undefined && error.statusCode < 500) {
    return new RequestError(error.statusCode, 'INVALID_REQUEST', error.message);
  }
  return new RequestError(500, 'INTERNAL', 'the server failed; its log says why');
}

/** Answers what is no request, or not all of one. */
export function answerClientError(error: ConnectionError, socket: Socket): void {
  if (error.code === 'ECONNRESET') socket.destroy();
  else endWith(socket, toClientError(error.code));
}

function toClientError(code: string): RequestError {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new RequestError(408, 'TIMEOUT', 'a request must arrive in time, got a part of it');
    case 'HPE_HEADER_OVERFLOW':
      return new RequestError(431, 'TOO_LARGE', 'path and headers must have at most 16 KiB, got more');
    default:
      return new RequestError(400, 'INVALID_REQUEST', `request must be HTTP/1.1, got ${abridged(code)}`);
  }
}

/** An answer without a request, and the last on its connection. */
export function endWith(socket: Socket, { statusCode, code, message }: RequestError): void {
  if (socket.writable) {
    const body = JSON.stringify({ code, message });
    const head = [
      `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode]}`,
      'content-type: application/json; charset=utf-8',
      `content-length: ${Buffer.byteLength(body)}`,
      'connection: close',
    ];
    socket.write(`${head.join('\r\n')}\r\n\r\n${body}`);
  }
  socket.destroySoon();
}
