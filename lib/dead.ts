/** A weight below this leaves nothing of its channel but the bias. */
const deadWeight = 1e-5;

/** A variance up to this share of eps is that of a channel that does not change. */
const deadShare = 1e-3;

/** Whether a channel passes nothing on: its weight or its variance is as good as 0. */
export function isDead(weight: number | undefined, variance: number, eps: number): boolean {
  return (
    (weight !== undefined && Math.abs(weight) < deadWeight) || (variance >= 0 && variance <= deadShare * eps)
  );
}
