// The picture of the README and of the first page of the site: one pass beside other libraries, in both layouts.
import { bytesOf, type Case } from './cases.js';
import { duration } from './report/format.js';
import { type Color, colorStyle, escapeHtml, plotStyle } from './report/html.js';
import type { Lookup } from './results.js';

/** Of what the page around the picture must define, where it has no style of its own. */
export const pictureColors: Readonly<Record<string, Color>> = {
  own: ['#0b57d0', '#8ab4ff'],
  peer: ['#a3adb8', '#5c6773'],
};

/** One thread each; what needs its data in a layout of its own is left out. */
const contenders: Readonly<Record<string, string>> = {
  'native 1T': 'batchnorm',
  'PyTorch 1T': 'PyTorch',
  'oneDNN 1T': 'oneDNN',
  'onnxruntime 1T': 'onnxruntime',
  'tfjs-wasm': 'tfjs-wasm',
  'plain JS': 'plain JS',
};

const panels: readonly { shape: string; title: string }[] = [
  { shape: '(32, 256, 56, 56)', title: 'Channels first: (32, 256, 56, 56)' },
  { shape: '(32, 56, 56, 256) last', title: 'Channels last: (32, 56, 56, 256)' },
];

/** Nanoseconds at which bars end; longer ones are drawn with a gap, or those of the others would be dots. */
const MOST = 100e6;

/** In units of the picture, in which text of 13 can be read on a telephone too. */
const width = 420;
const left = 104;
const full = 228;
const row = 19;

interface Bar {
  name: string;
  nanoseconds: number;
}

function barsOf(lookup: Lookup, subject: Case): Bar[] {
  return Object.entries(contenders)
    .flatMap(([contender, name]) => {
      const own = lookup.find(subject, 'training', contender);
      return own ? [{ name, nanoseconds: own.min }] : [];
    })
    .sort((a, b) => a.nanoseconds - b.nanoseconds);
}

function drawBar({ name, nanoseconds }: Bar, top: number): string {
  const isOwn = name === 'batchnorm';
  const length = Math.max(2, (Math.min(nanoseconds, MOST) / MOST) * full);
  const middle = top + row / 2 + 4.5;
  const weight = isOwn ? ' font-weight="700"' : '';
  const gap =
    nanoseconds > MOST
      ? `<path d="M${left + full - 22} ${top + row}l8 ${-row}h6l-8 ${row}z" fill="var(--page)"/>`
      : '';
  return `<text x="14" y="${middle}"${weight}>${name}</text>
<rect x="${left}" y="${top + 3}" width="${length.toFixed(1)}" height="${row - 6}" fill="var(--${isOwn ? 'own' : 'peer'})"/>${gap}
<text x="${(left + length + 6).toFixed(1)}" y="${middle}"${weight}>${duration(nanoseconds)}</text>`;
}

/**
 * An SVG of the time of training, forward.
 *
 * @param isAlone brings its colours along; otherwise the page around it has them.
 */
export function speedPicture(lookup: Lookup, isAlone: boolean): string {
  const { cases, machine, date } = lookup.results;
  const parts: string[] = [];
  const told: string[] = [];
  let top = 44;
  let bytes = 0;
  for (const { shape, title } of panels) {
    const subject = cases.find(({ name }) => name === shape);
    if (!subject) throw new Error(`the results must have the shape ${shape}, got none`);
    bytes = bytesOf(subject);
    const bars = barsOf(lookup, subject);
    parts.push(`<text x="14" y="${top + 12}" fill="var(--soft)">${title}</text>`);
    top += row;
    for (const bar of bars) {
      parts.push(drawBar(bar, top));
      top += row;
    }
    top += 10;
    told.push(
      `${title}: ${bars.map(({ name, nanoseconds }) => `${name} ${duration(nanoseconds)}`).join(', ')}.`,
    );
  }
  const height = top + 20;
  const heading = `Forward in training, ${Math.round(bytes / 1e6)} MB, one thread`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeHtml(`${heading}. ${told.join(' ')}`)}" font-family="${plotStyle.fontFamily}" font-size="13" fill="var(--text)">
${isAlone ? `<style>${colorStyle(pictureColors)}</style>\n` : ''}<rect width="${width}" height="${height}" rx="8" fill="var(--page)"/>
<text x="14" y="26" font-size="14" font-weight="700">${heading}</text>
${parts.join('\n')}
<text x="14" y="${height - 12}" font-size="12" fill="var(--soft)">Shorter is better. ${escapeHtml(machine.replace(/, Node.*/, ''))}, ${date}</text>
</svg>
`;
}
