// The changelog must know the version of package.json: under its own heading or, before its release, under Unreleased.
// With a tag, as for a release: the tag is that version, under a heading of its own with a date, and nothing waits.
import { readFileSync } from 'node:fs';
import { PLACEHOLDER, repositoryUrl } from './repository.js';

const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
const [tag] = process.argv.slice(2);

const text = readFileSync('CHANGELOG.md', 'utf8');
const headings = [...text.matchAll(/^## (Unreleased|(\d+\.\d+\.\d+\S*) - \d{4}-\d\d-\d\d)$/gm)];
const entries = new Map(
  headings.map(({ 1: heading, 2: released, index }, i) => {
    const section = text.slice(index, headings[i + 1]?.index);
    return [released ?? heading, section.match(/^- /gm)?.length ?? 0];
  }),
);
const released = entries.get(version) ?? 0;
const waiting = entries.get('Unreleased') ?? 0;

if (released + waiting === 0)
  throw new Error(`CHANGELOG.md must have an entry for ${version} or under Unreleased, got none`);
if (tag !== undefined) {
  if (repositoryUrl.includes(`/${PLACEHOLDER}/`))
    throw new Error(`repository in package.json must name its owner, got the placeholder ${PLACEHOLDER}`);
  if (tag !== `v${version}`)
    throw new Error(`the tag must be v${version} (the version in package.json), got ${tag}`);
  if (released === 0)
    throw new Error(`CHANGELOG.md must have entries under "## ${version} - <date>", got none`);
  if (waiting > 0)
    throw new Error(`CHANGELOG.md must have nothing under Unreleased at a release, got ${waiting} entries`);
}
console.log(`Changelog: ${version}, ${released > 0 ? 'released' : `${waiting} entries wait for it`}`);
