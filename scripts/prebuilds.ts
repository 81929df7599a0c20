// Compiles the binaries that the package brings along, for the targets named or for all of them, with one compiler that
// carries the headers and libraries of every system. Writes prebuilds/; scripts/check-prebuilds.ts looks at them.
import { mkdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { run } from './run.js';
import { buildFolder, type Target, targetsNamed } from './targets.js';
import { installZig, zig, zigEnvironment } from './zig.js';

/** It has no types. */
const { def_paths } = createRequire(import.meta.url)('node-api-headers') as {
  def_paths: { node_api_def: string };
};
function build(target: Target): void {
  const { name, platform, arch, libc } = target;
  const folder = resolve(buildFolder(target));
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const settings: Record<string, string> = {
    CMAKE_TOOLCHAIN_FILE: resolve('cmake/zig.cmake'),
    ZIG: zig,
    ZIG_TARGET: target.zig,
  };
  if (platform === 'win32') {
    // What cmake-js says on Windows only.
    settings.CMAKE_RUNTIME_OUTPUT_DIRECTORY = `${folder}/build/Release`;
    settings.CMAKE_JS_NODELIB_DEF = def_paths.node_api_def;
    settings.CMAKE_JS_NODELIB_TARGET = `${folder}/node.lib`;
  }
  const compile = ['npx', 'cmake-js', 'rebuild', '--log-level', 'warn', '--directory', resolve('.')].concat(
    ['--out', `${folder}/build`, '--arch', arch],
    Object.entries(settings).map(([key, value]) => `--CD${key}=${value}`),
  );
  // prebuildify would call node-gyp; cmake-js has compiled by then.
  run(
    'npx',
    ['prebuildify', '--napi', '--name', 'batchnorm', '--platform', platform, '--arch', arch].concat(
      libc ? ['--libc', libc, '--tag-libc', libc] : [],
      ['--cwd', folder, '--out', resolve('.'), '--shell', '--node-gyp', 'node -e 0 --'],
      ['--preinstall', compile.map((word) => `"${word}"`).join(' ')],
    ),
    zigEnvironment,
  );
  console.log(`${name}: ${target.file}`);
}

const asked = targetsNamed(parseArgs({ options: {}, allowPositionals: true }).positionals);
installZig();
for (const target of asked) build(target);
