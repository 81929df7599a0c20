const quote = 0x22;
const backslash = 0x5c;
const open = 0x7b;
const close = 0x7d;

/**
 * The first key that occurs twice in one object of a JSON text, which `JSON.parse` would pass over in silence.
 * The text must be one that `JSON.parse` accepts.
 */
export function duplicateKey(json: string): string | undefined {
  const objects: Set<string>[] = [];
  for (let i = 0; i < json.length; i++) {
    const code = json.charCodeAt(i);
    if (code === open) objects.push(new Set());
    else if (code === close) objects.pop();
    else if (code === quote) {
      const begin = i;
      // Strings are taken whole, so that braces and colons within them do not count.
      for (i++; json.charCodeAt(i) !== quote; i++) if (json.charCodeAt(i) === backslash) i++;
      let next = i + 1;
      while (' \t\n\r'.includes(json.charAt(next)) && next < json.length) next++;
      if (json.charAt(next) !== ':') continue;
      // Decoded, because "\u0061" and "a" are the same key.
      const key = JSON.parse(json.slice(begin, i + 1)) as string;
      const seen = objects.at(-1);
      if (seen?.has(key)) return key;
      seen?.add(key);
    }
  }
  return undefined;
}
