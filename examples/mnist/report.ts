import Table from 'cli-table3';
import type { Comparison } from './timing.js';

/** A table with its heading, the same for the terminal and for the page; numbers are formatted already. */
export interface Section {
  readonly heading: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
  readonly note?: string;
}

/** How one network did. */
export interface Outcome {
  readonly name: string;
  readonly accuracy: number;
  readonly finalLoss: number;
  readonly seconds: number;
}

/** Accuracy, loss and duration of the trainings. */
export function outcomeSection(outcomes: readonly Outcome[], testImages: number): Section {
  return {
    heading: 'Accuracy',
    columns: ['network', 'test accuracy', 'wrong', 'loss, last epoch', 'training'],
    rows: outcomes.map(({ name, accuracy, finalLoss, seconds }) => [
      name,
      `${(100 * accuracy).toFixed(2)} %`,
      `${Math.round((1 - accuracy) * testImages)} of ${grouped(testImages)}`,
      finalLoss.toFixed(6),
      `${seconds.toFixed(1)} s`,
    ]),
    note: 'The linear layers skip zeros, and batch norm leaves fewer of them: that costs time beside batch norm itself.',
  };
}

/** Times per image of the package, on the backend named by `library`, and of plain JavaScript. */
export function timeSection(comparisons: readonly Comparison[], library: string, batch: number): Section {
  return {
    heading: 'Batch norm time per image',
    columns: ['', `${library} min`, 'median', 'plain JS min', 'median', 'ratio', 'largest difference'],
    rows: comparisons.map(({ work, library: ours, plainJs, difference }) => [
      work,
      duration(ours.min),
      duration(ours.median),
      duration(plainJs.min),
      duration(plainJs.median),
      `${(plainJs.median / ours.median).toFixed(1)} x`,
      difference === 0 ? '0' : difference.toExponential(1),
    ]),
    note: `Both layers, batches of ${batch}, interleaved in one process; a training step is forward and backward.`,
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

/** One self-contained page: the plot, the sections, and what one needs to repeat the run. */
export function renderPage(
  title: string,
  svg: string,
  sections: readonly Section[],
  facts: readonly (readonly [name: string, value: string])[],
): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>
  body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1f2933; background: white;
         font: 16px/1.5 system-ui, sans-serif; }
  h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
  svg { width: 100%; height: auto; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: 0.35rem 0.9rem; border-bottom: 1px solid #d9dee3; text-align: right; }
  th:first-child, td:first-child { padding-left: 0; text-align: left; }
  th { font-weight: 600; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1.5rem; }
  dt { font-weight: 600; } dd { margin: 0; }
  p { color: #52606d; }
</style>
</head>
<body>
<h1>${escapeHtml(title)}</h1>
${svg.trim()}
${sections.map(renderSection).join('\n')}
<h2>The run</h2>
<dl>
${facts.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`).join('\n')}
</dl>
</body>
</html>
`;
}

function renderSection({ heading, columns, rows, note }: Section): string {
  const cells = (tag: string, texts: readonly string[]) =>
    `<tr>${texts.map((text) => `<${tag}>${escapeHtml(text)}</${tag}>`).join('')}</tr>`;
  return `<h2>${escapeHtml(heading)}</h2>
<div class="wide"><table>
<thead>${cells('th', columns)}</thead>
<tbody>
${rows.map((row) => cells('td', row)).join('\n')}
</tbody>
</table></div>${note === undefined ? '' : `\n<p>${escapeHtml(note)}</p>`}`;
}

function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

function duration(nanoseconds: number): string {
  return nanoseconds < 1000 ? `${nanoseconds.toFixed(0)} ns` : `${(nanoseconds / 1000).toFixed(2)} µs`;
}

/** With a comma between thousands. */
export function grouped(count: number): string {
  return count.toLocaleString('en-US');
}
