// Changes one constant, comparison, sign or step of the arithmetic at a time and says which changes no test notices:
// npm run mutate, or `-- --file native/kernels/channels.h --every 5`. Builds a copy, for generic CPUs alone.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { run } from './run.js';

const sources = [
  'native/kernels/channels.h',
  'native/kernels/passes.h',
  'native/kernels/loops.h',
  'native/partition.h',
  'native/sums.h',
  'native/settle.h',
  'native/batchnorm.cpp',
  'native/presence.cpp',
];
const { values } = parseArgs({
  options: {
    file: { type: 'string', multiple: true, default: sources },
    every: { type: 'string', default: '1' },
  },
});
const unknown = values.file.find((file) => !sources.includes(file));
if (unknown !== undefined)
  throw new RangeError(`--file must be one of ${sources.join(', ')}, got ${unknown}`);
const every = Number(values.every);
if (!Number.isInteger(every) || every < 1)
  throw new RangeError(`--every must be a positive integer, got ${values.every}`);

/** What is put in place of what. */
const replacements: readonly (readonly [RegExp, (found: string) => string])[] = [
  [/(?<![\w.])\d+(?:\.\d+)?(?![\w.]|\s*>)/g, (number) => (number === '0' ? '1' : String(Number(number) * 2))],
  [/ (?:<|>|<=|>=) /g, (sign) => (sign.includes('=') ? sign.replace('=', '') : `${sign.slice(0, -1)}= `)],
  [/ == /g, () => ' != '],
  [/ && /g, () => ' || '],
  [/ \|\| /g, () => ' && '],
  [/ \+ /g, () => ' - '],
  [/ - /g, () => ' + '],
  [/ \+= /g, () => ' -= '],
];

/** Lines that are no arithmetic: what the compiler or memory is told. */
const apart =
  /^\s*(?:\/\/|#|template|using|static_assert|friend)|prefetch|ahead|Ahead|reinterpret_cast|alignas/;

/** Changes that cannot be seen, by a part of the line: of speed alone, or the same by another way. */
const equivalent: Readonly<Record<string, string>> = {
  kBlockBytes: 'blocks change no bit',
  'constexpr size_t kBlock ': 'how many channels find_bad looks at together',
  'stride == 1': 'a constant for the compiler',
  '? 1 : 0': 'counted to know whether there is any',
  'new_mean - new_mean': 'what is not finite gives NaN with either sign',
  'terms[kQuad]': 'room',
  'places[9]': 'room',
  'return {from + column': 'where a quad asks memory from',
};

/** From where on a file has nothing that is compiled for generic CPUs: they have no way past the caches. */
const streamed: Readonly<Record<string, string>> = {
  'native/kernels/loops.h': 'size_t before_first_line(',
};

interface Mutant {
  readonly file: string;
  readonly line: number;
  readonly text: string;
  readonly source: string;
}

function mutantsOf(file: string): Mutant[] {
  const lines = readFileSync(file, 'utf8').split('\n');
  const from = streamed[file] === undefined ? -1 : lines.findIndex((line) => line.includes(streamed[file]));
  const end = from < 0 ? lines.length : from;
  return lines.flatMap((line, i) => {
    if (i >= end || apart.test(line) || Object.keys(equivalent).some((part) => line.includes(part)))
      return [];
    const [code] = line.split('//');
    return replacements.flatMap(([pattern, replace]) =>
      [...code.matchAll(pattern)].map(({ 0: found, index }) => {
        const text = code.slice(0, index) + replace(found) + code.slice(index + found.length);
        return { file, line: i + 1, text, source: lines.with(i, text).join('\n') };
      }),
    );
  });
}

/** What may notice, the quickest first; that the golden results move says nothing of what is right. */
const tests = ['forward', 'backward', 'running', 'numerics', 'activation', 'hunt', 'invariants'];

const folder = resolve('build/mutants');
mkdirSync(folder, { recursive: true });
for (const part of [
  'native',
  'binding',
  'cmake',
  'lib',
  'dist',
  'test',
  'CMakeLists.txt',
  'package.json',
  'binary.cjs',
])
  cpSync(part, `${folder}/${part}`, { recursive: true });
for (const part of ['vitest.config.ts', 'tsconfig.json', 'README.md']) cpSync(part, `${folder}/${part}`);
if (!existsSync(`${folder}/node_modules`)) symlinkSync(resolve('node_modules'), `${folder}/node_modules`);
// The name of no processor: generic alone is compiled.
const configuration = ['--CDCMAKE_OSX_ARCHITECTURES=generic', '--CDBATCHNORM_CXX_FLAGS=-O1'];
run('npx', ['cmake-js', 'configure', '--log-level', 'warn', '-d', folder, ...configuration]);

const build = () =>
  spawnSync('cmake', ['--build', `${folder}/build`, '--parallel', '2', '--target', 'batchnorm']);

/** The file of tests that noticed. */
function killer(): string | undefined {
  if (build().status !== 0) return 'the compiler';
  return tests.find((name) => {
    const { status } = spawnSync(
      process.execPath,
      ['node_modules/vitest/vitest.mjs', 'run', '--bail=1', `test/kernels/${name}.test.ts`],
      {
        cwd: folder,
        env: { ...process.env, BATCHNORM_BACKEND: 'native', BATCHNORM_ISA: 'generic' },
        timeout: 300_000,
      },
    );
    return status !== 0;
  });
}

if (killer() !== undefined) throw new Error('the tests must pass without a change, got a failure');
const mutants = values.file.flatMap(mutantsOf).filter((_, i) => i % every === 0);
const killed: Record<string, number> = {};
let survivors = 0;
for (const { file, line, text, source } of mutants) {
  const original = readFileSync(file, 'utf8');
  writeFileSync(`${folder}/${file}`, source);
  const by = killer();
  writeFileSync(`${folder}/${file}`, original);
  if (by !== undefined) killed[by] = (killed[by] ?? 0) + 1;
  else survivors++;
  if (by === undefined || by === 'invariants')
    console.log(
      `${by === undefined ? 'survives' : 'moves the golden results alone'}: ${file}:${line} ${text.trim()}`,
    );
}
console.log(`${mutants.length} changes, ${survivors} survive; the others by ${JSON.stringify(killed)}`);
