// node node_modules/batchnorm/scripts/install.mjs, run by hand where none of the package's binaries loads: compiles one, for which
// nothing is downloaded. Ends with 1 where that fails. Plain JavaScript, for the package brings nothing that would run TypeScript.
import { spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const system = `${process.platform}-${process.arch}`;
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

/** @returns {Promise<string>} what was done */
async function install() {
  if (existsSync(join(root, '.git'))) throw new Error('this is a clone, in which "npm run build" compiles');
  const failure = await loadFailure();
  if (!failure) return `a binary loads on ${system}, there is nothing to do`;
  if (failure.code === 'ERR_DLOPEN_DISABLED')
    throw new Error('Node.js runs with --no-addons or without --allow-addons, no binary could be loaded');
  // From another system, perhaps: the loader prefers it to the one that the package brings.
  rmSync(output, { recursive: true, force: true });
  if (!(await loadFailure()))
    return `a build of another system was in the way, the binary for ${system} loads`;
  console.log(
    `batchnorm: no binary loads on ${system} (${reasonOf(failure)}); compiling one with CMake (3.16 or newer) and GCC or clang`,
  );
  await compile();
  return `compiled for ${system}`;
}

try {
  console.log(`batchnorm: ${await install()}`);
} catch (error) {
  console.error(`batchnorm: nothing was compiled: ${error.message}`);
  process.exitCode = 1;
}
