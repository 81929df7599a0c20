/** Characters of a value that a message shows. */
const MOST_SHOWN = 80;

/**
 * A value that someone else chose, for a message: as JSON, so that it is one line and harmless, and cut. It costs what
 * it shows, however large or deep the value is; what is in an object is not shown, for its keys come all at once.
 */
export function abridged(value: unknown): string {
  const text = beginning(value, MOST_SHOWN);
  return text.length <= MOST_SHOWN ? text : `${text.slice(0, MOST_SHOWN)}…`;
}

/** The text of a value; where that is longer than `most`, one that is longer too and the same up to there. */
function beginning(value: unknown, most: number): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'string') return JSON.stringify(value.slice(0, Math.max(0, most)));
  // JSON.stringify would show 1e999 as null.
  if (typeof value !== 'object' || value === null) return String(value);
  if (!Array.isArray(value)) return '{…}';
  let text = '[';
  for (const [i, item] of value.entries()) {
    if (text.length > most) break;
    text += (i === 0 ? '' : ',') + beginning(item, most - text.length - 1);
  }
  return `${text}]`;
}

/** A name that someone else chose: as it stands where it looks like one. */
export function abridgedName(name: string): string {
  return /^[\w.-]{1,120}$/.test(name) ? name : abridged(name);
}
