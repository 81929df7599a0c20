import {
  createHistogram,
  type IntervalHistogram,
  monitorEventLoopDelay,
  type RecordableHistogram,
} from 'node:perf_hooks';
import { round } from './round.js';

/** Every figure covers one to two of these, so that it is neither nervous nor old. */
const WINDOW_MS = 10_000;

/** Milliseconds between two looks at the event loop; what the timer measures contains it. */
const LOOP_RESOLUTION = 10;

/** In milliseconds; all 0 where nothing was recorded. */
export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

/** What `/stats.json` says of the requests for predictions. */
export interface StatsReport {
  readonly uptimeSeconds: number;
  /** What per-second figures and percentiles cover. */
  readonly windowSeconds: number;
  readonly requests: {
    readonly answered: number;
    /** With a status from 400 to 499. */
    readonly refused: number;
    /** With a status from 500. */
    readonly failed: number;
    readonly inFlight: number;
    readonly perSecond: number;
  };
  readonly images: { readonly answered: number; readonly perSecond: number };
  readonly latencyMs: Percentiles;
  readonly loopDelayMs: Percentiles;
}

/** What one window has seen. */
interface Window {
  since: number;
  requests: number;
  images: number;
  readonly latency: RecordableHistogram;
  readonly loopDelay: IntervalHistogram;
}

/** Counts requests and measures their latency and the delay of the event loop. */
export class Stats {
  readonly #started = performance.now();
  /** Both record all; they are emptied in turns, and the older one is read. */
  readonly #windows: [older: Window, newer: Window] = [openWindow(), openWindow()];
  readonly #timer: NodeJS.Timeout;
  #answered = 0;
  #refused = 0;
  #failed = 0;
  #inFlight = 0;
  #images = 0;

  constructor() {
    this.#timer = setInterval(() => this.#turn(), WINDOW_MS).unref();
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  begin(): void {
    this.#inFlight++;
  }

  /** A request that `begin` counted has been answered. */
  end(status: number, latencyMs: number, images: number): void {
    this.#inFlight--;
    this.#answered++;
    this.#images += images;
    if (status >= 500) this.#failed++;
    else if (status >= 400) this.#refused++;
    for (const window of this.#windows) {
      window.requests++;
      window.images += images;
      window.latency.record(Math.max(1, Math.round(1000 * latencyMs)));
    }
  }

  report(): StatsReport {
    const now = performance.now();
    const [window] = this.#windows;
    const seconds = Math.max(now - window.since, 1) / 1000;
    return {
      uptimeSeconds: round((now - this.#started) / 1000, 3),
      windowSeconds: round(seconds, 3),
      requests: {
        answered: this.#answered,
        refused: this.#refused,
        failed: this.#failed,
        inFlight: this.#inFlight,
        perSecond: round(window.requests / seconds, 3),
      },
      images: { answered: this.#images, perSecond: round(window.images / seconds, 3) },
      latencyMs: percentiles(window.latency, (microseconds) => microseconds / 1000),
      loopDelayMs: percentiles(window.loopDelay, (nanoseconds) => nanoseconds / 1e6 - LOOP_RESOLUTION),
    };
  }

  close(): void {
    clearInterval(this.#timer);
    for (const { loopDelay } of this.#windows) loopDelay.disable();
  }

  #turn(): void {
    this.#windows.reverse();
    const [, newer] = this.#windows;
    newer.since = performance.now();
    newer.requests = 0;
    newer.images = 0;
    newer.latency.reset();
    newer.loopDelay.reset();
  }
}

function openWindow(): Window {
  const loopDelay = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION });
  loopDelay.enable();
  // Microseconds, up to a minute.
  const latency = createHistogram({ lowest: 1, highest: 60_000_000, figures: 3 });
  return { since: performance.now(), requests: 0, images: 0, latency, loopDelay };
}

function percentiles(
  histogram: RecordableHistogram | IntervalHistogram,
  toMs: (value: number) => number,
): Percentiles {
  const read = (value: number) => (histogram.count === 0 ? 0 : round(Math.max(0, toMs(value)), 3));
  return {
    p50: read(histogram.percentile(50)),
    p90: read(histogram.percentile(90)),
    p99: read(histogram.percentile(99)),
    max: read(histogram.max),
  };
}
