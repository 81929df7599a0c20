// Draws docs/speed.svg, the picture of the README, from bench/RESULTS.md; with --check, says instead whether it is up to date.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { speedPicture } from '../bench/picture.js';
import { readPublished } from '../bench/published.js';

const PATH = 'docs/speed.svg';
const { check } = parseArgs({ options: { check: { type: 'boolean', default: false } } }).values;
const picture = speedPicture(readPublished(), true);
if (!check) writeFileSync(PATH, picture);
else if (!existsSync(PATH) || readFileSync(PATH, 'utf8') !== picture) {
  console.error(`${PATH} must be what "npm run docs" draws of bench/RESULTS.md, got something else`);
  process.exitCode = 1;
}
console.log(`Picture of speed: ${PATH}`);
