/**
 * A number from the command line.
 *
 * @throws {RangeError} for anything but the digits of an integer from `least` to `most`.
 */
export function integer(name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < least || value > most) {
    throw new RangeError(`${name} must be an integer from ${least} to ${most}, got ${text}`);
  }
  return value;
}

/** What `read` makes of the command line; where it asks for help or is wrong, the process says so and ends. */
export function optionsOrExit<T>(usage: string, read: () => T | 'help'): T {
  try {
    const options = read();
    if (options !== 'help') return options;
    console.log(usage);
    process.exit(0);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exit(2);
  }
}
