/** The seed of this run; BATCHNORM_SEED=<integer> repeats one. Titles carry it, so a failure can be replayed. */
export const seed = readSeed();

/** What a title says about the seed. */
export const seedNote = `BATCHNORM_SEED=${seed}`;

function readSeed(): number {
  const text = process.env.BATCHNORM_SEED;
  if (text === undefined || text === '') return Math.floor(Math.random() * 2 ** 32);
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`BATCHNORM_SEED must be a non-negative integer, got ${text}`);
  }
  return value;
}

/**
 * A reproducible source of numbers. Every test makes its own, so that a test gives the same numbers when it is run
 * alone; `stream` sets the cases of one test apart, and `of` is the seed where it is not that of the run.
 */
export class Random {
  private state: number;
  private spare: number | undefined;

  constructor(stream = 0, of = seed) {
    this.state = (of ^ Math.imul(stream + 1, 0x9e3779b9)) >>> 0;
    // Seeds that differ in one bit start with similar numbers; a few steps set them apart.
    for (let i = 0; i < 4; i++) this.uniform();
  }

  /** Uniform in [low, high); mulberry32, 2^-32 apart. */
  uniform(low = 0, high = 1): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return low + (high - low) * (((t ^ (t >>> 14)) >>> 0) / 2 ** 32);
  }

  /** Uniform among the integers low … high, both included. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.uniform() * (high - low + 1));
  }

  pick<T>(list: readonly T[]): T {
    return list[this.integer(0, list.length - 1)];
  }

  /** Normally distributed, by Marsaglia's polar method. */
  normal(mean = 0, std = 1): number {
    if (this.spare !== undefined) {
      const value = this.spare;
      this.spare = undefined;
      return mean + std * value;
    }
    let a: number;
    let b: number;
    let s: number;
    do {
      a = this.uniform(-1, 1);
      b = this.uniform(-1, 1);
      s = a * a + b * b;
    } while (s >= 1 || s === 0);
    const factor = Math.sqrt((-2 * Math.log(s)) / s);
    this.spare = b * factor;
    return mean + std * a * factor;
  }

  /** Puts the list in random order, in place. */
  shuffle<T>(list: T[]): T[] {
    for (let i = list.length - 1; i > 0; i--) {
      const j = this.integer(0, i);
      [list[i], list[j]] = [list[j], list[i]];
    }
    return list;
  }
}
