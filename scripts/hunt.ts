// Hunts for data on which the statistics, y and the gradients are furthest from the textbook, and says how far that was
// for each kind of data: npm run hunt -- --seconds 600 --seed 1. Ends with 1 where something is worse than promised.
// `--repeat '<JSON>'` measures one finding again.

import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { capabilities } from '../lib/index.js';
import { kinds } from '../test/support/data.js';
import { bounds, type Finding, hunt, measures, repeat, type Subject } from '../test/support/hunt.js';
import type { FloatDType } from '../test/support/tensors.js';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 32)) },
    dtype: { type: 'string', default: 'float32' },
    kind: { type: 'string', multiple: true, default: Object.keys(kinds) },
    repeat: { type: 'string' },
  },
});
const seconds = Number(values.seconds);
if (!(seconds > 0)) throw new RangeError(`--seconds must be a positive number, got ${values.seconds}`);
const seed = Number(values.seed);
if (!Number.isSafeInteger(seed) || seed < 0)
  throw new RangeError(`--seed must be a non-negative integer, got ${values.seed}`);
if (!(values.dtype in bounds))
  throw new RangeError(`--dtype must be one of ${Object.keys(bounds).join(', ')}, got ${values.dtype}`);
const dtype = values.dtype as FloatDType;
const unknown = values.kind.find((name) => !(name in kinds));
if (unknown !== undefined)
  throw new RangeError(`--kind must be one of ${Object.keys(kinds).join(', ')}, got ${unknown}`);

if (values.repeat !== undefined) {
  console.log(repeat(JSON.parse(values.repeat) as Subject));
} else {
  const end = performance.now() + 1000 * seconds;
  const { of, tensors, channels } = hunt(seed, dtype, values.kind, () => performance.now() < end);
  const table = new Table({ head: ['kind', ...measures], style: { head: [], border: [] } });
  const beyond: string[] = [];
  for (const [name, found] of of) {
    table.push([name, ...measures.map((measure) => (found.get(measure)?.error ?? 0).toExponential(1))]);
    for (const [measure, { error, subject }] of found)
      if (!(error <= bounds[dtype][measure])) beyond.push(lineOf(measure, { error, subject }));
  }
  console.log(table.toString());
  for (const measure of measures) {
    const each = [...of.values()].flatMap((found) => found.get(measure) ?? []);
    const worst = each.reduce<Finding | undefined>((a, b) => (a && a.error >= b.error ? a : b), undefined);
    if (worst) console.log(`Worst ${lineOf(measure, worst)}`);
  }
  console.log(
    `${tensors} tensors, ${channels} channels, ${seconds} s on ${capabilities().isa}, --seed ${seed}`,
  );
  if (beyond.length > 0) {
    console.error(`${beyond.length} worse than promised:\n${beyond.join('\n')}`);
    process.exitCode = 1;
  }
}

function lineOf(measure: string, { error, subject }: Finding): string {
  return `${measure}: ${error.toExponential(3)}, --repeat '${JSON.stringify(subject)}'`;
}
