// The examples import nothing of the library but what its users can; this they have in common all the same.
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

it('what others chose is shown alike in messages of the library and of the examples', () => {
  const [library, examples] = ['lib/files/abridged.ts', 'examples/abridged.ts'].map((path) =>
    readFileSync(path, 'utf8'),
  );
  expect(examples).toBe(library);
});
