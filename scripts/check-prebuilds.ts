// Looks at every binary in prebuilds/ as far as that goes without running it: its format, processor and size, what it takes
// from which library, what it gives, and that each object holds one symbol; and at the size of the tarball. Needs LLVM's
// llvm-nm and llvm-readobj, which read every system's files.
import { execFileSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { checkObjects } from './check-symbols.js';
import { packedBytes } from './pack.js';
import { buildFolder, glibcFloor, type Target, targets } from './targets.js';

/** What ARCHITECTURE.md promises of a binary, and of the package as npm downloads it. */
const mostBytes = 2_500_000;
const mostPackedBytes = 8_000_000;

const entryPoints = ['napi_register_module_v1', 'node_api_module_get_api_version_v1'];

const formats: Record<Target['platform'], Record<Target['arch'], string>> = {
  linux: { x64: 'elf64-x86-64', arm64: 'elf64-littleaarch64' },
  darwin: { x64: 'Mach-O 64-bit x86-64', arm64: 'Mach-O arm64' },
  win32: { x64: 'COFF-x86-64', arm64: 'COFF-ARM64' },
};

/** What may be there on every machine of that system, in lower case. */
const libraries: Record<Target['platform'], RegExp> = {
  // No libstdc++, and nothing but the C library and its loader.
  linux: /^(lib(c|m|dl|pthread|rt)\.so(\.\d)?|ld-linux-[\w-]+\.so\.\d)$/,
  darwin: /^\/usr\/lib\/libsystem\.b\.dylib$/,
  // The universal C runtime is a part of Windows.
  win32: /^(node\.exe|kernel32\.dll|ntdll\.dll|api-ms-win-crt-[\w-]+\.dll)$/,
};

function isasOf({ platform, arch }: Target): string {
  if (arch === 'arm64') return 'generic,neon';
  return platform === 'darwin' ? 'avx2,generic' : 'avx2,avx512,generic';
}

function output(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', maxBuffer: 2 ** 26 });
}

function matches(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map(([, first]) => first);
}

function isOlder(version: string, than: string): boolean {
  return version.localeCompare(than, 'en', { numeric: true }) < 0;
}

interface Symbols {
  libraries: string[];
  taken: string[];
  given: string[];
}

function symbolsOf({ platform, file }: Target): Symbols {
  if (platform === 'win32') {
    const text = output('llvm-readobj', '--coff-imports', '--coff-exports', file);
    const [imports, exports] = [
      text.slice(0, text.indexOf('Export {')),
      text.slice(text.indexOf('Export {')),
    ];
    return {
      libraries: matches(imports, /^ {2}Name: (.+)$/gm),
      taken: matches(imports, /^ {2,4}Symbol: (\S+)/gm),
      given: matches(exports, /^ {2}Name: (\S+)$/gm),
    };
  }
  const needed = output('llvm-readobj', '--needed-libs', file);
  const nm = (which: string) => {
    const table = platform === 'linux' ? ['--dynamic'] : ['--extern-only'];
    const lines = output('llvm-nm', ...table, which, '--format=just-symbols', file)
      .trim()
      .split('\n');
    return platform === 'darwin' ? lines.map((name) => name.replace(/^_/, '')) : lines;
  };
  return {
    // Mach-O names itself as well.
    libraries: matches(needed, /^ {2}(\S+)$/gm).filter((name) => !/\bbatchnorm\.node$/.test(name)),
    taken: nm('--undefined-only'),
    // Zig's linker for Mach-O has no way to hide operator new and delete; both do what those of the system do.
    given: nm('--defined-only').filter(
      (name) => platform !== 'darwin' || !/^(_Z[nd]|_+mh_|_+dso_)/.test(name),
    ),
  };
}

/** What is wrong with a binary, and what is worth telling. */
function check(target: Target): { wrong: string[]; told: string } {
  const { platform, arch, libc, file } = target;
  const wrong: string[] = [];
  const header = output('llvm-readobj', '--file-headers', file);
  const format = /^Format: (.+)$/m.exec(header)?.[1] ?? 'none';
  if (format !== formats[platform][arch])
    wrong.push(`its format must be ${formats[platform][arch]}, got ${format}`);

  const { libraries: needed, taken, given } = symbolsOf(target);
  const strange = needed.filter((name) => !libraries[platform].test(name.toLowerCase()));
  if (strange.length > 0)
    wrong.push(`it must need nothing but the C library and node, got ${strange.join(', ')}`);
  if (libc === 'musl' && !needed.includes('libc.so'))
    wrong.push('it must take the C library from the system, got its own');
  if (given.sort().join() !== entryPoints.join())
    wrong.push(`it must export ${entryPoints.join(' and ')}, got ${given.join(', ')}`);
  if (!taken.some((name) => name.startsWith('napi_')))
    wrong.push('it must take Node-API from node, got none of it');
  const foreign = taken.filter(
    (name) => /GLIBCXX|CXXABI|GCC_/.test(name) || (libc === 'musl' && name.includes('@')),
  );
  if (foreign.length > 0)
    wrong.push(`it must not ask for versions of a C++ library, got ${foreign.join(', ')}`);

  const bytes = statSync(file).size;
  if (bytes > mostBytes) wrong.push(`it must have at most ${mostBytes} bytes, got ${bytes}`);

  const told = [`${bytes} bytes`, `needs ${needed.join(' ')}`];
  if (libc === 'glibc') {
    const versions = taken.flatMap((name) => matches(name, /@GLIBC_([\d.]+)/g));
    const newest = versions.reduce((a, b) => (isOlder(a, b) ? b : a), '0');
    if (newest === '0' || isOlder(glibcFloor, newest))
      wrong.push(`it must need no glibc above ${glibcFloor}, got ${newest}`);
    told.push(`glibc ${newest}`);
  }
  if (platform === 'linux') {
    const flags = output('llvm-readobj', '--dynamic-table', file);
    if (!/FLAGS_1.*NODELETE/.test(flags)) wrong.push('it must be marked NODELETE, got no such flag');
  }
  if (platform === 'darwin') {
    const commands = output('llvm-objdump', '--macho', '--private-headers', file);
    if (arch === 'arm64' && !commands.includes('LC_CODE_SIGNATURE'))
      wrong.push('it must be signed, or macOS will not load it, got no signature');
    told.push(`macOS ${/minos (\S+)/.exec(commands)?.[1]}`);
  }
  const found = checkObjects(`${buildFolder(target)}/build`, 'llvm-')
    .sort()
    .join();
  const isas = isasOf(target);
  if (found !== isas) wrong.push(`it must be made of ${isas}, got ${found}`);
  return { wrong, told: told.join(', ') };
}

const present = targets.filter(({ file }) => existsSync(file));
for (const target of present) {
  const { wrong, told } = check(target);
  console.log(`${target.name.padEnd(18)} ${told}`);
  for (const what of wrong) console.error(`${target.file}: ${what}`);
  if (wrong.length > 0) process.exitCode = 1;
}
const missing = targets.filter((target) => !present.includes(target)).map(({ name }) => name);
console.log(`Binaries looked at: ${present.length}; not there: ${missing.join(', ') || 'none'}`);
if (present.length === 0) process.exitCode = 1;
const packed = packedBytes();
console.log(`Packed: ${packed} bytes`);
if (packed > mostPackedBytes) {
  console.error(`the package must have at most ${mostPackedBytes} bytes, got ${packed}`);
  process.exitCode = 1;
}
