// The page of a monitor: small multiples, a plot per layer for each measure, all plots of a measure on one scale.
import { escaped, pageWith, short } from '../text.js';
import type { LayerRecord } from './record.js';
import { number, percent, shown } from './table.js';
import type { Watched } from './watched.js';

/** A line of a plot. */
interface Line {
  readonly name: string;
  readonly color: 'first' | 'second' | 'third';
  readonly of: (record: LayerRecord, channels: number) => number | null;
}

/** What is plotted of every layer. */
interface Measure {
  readonly title: string;
  readonly text: string;
  readonly lines: readonly Line[];
  /** The end of the axis; left out where the values say it. */
  readonly top?: number;
  /** Whether it is there only where something is above 0. */
  readonly isRare?: boolean;
}

const share = (count: number | null, channels: number) => (count === null ? null : (100 * count) / channels);

const measures: readonly Measure[] = [
  {
    title: 'Drift of means',
    text: 'How far the mean of the batch lies from the running mean, in running standard deviations: by so much evaluation would shift the batch. The largest and the mean of the channels.',
    lines: [
      { name: 'largest', color: 'second', of: (record) => record.maxMeanDrift },
      { name: 'mean', color: 'first', of: (record) => record.meanDrift },
    ],
  },
  {
    title: 'Drift of variances',
    text: 'How far the variance of the batch lies from the running variance, in doublings: 1 is twice, or half. The largest and the mean of the channels.',
    lines: [
      { name: 'largest', color: 'second', of: (record) => record.maxVarDrift },
      { name: 'mean', color: 'first', of: (record) => record.varDrift },
    ],
  },
  {
    title: 'Channels that do nothing, in %',
    text: 'Dead: weight or variance as good as 0. Without a gradient: nothing comes back through them, as behind a ReLU that lets nothing through.',
    lines: [
      {
        name: 'without a gradient',
        color: 'second',
        of: (record, channels) => share(record.withoutGradient, channels),
      },
      { name: 'dead', color: 'first', of: (record, channels) => share(record.dead, channels) },
    ],
    top: 100,
  },
  {
    title: 'Values that are not positive, in %',
    text: 'A ReLU makes them 0. Of a sample of each y that the monitor was given.',
    lines: [{ name: 'not positive', color: 'first', of: (record) => share(record.notPositive, 1) }],
    top: 100,
  },
  {
    title: 'Rejected updates, in %',
    text: 'Updates of running statistics that were left out, for they would not have been finite.',
    lines: [{ name: 'rejected', color: 'second', of: (record) => share(record.rejectedShare, 1) }],
    top: 100,
    isRare: true,
  },
  {
    title: 'Channels that are not finite, in %',
    text: 'Their mean or variance was NaN or infinite.',
    lines: [
      { name: 'not finite', color: 'second', of: (record, channels) => share(record.notFinite, channels) },
    ],
    top: 100,
    isRare: true,
  },
];

const width = 320;
const height = 150;
const left = 40;
const right = 8;
const upper = 12;
const lower = 22;

/** Of the values of a measure: what lies above is drawn at the edge, with a mark. */
const shownShare = 0.98;

const style = `h2 { font-size: 1.05rem; margin: 1.5rem 0 0; }
p { margin: .25rem 0; color: var(--dim); }
.multiples { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); margin-top: .5rem; }
figure { display: flex; flex-direction: column; background: var(--card); border-radius: .5rem; padding: .6rem .6rem .4rem; }
figcaption b { color: var(--text); }
svg { margin-top: auto; } svg text { fill: var(--text); font-size: 11px; }
.grid { stroke: var(--grid); } .line { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.first { --color: var(--first); } .second { --color: var(--second); } .third { --color: var(--third); }
.line.first, .line.second, .line.third { stroke: var(--color); } .dot, .beyond { fill: var(--color); }
i { background: var(--color); margin-right: .35rem; } .legend span { margin-right: 1rem; white-space: nowrap; }
table { border-collapse: collapse; width: 100%; margin-top: .5rem; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--grid); } th:first-child, td:first-child { text-align: left; } th, td:not(:first-child) { overflow-wrap: normal; }
th { color: var(--dim); font-weight: 600; }
@media (max-width: 40rem) {
  thead { display: none; }
  table, tbody, tr, td { display: block; width: 100%; }
  tr { padding: .6rem 0; border-bottom: 1px solid var(--grid); }
  td { display: flex; justify-content: space-between; gap: 1rem; padding: .1rem 0; border: 0; }
  td::before { content: attr(data-head); color: var(--dim); }
  td:first-child { font-weight: 600; } td:first-child::before { content: none; }
}`;

export function pageOf(title: string, layers: readonly Watched[], steps: number, every: number): string {
  const looks = every === 1 ? '' : `, one in ${every} looked at`;
  const { width: stretch } = layers[0];
  const points = stretch === 1 ? '' : ` A point is, of ${stretch} looks, the one with the largest drift.`;
  const sections = measures.map((measure) => sectionOf(measure, layers, steps));
  return pageWith(
    title,
    style,
    `<p>${layers.length === 1 ? 'One layer' : `${layers.length} layers`} over ${steps} steps${looks}. The plots of a measure have one scale.${points}</p>
${sections.filter((section) => section !== '').join('\n')}
<h2>Last seen</h2>
${lastSeen(layers)}`,
  );
}

