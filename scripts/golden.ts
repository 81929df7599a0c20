// Writes test/support/golden.json: the digests of all results as they are now. Only for a change of the arithmetic that is meant.
import { writeFileSync } from 'node:fs';
import * as library from '../lib/index.js';
import { digestsOf, goldenRows } from '../test/support/golden.js';
import { sha256 } from '../test/support/golden-difference.js';

const digests: Record<string, string> = {};
for (const row of goldenRows(library)) digests[row.name] = await digestsOf(row, sha256);
writeFileSync('test/support/golden.json', `${JSON.stringify(digests, null, 2)}\n`);
