import { type Case, type Norm, type Pass, passes } from './cases.js';
import { type Roofline, rooflineOf } from './contender.js';

/** Of one contender, case and pass. */
export interface Measurement {
  case: string;
  pass: Pass | Roofline;
  contender: string;
  /** Nanoseconds per call. */
  min: number;
  median: number;
  /** The minimum of each round, in nanoseconds per call. */
  rounds: number[];
  /** How this library has decided to do it, in words. */
  plan?: string;
}

/** Of one contender on one of the hard cases. */
export interface Accuracy {
  case: string;
  layout: Case['layout'];
  contender: string;
  /** What normalizes; absent: batch norm. */
  norm?: Norm['name'];
  /** Relative to the true variance; of a constant channel absolute. Absent where the contender keeps its own to itself. */
  varianceError?: number;
  /** Largest, as a share of the largest |y|; of a constant channel absolute. */
  yError: number;
}

/** What a run found, and what bench.json holds. */
export interface Results {
  date: string;
  machine: string;
  command: string;
  threads: number;
  contenders: { name: string; threads: number }[];
  cases: Case[];
  measurements: Measurement[];
  accuracy: Accuracy[];
  /** What went wrong or was left out. */
  notes: string[];
}

/** For {@link readResults}: JSON alone would turn NaN into null. */
export function writeResults(results: Results): string {
  const asText = (_: string, value: unknown) =>
    typeof value === 'number' && !Number.isFinite(value) ? String(value) : value;
  return JSON.stringify(results, asText, 1);
}

/** What {@link writeResults} wrote. */
export function readResults(text: string): Results {
  return JSON.parse(text, (_, value) =>
    value === 'NaN' || value === 'Infinity' || value === '-Infinity' ? Number(value) : value,
  );
}

/** Looks measurements up. */
export class Lookup {
  readonly #found = new Map<string, Measurement>();

  constructor(readonly results: Results) {
    for (const m of results.measurements) this.#found.set(`${m.case}/${m.pass}/${m.contender}`, m);
  }

  find(subject: Case, pass: Pass | Roofline, contender: string): Measurement | undefined {
    return this.#found.get(`${subject.name}/${pass}/${contender}`);
  }

  /** The limit of as many threads as the contender has. */
  limit(subject: Case, pass: Pass, contender: string): Measurement | undefined {
    const { contenders } = this.results;
    const own = contenders.find(({ name }) => name === contender);
    const beside = this.find(subject, rooflineOf(pass), contender);
    if (beside) return beside;
    const same = contenders.find(
      ({ name, threads }) => threads === own?.threads && this.find(subject, rooflineOf(pass), name),
    );
    return same && this.find(subject, rooflineOf(pass), same.name);
  }

  /**
   * The share of the machine's limit: the median of the rounds, for the bandwidth of a machine may change from minute
   * to minute, and only what is measured side by side can be compared.
   */
  fraction(subject: Case, pass: Pass, contender: string): number | undefined {
    const own = this.find(subject, pass, contender);
    const limit = this.limit(subject, pass, contender);
    return own && limit && ratio(limit, own);
  }

  /** Passes that somebody measured. */
  passesOf(cases: readonly Case[]): Pass[] {
    return passes.filter((pass) =>
      cases.some((subject) => this.results.contenders.some(({ name }) => this.find(subject, pass, name))),
    );
  }
}

/** How many times longer `a` takes than `b`: the median over the rounds that both have. */
export function ratio(a: Measurement, b: Measurement): number {
  return median(b.rounds.slice(0, a.rounds.length).map((time, round) => a.rounds[round] / time));
}

/** The upper one of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

/** 0 values have none. */
export function geometricMean(values: readonly number[]): number {
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}
