/** What a process does with tensors of a shape, for some time. */
export interface Request {
  measure: 'loop' | 'pool' | 'requests' | 'rate';
  /** Its channels are its second dimension. */
  shape: readonly number[];
  /** Requests under way at a time. */
  inFlight: number;
  milliseconds: number;
}

/** What it found: numbers by their names. */
export interface Reply {
  figures?: Readonly<Record<string, number>>;
  /** What the library threw. */
  error?: string;
}

/** How requests are computed. */
export const libraries = ['idle', 'run', 'copies', 'shared', 'transfer', 'onnxruntime', 'workers'] as const;
export type Library = (typeof libraries)[number];
