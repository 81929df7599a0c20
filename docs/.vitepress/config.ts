// The site: the pages of docs/ as they are, with search, the reference in its sidebar, and a page that computes. Version 2 of
// VitePress, though not out yet, for version 1 brings a vite of its own that is not maintained any more.
import { readFileSync } from 'node:fs';
import { defineConfig } from 'vitepress';
import { pictureColors } from '../../bench/picture.js';
import type { Color } from '../../bench/report/html.js';
import { contenderColors } from '../../bench/report/plots.js';
import { slugOf } from '../../scripts/pages.js';
import { repositoryUrl } from '../../scripts/repository.js';
import { asSite, rewritten } from './markdown.js';
import { searchable } from './search.js';
import { apiSidebar, guideSidebar } from './sidebar.js';

const { description } = JSON.parse(readFileSync('package.json', 'utf8')) as { description: string };

/** Of pictures and plots, in light and in dark. */
function colorStyle(colors: Readonly<Record<string, Color>>): string {
  const scheme = (i: 0 | 1) =>
    Object.entries(colors)
      .map(([name, color]) => `--${name}: ${color[i]};`)
      .join(' ');
  return `:root { ${scheme(0)} } .dark { ${scheme(1)} }`;
}

export default defineConfig({
  title: 'batchnorm',
  description,
  lang: 'en',
  outDir: '../out/site',
  cacheDir: '../build/site',
  lastUpdated: false,
  rewrites: rewritten,
  head: [
    ['link', { rel: 'icon', href: 'data:,' }],
    ['style', {}, colorStyle({ ...pictureColors, ...contenderColors })],
  ],
  markdown: {
    anchor: { slugify: slugOf },
    config: (md) => asSite(md),
  },
  // Plots need the room.
  transformPageData: ({ relativePath, frontmatter }) => {
    if (relativePath === 'benchmark.md') frontmatter.aside = false;
  },
  themeConfig: {
    nav: [
      { text: 'Guide', link: '/coming-from', activeMatch: '^/(?!api/|live|benchmark)[^/]+' },
      { text: 'Reference', link: '/api/batchnorm/', activeMatch: '^/api/' },
      { text: 'Speed', link: '/benchmark' },
      { text: 'Try it', link: '/live' },
    ],
    sidebar: { '/': guideSidebar(), '/api/': apiSidebar() },
    outline: { level: [2, 3] },
    search: {
      provider: 'local',
      options: {
        detailedView: false,
        _render: searchable,
        // A name is looked for as it is written: "eps" is not "steps".
        miniSearch: { searchOptions: { fuzzy: 0.1, prefix: true, boost: { title: 4, titles: 2, text: 1 } } },
      },
    },
    socialLinks: [{ icon: 'github', link: repositoryUrl }],
    footer: { message: 'MIT licence' },
  },
});
