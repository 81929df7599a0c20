// Writes docs/api from the doc comments of lib/; with --check, says instead whether the comments are complete and the
// pages are up to date.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  Application,
  type ProjectReflection,
  type Reflection,
  ReflectionKind,
  TSConfigReader,
  TypeDocReader,
} from 'typedoc';
import { thrownCodes } from './thrown.js';

/** What the code names but cannot happen, with why: the analysis does not follow values. */
const unreachable: Record<string, Record<string, string>> = {
  backward: { ERR_BATCHNORM_GROUP_BROKEN: 'functions have no group' },
  'BatchNorm.eval': { ERR_BATCHNORM_INVALID_TYPE: 'it calls train() with a boolean' },
  fold: {
    ERR_BATCHNORM_INVALID_VALUE: 'what the arithmetic refuses is a reason why a batch norm stays',
    ERR_BATCHNORM_NO_RUNNING_STATS: 'the batch norms are those of TensorFlow.js',
    ERR_BATCHNORM_NOT_FOLDABLE: 'activations are looked at before',
  },
  'FrozenBatchNorm.run': { ERR_BATCHNORM_BUFFER_CHANGED: 'no code of the caller runs after the checks' },
  'GradientSums.of': { ERR_BATCHNORM_OVERLAP: 'it writes no dx' },
  install: Object.fromEntries(
    ['DISPOSED', 'NOT_DIFFERENTIABLE', 'OUT_OF_MEMORY', 'BUFFER_CHANGED', 'OVERLAP'].map((reason) => [
      `ERR_BATCHNORM_${reason}`,
      'the models that it is installed for throw it',
    ]),
  ),
  updateRunningStats: { ERR_BATCHNORM_BUFFER_CHANGED: 'no code of the caller runs after the checks' },
};

for (const norm of ['GroupNorm', 'InstanceNorm', 'LayerNorm', 'RMSNorm']) {
  const noGroup = { ERR_BATCHNORM_GROUP_BROKEN: 'norms of rows have no group' };
  const noMissing = { ERR_BATCHNORM_MISSING_VALUE: 'norms of rows know no missing values' };
  unreachable[`${norm}.eval`] = { ERR_BATCHNORM_INVALID_TYPE: 'it calls train() with a boolean' };
  unreachable[`${norm}.forward`] = { ...noGroup, ...noMissing };
  unreachable[`${norm}.forwardAsync`] = { ...noGroup, ...noMissing };
  unreachable[`${norm}.backward`] = noGroup;
  unreachable[`${norm}.backwardAsync`] = noGroup;
}

/** As scripts/thrown.ts says it, without the module. */
function nameOf(reflection: Reflection): string {
  const { parent, name } = reflection;
  const isInner = parent && !parent.kindOf([ReflectionKind.Project, ReflectionKind.Module]);
  return (isInner ? `${nameOf(parent)}.` : '') + name.replace(/^\[/, '[Symbol.');
}

/** Complaints about comments: an example for each class, function and method, and `@throws` with all codes it throws. */
function findGaps(project: ProjectReflection, entryPoints: readonly string[]): string[] {
  const gaps: string[] = [];
  const thrown = thrownCodes(entryPoints);
  const classes = project.getReflectionsByKind(ReflectionKind.Class);
  const callables = project.getReflectionsByKind(ReflectionKind.SomeSignature);
  for (const reflection of [...classes, ...callables]) {
    const { kind, comment } = reflection;
    // What an interface asks of others has no code here.
    const inInterface = reflection.parent?.parent?.kindOf([
      ReflectionKind.Interface,
      ReflectionKind.TypeLiteral,
    ]);
    if (kind === ReflectionKind.GetSignature || inInterface) continue;
    // A signature has the name of what it is one of.
    const owner = kind === ReflectionKind.Class ? reflection : reflection.parent;
    const name = owner ? nameOf(owner) : '';
    const needsExample = kind !== ReflectionKind.ConstructorSignature && kind !== ReflectionKind.SetSignature;
    if (needsExample && !comment?.getTag('@example')) gaps.push(`${name} must have an @example, got none`);
    if (kind === ReflectionKind.Class) continue;
    const text = comment?.getTags('@throws').flatMap(({ content }) => content.map((part) => part.text)) ?? [];
    const documented = new Set(text.join('').match(/ERR_BATCHNORM_\w+/g));
    const codes = thrown.get(name);
    if (codes === undefined) throw new Error(`${name} must be known to scripts/thrown.ts, got nothing`);
    for (const code of Object.keys(unreachable[name] ?? {}))
      if (!codes.delete(code))
        gaps.push(`${name}: scripts/docs.ts must not excuse ${code}, which is never named`);
    for (const code of codes)
      if (!documented.has(code)) gaps.push(`${name} must have ${code} behind @throws, got nothing of it`);
    for (const code of documented)
      if (!codes.has(code)) gaps.push(`${name} must not have ${code} behind @throws: it never throws that`);
  }
  return gaps;
}

function pagesIn(folder: string): Map<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.md'),
  );
  return new Map(names.sort().map((name) => [name, readFileSync(join(folder, name), 'utf8')]));
}

const { check } = parseArgs({ options: { check: { type: 'boolean', default: false } } }).values;
const folder = check ? mkdtempSync(join(tmpdir(), 'batchnorm-')) : undefined;
try {
  const options = { logLevel: 'Warn' as const, ...(folder && { out: folder }) };
  const app = await Application.bootstrapWithPlugins(options, [new TypeDocReader(), new TSConfigReader()]);
  const project = await app.convert();
  if (!project) throw new Error('typedoc must understand lib/index.ts, got errors');
  app.validate(project);
  await app.generateOutputs(project);
  const gaps = findGaps(project, app.options.getValue('entryPoints'));
  for (const gap of gaps) console.error(gap);
  if (gaps.length > 0 || app.logger.hasErrors() || app.logger.hasWarnings()) process.exitCode = 1;
  const pages = pagesIn(folder ?? 'docs/api');
  if (folder) {
    const committed = pagesIn('docs/api');
    for (const name of new Set([...pages.keys(), ...committed.keys()])) {
      if (pages.get(name) === committed.get(name)) continue;
      console.error(`docs/api/${name} must be what "npm run docs" writes, got something else`);
      process.exitCode = 1;
    }
  }
  console.log(
    `API reference: ${pages.size} page(s), ${project.getReflectionsByKind(ReflectionKind.SomeSignature).length} signatures`,
  );
} finally {
  if (folder) rmSync(folder, { recursive: true });
}
