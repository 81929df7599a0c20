import { defineConfig } from 'vitest/config';
import { patience } from './test/support/patience.js';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // Longer than programs that a test runs may take: what hangs is named.
    testTimeout: 2 * patience,
    hookTimeout: 2 * patience,
    teardownTimeout: patience,
  },
});
