import { bytesOf, type Case, type Norm, type Pass, passes } from './cases.js';
import { geometricMean, type Lookup, type Measurement, ratio } from './results.js';

interface Target {
  name: string;
  pass: Pass;
  holds(subject: Case): boolean;
  /** Of the limit; undefined where nothing is asked for. */
  fractions?: readonly [one: number | undefined, several: number | undefined];
  /** With one thread. */
  nanoseconds?: number;
  /** How many times as long as another call at most, which is called so: that of the twin, or a limit beside it. */
  most?: { of: 'twin' | 'call' | 'bound'; called: string; times: number };
  /** How many times as fast as batch norm of the same shape, or as another library with as many threads. */
  times?: { than: 'batch norm' | 'PyTorch' | 'onnxruntime'; least: number };
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
  return ({ shape, offset, layers }) =>
    shape.length === 2 && shape[0] === rows && shape[1] === features && offset === 0 && layers === undefined;
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
  {
    name: 'inference (1, 16)',
    pass: 'inference',
    holds: dense(1, 16),
    most: { of: 'call', called: 'an empty call', times: 2 },
  },
  {
    name: 'inference (1, 16), 32 layers in turn',
    pass: 'inference',
    holds: ({ layers }) => layers === 32,
    // In the noise.
    most: { of: 'twin', called: 'one layer', times: 1.1 },
  },
  {
    name: 'inference (1, 256)',
    pass: 'inference',
    holds: dense(1, 256),
    most: { of: 'call', called: 'an empty call', times: 2.5 },
  },
  {
    name: 'training (32, 256)',
    pass: 'training',
    holds: dense(32, 256),
    most: { of: 'bound', called: 'the native calls', times: 1.15 },
  },
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
      most: { of: 'twin', called: "float32's time", times: 0.55 },
    },
    {
      name: `${pass} of 16 bits, in the caches`,
      pass,
      holds: (it) => it.twin !== undefined && !large(it),
      most: { of: 'twin', called: "float32's time", times: 0.8 },
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

const normNames: readonly Norm['name'][] = ['group', 'instance', 'layer', 'RMS'];

const normTargets: readonly Target[] = normNames.flatMap((name): Target[] => {
  const holds = ({ norm }: Case) => norm?.name === name;
  const label = `${name} norm`;
  return [
    {
      name: `${label}, training, from 12 MB`,
      pass: 'training',
      holds: (it) => holds(it) && bytesOf(it) >= 12 * megabyte,
      fractions: [0.6, 0.6],
    },
    {
      name: `${label}, inference`,
      pass: 'inference',
      holds,
      times: { than: 'batch norm', least: 0.85 },
    },
    { name: `${label}, inference`, pass: 'inference', holds, times: { than: 'onnxruntime', least: 1.2 } },
    ...passes.map((pass): Target => {
      return { name: `${label}, ${pass}`, pass, holds, times: { than: 'PyTorch', least: 1.2 } };
    }),
  ];
});

/** Every target against this run. */
export function judge(lookup: Lookup): Cell[] {
  const { cases, threads } = lookup.results;
  // What is asked for is asked of values that all count alike.
  const judged = cases.filter(({ group, counts }) => group !== 'sweep' && counts === undefined);
  const stored = judged.filter(({ storage }) => storage !== undefined);
  const normed = judged.filter(({ norm }) => norm !== undefined);
  const plain = judged.filter((it) => !stored.includes(it) && !normed.includes(it));
  const tables = [
    { rows: targets, of: plain },
    { rows: storageTargets, of: stored },
    { rows: normTargets, of: normed },
  ].flatMap(({ rows, of }) => rows.map((target) => ({ target, of })));
  return tables.flatMap(({ target, of }) => {
    const subjects = of.filter(target.holds);
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
      if (target.times !== undefined) return [timesCell(lookup, target, count, target.times, subjects)];
      // What is beside a call, and takes one thread.
      if (target.most !== undefined)
        return target.most.of === 'twin' || count === 1
          ? [mostCell(lookup, target, count, target.most, subjects)]
          : [];
      const fraction = fractions?.[count === 1 ? 0 : 1];
      return fraction === undefined ? [] : [fractionCell(lookup, target, count, fraction, subjects)];
    });
  });
}

