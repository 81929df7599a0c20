import { vi } from 'vitest';

/** Waits for as long as it takes; the test's own time is the limit. */
export const until = (condition: () => boolean | Promise<boolean>): Promise<unknown> =>
  vi.waitUntil(condition, { timeout: 2 ** 31 - 1, interval: 10 });
