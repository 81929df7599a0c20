// Names of a file's choosing on a terminal, and a line that says how far long work has come.

import { abridged } from '../files/abridged.js';

/** A name that a file has chosen: as it stands where nothing in it can harm a terminal. */
export function shown(name: string): string {
  return /^[\w./:@+-]{1,200}$/.test(name) ? name : abridged(name);
}

const barWidth = 24;
let isBarShown = false;

/** A bar on a terminal; where stderr is none, nothing. */
export function progress(what: string, done: number, all: number): void {
  if (done >= all) clearProgress();
  else if (process.stderr.isTTY) {
    const filled = Math.round((done / all) * barWidth);
    const bar = `${'█'.repeat(filled)}${'░'.repeat(barWidth - filled)}`;
    process.stderr.write(`\r${what} ${bar} ${done}/${all}\u001b[K`);
    isBarShown = true;
  }
}

/** Gives the line back, for what is said of work that did not come to its end. */
export function clearProgress(): void {
  if (isBarShown) process.stderr.write('\r\u001b[K');
  isBarShown = false;
}
