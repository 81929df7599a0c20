// Where the repository is: the one place that says so is package.json.
import { readFileSync } from 'node:fs';

interface Manifest {
  readonly repository: { readonly type: string; readonly url: string };
  readonly homepage: string;
  readonly bugs: { readonly url: string };
}

/** What stands for the owner until the repository is published. */
export const PLACEHOLDER = 'OWNER';

const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Manifest;

/** As a reader opens it. */
export const repositoryUrl = manifest.repository.url.replace(/^git\+/, '').replace(/\.git$/, '');

/** The links of package.json that do not follow from its `repository`. */
export function strayLinks(): string[] {
  return [manifest.homepage, manifest.bugs.url].filter(
    (link) => !/^[/#]/.test(link.replace(repositoryUrl, '')),
  );
}

/** The file of the repository that a link to GitHub names, with its anchor; undefined for other links. */
export function fileOfLink(link: string): string | undefined {
  const [, path] = link.startsWith(repositoryUrl)
    ? (/^\/(?:blob|tree)\/main\/(.+)$/.exec(link.slice(repositoryUrl.length)) ?? [])
    : [];
  return path;
}

/** Where a reader finds a file of the repository. */
export function linkToFile(path: string): string {
  return `${repositoryUrl}/blob/main/${path}`;
}
