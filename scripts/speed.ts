// Writes what pages show of bench/RESULTS.md: the picture docs/speed.svg, the number and the table of the README, the number
// of the site. With --check, says instead whether they are up to date.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { speedPicture } from '../bench/picture.js';
import { readPublished } from '../bench/published.js';
import { summaryNumber, summaryTable } from '../bench/summary.js';

const { check } = parseArgs({ options: { check: { type: 'boolean', default: false } } }).values;
const published = readPublished();
const blocks = { number: summaryNumber(published), table: summaryTable(published) };

/** The page with what stands between comments of that name made anew. */
function withBlocks(path: string, names: readonly (keyof typeof blocks)[]): string {
  return names.reduce(
    (text, name) => {
      const [begin, end] = [`<!-- ${name}: written by npm run docs -->`, `<!-- /${name} -->`];
      const [from, to] = [text.indexOf(begin), text.indexOf(end)];
      if (from < 0 || to < from) throw new Error(`${path} must have ${begin} and ${end}, got something else`);
      return `${text.slice(0, from)}${begin}\n\n${blocks[name]}\n\n${text.slice(to)}`;
    },
    readFileSync(path, 'utf8'),
  );
}

const files = {
  'docs/speed.svg': speedPicture(published, true),
  'docs/index.md': withBlocks('docs/index.md', ['number']),
  'README.md': withBlocks('README.md', ['number', 'table']),
};
for (const [path, text] of Object.entries(files)) {
  if (!check) writeFileSync(path, text);
  else if (!existsSync(path) || readFileSync(path, 'utf8') !== text) {
    console.error(`${path} must be what "npm run docs" writes of bench/RESULTS.md, got something else`);
    process.exitCode = 1;
  }
}
console.log(`Speed: ${Object.keys(files).join(', ')}`);
