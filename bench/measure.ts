import { type Case, type Pass, passes, rowsOf, sizeOf } from './cases.js';
import { type Roofline, rooflines } from './contender.js';
import type { Worker } from './process.js';
import { type Measurement, median } from './results.js';

/** How long to measure, and whom to tell. */
export interface Effort {
  rounds: number;
  milliseconds: number;
  /** Aborted: measure no more. */
  stop: AbortSignal;
  /** One contender has been measured in one pass of one round. */
  done(): void;
  /** Something that a reader of the results must know. */
  note(line: string): void;
}

/** One value per row has no statistics to speak of, though some compute them. */
const ofOneValue: ReadonlySet<Pass | Roofline> = new Set(['inference', 'copy', 'call']);

/** Calls of `done` for a case. */
export function stepsOf(workers: readonly Worker[], { rounds }: Pick<Effort, 'rounds'>): number {
  return workers.length * rounds * (passes.length + rooflines.length);
}

/** Round by round, pass by pass, one contender after another. */
export async function measureCase(
  subject: Case,
  workers: readonly Worker[],
  { rounds, milliseconds, stop, done, note }: Effort,
): Promise<Measurement[]> {
  const able = new Set<Worker>();
  const valuesPerRow = sizeOf(subject) / rowsOf(subject);
  const taking = workers.filter(({ entry }) => subject.layers === undefined || entry.library === 'native');
  for (const worker of taking) {
    const { ready, error } = await worker.ask({ prepare: subject });
    if (ready) able.add(worker);
    if (error !== undefined) note(`${worker.entry.name}, ${subject.name}: ${error}`);
  }
  const found = new Map<
    string,
    { pass: Pass | Roofline; contender: string; plan?: string; samples: number[][] }
  >();
  for (let round = 0; round < rounds; round++)
    for (const pass of [...rooflines, ...passes])
      for (const worker of workers) {
        if (stop.aborted) return [];
        const { name } = worker.entry;
        const asked = able.has(worker) && (valuesPerRow > 1 || ofOneValue.has(pass));
        const { samples, plan, error } = asked ? await worker.ask({ measure: pass, milliseconds }) : {};
        done();
        if (error !== undefined) {
          able.delete(worker);
          note(`${name}, ${subject.name}, ${pass}: ${error}`);
        }
        if (samples === undefined) continue;
        const key = `${pass} ${name}`;
        const entry = found.get(key) ?? { pass, contender: name, plan, samples: [] };
        entry.samples.push(samples);
        found.set(key, entry);
      }
  return [...found.values()].map(({ pass, contender, plan, samples }) => ({
    case: subject.name,
    pass,
    contender,
    min: Math.min(...samples.flat()),
    median: median(samples.flat()),
    rounds: samples.map((round) => Math.min(...round)),
    plan,
  }));
}
