// Many workers at once, each with operations of all kinds and sizes. node workers.mjs <seed>
import { once } from 'node:events';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { assertSame, channels, frozenLayer, isNative, layer, randomOf, tensorOf } from './tools.mjs';

const operations = 300;
const shapes = [
  [2, channels],
  [3, channels, 5],
  [4, channels, 7, 7],
  [64, channels],
  [2, channels, 33, 17],
  [9, channels, 64, 64],
];

if (isMainThread) {
  const seed = Number(process.argv[2]);
  const workers = Array.from(
    { length: 8 },
    (_, i) => new Worker(new URL(import.meta.url), { workerData: seed + i }),
  );
  for (const [code] of await Promise.all(workers.map((worker) => once(worker, 'exit'))))
    if (code !== 0) process.exitCode = 1;
  console.log('right');
} else {
  const random = randomOf(workerData);
  const frozen = frozenLayer({ activation: 'relu' });
  const cases = shapes.slice(0, isNative ? shapes.length : -1).map((shape, i) => {
    const x = tensorOf(shape, i + 1);
    const bn = layer();
    const y = bn.forward(x).data;
    const { dx, dWeight } = bn.backward(x);
    return { x, run: frozen.run(x).data, y, dx: dx.data, dWeight };
  });
  const jobs = [];
  for (let i = 0; i < operations; i++) {
    const { x, run, y, dx, dWeight } = cases[Math.floor(random() * cases.length)];
    const kind = random();
    if (kind < 0.25) assertSame(frozen.run(x).data, run, 'run');
    else if (kind < 0.6) jobs.push(frozen.runAsync(x).then(({ data }) => assertSame(data, run, 'runAsync')));
    else if (kind < 0.7) {
      const bn = layer();
      assertSame(bn.forward(x).data, y, 'forward');
      assertSame(bn.backward(x).dx.data, dx, 'backward');
    } else {
      const bn = layer();
      jobs.push(bn.forwardAsync(x).then(({ data }) => assertSame(data, y, 'forwardAsync')));
      jobs.push(
        bn.backwardAsync(x).then((gradients) => {
          assertSame(gradients.dx.data, dx, 'dx of backwardAsync');
          assertSame(gradients.dWeight, dWeight, 'dWeight of backwardAsync');
        }),
      );
    }
    if (random() < 0.1) await Promise.all(jobs.splice(0));
  }
  await Promise.all(jobs);
}
