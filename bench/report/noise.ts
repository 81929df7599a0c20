import { type Measurement, median } from '../results.js';

/** By how much the median of the rounds of a measurement may lie above the best of them. */
const mostAboveBest = 0.25;

/** The share of the measurements that may lie further above in a quiet run. */
const mostDisturbed = 0.1;

/** What readers of a run must know where others used the machine meanwhile; undefined for a quiet run. */
export function noiseNote(measurements: readonly Measurement[]): string | undefined {
  const above = (rounds: readonly number[]) => median(rounds) / Math.min(...rounds) - 1;
  const disturbed = measurements
    .filter(({ rounds }) => above(rounds) > mostAboveBest)
    .sort((a, b) => above(b.rounds) - above(a.rounds));
  if (disturbed.length <= mostDisturbed * measurements.length) return undefined;
  const [worst] = disturbed;
  return (
    `Noisy: in ${disturbed.length} of ${measurements.length} measurements the median round took over ` +
    `${100 * mostAboveBest} % longer than the best (${worst.contender}, ${worst.case}, ${worst.pass}: ` +
    `${Number((1 + above(worst.rounds)).toPrecision(2))} times as long). Others used the machine; measure again when it is quiet.`
  );
}
