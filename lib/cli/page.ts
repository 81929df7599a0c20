// The page of inspect: histograms of each layer, as pictures in the page itself; it loads nothing.
import type { StoredBatchNorm } from '../files/index.js';
import { escaped, pageWith, short } from '../text.js';
import type { FloatArray } from '../types.js';
import type { Report } from './report.js';
import { shown } from './table.js';

type Norms = ReadonlyMap<string, StoredBatchNorm>;

const bins = 24;
const width = 240;
const height = 72;

const style = `h2 { font-size: 1rem; margin: 0; }
section { background: var(--card); border-radius: .5rem; padding: .75rem 1rem; margin: 1rem 0; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); margin-top: .5rem; }
svg { border-bottom: 1px solid var(--dim); }
.bar { fill: var(--first); } .after { fill: var(--second); background: var(--second); fill-opacity: .6; } .before { background: var(--first); }
.facts { color: var(--dim); margin: 0; font-size: .875rem; } .warnings { color: var(--warn); padding-left: 1.2rem; }`;

/** A page in light and dark, for wide and narrow screens. */
export function pageOf(report: Report, norms: Norms, other?: Norms): string {
  const { file, other: otherFile, warnings } = report;
  const title = `Batch norms of ${file}`;
  const sections = [...norms].map(([name, norm]) => sectionOf(name, norm, other?.get(name), report));
  const list = warnings.map(
    ({ layer, message }) => `<li><b>${escaped(shown(layer))}</b> ${escaped(message)}</li>`,
  );
  const legend =
    otherFile === undefined
      ? ''
      : `<p><i class="before"></i> ${escaped(file)} <i class="after"></i> ${escaped(otherFile)}</p>`;
  const body = `<p>${norms.size} batch norms, ${warnings.length === 0 ? 'no warnings' : `${warnings.length} warnings`}.</p>
${legend}${list.length > 0 ? `<ul class="warnings">${list.join('\n')}</ul>` : ''}
${sections.join('\n')}`;
  return pageWith(title, style, body);
}

function sectionOf(
  name: string,
  { state, axis }: StoredBatchNorm,
  after: StoredBatchNorm | undefined,
  report: Report,
): string {
  const layer = report.layers.find((one) => one.name === name);
  const plot = (
    title: string,
    key: 'running_mean' | 'running_var' | 'weight' | 'bias',
    map = (value: number) => value,
  ) => {
    const values = state[key] as FloatArray | undefined;
    return values === undefined
      ? ''
      : figureOf(title, values, after?.state[key] as FloatArray | undefined, map);
  };
  return `<section><h2>${escaped(shown(name))}</h2>
<p class="facts">${layer?.channels} channels, eps ${short(layer?.eps ?? 0)}, axis ${axis}, ${layer?.dead.length} dead</p>
<div class="plots">
${plot('mean', 'running_mean')}
${plot('variance (log₁₀)', 'running_var', Math.log10)}
${plot('weight', 'weight')}
${plot('bias', 'bias')}
</div></section>`;
}

function figureOf(
  title: string,
  values: FloatArray,
  others: FloatArray | undefined,
  map: (value: number) => number,
): string {
  const [first, second = []] = [values, others ?? []].map((list) =>
    Array.from(list, map).filter(Number.isFinite),
  );
  const both = [...first, ...second];
  const min = both.reduce((least, value) => Math.min(least, value), Number.POSITIVE_INFINITY);
  const max = both.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  const gone = values.length - first.length;
  const range = both.length === 0 ? 'none finite' : `${short(min)} … ${short(max)}`;
  const counts = [first, second].map((list) => countsOf(list, min, max));
  const most = Math.max(1, ...counts.flat());
  const bars = counts.map((list, i) =>
    list.map((n, bin) => barOf(n, bin, most, i === 0 ? 'bar' : 'after')).join(''),
  );
  return `<figure><figcaption>${title}: ${range}${gone > 0 ? `, ${gone} not shown` : ''}</figcaption>
<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Histogram of ${title}: ${range}">${bars.join('')}</svg></figure>`;
}

function countsOf(values: readonly number[], min: number, max: number): number[] {
  const counts = new Array<number>(bins).fill(0);
  const scale = max > min ? bins / (max - min) : 0;
  for (const value of values)
    counts[scale === 0 ? bins / 2 : Math.min(bins - 1, Math.floor((value - min) * scale))]++;
  return counts;
}

function barOf(count: number, bin: number, most: number, kind: string): string {
  if (count === 0) return '';
  const step = width / bins;
  const size = Math.max(1, (count / most) * height);
  return `<rect class="${kind}" x="${bin * step}" y="${(height - size).toFixed(1)}" width="${step - 1}" height="${size.toFixed(1)}"/>`;
}
