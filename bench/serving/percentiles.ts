/** p50, p99 and max of a sample, under names with a prefix; NaN of an empty one. */
export function percentiles(prefix: string, values: readonly number[]): Record<string, number> {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.ceil(share * sorted.length) - 1] ?? Number.NaN;
  return { [`${prefix} p50`]: at(0.5), [`${prefix} p99`]: at(0.99), [`${prefix} max`]: at(1) };
}
