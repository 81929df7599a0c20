import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setImmediate, setTimeout as wait } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import { endWith } from './errors.js';
import { RequestError } from './request-error.js';

/**
 * Milliseconds, the way to a client and back: who has an answer for longer and sends nothing does not make use of the
 * connection.
 */
const UNDER_WAY_MS = 200;

/**
 * The connections of a server: at most so many, and closed in good order at the end. Fastify and Node stop listening
 * and close connections that have had a request; which answer is the last of its connection is known here.
 */
export class Connections {
  readonly #app: FastifyInstance;
  /** The requests under way on each: more than one where a client does not wait for answers. */
  readonly #requests = new Map<Socket, number>();
  #answered = -Infinity;
  #closing = false;
  #refusing = false;

  constructor(app: FastifyInstance, most: number) {
    this.#app = app;
    app.server.on('connection', (socket: Socket) => {
      if (this.#refusing) {
        socket.destroy();
        return;
      }
      this.#requests.set(socket, 0);
      socket.once('close', () => this.#requests.delete(socket));
      if (this.#requests.size > most) {
        const rule = `at most ${most} connections may be open`;
        endWith(socket, new RequestError(503, 'OVERLOADED', `${rule}, got one more; try again in a second`));
      }
    });
    // Before Fastify's own listener, which may answer at once.
    app.server.prependListener('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
      this.#add(socket, 1);
      response.once('close', () => {
        this.#answered = performance.now();
        this.#add(socket, -1);
        // Where answers were ready in another order than that of their requests, none of them knew that it is the last.
        if (this.#closing && this.#requests.get(socket) === 0) socket.destroySoon();
      });
    });
    app.addHook('onSend', (request, reply, payload, done) => {
      const isLast = this.#requests.get(request.raw.socket) === 1;
      if (this.#closing && isLast) reply.header('connection', 'close');
      done(null, payload);
    });
    app.addHook('preClose', (done) => {
      // Node takes them for connections that are sending a request. Browsers open some in advance.
      for (const socket of this.#requests.keys()) if (socket.bytesRead === 0) socket.destroy();
      done();
    });
  }

  /**
   * Refuses new connections, closes idle ones, answers what has begun, and after `graceMs` cuts what is not done.
   *
   * @returns The number of connections that were cut.
   */
  async close(graceMs: number): Promise<number> {
    this.#closing = true;
    // What has arrived by now counts: one turn of the event loop accepts connections, the next reads from them.
    await turns();
    this.#refusing = true;
    // Under load the next requests are under way already, and would find their connections closed.
    const rest = this.#answered + UNDER_WAY_MS - performance.now();
    if (rest > 0) await wait(rest).then(turns);
    let cut = 0;
    const timer = setTimeout(() => {
      cut = this.#requests.size;
      this.#app.server.closeAllConnections();
      // Those that are no more HTTP for Node: refused, but their client does not read why.
      for (const socket of this.#requests.keys()) socket.destroy();
    }, graceMs);
    await this.#app.close();
    clearTimeout(timer);
    return cut;
  }

  #add(socket: Socket, requests: number): void {
    const before = this.#requests.get(socket);
    // The end of an answer may come after that of its connection.
    if (before !== undefined) this.#requests.set(socket, before + requests);
  }
}

async function turns(): Promise<void> {
  await setImmediate();
  await setImmediate();
}
