import type { ServerResponse } from 'node:http';
import { RequestError } from './request-error.js';

/** The status of a request that nobody waits for any more; nobody gets to see it. */
export const CLIENT_GONE = 499;

/**
 * Aborts where the answer is not wanted any more: after `timeout` milliseconds, or once the client has gone.
 *
 * Fastify's own `handlerTimeout` and `request.signal` end with the request's stream, and that is as soon as its body
 * has been read.
 */
export function answerSignal(response: ServerResponse, timeout: number): AbortSignal {
  const controller = new AbortController();
  const timer = setTimeout(() => {
    const message = `an answer must take at most ${timeout} ms, got none by then; try again`;
    controller.abort(new RequestError(503, 'TIMEOUT', message));
  }, timeout);
  response.once('close', () => {
    clearTimeout(timer);
    if (!response.writableEnded)
      controller.abort(new RequestError(CLIENT_GONE, 'GONE', 'the client has gone'));
  });
  return controller.signal;
}
