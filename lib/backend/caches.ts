import { readFileSync } from 'node:fs';

/** Where the size cannot be read: what most CPUs have or exceed. */
const usualL2Bytes = 2 ** 20;

/** The second-level cache of a core. Reported sizes of the third level lie where it is shared between machines. */
export function l2Bytes(): number {
  for (let index = 0; index < 8; index++) {
    const folder = `/sys/devices/system/cpu/cpu0/cache/index${index}`;
    try {
      if (readFileSync(`${folder}/level`, 'utf8').trim() !== '2') continue;
      const [, size, unit] = /^(\d+)([KM]?)/.exec(readFileSync(`${folder}/size`, 'utf8')) ?? [];
      const bytes = Number(size) * (unit === 'M' ? 2 ** 20 : unit === 'K' ? 2 ** 10 : 1);
      if (bytes > 0) return bytes;
    } catch {
      break;
    }
  }
  return usualL2Bytes;
}

/**
 * From this size on a result is written past the caches, counting the reader that follows: below, it would find the
 * result in a cache. One thread alone gains earlier: its own misses hold it up, not the memory. Measured on the machine
 * of the README with a producer before and a reader behind; caches of servers differ less than what they report.
 */
export const usualStreamBytes = { most: 24 * 2 ** 20, perThread: 8 * 2 ** 20 };
