// Builds and runs test/native plain and under the sanitizers.
import { parseArgs } from 'node:util';
import { buildTargets, run } from './run.js';
import { buildSanitized, clang, sanitizerOptions } from './sanitized.js';

parseArgs({ options: {} });

const nativePrograms = ['native_test', 'environment_test'];

/** In a folder of its own, with no headers of Node: that these programs need none is seen here. */
function buildForThreads(): string {
  const folder = 'build/native-thread';
  run('cmake', [
    ...['-S', '.', '-B', folder, '-DCMAKE_BUILD_TYPE=Release', `-DCMAKE_CXX_COMPILER=${clang}`],
    '-DBATCHNORM_CXX_FLAGS=-fsanitize=thread -gline-tables-only -O1',
  ]);
  run('cmake', ['--build', folder, '--parallel', '2', '--target', ...nativePrograms]);
  return folder;
}

/** With the arguments of native_test. Sanitizers take minutes over all: they look at memory and threads, not at each value. */
const builds = [
  { name: 'plain', folder: () => buildTargets('build', nativePrograms), shortened: [] },
  {
    name: 'AddressSanitizer, LeakSanitizer, UndefinedBehaviorSanitizer',
    folder: () => buildSanitized(...nativePrograms),
    shortened: ['once'],
  },
  { name: 'ThreadSanitizer', folder: buildForThreads, shortened: ['once', 'threads'] },
];

for (const { name, folder, shortened } of builds) {
  console.log(`\n=== ${name} ===`);
  const programs = folder();
  for (const program of nativePrograms)
    run(`${programs}/${program}`, program === 'native_test' ? shortened : [], sanitizerOptions);
}
