/** The three passes that are measured. */
export const passes = ['inference', 'training', 'backward'] as const;
export type Pass = (typeof passes)[number];

/** One shape in one layout. */
export interface Case {
  /** As a user would write the shape: NCHW, NHWC, or rows x features. */
  name: string;
  layout: 'channels-first' | 'channels-last';
  outer: number;
  channels: number;
  inner: number;
}

function images(batch: number, channels: number, side: number): Case[] {
  const area = side * side;
  return [
    {
      name: `(${batch}, ${channels}, ${side}, ${side})`,
      layout: 'channels-first',
      outer: batch,
      channels,
      inner: area,
    },
    {
      name: `(${batch}, ${side}, ${side}, ${channels})`,
      layout: 'channels-last',
      outer: batch * area,
      channels,
      inner: 1,
    },
  ];
}

function dense(batch: number, features: number): Case {
  return {
    name: `(${batch}, ${features})`,
    layout: 'channels-last',
    outer: batch,
    channels: features,
    inner: 1,
  };
}

/** Large and small images of a residual network in both layouts, and dense layers. */
export const cases: readonly Case[] = [
  ...images(32, 256, 56),
  ...images(32, 512, 28),
  ...images(32, 2048, 7),
  ...images(1, 512, 7),
  dense(1024, 1024),
  dense(1, 256),
];

/** Values in the tensor. */
export function sizeOf({ outer, channels, inner }: Case): number {
  return outer * channels * inner;
}
