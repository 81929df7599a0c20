// The Markdown pages of the repository and the examples in them.
import { readdirSync, readFileSync } from 'node:fs';
import { join, sep } from 'node:path';

/** Paths relative to the root, which is where all scripts run. */
export function pagePaths(): string[] {
  const root = readdirSync('.').filter((name) => name.endsWith('.md'));
  const below = ['docs', 'bench'].flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.md') && !name.includes('node_modules'))
      .map((name) => join(folder, name).replaceAll(sep, '/')),
  );
  return [...root, ...below].sort();
}

/** The anchor that GitHub makes of a heading's text. */
export function slugOf(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .replace(/\s/g, '-');
}

export interface Example {
  /** Where it stands: path:line. */
  name: string;
  code: string;
  /** What its lines with console.log say behind them that they print. */
  prints: string[];
}

/** The examples that stand alone, which import this package; others need a server or are parts of two files. */
export function examples(): Example[] {
  return pagePaths().flatMap((path) => {
    const text = readFileSync(path, 'utf8');
    return [...text.matchAll(/^```ts\n(.*?)^```$/gms)]
      .filter(([, code]) => /from 'batchnorm(\/\w+)?';/.test(code))
      .map(({ index, 1: code }) => ({
        name: `${path}:${text.slice(0, index).split('\n').length}`,
        code,
        prints: [...code.matchAll(/console\.log\(.*\);(?: \/\/ (.*))?$/gm)].map(
          ([, print]) => print ?? 'nothing: every console.log needs a comment that says what it prints',
        ),
      }));
  });
}
