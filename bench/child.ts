// One library in a process of its own: makes a case ready, then measures what it is asked to.
import { parseArgs } from 'node:util';
import type { Case, Pass } from './cases.js';
import { buffersFor, type Contender, type Roofline } from './contender.js';
import { native } from './contenders/native.js';
import { plainJs } from './contenders/plain-js.js';

export type Request = { prepare: Case } | { measure: Pass | Roofline; milliseconds: number };
/** Nanoseconds per call, one number for each sample; undefined for a pass the library does not have. */
export type Reply = { ready: true } | { samples: number[] | undefined };

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { threads: { type: 'string', default: '1' } },
});
const contenders: Record<string, () => Contender> = {
  native: () => native(Number(values.threads)),
  'plain-js': () => plainJs,
};
const contender = contenders[positionals[0]]();

/** Samples shorter than this would measure the clock. */
const sampleNanoseconds = 20_000;

function time(call: () => void, repetitions: number): number {
  const start = process.hrtime.bigint();
  for (let i = 0; i < repetitions; i++) call();
  return Number(process.hrtime.bigint() - start) / repetitions;
}

function measure(call: () => void, milliseconds: number): number[] {
  // Long enough for the compiler to have settled where calls are short.
  const warmUp = process.hrtime.bigint() + BigInt(milliseconds * 1e5);
  let once = time(call, 1);
  while (process.hrtime.bigint() < warmUp) once = Math.min(once, time(call, 1));
  const repetitions = Math.max(1, Math.ceil(sampleNanoseconds / once));
  const samples: number[] = [];
  const end = process.hrtime.bigint() + BigInt(milliseconds * 1e6);
  do samples.push(time(call, repetitions));
  while (process.hrtime.bigint() < end);
  return samples;
}

let passes: ReturnType<Contender> = {};
process.on('message', (request: Request) => {
  let reply: Reply;
  if ('prepare' in request) {
    passes = {};
    passes = contender(request.prepare, buffersFor(request.prepare));
    reply = { ready: true };
  } else {
    const call = passes[request.measure];
    reply = { samples: call && measure(call, request.milliseconds) };
  }
  process.send?.(reply);
});
