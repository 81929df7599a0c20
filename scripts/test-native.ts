// Builds and runs test/native plain and under the sanitizers. The plain one needs CMake and a compiler, no Node headers.
import { parseArgs } from 'node:util';
import { run } from './run.js';
import { buildSanitized, clang, sanitizerOptions } from './sanitized.js';

parseArgs({ options: {} });

const nativePrograms = ['native_test', 'environment_test'];

/** Builds test/native in a folder of its own. */
function build(name: string, ...options: readonly string[]): string {
  const folder = `build/native-${name}`;
  run('cmake', ['-S', '.', '-B', folder, '-DCMAKE_BUILD_TYPE=Release', ...options]);
  run('cmake', ['--build', folder, '--parallel', '2', '--target', ...nativePrograms]);
  return folder;
}

/** With the arguments of native_test. Sanitizers take minutes over all: they look at memory and threads, not at each value. */
const builds = [
  { name: 'plain', folder: () => build('plain'), shortened: [] },
  {
    name: 'AddressSanitizer, LeakSanitizer, UndefinedBehaviorSanitizer',
    folder: () => buildSanitized(...nativePrograms),
    shortened: ['once'],
  },
  {
    name: 'ThreadSanitizer',
    folder: () =>
      build(
        'thread',
        `-DCMAKE_CXX_COMPILER=${clang}`,
        '-DBATCHNORM_CXX_FLAGS=-fsanitize=thread -gline-tables-only -O1',
      ),
    shortened: ['once', 'threads'],
  },
];

for (const { name, folder, shortened } of builds) {
  console.log(`\n=== ${name} ===`);
  const programs = folder();
  for (const program of nativePrograms)
    run(`${programs}/${program}`, program === 'native_test' ? shortened : [], sanitizerOptions);
}
