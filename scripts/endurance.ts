// A million calls, a hundred thousand that fail, a hundred thousand layers, fifty thousand steps of a group: prints the memory over each run and fails where
// it grows. Then, for information, what denormal numbers cost. npm run test:endurance -- --share 0.1 for a short form.
import { execFile } from 'node:child_process';
import { parseArgs, promisify } from 'node:util';
import Table from 'cli-table3';

const { values } = parseArgs({ options: { share: { type: 'string', default: '1' } } });
const share = Number(values.share);
if (!(share > 0)) throw new RangeError(`--share must be a positive number, got ${values.share}`);

const runs = { passes: 1_000_000, failures: 100_000, layers: 100_000, groups: 50_000 };
/** Mebibytes by which anything may grow once a third of the run is done, and what it keeps in stock is there. */
const bounds = { heap: 2, arrayBuffers: 1, external: 1, rss: 32 } as const;
/** As denormals.mjs says. */
type Cost = { dtype: string; pass: string; denormal: number; tiny: number };
type Memory = { done: number } & Record<keyof typeof bounds, number>;

const compact = {
  style: { head: [], border: [] },
  chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
};

const mebibyte = 2 ** 20;
const mebibytes = (bytes: number) => (bytes / mebibyte).toFixed(1);

async function run<Line>(backend: string, file: string, ...args: string[]): Promise<Line[]> {
  const program = ['--expose-gc', `test/endurance/${file}.mjs`, ...args];
  const env = { ...process.env, BATCHNORM_BACKEND: backend, BATCHNORM_ISA: '' };
  const { stdout, stderr } = await promisify(execFile)(process.execPath, program, { env });
  process.stderr.write(stderr);
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

function growth(samples: readonly Memory[], key: keyof typeof bounds): number {
  const settled = samples.slice(Math.ceil(samples.length / 3));
  return (Math.max(...settled.map((sample) => sample[key])) - settled[0][key]) / mebibyte;
}

const failures: string[] = [];

/** The memory over one run. */
async function endure(backend: string, kind: string, repetitions: number): Promise<void> {
  const begin = performance.now();
  const samples = await run<Memory>(backend, 'program', kind, String(Math.round(repetitions * share)));
  const seconds = ((performance.now() - begin) / 1000).toFixed(0);
  const table = new Table({ head: ['done', ...Object.keys(bounds)], ...compact });
  for (const { done, heap, arrayBuffers, external, rss } of samples)
    table.push([done, ...[heap, arrayBuffers, external, rss].map(mebibytes)]);
  console.log(`\n${kind} on the ${backend} backend (MiB), ${seconds} s\n${table.toString()}`);
  for (const [key, bound] of Object.entries(bounds)) {
    const grown = growth(samples, key as keyof typeof bounds);
    if (!(grown <= bound))
      failures.push(
        `${key} of ${kind} on ${backend} must grow by at most ${bound} MiB, got ${grown.toFixed(1)}`,
      );
  }
}

// Beside each other: the memory of a process is its own.
for (const [kind, repetitions] of Object.entries(runs))
  await Promise.all(['native', 'wasm'].map((backend) => endure(backend, kind, repetitions)));

const table = new Table({ head: ['dtype', 'pass', 'denormal', 'tiny'], ...compact });
for (const { dtype, pass, denormal, tiny } of await run<Cost>('native', 'denormals'))
  table.push([dtype, pass, denormal.toFixed(2), tiny.toFixed(2)]);
console.log(
  `\nTime with values whose squares are 0, beside others, 1 thread (for information)\n${table.toString()}`,
);

for (const failure of failures) console.error(failure);
if (failures.length > 0) process.exitCode = 1;
