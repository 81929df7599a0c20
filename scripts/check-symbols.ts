// What per-ISA objects keep to themselves. Each must define exactly one global symbol, its kernel table: anything else, a
// std template say, the linker might take for the portable code as well, which would then run instructions the CPU lacks.
// And on x86 no other object may have an AVX instruction, AVX-512's included, which no emulator has.
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const folder = 'build/CMakeFiles';
/** Of the addon; `isa` is undefined for those that run on every CPU. */
const objects = readdirSync(folder, { recursive: true, encoding: 'utf8' }).flatMap((name) => {
  const [target, isa] = /^(?:isa_(\w+)|batchnorm|batchnorm_core)\.dir.*\.o$/.exec(name) ?? [];
  return target === undefined ? [] : [{ file: join(folder, name), isa }];
});

function lines(command: string, ...args: readonly string[]): string[] {
  return execFileSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 30 })
    .trim()
    .split('\n');
}

/** Instructions with a VEX or EVEX prefix, which is what AVX is encoded with; legacy prefixes may stand before. */
function avxInstructions(file: string): string[] {
  const vector = /^\s*[0-9a-f]+:\t(?:(?:26|2e|36|3e|64|65|67) )*(?:c4|c5|62) /;
  return lines('objdump', '--disassemble', '--wide', file).filter((line) => vector.test(line));
}

const perIsa = objects.filter(({ isa }) => isa !== undefined);
const portable = objects.filter(({ isa }) => isa === undefined || isa === 'generic');
if (perIsa.length === 0 || perIsa.length === objects.length)
  throw new Error(`${folder} must hold the objects of a build, got ${objects.length}`);

for (const { isa, file } of perIsa) {
  const defined = lines('nm', '--defined-only', '--extern-only', '--format=posix', file).map((line) =>
    line.split(' ')[0].replace(/^_/, ''),
  );
  const expected = `batchnorm_kernels_${isa}`;
  if (defined.length !== 1 || defined[0] !== expected)
    throw new Error(`${file} must define ${expected} and nothing else, got ${defined.join(', ')}`);
}
console.log(`One symbol per object: ${perIsa.map(({ isa }) => isa).join(', ')}`);

if (process.arch === 'x64') {
  for (const { isa, file } of perIsa.filter((object) => !portable.includes(object)))
    if (avxInstructions(file).length === 0)
      throw new Error(`${file} must have instructions of ${isa}, got none`);
  for (const { file } of portable) {
    const found = avxInstructions(file);
    if (found.length > 0) throw new Error(`${file} must have no AVX instruction, got\n${found[0]}`);
  }
  console.log(`No AVX in the other ${portable.length} objects`);
}
