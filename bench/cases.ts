/** The three passes that are measured. */
export const passes = ['inference', 'training', 'backward'] as const;
export type Pass = (typeof passes)[number];

export type Layout = 'channels-first' | 'channels-last';
export type DType = 'float32' | 'float64';

/** One shape in one layout. */
export interface Case {
  /** As a user would write the shape: NCHW, NHWC, or rows x features. Unique. */
  name: string;
  group: string;
  layout: Layout;
  /** The dimensions of the tensor in the order of the memory. */
  shape: number[];
  outer: number;
  channels: number;
  inner: number;
  dtype: DType;
  /** Bytes that x, dy, y and dx lie off the start of their buffers. */
  offset: number;
  /** Where in a line of 64 bytes they begin; absent: where the engine happens to place them. */
  line?: number;
  /** What makes not all values count alike in training; absent: nothing. */
  counts?: Counts;
  /** In what the tensors lie in memory, or what is made of it; absent: in their dtype. */
  storage?: Storage;
  /** What is normalized by itself, if not each channel of the batch; absent: batch norm. */
  norm?: Norm;
  /** Frozen layers that take turns, which this library alone does; absent: one. */
  layers?: number;
  /** The case of batch norm of the same shape in float32, of one layer, whose time is the measure; absent: none. */
  twin?: string;
}

/** A norm of rows. */
export interface Norm {
  name: 'group' | 'instance' | 'layer' | 'RMS';
  /** Of the channels of each sample: all of them together are a row of layer and RMS norm, of instance norm each alone. */
  groups: number;
}

/** Bits of 16, pixels of uint8 that become planes of float32, float32 that becomes bfloat16 and the other way round. */
export type Storage = 'bfloat16' | 'float16' | 'pictures' | 'encode' | 'decode';

/** Random weights of positions, a mask of samples of different lengths, or NaN in 1 % of x, which stands for the mean. */
export type Counts = 'weights' | 'mask' | 'missing';

function first(group: string, batch: number, channels: number, ...space: number[]): Case {
  const shape = [batch, channels, ...space];
  const inner = space.reduce((a, b) => a * b, 1);
  const name = nameOf(shape);
  return {
    name,
    group,
    layout: 'channels-first',
    shape,
    outer: batch,
    channels,
    inner,
    dtype: 'float32',
    offset: 0,
  };
}

function last(group: string, batch: number, channels: number, ...space: number[]): Case {
  const shape = [batch, ...space, channels];
  const outer = space.reduce((a, b) => a * b, batch);
  // A shape alone does not say which of its dimensions holds the channels.
  const name = nameOf(shape) + (space.length > 0 ? ' last' : '');
  return {
    name,
    group,
    layout: 'channels-last',
    shape,
    outer,
    channels,
    inner: 1,
    dtype: 'float32',
    offset: 0,
  };
}

function nameOf(shape: readonly number[]): string {
  return `(${shape.join(', ')})`;
}

function images(group: string, batch: number, channels: number, side: number): Case[] {
  return [first(group, batch, channels, side, side), last(group, batch, channels, side, side)];
}

function misaligned(cases: readonly Case[]): Case[] {
  return cases.map((it) => ({ ...it, name: `${it.name} +4 B`, group: 'misaligned', offset: 4 }));
}

/** Rows of a few values with many channels, with few and with one, 1 MB in all, and the same numbers channels-last. */
function shortRows(): Case[] {
  const values = 2 ** 18;
  return [2, 3, 4, 8, 16, 48].flatMap((length) =>
    [512, 16, 1].flatMap((channels) => {
      const batch = Math.round(values / (channels * length));
      return [first('short rows', batch, channels, length), last('short rows', batch, channels, length)];
    }),
  );
}

/** With all that may make values count differently. */
function counting(cases: readonly Case[]): Case[] {
  const kinds: readonly Counts[] = ['weights', 'mask', 'missing'];
  return cases.flatMap((it) =>
    kinds.map((counts) => ({ ...it, name: `${it.name} ${counts}`, group: 'counting', counts })),
  );
}

