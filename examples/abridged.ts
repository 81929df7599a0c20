/** A value that someone else chose, for a message: as JSON, so that it is one line and harmless, and cut. */
export function abridged(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length <= 80 ? text : `${text.slice(0, 80)}…`;
}

/** A name that someone else chose: as it stands where it looks like one. */
export function abridgedName(name: string): string {
  return /^[\w.-]{1,120}$/.test(name) ? name : abridged(name);
}
