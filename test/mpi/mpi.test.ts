// Groups over MPI, with every implementation that is installed: what each member gets, and what it is told where something is
// wrong. Started as users start them, by the launcher that comes with the library.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deserialize, serialize } from 'node:v8';
import { Worker } from 'node:worker_threads';
import { afterAll, describe, expect, it } from 'vitest';
import { capabilities } from '../../lib/index.js';
import { mpi as mpiOfBrowsers } from '../../lib/mpi/browser.js';
import { mpi } from '../../lib/mpi/index.js';
import { cutBatch, type Trained } from '../support/batches.js';
import { expectListed } from '../support/messages.js';
import {
  type End,
  type Hosts,
  type Implementation,
  installed,
  makeHosts,
  missing,
  mustBeAll,
  runProgram,
} from '../support/mpi.js';
import { Random, seedNote } from '../support/random.js';
import { expectSame } from '../support/tensors.js';

const program = fileURLToPath(new URL('member.mjs', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'batchnorm-mpi-'));
const hosts = installed.length > 0 ? makeHosts(scratch) : undefined;
if (hosts === undefined) console.log('not run: two hosts (no network namespaces here)');
afterAll(() => {
  hosts?.remove();
  rmSync(scratch, { recursive: true });
});

interface Told {
  code: string;
  message: string;
}

/** Runs members to their end, and has what they have told: undefined of a job that did not come to its end. */
function run(
  command: readonly string[],
  jobs: string,
  { options = {}, environment = {}, files = {} }: Record<'options' | 'environment' | 'files', object>,
) {
  const folder = mkdtempSync(join(scratch, 'job-'));
  for (const [name, value] of Object.entries(files)) writeFileSync(join(folder, name), serialize(value));
  const member = [process.execPath, program, folder, JSON.stringify(options), jobs];
  const end = runProgram([...command, ...member], environment as Record<string, string>);
  const told = <T>(job: string, rank: number): T | undefined => {
    const file = join(folder, `${job}.${rank}`);
    return existsSync(file) ? (deserialize(readFileSync(file)) as T) : undefined;
  };
  return { end, told };
}

const nothing = { options: {}, environment: {}, files: {} };

/** The members of a job that must end well. */
function membersOf<T>(size: number, { end, told }: ReturnType<typeof run>, job: string): T[] {
  return Array.from({ length: size }, (_, rank) => {
    const result = told<T>(job, rank);
    if (result === undefined) expect.fail(`rank ${rank} must come to the end of ${job}, got\n${end.stderr}`);
    return result;
  });
}

const launched = ({ launcher, options }: Implementation, size: number) => [
  launcher,
  ...options,
  '-n',
  String(size),
];

/** Sums in the order of ranks. */
const total = (size: number, value: (rank: number) => number) =>
  Array.from({ length: size }, (_, rank) => value(rank)).reduce((sum, next) => sum + next);

for (const { name } of missing)
  describe(name, () => {
    if (mustBeAll) it('must be installed', () => expect.fail(`${name} is not installed`));
    else {
      console.log(`not run: ${name} is not installed`);
      it.skip('is not installed');
    }
  });

/** A library that fails, and one of no known kind; undefined where there is no compiler for them. */
function compileBroken(): { library: string; ofNoKind: string } | undefined {
  const [library, ofNoKind] = ['broken', 'of-no-kind'].map((name) => join(scratch, `${name}.so`));
  const source = fileURLToPath(new URL('broken.c', import.meta.url));
  const flags = ['-shared', '-fPIC', '-o'];
  for (const compiler of ['gcc', 'clang', 'cc'])
    try {
      for (const args of [[library], [ofNoKind, '-DOF_NO_KIND']])
        execFileSync(compiler, [...flags, ...args, source], { stdio: 'pipe' });
      return { library, ofNoKind };
    } catch {}
  console.log('not run: an MPI that fails (no gcc, clang or cc makes it)');
  return undefined;
}

