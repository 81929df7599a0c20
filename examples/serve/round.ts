/** To that many digits behind the point: more would be noise, and longer answers. */
export function round(value: number, digits: number): number {
  const steps = 10 ** digits;
  return Math.round(steps * value) / steps;
}
