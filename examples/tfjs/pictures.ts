import { readdirSync, readFileSync } from 'node:fs';
import jpeg from 'jpeg-js';
import { tf } from './tensorflow.js';

/** A photograph as the network takes it. */
export interface Picture {
  readonly name: string;
  /** Red, green and blue of each pixel, from 0 to 1, row by row. */
  readonly values: Float32Array;
}

/** Pixels of a row, and rows. */
const SIDE = 224;

const FOLDER = new URL('pictures/', import.meta.url);

/**
 * The photographs in the folder beside this file, in the order of their names.
 *
 * @throws {Error} for one that is not 224 × 224.
 */
export function readPictures(): Picture[] {
  const files = readdirSync(FOLDER).filter((file) => file.endsWith('.jpg'));
  return files.sort().map((file) => {
    const { width, height, data } = jpeg.decode(readFileSync(new URL(file, FOLDER)), {
      useTArray: true,
      formatAsRGBA: false,
    });
    if (width !== SIDE || height !== SIDE)
      throw new Error(`${file} must be ${SIDE} x ${SIDE}, got ${width} x ${height}`);
    return { name: file.replace('.jpg', ''), values: Float32Array.from(data, (value) => value / 255) };
  });
}

/** The first `count` of the pictures, then of the same in a mirror, then again from the start. */
export function batchOf(pictures: readonly Picture[], count: number): tf.Tensor4D {
  return tf.tidy(() => {
    const plain = pictures.map(({ values }) => tf.tensor4d(values, [1, SIDE, SIDE, 3]));
    const all = [...plain, ...plain.map((picture) => tf.reverse(picture, 2))];
    return tf.concat(Array.from({ length: count }, (_, i) => all[i % all.length]));
  });
}
