// Nothing a user does ends in a signal: programs that misuse the library, each in a process of its own. Those programs
// check what they compute and end with an uncaught assertion where it is wrong.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { capabilities } from '../../lib/index.js';
import { patience } from '../support/patience.js';
import { seed, seedNote } from '../support/random.js';

const isNative = capabilities().backend === 'native';

interface End {
  /** null where a signal ended it. */
  code: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
}

function pathOf(program: string): string {
  return fileURLToPath(new URL(`${program}.mjs`, import.meta.url));
}

async function run(command: string, args: readonly string[]): Promise<End> {
  const child = spawn(command, args, { timeout: patience, killSignal: 'SIGKILL' });
  const [stdout, stderr, [code, signal]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ]);
  return { code, signal, stdout, stderr };
}

/** A thread on which V8 compiles asks for the isolate of a worker that has just ended: Node.js 20, whoever ends a worker. */
const nodesOwn = /NodePlatform::ForIsolate[\s\S]*Assertion failed: \(data\.first\) != nullptr/;

/** Runs test/abuse/<program>.mjs, once more where Node.js has aborted for a reason of its own. */
async function abuse(program: string, ...args: readonly string[]): Promise<End> {
  const end = await run(process.execPath, ['--expose-gc', pathOf(program), ...args]);
  return nodesOwn.test(end.stderr) ? run(process.execPath, ['--expose-gc', pathOf(program), ...args]) : end;
}

const right: End = { code: 0, signal: null, stdout: 'right\n', stderr: '' };

describe('memory', () => {
  it('may be transferred and collected in the middle of an operation', async () => {
    expect(await abuse('transfer')).toEqual(right);
  });

  it('may shrink and grow in the middle of an operation', async () => {
    expect(await abuse('resize')).toEqual(right);
  });

  it('may be overwritten in the middle of an operation', async () => {
    expect(await abuse('overwrite')).toEqual(right);
  });

  it('that cannot be moved is refused and kept', async () => {
    expect(await abuse('unmovable')).toEqual(right);
  });

  it.each(['getters', 'threads', 'then'])('survives code of the caller within a call: %s', async (kind) => {
    expect(await abuse('reenter', kind)).toEqual(right);
  });

  // WebAssembly reserves more of it than such a limit leaves.
  it.runIf(isNative && existsSync('/proc/self/status'))('may run out', async () => {
    const program =
      'console.log(/VmSize:\\s*(\\d+)/.exec(require("fs").readFileSync("/proc/self/status", "utf8"))[1])';
    const kibibytes = Number(spawnSync(process.execPath, ['--eval', program], { encoding: 'utf8' }).stdout);
    expect(kibibytes).toBeGreaterThan(0);
    // Room for one of two tensors, and for threads and what else a process begins with.
    const limited = `ulimit -v ${kibibytes + 2.5 * 2 ** 20} && exec "$0" "$@"`;
    const args = ['-c', limited, process.execPath, pathOf('memory'), String(1.5 * 2 ** 30)];
    expect(await run('sh', args)).toEqual(right);
  });

  it.runIf(process.platform === 'linux')('may run out for a thread, whose stack it is', async () => {
    expect(await abuse('threadless')).toEqual(right);
  });

  it('of frozen layers is given back within a synchronous loop, and at once by disposal', async () => {
    expect(await abuse('frozen')).toEqual(right);
  });

  it('is given back after 100,000 operations, and the process ends by itself', async () => {
    expect(await abuse('flood')).toEqual(right);
  });
});

describe('layers', () => {
  it('may be dropped with their tensors and promises', async () => {
    expect(await abuse('drop')).toEqual(right);
  });

  it('may be disposed of in the middle of an operation', async () => {
    expect(await abuse('dispose')).toEqual(right);
  });

  it('give no warning of a signal that many operations share, and cancel what has not begun', async () => {
    expect(await abuse('signal')).toEqual(right);
  });

  it.each(['properties of Object', 'getters of typed arrays', 'setters of Array', 'then of promises'])(
    'give the same results whatever became of prototypes: %s',
    async (kind) => {
      expect(await abuse('pollute', kind)).toEqual(right);
    },
  );

  it('take what other realms made', async () => {
    expect(await abuse('realms')).toEqual(right);
  });
});

describe('several copies of the library', () => {
  it('work side by side, over one binary and over two', async () => {
    const folders = [0, 1].map(() => mkdtempSync(join(tmpdir(), 'batchnorm-')));
    try {
      for (const folder of folders) {
        for (const part of ['dist', 'binary.cjs', 'package.json'])
          cpSync(part, join(folder, part), { recursive: true });
        symlinkSync(join(process.cwd(), 'node_modules'), join(folder, 'node_modules'));
      }
      symlinkSync(join(process.cwd(), 'build'), join(folders[0], 'build'));
      const binary = join('build', 'Release', 'batchnorm.node');
      cpSync(binary, join(folders[1], binary));
      expect(await abuse('copies', ...folders)).toEqual({ ...right, stdout: 'right\nright\n' });
    } finally {
      for (const folder of folders) rmSync(folder, { recursive: true });
    }
  });
});

describe('threads', () => {
  it.each([
    ['workers that alone use the library', []],
    ['workers beside operations of the main thread', ['main']],
  ])(`terminate() at random moments: %s, ${seedNote}`, async (_, where) => {
    expect(await abuse('terminate', String(seed), ...where)).toEqual(right);
  });

  it(`eight workers get right results from hundreds of operations each, ${seedNote}`, async () => {
    expect(await abuse('workers', String(seed))).toEqual(right);
  });

  // Windows has no such signals.
  it.runIf(process.platform !== 'win32')(
    'hundreds of signals of the operating system are handled in the middle of operations',
    async () => {
      expect(await abuse('interrupt')).toEqual(right);
    },
  );

  it('processes begin and are killed with operations in flight', async () => {
    expect(await abuse('cluster')).toEqual(right);
  });
});

describe('the end of the process with operations in flight', () => {
  const natural = 'settled: 50\n';

  it.each([
    ['exit', 7, ''],
    ['reaction', 7, ''],
    ['natural', 0, natural],
  ])('%s ends it with %d', async (how, code, stdout) => {
    for (let repetition = 0; repetition < 5; repetition++)
      expect(await abuse('exit', 'main', how)).toEqual({ code, signal: null, stdout, stderr: '' });
  });

  it.each([
    ['exception', 'Error: on purpose'],
    ['later', 'Error: on purpose'],
    ['rejection', 'Error: on purpose'],
    ['unhandled', 'TypeError: transfer must be true or false, got 1'],
  ])('%s ends it with its error', async (how, message) => {
    for (let repetition = 0; repetition < 5; repetition++) {
      const { stderr, ...end } = await abuse('exit', 'main', how);
      expect(end).toEqual({ code: 1, signal: null, stdout: '' });
      expect(stderr).toContain(message);
    }
  });

  it.each([
    ['exit', '7, none'],
    ['reaction', '7, none'],
    ['natural', '0, none'],
    ['exception', '1, on purpose'],
    ['later', '1, on purpose'],
    ['rejection', '1, on purpose'],
    ['unhandled', '1, transfer must be true or false, got 1'],
  ])('%s ends a worker only', async (how, end) => {
    const stdout = `${how === 'natural' ? natural : ''}worker: ${end}\n`;
    for (let repetition = 0; repetition < 3; repetition++)
      expect(await abuse('exit', 'worker', how)).toEqual({ ...right, stdout });
  });
});
