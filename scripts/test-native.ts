// Builds and runs test/native plain and under the sanitizers. Needs CMake and a compiler, no Node headers.
import { spawnSync } from 'node:child_process';

const builds = [
  { name: 'plain', flags: '' },
  { name: 'address', flags: '-fsanitize=address,undefined -fno-sanitize-recover=all -g -O1' },
  { name: 'thread', flags: '-fsanitize=thread -g -O1' },
];

function run(command: string, args: string[]): void {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit' });
  if (status !== 0)
    throw new Error(`${command} must succeed, got ${error?.message ?? `exit code ${status}`}`);
}

for (const { name, flags } of builds) {
  const folder = `build/native-${name}`;
  console.log(`\n=== ${name} ===`);
  run('cmake', ['-S', '.', '-B', folder, `-DBATCHNORM_CXX_FLAGS=${flags}`, '-DCMAKE_BUILD_TYPE=Release']);
  run('cmake', ['--build', folder, '--parallel', '2']);
  run(`${folder}/native_test`, []);
  run(`${folder}/environment_test`, []);
}
