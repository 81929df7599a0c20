// Builds and runs test/native plain and under the sanitizers. The plain one needs CMake and a compiler, no Node headers.
import { run } from './run.js';
import { buildSanitized, clang, sanitizerOptions } from './sanitized.js';

const nativePrograms = ['native_test', 'environment_test'];

/** Builds test/native in a folder of its own. */
function build(name: string, ...options: readonly string[]): string {
  const folder = `build/native-${name}`;
  run('cmake', ['-S', '.', '-B', folder, '-DCMAKE_BUILD_TYPE=Release', ...options]);
  run('cmake', ['--build', folder, '--parallel', '2', '--target', ...nativePrograms]);
  return folder;
}

const builds = [
  { name: 'plain', folder: () => build('plain') },
  {
    name: 'AddressSanitizer, LeakSanitizer, UndefinedBehaviorSanitizer',
    folder: () => buildSanitized(...nativePrograms),
  },
  {
    name: 'ThreadSanitizer',
    folder: () =>
      build(
        'thread',
        `-DCMAKE_CXX_COMPILER=${clang}`,
        '-DBATCHNORM_CXX_FLAGS=-fsanitize=thread -gline-tables-only -O1',
      ),
  },
];

for (const { name, folder } of builds) {
  console.log(`\n=== ${name} ===`);
  const programs = folder();
  for (const program of nativePrograms) run(`${programs}/${program}`, [], sanitizerOptions);
}
