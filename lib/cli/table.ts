// Text in columns, and a line that says how far long work has come.

import { abridged } from '../files/abridged.js';

/** Rows under a head; the first column to the left, the others to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows];
  // No Math.max of all of them: a call does not take hundreds of thousands of arguments.
  const widths = head.map((_, i) => all.reduce((most, row) => Math.max(most, row[i].length), 0));
  return all
    .map((row) =>
      row
        .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
}

/** A name that a file has chosen: as it stands where nothing in it can harm a terminal. */
export function shown(name: string): string {
  return /^[\w./:@+-]{1,200}$/.test(name) ? name : abridged(name);
}

/** A number in few characters. */
export function short(value: number): string {
  if (value === 0 || !Number.isFinite(value)) return `${value}`;
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5
    ? `${Number(value.toPrecision(3))}`
    : Number(value.toPrecision(2)).toExponential();
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
