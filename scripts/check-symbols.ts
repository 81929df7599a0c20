// Each per-ISA object must define exactly one global symbol, its kernel table. Anything else, a std template say, the
// linker might take for the portable code as well, which would then run instructions the CPU lacks.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

/**
 * The instruction sets whose objects a build folder holds, all of them right.
 * @param nm the program that lists symbols; that of LLVM reads every system's objects
 */
export function checkObjects(build: string, nm = 'nm'): string[] {
  const folder = `${build}/CMakeFiles`;
  const objects = readdirSync(folder)
    .filter((name) => name.startsWith('isa_'))
    .flatMap((name) => {
      const isa = name.slice('isa_'.length, -'.dir'.length);
      const file = ['o', 'obj']
        .map((extension) => `${folder}/${name}/native/isa/${isa}.cpp.${extension}`)
        .find(existsSync);
      return file === undefined ? [] : [{ isa, file }];
    });
  if (objects.length === 0) throw new Error(`${folder} must hold the objects of a build, got none`);
  for (const { isa, file } of objects) {
    const defined = execFileSync(nm, ['--defined-only', '--extern-only', '--format=posix', file], {
      encoding: 'utf8',
    })
      .trim()
      .split('\n')
      .map((line) => line.split(' ')[0].replace(/^_/, ''));
    const expected = `batchnorm_kernels_${isa}`;
    if (defined.length !== 1 || defined[0] !== expected)
      throw new Error(`${file} must define ${expected} and nothing else, got ${defined.join(', ')}`);
  }
  return objects.map(({ isa }) => isa);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href)
  console.log(`One symbol per object: ${checkObjects('build').join(', ')}`);