describe.each(installed)('$name', (implementation) => {
  const { library } = implementation;

  it.each([1, 2, 3, 4])(`trains as one with %i members, and exchanges (${seedNote})`, (size) => {
    const cuts = [
      [0, 9],
      [0, 4, 9],
      [0, 0, 2, 9],
      [0, 3, 3, 8, 9],
    ][size - 1];
    const dtype = size % 2 === 0 ? 'float64' : 'float32';
    // Of so many channels the statistics take two exchanges.
    const channels = size === 2 ? 700 : 5;
    const { parts, expectAsOne } = cutBatch(new Random(), { dtype, channels, cuts });
    const jobs = ['exchanges', 'later', 'trains', 'second', 'end'];
    if (size === 4) jobs.push('rounds');
    if (size > 1) jobs.push('turns', 'crossed', 'mismatch');
    const files = { batches: { channels, layer: { dtype }, batches: parts } };
    const job = run(launched(implementation, size), jobs.join(), { ...nothing, files });
    const { end } = job;
    expect(end.status, end.stderr).toBe(0);

    expectAsOne(membersOf<Trained>(size, job, 'trains'));

    type Exchanged = Record<'all' | 'few' | 'gathered' | 'sums', Float64Array> & {
      rank: number;
      size: number;
    };
    for (const [rank, exchanged] of membersOf<Exchanged>(size, job, 'exchanges').entries()) {
      const { all, few, gathered, sums } = exchanged;
      expect([exchanged.rank, exchanged.size]).toEqual([rank, size]);
      const expected = Float64Array.from(
        { length: size * 3 },
        (_, i) => [Math.floor(i / 3), Math.floor(i / 3) * 10, -0][i % 3],
      );
      expectSame(all, expected, 'all');
      expect([...few]).toEqual([total(size, (rank) => rank / 3), total(size, () => 0.1)]);
      for (let of = 0; of < size; of++)
        for (const i of [0, 511, 512, 9999]) expect(gathered[of * 10_000 + i]).toBe(i + of / 3);
      // The bits of a WorkerGroup, however MPI would add.
      for (const i of [0, 511, 512, 5000, 9999]) expect(sums[i]).toBe(total(size, (rank) => i + rank / 3));
    }
    if (size === 4)
      for (const sums of membersOf<[number, number][]>(size, job, 'rounds'))
        for (const [i, sum] of sums) expect(sum, `sum ${i}`).toBe(total(size, (rank) => i + rank / 3));

    type Later = { all: Float64Array; sums: Float64Array; last: number; busy: Told };
    for (const { all, sums, last, busy } of membersOf<Later>(size, job, 'later')) {
      expect([...all]).toEqual(Array.from({ length: size }, (_, rank) => rank + 1));
      expect([...sums, last]).toEqual([(size * (size - 1)) / 2, size, (size * (size - 1)) / 2]);
      expect(busy.code).toBe('ERR_BATCHNORM_GROUP_BUSY');
    }

    const once = {
      code: 'ERR_BATCHNORM_MPI_UNAVAILABLE',
      message: 'mpi() must be called once in a process, got a process with MPI',
    };
    expectListed(once.message);
    for (const second of membersOf<Told>(size, job, 'second')) expect(second).toEqual(once);
    const ended = {
      code: 'ERR_BATCHNORM_GROUP_BROKEN',
      message: 'a group over MPI must be used before its process ends, got an exchange after that',
    };
    expectListed(ended.message);
    for (const told of membersOf<Told[]>(size, job, 'ended')) expect(told).toEqual([ended, once]);
    if (size === 1) return;

    const turns = membersOf<number>(size, job, 'turns');
    expect(turns[0]).toBeGreaterThan(5);
    const last = size - 1;
    const crossed = `all members must make the same exchange, got forward of layer 2 with 2 channels as exchange 0 from rank 0 and forward of layer 3 with 2 channels as exchange 0 from rank ${last}; the group is broken`;
    for (const told of membersOf<Told>(size, job, 'crossed'))
      expect(told).toEqual({ code: 'ERR_BATCHNORM_GROUP_BROKEN', message: crossed });
    const mismatch = `all members must make the same exchange, got allGather() of 2 values from rank 0 and allReduce() of 2 values from rank ${last}; the group is broken; start the job again`;
    expectListed(mismatch);
    for (const told of membersOf<Told[]>(size, job, 'mismatch'))
      expect(told).toEqual([
        { code: 'ERR_BATCHNORM_GROUP_BROKEN', message: mismatch },
        { code: 'ERR_BATCHNORM_GROUP_BROKEN', message: mismatch },
      ]);
  });

  it.runIf(hosts)(`trains as one on two hosts (${seedNote})`, () => {
    const { addresses, agent, onFirst, received } = hosts as Hosts;
    const { parts, expectAsOne } = cutBatch(new Random(), {
      dtype: 'float64',
      channels: 700,
      cuts: [0, 3, 9],
    });
    const files = { batches: { channels: 700, layer: { dtype: 'float64' }, batches: parts } };
    const { launcher, at } = implementation;
    const before = received();
    const job = run([...onFirst, launcher, ...at(addresses, agent), '-n', '2'], 'trains,exchanges', {
      ...nothing,
      files,
    });
    expect(job.end.status, job.end.stderr).toBe(0);
    expectAsOne(membersOf<Trained>(2, job, 'trains'));
    // In three steps 1401 and 1400 values each, and 20,512 in exchanges: what had gone another way would be missing.
    expect(received() - before).toBeGreaterThan(8 * (3 * 2801 + 20_512));
  });

  it('is a group of one without a launcher, and by the path of the library', () => {
    const job = run([], 'exchanges,long', { ...nothing, options: { library } });
    expect(job.end).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(job.told<{ size: number }>('exchanges', 0)?.size).toBe(1);
    const long = job.told<Told[]>('long', 0);
    // As far as the machine gives so long an array.
    const rule = 'must have at most 2147483647 values, got 2147483648';
    if (long !== null)
      expect(long?.map(({ message }) => message)).toEqual([`values ${rule}`, `mine ${rule}`]);
  });

  it('tells the others of a member in evaluation, and ends them', () => {
    const job = run(launched(implementation, 2), 'evaluates', { ...nothing, options: { timeout: 400 } });
    const message =
      'all members must come to the exchange within 400 ms, got some that did not; the group is broken; start the job again';
    expectListed(message);
    expect(job.told('evaluates', 0)).toEqual({
      error: { code: 'ERR_BATCHNORM_GROUP_BROKEN', message },
      isUnchanged: true,
    });
    expect(job.told('evaluates', 1)).toEqual({ error: undefined, isUnchanged: true });
    expect(job.end.status).not.toBe(0);
  });

  it.each(['killed', 'throws'])('ends all members with one that is or %s', (name) => {
    const { end, told } = run(launched(implementation, 3), name, nothing);
    expect(end.status).not.toBe(0);
    for (let rank = 0; rank < 3; rank++) expect(told(name, rank)).toBeUndefined();
    if (name === 'throws') expect(end.stdout + end.stderr).toContain('Error: of its own');
  });
});

