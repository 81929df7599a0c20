import { readFileSync } from 'node:fs';
import { expect } from 'vitest';

/** The messages that docs/errors.md lists, what varies in them as anything. */
const listed = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8')
  .split('```text\n')
  .slice(1)
  .flatMap((block) => block.split('\n```')[0].split('\n'))
  .map((line) => {
    const parts = line.split(/<[^<>=]+>/).map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
    return new RegExp(`^${parts.join('.*')}$`);
  });

// A line that any message fits would list all of them.
const nonsense = listed.filter((pattern) => pattern.test('bananas must be yellow, got blue'));
if (nonsense.length > 0) throw new Error(`docs/errors.md must say more than ${nonsense}`);

/** That a message stands in docs/errors.md. */
export function expectListed(message: string): void {
  expect(
    listed.some((pattern) => pattern.test(message)),
    `docs/errors.md must list: ${message}`,
  ).toBe(true);
}