/** Of a case. */
interface Found {
  name: string;
  value: number;
}

function fractionCell(
  lookup: Lookup,
  { name, pass }: Target,
  threads: number,
  fraction: number,
  subjects: readonly Case[],
): Cell {
  const found = subjects.flatMap((subject): Found[] => {
    const value = lookup.fraction(subject, pass, `native ${threads}T`);
    return value === undefined ? [] : [{ name: subject.name, value }];
  });
  return { name, threads, target: `≥ ${fraction.toFixed(2)}`, ...atLeast(fraction, found) };
}

function mostCell(
  lookup: Lookup,
  { name, pass }: Target,
  threads: number,
  { of, called, times }: NonNullable<Target['most']>,
  subjects: readonly Case[],
): Cell {
  const contender = `native ${threads}T`;
  const found = subjects.flatMap((subject): Found[] => {
    const own = lookup.find(subject, pass, contender);
    const twin = of === 'twin' ? twinOf(lookup, subject) : subject;
    const other = twin && lookup.find(twin, of === 'twin' ? pass : of, contender);
    return own && other ? [{ name: subject.name, value: ratio(own, other) }] : [];
  });
  return { name, threads, target: `≤ ${times.toFixed(2)} × ${called}`, ...atMost(times, found) };
}

function timesCell(
  lookup: Lookup,
  { name, pass }: Target,
  threads: number,
  { than, least }: NonNullable<Target['times']>,
  subjects: readonly Case[],
): Cell {
  const own = `native ${threads}T`;
  const other = lookup.results.contenders.find((it) => it.name.startsWith(than) && it.threads === threads);
  const slower = (subject: Case): Measurement | undefined => {
    if (than !== 'batch norm') return other && lookup.find(subject, pass, other.name);
    const twin = twinOf(lookup, subject);
    return twin && lookup.find(twin, pass, own);
  };
  const found = subjects.flatMap((subject): Found[] => {
    const [a, b] = [slower(subject), lookup.find(subject, pass, own)];
    return a && b ? [{ name: subject.name, value: ratio(a, b) }] : [];
  });
  return { name, threads, target: `≥ ${least.toFixed(2)} × ${than}`, ...atLeast(least, found) };
}

function twinOf({ results }: Lookup, { twin }: Case): Case | undefined {
  return results.cases.find(({ name }) => name === twin);
}

type Verdict = Omit<Cell, 'name' | 'threads' | 'target'>;

function atLeast(bound: number, found: readonly Found[]): Verdict {
  return verdictOf(
    found,
    (a, b) => a.value - b.value,
    ({ value }) => hundredths(value) >= hundredths(bound),
  );
}

function atMost(bound: number, found: readonly Found[]): Verdict {
  return verdictOf(
    found,
    (a, b) => b.value - a.value,
    ({ value }) => hundredths(value) <= hundredths(bound),
  );
}

/** Two decimals are what the targets have. */
function hundredths(value: number): number {
  return Math.round(value * 100);
}

function verdictOf(
  found: readonly Found[],
  worstFirst: (a: Found, b: Found) => number,
  isReached: (worst: Found) => boolean,
): Verdict {
  const [worst] = [...found].sort(worstFirst);
  if (worst === undefined) return { reached: undefined, geometricMean: '-', worst: '-', worstCase: '-' };
  return {
    reached: isReached(worst),
    geometricMean: geometricMean(found.map(({ value }) => value)).toFixed(2),
    worst: worst.value.toFixed(2),
    worstCase: worst.name,
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
