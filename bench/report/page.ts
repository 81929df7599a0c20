import type { Lookup } from '../results.js';
import { errorPlot, fractionPlot, legend, sweepPlot } from './plots.js';
import type { TextTable } from './tables.js';

function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

function section(title: string, text: string, body: string | undefined): string {
  return body === undefined ? '' : `<section><h2>${title}</h2><p>${text}</p>${body}</section>`;
}

function htmlTable({ title, head, rows }: TextTable): string {
  const row = (cells: readonly string[], tag: 'td' | 'th') =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`;
  return `<section><h2>${escapeHtml(title)}</h2><div class="wide"><table><thead>${row(head, 'th')}</thead>
<tbody>${rows.map((cells) => row(cells, 'td')).join('\n')}</tbody></table></div></section>`;
}

/** Everything of a run as one HTML file that needs no other. */
export function page(lookup: Lookup, tables: readonly TextTable[]): string {
  const { date, machine, command, notes } = lookup.results;
  const keys = `<div class="keys">${legend(lookup)}</div>`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>batchnorm: benchmark</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; margin: 32px auto; max-width: 1040px; padding: 0 16px; }
h1 { font-size: 26px; margin: 0; }
h2 { font-size: 18px; margin: 40px 0 0; }
p { margin: 4px 0 12px; color: #52606d; }
code { font-size: 13px; }
svg { max-width: 100%; height: auto; }
.keys { position: sticky; top: 0; background: white; padding: 8px 0; border-bottom: 1px solid #d9e0e6; }
.key { display: inline-block; margin-right: 18px; white-space: nowrap; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 6px; }
.wide { overflow-x: auto; margin-top: 12px; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 10px 2px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #edf1f4; }
th:first-child, td:first-child { text-align: left; }
</style>
</head>
<body>
<h1>Batch normalization on this CPU</h1>
<p>${escapeHtml(machine)}, ${date.slice(0, 10)}, <code>${escapeHtml(command)}</code></p>
${keys}
${section('Speed as a fraction of the limit', 'The limit of inference and training is the best copy of the tensor, that of backward the best a + b → c, measured in the same run with as many threads. Further right is faster. Backward of tfjs contains the forward.', fractionPlot(lookup))}
${section('Speed against the size of the tensor', 'Channels-last matrices. Bytes that must be moved at least, x and y, or x, dy and dx, per time. Dashed: the limit with one thread.', sweepPlot(lookup))}
${section('Error against speed', 'The worst error of variance and y on the hard cases. Lower and further right is better. Dashed: what this library promises.', errorPlot(lookup))}
${notes.length > 0 ? `<section><h2>Notes</h2><ul>${notes.map((note) => `<li>${escapeHtml(note)}</li>`).join('')}</ul></section>` : ''}
${tables.map(htmlTable).join('\n')}
</body>
</html>
`;
}
