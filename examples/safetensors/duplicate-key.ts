/**
 * The first key that occurs twice in one object of a JSON text, which `JSON.parse` would pass over in silence.
 * The text must be one that `JSON.parse` accepts.
 */
export function duplicateKey(json: string): string | undefined {
  const objects: Set<string>[] = [];
  // Strings are taken whole, so that braces and colons within them do not count.
  for (const [token, string, colon] of json.matchAll(/("(?:[^"\\]|\\.)*")(\s*:)?|[{}]/g)) {
    if (token === '{') objects.push(new Set());
    else if (token === '}') objects.pop();
    else if (colon !== undefined) {
      // Decoded, because "\u0061" and "a" are the same key.
      const key = JSON.parse(string) as string;
      const seen = objects.at(-1);
      if (seen?.has(key)) return key;
      seen?.add(key);
    }
  }
  return undefined;
}
