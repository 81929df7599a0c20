// Tries for longer what the files fuzz-*.test.ts try in the suite, with values that are new each time, and says how often.
// npm run fuzz -- --seconds 600; BATCHNORM_SEED repeats a run.
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '300' } } });
const seconds = Number(values.seconds);
if (!(seconds > 0)) throw new RangeError(`--seconds must be a positive number, got ${values.seconds}`);

// What compares the backends needs to run once; no BATCHNORM_ISA: it takes all of them in turn.
const suites = [
  { backend: 'native', files: ['interface', 'model', 'hostile', 'norms', 'backends'] },
  { backend: 'wasm', files: ['interface', 'model', 'hostile', 'norms'] },
];
const each = seconds / suites.flatMap(({ files }) => files).length;
const seed = process.env.BATCHNORM_SEED || String(Math.floor(Math.random() * 2 ** 32));

for (const { backend, files } of suites) {
  console.log(`\n=== ${backend} ===`);
  const { status } = spawnSync(
    process.execPath,
    ['node_modules/vitest/vitest.mjs', 'run', '--no-file-parallelism', '--silent=false'].concat(
      files.map((file) => `fuzz-${file}.test.ts`),
    ),
    {
      env: {
        ...process.env,
        BATCHNORM_BACKEND: backend,
        BATCHNORM_ISA: '',
        BATCHNORM_SEED: seed,
        BATCHNORM_FUZZ_SECONDS: String(each),
      },
      stdio: 'inherit',
    },
  );
  if (status !== 0) process.exitCode = 1;
}
