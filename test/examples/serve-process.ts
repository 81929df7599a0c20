import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import manifest from '../../package.json' with { type: 'json' };

/** `npm run serve` as npm runs it, through a shell, but without the build before it. */
export interface ServeProcess {
  readonly child: ChildProcess;
  /** Where it listens, once it does. */
  readonly address: Promise<string>;
  /** What it has said so far. */
  output(): string;
  /** Its exit code, or the signal that ended it. */
  readonly ended: Promise<number | string>;
}

export function startServe(...args: string[]): ServeProcess {
  // Whoever runs the tests, nobody passes signals on.
  const { npm_lifecycle_event: _, ...env } = process.env;
  const child = spawn('sh', ['-c', `${manifest.scripts.serve} "$@"`, 'sh', ...args], { env });
  let output = '';
  const ended = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | string);
  const address = new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output += chunk;
      const found = output.match(/^Draw a digit: +(\S+)\/$/m);
      if (found) resolve(found[1]);
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    void ended.then((end) => reject(new Error(`the server must listen, got its end (${end})\n${output}`)));
  });
  // Not every test waits for the address of a server that ends at once.
  address.catch(() => {});
  return { child, address, output: () => output, ended };
}
