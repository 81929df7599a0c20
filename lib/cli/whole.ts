const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Does work that must not be left half done: what would end the process meanwhile ends it afterwards. */
export function whole(work: () => void): void {
  for (const signal of signals) process.once(signal, () => process.kill(process.pid, signal));
  work();
}
