// Browsers: pages and web workers. No settings and no binary, so that WebAssembly computes, on the calling thread.
import { inflateSync } from 'fflate';
import { bytesOf, zeroBytes } from '../typed-array.js';
import type { Platform } from './platform.js';

// Taken when the library is loaded: nobody's replacement is called.
const { apply } = Reflect;
const { performance } = globalThis;
const { now } = performance;

/** What waits for its turn, from `first` to `next`, without those that were taken back. */
const waiting: Record<number, (() => void) | undefined> = Object.create(null);
let first = 0;
let next = 0;

// Messages bring the turns: timers wait for milliseconds, and in a page that nobody sees for a second and more.
const { port1, port2 } = new MessageChannel();
const { postMessage } = port2;
// Node.js has them too, where it runs what was made for browsers: it is to stay for what waits, and for nothing else.
const { ref, unref } = port1 as { ref?: () => void; unref?: () => void };

function onTurn(): void {
  const task = waiting[first];
  delete waiting[first++];
  if (unref && first === next) apply(unref, port1, []);
  task?.();
}

port1.addEventListener('message', onTurn);
port1.start();
if (unref) apply(unref, port1, []);

export const platform: Platform = {
  chooseBackend: (createWasmBackend) => createWasmBackend(),
  inflate(base64) {
    const text = atob(base64);
    const bytes = zeroBytes(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return inflateSync(bytes);
  },
  wasmForbidden:
    "a page with a Content-Security-Policy must allow it: script-src with 'wasm-unsafe-eval' beside its other sources",
  isSharedArrayBuffer(buffer): buffer is SharedArrayBuffer {
    // A page may have no SharedArrayBuffer to ask, and yet shared memory of WebAssembly. What is no ArrayBuffer is one.
    try {
      bytesOf(buffer as ArrayBuffer);
      return false;
    } catch {
      return true;
    }
  },
  markAsUncloneable() {},
  now: () => apply(now, performance, []),
  later(task) {
    if (ref && first === next) apply(ref, port1, []);
    const ticket = next++;
    waiting[ticket] = task;
    apply(postMessage, port2, [undefined]);
    return () => {
      delete waiting[ticket];
    };
  },
  writeText() {
    throw new Error('pages have no files to write');
  },
  warn: (code, message) => console.warn(`${code}: ${message}`),
};
