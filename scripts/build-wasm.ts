// Compiles the C++ to WebAssembly, with the compiler of the prebuilt binaries, and puts it where lib/ finds it.
import { mkdirSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { run } from './run.js';
import { installZig, zig, zigEnvironment } from './zig.js';

parseArgs({ options: {} });

const folder = 'build/wasm';
const module = `${folder}/batchnorm.wasm`;

/** As CMakeLists.txt has them, but for what it links instead of threads. */
const sources = [
  'native/access.cpp',
  'native/presence.cpp',
  'native/isa/wasm.cpp',
  'native/parallel_alone.cpp',
  'binding/wasm.cpp',
];
/** What they do they do a piece at a time, in kernels: compiled for size. */
const small = ['batchnorm', 'rows_backward', 'rows_forward', 'stored', 'traversal'].map(
  (name) => `native/${name}.cpp`,
);
const flags = [
  ...['-target', 'wasm32-wasi', '-mexec-model=reactor', '-msimd128', '-std=c++17', '-O3'],
  ...['-ffp-contract=off', '-fno-math-errno', '-fno-trapping-math', '-fno-exceptions', '-fno-rtti'],
  ...['-fvisibility=hidden', '-Wl,--strip-all', '-Wall', '-Wextra', '-Inative'],
  // Without a message: what prints one is 20 KB, and nobody could read it.
  '-D_LIBCPP_VERBOSE_ABORT(...)=__builtin_trap()',
];

/** The module travels in every bundle and is compiled wherever no binary loads. */
const mostBytes = 600_000;

installZig();
mkdirSync(folder, { recursive: true });
const objects = small.map((source) => {
  const object = `${folder}/${basename(source)}.o`;
  run(zig, ['c++', ...flags, '-Os', '-c', source, '-o', object], zigEnvironment);
  return object;
});
run(zig, ['c++', ...flags, ...sources, ...objects, '-o', module], zigEnvironment);
const { size } = statSync(module);
if (size > mostBytes) throw new Error(`${module} must have at most ${mostBytes} bytes, got ${size}`);
run('node', ['scripts/generate.mjs', module]);
console.log(`${module}: ${size} bytes`);
