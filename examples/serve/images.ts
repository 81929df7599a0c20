import { abridged } from '../abridged.js';
import { type Activations, activations } from '../mnist/network.js';
import { outline } from './outline.js';
import { RequestError } from './request-error.js';

/** The width and height of an image. */
export const SIDE = 28;
const PIXELS = SIDE * SIDE;

/** The value of a pixel full of ink, as in MNIST; 0 is paper. */
const INK = 255;

/** How deep the JSON of images is nested: an object, an array of images, an array of values. */
const DEPTH = 3;

const ONE_KEY = 'have image or images and nothing else';

/**
 * Refuses JSON that cannot be images for its depth or its keys, before it is parsed.
 *
 * @throws {RequestError} 400.
 */
export function checkOutline(json: string): void {
  const { depth, keys } = outline(json, DEPTH);
  if (depth > DEPTH) {
    throw new RequestError(400, 'INVALID_IMAGE', `body must be nested at most ${DEPTH} deep, got deeper`);
  }
  if (keys > 1) throw new RequestError(400, 'INVALID_IMAGE', `body must ${ONE_KEY}, got ${keys} keys`);
}

/**
 * The images of a request, scaled to 0…1 as in training: bytes, one per pixel, image after image; or JSON,
 * `{ "image": [784 values] }` or `{ "images": [[784 values], …] }`, with values from 0 to 255.
 *
 * @throws {RequestError} 400 naming the value that does not fit.
 */
export function readImages(body: unknown): Activations {
  if (body instanceof Uint8Array) return fromBytes(body);
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw invalid('body', 'be an object with image or images', body);
  }
  const keys = Object.keys(body);
  const [key] = keys;
  if (keys.length !== 1 || (key !== 'image' && key !== 'images')) throw invalid('body', ONE_KEY, keys);
  const { image, images } = body as { image?: unknown; images?: unknown };
  if (key === 'image') return fromArrays([image], () => 'image');
  if (!Array.isArray(images) || images.length === 0) {
    throw invalid('images', 'be an array of at least one image', images);
  }
  return fromArrays(images, (n) => `images[${n}]`);
}

function fromBytes(bytes: Uint8Array): Activations {
  if (bytes.length === 0 || bytes.length % PIXELS !== 0) {
    const rule = `have a positive multiple of ${PIXELS} bytes (${SIDE} x ${SIDE}, one per pixel)`;
    throw invalid('body', rule, bytes.length);
  }
  const x = activations(bytes.length / PIXELS, PIXELS);
  for (let i = 0; i < bytes.length; i++) x.data[i] = bytes[i] / INK;
  return x;
}

function fromArrays(images: readonly unknown[], nameOf: (n: number) => string): Activations {
  for (const [n, image] of images.entries()) checkImage(image, () => nameOf(n));
  // Only now: an array of 784 values is a known share of the body, anything else could be two bytes of it.
  const x = activations(images.length, PIXELS);
  for (const [n, image] of (images as readonly (readonly number[])[]).entries()) {
    for (let i = 0; i < PIXELS; i++) x.data[n * PIXELS + i] = image[i] / INK;
  }
  return x;
}

function checkImage(image: unknown, name: () => string): void {
  if (!Array.isArray(image)) throw invalid(name(), 'be an array', image);
  if (image.length !== PIXELS) {
    throw invalid(name(), `have ${PIXELS} values (${SIDE} x ${SIDE})`, image.length);
  }
  for (let i = 0; i < PIXELS; i++) {
    const value: unknown = image[i];
    if (typeof value !== 'number' || !(value >= 0 && value <= INK)) {
      throw invalid(`${name()}[${i}]`, `be a number from 0 (paper) to ${INK} (ink)`, value);
    }
  }
}

function invalid(name: string, rule: string, actual: unknown): RequestError {
  return new RequestError(400, 'INVALID_IMAGE', `${name} must ${rule}, got ${abridged(actual)}`);
}
