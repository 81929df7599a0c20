// Changes one constant, comparison, sign, branch or step of the arithmetic at a time and says which changes no test
// notices: npm run mutate, or `-- --file native/sums.h --every 5`, `-- --line native/sums.h:120`; `--stages 1` runs the
// quickest tests alone. Builds a copy, for generic CPUs alone.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { run } from './run.js';
import { survivors, unseen } from './survivors.js';

/** Test files that are run in one process; a later stage where the earlier ones notice nothing. */
type Stages = readonly (readonly string[])[];

const ofBatchNorm: Stages = [
  ['kernels/forward', 'kernels/running', 'kernels/backward', 'norms/edges'],
  ['kernels/numerics', 'norms/numerics'],
  ['interface/folding', 'interface/group', 'interface/layer'],
  ['kernels/activation', 'kernels/hunt'],
];
const ofRows: Stages = [
  ['norms/edges', 'norms/gradients', 'norms/layers'],
  ['norms/textbook', 'norms/numerics'],
  ['norms/bits'],
];
const ofPresence: Stages = [['interface/presence'], ...ofBatchNorm];
const ofStored: Stages = [['interface/stored'], ['kernels/half', 'interface/presence']];

/** What may notice a change of a file, the quickest first. */
const sources: Readonly<Record<string, Stages>> = {
  'native/kernels/channels.h': ofBatchNorm,
  'native/kernels/passes.h': ofBatchNorm,
  'native/kernels/loops.h': ofBatchNorm,
  'native/partition.h': ofBatchNorm,
  'native/sums.h': ofBatchNorm,
  'native/settle.h': ofBatchNorm,
  'native/batchnorm.cpp': ofBatchNorm,
  'native/presence.cpp': ofPresence,
  'native/rows_forward.cpp': ofRows,
  'native/rows_backward.cpp': ofRows,
  'native/stored.cpp': ofStored,
};
/** The same bits from any thread, and those of the golden results: that these move says nothing of what is right. */
const golden = ['kernels/invariants'];

const { values } = parseArgs({
  options: {
    file: { type: 'string', multiple: true },
    line: { type: 'string', multiple: true, default: [] },
    every: { type: 'string', default: '1' },
    stages: { type: 'string', default: '9' },
  },
});
const lineFiles = values.line.map((place) => place.split(':')[0]);
const files = values.file ?? (lineFiles.length > 0 ? [...new Set(lineFiles)] : Object.keys(sources));
const unknown = [...files, ...lineFiles].find((file) => !(file in sources));
if (unknown !== undefined)
  throw new RangeError(`--file must be one of ${Object.keys(sources).join(', ')}, got ${unknown}`);
const [every, stages] = (['every', 'stages'] as const).map((name) => {
  const value = Number(values[name]);
  if (!Number.isInteger(value) || value < 1)
    throw new RangeError(`--${name} must be a positive integer, got ${values[name]}`);
  return value;
});

/** The stages of tests that a change of a file is shown to. */
const stagesOf = (file: string): Stages => [...sources[file], golden].slice(0, stages);

/** What is put in place of what. */
const replacements: readonly (readonly [RegExp, (found: string) => string])[] = [
  [/(?<![\w.])\d+(?:\.\d+)?(?![\w.]|\s*>)/g, (number) => (number === '0' ? '1' : String(Number(number) * 2))],
  [/ (?:<|>|<=|>=) /g, (sign) => (sign.includes('=') ? sign.replace('=', '') : `${sign.slice(0, -1)}= `)],
  [/ == /g, () => ' != '],
  [/ != /g, () => ' == '],
  [/ && /g, () => ' || '],
  [/ \|\| /g, () => ' && '],
  [/ \+ /g, () => ' - '],
  [/ - /g, () => ' + '],
  [/ \* (?!const\b)/g, () => ' / '],
  [/ \/ /g, () => ' * '],
  [/ % /g, () => ' / '],
  [/ \+= /g, () => ' -= '],
  [/(?<![\w)\]])!(?=[\w(])/g, () => ''],
  [/\bif \((?=\w)/g, () => 'if (!'],
  [/\b(?:true|false)\b/g, (value) => String(value !== 'true')],
  [/ \? [\w.]+ : [\w.]+/g, (of) => of.replace(/ \? (\S+) : (\S+)/, ' ? $2 : $1')],
  [/\bstd::(?:min|max)\b/g, (of) => (of.endsWith('min') ? 'std::max' : 'std::min')],
];

/** Lines that are no arithmetic: what the compiler or memory is told. */
const apart =
  /^\s*(?:\/\/|#|template|using|static_assert|friend)|prefetch|ahead|Ahead|reinterpret_cast|alignas/;

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
  const known = Object.keys(survivors[file] ?? {});
  const lines = readFileSync(file, 'utf8').split('\n');
  const end = streamed[file] === undefined ? -1 : lines.findIndex((line) => line.includes(streamed[file]));
  return lines.slice(0, end < 0 ? undefined : end).flatMap((line, i) => {
    if (apart.test(line) || Object.keys(unseen).some((part) => line.includes(part))) return [];
    if (values.line.length > 0 && !values.line.includes(`${file}:${i + 1}`)) return [];
    const [code] = line.split('//');
    return replacements.flatMap(([pattern, replace]) =>
      [...code.matchAll(pattern)]
        .map(
          ({ 0: found, index }) => code.slice(0, index) + replace(found) + code.slice(index + found.length),
        )
        .filter((text) => text !== code && !known.some((changed) => text.trim().startsWith(changed)))
        .map((text) => ({ file, line: i + 1, text, source: lines.with(i, text).join('\n') })),
    );
  });
}

