import { bytesOf, type Case, type Pass, passes } from './cases.js';
import { geometricMean, type Lookup, ratio } from './results.js';

interface Target {
  name: string;
  pass: Pass;
  holds(subject: Case): boolean;
  /** Of the limit; undefined where nothing is asked for. */
  fractions?: readonly [one: number | undefined, several: number | undefined];
  /** With one thread. */
  nanoseconds?: number;
  /** Of the time of the same shape in float32, with any number of threads. */
  ofTwin?: number;
}

/** A cell of the table of targets. */
export interface Cell {
  name: string;
  threads: number;
  /** 'at least 0.95' or 'at most 80 ns'. */
  target: string;
  /** undefined where the run has no such case. */
  reached: boolean | undefined;
  geometricMean: string;
  /** The verdict is that of the worst case. */
  worst: string;
  worstCase: string;
}

const megabyte = 1e6;

function between(from: number, to: number): (subject: Case) => boolean {
  return (subject) => bytesOf(subject) >= from * megabyte && bytesOf(subject) < to * megabyte;
}

const large = between(25, Infinity);

function first(subject: Case): boolean {
  return subject.layout === 'channels-first';
}

/** A plane of so many values, in a tensor of at least 12 MB. */
function planes(from: number, to: number): (subject: Case) => boolean {
  return (subject) =>
    first(subject) && subject.inner >= from && subject.inner < to && bytesOf(subject) >= 12 * megabyte;
}

function dense(rows: number, features: number): (subject: Case) => boolean {
  return ({ shape, offset }) =>
    shape.length === 2 && shape[0] === rows && shape[1] === features && offset === 0;
}

const targets: readonly Target[] = [
  { name: 'inference, from 25 MB', pass: 'inference', holds: large, fractions: [0.95, 0.95] },
  { name: 'inference, 12 to 25 MB', pass: 'inference', holds: between(12, 25), fractions: [0.85, 0.85] },
  { name: 'inference, 1 to 12 MB', pass: 'inference', holds: between(1, 12), fractions: [0.85, 0.85] },
  {
    name: 'training, channels-first from 25 MB, planes from 56²',
    pass: 'training',
    holds: (it) => large(it) && planes(56 ** 2, Infinity)(it),
    fractions: [0.7, 0.65],
  },
  {
    name: 'training, channels-first from 25 MB, planes below 56²',
    pass: 'training',
    holds: (it) => large(it) && planes(2, 56 ** 2)(it),
    fractions: [0.65, 0.65],
  },
  {
    name: 'training, channels-last from 25 MB',
    pass: 'training',
    holds: (it) => large(it) && !first(it),
    fractions: [0.57, 0.57],
  },
  { name: 'training, 1 to 13 MB', pass: 'training', holds: between(1, 13), fractions: [0.55, 0.5] },
  {
    name: 'backward, channels-first, planes from 56²',
    pass: 'backward',
    holds: planes(56 ** 2, Infinity),
    fractions: [0.66, 0.62],
  },
  {
    name: 'backward, channels-first, planes of 28² to 56²',
    pass: 'backward',
    holds: planes(28 ** 2, 56 ** 2),
    fractions: [0.6, 0.62],
  },
  {
    name: 'backward, channels-first, planes of 14²',
    pass: 'backward',
    holds: planes(14 ** 2, 28 ** 2),
    fractions: [0.55, 0.62],
  },
  {
    name: 'backward, channels-first, planes of 7²',
    pass: 'backward',
    holds: planes(2, 14 ** 2),
    fractions: [0.52, 0.62],
  },
  {
    name: 'backward, channels-last, from 1 MB',
    pass: 'backward',
    holds: (it) => !first(it) && bytesOf(it) >= megabyte,
    fractions: [0.5, 0.5],
  },
  { name: 'inference (1, 16)', pass: 'inference', holds: dense(1, 16), nanoseconds: 80 },
  { name: 'inference (1, 256)', pass: 'inference', holds: dense(1, 256), nanoseconds: 100 },
  { name: 'inference (32, 256)', pass: 'inference', holds: dense(32, 256), nanoseconds: 500 },
  { name: 'training (32, 256)', pass: 'training', holds: dense(32, 256), nanoseconds: 2000 },
];

