/** For the text of an element or of an attribute in double quotes. */
export function escapeHtml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}

/** A colour on light paper, and on dark. */
export type Color = readonly [light: string, dark: string];

const colors: Readonly<Record<string, Color>> = {
  page: ['#ffffff', '#12161b'],
  text: ['#1f2933', '#e8ecf0'],
  soft: ['#52606d', '#9ba7b4'],
  line: ['#d9dee3', '#313943'],
};

/** Style sheet that makes the colours of the page, and those given, custom properties that follow the reader's scheme. */
export function colorStyle(more: Readonly<Record<string, Color>>): string {
  const entries = Object.entries({ ...colors, ...more });
  const scheme = (i: 0 | 1) => entries.map(([name, color]) => `--${name}: ${color[i]};`).join(' ');
  return `:root { color-scheme: light dark; ${scheme(0)} }
@media (prefers-color-scheme: dark) { :root { ${scheme(1)} } }`;
}

/** What all plots have: the colours of the page around them. */
export const plotStyle = {
  background: 'transparent',
  color: 'var(--text)',
  fontFamily: 'system-ui, sans-serif',
};

/** In a box of its own, so that a wide table scrolls and not the page. */
export function htmlTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cell = (text: string, i: number) =>
    `<td data-label="${escapeHtml(head[i])}">${escapeHtml(text)}</td>`;
  return `<div class="wide" tabindex="0"><table>
<thead><tr>${head.map((text) => `<th>${escapeHtml(text)}</th>`).join('')}</tr></thead>
<tbody>
${rows.map((row) => `<tr>${row.map(cell).join('')}</tr>`).join('\n')}
</tbody>
</table></div>`;
}

const style = `
* { box-sizing: border-box; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: var(--text); background: var(--page);
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 0.5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0; }
p { color: var(--soft); margin: 0.25rem 0 0.75rem; }
code { font-size: 0.85em; }
.plots { display: grid; gap: 1rem 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
.wide { margin-top: 0.75rem; overflow-x: auto;
  /* Shadows where the table goes on: those of the page's colour move with the table and cover them at its ends. */
  background:
    linear-gradient(to left, var(--page) 60%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(to left, color-mix(in srgb, var(--text) 22%, transparent), transparent) right / 0.75rem 100% no-repeat; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.9rem 0.35rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
`;

/** A page that needs no other file, readable in light and dark and on a telephone; `title` is its heading too. */
export function htmlPage(
  title: string,
  { colors, style: more, body }: { colors: Readonly<Record<string, Color>>; style: string; body: string },
): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>
${colorStyle(colors)}${style}${more.trim()}
</style>
</head>
<body>
<h1>${escapeHtml(title)}</h1>
${body}
</body>
</html>
`;
}
