// What the scripts that try the package have in common: they count, and one report at the end tells all that is wrong.

let checks = 0;
const failures: string[] = [];

/** Counts, and goes on. */
export function check(what: string, isRight: boolean, got: unknown): void {
  checks++;
  if (isRight) return;
  failures.push(what);
  console.error(`FAILED: ${what}, got ${typeof got === 'string' ? got : JSON.stringify(got)}`);
}

export function title(text: string): void {
  console.log(`\n=== ${text} ===`);
}

/** Says how many were right; the process ends with 1 where one was not. */
export function conclude(): void {
  console.log(`${checks - failures.length} passed, ${failures.length} failed`);
  for (const what of failures) console.error(`FAILED: ${what}`);
  if (failures.length > 0) process.exitCode = 1;
}