function ofLayers(layers: number, it: Case): Case {
  return { ...it, name: `${it.name} of ${layers} layers`, layers, twin: it.name };
}

function inBits(cases: readonly Case[]): Case[] {
  const types: readonly Storage[] = ['bfloat16', 'float16'];
  return cases.flatMap((it) =>
    types.map((storage) => ({
      ...it,
      name: `${it.name} ${storage}`,
      group: 'storage',
      storage,
      twin: it.name,
    })),
  );
}

/** Beside batch norm of the same shape, whose inference is the measure of theirs. */
function norm(name: Norm['name'], it: Case, groups: number): Case {
  return {
    ...it,
    name: `${name} ${name === 'layer' || name === 'RMS' ? nameOf(it.shape) : it.name}`,
    group: 'norms',
    norm: { name, groups },
    twin: it.name,
  };
}

function norms(): Case[] {
  const pictures = images('', 32, 256, 56);
  const dense = [
    last('norms', 4096, 768),
    last('norms', 512, 4096),
    last('norms', 32, 1024, 128),
    last('norms', 1, 768),
    last('norms', 8192, 64),
  ];
  return [
    ...pictures.map((it) => norm('group', it, 32)),
    ...pictures.map((it) => norm('instance', it, it.channels)),
    ...dense,
    ...(['layer', 'RMS'] as const).flatMap((name) => dense.map((it) => norm(name, it, 1))),
  ];
}

function converted(storage: Storage, it: Case): Case {
  return { ...it, name: `${storage} ${it.name.replace(' last', '')}`, group: 'storage', storage };
}

function atEachPlaceOfLine(cases: readonly Case[]): Case[] {
  return cases.flatMap((it) =>
    [0, 16, 32, 48].map((line) => ({ ...it, name: `${it.name} at ${line}`, group: 'lines', line })),
  );
}

const everyCase: readonly Case[] = [
  ...images('ResNet-50', 32, 64, 112),
  ...images('ResNet-50', 32, 256, 56),
  ...images('ResNet-50', 32, 128, 28),
  ...images('ResNet-50', 32, 512, 28),
  ...images('ResNet-50', 32, 1024, 14),
  ...images('ResNet-50', 32, 2048, 7),
  ...images('small batch', 1, 64, 112),
  ...images('small batch', 1, 256, 56),
  ...images('small batch', 1, 512, 7),
  ...images('small batch', 1, 2048, 7),
  ...images('small batch', 8, 256, 14),
  first('1-D', 128, 64, 1000),
  last('1-D', 128, 64, 1000),
  last('dense', 1, 16),
  ofLayers(32, last('dense', 1, 16)),
  last('dense', 1, 256),
  last('dense', 32, 256),
  last('dense', 1024, 1024),
  last('dense', 4096, 512),
  ...images('3 channels', 32, 3, 224),
  last('odd channels', 32, 30, 56, 56),
  last('odd channels', 32, 96, 56, 56),
  last('odd channels', 32, 100, 56, 56),
  ...misaligned([
    ...images('', 32, 256, 56),
    ...images('', 32, 2048, 7),
    ...images('', 1, 256, 56),
    last('', 32, 256),
  ]),
  ...counting([...images('', 32, 256, 56), ...images('', 8, 256, 14)]),
  ...inBits([...images('', 32, 256, 56), ...images('', 1, 256, 56), ...images('', 8, 256, 14)]),
  converted('pictures', last('', 32, 3, 224, 224)),
  converted('pictures', last('', 1, 3, 224, 224)),
  ...(['encode', 'decode'] as const).flatMap((storage) => [
    converted(storage, last('', 8192, 2048)),
    converted(storage, last('', 64, 1024)),
  ]),
  ...norms(),
  ...shortRows(),
  ...atEachPlaceOfLine([last('', 8, 256, 14, 14), last('', 1, 64, 112, 112), last('', 1024, 1024)]),
];

/** Data on which a library may be many times slower than beside them: in every run, so that it is seen. */
const cliffs = new Set(['short rows', 'lines']);

