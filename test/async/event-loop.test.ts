// What goes on while operations are computed off the event loop. How fast is measured by `npm run bench -- serving`.
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { capabilities } from '../../lib/index.js';
import { patience } from '../support/patience.js';

/** A tensor in shared memory, of which nothing is copied, and a queue of operations that takes long. */
const beginning = `
  import assert from 'node:assert/strict';
  import { BatchNorm } from 'batchnorm';
  const shape = [8, 64, 56, 56];
  const data = new Float32Array(new SharedArrayBuffer(4 * 8 * 64 * 56 * 56));
  const x = { data, shape };
  const bn = new BatchNorm(64);
  const frozen = bn.freeze();`;

/** In a process with one thread in libuv's pool. */
function run(program: string): void {
  const { status, signal, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '--eval', beginning + program],
    { env: { ...process.env, UV_THREADPOOL_SIZE: '1' }, encoding: 'utf8', timeout: patience },
  );
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' });
}

describe('operations off the event loop', () => {
  it.runIf(process.platform !== 'win32')("never use libuv's pool: they end while it is blocked", () => {
    // Who opens a FIFO to read waits for somebody who opens it to write.
    run(`
      import { execFileSync } from 'node:child_process';
      import { closeSync, constants, mkdtempSync, openSync, rmSync } from 'node:fs';
      import { open, stat } from 'node:fs/promises';
      import { tmpdir } from 'node:os';
      import { join } from 'node:path';
      const folder = mkdtempSync(join(tmpdir(), 'batchnorm-'));
      const fifo = join(folder, 'fifo');
      execFileSync('mkfifo', [fifo]);
      const opening = open(fifo, 'r');
      let isFree = false;
      const behind = stat('.').then(() => (isFree = true));
      await Promise.all([frozen.runAsync(x), bn.forwardAsync(x), bn.backwardAsync(x)]);
      assert.equal(isFree, false);
      for (let writer; writer === undefined; await new Promise(setImmediate)) {
        try {
          writer = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
          closeSync(writer);
        } catch (error) {
          assert.equal(error.code, 'ENXIO');
        }
      }
      await behind;
      await (await opening).close();
      rmSync(folder, { recursive: true });`);
  });

  it.runIf(capabilities().backend === 'native')('let the event loop turn and files be read meanwhile', () => {
    run(`
      import { stat } from 'node:fs/promises';
      async function attempt() {
        const done = [];
        let turns = 0;
        const turn = () => {
          turns++;
          if (!done.includes('operations')) setImmediate(turn);
        };
        const operations = Array.from({ length: 64 }, () => frozen.runAsync(x, { out: data }));
        setImmediate(turn);
        await Promise.all([
          Promise.all(operations).then(() => done.push('operations')),
          stat('.').then(() => done.push('file')),
        ]);
        return { done, turns };
      }
      const isFree = ({ done, turns }) => done[0] === 'file' && turns > 10;
      // Other programs may hold this thread up in any one attempt; what blocks the event loop does so in all.
      let last = await attempt();
      for (let i = 1; i < 100 && !isFree(last); i++) last = await attempt();
      assert.ok(isFree(last), JSON.stringify(last));`);
  });
});
