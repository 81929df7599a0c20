import { defineConfig } from 'vitest/config';
import { patience } from './test/support/patience.js';

// Apart from the suite, which runs once per instruction set: the pages do not depend on it.
export default defineConfig({
  test: {
    include: ['test/**/*.browser.ts'],
    testTimeout: 2 * patience,
    hookTimeout: 2 * patience,
  },
});
