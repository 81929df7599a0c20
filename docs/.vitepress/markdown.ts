// The pages are written for GitHub; what the site needs otherwise is changed while they are read.
import { existsSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import type { MarkdownEnv, MarkdownRenderer } from 'vitepress';
import { slugOf } from '../../scripts/pages.js';
import { linkToFile } from '../../scripts/repository.js';

type MarkdownToken = ReturnType<MarkdownRenderer['parse']>[number];

const root = resolve('.');
const docs = join(root, 'docs');

/** The file of the site's page; folders of the reference have a README, for GitHub shows it. */
export function rewritten(path: string): string {
  return path.replace(/(^|\/)README\.md$/, '$1index.md');
}

/** A link of a page as the site needs it: what the site has not is on GitHub. */
function linkFrom(page: string, href: string): string {
  if (/^([a-z]+:|#|\/)/.test(href)) return href;
  const [file, anchor] = href.split('#');
  const path = join(dirname(page), file);
  const hash = anchor ? `#${anchor}` : '';
  if (path.startsWith(docs + sep) && path.endsWith('.md')) return rewritten(file) + hash;
  if (!existsSync(path)) throw new Error(`${relative(root, page)} must link to what exists, got ${href}`);
  return linkToFile(relative(root, path).replaceAll(sep, '/')) + hash;
}

/** Links out of docs/, anchors of the reference, and the picture, which here follows the switch of light and dark. */
export function asSite(md: MarkdownRenderer): void {
  md.core.ruler.after('inline', 'site', ({ tokens, env }) => {
    const { path, realPath = path } = env as MarkdownEnv;
    for (const [i, token] of tokens.entries()) {
      for (const child of token.children ?? []) {
        const href = child.type === 'link_open' ? child.attrGet('href') : null;
        if (href !== null) child.attrSet('href', linkFrom(realPath, href));
        if (child.type === 'image' && child.attrGet('src') === 'speed.svg') {
          child.type = 'html_inline';
          child.content = '<SpeedPicture />';
        }
      }
      const [, id] = (token.type === 'paragraph_open' && anchorIn(tokens[i + 1].content)) || [];
      const heading = tokens[i + 3];
      if (id === undefined || heading?.type !== 'heading_open') continue;
      // The heading takes the anchor above it for its own.
      heading.attrSet('id', id);
      token.hidden = tokens[i + 2].hidden = true;
      Object.assign(tokens[i + 1], { content: '', children: [] });
    }
    nameHeadings(tokens);
  });
}

/** Headings without an anchor get that of GitHub; those that have one have taken theirs before. */
function nameHeadings(tokens: MarkdownToken[]): void {
  const headings = tokens.filter(({ type }) => type === 'heading_open');
  const taken = new Set(headings.flatMap((heading) => heading.attrGet('id') ?? []));
  for (const [i, token] of tokens.entries()) {
    if (token.type !== 'heading_open' || token.attrGet('id') !== null) continue;
    const text = (tokens[i + 1].children ?? [])
      .filter(({ type }) => type === 'text' || type === 'code_inline' || type === 'text_special')
      .map(({ content }) => content)
      .join('');
    const slug = slugOf(text);
    let id = slug;
    for (let count = 1; taken.has(id); count++) id = `${slug}-${count}`;
    taken.add(id);
    token.attrSet('id', id);
  }
}

function anchorIn(text: string): RegExpExecArray | null {
  return /^<a id="([^"]+)"><\/a>$/.exec(text.trim());
}
