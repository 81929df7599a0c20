import { defineConfig } from 'vitest/config';

// Apart from the suite, which runs once per instruction set: the pages do not depend on it.
export default defineConfig({
  test: {
    include: ['test/**/*.browser.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
