import { setImmediate } from 'node:timers/promises';
import type { Activations } from '../mnist/network.js';
import type { Classify } from './classifier.js';
import { RequestError } from './request-error.js';

/** Consecutive images of one request: what a batch takes or leaves as a whole. */
interface Piece {
  readonly x: Activations;
  readonly signal: AbortSignal | undefined;
  resolve(y: Activations): void;
  reject(reason: unknown): void;
}

/** Numbers of batches and images that went through the network. */
export interface BatchCounts {
  readonly batches: number;
  readonly images: number;
}

/** Room for waiting images: what the network does in about half a second, and 25 MB. */
const MOST_WAITING = 8192;

/**
 * Sends images through the network in batches: those that wait in one turn of the event loop go together, up to
 * `most`. Larger requests go in pieces, and between two batches the event loop has its turn.
 */
export class Batcher {
  readonly #classify: Classify;
  readonly #most: number;
  #waiting: Piece[] = [];
  #waitingImages = 0;
  #working = false;
  #batches = 0;
  #images = 0;

  constructor(classify: Classify, most: number) {
    this.#classify = classify;
    this.#most = most;
  }

  get counts(): BatchCounts {
    return { batches: this.#batches, images: this.#images };
  }

  /**
   * The probabilities of the images of one request, in their order. An abort takes the images that still wait out
   * of the queue.
   *
   * @throws {RequestError} 503 where too many images wait already; the reason of the abort.
   */
  async submit(x: Activations, signal?: AbortSignal): Promise<Activations> {
    const [count] = x.shape;
    if (this.#waitingImages > 0 && this.#waitingImages + count > MOST_WAITING) {
      const rule = `at most ${MOST_WAITING} images may wait, got ${this.#waitingImages + count}`;
      throw new RequestError(503, 'OVERLOADED', `${rule}; try again in a second`);
    }
    const parts: Promise<Activations>[] = [];
    for (let from = 0; from < count; from += this.#most) {
      const piece = rows(x, from, Math.min(from + this.#most, count));
      parts.push(new Promise((resolve, reject) => this.#enqueue({ x: piece, signal, resolve, reject })));
    }
    const aborted = new Promise<never>((_resolve, reject) => {
      signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
    return join(await Promise.race([Promise.all(parts), aborted]));
  }

  #enqueue(piece: Piece): void {
    this.#waiting.push(piece);
    this.#waitingImages += piece.x.shape[0];
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working = true;
    while (this.#waiting.length > 0) {
      // Requests that have arrived by now are read before this returns, and join the batch.
      await setImmediate();
      const batch = this.#take();
      if (batch.length > 0) await this.#run(batch);
    }
    this.#working = false;
  }

  /** The pieces at the head of the queue that fit one batch, without those whose request is gone. */
  #take(): Piece[] {
    const batch: Piece[] = [];
    let images = 0;
    let taken = 0;
    for (const piece of this.#waiting) {
      const { x, signal } = piece;
      if (signal?.aborted) piece.reject(signal.reason);
      else if (images + x.shape[0] > this.#most) break;
      else {
        batch.push(piece);
        images += x.shape[0];
      }
      this.#waitingImages -= x.shape[0];
      taken++;
    }
    this.#waiting = this.#waiting.slice(taken);
    return batch;
  }

  async #run(batch: readonly Piece[]): Promise<void> {
    try {
      const x = join(batch.map((piece) => piece.x));
      const y = await this.#classify(x);
      this.#batches++;
      this.#images += x.shape[0];
      let from = 0;
      for (const piece of batch) {
        const to = from + piece.x.shape[0];
        piece.resolve(rows(y, from, to));
        from = to;
      }
    } catch (error) {
      if (batch.length === 1) batch[0].reject(error);
      // One by one, so that only the request that makes it fail fails.
      else for (const piece of batch) await this.#run([piece]);
    }
  }
}

function rows({ data, shape: [, features] }: Activations, from: number, to: number): Activations {
  return { data: data.subarray(from * features, to * features), shape: [to - from, features] };
}

function join(parts: readonly Activations[]): Activations {
  if (parts.length === 1) return parts[0];
  const features = parts[0].shape[1];
  const count = parts.reduce((sum, { shape }) => sum + shape[0], 0);
  const data = new Float32Array(count * features);
  let at = 0;
  for (const part of parts) {
    data.set(part.data, at);
    at += part.data.length;
  }
  return { data, shape: [count, features] };
}
