/** The best and the usual time of some work. */
export interface Times {
  readonly min: number;
  readonly median: number;
}

/** Of one sample or more. */
export function summary(samples: ArrayLike<number>): Times {
  const sorted = Float64Array.from(samples).sort();
  const middle = (sorted.length - 1) / 2;
  return { min: sorted[0], median: (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2 };
}
