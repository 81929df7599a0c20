// What per-ISA objects keep to themselves. Each must define exactly one global symbol, its kernel table: anything else, a
// std template say, the linker might take for the portable code as well, which would then run instructions the CPU lacks.
// And on x86 no other object may have an AVX instruction, AVX-512's included, which no emulator has.
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/** What the names of nm and objdump begin with; LLVM's read every system's objects. */
type Tools = '' | 'llvm-';

/** An object of the addon; `isa` is undefined for those that run on every CPU. */
interface ObjectFile {
  file: string;
  isa: string | undefined;
}

function objectsOf(build: string): ObjectFile[] {
  const folder = join(build, 'CMakeFiles');
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).flatMap((name) => {
    const [target, isa] = /^(?:isa_(\w+)|batchnorm|batchnorm_core)\.dir.*\.o(?:bj)?$/.exec(name) ?? [];
    return target === undefined ? [] : [{ file: join(folder, name), isa }];
  });
}

function lines(command: string, ...args: readonly string[]): string[] {
  return execFileSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 30 })
    .trim()
    .split('\n');
}

/** Instructions with a VEX or EVEX prefix, which is what AVX is encoded with; legacy prefixes may stand before. */
function avxInstructions(file: string, tools: Tools): string[] {
  // Without it GNU's goes on in the next line.
  const wide = tools === '' ? ['--wide'] : [];
  const vector = /^\s*[0-9a-f]+:\s+(?:(?:26|2e|36|3e|64|65|67) )*(?:c4|c5|62) /;
  return lines(`${tools}objdump`, '--disassemble', ...wide, file).filter((line) => vector.test(line));
}

/** The instruction sets whose objects a build folder holds, all of them right. */
export function checkObjects(build: string, tools: Tools = ''): string[] {
  const objects = objectsOf(build);
  const perIsa = objects.filter(({ isa }) => isa !== undefined);
  if (perIsa.length === 0 || perIsa.length === objects.length)
    throw new Error(`${build} must hold the objects of a build, got ${objects.length}`);
  for (const { isa, file } of perIsa) {
    const defined = lines(`${tools}nm`, '--defined-only', '--extern-only', '--format=posix', file).map(
      (line) => line.split(' ')[0].replace(/^_/, ''),
    );
    const expected = `batchnorm_kernels_${isa}`;
    if (defined.length !== 1 || defined[0] !== expected)
      throw new Error(`${file} must define ${expected} and nothing else, got ${defined.join(', ')}`);
  }
  if (perIsa.some(({ isa }) => isa === 'avx2')) checkAvx(objects, tools);
  return perIsa.map(({ isa }) => isa as string);
}

function checkAvx(objects: readonly ObjectFile[], tools: Tools): void {
  for (const { isa, file } of objects) {
    const [found] = avxInstructions(file, tools);
    if (isa === undefined || isa === 'generic') {
      if (found) throw new Error(`${file} must have no AVX instruction, got\n${found}`);
    } else if (!found) throw new Error(`${file} must have instructions of ${isa}, got none`);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href)
  console.log(`One symbol per object, and AVX nowhere else: ${checkObjects('build').join(', ')}`);
