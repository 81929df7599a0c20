/** Three digits and a unit, the next larger one where rounding reaches it. */
export function duration(nanoseconds: number): string {
  if (nanoseconds < 999.5) return `${nanoseconds.toFixed(0)} ns`;
  if (nanoseconds < 999.5e3) return `${(nanoseconds / 1e3).toPrecision(3)} µs`;
  if (nanoseconds < 999.5e6) return `${(nanoseconds / 1e6).toPrecision(3)} ms`;
  return `${(nanoseconds / 1e9).toPrecision(3)} s`;
}

/** One digit: nobody needs more of an error. */
export function error(value: number): string {
  return value === 0 ? '0' : value.toExponential(0);
}

/** A fraction of the limit. */
export function share(value: number | undefined): string {
  if (value === undefined) return '-';
  return value < 0.01 ? value.toPrecision(1) : value.toFixed(2);
}