/** Nothing where no layer has a value. */
function sectionOf(measure: Measure, layers: readonly Watched[], steps: number): string {
  const values: number[] = [];
  for (let i = 0; i < layers.length; i++) {
    const { records, layer } = layers[i];
    for (let j = 0; j < records.length; j++)
      for (let k = 0; k < measure.lines.length; k++) {
        const value = measure.lines[k].of(records[j], layer.channels);
        if (value !== null) values[values.length] = value;
      }
  }
  values.sort((a, b) => a - b);
  if (values.length === 0 || (measure.isRare && values[values.length - 1] === 0)) return '';
  const top = measure.top ?? roundedUp(values[Math.ceil(shownShare * values.length) - 1]);
  const legend = measure.lines
    .map(({ name, color }) => `<span class="${color}"><i></i>${name}</span>`)
    .join('');
  const figures = layers.map((watched) => figureOf(measure, watched, top, steps)).join('\n');
  return `<section><h2>${measure.title}</h2>
<p>${measure.text}</p>
<p class="legend">${legend}</p>
<div class="multiples">
${figures}
</div></section>`;
}

/** The end of an axis that reaches to the value: 1, 2 or 5 and zeros; 1 for nothing. */
function roundedUp(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const digit = [1, 2, 5].find((step) => step * power >= value) ?? 10;
  return digit * power;
}

function figureOf(
  { title, lines }: Measure,
  { name, records, measured, layer }: Watched,
  top: number,
  steps: number,
): string {
  const xOf = (step: number) => left + ((width - left - right) * (step - 1)) / Math.max(1, steps - 1);
  const yOf = (value: number) => height - lower - ((height - upper - lower) * Math.min(value, top)) / top;
  const parts: string[] = [];
  let beyond = 0;
  let most = 0;
  let mostAt = 0;
  let last: string[] = [];
  for (let k = 0; k < lines.length; k++) {
    const { of, color } = lines[k];
    let path = '';
    let points = 0;
    let lone = '';
    for (let j = 0; j < records.length; j++) {
      const value = of(records[j], layer.channels);
      // A line goes on behind looks at which there was nothing to measure.
      if (value === null) continue;
      const x = xOf(records[j].step).toFixed(1);
      const y = yOf(value).toFixed(1);
      path += `${points === 0 ? 'M' : 'L'}${x} ${y}`;
      points++;
      lone = `<circle class="dot ${color}" cx="${x}" cy="${y}" r="2.5"/>`;
      if (value <= top) continue;
      beyond++;
      if (value > most) {
        most = value;
        mostAt = records[j].step;
      }
      parts[parts.length] = `<path class="beyond ${color}" d="M${x} ${upper - 8}l3.5 6h-7z"/>`;
    }
    parts[parts.length] = points === 1 ? lone : `<path class="line ${color}" d="${path}"/>`;
    const value = measured === undefined ? null : of(measured, layer.channels);
    if (value !== null) last = last.concat(`${lines[k].name} ${short(value)}`);
  }
  const grid = [0, top / 2, top].map((value) => {
    const y = yOf(value).toFixed(1);
    return `<line class="grid" x1="${left}" x2="${width - right}" y1="${y}" y2="${y}"/><text x="${left - 5}" y="${(yOf(value) + 4).toFixed(1)}" text-anchor="end">${short(value)}</text>`;
  });
  const axis = `<text x="${left}" y="${height - 6}">step 1</text><text x="${width - right}" y="${height - 6}" text-anchor="end">${steps}</text>`;
  const clipped =
    beyond === 0
      ? ''
      : `; ▲ ${beyond === 1 ? 'one value' : `${beyond} values`} beyond the edge, up to ${short(most)} in step ${mostAt}`;
  const now = last.length === 0 ? 'nothing measured' : last.join(', ');
  return `<figure><figcaption><b>${escaped(shown(name))}</b> ${now}${clipped}</figcaption>
<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escaped(`${title} of ${shown(name)}: ${now}${clipped}`)}">${grid.join('')}${parts.join('')}${axis}</svg></figure>`;
}

const columns = [
  'layer',
  'channels',
  'state',
  'step',
  'mean drift, largest',
  'variance drift, largest',
  'dead',
  'without a gradient',
  'not positive',
  'rejected',
];

function lastSeen(layers: readonly Watched[]): string {
  const rows = layers.map(({ name, latest, measured, layer }) => {
    const record = measured ?? latest;
    const pair = (a: number | null = null, b: number | null = null) =>
      a === null ? '–' : `${number(a)}, ${number(b)}`;
    const cells = [
      shown(name),
      `${layer.channels}`,
      latest?.state ?? 'not looked at',
      `${record?.step ?? '–'}`,
      pair(record?.meanDrift, record?.maxMeanDrift),
      pair(record?.varDrift, record?.maxVarDrift),
      number(record?.dead ?? null),
      number(record?.withoutGradient ?? null),
      percent(record?.notPositive ?? null),
      percent(record?.rejectedShare ?? null),
    ];
    return `<tr>${cells.map((cell, i) => `<td data-head="${columns[i]}">${escaped(cell)}</td>`).join('')}</tr>`;
  });
  const heads = columns.map((column) => `<th scope="col">${column}</th>`).join('');
  return `<table><thead><tr>${heads}</tr></thead><tbody>
${rows.join('\n')}
</tbody></table>`;
}
