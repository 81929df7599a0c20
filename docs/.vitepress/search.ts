// What the search knows of the reference: names, not the headings that each page has.
import type { MarkdownEnv, MarkdownRenderer } from 'vitepress';

/** Of the pages of the reference: below "Returns" nobody looks for "Returns". */
const everywhere =
  /<h(\d)[^>]*>(?:Example|Examples|Returns|Throws|Parameters|Type Parameters|Properties|[GS]et Signature|Call Signature|Constructors|Accessors|Methods|Type Declaration|Extends|Extended by|Inherited from)\s*<a.*?<\/h\1>/gs;

/** A property, in the first cell of its row. */
const property = /<a id="([\w-]+)"><\/a>\s*<code>([\w$]+)\??<\/code>/g;

/** The page as it is looked through: properties are found like methods, by their names. */
export async function searchable(src: string, env: MarkdownEnv, md: MarkdownRenderer): Promise<string> {
  const html = await md.renderAsync(src, env);
  if (!env.relativePath.startsWith('api/')) return html;
  return html
    .replace(everywhere, '')
    .replace(property, (_, id, name) => `<h3 id="${id}">${name} <a href="#${id}">#</a></h3>`);
}
