#!/usr/bin/env node
// The program batchnorm: one command, one line for what is wrong.
import { parseArgs } from 'node:util';
import { version } from '../version.js';
import { clearProgress } from './table.js';
import { UsageError, usage, usages } from './usage.js';

const help = { type: 'boolean', default: false } as const;
const flag = { type: 'boolean', default: false } as const;

/** What a command does not need is not loaded. */
async function run(args: readonly string[]): Promise<number> {
  const [command, ...rest] = args;
  switch (command) {
    case 'inspect': {
      const options = { help, strict: flag, json: flag, html: { type: 'string' }, force: flag } as const;
      const { values, positionals } = parseArgs({ args: rest, options, allowPositionals: true });
      if (values.help) return print(usages.inspect);
      checkFiles(positionals, 1, 2);
      const { inspect } = await import('./inspect.js');
      return inspect(positionals[0], positionals[1], values);
    }
    case 'fold': {
      const shape = { type: 'string', multiple: true } as const;
      const options = { help, out: { type: 'string' }, force: flag, time: flag, shape, json: flag } as const;
      const { values, positionals } = parseArgs({ args: rest, options, allowPositionals: true });
      if (values.help) return print(usages.fold);
      checkFiles(positionals, 1, 1);
      if (values.out === undefined) throw new UsageError('--out must be a folder, got nothing');
      const { fold } = await import('./fold.js');
      return fold(positionals[0], { ...values, out: values.out });
    }
    case 'gain': {
      const options = { help, shape: { type: 'string', multiple: true }, json: flag } as const;
      const { values, positionals } = parseArgs({ args: rest, options, allowPositionals: true });
      if (values.help) return print(usages.gain);
      checkFiles(positionals, 1, 1);
      const { gain } = await import('./gain.js');
      return gain(positionals[0], values);
    }
    case '--version':
      return print(`${version}\n`);
    case '--help':
    case '-h':
      return print(usage);
    default:
      throw new UsageError(`a command must be inspect, fold or gain, got ${JSON.stringify(command ?? '')}`);
  }
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

function checkFiles(files: readonly string[], least: number, most: number): void {
  if (files.length < least || files.length > most)
    throw new UsageError(
      `a command must have ${most > least ? 'one or two files' : 'one file'}, got ${files.length}`,
    );
}

/** The first line of what is wrong, without what would move a terminal's cursor. */
function lineOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  const isUsage = error instanceof UsageError || `${code}`.startsWith('ERR_PARSE_ARGS');
  const [line] = (error instanceof Error ? message : String(error)).split('\n');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is left out
  return `batchnorm: ${line.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')}${isUsage ? ' (batchnorm --help)' : ''}`;
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // Who reads only the beginning, as head does, has what it wants.
  if (error.code === 'EPIPE') process.exit(0);
  console.error(lineOf(error));
  process.exit(2);
});

try {
  process.exitCode = await run(process.argv.slice(2));
} catch (error) {
  clearProgress();
  console.error(lineOf(error));
  process.exitCode = 2;
}