it.runIf(process.platform === 'win32')('is said to be missing on Windows', () => {
  const { end } = run([], 'second', nothing);
  expect(end.stderr).toContain(
    'mpi() must have Open MPI, MPICH, Intel MPI or MVAPICH of Linux or macOS, got Windows',
  );
});

describe.skipIf(process.platform === 'win32')('what is wrong with mpi()', () => {
  /** What a process is told that calls it in this environment. */
  function toldIn(environment: Record<string, string>, options: object = {}, command: string[] = []): string {
    const { end } = run(command, 'second', { ...nothing, options, environment });
    return messageIn(end);
  }

  function messageIn({ status, stderr }: End): string {
    expect(status, stderr).not.toBe(0);
    const [, message] = /^Error: (.*)$/m.exec(stderr) ?? expect.fail(stderr);
    expect(stderr).toContain("code: 'ERR_BATCHNORM_MPI_UNAVAILABLE'");
    expectListed(message);
    return message;
  }

  it('is said of its options', () => {
    const call = (options: unknown) => () => mpi(options as never);
    expect(call({ timeout: 0 })).toThrow(
      'timeout must be a number of milliseconds from 1 to 2147483647, got 0',
    );
    expect(call({ timeout: '1' })).toThrow('timeout must be a number of milliseconds, got "1"');
    expect(call({ time: 1 })).toThrow('options must only have library, timeout, got "time"');
    for (const library of [3, null, '', 'libmpi.so.40\0.5']) {
      const message = `library must be the name or path of an MPI library, got ${JSON.stringify(library)}`;
      expect(call({ library })).toThrow(message);
      expectListed(message);
    }
  });

  it('is said of libraries that are none', () => {
    const message = (library: string) => toldIn({}, { library });
    expect(message('no-such-library.so')).toMatch(
      /^library must be that of an MPI, got "no-such-library\.so": .*no-such-library\.so/,
    );
    expect(message(program)).toContain(`got "${program}": `);
    if (process.platform === 'linux')
      expect(message('libm.so.6')).toBe(
        'library must be that of an MPI, got "libm.so.6": it has no MPI_Init_thread',
      );
  });

  it.runIf(process.platform === 'linux')('is said where none can be loaded', () => {
    const folder = mkdtempSync(join(scratch, 'broken-'));
    const names = ['libmpi.so.40', 'libmpich.so.12', 'libmpi.so.12', 'libmpi_abi.so.1', 'libmpi_abi.so.0'];
    for (const name of [...names, 'libmpi.so']) writeFileSync(join(folder, name), 'of no machine');
    const message = toldIn({ LD_LIBRARY_PATH: folder });
    for (const name of names) expect(message).toContain(`${name}: `);
    expect(message).toContain('install Open MPI or MPICH (in Debian openmpi-bin or mpich)');
  });

  it('is said of worker threads', async () => {
    const { href } = new URL('../../dist/mpi/index.js', import.meta.url);
    const code = `import('${href}').then(({ mpi }) => mpi()).catch(({ code, message }) => require('node:worker_threads').parentPort.postMessage({ code, message }))`;
    const worker = new Worker(code, { eval: true });
    const told = await new Promise<Told>((resolve) => worker.once('message', resolve));
    const isWasm = capabilities().backend === 'wasm';
    expect(told.code).toBe('ERR_BATCHNORM_MPI_UNAVAILABLE');
    if (!isWasm)
      expect(told.message).toBe(
        'mpi() must be called on the main thread, got a worker; batchnorm/workers has groups of workers',
      );
    expectListed(told.message);
  });

  it('is said of browsers, and of the WebAssembly backend', () => {
    const message =
      'mpi() must be called in Node.js, got a browser; batchnorm/workers has groups of web workers';
    expect(() => mpiOfBrowsers()).toThrow(message);
    expectListed(message);
    // Where it was not built, that is an error of its own.
    const { end } = run([], 'second', { ...nothing, environment: { BATCHNORM_BACKEND: 'wasm' } });
    expect(end.stderr).toMatch(/mpi\(\) must have the native backend, got WebAssembly|WASM_UNAVAILABLE/);
    if (!end.stderr.includes('WASM_UNAVAILABLE')) messageIn(end);
  });

  const broken = compileBroken();
  it.runIf(broken !== undefined).each([
    ['init', 'MPI must start, got "the cable is cut" of "Broken MPI 1.0"'],
    [
      'threads',
      'MPI must start, got "it allows no process with threads (MPI_THREAD_FUNNELED)" of "Broken MPI 1.0"',
    ],
    ['started', 'mpi() must be called once in a process, got a process with MPI'],
  ])('is said where MPI fails at its start: %s', (where, message) => {
    const { library } = broken as { library: string };
    // Whoever has started it before has loaded it.
    const environment: Record<string, string> = { BROKEN_MPI: where };
    if (where === 'started') environment.LD_PRELOAD = library;
    expect(toldIn(environment, { library })).toBe(message);
  });

  it.runIf(broken !== undefined)('is said of libraries of no known kind', () => {
    const { ofNoKind: library } = broken as { ofNoKind: string };
    expect(toldIn({}, { library })).toBe(
      `library must be that of an MPI, got "${library}": it is neither Open MPI nor of the ABI of MPICH or MPI-5`,
    );
  });

  it.runIf(broken !== undefined).each(['begin', 'test'])(
    'is said where MPI fails in an exchange: %s',
    (where) => {
      const { library } = broken as { library: string };
      const environment = { BROKEN_MPI: where };
      const { end, told } = run([], 'twice', { ...nothing, options: { library }, environment });
      // Others would wait for it for ever.
      expect(end).toEqual({ status: 1, stdout: '', stderr: '' });
      const message =
        'MPI must make the exchange, got "the cable is cut"; the group is broken; start the job again';
      expectListed(message);
      const error = { code: 'ERR_BATCHNORM_GROUP_BROKEN', message };
      expect(told('twice', 0)).toEqual([error, error, error]);
    },
  );

  it.runIf(installed.length > 1)('is said of two kinds at once', () => {
    const [one, other] = installed;
    expect(toldIn({ LD_PRELOAD: other.library }, { library: one.library })).toMatch(
      `library must be that of an MPI, got "${one.library}": the process has another MPI already, `,
    );
  });

  it.runIf(installed.length > 1).each(installed.map((one, i) => [one.name, one, installed[1 - i]] as const))(
    'is said of the launcher of another kind, %s',
    (_, one, other) => {
      const message = toldIn({}, { library: other.library }, launched(one, 2));
      expect(message).toMatch(
        /^mpi\(\) must find all members, got ".*" alone where .* has started 2; give library/,
      );
    },
  );
});