/** Of what does not lie in memory as it is computed in. */
const storageTargets: readonly Target[] = [
  ...passes.flatMap((pass): Target[] => [
    {
      name: `${pass} of 16 bits, from memory`,
      pass,
      holds: (it) => it.twin !== undefined && large(it),
      ofTwin: 0.55,
    },
    {
      name: `${pass} of 16 bits, in the caches`,
      pass,
      holds: (it) => it.twin !== undefined && !large(it),
      ofTwin: 0.8,
    },
  ]),
  {
    name: 'pictures to planes',
    pass: 'inference',
    holds: ({ storage, shape }) => storage === 'pictures' && shape[0] > 1,
    fractions: [0.8, 0.8],
  },
  {
    name: 'encode, decode',
    pass: 'inference',
    holds: (it) => (it.storage === 'encode' || it.storage === 'decode') && large(it),
    fractions: [0.8, 0.8],
  },
];

/** Every target against this run. */
export function judge(lookup: Lookup): Cell[] {
  const { cases, threads } = lookup.results;
  // What is asked for is asked of values that all count alike.
  const judged = cases.filter(({ group, counts }) => group !== 'sweep' && counts === undefined);
  const [plain, stored] = [false, true].map((isStored) =>
    judged.filter(({ storage }) => (storage !== undefined) === isStored),
  );
  return [...targets, ...storageTargets].flatMap((target) => {
    const subjects = (storageTargets.includes(target) ? stored : plain).filter(target.holds);
    const { nanoseconds, fractions } = target;
    // The times are those of float32.
    if (nanoseconds !== undefined)
      return [
        timeCell(
          lookup,
          target,
          nanoseconds,
          subjects.filter(({ dtype }) => dtype === 'float32'),
        ),
      ];
    return [...new Set([1, threads])].flatMap((count) => {
      if (target.ofTwin !== undefined) return [twinCell(lookup, target, count, target.ofTwin, subjects)];
      const fraction = fractions?.[count === 1 ? 0 : 1];
      return fraction === undefined ? [] : [fractionCell(lookup, target, count, fraction, subjects)];
    });
  });
}

function fractionCell(
  lookup: Lookup,
  { name, pass }: Target,
  threads: number,
  fraction: number,
  subjects: readonly Case[],
): Cell {
  const found = subjects.flatMap((subject) => {
    const value = lookup.fraction(subject, pass, `native ${threads}T`);
    return value === undefined ? [] : [{ name: subject.name, value }];
  });
  const worst = found.reduce<(typeof found)[number] | undefined>(
    (a, b) => (a && a.value <= b.value ? a : b),
    undefined,
  );
  return {
    name,
    threads,
    target: `≥ ${fraction.toFixed(2)}`,
    // Two decimals are what the target has.
    reached: worst && Math.round(worst.value * 100) >= Math.round(fraction * 100),
    geometricMean: worst ? geometricMean(found.map(({ value }) => value)).toFixed(2) : '-',
    worst: worst?.value.toFixed(2) ?? '-',
    worstCase: worst?.name ?? '-',
  };
}

function twinCell(
  lookup: Lookup,
  { name, pass }: Target,
  threads: number,
  most: number,
  subjects: readonly Case[],
): Cell {
  const { cases } = lookup.results;
  const found = subjects.flatMap((subject) => {
    const twin = cases.find((it) => it.name === subject.twin);
    const [own, other] = [subject, twin].map((it) => it && lookup.find(it, pass, `native ${threads}T`));
    return own && other ? [{ name: subject.name, value: ratio(own, other) }] : [];
  });
  const worst = found.reduce<(typeof found)[number] | undefined>(
    (a, b) => (a && a.value >= b.value ? a : b),
    undefined,
  );
  return {
    name,
    threads,
    target: `≤ ${most.toFixed(2)} of float32's time`,
    reached: worst && Math.round(worst.value * 100) <= Math.round(most * 100),
    geometricMean: worst ? geometricMean(found.map(({ value }) => value)).toFixed(2) : '-',
    worst: worst?.value.toFixed(2) ?? '-',
    worstCase: worst?.name ?? '-',
  };
}

function timeCell(
  lookup: Lookup,
  { name, pass }: Target,
  nanoseconds: number,
  subjects: readonly Case[],
): Cell {
  const [subject] = subjects;
  const own = subject && lookup.find(subject, pass, 'native 1T');
  return {
    name,
    threads: 1,
    target: `≤ ${nanoseconds} ns`,
    reached: own && Math.round(own.min) <= nanoseconds,
    geometricMean: '-',
    worst: own ? `${own.min.toFixed(0)} ns` : '-',
    worstCase: own ? subject.name : '-',
  };
}
