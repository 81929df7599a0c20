/** Between two looks at the clock; one costs as much as a call of a small tensor. */
const burstMilliseconds = 0.05;

/** Until compiled code has settled, also where several threads compile at once. */
const warmUpMilliseconds = 100;

/** Lets the compiler settle before {@link perSecond}. */
export function warmUp(call: () => unknown): void {
  perSecond(call, warmUpMilliseconds);
}

/** Calls per second on this thread. */
export function perSecond(call: () => unknown, milliseconds: number): number {
  const started = performance.now();
  let calls = 0;
  let burst = 1;
  let now = started;
  while (now < started + milliseconds) {
    const before = now;
    for (let i = 0; i < burst; i++) call();
    calls += burst;
    now = performance.now();
    if (now - before < burstMilliseconds) burst *= 2;
  }
  return (1000 * calls) / (now - started);
}
