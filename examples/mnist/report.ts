import Table from 'cli-table3';
import { escapeHtml, htmlPage, htmlTable } from '../../bench/report/html.js';
import { CURVE_COLORS } from './plot.js';
import type { Comparison } from './timing.js';

/** A table with its heading, the same for the terminal and for the page; numbers are formatted already. */
export interface Section {
  readonly heading: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Paragraphs, one a line. */
  readonly note?: string;
}

/** How one training did. */
export interface Outcome {
  readonly name: string;
  readonly accuracy: number;
  readonly finalLoss: number;
  readonly seconds: number;
  /** Of them those that the process was given a CPU for. */
  readonly cpuSeconds: number;
}

/** Accuracy, loss and duration of the trainings. */
export function outcomeSection(outcomes: readonly Outcome[], testImages: number): Section {
  return {
    heading: 'Accuracy',
    columns: ['network', 'test accuracy', 'wrong', 'loss, last epoch', 'training'],
    rows: outcomes.map(({ name, accuracy, finalLoss, seconds }) => [
      name,
      `${(100 * accuracy).toFixed(2)} %`,
      `${grouped(Math.round((1 - accuracy) * testImages))} of ${grouped(testImages)}`,
      Number.isFinite(finalLoss) ? finalLoss.toFixed(6) : 'diverged',
      `${seconds.toFixed(1)} s`,
    ]),
    note: 'The linear layers skip zeros, and batch norm leaves fewer of them: that costs time beside batch norm itself.',
  };
}

/** Times per image of the package, on the backend named by `library`, and of plain JavaScript; `noise` if they were disturbed. */
export function timeSection(
  comparisons: readonly Comparison[],
  { library, batch, noise }: { library: string; batch: number; noise?: string },
): Section {
  return {
    heading: 'Batch norm time per image',
    columns: [
      '',
      `${library} min`,
      `${library} median`,
      'plain JS min',
      'plain JS median',
      'ratio',
      'largest difference',
    ],
    rows: comparisons.map(({ work, library: ours, plainJs, difference }) => [
      work,
      duration(ours.min),
      duration(ours.median),
      duration(plainJs.min),
      duration(plainJs.median),
      `${(plainJs.median / ours.median).toFixed(1)} x`,
      difference === 0 ? '0' : difference.toExponential(1),
    ]),
    note: [
      `Both layers, batches of ${batch}, interleaved in one process; a training step is forward and backward.`,
      ...(noise === undefined ? [] : [noise]),
    ].join('\n'),
  };
}

/** The section for a terminal. */
export function renderText({ heading, columns, rows, note }: Section): string {
  const table = new Table({
    head: [...columns],
    style: { head: [], border: [] },
    colAligns: columns.map((_, i) => (i === 0 ? 'left' : 'right')),
  });
  table.push(...rows.map((row) => [...row]));
  return [heading, table.toString(), ...(note === undefined ? [] : [note])].join('\n');
}

/** One self-contained page: what came out, the plots, the sections, and what one needs to repeat the run. */
export function renderPage(
  title: string,
  lead: string,
  plots: readonly string[],
  sections: readonly Section[],
  facts: readonly (readonly [name: string, value: string])[],
): string {
  const body = `<p class="lead">${escapeHtml(lead)}</p>
<div class="plots">
${plots.join('\n')}
</div>
${sections.map(renderSection).join('\n')}
<h2>The run</h2>
<dl>
${facts.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`).join('\n')}
</dl>`;
  return htmlPage(title, { colors: CURVE_COLORS, style: STYLE, body });
}

/** On a telephone each row of a table becomes a list of its cells, with the heads of their columns. */
const STYLE = `
body { max-width: 60rem; }
.lead { font-size: 1.1rem; color: var(--text); margin-bottom: 1.25rem; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
p { margin-top: 0.75rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1.5rem; margin: 0.75rem 0; }
dt { font-weight: 600; } dd { margin: 0; min-width: 0; }
@media (max-width: 40rem) {
  thead { display: none; }
  table, tbody, tr, td { display: block; width: 100%; }
  tr { padding: 0.6rem 0; border-bottom: 1px solid var(--line); }
  td { display: flex; justify-content: space-between; gap: 1rem; padding: 0.1rem 0; border: 0; }
  td::before { content: attr(data-label); color: var(--soft); }
  td:first-child { font-weight: 600; } td:first-child::before { content: none; }
}`;

function renderSection({ heading, columns, rows, note }: Section): string {
  const paragraphs = note?.split('\n') ?? [];
  return `<h2>${escapeHtml(heading)}</h2>
${htmlTable(columns, rows)}${paragraphs.map((text) => `\n<p>${escapeHtml(text)}</p>`).join('')}`;
}

function duration(nanoseconds: number): string {
  return nanoseconds < 1000 ? `${nanoseconds.toFixed(0)} ns` : `${(nanoseconds / 1000).toFixed(2)} µs`;
}

/** With a comma between thousands. */
export function grouped(count: number): string {
  return count.toLocaleString('en-US');
}
