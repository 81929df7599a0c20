import type { Outcome } from './report.js';
import type { Comparison } from './timing.js';

/** Of the time that passed: a training alone on its CPU computes all the time. */
const LEAST_CPU_SHARE = 0.9;

/** By how much of the best time the usual one may lie above it. */
export const MOST_ABOVE_BEST = 0.5;

/** What a reader of the times must know where other programs were at work; undefined for a quiet run. */
export function noiseNote(
  outcomes: readonly Outcome[],
  comparisons: readonly Comparison[],
): string | undefined {
  const complaints = outcomes
    .filter(({ seconds, cpuSeconds }) => cpuSeconds < LEAST_CPU_SHARE * seconds)
    .map(
      ({ name, seconds, cpuSeconds }) =>
        `the training ${name} had a CPU for ${cpuSeconds.toFixed(1)} of its ${seconds.toFixed(1)} s`,
    );
  for (const { work, library, plainJs } of comparisons) {
    const above = Math.max(...[library, plainJs].map(({ min, median }) => median / min - 1));
    if (above > MOST_ABOVE_BEST)
      complaints.push(`times of ${work} have medians up to ${Math.round(100 * above)} % above their minima`);
  }
  if (complaints.length === 0) return undefined;
  return `Noisy, other programs were at work: ${complaints.join('; ')}. Run it again before you rely on its times; accuracies and losses do not depend on it.`;
}
