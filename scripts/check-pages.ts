// What the pages refer to must exist: files, headings, tests, commands, error codes. Their examples must have the types
// that the package declares.
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import ts from 'typescript';
import { examples, pagePaths, slugOf } from './pages.js';
import { fileOfLink, linkToFile, repositoryUrl, strayLinks } from './repository.js';
import { reasons } from './thrown.js';

const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> };
const complaints: string[] = [];
let references = 0;

function expectReference(exists: boolean, page: string, what: string): void {
  references++;
  if (!exists) complaints.push(`${page} must refer to what exists, got ${what}`);
}

/** A page without its blocks of code, in which nothing is a link or a heading. */
function proseOf(path: string): string {
  return readFileSync(path, 'utf8').replace(/^```.*?^```$/gms, '');
}

/** As GitHub makes them of headings. */
function anchorsOf(path: string): Set<string> {
  const prose = proseOf(path);
  const anchors = new Set([...prose.matchAll(/<a id="([^"]+)">/g)].map(([, id]) => id));
  for (const [, heading] of prose.matchAll(/^#+ (.*)$/gm)) {
    const slug = slugOf(heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1'));
    let anchor = slug;
    for (let i = 1; anchors.has(anchor); i++) anchor = `${slug}-${i}`;
    anchors.add(anchor);
  }
  return anchors;
}

const testFunctions = /^(it|test|describe|each\w*|holds)\b/;

/** Titles of tests and groups as they stand in the code, up to where something is put in. */
function titlesOf(path: string): Set<string> {
  const titles = new Set<string>();
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node) && testFunctions.test(node.expression.getText(source))) {
      const [title] = node.arguments;
      if (title && ts.isStringLiteralLike(title)) titles.add(title.text);
      else if (title && ts.isTemplateExpression(title)) titles.add(title.head.text.replace(/[\s,:(]+$/, ''));
    }
    ts.forEachChild(node, visit);
  };
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.Latest, true);
  visit(source);
  return titles;
}

/** A link to a test file says which test, unless it says the name of the file. */
function hasTest(path: string, text: string): boolean {
  if (text === basename(path) || text === path) return true;
  if (path.endsWith('.ts')) return titlesOf(path).has(text);
  return new RegExp(`\\b${text.replace(/\(\)$/, '')}\\(`).test(readFileSync(path, 'utf8'));
}

const codes = new Set([...reasons.map((reason) => `ERR_BATCHNORM_${reason}`), 'ERR_BATCHNORM_NATIVE']);
for (const page of pagePaths()) {
  const prose = proseOf(page);
  for (const [, linked, target] of prose.matchAll(
    /\[((?:[^[\]]|\\.)+)\]\(([^()\s]+(?:\([^()]*\)[^()\s]*)*)\)/g,
  )) {
    const own = fileOfLink(target);
    // The README is read on npm too, where there are no files beside it.
    if (page === 'README.md' && !/^([a-z]+:|#)/.test(target))
      complaints.push(`README.md must link to ${linkToFile(target)}, got ${target}`);
    if (own === undefined && /^[a-z]+:/.test(target)) continue;
    const [file, anchor] = (own ?? target).split('#');
    const path = file ? relative('.', own === undefined ? join(dirname(page), file) : file) : page;
    expectReference(existsSync(path), page, target);
    if (!existsSync(path)) continue;
    if (anchor) expectReference(anchorsOf(path).has(anchor), page, target);
    const text = linked.replace(/^`(.*)`$/, '$1').replace(/\\(.)/g, '$1');
    if (/^test\/.*\.(ts|cpp)$/.test(path)) expectReference(hasTest(path, text), page, `"${text}" in ${path}`);
  }
  // Pictures may lie beside the page: npm finds them by the repository.
  for (const [, picture] of prose.matchAll(/<img src="([^"]+)"/g))
    expectReference(existsSync(join(dirname(page), picture)), page, picture);
  for (const [code] of prose.matchAll(/ERR_BATCHNORM_\w+/g)) expectReference(codes.has(code), page, code);
}

for (const path of [...pagePaths(), '.ci/run', '.github/workflows/ci.yml'])
  for (const [, script] of readFileSync(path, 'utf8').matchAll(/\bnpm run ([\w:-]+)/g))
    expectReference(script in manifest.scripts, path, `npm run ${script}`);

/** Of this package, wherever it was meant to be. */
const ownLink = /https:\/\/(?:github\.com|raw\.githubusercontent\.com)\/([\w-]+)\/batchnorm\b/g;
for (const page of pagePaths())
  for (const [link] of readFileSync(page, 'utf8').matchAll(ownLink)) {
    references++;
    if (link !== repositoryUrl)
      complaints.push(`${page} must name the repository of package.json, ${repositoryUrl}, got ${link}`);
  }
for (const link of strayLinks())
  complaints.push(`package.json must have links to ${repositoryUrl}, its repository, got ${link}`);

const contributing = readFileSync('CONTRIBUTING.md', 'utf8');
for (const script in manifest.scripts) {
  // npm runs these by itself.
  const [, hooked] = /^(?:pre|post)(.+)$/.exec(script) ?? [];
  if (hooked !== undefined && hooked in manifest.scripts) continue;
  if (!new RegExp(`npm (run )?${script}(?![\\w:-])`).test(contributing))
    complaints.push(`CONTRIBUTING.md must have npm run ${script}, got nothing of it`);
}

const errorsPage = proseOf('docs/errors.md');
for (const code of codes)
  if (!errorsPage.includes(`\`${code}\``))
    complaints.push(`docs/errors.md must have ${code}, got nothing of it`);

/** The examples as if they lay beside this package's own files, with an export that makes each a module. */
const sources = new Map(examples().map(({ name, code }) => [resolve(`${name}.ts`), `${code}export {};\n`]));
const options: ts.CompilerOptions = {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  types: ['node'],
};
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists } = host;
host.fileExists = (path) => sources.has(path) || fileExists(path);
host.getSourceFile = (path, version, ...rest) => {
  const code = sources.get(path);
  return code === undefined
    ? getSourceFile(path, version, ...rest)
    : ts.createSourceFile(path, code, version);
};
const program = ts.createProgram([...sources.keys()], options, host);
for (const { file, start, messageText } of ts.getPreEmitDiagnostics(program)) {
  const line = file && start !== undefined ? file.getLineAndCharacterOfPosition(start).line + 1 : '';
  const where = file
    ? `${relative('.', file.fileName).replace(/\.ts$/, '')}, line ${line} of the example`
    : 'examples';
  complaints.push(`${where}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`);
}

for (const complaint of complaints) console.error(complaint);
if (complaints.length > 0) process.exitCode = 1;
console.log(`Pages: ${pagePaths().length}, references: ${references}, examples: ${sources.size}`);
