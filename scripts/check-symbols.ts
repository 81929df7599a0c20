// Each per-ISA object must define exactly one global symbol, its kernel table. Anything else, a std template say, the
// linker might take for the portable code as well, which would then run instructions the CPU lacks.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';

const folder = 'build/CMakeFiles';
const objects = readdirSync(folder)
  .filter((name) => name.startsWith('isa_'))
  .map((name) => ({ isa: name.slice('isa_'.length, -'.dir'.length), folder: `${folder}/${name}/native/isa` }))
  .map(({ isa, folder }) => ({ isa, file: `${folder}/${isa}.cpp.o` }))
  .filter(({ file }) => existsSync(file));
if (objects.length === 0) throw new Error(`${folder} must hold the objects of a build, got none`);

for (const { isa, file } of objects) {
  const defined = execFileSync('nm', ['--defined-only', '--extern-only', '--format=posix', file], {
    encoding: 'utf8',
  })
    .trim()
    .split('\n')
    .map((line) => line.split(' ')[0].replace(/^_/, ''));
  const expected = `batchnorm_kernels_${isa}`;
  if (defined.length !== 1 || defined[0] !== expected)
    throw new Error(`${file} must define ${expected} and nothing else, got ${defined.join(', ')}`);
}
console.log(`One symbol per object: ${objects.map(({ isa }) => isa).join(', ')}`);
