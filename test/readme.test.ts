// The README's examples, as a reader would paste them into a file.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
/** Those that stand alone: others need a server or are parts of two files. */
const examples = readme
  .split(/^```/m)
  .filter((block) => block.startsWith('ts\n') && block.includes("from 'batchnorm';"))
  .map((block) => block.slice('ts\n'.length));

describe('the examples of the README', () => {
  it('are found', () => {
    expect(examples.length).toBeGreaterThanOrEqual(3);
  });

  it.each(examples)('run: %s', (code) => {
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', code], {
      encoding: 'utf8',
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });
});
