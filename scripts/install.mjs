// npm runs this where the package is installed: with a binary that loads nothing is done; otherwise one is compiled, for
// which nothing is downloaded; where that fails, WebAssembly serves. Never fails: that would undo the
// installation. Plain JavaScript, for nothing else is there in a fresh clone.
import { spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = join(root, 'build', 'install');
const output = join(root, 'build', 'Release');

// For which system packages are wanted says nothing about the binary that is tried here.
delete process.env.npm_config_arch;
delete process.env.npm_config_platform;

/** @returns {Promise<Error | undefined>} why no binary could be loaded */
async function loadFailure() {
  try {
    const { default: load } = await import('node-gyp-build');
    load(root);
  } catch (error) {
    return error;
  }
}

/** @throws Error with the last of what the program said, where it fails */
function run(command, ...args) {
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  if (error) throw new Error(error.code === 'ENOENT' ? `${command} was not found` : error.message);
  if (status !== 0)
    throw new Error(
      `${command} ended with ${status ?? signal}:\n${`${stdout}\n${stderr}`.trim().split('\n').slice(-20).join('\n')}`,
    );
}

function reasonOf(failure) {
  return failure.message.split('\n')[0];
}

async function compile() {
  const { default: headers } = await import('node-api-headers');
  try {
    run(
      'cmake',
      ...['-S', root, '-B', folder, '-DCMAKE_BUILD_TYPE=Release', `-DCMAKE_JS_INC=${headers.include_dir}`],
      `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY_RELEASE=${output}`,
    );
    run('cmake', '--build', folder, '--config', 'Release', '--parallel', String(availableParallelism()));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const failure = await loadFailure();
  if (failure) {
    // The loader would prefer it to one that is brought later.
    rmSync(output, { recursive: true, force: true });
    throw new Error(`what was compiled could not be loaded: ${reasonOf(failure)}`);
  }
}

// In a clone, npm run build compiles.
const isClone = existsSync(join(root, '.git'));
const failure = isClone ? undefined : await loadFailure();
const mayLoad = failure?.code !== 'ERR_DLOPEN_DISABLED';
if (failure) {
  try {
    if (!mayLoad) throw new Error('none that is compiled could be loaded');
    // From another system, perhaps: the loader prefers it to the one that the package brings.
    rmSync(output, { recursive: true, force: true });
    if (await loadFailure()) {
      await compile();
      console.log(`batchnorm: compiled for ${process.platform}-${process.arch}`);
    }
  } catch (error) {
    console.warn(
      [
        `batchnorm has no native binary that loads on ${process.platform}-${process.arch} (${reasonOf(failure)}), and none could be compiled: ${error.message}`,
        'Until then everything runs on the slower WebAssembly backend. Possible causes and what to do:',
        '- CMake or a C++17 compiler is missing, or too old: install CMake 3.16 and GCC or clang, then run "npm rebuild batchnorm --foreground-scripts"',
        '- Node.js runs with --no-addons, or its permission model forbids addons: allow them',
      ].join('\n'),
    );
  }
}