const quick = new Set(
  [
    ...counting(images('', 32, 256, 56)),
    ...inBits(images('', 32, 256, 56)),
    converted('pictures', last('', 32, 3, 224, 224)),
    ...norms().filter(({ name }) => name.startsWith('group') || name.includes('(4096, 768)')),
    ...images('', 32, 256, 56),
    ...images('', 32, 512, 28),
    ...images('', 32, 2048, 7),
    ...images('', 1, 512, 7),
    last('', 1024, 1024),
    last('', 1, 256),
  ].map(({ name }) => name),
);

const doubles = new Set([
  ...quick,
  ...[...images('', 32, 64, 112), first('', 128, 64, 1000), last('', 32, 256)].map(({ name }) => name),
]);

const onlyFloat32 = new Set(['misaligned', 'norms']);

/** Near-square matrices from 64 bytes to 100 MB, a factor of two apart. */
function sweep(): Case[] {
  const sizes = Array.from({ length: 21 }, (_, i) => 64 * 2 ** i);
  return [...sizes, 100e6].map((bytes) => {
    const values = bytes / 4;
    const channels = Math.min(256, Math.max(16, 2 ** Math.round(Math.log2(values) / 2)));
    const matrix = last('sweep', Math.round(values / channels), channels);
    return { ...matrix, name: `sweep ${matrix.name}` };
  });
}

/** Which cases a run measures. */
export interface Selection {
  quick: boolean;
  sweep: boolean;
  dtype: DType;
  /** Part of a name or of a group. */
  only: string;
}

/** Large and small images in both layouts, dense layers, sequences, odd channel counts, weights and gaps, storage, other norms, short rows and views. */
export function selectCases(selection: Selection): Case[] {
  const { dtype, only } = selection;
  const table = everyCase.filter(({ name, group, storage }) => {
    if (storage !== undefined && dtype !== 'float32') return false;
    if (selection.quick) return quick.has(name) || cliffs.has(group);
    return dtype === 'float32' || cliffs.has(group) || (doubles.has(name) && !onlyFloat32.has(group));
  });
  const isAsked = ({ name, group }: Case) => name.includes(only) || group.includes(only);
  const twins = new Set(table.filter(isAsked).map(({ twin }) => twin));
  return [...table, ...(selection.sweep ? sweep() : [])]
    .filter((it) => isAsked(it) || twins.has(it.name))
    .map((it) => (dtype === 'float32' ? it : { ...it, dtype, name: `${it.name} f64` }));
}

/** What is normalized by itself: channels of batch norm, and of other norms groups of each sample. */
export function rowsOf({ norm, channels, ...subject }: Case): number {
  return norm === undefined ? channels : samplesOf({ norm, ...subject }) * norm.groups;
}

/** The row of the value at a place of the memory. */
export function rowOf(subject: Case): (place: number) => number {
  const { norm, channels, inner } = subject;
  const channel = (place: number) => Math.floor(place / inner) % channels;
  if (norm === undefined) return channel;
  const { groups } = norm;
  const [ofSample, ofGroup] = [sizeOf(subject) / samplesOf(subject), channels / groups];
  return (place) => Math.floor(place / ofSample) * groups + Math.floor(channel(place) / ofGroup);
}

/** Layer and RMS norm know of no samples but rows. */
function samplesOf({ norm, shape, outer }: Pick<Case, 'norm' | 'shape' | 'outer'>): number {
  return norm?.name === 'layer' || norm?.name === 'RMS' ? outer : shape[0];
}

/** Values in the tensor. */
export function sizeOf({ outer, channels, inner }: Case): number {
  return outer * channels * inner;
}

/** Half of what is read and written for a value. */
const bytesOfValue = { bfloat16: 2, float16: 2, pictures: 2.5, encode: 3, decode: 3 } as const;

/** Bytes of the tensor; where it becomes another, those of a copy that moves as many. */
export function bytesOf(subject: Case): number {
  if (subject.storage !== undefined) return sizeOf(subject) * bytesOfValue[subject.storage];
  return sizeOf(subject) * (subject.dtype === 'float32' ? 4 : 8);
}
