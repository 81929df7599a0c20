// The systems that the package brings a binary for.

export interface Target {
  /** As in the arguments of scripts/prebuilds.ts. */
  name: string;
  platform: 'linux' | 'darwin' | 'win32';
  arch: 'x64' | 'arm64';
  libc?: 'glibc' | 'musl';
  /** What zig calls it, the oldest version that must do included. */
  zig: string;
  /** The file, as node-gyp-build looks for it. */
  file: string;
}

function target(
  platform: Target['platform'],
  arch: Target['arch'],
  zig: string,
  libc?: Target['libc'],
): Target {
  const tags = ['batchnorm', libc, 'node'].filter((tag) => tag !== undefined);
  return {
    name: [platform, arch, libc].filter((part) => part !== undefined).join('-'),
    platform,
    arch,
    libc,
    zig,
    file: `prebuilds/${platform}-${arch}/${tags.join('.')}`,
  };
}

/** The oldest glibc that Node.js itself runs on, from version 20 on. */
export const glibcFloor = '2.28';

export const targets: readonly Target[] = [
  target('linux', 'x64', `x86_64-linux-gnu.${glibcFloor}`, 'glibc'),
  target('linux', 'arm64', `aarch64-linux-gnu.${glibcFloor}`, 'glibc'),
  target('linux', 'x64', 'x86_64-linux-musl', 'musl'),
  target('linux', 'arm64', 'aarch64-linux-musl', 'musl'),
  target('darwin', 'x64', 'x86_64-macos.11.0'),
  target('darwin', 'arm64', 'aarch64-macos.11.0'),
  target('win32', 'x64', 'x86_64-windows-gnu'),
];

/** The targets of these names; all where there are none. */
export function targetsNamed(names: readonly string[]): readonly Target[] {
  const unknown = names.find((name) => !targets.some((target) => target.name === name));
  if (unknown !== undefined)
    throw new Error(`a target must be one of ${targets.map(({ name }) => name).join(', ')}, got ${unknown}`);
  return targets.filter(({ name }) => names.length === 0 || names.includes(name));
}

/** Where the objects of a target are kept for scripts/check-prebuilds.ts. */
export function buildFolder({ name }: Target): string {
  return `build/prebuilds/${name}`;
}
