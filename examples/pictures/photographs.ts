import { readdirSync, readFileSync } from 'node:fs';
import jpeg from 'jpeg-js';

/** A photograph as decoders and canvases give it: red, green, blue and opacity of each pixel, row by row. */
export interface Photograph {
  readonly name: string;
  readonly pixels: Uint8Array;
}

/** Pixels of a row, and rows. */
export const SIDE = 224;

const FOLDER = new URL('../tfjs/pictures/', import.meta.url);

/**
 * Photographs in the order of their names.
 *
 * @throws {Error} for one that is not 224 × 224.
 */
export function readPhotographs(): Photograph[] {
  const files = readdirSync(FOLDER).filter((file) => file.endsWith('.jpg'));
  return files.sort().map((file) => {
    const { width, height, data } = jpeg.decode(readFileSync(new URL(file, FOLDER)), { useTArray: true });
    if (width !== SIDE || height !== SIDE)
      throw new Error(`${file} must be ${SIDE} x ${SIDE}, got ${width} x ${height}`);
    return { name: file.replace('.jpg', ''), pixels: data };
  });
}

/** `count` photographs one behind the other, from the start again where there are not so many. */
export function batchOf(photographs: readonly Photograph[], count: number): Uint8Array {
  const bytes = SIDE * SIDE * 4;
  const batch = new Uint8Array(count * bytes);
  for (let i = 0; i < count; i++) batch.set(photographs[i % photographs.length].pixels, i * bytes);
  return batch;
}
