// What stands at the side of the pages.
import { readdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import type { DefaultTheme } from 'vitepress';

type Item = DefaultTheme.SidebarItem;

/** Pages of docs/ in their order. One that is not named here stands below "More", until somebody names it. */
const guide: readonly { text: string; pages: readonly string[] }[] = [
  { text: 'Start', pages: ['index', 'live', 'coming-from', 'benchmark'] },
  { text: 'Choose', pages: ['norms', 'batches', 'weights', 'storage', 'statistics'] },
  { text: 'Train', pages: ['monitor', 'workers'] },
  { text: 'Serve', pages: ['serving', 'folding', 'files', 'tfjs'] },
  { text: 'Run', pages: ['browsers', 'bundlers', 'errors', 'promises'] },
];

function titleOf(path: string): string {
  const text = readFileSync(path, 'utf8');
  const [, title] = /^title: (.*)$/m.exec(text.split('\n---\n')[0]) ?? /^# (.*)$/m.exec(text) ?? [];
  if (title === undefined) throw new Error(`${path} must have a title, got none`);
  return title.replace(/\\(.)/g, '$1');
}

export function guideSidebar(): Item[] {
  const there = new Set(
    readdirSync('docs')
      .filter((name) => name.endsWith('.md'))
      .map((name) => basename(name, '.md')),
  );
  const groups = guide.map(({ text, pages }) => ({
    text,
    pages: pages.filter((name) => there.delete(name)),
  }));
  if (there.size > 0) groups.push({ text: 'More', pages: [...there].sort() });
  return groups.map(({ text, pages }) => ({
    text,
    items: pages.map((name) => ({
      text: titleOf(`docs/${name}.md`),
      link: name === 'index' ? '/' : `/${name}`,
    })),
  }));
}

/** In the order of their weight: what is called first, what is passed then. */
const kinds: Readonly<Record<string, string>> = {
  classes: 'Classes',
  functions: 'Functions',
  interfaces: 'Interfaces',
  'type-aliases': 'Types',
};

function symbolsIn(folder: string): Item[] {
  const there = readdirSync(`docs/${folder}`);
  return Object.entries(kinds)
    .filter(([kind]) => there.includes(kind))
    .map(([kind, text]) => ({
      text,
      collapsed: kind !== 'classes' && kind !== 'functions',
      items: readdirSync(`docs/${folder}/${kind}`)
        .sort()
        .map((name) => basename(name, '.md'))
        .map((name) => ({ text: name, link: `/${folder}/${kind}/${name}` })),
    }));
}

export function apiSidebar(): Item[] {
  const others = readdirSync('docs/api/batchnorm', { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !(entry.name in kinds))
    .map(({ name }) => name);
  return [
    { text: 'batchnorm', link: '/api/batchnorm/', items: symbolsIn('api/batchnorm') },
    ...others.map((name) => ({
      text: `batchnorm/${name}`,
      link: `/api/batchnorm/${name}/`,
      collapsed: true,
      items: symbolsIn(`api/batchnorm/${name}`),
    })),
  ];
}
