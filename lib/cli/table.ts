// Names of a file's choosing on a terminal, and a line that says how far long work has come.

import { abridged } from '../files/abridged.js';

/** A name that a file has chosen: as it stands where nothing in it can harm a terminal. */
export function shown(name: string): string {
  return /^[\w./:@+-]{1,200}$/.test(name) ? name : abridged(name);
}

const barWidth = 24;

/** A bar on a terminal; where stderr is none, nothing. */
export function progress(what: string, done: number, all: number): void {
  const { stderr } = process;
  if (!stderr.isTTY) return;
  if (done >= all) stderr.write('\r\u001b[K');
  else {
    const filled = Math.round((done / all) * barWidth);
    stderr.write(`\r${what} ${'█'.repeat(filled)}${'░'.repeat(barWidth - filled)} ${done}/${all}\u001b[K`);
  }
}
