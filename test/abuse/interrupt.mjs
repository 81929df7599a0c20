// Hundreds of signals of the operating system are delivered and handled while operations are computed.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { assertSame, frozenLayer, layer, sharedOf, tensorOf, turn } from './tools.mjs';

const names = ['SIGUSR2', 'SIGWINCH', 'SIGCHLD', 'SIGCONT'];
const signals = 300;
let heard = 0;
for (const name of names)
  process.on(name, () => {
    heard++;
  });

const x = tensorOf();
const shared = sharedOf(x);
const frozen = frozenLayer();
const expected = frozen.run(x).data;
const bn = layer();
const y = bn.forward(x).data;
const { dx } = bn.backward(x);

// Another process sends them: this one is computing. Some come while an earlier one of the name still waits, and count once.
const sender = spawn(
  process.execPath,
  [
    '--eval',
    `const [pid, signals, ...names] = process.argv.slice(1);
     let sent = 0;
     const timer = setInterval(() => {
       process.kill(Number(pid), names[sent % names.length]);
       if (++sent === Number(signals)) clearInterval(timer);
     }, 1);`,
    String(process.pid),
    String(signals),
    ...names,
  ],
  { stdio: 'inherit' },
);
let isSending = true;
const sent = once(sender, 'exit').then(([code]) => {
  isSending = false;
  assert.equal(code, 0);
});

let rounds = 0;
while (isSending) {
  const results = [frozen.runAsync(x), frozen.runAsync(shared), bn.forwardAsync(x), bn.backwardAsync(shared)];
  assertSame(frozen.run(x).data, expected, 'run');
  const [first, second, third, gradients] = await Promise.all(results);
  assertSame(first.data, expected, 'runAsync of a copy');
  assertSame(second.data, expected, 'runAsync of shared memory');
  assertSame(third.data, y, 'forwardAsync');
  assertSame(gradients.dx.data, dx.data, 'backwardAsync');
  rounds++;
  await turn();
}
await sent;
assert.ok(rounds > 0);
assert.ok(heard > names.length, `signals must be handled, got ${heard}`);
console.log('right');
