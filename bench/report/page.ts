import type { Lookup } from '../results.js';
import { escapeHtml, htmlPage, htmlTable } from './html.js';
import { contenderColors, errorPlots, fractionPlots, legend, sweepPlots } from './plots.js';
import type { TextTable } from './tables.js';

function section(title: string, text: string, body: string | undefined): string {
  return body === undefined ? '' : `<section><h2>${title}</h2><p>${text}</p>${body}</section>`;
}

/** The first column stays where it is while the others scroll. */
const style = `
.plots { grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.keys { background: var(--page); padding: 0.5rem 0; border-bottom: 1px solid var(--line); }
@media (min-width: 46rem) { .keys { position: sticky; top: 0; z-index: 2; } }
.key { display: inline-block; margin-right: 1.1rem; white-space: nowrap; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 6px; }
table { font-size: 0.8rem; }
th, td { padding: 0.1rem 0.7rem 0.1rem 0; white-space: nowrap; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); }
`;

/** Everything of a run as one HTML file that needs no other. */
export function page(lookup: Lookup, tables: readonly TextTable[]): string {
  const { date, machine, command, notes } = lookup.results;
  const body = `<p>${escapeHtml(machine)}, ${date.slice(0, 10)}, <code>${escapeHtml(command)}</code></p>
${notes.length > 0 ? `<ul>${notes.map((note) => `<li>${escapeHtml(note)}</li>`).join('')}</ul>` : ''}
<div class="keys">${legend(lookup)}</div>
${section('Speed as a fraction of the limit', 'The limit of inference and training is the best copy of the tensor, that of backward the best a + b → c, measured in the same run with as many threads. Further right is faster; a triangle is beyond the edge, with the value, or the least and the greatest of them, beside it. Backward of tfjs contains the forward.', fractionPlots(lookup))}
${section('Speed against the size of the tensor', 'Channels-last matrices. Bytes that must be moved at least, x and y, or x, dy and dx, per time. Dashed: the limit with one thread.', sweepPlots(lookup))}
${section('Error against speed', 'The worst error of variance and y on the hard cases. Lower and further right is better; a triangle is at 1e-9 or below, or beyond the upper edge. Dashed: what this library promises.', errorPlots(lookup))}
${tables.map(({ title, head, rows }) => `<section><h2>${escapeHtml(title)}</h2>${htmlTable(head, rows)}</section>`).join('\n')}`;
  return htmlPage('Batch normalization on this CPU', { colors: contenderColors, style, body });
}
