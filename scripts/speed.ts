// Writes what the README shows of bench/RESULTS.md: its picture, docs/speed.svg, and its table. With --check, says instead
// whether they are up to date.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { speedPicture } from '../bench/picture.js';
import { readPublished } from '../bench/published.js';
import { summaryTable } from '../bench/summary.js';

const { check } = parseArgs({ options: { check: { type: 'boolean', default: false } } }).values;
const published = readPublished();

const [begin, end] = ['<!-- speed: written by npm run docs -->\n', '<!-- /speed -->'];
const readme = readFileSync('README.md', 'utf8');
const [from, to] = [readme.indexOf(begin), readme.indexOf(end)];
if (from < 0 || to < from)
  throw new Error(`README.md must have ${begin.trim()} and ${end}, got something else`);
const table = `${readme.slice(0, from)}${begin}\n${summaryTable(published)}\n\n${readme.slice(to)}`;

const files = { 'docs/speed.svg': speedPicture(published, true), 'README.md': table };
for (const [path, text] of Object.entries(files)) {
  if (!check) writeFileSync(path, text);
  else if (!existsSync(path) || readFileSync(path, 'utf8') !== text) {
    console.error(`${path} must be what "npm run docs" writes of bench/RESULTS.md, got something else`);
    process.exitCode = 1;
  }
}
console.log(`Speed: ${Object.keys(files).join(', ')}`);
