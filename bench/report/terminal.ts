import Table from 'cli-table3';
import type { TextTable } from './tables.js';

/** With frames, for a terminal. */
export function terminalTable({ title, head, rows }: TextTable): string {
  const table = new Table({ head, style: { head: [], border: [], compact: true } });
  table.push(...rows);
  return `${title}\n${table.toString()}`;
}
