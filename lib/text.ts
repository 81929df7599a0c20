// Text for terminals and pages.

/** Rows under a head; the first column to the left, the others to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((cell) => cell.length);
  for (let i = 0; i < rows.length; i++)
    for (let j = 0; j < head.length; j++) widths[j] = Math.max(widths[j], rows[i][j].length);
  const lineOf = (row: readonly string[]) => {
    const cells = row.map((cell, j) => (j === 0 ? cell.padEnd(widths[j]) : cell.padStart(widths[j])));
    return `${cells.join('  ').trimEnd()}\n`;
  };
  return lineOf(head) + rows.map(lineOf).join('');
}

/** A number in few characters. */
export function short(value: number): string {
  if (value === 0 || !Number.isFinite(value)) return `${value}`;
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5
    ? `${Number(value.toPrecision(3))}`
    : Number(value.toPrecision(2)).toExponential();
}

/** For HTML, between tags and in attributes. */
export function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** Of the pages that the library makes: colours in the light and in the dark, text of a readable width. */
const pageStyle = `:root { color-scheme: light dark; --text: #1d2433; --dim: #5b6472; --ground: #fff; --card: #f3f5f8; --first: #2f6fde; --second: #d9722b; --third: #7a4fb5; --grid: #d5dae1; --warn: #a33; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ef; --dim: #9aa4b2; --ground: #14171c; --card: #1e232b; --first: #6ea3ff; --second: #f0a060; --third: #b899ec; --grid: #343b46; --warn: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; }
figure { margin: 0; } figcaption { color: var(--dim); font-size: .875rem; }
svg { width: 100%; height: auto; display: block; }
i { display: inline-block; width: .75rem; height: .75rem; border-radius: 2px; }`;

/** A page by itself: it loads nothing. `title` is text, `style` CSS, `body` HTML. */
export function pageWith(title: string, style: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title>
<style>
${pageStyle}
${style}
</style>
<h1>${escaped(title)}</h1>
${body}
</html>
`;
}
