// The system has no thread for the first asynchronous call: there is no more address space for its stack.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { BatchNorm } from 'batchnorm';
import { assertSame, channels, frozenLayer, isNative, tensorOf } from './tools.mjs';

/** For this process; 'unlimited' or bytes. Only the soft limit, which may be raised again. */
function limitAddressSpace(limit) {
  execFileSync('prlimit', [`--pid=${process.pid}`, `--as=${limit}:`]);
}

const x = tensorOf([2, channels, 4]);
const frozen = frozenLayer();
const bn = new BatchNorm(channels);
const expected = frozen.run(x).data;

const [, kibibytes] = /VmSize:\s*(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'));
// Half of what a stack takes, and room for the garbage collector.
limitAddressSpace(Number(kibibytes) * 1024 + 4 * 2 ** 20);
const given = { data: x.data.slice(), shape: x.shape };
const results = await Promise.allSettled([
  frozen.runAsync(x),
  bn.forwardAsync(x),
  frozen.runAsync(given, { transfer: true }),
]);
limitAddressSpace('unlimited');

if (isNative)
  for (const { status, reason } of results) {
    assert.equal(status, 'rejected');
    assert.equal(reason.code, 'ERR_BATCHNORM_NO_THREAD');
    assert.match(reason.message, /^an asynchronous operation must have a thread, got none \(.+\)$/);
  }
assert.equal(bn.batchesTracked, isNative ? 0 : 1);
if (isNative) assertSame(given.data, x.data, 'what was to be given away');
assertSame((await frozen.runAsync(x)).data, expected, 'runAsync once there is a thread');
console.log('right');