const folder = resolve('build/mutants');

/** Whether something must be copied: what is the same need not be compiled again. */
const differs = (from: string, to: string) =>
  statSync(from).isDirectory() || !existsSync(to) || !readFileSync(from).equals(readFileSync(to));

mkdirSync(folder, { recursive: true });
for (const part of [
  'native',
  'binding',
  'cmake',
  'lib',
  'dist',
  'docs',
  'test',
  'CMakeLists.txt',
  'package.json',
  'binary.cjs',
])
  cpSync(part, `${folder}/${part}`, { recursive: true, filter: differs });
for (const part of ['vitest.config.ts', 'tsconfig.json', 'README.md']) cpSync(part, `${folder}/${part}`);
if (!existsSync(`${folder}/node_modules`)) symlinkSync(resolve('node_modules'), `${folder}/node_modules`);
// What is compiled again and again is little of the time of the tests: kernels alone are worth a look of the optimizer.
appendFileSync(
  `${folder}/CMakeLists.txt`,
  `set_source_files_properties(native/isa/generic.cpp PROPERTIES COMPILE_OPTIONS -O1)
set_source_files_properties(native/rows_forward.cpp native/rows_backward.cpp binding/binding.cpp PROPERTIES COMPILE_OPTIONS -O0)\n`,
);
// The name of no processor: generic alone is compiled.
const configuration = ['--CDCMAKE_OSX_ARCHITECTURES=generic', '--CDBATCHNORM_CXX_FLAGS=-O0'];
run('npx', ['cmake-js', 'configure', '--log-level', 'warn', '-d', folder, ...configuration]);

const build = () =>
  spawnSync('cmake', ['--build', `${folder}/build`, '--parallel', '2', '--target', 'batchnorm']).status === 0;

/** Whether the tests of some files pass within so many milliseconds. */
function passes(files: readonly string[], milliseconds: number): Promise<boolean> {
  const tests = files.map((name) => `test/${name}.test.ts`);
  const child: ChildProcess = spawn(
    process.execPath,
    ['node_modules/vitest/vitest.mjs', 'run', '--bail=1', '--no-file-parallelism', '--no-isolate', ...tests],
    {
      cwd: folder,
      env: { ...process.env, BATCHNORM_BACKEND: 'native', BATCHNORM_ISA: 'generic' },
      stdio: 'ignore',
      // What a change has made endless is a process of vitest's: all of the group end together.
      detached: true,
    },
  );
  const end = () => {
    try {
      process.kill(-(child.pid as number), 'SIGKILL');
    } catch {
      // None is left.
    }
  };
  const stop = () => {
    end();
    process.exit(1);
  };
  const timer = setTimeout(end, milliseconds);
  const signals = ['SIGINT', 'SIGTERM'] as const;
  for (const signal of signals) process.on(signal, stop);
  return new Promise((done) =>
    child.once('exit', (status) => {
      clearTimeout(timer);
      for (const signal of signals) process.off(signal, stop);
      end();
      done(status === 0);
    }),
  );
}

const mutants = files.flatMap(mutantsOf).filter((_, i) => i % every === 0);
console.log(`${mutants.length} changes`);
if (!build()) throw new Error('the addon must compile without a change, got an error of the compiler');
/** How long the tests of a stage may take: a multiple of what they take without a change. */
const most = new Map<readonly string[], number>();
for (const stage of new Set(files.flatMap(stagesOf))) {
  const start = performance.now();
  if (!(await passes(stage, 600_000)))
    throw new Error(`the tests of ${stage.join(', ')} must pass without a change, got a failure`);
  most.set(stage, 60_000 + 5 * (performance.now() - start));
}

/** The tests that noticed. */
async function killerOf(file: string): Promise<string | undefined> {
  if (!build()) return 'the compiler';
  for (const stage of stagesOf(file))
    if (!(await passes(stage, most.get(stage) as number))) return stage === golden ? 'golden' : stage.join();
  return undefined;
}

const killed: Record<string, number> = {};
let surviving = 0;
for (const [index, { file, line, text, source }] of mutants.entries()) {
  const original = readFileSync(file, 'utf8');
  writeFileSync(`${folder}/${file}`, source);
  const by = await killerOf(file);
  writeFileSync(`${folder}/${file}`, original);
  if (by !== undefined) killed[by] = (killed[by] ?? 0) + 1;
  else surviving++;
  if (by === undefined || by === 'golden')
    console.log(
      `${by === undefined ? 'survives' : 'moves the golden results alone'}: ${file}:${line} ${text.trim()}`,
    );
  else if (process.stdout.isTTY || process.env.VERBOSE)
    console.log(`${index + 1} of ${mutants.length}: ${file}:${line}, ${by}`);
}
console.log(`${mutants.length} changes, ${surviving} survive; the others by ${JSON.stringify(killed)}`);
